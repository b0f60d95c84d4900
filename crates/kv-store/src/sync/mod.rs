//! Locks and atomics of the state that threads share: those of the standard library.
//!
//! In this crate's own tests they are thin wrappers. Each use is then a step at which a test may
//! let another thread run ([`schedules`]), so that it tries all schedules instead of hoping for the
//! right one. Outside such a test the wrappers only forward.

#[cfg(not(test))]
pub(crate) use std::sync::atomic::AtomicU64;
#[cfg(not(test))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(test)]
pub(crate) use wrappers::{AtomicU64, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(test)]
pub(crate) mod schedules;
#[cfg(test)]
mod wrappers;
