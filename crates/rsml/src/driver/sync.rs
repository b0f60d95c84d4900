//! What the threads of a replica share is built of these: locks, conditions, atomics, channels, threads, and the clock.
//!
//! They are the standard library's. In unit tests they belong to a scheduler that decides at each use of them which thread
//! goes on, so that a test tries thousands of interleavings, and the same ones each time it runs (`interleavings`). There
//! a wait with a timeout lasts until somebody ends it, and the clock stands still: a thread that only a timeout would have
//! woken waits for ever, and the test says so. Atomics are sequentially consistent there, whatever ordering is asked for:
//! one that is too weak is not found.

#[cfg(test)]
pub use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, atomic, mpsc},
    thread,
};
#[cfg(not(test))]
pub use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic, mpsc},
    thread,
};

use std::time::Instant;

#[cfg(not(test))]
pub fn now() -> Instant {
    Instant::now()
}

/// There is time enough before it for what a test wants to have happened.
#[cfg(test)]
pub fn now() -> Instant {
    const AGE: std::time::Duration = std::time::Duration::from_secs(3600);
    static ALWAYS: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(|| Instant::now() + AGE);
    *ALWAYS
}
