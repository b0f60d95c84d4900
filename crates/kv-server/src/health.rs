//! Health checks: whether this process can do its work, whether it serves reads, and whether it
//! accepts writes.
//!
//! | question | answer |
//! |---|---|
//! | live? | no once a thread that the process needs has ended, or has stood still for [`STALLED_AFTER`] with work to do, or the server has failed for good. Never depends on other replicas |
//! | ready? | yes when a linearizable read succeeds now |
//! | ready for writes? | yes when, in addition, an empty write is agreed and durable now |
//!
//! Only a real write proves that writes work, because only it passes through every part that can
//! fail. The probe commits an empty write. Concurrent probes share one write, so that many load
//! balancers cost no more than one.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use kv_api::{KvError, KvOperation};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::router::{RequestContext, RequestRouter};

/// A thread that spends longer than this on one task counts as stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How old the last write probe may be.
const WRITE_PROOF_HOLDS: Duration = Duration::from_secs(1);

/// Returns why this part of the process cannot do its work any more, or `None` while it can.
type Sign = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The parts that the process cannot work without.
#[derive(Default)]
pub struct Liveness {
    signs: RwLock<Vec<Sign>>,
}

impl Liveness {
    /// Registers `sign`, which must answer at once, without waiting for anything.
    pub fn watch(&self, sign: impl Fn() -> Option<String> + Send + Sync + 'static) {
        self.signs.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(sign));
    }

    /// Everything that has stopped working.
    pub fn failures(&self) -> Vec<String> {
        let signs = self.signs.read().unwrap_or_else(PoisonError::into_inner);
        signs.iter().filter_map(|sign| sign()).collect()
    }
}

/// Reports a thread that has spent too long on one task. `busy_for` is the time on its present
/// task.
pub fn stalled(thread: &str, busy_for: Option<Duration>) -> Option<String> {
    let busy_for = busy_for.filter(|busy_for| *busy_for >= STALLED_AFTER)?;
    Some(format!("the thread {thread} has stood still for {} s", busy_for.as_secs()))
}

/// Checks whether writes succeed.
pub struct WriteProbe {
    router: Arc<dyn RequestRouter>,
    /// The last result. Locked while a write is in flight, so that concurrent probes share it.
    last: Mutex<Option<(Instant, Result<(), KvError>)>>,
}

impl WriteProbe {
    /// A probe that writes through `router`.
    pub fn new(router: Arc<dyn RequestRouter>) -> Self {
        WriteProbe { router, last: Mutex::new(None) }
    }

    /// Whether an empty write was agreed and durable within the last second or so.
    ///
    /// # Errors
    /// The error that a client's write would get.
    pub async fn check(&self) -> Result<(), KvError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((finished, outcome)) = &*last
            // A write that ended while this probe waited for it is recent enough.
            && (*finished >= asked || asked - *finished < WRITE_PROOF_HOLDS)
        {
            return outcome.clone();
        }
        let context = RequestContext::internal(Instant::now() + PROBE_TIMEOUT);
        let outcome = self.router.route(KvOperation::ClockTick, &context).await.map(drop);
        *last = Some((Instant::now(), outcome.clone()));
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use kv_api::KvOutcome;

    use super::*;

    #[derive(Default)]
    struct Counting {
        writes: AtomicU64,
        fails: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl RequestRouter for Counting {
        async fn route(&self, operation: KvOperation, _: &RequestContext) -> Result<KvOutcome, KvError> {
            assert!(matches!(operation, KvOperation::ClockTick));
            self.writes.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            match self.fails.load(Ordering::Relaxed) {
                true => Err(KvError::StorageFull("no space".into())),
                false => Ok(KvOutcome::ReadVersion(kv_api::Version(1))),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn probes_at_the_same_time_share_one_write_and_the_next_second_has_its_own() {
        let router = Arc::new(Counting::default());
        let probe = WriteProbe::new(router.clone());
        let (a, b, c) = tokio::join!(probe.check(), probe.check(), probe.check());
        assert_eq!((a, b, c), (Ok(()), Ok(()), Ok(())));
        assert_eq!(router.writes.load(Ordering::Relaxed), 1);
        router.fails.store(true, Ordering::Relaxed);
        tokio::time::advance(WRITE_PROOF_HOLDS).await;
        assert!(matches!(probe.check().await, Err(KvError::StorageFull(_))));
        assert_eq!(router.writes.load(Ordering::Relaxed), 2);
        router.fails.store(false, Ordering::Relaxed);
        tokio::time::advance(WRITE_PROOF_HOLDS).await;
        assert_eq!(probe.check().await, Ok(()));
    }

    #[test]
    fn a_thread_counts_as_stalled_after_thirty_seconds_on_one_task() {
        assert_eq!(stalled("x", None), None);
        assert_eq!(stalled("x", Some(STALLED_AFTER - Duration::from_millis(1))), None);
        assert_eq!(stalled("x", Some(STALLED_AFTER)).as_deref(), Some("the thread x has stood still for 30 s"));
        let liveness = Liveness::default();
        assert_eq!(liveness.failures(), Vec::<String>::new());
        liveness.watch(|| stalled("x", Some(STALLED_AFTER)));
        liveness.watch(|| None);
        assert_eq!(liveness.failures().len(), 1);
    }
}
