//! What signals do.
//!
//! | signal | a server | a command that watches |
//! |---|---|---|
//! | SIGINT, SIGTERM | stops in good order; a second one stops at once | ends well |
//! | SIGQUIT | the same | ends at once, as every program |
//! | SIGHUP | opens its log file and reads its configuration again | ends at once: its terminal is gone |
//! | SIGUSR1, SIGUSR2, SIGALRM | nothing, and says so | ends at once |
//! | SIGPIPE | nothing | nothing; it ends when it finds that nobody reads |
//!
//! No signal that administrators' scripts send to other servers may cost this one a hand-over that it could have made.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Signals that ask to end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Left alone by commands.
    quit: Option<Signal>,
}

impl Signals {
    /// Those of a command. From here on they no longer end the process by themselves.
    pub fn listen() -> Result<Self, Failure> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Signals { interrupt, terminate, quit: None })
    }

    /// Those of a server.
    pub fn listen_as_server() -> Result<Self, Failure> {
        Ok(Signals { quit: Some(signal(SignalKind::quit())?), ..Self::listen()? })
    }

    /// What the next one does to the process, in a word.
    pub async fn next(&mut self) -> &'static str {
        let quit = async {
            match &mut self.quit {
                Some(quit) => quit.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
            _ = quit => "told to quit",
        }
    }
}

/// Calls `action` for each SIGHUP from here on, on a thread that may block, and never twice at a time.
pub fn on_hangup(mut action: impl FnMut() + Send + 'static) -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let acting = tokio::task::spawn_blocking(move || {
                action();
                action
            });
            match acting.await {
                Ok(again) => action = again,
                // It has panicked, which stands in the log.
                Err(_) => break,
            }
        }
    });
    Ok(())
}

/// Signals that mean nothing to a server, and would end it.
pub fn ignore_others() -> Result<(), Failure> {
    let others = [
        ("SIGUSR1", SignalKind::user_defined1()),
        ("SIGUSR2", SignalKind::user_defined2()),
        ("SIGALRM", SignalKind::alarm()),
    ];
    for (name, kind) in others {
        let mut signals = signal(kind)?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                tracing::warn!(
                    "{name} means nothing here and is ignored; SIGHUP opens the log file again, SIGTERM stops"
                );
            }
        });
    }
    Ok(())
}
