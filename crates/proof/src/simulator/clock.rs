//! The clock that one process sees: it starts anywhere, runs a little fast or slow, and may jump
//! ahead.
//!
//! It stands for a monotonic clock, so it never goes back. A jump ahead is what a process sees
//! whose machine slept with the clock running; jumps of the wall clock cannot hurt, since nothing
//! of it enters the replicated state.

use std::cell::Cell;
use std::time::Duration;

use rsml::Instant;

use super::random::Random;

thread_local! {
    static BEGINNING: std::time::Instant = std::time::Instant::now();
    static ELAPSED_US: Cell<u64> = const { Cell::new(0) };
}

/// Simulated time of the run on this thread, for code that takes time from the standard library.
pub fn standard_time() -> std::time::Instant {
    BEGINNING.with(|beginning| *beginning + Duration::from_micros(ELAPSED_US.get()))
}

/// The run on this thread has come to `now_us`.
pub fn set_standard_time(now_us: u64) {
    ELAPSED_US.set(now_us);
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The true time at which it showed `shown`.
    since: u64,
    shown: u64,
    /// Parts per million that it runs too fast.
    drift_ppm: i64,
}

impl Clock {
    /// Off by at most `most_ppm`; by exactly that in half of the cases.
    pub fn any(now: u64, most_ppm: u64, random: &mut Random) -> Clock {
        let most = most_ppm as i64;
        let drift_ppm = match random.below(4) {
            0 => -most,
            1 => most,
            _ => random.below(2 * most_ppm + 1) as i64 - most,
        };
        Clock::new(now, random.below(1 << 40), drift_ppm)
    }

    fn new(now: u64, shown: u64, drift_ppm: i64) -> Clock {
        Clock { since: now, shown, drift_ppm }
    }

    pub fn read(&self, now: u64) -> Instant {
        let elapsed = now - self.since;
        let drift = elapsed as i64 * self.drift_ppm / 1_000_000;
        Instant(self.shown + elapsed.saturating_add_signed(drift))
    }

    pub fn jump(&mut self, now: u64, ahead_us: u64) {
        *self = Clock { since: now, shown: self.read(now).0 + ahead_us, drift_ppm: self.drift_ppm };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_shows_more_time_and_keeps_what_it_jumped() {
        let mut clock = Clock::new(1_000, 50, 100_000);
        assert_eq!(clock.read(1_000), Instant(50));
        assert_eq!(clock.read(2_000), Instant(50 + 1_100));
        clock.jump(2_000, 7);
        assert_eq!(clock.read(2_000), Instant(1_157));
        assert_eq!(clock.read(3_000), Instant(2_257));
    }
}
