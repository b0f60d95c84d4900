//! Exponential backoff with jitter.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// Waits that double from `least` to `most`. Each is shortened by up to half at random, so that
/// replicas that lost each other at the same moment don't retry in step.
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
    random: RandomState,
    attempts: u64,
}

impl Backoff {
    pub fn new(least: Duration, most: Duration) -> Self {
        Backoff { least, most, next: least, random: RandomState::new(), attempts: 0 }
    }

    pub fn reset(&mut self) {
        self.next = self.least;
    }

    pub fn next_wait(&mut self) -> Duration {
        let whole = self.next.min(self.most);
        self.next = (whole * 2).min(self.most);
        self.attempts += 1;
        let fraction = (self.random.hash_one(self.attempts) % 1024) as u32;
        whole / 2 + whole / 2 * fraction / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_start_over_after_a_reset() {
        let (least, most) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut backoff = Backoff::new(least, most);
        for whole_ms in [10, 20, 40, 80, 100, 100] {
            let wait = backoff.next_wait();
            let whole = Duration::from_millis(whole_ms);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} for {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= least);
    }
}
