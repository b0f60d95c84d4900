//! The effect of signals.
//!
//! | signal | a server | a command that watches |
//! |---|---|---|
//! | SIGINT, SIGTERM | stops in good order; a second one stops at once | ends with status 0 |
//! | SIGQUIT | the same | ends at once, the default |
//! | SIGHUP | opens its log file and reads its configuration again | ends at once: its terminal is gone |
//! | SIGUSR1, SIGUSR2, SIGALRM | ignored, with a line in the log | ends at once |
//! | SIGXFSZ | caught, with a line in the log; the write that fails is handled like any other | ends at once |
//! | SIGPIPE | ignored | ignored; the write that fails ends it |
//!
//! Scripts send such signals to servers of all kinds. None of them may end this one without a
//! transfer of leadership.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Signals that ask to end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` for commands, which keep the default action.
    quit: Option<Signal>,
}

impl Signals {
    /// Listens for a command. From now on these signals no longer end the process by themselves.
    pub fn listen() -> Result<Self, Failure> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Signals { interrupt, terminate, quit: None })
    }

    /// Listens for a server.
    pub fn listen_as_server() -> Result<Self, Failure> {
        Ok(Signals { quit: Some(signal(SignalKind::quit())?), ..Self::listen()? })
    }

    /// Waits for the next signal and returns its effect in one word.
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

/// Calls `action` for each SIGHUP from here on, one call at a time, on a thread that may block.
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
                // The action panicked, which is logged.
                Err(_) => break,
            }
        }
    });
    Ok(())
}

/// Ignores signals that have no meaning for a server and would end it by default.
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
                    "{name} has no meaning here and is ignored; SIGHUP opens the log file again, SIGTERM stops"
                );
            }
        });
    }
    let mut files_too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    tokio::spawn(async move {
        while files_too_large.recv().await.is_some() {
            tracing::error!(
                "a file has reached the limit on the size of files (`ulimit -f`, LimitFSIZE= of systemd), and cannot grow; \
                 raise the limit and restart"
            );
        }
    });
    Ok(())
}
