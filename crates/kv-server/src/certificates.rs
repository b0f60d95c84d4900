//! The certificates of the listeners: opened at the start, checked when asked for, and shown to
//! operators as metrics and problems.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use tls_files::{FileError, RenewalStatus, Renewed, Source, TlsFile};

use crate::accepting::Complaints;
use crate::config::{Config, ListenerTls};
use crate::error::ServerError;
use crate::metrics::ServerMetrics;
use crate::problems::{Problem, Problems};
use crate::tls::{Counters, Doorway};

/// A certificate that ends sooner than this is a problem.
const EXPIRES_SOON_S: i64 = 14 * 86_400;

/// A listener with the TLS of these settings. `section` is their place in the file, `name` the kind
/// of client.
///
/// # Errors
/// [`ServerError::Certificates`], naming the setting and the file that cannot be used.
pub(crate) fn open(
    settings: &ListenerTls,
    section: &str,
    name: &'static str,
    max_connections: usize,
) -> Result<Doorway, ServerError> {
    let Some(files) = settings.files() else { return Ok(Doorway::off(name, max_connections)) };
    let renewed = Renewed::new(files, report(name)).map_err(|error| in_section(section, &error))?;
    if let Some(validity) = renewed.status().validity()
        && !validity.is_now()
    {
        tracing::warn!(
            certificate = %renewed.source().certificate.display(),
            "the certificate of the {name} listener is not valid now; its clients will refuse it"
        );
    }
    let user_from = settings.user_from.unwrap_or_default();
    Ok(Doorway::new(settings.mode(), Arc::new(renewed), user_from, name, max_connections))
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
    let complaints = Mutex::new(Complaints::default());
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

/// A listener whose certificates are watched.
#[derive(Clone)]
pub(crate) struct Watched {
    /// `thrift`, `admin` or `peer`.
    pub listener: &'static str,
    /// The replica, if the listener is its own.
    pub replica: Option<u32>,
    /// The state of its certificates.
    pub status: Arc<RenewalStatus>,
    /// Its handshakes; `None` where others count them.
    pub counters: Option<Arc<Counters>>,
}

impl Watched {
    /// The certificate of a listener; `None` if it has no TLS.
    pub fn listener(listener: &'static str, doorway: &Doorway) -> Option<Self> {
        let (status, counters) = (doorway.status()?, Some(doorway.counters()));
        Some(Watched { listener, replica: None, status, counters })
    }

    /// The certificate that a replica shows its peers.
    pub fn peer(replica: u32, status: Arc<RenewalStatus>) -> Self {
        Watched { listener: "peer", replica: Some(replica), status, counters: None }
    }
}

/// Adds metrics and problems of these listeners.
pub(crate) fn watch(watched: Vec<Watched>, metrics: &ServerMetrics, problems: &Problems) {
    if watched.is_empty() {
        return;
    }
    let collector = Box::new(TlsCollector::new(watched.clone()));
    metrics.registry().register(collector).expect("registered once for each server");
    problems.watch(move || watched.iter().flat_map(problems_of).collect());
}

fn problems_of(watched: &Watched) -> Vec<Problem> {
    let name = watched.listener;
    let reload = watched.status.error().map(|error| {
        Problem::new(
            "tls_reload_failed",
            format!("the certificates of the {name} listener have changed and cannot be used: {error}"),
            "correct the file, or put the one before back; new connections use the certificates read before until then",
        )
    });
    let left = watched.status.validity().map(|validity| validity.seconds_left());
    let expiry = left.filter(|left| *left < EXPIRES_SOON_S).map(|left| {
        let (kind, when) = match left {
            ..0 => ("certificate_expired", format!("expired {} h ago", -left / 3600)),
            0..172_800 => ("certificate_expires", format!("expires in {} h", left / 3600)),
            _ => ("certificate_expires", format!("expires in {} days", left / 86_400)),
        };
        let remedy =
            "replace the files with a renewed certificate (`synodkv cert issue --renew`); no restart is needed";
        Problem::new(kind, format!("the certificate of the {name} listener {when}"), remedy)
    });
    let of_replica = |problem: Problem| match watched.replica {
        Some(id) => problem.of_replica(id),
        None => problem,
    };
    [reload, expiry].into_iter().flatten().map(of_replica).collect()
}

/// Reads the state of the listeners at each scrape.
struct TlsCollector {
    watched: Vec<Watched>,
    descriptions: Vec<Desc>,
}

/// The metrics, with one value for each listener.
struct Figures {
    expiry: IntGaugeVec,
    reloads: IntCounterVec,
    handshakes: IntCounterVec,
    failures: IntCounterVec,
}

impl Figures {
    fn new() -> Self {
        let counter =
            |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &["listener"]).expect("a valid metric");
        let expiry = Opts::new("synodkv_certificate_expiry_seconds", "Time until the certificate expires");
        Figures {
            expiry: IntGaugeVec::new(expiry, &["listener"]).expect("a valid metric"),
            reloads: counter(
                "synodkv_tls_reload_failures_total",
                "Attempts to use changed certificates that failed; those read before stay in force",
            ),
            handshakes: counter("synodkv_tls_handshakes_total", "TLS handshakes that succeeded"),
            failures: counter(
                "synodkv_tls_handshake_failures_total",
                "TLS handshakes that failed, and clients without TLS",
            ),
        }
    }

    fn collectors(&self) -> [&dyn Collector; 4] {
        [&self.expiry, &self.reloads, &self.handshakes, &self.failures]
    }

    fn add(&self, watched: &Watched) {
        let Watched { listener, status, counters, .. } = watched;
        self.reloads.with_label_values(&[listener]).inc_by(status.failures());
        if let Some(validity) = status.validity() {
            // Replicas of one process share their certificate.
            self.expiry.with_label_values(&[listener]).set(validity.seconds_left());
        }
        if let Some(counters) = counters {
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            self.handshakes.with_label_values(&[listener]).inc_by(read(&counters.handshakes));
            self.failures.with_label_values(&[listener]).inc_by(read(&counters.failures));
        }
    }
}

impl TlsCollector {
    fn new(watched: Vec<Watched>) -> Self {
        let descriptions = Figures::new().collectors().into_iter().flat_map(|figure| figure.desc()).cloned().collect();
        TlsCollector { watched, descriptions }
    }
}

impl Collector for TlsCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // New ones each time, because concurrent scrapes must not add to each other's.
        let figures = Figures::new();
        self.watched.iter().for_each(|watched| figures.add(watched));
        let families = figures.collectors().into_iter().flat_map(|figure| figure.collect());
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}
