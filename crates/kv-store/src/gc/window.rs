//! The readable window: which versions can still be read and committed against.
//!
//! A *sample* says which version was the newest at some replicated time. The *oldest_readable* is the version of the newest sample that
//! is at least a window old: whoever took a read version within the window has that version or a later one. So the
//! oldest_readable never passes a version that somebody may have got less than a window ago; it may lag by a 64th of the window.
//!
//! Time is the log's. Everything here follows from the log and is stored with the data, so that replicas agree on it.
//!
//! Invariants: times and versions of samples ascend; the oldest_readable never goes back and is never above the newest version.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Marks are this part of a window apart.
const SAMPLES_PER_WINDOW: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimeSample {
    time_us: u64,
    version: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    samples: VecDeque<TimeSample>,
    time_us: u64,
    oldest_readable: u64,
}

impl Window {
    pub fn new(time_us: u64, oldest_readable: u64, samples: &[u8]) -> Option<Window> {
        let mut samples = Bytes::copy_from_slice(samples);
        if !samples.len().is_multiple_of(16) {
            return None;
        }
        let mut window = Window { samples: VecDeque::new(), time_us, oldest_readable };
        while samples.has_remaining() {
            window.samples.push_back(TimeSample { time_us: samples.get_u64(), version: samples.get_u64() });
        }
        Some(window)
    }

    /// What [`Self::new`] reads.
    pub fn encoded_samples(&self) -> Vec<u8> {
        self.samples.iter().flat_map(|sample| [sample.time_us, sample.version]).flat_map(u64::to_be_bytes).collect()
    }

    /// The oldest version that can be read; 0 or 1 while that is every one.
    pub fn oldest_readable(&self) -> u64 {
        self.oldest_readable
    }

    /// The latest time known, in microseconds.
    pub fn time_us(&self) -> u64 {
        self.time_us
    }

    /// A write of time `time_us` is about to be decided; `version` is the newest so far. True when the samples have changed.
    pub fn advance(&mut self, time_us: u64, window_us: u64, version: u64) -> bool {
        // While nobody wrote, the version stayed the newest: however long that was, it is as old as that now.
        let still_newest_us = self.time_us.saturating_add(interval_us(window_us));
        let mut marked = still_newest_us < time_us && self.sample(still_newest_us, window_us, version);
        self.time_us = self.time_us.max(time_us);
        marked |= self.sample(self.time_us, window_us, version);
        let Some(cutoff) = self.time_us.checked_sub(window_us) else {
            return marked;
        };
        let mut changed = marked;
        while self.samples.get(1).is_some_and(|next| next.time_us <= cutoff) {
            self.samples.pop_front();
            changed = true;
        }
        if let Some(oldest) = self.samples.front().filter(|sample| sample.time_us <= cutoff) {
            self.oldest_readable = self.oldest_readable.max(oldest.version);
        }
        assert!(
            self.oldest_readable <= version,
            "the oldest_readable {} is above the newest version {version}",
            self.oldest_readable
        );
        changed
    }

    /// At `time_us`, which has come, `version` is the newest.
    fn sample(&mut self, time_us: u64, window_us: u64, version: u64) -> bool {
        let interval_us = interval_us(window_us);
        let is_due = |last: &TimeSample| time_us >= last.time_us.saturating_add(interval_us) && version > last.version;
        let is_due = self.samples.back().is_none_or(is_due);
        if is_due {
            self.samples.push_back(TimeSample { time_us, version });
        }
        is_due
    }
}

/// How far samples are apart, at least.
fn interval_us(window_us: u64) -> u64 {
    (window_us / SAMPLES_PER_WINDOW).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_newest_within_the_window_stays_readable_and_older_ones_go(
            steps in vec((0u64..3_000, 0u64..3), 1..400),
            window_us in prop_oneof![Just(1u64), Just(100), Just(6_400), Just(100_000)],
        ) {
            let mut window = Window::default();
            let (mut time_us, mut version) = (5, 1);
            // What was the newest version since when.
            let mut history = vec![(0, version)];
            for (pause_us, commits) in steps {
                time_us += pause_us;
                let before = window.samples.clone();
                let is_changed = window.advance(time_us, window_us, version);
                prop_assert_eq!(is_changed, window.samples != before, "what is not said to have changed is not stored");
                version += commits;
                history.push((time_us, version));
                let newest_at = |time_us: u64| {
                    history.iter().rev().find(|(since, _)| *since <= time_us).expect("from the start").1
                };
                if let Some(cutoff) = time_us.checked_sub(window_us) {
                    prop_assert!(window.oldest_readable() <= newest_at(cutoff), "too early");
                    // A version is marked by the first write that comes an interval after it.
                    let interval_us = interval_us(window_us);
                    for (since, version) in &history {
                        let marked = history.iter().find(|(at, _)| *at >= since + interval_us);
                        let is_due = marked.is_some_and(|(at, _)| *at <= cutoff && *at > 0);
                        prop_assert!(!is_due || window.oldest_readable() >= *version, "too late");
                    }
                }
                prop_assert!(window.samples.len() as u64 <= 2 * SAMPLES_PER_WINDOW + 2);
                let is_apart = |older: &TimeSample, newer: &TimeSample| {
                    newer.time_us - older.time_us >= interval_us(window_us) && newer.version > older.version
                };
                prop_assert!(window.samples.iter().zip(window.samples.iter().skip(1)).all(|(a, b)| is_apart(a, b)));
                let again = Window::new(window.time_us(), window.oldest_readable(), &window.encoded_samples());
                prop_assert_eq!(again.as_ref(), Some(&window));
            }
        }
    }

    #[test]
    fn the_horizon_follows_a_window_behind() {
        let (window_us, step_us) = (64_000, 1_000);
        let mut window = Window::default();
        for step in 1..=1_000u64 {
            // One commit per interval.
            window.advance(step * step_us, window_us, step);
        }
        assert_eq!(window.oldest_readable(), 1_000 - 64);
    }

    #[test]
    fn a_version_is_left_behind_when_its_mark_is_exactly_a_window_old() {
        let window_us = 64_000;
        let mut window = Window::default();
        window.advance(1_000, window_us, 2);
        window.advance(2_000, window_us, 3);
        for (time_us, oldest_readable) in [(64_999, 0), (65_000, 2), (65_999, 2), (66_000, 3)] {
            window.advance(time_us, window_us, 4);
            assert_eq!(window.oldest_readable(), oldest_readable, "at {time_us}");
        }
    }

    #[test]
    fn a_mark_comes_exactly_an_interval_after_the_one_before_if_there_is_a_newer_version() {
        let mut window = Window::default();
        window.advance(1_000, 64_000, 2);
        for (time_us, version, samples) in [(1_999, 3, 1), (2_000, 2, 1), (2_000, 3, 2), (2_000, 4, 2), (3_000, 4, 3)] {
            window.advance(time_us, 64_000, version);
            assert_eq!(window.samples.len(), samples, "at {time_us} with version {version}");
        }
    }

    #[test]
    fn time_that_goes_back_changes_nothing() {
        let mut window = Window::default();
        window.advance(1_000_000, 64_000, 2);
        let before = window.clone();
        assert!(!window.advance(999_999, 64_000, 2));
        assert_eq!(window, before);
    }

    #[test]
    fn a_shorter_window_and_a_longer_one_take_over_at_once() {
        let mut window = Window::default();
        (1..=100).for_each(|second| {
            window.advance(second * 1_000_000, 60_000_000, second);
        });
        let before = window.oldest_readable();
        assert_eq!(before, 40);
        window.advance(100_000_000, 1_000_000, 100);
        assert_eq!(window.oldest_readable(), 99);
        window.advance(101_000_000, 60_000_000, 101);
        assert_eq!(window.oldest_readable(), 99, "it never goes back");
    }

    #[test]
    fn what_was_read_before_a_long_silence_is_too_old_after_it() {
        let mut window = Window::default();
        // Within one interval, so that no sample comes between them.
        (1..=5).for_each(|version| {
            window.advance(1_000_000 + version, 60_000_000, version);
        });
        assert_eq!(window.oldest_readable(), 0);
        window.advance(700_000_000, 60_000_000, 6);
        assert_eq!(window.oldest_readable(), 6);
    }

    #[test]
    fn damaged_marks_are_refused() {
        assert_eq!(Window::new(0, 0, &[1, 2, 3]), None);
    }
}
