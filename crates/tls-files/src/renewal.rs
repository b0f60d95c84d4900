//! Picks up renewed files while the process runs.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::certificates::{self, Validity};
use crate::files::{Contents, FileError, Fingerprint, Stamps, TlsFile};

/// How long a connection waits for the files to be read by another one.
const READ_PATIENCE: Duration = Duration::from_millis(100);
/// Unchanged files that could not be used are tried again after this time: a certificate may have
/// become valid since.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Files from which a configuration for handshakes is built.
pub trait Source: Clone + Send + Sync + 'static {
    /// The configuration.
    type Built: Clone + Send + Sync + 'static;

    /// The files.
    fn paths(&self) -> Vec<(TlsFile, &Path)>;

    /// Builds the configuration from the bytes of [`Source::paths`].
    ///
    /// # Errors
    /// Names the first file that cannot be used.
    fn build(&self, contents: &Contents) -> Result<Self::Built, FileError>;

    /// Reads the files and builds the configuration.
    ///
    /// # Errors
    /// Names the first file that cannot be used.
    fn load(&self) -> Result<Self::Built, FileError> {
        self.build(&Contents::read(&self.paths())?)
    }
}

/// See [`Renewed::new`].
type Report = Box<dyn Fn(Result<(), &FileError>) + Send + Sync>;

/// The configuration in use. The files are looked at again whenever it is asked for.
pub struct Renewed<S: Source> {
    source: S,
    in_use: Mutex<InUse<S::Built>>,
    /// Held while the files are read.
    reading: Arc<tokio::sync::Mutex<()>>,
    status: Arc<RenewalStatus>,
    report: Report,
}

#[derive(Clone)]
struct InUse<B> {
    /// `None` if the files may have been changed since without a new time stamp.
    stamps: Option<Stamps>,
    fingerprint: Fingerprint,
    built: B,
    /// The attempt that failed last, if none has succeeded since.
    failed: Option<(Option<Stamps>, Instant)>,
}

/// The state of the files of a listener or a peer, for operators.
#[derive(Debug, Default)]
pub struct RenewalStatus {
    failures: AtomicU64,
    error: Mutex<Option<FileError>>,
    validity: Mutex<Option<Validity>>,
}

impl RenewalStatus {
    /// How often changed files could not be used.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Why the present files are not in use; `None` if they are.
    pub fn error(&self) -> Option<FileError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The validity of the certificate in use.
    pub fn validity(&self) -> Option<Validity> {
        *self.validity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn failed(&self, error: FileError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn use_until(&self, validity: Option<Validity>) {
        *self.validity.lock().unwrap_or_else(PoisonError::into_inner) = validity;
    }
}

impl<S: Source> Renewed<S> {
    /// Reads the files for the first time. `report` is called after each later attempt to use
    /// changed files: with `Ok` if the new ones are in use now, with the error if the ones read
    /// before stay in use. It must not block.
    ///
    /// # Errors
    /// Names the first file that cannot be used.
    pub fn new(source: S, report: impl Fn(Result<(), &FileError>) + Send + Sync + 'static) -> Result<Self, FileError> {
        let stamps = Stamps::of(&source.paths())?;
        let contents = Contents::read(&source.paths())?;
        let built = source.build(&contents)?;
        let status = Arc::new(RenewalStatus::default());
        status.use_until(validity(&contents));
        let stamps = Some(stamps).filter(Stamps::are_settled);
        let in_use = Mutex::new(InUse { stamps, fingerprint: contents.fingerprint(), built, failed: None });
        Ok(Renewed { source, in_use, reading: Arc::default(), status, report: Box::new(report) })
    }

    /// The files.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The state for operators; the same for the whole life of this.
    pub fn status(&self) -> Arc<RenewalStatus> {
        self.status.clone()
    }

    /// The configuration for the present contents of the files, or for the last contents that could
    /// be used. Looks at the files on tokio's blocking threads.
    pub async fn current(self: &Arc<Self>) -> S::Built {
        // A disk that hangs must block only one thread, and delay only one connection for long. The
        // others wait a moment for that read, which usually takes far less, and then use the
        // configuration that was built last.
        let reading = tokio::time::timeout(READ_PATIENCE, self.reading.clone().lock_owned()).await;
        let Ok(reading) = reading else { return self.in_use().built };
        let renewed = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _until_read = reading;
            renewed.read_again()
        });
        let read = read.await;
        read.unwrap_or_else(|_| self.in_use().built)
    }

    /// Looks at the files again and again, so that a fault is known before the next connection finds
    /// it. Never returns.
    pub async fn watch(self: Arc<Self>, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.current().await;
        }
    }

    fn in_use(&self) -> InUse<S::Built> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn use_now(&self, in_use: InUse<S::Built>) {
        *self.in_use.lock().unwrap_or_else(PoisonError::into_inner) = in_use;
    }

    fn read_again(&self) -> S::Built {
        let old = self.in_use();
        let stamps = Stamps::of(&self.source.paths());
        if let Ok(stamps) = &stamps
            && old.failed.is_none()
            && old.stamps.as_ref() == Some(stamps)
        {
            return old.built;
        }
        let key = stamps.as_ref().ok().cloned();
        if let Some((failed, at)) = &old.failed
            && *failed == key
            && at.elapsed() < TRY_AGAIN_AFTER
        {
            return old.built;
        }
        match stamps.and_then(|stamps| self.try_files(&old, stamps)) {
            Ok(new) => {
                let built = new.built.clone();
                self.use_now(new);
                self.status.succeeded();
                built
            }
            Err(error) => {
                (self.report)(Err(&error));
                self.status.failed(error);
                let built = old.built.clone();
                self.use_now(InUse { failed: Some((key, Instant::now())), ..old });
                built
            }
        }
    }

    fn try_files(&self, old: &InUse<S::Built>, stamps: Stamps) -> Result<InUse<S::Built>, FileError> {
        let contents = Contents::read(&self.source.paths())?;
        let fingerprint = contents.fingerprint();
        let stamps = Some(stamps).filter(Stamps::are_settled);
        if fingerprint == old.fingerprint {
            return Ok(InUse { stamps, failed: None, ..old.clone() });
        }
        let built = self.source.build(&contents)?;
        let validity = validity(&contents);
        self.refuse_untimely(&contents, validity)?;
        self.status.use_until(validity);
        (self.report)(Ok(()));
        Ok(InUse { stamps, fingerprint, built, failed: None })
    }

    /// A certificate that is not valid now must not replace one that is.
    fn refuse_untimely(&self, contents: &Contents, new: Option<Validity>) -> Result<(), FileError> {
        let is_now = |validity: Option<Validity>| validity.is_none_or(|validity| validity.is_now());
        if is_now(new) || !is_now(self.status.validity()) {
            return Ok(());
        }
        Err(contents.error(TlsFile::Certificate, "is not valid now, and the certificate read before still is"))
    }
}

/// The validity of the certificate with its chain, if there is one that can be read.
fn validity(contents: &Contents) -> Option<Validity> {
    Validity::of(&certificates::in_pem(contents.get(TlsFile::Certificate)?).ok()?)
}
