//! The readable window: which versions can still be read, and be the read version of a commit.
//!
//! A *time sample* says which version was the newest at some replicated time. The *oldest readable
//! version* is the version of the newest sample that is at least a window old. A read version that
//! was taken within the window is that version or a later one. So no version becomes unreadable
//! less than a window after somebody may have got it as the newest; it may stay readable for a 64th
//! of the window longer.
//!
//! Time is the log's. All of this state follows from the log and is stored with the data, so that
//! replicas agree on it.
//!
//! Invariants: times and versions of samples ascend; the oldest readable version never goes back
//! and is never above the newest version.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// At most this many samples are taken per window.
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
    /// From the stored time, oldest readable version and [`Self::encoded_samples`]; `None` if these
    /// are damaged.
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

    /// The samples in the encoding that [`Self::new`] reads.
    pub fn encoded_samples(&self) -> Vec<u8> {
        self.samples.iter().flat_map(|sample| [sample.time_us, sample.version]).flat_map(u64::to_be_bytes).collect()
    }

    /// The oldest readable version; 0 or 1 while every version is readable.
    pub fn oldest_readable(&self) -> u64 {
        self.oldest_readable
    }

    /// The latest replicated time, in microseconds.
    pub fn time_us(&self) -> u64 {
        self.time_us
    }

    /// Makes every version before `version`, which is the newest, unreadable at once.
    pub fn close_before(&mut self, version: u64) {
        assert!(self.oldest_readable <= version, "version {version} has left the window before");
        self.samples.clear();
        self.oldest_readable = version;
    }

    /// Advances time to that of a write that is about to be decided; `version` is the newest so
    /// far. Returns whether the samples have changed.
    pub fn advance(&mut self, time_us: u64, window_us: u64, version: u64) -> bool {
        // While nobody wrote, the version stayed the newest. However long that was, take a sample
        // an interval after the last write, so that the version ages from then on.
        let still_newest_us = self.time_us.saturating_add(interval_us(window_us));
        let mut is_sampled = still_newest_us < time_us && self.take_sample(still_newest_us, window_us, version);
        self.time_us = self.time_us.max(time_us);
        is_sampled |= self.take_sample(self.time_us, window_us, version);
        let Some(cutoff) = self.time_us.checked_sub(window_us) else {
            return is_sampled;
        };
        let mut changed = is_sampled;
        while self.samples.get(1).is_some_and(|next| next.time_us <= cutoff) {
            self.samples.pop_front();
            changed = true;
        }
        if let Some(oldest) = self.samples.front().filter(|sample| sample.time_us <= cutoff) {
            self.oldest_readable = self.oldest_readable.max(oldest.version);
        }
        assert!(
            self.oldest_readable <= version,
            "the oldest readable version {} is above the newest version {version}",
            self.oldest_readable
        );
        changed
    }

    /// Takes a sample, if one is due: at `time_us`, which is not in the future, `version` is the
    /// newest.
    fn take_sample(&mut self, time_us: u64, window_us: u64, version: u64) -> bool {
        let interval_us = interval_us(window_us);
        let is_due = |last: &TimeSample| time_us >= last.time_us.saturating_add(interval_us) && version > last.version;
        let is_due = self.samples.back().is_none_or(is_due);
        if is_due {
            self.samples.push_back(TimeSample { time_us, version });
        }
        is_due
    }
}

/// The shortest time between two samples.
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
        fn versions_that_were_newest_within_the_window_stay_readable_and_older_ones_do_not(
            steps in vec((0u64..3_000, 0u64..3), 1..400),
            window_us in prop_oneof![Just(1u64), Just(100), Just(6_400), Just(100_000)],
        ) {
            let mut window = Window::default();
            let (mut time_us, mut version) = (5, 1);
            // Since when which version was the newest.
            let mut history = vec![(0, version)];
            for (pause_us, commits) in steps {
                time_us += pause_us;
                let before = window.samples.clone();
                let is_changed = window.advance(time_us, window_us, version);
                prop_assert_eq!(is_changed, window.samples != before, "unreported changes are not stored");
                version += commits;
                history.push((time_us, version));
                let newest_at = |time_us: u64| {
                    history.iter().rev().find(|(since, _)| *since <= time_us).expect("from the start").1
                };
                if let Some(cutoff) = time_us.checked_sub(window_us) {
                    prop_assert!(window.oldest_readable() <= newest_at(cutoff), "too early");
                    // The first write at least an interval after a version samples it.
                    let interval_us = interval_us(window_us);
                    for (since, version) in &history {
                        let sampled_by = history.iter().find(|(at, _)| *at >= since + interval_us);
                        let is_due = sampled_by.is_some_and(|(at, _)| *at <= cutoff && *at > 0);
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
    fn the_oldest_readable_version_follows_a_window_behind() {
        let (window_us, step_us) = (64_000, 1_000);
        let mut window = Window::default();
        for step in 1..=1_000u64 {
            // One commit per interval.
            window.advance(step * step_us, window_us, step);
        }
        assert_eq!(window.oldest_readable(), 1_000 - 64);
    }

    #[test]
    fn a_version_becomes_the_oldest_readable_when_its_sample_is_exactly_a_window_old() {
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
    fn a_sample_is_taken_exactly_an_interval_after_the_last_if_there_is_a_newer_version() {
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
    fn a_shorter_or_longer_window_takes_effect_at_once() {
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
    fn a_read_version_from_before_a_long_silence_is_too_old_after_it() {
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
    fn a_closed_window_begins_with_the_newest_version_and_goes_on() {
        let mut window = Window::default();
        (1..=100).for_each(|second| {
            window.advance(second * 1_000_000, 60_000_000, second);
        });
        window.close_before(5_000);
        assert_eq!((window.oldest_readable(), window.time_us()), (5_000, 100_000_000));
        assert_eq!(Window::new(window.time_us(), 5_000, &window.encoded_samples()), Some(window.clone()));
        window.advance(101_000_000, 60_000_000, 5_000);
        window.advance(120_000_000, 60_000_000, 5_001);
        assert_eq!(window.oldest_readable(), 5_000);
        window.advance(180_000_000, 60_000_000, 5_002);
        assert_eq!(window.oldest_readable(), 5_001);
    }

    #[test]
    fn damaged_samples_are_refused() {
        assert_eq!(Window::new(0, 0, &[1, 2, 3]), None);
    }
}
