//! A queue to one thread, which takes all waiting items at once: under load, one wake-up serves
//! many items.

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
    /// The thread was woken, whether or not there are items.
    woken: bool,
}

impl<T> Inbox<T> {
    pub fn new() -> Self {
        let state = State { items: Vec::new(), closed: false, sleeping: false, woken: false };
        Inbox { state: Mutex::new(state), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Adds an item and wakes the thread. Returns false if the inbox is closed.
    pub fn push(&self, item: T) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.items.push(item);
        self.wake_up(state);
        true
    }

    /// Adds an item without waking the thread. If the inbox is closed, the item is dropped.
    pub fn push_without_waking(&self, item: T) {
        let mut state = self.lock();
        if !state.closed {
            state.items.push(item);
        }
    }

    /// Wakes the thread, also if it is only about to sleep.
    pub fn wake(&self) {
        self.wake_up(self.lock());
    }

    fn wake_up(&self, mut state: MutexGuard<'_, State<T>>) {
        state.woken = true;
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

    /// Whether the thread waits, and nobody has woken it.
    #[cfg(test)]
    pub fn is_sleeping(&self) -> bool {
        self.lock().sleeping
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Takes all items without waiting.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.lock().items)
    }

    /// Waits for items and takes all. `None` if the inbox is closed and empty.
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

    /// Waits for items, but not longer than `timeout`, and takes all that there are, if any. `None`
    /// if the inbox is closed and empty.
    pub fn drain_within(&self, timeout: Duration) -> Option<Vec<T>> {
        let mut state = self.lock();
        if state.items.is_empty() && !state.closed {
            state.sleeping = true;
            state = self.wake.wait_timeout(state, timeout).expect("no holder of this lock panics").0;
            state.sleeping = false;
        }
        (!state.items.is_empty() || !state.closed).then(|| std::mem::take(&mut state.items))
    }

    /// Waits until the thread is woken or there are items, but not longer than `timeout`. Takes
    /// nothing. Returns false if the inbox is closed.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        // Items that were pushed without waking while the thread was busy are left to it.
        if state.items.is_empty() && !state.woken && !state.closed {
            state.sleeping = true;
            state = self.wake.wait_timeout(state, timeout).expect("no holder of this lock panics").0;
            state.sleeping = false;
        }
        state.woken = false;
        !state.closed
    }

    /// Accepts no more items. [`Inbox::drain`] still returns those that wait.
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

    /// Runs `body` in every possible interleaving.
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

    /// All items that the thread takes until the inbox is closed.
    fn take_all(inbox: &Inbox<u8>, next: impl Fn(&Inbox<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
        std::iter::from_fn(|| next(inbox)).flatten().collect()
    }

    #[test]
    fn items_are_taken_once_and_in_order_and_closing_ends_the_thread() {
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
    fn an_item_that_is_pushed_while_the_inbox_closes_is_taken_exactly_if_it_was_accepted() {
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
    fn a_thread_wakes_up_whether_it_sleeps_already_or_not() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::new());
            let waiting = spawn(&inbox, |inbox| inbox.wait(LONG));
            inbox.wake();
            assert!(waiting.join().expect("no panic"));
        });
    }

    #[test]
    fn a_thread_does_not_sleep_if_an_item_was_pushed_without_waking_while_it_was_awake() {
        in_every_order(|| {
            let inbox = Arc::new(Inbox::new());
            inbox.push_without_waking(1);
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
