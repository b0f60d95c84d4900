//! A server that recovers from failures which a restart cures: it stops, and starts again in the
//! same process.
//!
//! After a failed write of a *standalone* database, the content of its log is unknown until the log
//! is read again, as after a crash. Acknowledged writes were synced before, so all of them are
//! there. For writes in flight, clients got the answer that the result is unknown. Until the
//! restart, reads continue and writes are refused. While the disk is full there is no restart,
//! because it would fail again. With `storage.on_write_failure = "exit"` the server fails instead,
//! and its supervisor starts it again.
//!
//! A *replica* stops if its database runs out of file descriptors. It has lost nothing, and
//! continues from its log after a restart. After any other failure the process ends, because
//! another start might not help.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::data_dir::DataDirError;
use crate::directory_id::DirectoryId;
use crate::error::ServerError;
use crate::manager::{Extension, ServerManager};

/// How often the server is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The pause before the first restart, during which reads continue, and the longest pause before a
/// later one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After this long without a failure the pause starts again at the shortest one.
const CALM: Duration = Duration::from_secs(120);

/// A server of either mode that restarts itself.
pub struct RestartingServer<M> {
    server: PhantomData<fn() -> M>,
    /// Whether the cluster was not bootstrapped yet at the first start.
    awaits_bootstrap: bool,
    thrift_addr: SocketAddr,
    admin_addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Why no further start will help.
    failure: Option<String>,
    /// Registered with each server that is started.
    extensions: Vec<Extension>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<M: ServerManager + 'static> ServerManager for RestartingServer<M> {
    async fn start(mut config: Config) -> Result<Self, ServerError> {
        let server = M::start(config.clone()).await?;
        let (thrift_addr, admin_addr) = (server.thrift_addr(), server.admin_addr());
        let awaits_bootstrap = server.awaits_bootstrap();
        // If the system chose the ports, the next start must use the same ones.
        for (configured, bound) in
            [(&mut config.server.thrift_addr, thrift_addr), (&mut config.server.admin_addr, admin_addr)]
        {
            if configured.port() == 0 {
                *configured = bound.into();
            }
        }
        // The server that just started has the directory open. If it cannot be examined now, no
        // other one has taken its place either.
        config.same_data_dir = DirectoryId::of(&config.storage.data_dir).ok();
        let (shared, stop) = (Arc::<Shared>::default(), CancellationToken::new());
        let running = tokio::spawn(run(config, server, shared.clone(), stop.clone()));
        Ok(RestartingServer { server: PhantomData, awaits_bootstrap, thrift_addr, admin_addr, shared, stop, running })
    }

    async fn shutdown(self: Box<Self>) {
        self.stop.cancel();
        if let Err(error) = self.running.await {
            tracing::error!(%error, "the server did not stop cleanly");
        }
    }

    fn failure(&self) -> Option<String> {
        match self.running.is_finished() {
            true => Some("the server has ended; the log says why".to_string()),
            false => self.shared.state().failure.clone(),
        }
    }

    fn awaits_bootstrap(&self) -> bool {
        self.awaits_bootstrap
    }

    /// Takes effect a moment later, and again after each restart.
    fn extend(&self, extension: Extension) {
        self.shared.state().extensions.push(extension);
    }

    fn thrift_addr(&self) -> SocketAddr {
        self.thrift_addr
    }

    fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }
}

async fn run<M: ServerManager>(config: Config, mut server: M, shared: Arc<Shared>, stop: CancellationToken) {
    let mut pauses = Pauses::default();
    loop {
        let Some(reason) = stop.run_until_cancelled(restart_is_due(&server, &shared)).await else {
            return Box::new(server).shutdown().await;
        };
        let pause = pauses.next();
        tracing::error!(pause_s = pause.as_secs(), "the server stops and starts again in this process: {reason}");
        let waited = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        Box::new(server).shutdown().await;
        if waited.is_none() {
            return;
        }
        let Some(started) = stop.run_until_cancelled(start_again(&config, &shared, &mut pauses)).await else { return };
        let Some(started) = started else { return stop.cancelled().await };
        tracing::info!("the server has started again, and serves");
        server = started;
    }
}

/// Returns when a restart would help. Records failures that a restart would not cure.
async fn restart_is_due(server: &impl ServerManager, shared: &Shared) -> String {
    let mut extended = 0;
    loop {
        let new: Vec<Extension> = shared.state().extensions.iter().skip(extended).cloned().collect();
        extended += new.len();
        new.into_iter().for_each(|extension| server.extend(extension));
        if let Some(reason) = server.wants_restart() {
            return reason;
        }
        if let Some(reason) = server.failure() {
            shared.state().failure = Some(reason);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Tries until a start succeeds. `None` if none ever will, because the database is damaged or its
/// directory is gone.
async fn start_again<M: ServerManager>(config: &Config, shared: &Shared, pauses: &mut Pauses) -> Option<M> {
    loop {
        match M::start(config.clone()).await {
            Ok(server) => return Some(server),
            Err(error @ (ServerError::Damaged { .. } | ServerError::DataDir(DataDirError::Gone { .. }))) => {
                shared.state().failure = Some(error.to_string());
                return None;
            }
            Err(error) => {
                let pause = pauses.next();
                tracing::error!(pause_s = pause.as_secs(), "the server cannot start again yet: {error}");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// The pause before the next attempt, longer each time until the server has run without a failure
/// for a while.
#[derive(Default)]
struct Pauses {
    last: Option<(Instant, Duration)>,
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let now = Instant::now();
        let pause = match self.last {
            Some((at, pause)) if now - at < CALM + pause => (pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some((now, pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_it_has_been_calm() {
        let mut pauses = Pauses::default();
        let seconds: Vec<u64> = (0..7).map(|_| pauses.next().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        tokio::time::advance(CALM + LONGEST_PAUSE).await;
        assert_eq!(pauses.next(), FIRST_PAUSE);
    }
}
