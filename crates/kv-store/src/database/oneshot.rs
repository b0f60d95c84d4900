//! Hands one value from a thread to a future, for any runtime. The receiver may give the value up
//! until the sender begins to work on it. Dropping the future does not give it up: the caller may
//! still want the effect.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard};

/// The two ends of a channel. The receiver gets `None` if the sender is dropped without a value.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Slot(Mutex::new(Progress::Pending { begun: false, waker: None })));
    (Sender(slot.clone()), Receiver(slot))
}

pub(crate) struct Sender<T>(Arc<Slot<T>>);
pub(crate) struct Receiver<T>(Arc<Slot<T>>);

struct Slot<T>(Mutex<Progress<T>>);

enum Progress<T> {
    Pending {
        /// Whether the sender has begun to work on the value.
        begun: bool,
        /// Of a receiver that has been polled.
        waker: Option<Waker>,
    },
    /// The receiver does not want the value any more.
    GivenUp,
    /// `None`: there will be no value, or the receiver has taken it.
    Done(Option<T>),
}

/// The state of a value at the moment the receiver gave it up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GivenUp<T> {
    /// The sender will not begin to work on it.
    NotBegun,
    /// The sender has begun, and may produce it.
    UnderWay,
    Done(T),
}

impl<T> Slot<T> {
    /// A poisoned lock is sound: no code panics between two related changes under it.
    fn lock(&self) -> MutexGuard<'_, Progress<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, value: Option<T>) {
        let before = {
            let mut progress = self.lock();
            match *progress {
                Progress::Pending { .. } => std::mem::replace(&mut *progress, Progress::Done(value)),
                Progress::GivenUp | Progress::Done(_) => return,
            }
        };
        if let Progress::Pending { waker: Some(waker), .. } = before {
            waker.wake();
        }
    }
}

impl<T> Sender<T> {
    /// The sender begins to work, and the receiver can't give the value up any more; false if it
    /// has already.
    pub fn begin(&self) -> bool {
        match &mut *self.0.lock() {
            Progress::Pending { begun, .. } => {
                *begun = true;
                true
            }
            Progress::GivenUp | Progress::Done(_) => false,
        }
    }

    pub fn send(self, value: T) {
        self.0.finish(Some(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.finish(None);
    }
}

impl<T> Receiver<T> {
    /// Stops waiting for the value.
    pub fn give_up(self) -> GivenUp<T> {
        let mut progress = self.0.lock();
        match &mut *progress {
            Progress::Pending { begun: false, .. } | Progress::GivenUp => {
                *progress = Progress::GivenUp;
                GivenUp::NotBegun
            }
            Progress::Pending { begun: true, .. } => GivenUp::UnderWay,
            Progress::Done(value) => value.take().map_or(GivenUp::UnderWay, GivenUp::Done),
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        match &mut *self.0.lock() {
            Progress::Done(value) => Poll::Ready(value.take()),
            Progress::GivenUp => Poll::Ready(None),
            Progress::Pending { waker, .. } => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::sync::schedules::{Scene, every_schedule};

    /// Whether a waker was called.
    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Flag {
        fn raise(&self) {
            self.0.store(true, Ordering::SeqCst);
        }

        fn is_raised(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.raise();
        }
    }

    #[test]
    fn a_value_can_be_given_up_until_it_is_begun() {
        let (sender, receiver) = channel::<u8>();
        assert_eq!(receiver.give_up(), GivenUp::NotBegun);
        assert!(!sender.begin());

        let (sender, receiver) = channel::<u8>();
        assert!(sender.begin());
        assert_eq!(receiver.give_up(), GivenUp::UnderWay);
        sender.send(1);

        let (sender, receiver) = channel();
        assert!(sender.begin());
        sender.send(7);
        assert_eq!(receiver.give_up(), GivenUp::Done(7));
    }

    #[test]
    fn a_waiting_receiver_is_woken_whether_the_poll_or_the_value_comes_first() {
        for is_sent in [true, false] {
            every_schedule(4, || {
                let (sender, mut receiver) = channel::<u8>();
                let (waits, woken) = (Arc::new(Flag::default()), Arc::new(Flag::default()));
                let (waited, waker) = (waits.clone(), Waker::from(woken.clone()));
                let ask = move || match Pin::new(&mut receiver).poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(value) => assert_eq!(value, is_sent.then_some(7)),
                    Poll::Pending => waits.raise(),
                };
                let answer = move || {
                    sender.begin();
                    if is_sent {
                        sender.send(7);
                    }
                };
                Scene::default()
                    .thread(ask)
                    .thread(answer)
                    .end(move || assert_eq!(waited.is_raised(), woken.is_raised()))
            });
        }
    }

    #[test]
    fn giving_up_finds_a_value_never_begun_or_under_way_or_done() {
        every_schedule(4, || {
            let (sender, receiver) = channel();
            let (begun, said) = (Arc::new(Flag::default()), Arc::new(Mutex::new(None)));
            let (was_begun, was_said) = (begun.clone(), said.clone());
            let give_up = move || *said.lock().unwrap() = Some(receiver.give_up());
            let work = move || {
                if sender.begin() {
                    begun.raise();
                    sender.send(7);
                }
            };
            let check = move || {
                let said = was_said.lock().unwrap().take().expect("it was given up");
                assert_eq!(said != GivenUp::NotBegun, was_begun.is_raised(), "{said:?}");
            };
            Scene::default().thread(give_up).thread(work).end(check)
        });
    }
}
