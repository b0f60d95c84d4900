//! A queue into one thread, which takes everything that waits at once: under load one wake-up serves many items.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

pub struct Inbox<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    items: Vec<T>,
    closed: bool,
    sleeping: bool,
    /// Somebody wants the thread, whether or not there are items.
    wanted: bool,
}

impl<T> Inbox<T> {
    pub fn new() -> Self {
        let state = State { items: Vec::new(), closed: false, sleeping: false, wanted: false };
        Inbox { state: Mutex::new(state), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Adds an item and wakes the thread; false when the inbox is closed.
    pub fn push(&self, item: T) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.items.push(item);
        self.rouse(state);
        true
    }

    /// Adds an item without waking anybody; it is dropped when the inbox is closed.
    pub fn push_quietly(&self, item: T) {
        let mut state = self.lock();
        if !state.closed {
            state.items.push(item);
        }
    }

    pub fn wake(&self) {
        self.rouse(self.lock());
    }

    fn rouse(&self, mut state: MutexGuard<'_, State<T>>) {
        state.wanted = true;
        if std::mem::take(&mut state.sleeping) {
            drop(state);
            self.wake.notify_one();
        }
    }

    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// What waits now.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.lock().items)
    }

    /// Waits for items. `None`: closed and empty.
    pub fn drain(&self) -> Option<Vec<T>> {
        let mut state = self.lock();
        while state.items.is_empty() && !state.closed {
            state.sleeping = true;
            state = self.wake.wait(state).expect("no holder of this lock panics");
        }
        state.sleeping = false;
        if state.items.is_empty() && state.closed {
            return None;
        }
        Some(std::mem::take(&mut state.items))
    }

    /// Waits for items, at most `timeout`: there may be none. `None`: closed and empty.
    pub fn drain_within(&self, timeout: Duration) -> Option<Vec<T>> {
        let mut state = self.lock();
        if state.items.is_empty() && !state.closed {
            state.sleeping = true;
            state = self.wake.wait_timeout(state, timeout).expect("no holder of this lock panics").0;
            state.sleeping = false;
        }
        (!state.items.is_empty() || !state.closed).then(|| std::mem::take(&mut state.items))
    }

    /// Waits until the thread is wanted, at most `timeout`; takes nothing. False: closed.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        if !state.wanted && !state.closed {
            state.sleeping = true;
            state = self.wake.wait_timeout(state, timeout).expect("no holder of this lock panics").0;
            state.sleeping = false;
        }
        state.wanted = false;
        !state.closed
    }

    /// No more items are taken in; what waits is still handed out by [`Inbox::drain`].
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_before_closing_is_handed_out() {
        let inbox = Inbox::new();
        assert!(inbox.push(1));
        inbox.close();
        assert!(!inbox.push(2));
        assert_eq!(inbox.drain(), Some(vec![1]));
        assert_eq!(inbox.drain(), None);
    }

    #[test]
    fn a_wake_up_before_the_wait_is_not_lost() {
        let inbox: Inbox<u8> = Inbox::new();
        inbox.wake();
        assert!(inbox.wait(Duration::from_secs(3600)));
    }
}
