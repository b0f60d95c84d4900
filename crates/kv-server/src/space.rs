//! Watches the free space of the data directory's file system: measured from time to time, cheap to
//! query.
//!
//! A measurement is valid for a second, or until the bytes written since may have made it wrong: a
//! fast disk takes gigabytes in a second.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Opts};

use crate::problems::Problem;

/// How long a measurement is valid.
const INTERVAL: Duration = Duration::from_secs(1);

/// Bytes on disk per byte of a request before any of them is freed again: log, table file,
/// compaction.
const DISK_BYTES_PER_BYTE: u64 = 4;
/// Least and most bytes written between two measurements. A measurement for fewer bytes is not
/// worthwhile. The upper bound holds however much was free, because others may write to the same
/// file system.
const LOOK_AFTER_BYTES: (u64, u64) = (64 << 10, 8 << 20);
/// With less than this free, nothing unnecessary is retained, whatever the configured minimum.
const ROOMY_BYTES: u64 = 512 << 20;

/// Returns the bytes that are free for this process.
type FreeBytes = Box<dyn Fn() -> std::io::Result<u64> + Send + Sync>;

/// The problem of a replica whose disk is full.
pub fn disk_full() -> Problem {
    Problem::new(
        "disk_full",
        "its disk is full (storage.min_free_mb): it refuses writes until there is space again",
        "make space on that file system; no restart is needed",
    )
}

/// Watches one data directory. It has no space while less than a minimum is free, so that the log
/// and the databases still have room for what was accepted before. The caller decides whether to
/// refuse writes: a cluster of three tolerates one full disk.
pub struct SpaceWatch {
    path: PathBuf,
    min_free_bytes: u64,
    ask: FreeBytes,
    started: Instant,
    /// Time of the next measurement, in milliseconds since the start.
    next_ms: AtomicU64,
    free_bytes: AtomicU64,
    has_space: AtomicBool,
    /// Bytes that may be written before the next measurement.
    allowance: AtomicI64,
}

impl SpaceWatch {
    /// Watches `path`. With `min_free_bytes` = 0 there is always space.
    pub fn new(path: &Path, min_free_bytes: u64) -> Self {
        let asked = path.to_owned();
        Self::asking(path, min_free_bytes, move || {
            let found = rustix::fs::statvfs(&asked)?;
            Ok(found.f_bavail.saturating_mul(found.f_frsize))
        })
    }

    fn asking(
        path: &Path,
        min_free_bytes: u64,
        ask: impl Fn() -> std::io::Result<u64> + Send + Sync + 'static,
    ) -> Self {
        let watch = SpaceWatch {
            path: path.to_owned(),
            min_free_bytes,
            ask: Box::new(ask),
            started: Instant::now(),
            next_ms: AtomicU64::new(INTERVAL.as_millis() as u64),
            free_bytes: AtomicU64::new(0),
            has_space: AtomicBool::new(true),
            allowance: AtomicI64::new(0),
        };
        watch.look();
        watch
    }

    /// Whether there is space, as measured at most about a second ago.
    pub fn has_space(&self) -> bool {
        self.look_if_due();
        self.has_space.load(Ordering::Relaxed)
    }

    /// Whether there is space for a write of this many bytes, in addition to all those admitted
    /// since the last measurement.
    pub fn admit(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.allowance.fetch_sub(bytes, Ordering::Relaxed) < bytes {
            self.look();
        }
        self.has_space()
    }

    /// Bytes free for this process, as measured at most about a second ago.
    pub fn free_bytes(&self) -> u64 {
        self.look_if_due();
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Whether there is far more space than necessary: at least twice the minimum, and at least
    /// [`ROOMY_BYTES`].
    pub fn has_ample_space(&self) -> bool {
        self.free_bytes() >= self.min_free_bytes.saturating_mul(2).max(ROOMY_BYTES)
    }

    /// The error text for clients whose writes are refused.
    pub fn refusal(&self) -> String {
        format!(
            "{} MiB are free in {}, less than storage.min_free_mb = {}",
            self.free_bytes() >> 20,
            self.path.display(),
            self.min_free_bytes >> 20
        )
    }

    fn look_if_due(&self) {
        let (now_ms, due_ms) = (self.started.elapsed().as_millis() as u64, self.next_ms.load(Ordering::Relaxed));
        if now_ms < due_ms {
            return;
        }
        let next_ms = now_ms + INTERVAL.as_millis() as u64;
        // Of several concurrent callers, one measures.
        if self.next_ms.compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.look();
        }
    }

    fn look(&self) {
        let free_bytes = match (self.ask)() {
            Ok(free_bytes) => free_bytes,
            Err(error) => {
                tracing::warn!(%error, "cannot measure the free space of {}", self.path.display());
                return;
            }
        };
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        let has_space = self.min_free_bytes == 0 || free_bytes >= self.min_free_bytes;
        let to_spare = free_bytes.saturating_sub(self.min_free_bytes) / DISK_BYTES_PER_BYTE;
        let allowance = to_spare.clamp(LOOK_AFTER_BYTES.0, LOOK_AFTER_BYTES.1) as i64;
        self.allowance.store(allowance, Ordering::Relaxed);
        match (self.has_space.swap(has_space, Ordering::Relaxed), has_space) {
            (true, false) => tracing::error!(
                "too little disk space: {}. Free some, or lower storage.min_free_mb",
                self.describe(free_bytes)
            ),
            (false, true) => tracing::info!("enough disk space again: {}", self.describe(free_bytes)),
            _ => {}
        }
    }

    fn describe(&self, free_bytes: u64) -> String {
        let (free_mb, min_mb) = (free_bytes >> 20, self.min_free_bytes >> 20);
        format!("{free_mb} MiB are free in {}, storage.min_free_mb = {min_mb}", self.path.display())
    }
}

/// Exports the free space to Prometheus.
pub struct SpaceCollector {
    watch: std::sync::Arc<SpaceWatch>,
    free_bytes: IntGauge,
    size_bytes: IntGauge,
    has_space: IntGauge,
}

impl SpaceCollector {
    /// A collector for this watch.
    pub fn new(watch: std::sync::Arc<SpaceWatch>) -> Self {
        let gauge = |name: &str, help: &str| IntGauge::with_opts(Opts::new(name, help)).expect("a valid metric");
        SpaceCollector {
            watch,
            free_bytes: gauge("synodkv_data_dir_free_bytes", "Bytes free in the file system of the data directory"),
            size_bytes: gauge("synodkv_data_dir_size_bytes", "Size of the file system of the data directory"),
            has_space: gauge("synodkv_has_space", "0 while less than storage.min_free_mb is free"),
        }
    }
}

impl Collector for SpaceCollector {
    fn desc(&self) -> Vec<&Desc> {
        [&self.free_bytes, &self.size_bytes, &self.has_space].into_iter().flat_map(|gauge| gauge.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.free_bytes.set(i64::try_from(self.watch.free_bytes()).unwrap_or(i64::MAX));
        if let Ok(found) = rustix::fs::statvfs(&self.watch.path) {
            let size = found.f_blocks.saturating_mul(found.f_frsize);
            self.size_bytes.set(i64::try_from(size).unwrap_or(i64::MAX));
        }
        self.has_space.set(i64::from(self.watch.has_space()));
        [&self.free_bytes, &self.size_bytes, &self.has_space].into_iter().flat_map(|gauge| gauge.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn watch(min_free_bytes: u64, free: &Arc<AtomicU64>) -> SpaceWatch {
        let free = free.clone();
        SpaceWatch::asking(Path::new("/data"), min_free_bytes, move || match free.load(Ordering::Relaxed) {
            u64::MAX => Err(std::io::Error::other("no such thing")),
            free => Ok(free),
        })
    }

    #[test]
    fn space_ends_below_the_minimum_and_comes_back() {
        let free = Arc::new(AtomicU64::new(300 * MIB));
        let watch = watch(256 * MIB, &free);
        assert!(watch.has_space());
        free.store(255 * MIB, Ordering::Relaxed);
        watch.look();
        assert!(!watch.has_space());
        assert!(watch.refusal().contains("255 MiB are free in /data"), "{}", watch.refusal());
        free.store(256 * MIB, Ordering::Relaxed);
        watch.look();
        assert!(watch.has_space());
    }

    #[test]
    fn writes_that_use_up_the_measured_space_lead_to_another_measurement() {
        let mib = MIB as usize;
        // A quarter of the 20 MiB may be written before the next measurement, and at most 8 MiB.
        for (free_mib, before) in [(256 + 20, 5), (256 + 4000, 8)] {
            let free = Arc::new(AtomicU64::new(free_mib * MIB));
            let watch = watch(256 * MIB, &free);
            free.store(255 * MIB, Ordering::Relaxed);
            assert!(watch.admit((before - 1) * mib) && watch.admit(mib), "{before}");
            assert!(!watch.admit(1), "{before}");
            free.store(300 * MIB, Ordering::Relaxed);
            assert!(watch.admit(50 * mib));
        }
    }

    #[test]
    fn without_a_minimum_there_is_always_space() {
        let watch = watch(0, &Arc::new(AtomicU64::new(0)));
        assert!(watch.has_space());
    }

    #[test]
    fn a_file_system_that_cannot_be_asked_changes_nothing() {
        let free = Arc::new(AtomicU64::new(10));
        let watch = watch(11, &free);
        free.store(u64::MAX, Ordering::Relaxed);
        watch.look();
        assert!(!watch.has_space());
        assert_eq!(watch.free_bytes(), 10);
    }

    #[test]
    fn the_free_space_of_a_real_directory_is_measured() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert!(SpaceWatch::new(folder.path(), 1).free_bytes() > 0);
    }
}
