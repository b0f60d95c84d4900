//! TLS of a listener: which connections are encrypted, and who their clients are.
//!
//! An accepted connection passes [`Doorway::admit`] before anything else looks at its bytes. In mode
//! `off` that costs nothing. Otherwise the first byte tells TLS from plain text, and a client that
//! may use TLS has two seconds to complete the handshake. Connections that have not
//! completed it are strangers, of which there are at most [`most_strangers`]: one more closes the
//! oldest, so that those who only connect keep nobody else out.
//!
//! In mode `allow`, a client that says nothing is no stranger: it may be one without TLS that has no
//! request yet, and is treated as it is in mode `off`.

mod door;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rsml::transport::Strangers;
use serde::{Deserialize, Serialize};
use tls_files::{ListenerFiles, Names, RenewalStatus, Renewed};
use tokio_util::sync::CancellationToken;

pub(crate) use door::{Admitted, plain_reply_deadline};

use crate::accepting::{Complaints, most_strangers};

/// How often the files are looked at while nobody connects.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// The beginning of the URI of a user.
const USER_URI: &str = "synodkv:user/";
const LONGEST_USER: usize = 255;

/// Whether a listener speaks TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Never.
    #[default]
    Off,
    /// With the clients that do, on the same port as with those that do not.
    Allow,
    /// With all clients.
    Require,
}

/// Where a client's certificate names its user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserFrom {
    /// In the URI `synodkv:user/NAME` among its alternative names.
    #[default]
    San,
    /// In the common name of its subject.
    Cn,
}

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
    pub fn off(name: &'static str, max_connections: usize) -> Self {
        Doorway {
            mode: TlsMode::Off,
            certificates: None,
            user_from: UserFrom::default(),
            strangers: Arc::new(Strangers::new(most_strangers(max_connections))),
            counters: Arc::default(),
            complaints: std::sync::Mutex::default(),
            name,
        }
    }

    /// A listener with TLS; `name` is the kind of client.
    pub fn new(
        mode: TlsMode,
        certificates: Arc<Renewed<ListenerFiles>>,
        user_from: UserFrom,
        name: &'static str,
        max_connections: usize,
    ) -> Self {
        Doorway { mode, certificates: Some(certificates), user_from, ..Doorway::off(name, max_connections) }
    }

    /// Whether some clients, or all, need no TLS.
    pub fn is_open(&self) -> bool {
        self.mode != TlsMode::Require
    }

    /// The state of the certificates, for operators; `None` in mode `off`.
    pub fn status(&self) -> Option<Arc<RenewalStatus>> {
        self.certificates.as_ref().map(|certificates| certificates.status())
    }

    /// The counters of the listener.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(uris: &[&str], common: &[&str]) -> Names {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_string()).collect();
        Names { uris: owned(uris), common: owned(common) }
    }

    #[test]
    fn a_certificate_names_exactly_one_user() {
        let mut doorway = Doorway::off("test", 1);
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
