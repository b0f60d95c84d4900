//! Picks up renewed files while the process runs.

use std::sync::{Arc, Mutex, PoisonError};

use crate::configurations::{Configurations, Subject};
use crate::files::{Contents, FileError, Fingerprint, TlsFiles};

/// See [`RenewedTls::new`].
type Report = Box<dyn Fn(Result<(), FileError>) + Send + Sync>;

/// The certificates in use, read again whenever they are asked for.
pub struct RenewedTls {
    files: TlsFiles,
    subject: Subject,
    in_use: Mutex<(Fingerprint, Configurations)>,
    /// Held while the files are read.
    reading: Arc<tokio::sync::Mutex<()>>,
    report: Report,
}

impl RenewedTls {
    /// Reads the files for the first time. `report` is called after each later attempt to use
    /// changed files: with `Ok` if the new ones are in use now, with the error if the ones read
    /// before stay in use. It must not block.
    ///
    /// # Errors
    /// Those of [`TlsFiles::load`].
    pub fn new(
        files: TlsFiles,
        subject: Subject,
        report: impl Fn(Result<(), FileError>) + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let in_use = Mutex::new(built(&files.read()?, &files, &subject)?);
        Ok(RenewedTls { files, subject, in_use, reading: Arc::default(), report: Box::new(report) })
    }

    /// The configurations for the present contents of the files, or for the last contents that
    /// could be used. Reads the files on tokio's blocking threads.
    pub async fn current(self: &Arc<Self>) -> Configurations {
        // A disk that hangs must block only one thread and delay only one connection. Until that
        // read returns, later connections use the configurations that were built last.
        let Ok(reading) = self.reading.clone().try_lock_owned() else { return self.in_use().1 };
        let renewed = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _until_read = reading;
            renewed.read_again()
        });
        let read = read.await;
        read.unwrap_or_else(|_| self.in_use().1)
    }

    fn in_use(&self) -> (Fingerprint, Configurations) {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_again(&self) -> Configurations {
        let (fingerprint, configurations) = self.in_use();
        let read = self.files.read().and_then(|contents| match contents.fingerprint() == fingerprint {
            true => Ok(None),
            false => built(&contents, &self.files, &self.subject).map(Some),
        });
        match read {
            Ok(None) => configurations,
            Ok(Some(new)) => {
                *self.in_use.lock().unwrap_or_else(PoisonError::into_inner) = new.clone();
                (self.report)(Ok(()));
                new.1
            }
            Err(error) => {
                (self.report)(Err(error));
                configurations
            }
        }
    }
}

fn built(contents: &Contents, files: &TlsFiles, subject: &Subject) -> Result<(Fingerprint, Configurations), FileError> {
    Ok((contents.fingerprint(), contents.configurations(files, subject)?))
}
