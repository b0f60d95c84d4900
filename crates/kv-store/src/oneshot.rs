//! One value handed from a thread to a future, whatever runtime polls it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// The two ends. A receiver whose sender is dropped without a value gets `None`.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Slot(Mutex::new(Progress::Pending(None))));
    (Sender(slot.clone()), Receiver(slot))
}

pub(crate) struct Sender<T>(Arc<Slot<T>>);
pub(crate) struct Receiver<T>(Arc<Slot<T>>);

struct Slot<T>(Mutex<Progress<T>>);

enum Progress<T> {
    /// The waker of a receiver that waits already.
    Pending(Option<Waker>),
    /// `None`: no value will come.
    Done(Option<T>),
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
                Progress::Pending(_) => std::mem::replace(&mut *progress, Progress::Done(value)),
                Progress::Done(_) => return,
            }
        };
        if let Progress::Pending(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Sender<T> {
    pub fn send(self, value: T) {
        self.0.finish(Some(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.finish(None);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        match &mut *self.0.lock() {
            Progress::Done(value) => Poll::Ready(value.take()),
            Progress::Pending(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
