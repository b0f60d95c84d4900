//! Limits repeated lines: the first few of a kind are written, then one per pause, with a count of
//! the others.
//!
//! It sits between all call sites and the log, so no call site can forget it: a fault that lasts
//! for hours costs a line every ten seconds. Each written line says how many of its kind were held
//! back since the previous one. When the repeats stop, the newest held-back line is written after
//! the pause, so that the count is complete.
//!
//! The throttle has no clock; the caller passes the time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::record::{Kind, Record};

/// The number of lines of a kind that are written without a pause.
pub const AT_ONCE: u32 = 5;
/// After that, one is written per pause.
pub const PAUSE: Duration = Duration::from_secs(10);
/// Bounds memory: beyond this number of kinds, new ones share a budget per call site.
const MAX_KINDS: usize = 4096;

#[derive(Default)]
pub struct Throttle {
    kinds: HashMap<Kind, Budget>,
}

/// How many lines of a kind may be written: a token bucket.
struct Budget {
    /// At most [`AT_ONCE`]; grows by one per pause.
    left: u32,
    /// When `left` grew last, or was full last.
    grown: Instant,
    held_back: u64,
    /// The newest line that was held back.
    newest: Option<Record>,
}

impl Throttle {
    /// Returns the record if it may be written now.
    pub fn admit(&mut self, record: Record, now: Instant) -> Option<Record> {
        let mut kind = record.kind.clone();
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            kind.distinction.clear();
        }
        self.kinds.entry(kind).or_insert_with(|| Budget::full(now)).admit(record, now)
    }

    /// The held-back lines that may be written now. Called about once a second.
    pub fn overdue(&mut self, now: Instant) -> Vec<Record> {
        let due = self.kinds.values_mut().filter_map(|budget| budget.overdue(now)).collect();
        self.kinds.retain(|_, budget| !budget.is_unused());
        due
    }

    /// All held-back lines, for the end of the process.
    pub fn rest(&mut self) -> Vec<Record> {
        self.kinds.drain().filter_map(|(_, mut budget)| budget.release()).collect()
    }
}

impl Budget {
    fn full(now: Instant) -> Budget {
        Budget { left: AT_ONCE, grown: now, held_back: 0, newest: None }
    }

    fn is_unused(&self) -> bool {
        self.left == AT_ONCE && self.newest.is_none()
    }

    fn grow(&mut self, now: Instant) {
        let pauses = now.saturating_duration_since(self.grown).as_nanos() / PAUSE.as_nanos();
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        if pauses >= AT_ONCE - self.left {
            (self.left, self.grown) = (AT_ONCE, now);
        } else {
            self.left += pauses;
            self.grown += PAUSE * pauses;
        }
    }

    fn admit(&mut self, mut record: Record, now: Instant) -> Option<Record> {
        self.grow(now);
        if self.left == 0 {
            self.held_back += 1 + record.held_back;
            self.newest = Some(record);
            return None;
        }
        self.left -= 1;
        self.newest = None;
        record.held_back += std::mem::take(&mut self.held_back);
        Some(record)
    }

    fn overdue(&mut self, now: Instant) -> Option<Record> {
        self.grow(now);
        if self.left == 0 || self.newest.is_none() {
            return None;
        }
        self.left -= 1;
        self.release()
    }

    /// The newest held-back line, with the count of the others.
    fn release(&mut self) -> Option<Record> {
        let mut record = self.newest.take()?;
        record.held_back = std::mem::take(&mut self.held_back) - 1;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn line(message: &str, distinction: &str) -> Record {
        let mut record = Record::new(Level::WARN, "here", message.to_string());
        record.kind.distinction = distinction.to_string();
        record
    }

    /// A throttle with a clock in milliseconds.
    struct Scene {
        throttle: Throttle,
        start: Instant,
    }

    impl Scene {
        fn new() -> Scene {
            Scene { throttle: Throttle::default(), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// How many were held back before the line, if it is written.
        fn log(&mut self, ms: u64, distinction: &str) -> Option<u64> {
            let now = self.at(ms);
            self.throttle.admit(line(&format!("at {ms}"), distinction), now).map(|record| record.held_back)
        }

        /// One line per millisecond, written or held back.
        fn storm(&mut self, times: std::ops::Range<u64>, distinction: &str) {
            for ms in times {
                self.log(ms, distinction);
            }
        }

        fn overdue(&mut self, ms: u64) -> Vec<(String, u64)> {
            let now = self.at(ms);
            told(self.throttle.overdue(now))
        }
    }

    fn told(records: Vec<Record>) -> Vec<(String, u64)> {
        records.into_iter().map(|record| (record.message, record.held_back)).collect()
    }

    #[test]
    fn after_the_first_lines_one_passes_per_pause_with_a_count_of_the_others() {
        let mut scene = Scene::new();
        let first: Vec<_> = (0..7).map(|ms| scene.log(ms, "")).collect();
        assert_eq!(first, [Some(0), Some(0), Some(0), Some(0), Some(0), None, None]);
        assert_eq!([scene.log(9_999, ""), scene.log(10_000, ""), scene.log(10_001, "")], [None, Some(3), None]);
        assert_eq!(scene.log(20_000, ""), Some(1));
    }

    #[test]
    fn ten_lines_a_second_for_an_hour_are_six_lines_a_minute() {
        let mut scene = Scene::new();
        let (mut written, mut counted) = (0, 0);
        for ms in (0..3_600_000).step_by(100) {
            let mut told: Vec<u64> = scene.log(ms, "").into_iter().collect();
            if ms % 1000 == 0 {
                told.extend(scene.overdue(ms).into_iter().map(|(_, held_back)| held_back));
            }
            written += told.len() as u64;
            counted += told.iter().map(|held_back| held_back + 1).sum::<u64>();
        }
        counted += told(scene.throttle.rest()).iter().map(|(_, held_back)| held_back + 1).sum::<u64>();
        assert_eq!(counted, 36_000, "each line is written or counted");
        assert!(written <= 360 + u64::from(AT_ONCE), "{written}");
    }

    #[test]
    fn when_repeats_stop_the_newest_is_written_after_the_pause() {
        let mut scene = Scene::new();
        scene.storm(0..20, "");
        assert_eq!(scene.overdue(9_000), []);
        assert_eq!(scene.overdue(10_000), [("at 19".to_string(), 14)]);
        assert_eq!(scene.overdue(30_000), []);
    }

    #[test]
    fn one_replica_does_not_hide_another() {
        let mut scene = Scene::new();
        scene.storm(0..100, "replica=1 ");
        assert_eq!(scene.log(100, "replica=2 "), Some(0));
    }

    #[test]
    fn lines_that_a_call_site_held_back_itself_are_counted_too() {
        let mut scene = Scene::new();
        scene.storm(0..5, "");
        let mut record = line("mine", "");
        record.held_back = 10;
        let now = scene.at(6);
        assert!(scene.throttle.admit(record, now).is_none());
        assert_eq!(scene.log(10_000, ""), Some(11));
    }

    #[test]
    fn the_remaining_counts_are_logged_at_the_end() {
        let mut scene = Scene::new();
        scene.storm(0..8, "");
        assert_eq!(told(scene.throttle.rest()), [("at 7".to_string(), 2)]);
        assert_eq!(told(scene.throttle.rest()), []);
    }

    #[test]
    fn kinds_are_forgotten_and_never_too_many() {
        let mut scene = Scene::new();
        for peer in 0..MAX_KINDS + 100 {
            scene.storm(0..1, &format!("peer={peer} "));
        }
        assert_eq!(scene.throttle.kinds.len(), MAX_KINDS + 1);
        assert_eq!(scene.log(1, "peer=5000 "), None, "those beyond share one budget");
        scene.overdue(60_000);
        scene.overdue(120_000);
        assert_eq!(scene.throttle.kinds.len(), 0);
    }
}
