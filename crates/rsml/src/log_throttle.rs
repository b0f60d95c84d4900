//! Limits repeated log lines, which would otherwise fill the log: a misconfigured peer, for
//! instance, reconnects several times a second for hours.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant as StdInstant};

/// Allows a few lines at once and then one per pause, and counts the suppressed ones.
#[derive(Debug)]
pub(crate) struct LogThrottle {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many lines are allowed now.
    left: u32,
    refilled: StdInstant,
    held_back: u64,
}

impl LogThrottle {
    const AT_ONCE: u32 = 3;
    const PAUSE: Duration = Duration::from_secs(10);

    pub fn new() -> Self {
        LogThrottle { state: Mutex::new(State { left: Self::AT_ONCE, refilled: StdInstant::now(), held_back: 0 }) }
    }

    /// Whether to log now. If so, returns how many lines were suppressed since the last one that
    /// was allowed.
    pub fn allow(&self) -> Option<u64> {
        self.allow_at(StdInstant::now())
    }

    fn allow_at(&self, now: StdInstant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pauses = now.saturating_duration_since(state.refilled).as_secs() / Self::PAUSE.as_secs();
        if pauses > 0 {
            state.left = Self::AT_ONCE.min(state.left.saturating_add(u32::try_from(pauses).unwrap_or(u32::MAX)));
            state.refilled = now;
        }
        if state.left == 0 {
            state.held_back += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_few_lines_at_once_one_per_pause_is_allowed_with_the_count_of_suppressed_ones() {
        let throttle = LogThrottle::new();
        let start = StdInstant::now();
        let at = |seconds| throttle.allow_at(start + Duration::from_secs(seconds));
        assert_eq!([at(0), at(0), at(0), at(0), at(1)], [Some(0), Some(0), Some(0), None, None]);
        assert_eq!([at(11), at(12)], [Some(2), None]);
        assert_eq!([at(1000), at(1000), at(1000), at(1000)], [Some(1), Some(0), Some(0), None]);
    }
}
