//! Pauses between attempts. They double up to a maximum, with jitter so that many clients do not
//! retry in step.

use std::time::Duration;

use tokio::time::Instant;

use crate::Options;

/// Stands for "never" where adding a duration to the present would overflow.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The point in time at which `timeout` will have passed.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + FAR_FUTURE)
}

#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    /// The next pause, before jitter.
    next: Duration,
}

impl Backoff {
    pub fn new(options: &Options) -> Self {
        Backoff { min: options.backoff_min, max: options.backoff_max, next: options.backoff_min }
    }

    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// The pause to make now: between half and all of the nominal one.
    pub fn pause(&mut self) -> Duration {
        let nominal = self.next.min(self.max);
        self.next = (self.next * 2).min(self.max);
        nominal.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_and_start_again_after_a_reset() {
        let options = Options {
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(40),
            ..Options::default()
        };
        let mut backoff = Backoff::new(&options);
        for nominal_ms in [10, 20, 40, 40] {
            let pause = backoff.pause();
            assert!(pause >= Duration::from_millis(nominal_ms / 2), "{pause:?} for {nominal_ms} ms");
            assert!(pause <= Duration::from_millis(nominal_ms), "{pause:?} for {nominal_ms} ms");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(10));
    }
}
