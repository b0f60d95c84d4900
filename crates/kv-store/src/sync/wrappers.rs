//! Wrappers of the standard library's locks and atomics that call [`schedules`] before each use.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{self, LockResult, PoisonError, TryLockError, TryLockResult};

use super::schedules;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

/// A guard of a held lock. After its drop, threads that wait for the lock may try again.
pub(crate) struct Held<G>(Option<G>);

pub(crate) type MutexGuard<'a, T> = Held<sync::MutexGuard<'a, T>>;
pub(crate) type RwLockReadGuard<'a, T> = Held<sync::RwLockReadGuard<'a, T>>;
pub(crate) type RwLockWriteGuard<'a, T> = Held<sync::RwLockWriteGuard<'a, T>>;

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Mutex(sync::Mutex::new(value))
    }

    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        held(|| self.0.try_lock(), || self.0.lock())
    }

    pub fn is_poisoned(&self) -> bool {
        self.0.is_poisoned()
    }
}

impl<T> RwLock<T> {
    pub fn new(value: T) -> Self {
        RwLock(sync::RwLock::new(value))
    }

    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        held(|| self.0.try_read(), || self.0.read())
    }

    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        held(|| self.0.try_write(), || self.0.write())
    }
}

/// Takes a lock: in a scheduled test by trying until it is free, elsewhere by waiting for it.
fn held<G>(try_lock: impl Fn() -> TryLockResult<G>, lock: impl FnOnce() -> LockResult<G>) -> LockResult<Held<G>> {
    schedules::step();
    while schedules::is_scheduled() {
        match try_lock() {
            Ok(guard) => return Ok(Held(Some(guard))),
            Err(TryLockError::Poisoned(poisoned)) => {
                return Err(PoisonError::new(Held(Some(poisoned.into_inner()))));
            }
            Err(TryLockError::WouldBlock) => schedules::wait_for_a_lock(),
        }
    }
    let held = |guard| Held(Some(guard));
    lock().map(held).map_err(|poisoned| PoisonError::new(held(poisoned.into_inner())))
}

impl<G> Drop for Held<G> {
    fn drop(&mut self) {
        self.0 = None;
        schedules::let_waiting_try();
    }
}

impl<G: Deref> Deref for Held<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        self.0.as_ref().expect("it is held until the drop")
    }
}

impl<G: DerefMut> DerefMut for Held<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        self.0.as_mut().expect("it is held until the drop")
    }
}

#[derive(Debug, Default)]
pub(crate) struct AtomicU64(sync::atomic::AtomicU64);

impl AtomicU64 {
    pub fn new(value: u64) -> Self {
        AtomicU64(sync::atomic::AtomicU64::new(value))
    }

    pub fn load(&self, ordering: Ordering) -> u64 {
        schedules::step();
        self.0.load(ordering)
    }

    pub fn store(&self, value: u64, ordering: Ordering) {
        schedules::step();
        self.0.store(value, ordering);
    }

    pub fn fetch_add(&self, value: u64, ordering: Ordering) -> u64 {
        schedules::step();
        self.0.fetch_add(value, ordering)
    }
}
