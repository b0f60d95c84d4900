//! Readers of old versions: running range reads, pinned versions, and versions that are held for
//! page-by-page reads. They hold back garbage collection and affect nothing else: no verdict
//! depends on them.
//!
//! The GC watermark is the oldest version that must stay readable. A reader first registers, and
//! then checks that its version is still at or above the oldest readable one. So either the
//! watermark takes the reader into account, or it was computed from an oldest readable version at
//! or below the reader's.
//!
//! Invariant: a version that is pinned or held is readable. Therefore a pin checks before it
//! registers, under the lock that also guards the watermark: if a pin that came too late were
//! registered even briefly, other readers could rely on it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kv_api::{KvError, Version};

use crate::clock::Clock;
use crate::sync::{Mutex, MutexGuard};

/// Maximum number of pins of one database at a time.
pub const MAX_PINS: usize = 1_000;

/// Maximum number of versions that are held for page-by-page reads at a time.
const MAX_HELD: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Readers {
    state: Mutex<State>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct State {
    /// The number of running range reads at each version.
    active: BTreeMap<u64, usize>,
    /// The end of each pin, by version.
    pins: BTreeMap<u64, Vec<Instant>>,
    /// The end of each hold, by version.
    held: BTreeMap<u64, Instant>,
}

/// A running range read. Dropping it ends it.
pub(crate) struct ActiveRead {
    readers: Arc<Readers>,
    version: u64,
}

impl Readers {
    pub fn new(clock: Clock) -> Readers {
        Readers { state: Mutex::default(), clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a range read at `version`. The caller checks afterwards that the version is
    /// readable.
    pub fn begin(self: &Arc<Self>, version: u64) -> ActiveRead {
        *self.state().active.entry(version).or_default() += 1;
        ActiveRead { readers: self.clone(), version }
    }

    /// The oldest version that must stay readable. Calls `oldest_readable` under the lock, so that
    /// no reader registers meanwhile.
    pub fn gc_watermark(&self, oldest_readable: impl FnOnce() -> u64) -> u64 {
        let mut state = self.state();
        state.drop_ended(self.clock.now());
        let active = state.active.first_key_value().map(|(version, _)| *version);
        let pinned = state.pins.first_key_value().map(|(version, _)| *version);
        let held = state.held.first_key_value().map(|(version, _)| *version);
        [active, pinned, held].into_iter().flatten().fold(oldest_readable(), u64::min)
    }

    /// Pins `version` for `lifetime`. Unless the version is pinned or held already, calls `check`
    /// under the lock to learn whether the version can still be read.
    ///
    /// # Errors
    /// [`KvError::Overloaded`] beyond [`MAX_PINS`], and that of `check`.
    pub fn pin(
        &self,
        version: Version,
        lifetime: Duration,
        check: impl FnOnce() -> Result<(), KvError>,
    ) -> Result<(), KvError> {
        let (mut state, now) = (self.state(), self.clock.now());
        state.drop_ended(now);
        let pins = state.count_pins();
        if pins >= MAX_PINS {
            return Err(KvError::Overloaded(format!("{pins} snapshots are pinned; at most {MAX_PINS} may be")));
        }
        if !state.keeps(version.0) {
            check()?;
        }
        state.pins.entry(version.0).or_default().push(now + lifetime);
        Ok(())
    }

    /// The number of pins of all versions.
    pub fn pins(&self) -> usize {
        let mut state = self.state();
        state.drop_ended(self.clock.now());
        state.count_pins()
    }

    /// Removes the pin of `version` that would end first, if there is one. A pin whose lifetime is
    /// over does not count.
    pub fn unpin(&self, version: Version) {
        let (mut state, now) = (self.state(), self.clock.now());
        state.drop_ended(now);
        if let Some(ends) = state.pins.get_mut(&version.0) {
            let first = (0..ends.len()).min_by_key(|index| ends[*index]);
            first.map(|index| ends.swap_remove(index));
            if ends.is_empty() {
                state.pins.remove(&version.0);
            }
        }
    }

    /// Holds `version` for `lifetime` from now on, replacing an earlier hold. `check` as for
    /// [`Self::pin`].
    ///
    /// # Errors
    /// [`KvError::Overloaded`] beyond [`MAX_HELD`], and that of `check`.
    pub fn hold(
        &self,
        version: Version,
        lifetime: Duration,
        check: impl FnOnce() -> Result<(), KvError>,
    ) -> Result<(), KvError> {
        let (mut state, now) = (self.state(), self.clock.now());
        state.drop_ended(now);
        if state.held.len() >= MAX_HELD && !state.held.contains_key(&version.0) {
            return Err(KvError::Overloaded(format!("{MAX_HELD} versions are read page by page already")));
        }
        if !state.keeps(version.0) {
            check()?;
        }
        state.held.insert(version.0, now + lifetime);
        Ok(())
    }

    /// Whether the version is pinned or held.
    pub fn keeps(&self, version: u64) -> bool {
        let (mut state, now) = (self.state(), self.clock.now());
        state.drop_ended(now);
        state.keeps(version)
    }
}

impl State {
    fn keeps(&self, version: u64) -> bool {
        self.pins.contains_key(&version) || self.held.contains_key(&version)
    }

    fn count_pins(&self) -> usize {
        self.pins.values().map(Vec::len).sum()
    }

    fn drop_ended(&mut self, now: Instant) {
        self.pins.retain(|_, ends| {
            ends.retain(|end| *end > now);
            !ends.is_empty()
        });
        self.held.retain(|_, end| *end > now);
    }
}

impl Drop for ActiveRead {
    fn drop(&mut self) {
        let mut state = self.readers.state();
        let left = state.active.get_mut(&self.version).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            state.active.remove(&self.version);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::sync::AtomicU64;
    use crate::sync::schedules::{Scene, every_schedule};

    const HOUR: Duration = Duration::from_secs(3600);

    fn too_old() -> Result<(), KvError> {
        Err(KvError::TransactionTooOld { read_version: 5, oldest: 6 })
    }

    #[test]
    fn the_watermark_is_the_oldest_of_the_oldest_readable_version_reads_and_pins() {
        let readers = Arc::new(Readers::default());
        assert_eq!(readers.gc_watermark(|| 10), 10);
        let (first, second) = (readers.begin(7), readers.begin(7));
        let later = readers.begin(12);
        assert_eq!(readers.gc_watermark(|| 10), 7);
        drop(first);
        assert_eq!(readers.gc_watermark(|| 10), 7);
        drop(second);
        assert_eq!(readers.gc_watermark(|| 10), 10);
        drop(later);
        let unexpected = || -> Result<(), KvError> { panic!("what is kept already is readable") };
        assert_eq!(readers.pin(Version(5), HOUR, || Ok(())), Ok(()));
        assert_eq!(readers.pin(Version(5), HOUR, unexpected), Ok(()));
        assert_eq!(readers.pins(), 2);
        assert_eq!(readers.gc_watermark(|| 10), 5);
        readers.unpin(Version(5));
        assert!(readers.keeps(5));
        readers.unpin(Version(5));
        readers.unpin(Version(5));
        assert_eq!(readers.gc_watermark(|| 10), 10);
    }

    #[test]
    fn a_pin_ends_by_itself() {
        let readers = Readers::default();
        readers.pin(Version(5), Duration::ZERO, || Ok(())).unwrap();
        assert!(!readers.keeps(5));
        assert_eq!(readers.gc_watermark(|| 10), 10);
    }

    #[test]
    fn a_pin_and_a_hold_last_until_their_end_and_not_at_it() {
        let now = Instant::now();
        let one = Duration::from_nanos(1);
        let mut state = State::default();
        state.pins.insert(5, vec![now, now + one]);
        state.pins.insert(6, vec![now]);
        state.held.insert(7, now);
        state.held.insert(8, now + one);
        state.drop_ended(now);
        assert_eq!([5, 6, 7, 8].map(|version| state.keeps(version)), [true, false, false, true]);
        assert_eq!(state.count_pins(), 1);
        state.drop_ended(now + one);
        assert_eq!([5, 8].map(|version| state.keeps(version)), [false, false]);
    }

    #[test]
    fn unpinning_removes_the_pin_that_ends_first() {
        for lifetimes in [[HOUR, 2 * HOUR], [2 * HOUR, HOUR]] {
            let readers = Readers::default();
            let begun = Instant::now();
            lifetimes.into_iter().for_each(|lifetime| readers.pin(Version(5), lifetime, || Ok(())).unwrap());
            readers.unpin(Version(5));
            let left = &readers.state().pins[&5];
            assert!(left.len() == 1 && left[0] >= begun + 2 * HOUR, "{left:?}");
        }
    }

    #[test]
    fn a_pin_that_has_ended_is_not_the_one_that_is_taken_away() {
        let readers = Readers::default();
        [HOUR, Duration::ZERO].into_iter().for_each(|lifetime| readers.pin(Version(5), lifetime, || Ok(())).unwrap());
        readers.unpin(Version(5));
        assert!(!readers.keeps(5));
    }

    #[test]
    fn pins_end_by_the_clock_that_was_given() {
        let readers = Readers::new(Clock::new(|| Instant::now() + 2 * HOUR));
        readers.state().pins.insert(5, vec![Instant::now() + HOUR]);
        assert!(!readers.keeps(5));
    }

    #[test]
    fn a_version_that_is_read_page_by_page_is_held_from_page_to_page() {
        let readers = Readers::default();
        readers.hold(Version(5), HOUR, || Ok(())).unwrap();
        readers.hold(Version(5), HOUR, too_old).unwrap();
        assert!(readers.keeps(5));
        assert_eq!(readers.gc_watermark(|| 10), 5);
        readers.hold(Version(5), Duration::ZERO, || Ok(())).unwrap();
        assert!(!readers.keeps(5));
        (0..MAX_HELD as u64).for_each(|version| readers.hold(Version(version), HOUR, || Ok(())).unwrap());
        assert_eq!(readers.hold(Version(1), HOUR, || Ok(())), Ok(()));
        assert!(matches!(readers.hold(Version(99), HOUR, || Ok(())), Err(KvError::Overloaded(_))));
    }

    #[test]
    fn a_version_that_cannot_be_read_any_more_is_not_kept() {
        let readers = Readers::default();
        assert_eq!(readers.pin(Version(5), HOUR, too_old), too_old());
        assert_eq!(readers.hold(Version(5), HOUR, too_old), too_old());
        assert!(!readers.keeps(5));
        assert_eq!((readers.pins(), readers.gc_watermark(|| 10)), (0, 10));
    }

    #[test]
    fn pins_are_refused_beyond_the_most_allowed() {
        let readers = Readers::default();
        (0..MAX_PINS as u64).for_each(|version| {
            readers.pin(Version(version), HOUR, || Ok(())).unwrap();
        });
        assert!(matches!(readers.pin(Version(1), HOUR, || Ok(())), Err(KvError::Overloaded(_))));
    }

    /// Begins to rely on version 5, if it is readable: by a read, which lasts as long as the
    /// returned value, or by a pin or hold.
    type Rely = fn(&Arc<Readers>, &AtomicU64) -> Option<Option<ActiveRead>>;

    #[test]
    fn the_watermark_never_passes_a_version_that_was_found_readable_and_is_still_read() {
        fn check(oldest_readable: &AtomicU64) -> Result<(), KvError> {
            if oldest_readable.load(Ordering::Acquire) <= 5 { Ok(()) } else { too_old() }
        }
        let read: Rely = |readers, oldest_readable| {
            let reading = readers.begin(5);
            check(oldest_readable).is_ok().then_some(Some(reading))
        };
        let pin: Rely =
            |readers, oldest_readable| readers.pin(Version(5), HOUR, || check(oldest_readable)).ok().map(|()| None);
        let hold: Rely =
            |readers, oldest_readable| readers.hold(Version(5), HOUR, || check(oldest_readable)).ok().map(|()| None);
        for rely in [read, pin, hold] {
            let outcomes = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
            every_schedule(3, || {
                let (readers, oldest_readable) = (Arc::new(Readers::default()), Arc::new(AtomicU64::new(4)));
                let (relied, watermark) = (Arc::new(std::sync::Mutex::new(None)), Arc::new(AtomicU64::new(0)));
                let first = {
                    let (readers, oldest_readable, relied) = (readers.clone(), oldest_readable.clone(), relied.clone());
                    move || *relied.lock().unwrap() = rely(&readers, &oldest_readable)
                };
                let second = {
                    let readers = readers.clone();
                    move || drop(readers.begin(5))
                };
                let writer = {
                    let oldest_readable = oldest_readable.clone();
                    move || oldest_readable.store(10, Ordering::Release)
                };
                let collector = {
                    let watermark = watermark.clone();
                    move || {
                        watermark
                            .store(readers.gc_watermark(|| oldest_readable.load(Ordering::Acquire)), Ordering::Release)
                    }
                };
                let outcomes = outcomes.clone();
                let check = move || {
                    let (relies, watermark) = (relied.lock().unwrap().is_some(), watermark.load(Ordering::Acquire));
                    assert!(!relies || watermark <= 5, "the watermark is {watermark}");
                    outcomes.lock().unwrap().insert((relies, watermark));
                };
                Scene::default().thread(first).thread(second).thread(writer).thread(collector).end(check)
            });
            let all = [(false, 4), (false, 5), (false, 10), (true, 4), (true, 5)];
            assert_eq!(*outcomes.lock().unwrap(), all.into());
        }
    }
}
