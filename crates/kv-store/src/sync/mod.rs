//! Locks and atomics by which the threads that share a database meet: those of the standard library.
//!
//! In this crate's own tests they are thin covers of the same. Each use of one is then a step at which a test may let
//! another thread go on ([`orders`]), so that it tries the orders in which threads can come, instead of hoping for the right
//! one. Outside of such a test the covers do what is under them.

#[cfg(not(test))]
pub(crate) use std::sync::atomic::AtomicU64;
#[cfg(not(test))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(test)]
pub(crate) use covers::{AtomicU64, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(test)]
mod covers;
#[cfg(test)]
pub(crate) mod orders;
