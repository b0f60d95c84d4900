//! A budget of bytes that are reserved before use. A reservation that does not fit waits its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of the semaphore, chosen so that the largest reservations can be counted.
const UNIT_BYTES: usize = 1 << 10;

/// A number of bytes that many users share. Waiters are served in turn, so that a stream of small
/// reservations cannot keep a large one waiting. A waiter must hold nothing of the same budget, or
/// all may wait for each other.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    units: Arc<Semaphore>,
    all: u32,
    waiters: Arc<AtomicUsize>,
}

/// Counts one waiter until it is dropped.
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
    /// A budget of this many bytes.
    pub fn new(bytes: usize) -> Self {
        let all = u32::try_from(bytes.div_ceil(UNIT_BYTES).max(1)).unwrap_or(u32::MAX);
        // On 64-bit systems the semaphore's own bound is larger; on 32-bit ones it is the smaller.
        let all = all.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        ByteBudget { units: Arc::new(Semaphore::new(all as usize)), all, waiters: Arc::default() }
    }

    pub fn bytes(&self) -> usize {
        self.all as usize * UNIT_BYTES
    }

    /// Bytes that are reserved now.
    pub fn used_bytes(&self) -> usize {
        (self.all as usize - self.units.available_permits().min(self.all as usize)) * UNIT_BYTES
    }

    /// A reservation larger than the budget waits until all of it is free, and takes all.
    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.all)
    }

    /// Reserves at once, if there is room and nobody waits.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reserved> {
        let permit = self.units.clone().try_acquire_many_owned(self.units_of(bytes)).ok()?;
        Some(Reserved(permit))
    }

    /// Reserves in turn, once there is room. Dropping the future gives up the turn.
    pub fn reserve(&self, bytes: usize) -> impl Future<Output = Reserved> + Send + 'static {
        let reserving = self.units.clone().acquire_many_owned(self.units_of(bytes));
        let waiter = Waiter::new(&self.waiters);
        async move {
            let _waiter = waiter;
            Reserved(reserving.await.expect("the semaphore is never closed"))
        }
    }

    /// Whether anybody waits. A holder that can do without its reservation should then release it.
    pub fn is_short(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) > 0
    }
}

/// A part of a [`ByteBudget`], returned when dropped.
#[derive(Debug)]
pub struct Reserved(OwnedSemaphorePermit);

impl Reserved {
    pub fn bytes(&self) -> usize {
        self.0.num_permits() * UNIT_BYTES
    }

    /// Returns what exceeds `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let needless = self.0.num_permits().saturating_sub(bytes.div_ceil(UNIT_BYTES));
        if needless > 0 {
            drop(self.0.split(needless));
        }
    }

    /// Merges another part of the same budget into this one.
    pub fn merge(&mut self, other: Reserved) {
        self.0.merge(other.0);
    }

    /// Splits off `bytes`, if there are that many.
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
    fn a_reservation_is_taken_from_the_budget_until_it_is_dropped() {
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
    fn a_reservation_above_the_budget_gets_all_once_it_is_free() {
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
    fn an_abandoned_wait_leaves_nothing_behind() {
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
        fn reservations_never_exceed_the_budget_and_all_are_returned(
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
