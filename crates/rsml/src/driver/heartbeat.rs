//! Whether the threads of a replica get on: what a process that looks alive from outside does not show.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as Clock};

/// The threads of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    Core,
    Log,
    Apply,
    Snapshot,
}

impl ThreadKind {
    const ALL: [ThreadKind; 4] = [ThreadKind::Core, ThreadKind::Log, ThreadKind::Apply, ThreadKind::Snapshot];

    /// As the operating system names the thread, without the replica's id.
    pub fn name(self) -> &'static str {
        match self {
            ThreadKind::Core => "rsml-core",
            ThreadKind::Log => "rsml-log",
            ThreadKind::Apply => "rsml-apply",
            ThreadKind::Snapshot => "rsml-snapshot",
        }
    }

    /// How many times longer than usual one piece of work may take. Making a copy of a large database, or checking one that
    /// came, takes minutes.
    fn slowness(self) -> u32 {
        match self {
            ThreadKind::Snapshot => 60,
            _ => 1,
        }
    }
}

/// A thread that does nothing though it has something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StalledThread {
    pub thread: ThreadKind,
    /// When it began what it does not finish, or ended.
    pub since: Clock,
    /// It has ended, though its replica has not stopped.
    pub has_ended: bool,
}

/// A thread that ended says why a moment later, if it can.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Waits for work, and so may everything else be.
const WAITING: u64 = 0;
/// The lowest bit tells the end of a thread from the beginning of work; the others are milliseconds, plus one.
const ENDED: u64 = 1;

/// What each thread does, and since when. Written with one store for each piece of work.
#[derive(Debug)]
pub struct Heartbeats {
    started: Clock,
    /// How long one piece of work may take.
    patience: Duration,
    states: [AtomicU64; 4],
}

impl Heartbeats {
    pub fn new(patience: Duration) -> Self {
        Heartbeats { started: Clock::now(), patience, states: Default::default() }
    }

    fn set(&self, thread: ThreadKind, now: Clock, ended: u64) {
        let ms = now.saturating_duration_since(self.started).as_millis() as u64;
        self.states[thread as usize].store((ms + 1) << 1 | ended, Ordering::Relaxed);
    }

    /// The thread begins a piece of work.
    pub fn works(&self, thread: ThreadKind) {
        self.set(thread, Clock::now(), 0);
    }

    /// It has finished, and waits for more: for as long as it likes.
    pub fn waits(&self, thread: ThreadKind) {
        self.states[thread as usize].store(WAITING, Ordering::Relaxed);
    }

    pub fn has_ended(&self, thread: ThreadKind) {
        self.set(thread, Clock::now(), ENDED);
    }

    /// The one that has stood still for longest. `lacks_space`: whoever writes rows may wait for space, and is not to blame.
    pub fn stalled(&self, now: Clock, lacks_space: bool) -> Option<StalledThread> {
        let stalled = ThreadKind::ALL.into_iter().filter_map(|thread| {
            let state = self.states[thread as usize].load(Ordering::Relaxed);
            if state == WAITING {
                return None;
            }
            let since = self.started + Duration::from_millis((state >> 1) - 1);
            let has_ended = state & ENDED != 0;
            let is_excused = lacks_space && matches!(thread, ThreadKind::Apply | ThreadKind::Snapshot) && !has_ended;
            let patience = if has_ended { LAST_WORDS } else { self.patience * thread.slowness() };
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
        beats.stalled(Clock::now() + wait, false).map(|stalled| stalled.thread)
    }

    #[test]
    fn a_thread_that_waits_for_work_may_wait_for_ever() {
        let beats = Heartbeats::new(PATIENCE);
        beats.works(ThreadKind::Log);
        beats.waits(ThreadKind::Log);
        assert_eq!(stalled_after(&beats, PATIENCE * 1000), None);
    }

    #[test]
    fn a_thread_that_does_not_finish_is_named_once_it_has_taken_long() {
        let beats = Heartbeats::new(PATIENCE);
        beats.works(ThreadKind::Log);
        assert_eq!(stalled_after(&beats, PATIENCE / 2), None);
        assert_eq!(stalled_after(&beats, PATIENCE), Some(ThreadKind::Log));
        beats.works(ThreadKind::Log);
        assert_eq!(stalled_after(&beats, PATIENCE / 2), None);
    }

    #[test]
    fn a_thread_that_has_ended_is_named_soon() {
        let beats = Heartbeats::new(PATIENCE);
        beats.has_ended(ThreadKind::Snapshot);
        let stalled = beats.stalled(Clock::now() + LAST_WORDS, true).expect("it is missed");
        assert_eq!((stalled.thread, stalled.has_ended), (ThreadKind::Snapshot, true));
    }

    #[test]
    fn who_waits_for_space_in_the_database_is_not_to_blame() {
        let beats = Heartbeats::new(PATIENCE);
        beats.works(ThreadKind::Apply);
        assert!(beats.stalled(Clock::now() + PATIENCE, true).is_none());
        beats.works(ThreadKind::Log);
        let stalled = beats.stalled(Clock::now() + PATIENCE, true).expect("the log hangs");
        assert_eq!(stalled.thread, ThreadKind::Log);
    }
}
