//! One value handed from a thread to a future, whatever runtime polls it. Until the thread begins to work on it, whoever
//! waits may give it up. Dropping the future does not: whoever is gone without a word may want it all the same.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, MutexGuard};

/// The two ends. A receiver whose sender is dropped without a value gets `None`.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Slot(Mutex::new(Progress::Pending { begun: false, waker: None })));
    (Sender(slot.clone()), Receiver(slot))
}

pub(crate) struct Sender<T>(Arc<Slot<T>>);
pub(crate) struct Receiver<T>(Arc<Slot<T>>);

struct Slot<T>(Mutex<Progress<T>>);

enum Progress<T> {
    Pending {
        /// Whether the sender works on the value already.
        begun: bool,
        /// Of a receiver that waits already.
        waker: Option<Waker>,
    },
    /// The receiver wants no value any more.
    GivenUp,
    /// `None`: no value will come, or it was taken.
    Done(Option<T>),
}

/// What has become of a value that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GivenUp<T> {
    /// Nobody will begin to work on it.
    NotBegun,
    /// It may still be made.
    UnderWay,
    Done(T),
}

impl<T> Slot<T> {
    /// Nothing under this lock can panic half-way, so a poisoned one is as good as any.
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
    /// From now on the value cannot be given up any more; false when it was.
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
    /// The value is not waited for any longer.
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
    use crate::sync::orders::{Scene, every_order};

    /// Something happened.
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
    fn whoever_has_to_wait_is_woken_in_whatever_order_question_and_value_come() {
        for is_sent in [true, false] {
            every_order(4, || {
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
    fn what_is_given_up_is_either_never_begun_or_said_to_be_under_way_or_done() {
        every_order(4, || {
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
