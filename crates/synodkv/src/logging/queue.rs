//! The queue between the threads that log and the writer.
//!
//! Pushing a line only copies it into memory. When the output is not read, or the disk is full, the
//! queue fills up; further lines are dropped and counted, and the count is logged once there is
//! room again.
//!
//! This is our own queue because the usual library (`tracing-appender`) is bounded in lines instead
//! of bytes, discards what it cannot write without counting it, cannot reopen a file, and prints to
//! standard output when it is dropped while full.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The capacity of the queue. As much again may be in the writer's hands.
const CAPACITY_BYTES: usize = 4 << 20;

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    arrived: Condvar,
    /// Wakes threads that flush.
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// The newest batch that the writer took.
    batch: u64,
    /// The newest batch that the writer has finished.
    done: u64,
    reopen: bool,
    drops: Drops,
}

/// Dropped lines that the log does not mention yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    pub lines: u64,
    /// The error of the write; `None`: there was no room in the queue.
    pub error: Option<String>,
}

/// Work for the writer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub lines: Vec<u8>,
    /// Open the file again after writing the lines.
    pub reopen: bool,
    number: u64,
}

impl Queue {
    /// Appends a line, including its newline. Returns false if there is no room; the line is then
    /// dropped.
    pub fn push(&self, line: &[u8]) -> bool {
        let mut state = self.state();
        if state.lines.len() + line.len() > CAPACITY_BYTES {
            state.drops.lines += 1;
            return false;
        }
        state.lines.extend_from_slice(line);
        self.arrived.notify_one();
        true
    }

    /// Asks the writer to open the file again after the lines queued so far.
    pub fn reopen(&self) {
        self.state().reopen = true;
        self.arrived.notify_one();
    }

    /// Waits for work, and takes all of it; an empty batch after `patience`. [`Queue::done`] must
    /// follow.
    pub fn take(&self, patience: Duration) -> Batch {
        let state = self.state();
        let is_idle = |state: &mut State| state.lines.is_empty() && !state.reopen;
        let waited = self.arrived.wait_timeout_while(state, patience, is_idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.batch += 1;
        Batch {
            lines: std::mem::take(&mut state.lines),
            reopen: std::mem::take(&mut state.reopen),
            number: state.batch,
        }
    }

    pub fn done(&self, batch: &Batch) {
        self.state().done = batch.number;
        self.written.notify_all();
    }

    /// Waits until every line pushed before is written or dropped. Returns false if that takes
    /// longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let mut state = self.state();
        // The lines queued now will be the next batch.
        let last = state.batch + u64::from(!state.lines.is_empty());
        let deadline = Instant::now() + patience;
        while state.done < last {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The drops that the log does not mention yet.
    pub fn drops(&self) -> Drops {
        self.state().drops.clone()
    }

    /// Takes these drops; the caller mentions them in the log.
    pub fn take_drops(&self) -> Drops {
        std::mem::take(&mut self.state().drops)
    }

    /// Adds lines that could not be written, or drops that could not be mentioned in the log.
    pub fn add_drops(&self, drops: Drops) {
        let mut state = self.state();
        state.drops.lines += drops.lines;
        state.drops.error = drops.error.or(state.drops.error.take());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No holder of this lock panics between two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn lines_come_out_together_in_their_order() {
        let queue = Queue::default();
        assert!(queue.push(b"one\n") && queue.push(b"two\n"));
        queue.reopen();
        let batch = queue.take(NOW);
        assert_eq!((batch.lines.as_slice(), batch.reopen), (&b"one\ntwo\n"[..], true));
        queue.done(&batch);
        assert_eq!(queue.take(NOW).lines, b"");
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted_and_nothing_blocks() {
        let queue = Queue::default();
        let line = vec![b'x'; 1 << 20];
        let kept = (0..10).filter(|_| queue.push(&line)).count();
        assert_eq!(kept, 4);
        assert_eq!(queue.drops(), Drops { lines: 6, error: None });
        queue.take(NOW);
        assert!(queue.push(&line), "there is room again");
        queue.add_drops(Drops { lines: 1, error: Some("full".to_string()) });
        assert_eq!(queue.take_drops(), Drops { lines: 7, error: Some("full".to_string()) });
        assert_eq!(queue.drops(), Drops::default());
    }

    #[test]
    fn flushing_waits_for_the_writer_but_never_for_ever() {
        let queue = Arc::new(Queue::default());
        queue.push(b"one\n");
        let taken = queue.take(NOW);
        queue.push(b"two\n");
        assert!(!queue.flush(NOW), "nobody writes");
        queue.done(&taken);
        assert!(!queue.flush(NOW), "the second line is not written");
        let writer = {
            let queue = queue.clone();
            std::thread::spawn(move || {
                let batch = queue.take(Duration::from_secs(60));
                queue.done(&batch);
                batch.lines
            })
        };
        assert!(queue.flush(Duration::from_secs(60)));
        assert_eq!(writer.join().expect("it ends"), b"two\n");
    }
}
