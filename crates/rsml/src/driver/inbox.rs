//! A queue into one thread, which takes everything that waits at once: under load one wake-up serves many items.

use std::time::Duration;

use super::sync::{Condvar, Mutex, MutexGuard};

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

    /// Waits until the thread is wanted or there are items, at most `timeout`; takes nothing. False: closed.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        // What was left quietly while the thread was at work is left to it.
        if state.items.is_empty() && !state.wanted && !state.closed {
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
    use std::sync::Arc;

    use shuttle::check_dfs;
    use shuttle::thread::{self, JoinHandle};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// Runs `body` in every interleaving that there is.
    fn in_every_order(body: impl Fn() + Send + Sync + 'static) {
        check_dfs(body, None);
    }

    fn spawn<T: Send + 'static>(
        inbox: &Arc<Inbox<u8>>,
        task: impl FnOnce(&Inbox<u8>) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let inbox = inbox.clone();
        thread::spawn(move || task(&inbox))
    }

    /// What the thread takes until it is told that the inbox is closed.
    fn take_all(inbox: &Inbox<u8>, next: impl Fn(&Inbox<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
        std::iter::from_fn(|| next(inbox)).flatten().collect()
    }

    #[test]
    fn what_was_taken_in_is_handed_out_once_and_in_order_and_then_the_thread_is_let_go() {
        for next in [Inbox::drain, |inbox: &Inbox<u8>| inbox.drain_within(LONG)] {
            in_every_order(move || {
                let inbox = Arc::new(Inbox::new());
                let pushing = spawn(&inbox, |inbox| {
                    assert!(inbox.push(1) && inbox.push(2));
                    inbox.close();
                    assert!(!inbox.push(3));
                });
                assert_eq!(take_all(&inbox, next), [1, 2]);
                pushing.join().expect("no panic");
            });
        }
    }

    #[test]
    fn what_meets_a_closing_inbox_is_handed_out_exactly_if_it_was_taken_in() {
        for next in [Inbox::drain, |inbox: &Inbox<u8>| inbox.drain_within(LONG)] {
            in_every_order(move || {
                let inbox = Arc::new(Inbox::new());
                let pushing = spawn(&inbox, |inbox| inbox.push(1));
                let closing = spawn(&inbox, Inbox::close);
                let taken = take_all(&inbox, next);
                let accepted = pushing.join().expect("no panic");
                closing.join().expect("no panic");
                assert_eq!(taken, if accepted { vec![1] } else { vec![] });
            });
        }
    }

    #[test]
    fn each_of_two_pushes_wakes_the_thread_if_it_sleeps() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::new());
            let taking = spawn(&inbox, |inbox| {
                let mut taken = Vec::new();
                while taken.len() < 2 {
                    taken.extend(inbox.drain().expect("it is open"));
                }
                taken.sort_unstable();
                taken
            });
            let pushing = spawn(&inbox, |inbox| inbox.push(1));
            assert!(inbox.push(2) && pushing.join().expect("no panic"));
            assert_eq!(taking.join().expect("no panic"), [1, 2]);
        });
    }

    #[test]
    fn a_thread_that_is_wanted_wakes_whether_it_sleeps_already_or_not() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::new());
            let waiting = spawn(&inbox, |inbox| inbox.wait(LONG));
            inbox.wake();
            assert!(waiting.join().expect("no panic"));
        });
    }

    #[test]
    fn a_thread_does_not_go_to_sleep_over_what_was_left_quietly_while_it_was_awake() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::new());
            inbox.push_quietly(1);
            assert!(inbox.wait(LONG));
            assert_eq!(inbox.take(), [1]);
        });
    }

    #[test]
    fn closing_ends_the_wait_of_a_thread() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::<u8>::new());
            let waiting = spawn(&inbox, |inbox| inbox.wait(LONG));
            inbox.close();
            assert!(!waiting.join().expect("no panic"));
        });
    }
}
