//! TLS of a listener: which connections are encrypted, and who their clients are.
//!
//! An accepted connection passes [`Doorway::admit`] before anything else looks at its bytes. In mode
//! `off` that costs nothing. Otherwise the first byte tells TLS from plain text, and a client that
//! may use TLS has [`HANDSHAKE_TIMEOUT`] to complete the handshake. Connections that have not
//! completed it are strangers, of which there are at most [`MAX_STRANGERS`]: one more closes the
//! oldest, so that those who only connect keep nobody else out.
//!
//! In mode `allow`, a client that says nothing is no stranger: it may be one without TLS that has no
//! request yet, and is treated as it is in mode `off`.

mod door;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rsml::transport::Strangers;
use tls_files::{FileError, ListenerFiles, Names, RenewalStatus, Renewed, Source, TlsFile};
use tokio_util::sync::CancellationToken;

pub(crate) use door::{Admitted, plain_reply_deadline};
pub(crate) use watch::{Watched, watch};

use crate::accepting::Complaints;
use crate::config::{Config, ListenerTls, TlsMode, UserFrom};
use crate::error::ServerError;

/// How long a client may take for the handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of a listener that have not completed the handshake.
const MAX_STRANGERS: usize = 128;
/// How often the files are looked at while nobody connects.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// What the URI of a user begins with.
const USER_URI: &str = "synodkv:user/";
const LONGEST_USER: usize = 255;

/// A listener's TLS, shared by its connections.
pub(crate) struct Doorway {
    mode: TlsMode,
    /// The certificates; `None` in mode `off`.
    certificates: Option<Arc<Renewed<ListenerFiles>>>,
    user_from: UserFrom,
    strangers: Arc<Strangers>,
    counters: Arc<Counters>,
    complaints: std::sync::Mutex<Complaints>,
    /// The kind of client, for the log.
    name: &'static str,
}

/// Handshakes of a listener.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Those that succeeded.
    pub handshakes: AtomicU64,
    /// Those that failed, and connections that were refused because they lacked TLS.
    pub failures: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Doorway {
    /// A listener without TLS.
    pub fn off(name: &'static str) -> Self {
        Doorway {
            mode: TlsMode::Off,
            certificates: None,
            user_from: UserFrom::default(),
            strangers: Arc::new(Strangers::new(MAX_STRANGERS)),
            counters: Arc::default(),
            complaints: std::sync::Mutex::default(),
            name,
        }
    }

    /// Reads the certificates. `section` is where the settings stand, `name` the kind of client.
    ///
    /// # Errors
    /// [`ServerError::Certificates`], naming the setting and the file that cannot be used.
    pub fn open(settings: &ListenerTls, section: &str, name: &'static str) -> Result<Self, ServerError> {
        let mut doorway = Doorway::off(name);
        let Some(files) = settings.files() else { return Ok(doorway) };
        let renewed = Renewed::new(files, report(name)).map_err(|error| in_section(section, &error))?;
        let renewed = Arc::new(renewed);
        if let Some(validity) = renewed.status().validity()
            && !validity.is_now()
        {
            tracing::warn!(
                certificate = %renewed.source().certificate.display(),
                "the certificate of the {name} listener is not valid now; its clients will refuse it"
            );
        }
        (doorway.mode, doorway.user_from) = (settings.mode(), settings.user_from.unwrap_or_default());
        doorway.certificates = Some(renewed);
        Ok(doorway)
    }

    /// Whether some clients, or all, need no TLS.
    pub fn is_open(&self) -> bool {
        self.mode != TlsMode::Require
    }

    /// What an operator should know about the certificates; `None` in mode `off`.
    pub fn status(&self) -> Option<Arc<RenewalStatus>> {
        self.certificates.as_ref().map(|certificates| certificates.status())
    }

    /// What to watch; nothing in mode `off`.
    pub fn watched(&self, listener: &'static str) -> Option<Watched> {
        let (status, counters) = (self.status()?, Some(self.counters.clone()));
        Some(Watched { listener, replica: None, status, counters })
    }

    /// Looks at the files until `stop` is cancelled, so that a fault is known before the next
    /// connection finds it.
    pub fn keep_watch(&self, stop: CancellationToken) {
        let Some(certificates) = &self.certificates else { return };
        let watching = certificates.clone().watch(WATCH_INTERVAL);
        tokio::spawn(async move {
            let _stopped = stop.run_until_cancelled(watching).await;
        });
    }

    /// The user whom a certificate names; `None` if it names none, or several.
    fn user_in(&self, names: &Names) -> Option<String> {
        let candidates: Vec<&str> = match self.user_from {
            UserFrom::San => names.uris.iter().filter_map(|uri| uri.strip_prefix(USER_URI)).collect(),
            UserFrom::Cn => names.common.iter().map(String::as_str).collect(),
        };
        match candidates.as_slice() {
            [user] if !user.is_empty() && user.len() <= LONGEST_USER => Some((*user).to_string()),
            _ => None,
        }
    }
}

/// Checks whether the listeners of this configuration could use their certificates now. Reads the
/// files.
///
/// # Errors
/// The first file that could not be used, with its key.
pub fn check_certificates(config: &Config) -> Result<(), ServerError> {
    for (settings, section) in [(&config.server.tls, "server.tls"), (config.admin_tls(), "admin.tls")] {
        if let Some(files) = settings.files() {
            files.load().map_err(|error| in_section(section, &error))?;
        }
    }
    Ok(())
}

fn in_section(section: &str, error: &FileError) -> ServerError {
    let key = match error.file {
        TlsFile::Ca => "client_ca",
        TlsFile::Certificate => "certificate",
        TlsFile::Key => "key",
        TlsFile::Crl => "crl",
    };
    ServerError::Certificates(format!("{section}.{key}: {error}"))
}

/// Logs what happens to renewed files.
fn report(name: &'static str) -> impl Fn(Result<(), &FileError>) + Send + Sync + 'static {
    let complaints = std::sync::Mutex::new(Complaints::default());
    move |renewed| match renewed {
        Ok(()) => tracing::info!("read renewed certificates of the {name} listener"),
        Err(error) => {
            if let Some(times) = Complaints::count(&complaints) {
                tracing::warn!(
                    %error, times,
                    "the certificates of the {name} listener have changed and cannot be used; those read before stay in \
                     force"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(uris: &[&str], common: &[&str]) -> Names {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_string()).collect();
        Names { uris: owned(uris), common: owned(common) }
    }

    #[test]
    fn a_certificate_names_exactly_one_user() {
        let mut doorway = Doorway::off("test");
        let user = |doorway: &Doorway, uris, common| doorway.user_in(&names(uris, common));
        assert_eq!(user(&doorway, &["http://x", "synodkv:user/alice"], &["bob"]), Some("alice".to_string()));
        assert_eq!(user(&doorway, &[], &["bob"]), None);
        assert_eq!(user(&doorway, &["synodkv:user/"], &[]), None);
        assert_eq!(user(&doorway, &["synodkv:user/alice", "synodkv:user/root"], &[]), None);
        doorway.user_from = UserFrom::Cn;
        assert_eq!(user(&doorway, &["synodkv:user/alice"], &["bob"]), Some("bob".to_string()));
        assert_eq!(user(&doorway, &[], &["bob", "root"]), None);
    }
}
