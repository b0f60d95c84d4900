//! Complaints that would fill the log: a misconfigured peer tries several times a second, for hours; so does one that asks
//! for what cannot be had.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets a few through, then one per pause, and knows how many it held back.
#[derive(Debug)]
pub(crate) struct Seldom {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many may pass now.
    left: u32,
    refilled: Instant,
    held_back: u64,
}

impl Seldom {
    const AT_ONCE: u32 = 3;
    const PAUSE: Duration = Duration::from_secs(10);

    pub fn new() -> Self {
        Seldom { state: Mutex::new(State { left: Self::AT_ONCE, refilled: Instant::now(), held_back: 0 }) }
    }

    /// Whether to speak now; if so, how many times it was forbidden since it was allowed last.
    pub fn may_speak(&self) -> Option<u64> {
        self.may_speak_at(Instant::now())
    }

    fn may_speak_at(&self, now: Instant) -> Option<u64> {
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
    fn after_a_few_at_once_one_passes_per_pause_and_says_how_many_did_not() {
        let seldom = Seldom::new();
        let start = Instant::now();
        let at = |seconds| seldom.may_speak_at(start + Duration::from_secs(seconds));
        assert_eq!([at(0), at(0), at(0), at(0), at(1)], [Some(0), Some(0), Some(0), None, None]);
        assert_eq!([at(11), at(12)], [Some(2), None]);
        assert_eq!([at(1000), at(1000), at(1000), at(1000)], [Some(1), Some(0), Some(0), None]);
    }
}
