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
}

impl<T> Inbox<T> {
    pub fn new() -> Self {
        Inbox { state: Mutex::new(State { items: Vec::new(), closed: false, sleeping: false }), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Adds an item; false when the inbox is closed.
    pub fn push(&self, item: T) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.items.push(item);
        if std::mem::take(&mut state.sleeping) {
            drop(state);
            self.wake.notify_one();
        }
        true
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Waits for items, at most `timeout`. `None`: closed and empty.
    pub fn drain(&self, timeout: Option<Duration>) -> Option<Vec<T>> {
        let mut state = self.lock();
        while state.items.is_empty() && !state.closed {
            state.sleeping = true;
            match timeout {
                Some(timeout) => {
                    state = self.wake.wait_timeout(state, timeout).expect("no holder of this lock panics").0;
                    state.sleeping = false;
                    break;
                }
                None => state = self.wake.wait(state).expect("no holder of this lock panics"),
            }
        }
        if state.items.is_empty() && state.closed {
            return None;
        }
        Some(std::mem::take(&mut state.items))
    }

    /// No more items are taken in; what waits is still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }
}
