//! Detects stalled threads, in a process that looks alive from outside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as StdInstant};

/// The threads of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Handles the passage of time.
    Core,
    /// Writes the log.
    Log,
    /// Applies entries to the database.
    Apply,
    /// Reads and builds copies of the database.
    Snapshot,
}

impl ThreadKind {
    const ALL: [ThreadKind; 4] = [ThreadKind::Core, ThreadKind::Log, ThreadKind::Apply, ThreadKind::Snapshot];

    /// The thread's name in the operating system, without the replica's id.
    pub fn name(self) -> &'static str {
        match self {
            ThreadKind::Core => "rsml-core",
            ThreadKind::Log => "rsml-log",
            ThreadKind::Apply => "rsml-apply",
            ThreadKind::Snapshot => "rsml-snapshot",
        }
    }

    /// How many times longer than usual one piece of work may take. Copying a large database, or
    /// checking a copy that has arrived, takes minutes.
    fn slowness(self) -> u32 {
        match self {
            ThreadKind::Snapshot => 60,
            _ => 1,
        }
    }
}

/// A thread that makes no progress although it has work to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StalledThread {
    /// The thread.
    pub thread: ThreadKind,
    /// When it began the work that it does not finish, or when it ended.
    pub since: StdInstant,
    /// Whether it has ended, although its replica has not stopped.
    pub has_ended: bool,
}

/// After a thread has ended, its replica usually stops within this time.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// The state of a thread that waits for work.
const WAITING: u64 = 0;
/// In all other states, the lowest bit is set if the thread has ended, and clear if it works. The
/// other bits are the time of that, in milliseconds since the start plus one.
const ENDED: u64 = 1;

/// The activity of each thread, and since when. Each change costs one store.
#[derive(Debug)]
pub struct Heartbeats {
    started: StdInstant,
    /// How long one piece of work may take.
    patience: Duration,
    states: [AtomicU64; 4],
}

impl Heartbeats {
    pub fn new(patience: Duration) -> Self {
        Heartbeats { started: StdInstant::now(), patience, states: Default::default() }
    }

    fn set(&self, thread: ThreadKind, now: StdInstant, ended: u64) {
        let ms = now.saturating_duration_since(self.started).as_millis() as u64;
        self.states[thread as usize].store((ms + 1) << 1 | ended, Ordering::Relaxed);
    }

    /// Records that the thread begins a piece of work.
    pub fn works(&self, thread: ThreadKind) {
        self.set(thread, StdInstant::now(), 0);
    }

    /// Records that the thread waits for work, which it may do forever.
    pub fn waits(&self, thread: ThreadKind) {
        self.states[thread as usize].store(WAITING, Ordering::Relaxed);
    }

    /// Records that the thread has ended.
    pub fn has_ended(&self, thread: ThreadKind) {
        self.set(thread, StdInstant::now(), ENDED);
    }

    /// The thread that has been stalled for longest. With `lacks_space`, a thread that writes to
    /// the database may wait for space, and does not count.
    pub fn stalled(&self, now: StdInstant, lacks_space: bool) -> Option<StalledThread> {
        let stalled = ThreadKind::ALL.into_iter().filter_map(|thread| {
            let state = self.states[thread as usize].load(Ordering::Relaxed);
            if state == WAITING {
                return None;
            }
            let since = self.started + Duration::from_millis((state >> 1) - 1);
            let has_ended = state & ENDED != 0;
            let is_excused = lacks_space && matches!(thread, ThreadKind::Apply | ThreadKind::Snapshot) && !has_ended;
            let patience = if has_ended { STOP_PATIENCE } else { self.patience * thread.slowness() };
            let is_stalled = !is_excused && now.saturating_duration_since(since) >= patience;
            is_stalled.then_some(StalledThread { thread, since, has_ended })
        });
        stalled.min_by_key(|stalled| stalled.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn stalled_after(beats: &Heartbeats, wait: Duration) -> Option<ThreadKind> {
        beats.stalled(StdInstant::now() + wait, false).map(|stalled| stalled.thread)
    }

    #[test]
    fn a_thread_may_wait_for_work_forever() {
        let beats = Heartbeats::new(PATIENCE);
        beats.works(ThreadKind::Log);
        beats.waits(ThreadKind::Log);
        assert_eq!(stalled_after(&beats, PATIENCE * 1000), None);
    }

    #[test]
    fn a_thread_that_does_not_finish_its_work_is_reported_after_a_while() {
        let beats = Heartbeats::new(PATIENCE);
        beats.works(ThreadKind::Log);
        assert_eq!(stalled_after(&beats, PATIENCE / 2), None);
        assert_eq!(stalled_after(&beats, PATIENCE), Some(ThreadKind::Log));
        beats.works(ThreadKind::Log);
        assert_eq!(stalled_after(&beats, PATIENCE / 2), None);
    }

    #[test]
    fn a_thread_that_has_ended_is_reported_soon() {
        let beats = Heartbeats::new(PATIENCE);
        beats.has_ended(ThreadKind::Snapshot);
        let stalled = beats.stalled(StdInstant::now() + STOP_PATIENCE, true).expect("it is reported");
        assert_eq!((stalled.thread, stalled.has_ended), (ThreadKind::Snapshot, true));
    }

    #[test]
    fn a_thread_that_waits_for_space_in_the_database_is_not_stalled() {
        let beats = Heartbeats::new(PATIENCE);
        beats.works(ThreadKind::Apply);
        assert!(beats.stalled(StdInstant::now() + PATIENCE, true).is_none());
        beats.works(ThreadKind::Log);
        let stalled = beats.stalled(StdInstant::now() + PATIENCE, true).expect("the log hangs");
        assert_eq!(stalled.thread, ThreadKind::Log);
    }
}
