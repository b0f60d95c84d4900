//! What operators see of TLS: metrics and problems.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use tls_files::RenewalStatus;

use super::Counters;
use crate::metrics::ServerMetrics;
use crate::problems::{Problem, Problems};

/// A certificate that ends sooner than this is a problem.
const EXPIRES_SOON_S: i64 = 14 * 86_400;

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
    let collector = Box::new(TlsCollector(watched.clone()));
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

struct TlsCollector(Vec<Watched>);

impl TlsCollector {
    fn families(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &["listener"]);
        let reloads = counter(
            "synodkv_tls_reload_failures_total",
            "Attempts to use changed certificates that failed; those read before stay in force",
        )?;
        let handshakes = counter("synodkv_tls_handshakes_total", "TLS handshakes that succeeded")?;
        let failures =
            counter("synodkv_tls_handshake_failures_total", "TLS handshakes that failed, and clients without TLS")?;
        let expiry = IntGaugeVec::new(
            Opts::new("synodkv_certificate_expiry_seconds", "Time until the certificate expires"),
            &["listener"],
        )?;
        for Watched { listener, status, counters, .. } in &self.0 {
            reloads.with_label_values(&[listener]).inc_by(status.failures());
            if let Some(validity) = status.validity() {
                // Replicas of one process share their certificate.
                expiry.with_label_values(&[listener]).set(validity.seconds_left());
            }
            if let Some(counters) = counters {
                handshakes.with_label_values(&[listener]).inc_by(counters.handshakes.load(Ordering::Relaxed));
                failures.with_label_values(&[listener]).inc_by(counters.failures.load(Ordering::Relaxed));
            }
        }
        let mut families = expiry.collect();
        for counter in [reloads, handshakes, failures] {
            families.extend(counter.collect());
        }
        Ok(families.into_iter().filter(|family| !family.get_metric().is_empty()).collect())
    }
}

impl Collector for TlsCollector {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot collect the metrics of TLS");
            Vec::new()
        })
    }
}
