//! Where backups are: a folder of a file system or of an S3-compatible store.
//!
//! Invariants: an object that was put is durable; requests that fail for a while are tried again,
//! within a limit; an object is read whole or not at all, so a reply that was cut short is never
//! taken for the object.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::{BackupError, Credentials};

/// Attempts of a request. Stores repeat some by themselves; this is about replies that were cut
/// short, and errors in the middle of one.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A longer object is none of ours.
const MAX_GET_BYTES: u64 = 1 << 30;
/// A directory may hold other files, but a list of them must not fill the memory.
const MAX_LISTED: usize = 10_000_000;

/// A folder for backups.
#[derive(Clone)]
pub struct Target {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    shown: String,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.shown).finish()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Target {
    /// The target at `url`: a path of a directory, `file:///PATH`, or `s3://BUCKET/PREFIX`.
    /// Contacts nobody, and creates a directory only if `may_create`.
    ///
    /// # Errors
    /// [`BackupError::Input`] if it is none of these, or holds a secret.
    pub fn open(url: &str, credentials: Option<&Credentials>, may_create: bool) -> Result<Target, BackupError> {
        let input = |text: String| Err(BackupError::Input(text));
        let Some((scheme, rest)) = url.split_once("://") else {
            return Target::directory(PathBuf::from(url), may_create);
        };
        if rest.split('/').next().is_some_and(|authority| authority.contains('@')) || rest.contains('?') {
            return input(
                "a URL of backups holds no secrets and no options: give credentials in the environment \
                 (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL) or with --credentials FILE"
                    .to_string(),
            );
        }
        match scheme {
            "file" if rest.starts_with('/') => Target::directory(PathBuf::from(rest), may_create),
            "s3" => Target::s3(url, rest, credentials),
            _ => input(format!(
                "`{url}` is no place for backups: expected a directory, file:///DIRECTORY, or s3://BUCKET/PREFIX"
            )),
        }
    }

    fn directory(path: PathBuf, may_create: bool) -> Result<Target, BackupError> {
        let shown = path.display().to_string();
        if shown.is_empty() {
            return Err(BackupError::Input("the place of the backups is empty: expected a directory or a URL".into()));
        }
        if may_create {
            std::fs::create_dir_all(&path)
                .map_err(|error| BackupError::Input(format!("cannot create {shown}: {error}")))?;
        }
        let store = LocalFileSystem::new_with_prefix(&path)
            .map_err(|error| BackupError::Input(format!("no backups are in {shown}: {error}")))?;
        Ok(Target { store: Arc::new(store.with_fsync(true)), prefix: Path::default(), shown })
    }

    #[cfg(not(feature = "s3"))]
    fn s3(url: &str, _: &str, _: Option<&Credentials>) -> Result<Target, BackupError> {
        Err(BackupError::Input(format!("{url}: S3 is not supported in a build without the cargo feature `backup-s3`")))
    }

    #[cfg(feature = "s3")]
    fn s3(url: &str, rest: &str, credentials: Option<&Credentials>) -> Result<Target, BackupError> {
        use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
        use object_store::{BackoffConfig, ClientOptions, RetryConfig};

        // The library that makes the connections takes the cryptography of the process.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(BackupError::Input(format!("`{url}` names no bucket: expected s3://BUCKET/PREFIX")));
        }
        let mut builder = AmazonS3Builder::from_env();
        let mut is_plain = std::env::vars().any(|(name, value)| is_plain_endpoint(&name, &value));
        for (name, value) in credentials.into_iter().flat_map(Credentials::iter) {
            let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().map_err(|_| {
                BackupError::Input(format!(
                    "--credentials: `{name}` is no setting of S3; known are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
                     AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL"
                ))
            })?;
            is_plain |= is_plain_endpoint(name, value);
            builder = builder.with_config(key, value);
        }
        let client = ClientOptions::new()
            .with_allow_http(is_plain)
            .with_connect_timeout(Duration::from_secs(10))
            .with_timeout(Duration::from_secs(300));
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: Duration::from_secs(10), base: 2.0 },
            max_retries: 8,
            retry_timeout: Duration::from_secs(120),
        };
        let store = builder
            .with_bucket_name(bucket)
            .with_client_options(client)
            .with_retry(retry)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .build()
            .map_err(|error| BackupError::Input(format!("{url}: {error}")))?;
        let prefix = Path::parse(prefix).map_err(|error| BackupError::Input(format!("{url}: {error}")))?;
        Ok(Target { store: Arc::new(store), prefix, shown: url.trim_end_matches('/').to_string() })
    }

    /// A target over a store, for tests.
    #[cfg(test)]
    pub(crate) fn over(store: Arc<dyn ObjectStore>) -> Target {
        Target { store, prefix: Path::default(), shown: "test".to_string() }
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Stores an object. With `is_new` only if there is none of this name; returns whether it was
    /// stored.
    pub(crate) async fn put(&self, name: &str, bytes: Bytes, is_new: bool) -> Result<bool, BackupError> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let mode = if is_new { PutMode::Create } else { PutMode::Overwrite };
            let options = PutOptions { mode, ..PutOptions::default() };
            match self.store.put_opts(&self.path(name), PutPayload::from_bytes(bytes.clone()), options).await {
                Ok(_) => return Ok(true),
                // The answer to an earlier attempt, of ours or of the library, may have been lost.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    return Ok(self.get(name).await? == bytes);
                }
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                    tracing::debug!(%error, name, "storing an object failed; the next attempt follows");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(self.failed("store", name, &error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Reads an object whole.
    pub(crate) async fn get(&self, name: &str) -> Result<Bytes, BackupError> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.get_once(name).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                    tracing::debug!(%error, name, "reading an object failed; the next attempt follows");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(self.failed("read", name, &error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn get_once(&self, name: &str) -> Result<Bytes, Error> {
        let odd = |text: String| Error::Generic { store: "backup", source: text.into() };
        let reply = self.store.get(&self.path(name)).await?;
        let size = reply.meta.size;
        if size > MAX_GET_BYTES {
            return Err(odd(format!("it has {size} bytes, and no object of a backup is that large")));
        }
        let bytes = reply.bytes().await?;
        if bytes.len() as u64 != size {
            return Err(odd(format!("{} of {size} bytes arrived", bytes.len())));
        }
        Ok(bytes)
    }

    /// The size of an object; `None` if it does not exist.
    pub(crate) async fn size(&self, name: &str) -> Result<Option<u64>, BackupError> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.store.head(&self.path(name)).await {
                Ok(found) => return Ok(Some(found.size)),
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                    tracing::debug!(%error, name, "looking at an object failed; the next attempt follows");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(self.failed("look at", name, &error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// All objects whose name begins with the folder `folder`: names within the target, and what the
    /// store knows of them.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>, BackupError> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.list_once(folder).await {
                Ok(mut found) if found.len() <= MAX_LISTED => {
                    found.sort_by(|a, b| a.0.cmp(&b.0));
                    return Ok(found);
                }
                Ok(_) => return Err(BackupError::Refused(format!("{self} holds more than {MAX_LISTED} objects"))),
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => {
                    tracing::debug!(%error, folder, "listing a folder failed; the next attempt follows");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(self.failed("list", folder, &error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// One more object than [`MAX_LISTED`], if there are more.
    async fn list_once(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>, Error> {
        let path = self.path(folder);
        let mut found = Vec::new();
        let mut objects = self.store.list(Some(&path));
        while found.len() <= MAX_LISTED {
            match objects.try_next().await {
                Ok(None) | Err(Error::NotFound { .. }) => break,
                Ok(Some(object)) => {
                    let parts: Vec<String> = object
                        .location
                        .prefix_match(&self.prefix)
                        .map(|parts| parts.map(|part| part.as_ref().to_string()).collect())
                        .unwrap_or_default();
                    found.push((parts.join("/"), object));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Removes an object; one that does not exist is none to remove.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), BackupError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", name, &error)),
        }
    }

    fn failed(&self, action: &str, name: &str, error: &Error) -> BackupError {
        let text = chain(error);
        match error {
            _ if text.contains("NoSuchBucket") => {
                BackupError::Input(format!("{self}: the bucket does not exist; create it, or look at the spelling"))
            }
            Error::NotFound { .. } => BackupError::damaged(format!("{self}/{name}"), "it is missing"),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => BackupError::Refused(format!(
                "the store does not allow to {action} {self}/{name}: look at the credentials, and what they permit"
            )),
            _ => BackupError::Unavailable(format!("cannot {action} {self}/{name}: {text}")),
        }
    }
}

/// Whether another attempt may have another outcome.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

#[cfg(feature = "s3")]
fn is_plain_endpoint(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.contains("ENDPOINT") && name.starts_with("AWS_") && value.starts_with("http://")
}

/// An error with its causes, without repetitions.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
