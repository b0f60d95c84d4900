//! A server that gets over what a new start gets over: it stops, and starts again in the same process.
//!
//! After a failed write of a *standalone* database nobody knows what is in its log; reading the log again, as after a crash,
//! tells. What was acknowledged was synchronised before, so it is all there; of what was under way the clients were told that
//! its result is unknown. Until then reads go on and writes are refused. While the disk is full nothing is tried: it would be
//! in vain. With `storage.on_write_failure = "exit"` the server fails instead, and its supervisor starts it again.
//!
//! A *replica* stops when its database lacks file descriptors. It has lost nothing, and goes on from its log. After any other
//! failure the process ends, because nothing says that another start would help.

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

/// How often the server is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long reads go on before the first restart, and the longest time before a later one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so long without a failure the pause is the first one again.
const CALM: Duration = Duration::from_secs(120);

/// A server of either mode, and whoever starts it again.
pub struct RestartingServer<M> {
    server: PhantomData<fn() -> M>,
    /// Whether the cluster had yet to be founded at the first start.
    awaits_founding: bool,
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
    /// Made known to each server that is started.
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
        let awaits_founding = server.awaits_founding();
        // Where it listens must not change when the system chose the ports.
        for (configured, bound) in
            [(&mut config.server.thrift_addr, thrift_addr), (&mut config.server.admin_addr, admin_addr)]
        {
            if configured.port() == 0 {
                *configured = bound.into();
            }
        }
        // Who was just started has it open; if it cannot be looked at now, nothing else has taken its place either.
        config.same_data_dir = DirectoryId::of(&config.storage.data_dir).ok();
        let (shared, stop) = (Arc::<Shared>::default(), CancellationToken::new());
        let running = tokio::spawn(run(config, server, shared.clone(), stop.clone()));
        Ok(RestartingServer { server: PhantomData, awaits_founding, thrift_addr, admin_addr, shared, stop, running })
    }

    async fn shutdown(self: Box<Self>) {
        self.stop.cancel();
        if let Err(error) = self.running.await {
            tracing::error!(%error, "the server did not stop well");
        }
    }

    fn failure(&self) -> Option<String> {
        match self.running.is_finished() {
            true => Some("the server has ended; the log says why".to_string()),
            false => self.shared.state().failure.clone(),
        }
    }

    fn awaits_founding(&self) -> bool {
        self.awaits_founding
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
        tracing::info!("the server has started again, and serves on");
        server = started;
    }
}

/// Returns when a write has failed and it makes sense to start again. Notes what is beyond that.
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

/// Tries until it succeeds; `None` when it never will: the database is damaged, or its directory is gone.
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

/// How long to wait before the next attempt: longer each time, until it has been calm.
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
