//! The locks, condition variables, atomics, channels, threads and clock that the driver uses.
//!
//! In production they are the standard library's. In unit tests they belong to a scheduler, which
//! decides at each use of them which thread runs next. So a test tries thousands of interleavings,
//! and the same ones in each run (see `interleavings`). In these tests timeouts never expire, and
//! the clock stands still: a thread that only a timeout would have woken waits forever, and the
//! test fails. All atomics are sequentially consistent there, so these tests cannot detect an
//! ordering that is too weak.

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

/// One hour after the first call, so that tests can use instants that lie before it.
#[cfg(test)]
pub fn now() -> Instant {
    const AGE: std::time::Duration = std::time::Duration::from_secs(3600);
    static ALWAYS: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(|| Instant::now() + AGE);
    *ALWAYS
}
