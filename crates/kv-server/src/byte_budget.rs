//! Bytes that are reserved before they are used: what does not fit waits, in the order of asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counted in units of this, so that the largest reservations can be counted at all.
const UNIT_BYTES: usize = 1 << 10;

/// So many bytes, shared by many. Who waits is served in turn, so that a large reservation is not kept waiting by an
/// endless row of small ones; who waits must hold nothing of the same budget, or all may wait for each other.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    units: Arc<Semaphore>,
    all: u32,
    waiters: Arc<AtomicUsize>,
}

/// Counts somebody who waits, for as long as they do.
struct Waiter(Arc<AtomicUsize>);

impl Waiter {
    fn new(waiters: &Arc<AtomicUsize>) -> Self {
        waiters.fetch_add(1, Ordering::Relaxed);
        Waiter(waiters.clone())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ByteBudget {
    pub fn new(bytes: usize) -> Self {
        let all = u32::try_from(bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX);
        // The semaphore's own bound is above that on 64 bits, and what matters on 32.
        let all = all.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        ByteBudget { units: Arc::new(Semaphore::new(all as usize)), all, waiters: Arc::default() }
    }

    pub fn bytes(&self) -> usize {
        self.all as usize * UNIT_BYTES
    }

    /// Reserved at this moment.
    pub fn used_bytes(&self) -> usize {
        (self.all as usize - self.units.available_permits().min(self.all as usize)) * UNIT_BYTES
    }

    /// More than all there is waits until nobody else has any, and gets all.
    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.all)
    }

    /// At once, if there is room and nobody waits.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reserved> {
        let permit = self.units.clone().try_acquire_many_owned(self.units_of(bytes)).ok()?;
        Some(Reserved(permit))
    }

    /// In turn, once there is room. Who gives up waiting drops the future.
    pub fn reserve(&self, bytes: usize) -> impl Future<Output = Reserved> + Send + 'static {
        let reserving = self.units.clone().acquire_many_owned(self.units_of(bytes));
        let waiter = Waiter::new(&self.waiters);
        async move {
            let _waiter = waiter;
            Reserved(reserving.await.expect("the semaphore is never closed"))
        }
    }

    /// Whether somebody waits: who holds something needlessly should let go of it.
    pub fn is_short(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) > 0
    }
}

/// Part of a [`ByteBudget`]; goes back when it is dropped.
#[derive(Debug)]
pub struct Reserved(OwnedSemaphorePermit);

impl Reserved {
    pub fn bytes(&self) -> usize {
        self.0.num_permits() * UNIT_BYTES
    }

    /// Gives back what is not needed for `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let needless = self.0.num_permits().saturating_sub(bytes.div_ceil(UNIT_BYTES));
        if needless > 0 {
            drop(self.0.split(needless));
        }
    }

    /// Adds another part of the same budget.
    pub fn merge(&mut self, other: Reserved) {
        self.0.merge(other.0);
    }

    /// Takes `bytes` out, if there are so many.
    pub fn split(&mut self, bytes: usize) -> Option<Reserved> {
        self.0.split(bytes.div_ceil(UNIT_BYTES)).map(Reserved)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1 << 10;

    #[test]
    fn what_is_reserved_is_missing_until_it_is_dropped() {
        let budget = ByteBudget::new(10 * KIB);
        let mut first = budget.try_reserve(6 * KIB).expect("there is room");
        assert!(budget.try_reserve(5 * KIB).is_none());
        first.shrink_to(5 * KIB);
        let second = budget.try_reserve(5 * KIB).expect("there is room again");
        assert_eq!(budget.used_bytes(), 10 * KIB);
        drop((first, second));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn more_than_all_gets_all_once_nobody_has_any() {
        let budget = ByteBudget::new(4 * KIB);
        let small = budget.try_reserve(1).expect("there is room");
        let mut waiting = Box::pin(budget.reserve(1 << 40));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(small);
        assert_eq!(waiting.now_or_never().expect("its turn").bytes(), 4 * KIB);
    }

    #[test]
    fn a_large_reservation_is_not_passed_over_for_ever() {
        let budget = ByteBudget::new(4 * KIB);
        let small = budget.try_reserve(KIB).expect("there is room");
        let mut large = Box::pin(budget.reserve(4 * KIB));
        assert!(large.as_mut().now_or_never().is_none() && budget.is_short());
        assert!(budget.try_reserve(KIB).is_none(), "somebody waits");
        drop(small);
        assert_eq!(large.now_or_never().expect("its turn").bytes(), 4 * KIB);
        assert!(!budget.is_short());
    }

    #[test]
    fn who_gives_up_waiting_leaves_nothing_behind() {
        let budget = ByteBudget::new(4 * KIB);
        let small = budget.try_reserve(KIB).expect("there is room");
        let mut waiting = Box::pin(budget.reserve(4 * KIB));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(waiting);
        drop(small);
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.try_reserve(4 * KIB).is_some());
    }

    proptest! {
        #[test]
        fn whatever_is_done_never_is_more_out_than_there_is_and_all_comes_back(
            steps in prop::collection::vec((0usize..4, 0usize..40 * KIB), 1..200),
        ) {
            let budget = ByteBudget::new(32 * KIB);
            let mut held: Vec<Reserved> = Vec::new();
            for (step, bytes) in steps {
                match (step, held.last_mut()) {
                    (0, _) => held.extend(budget.try_reserve(bytes)),
                    (1, Some(last)) => last.shrink_to(bytes),
                    (2, Some(last)) => {
                        let part = last.split(bytes);
                        held.extend(part);
                    }
                    (_, Some(_)) => drop(held.swap_remove(bytes % held.len())),
                    (_, None) => {}
                }
                let out: usize = held.iter().map(Reserved::bytes).sum();
                prop_assert_eq!(out, budget.used_bytes());
                prop_assert!(out <= budget.bytes());
            }
            drop(held);
            prop_assert_eq!(budget.used_bytes(), 0);
        }
    }
}
