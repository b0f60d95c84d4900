//! Numbers for things that occur in many states: a state of the cluster is a few numbers, and is
//! cloned, compared and hashed as such. A thing keeps its number for the run; the number depends on
//! which one came first.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

pub struct Table<T> {
    inner: RwLock<Inner<T>>,
}

struct Inner<T> {
    numbers: HashMap<Arc<T>, u32>,
    things: Vec<Arc<T>>,
}

impl<T: Eq + Hash> Default for Table<T> {
    fn default() -> Self {
        Table { inner: RwLock::new(Inner { numbers: HashMap::new(), things: Vec::new() }) }
    }
}

impl<T: Eq + Hash> Table<T> {
    pub fn number(&self, thing: T) -> u32 {
        let known = self.inner.read().unwrap_or_else(PoisonError::into_inner).numbers.get(&thing).copied();
        if let Some(number) = known {
            return number;
        }
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = inner.numbers.get(&thing) {
            return *number;
        }
        let number = u32::try_from(inner.things.len()).expect("fewer than 2^32 different ones");
        let thing = Arc::new(thing);
        inner.things.push(thing.clone());
        inner.numbers.insert(thing, number);
        number
    }

    pub fn get(&self, number: u32) -> Arc<T> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).things[number as usize].clone()
    }

    pub fn len(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).things.len()
    }
}
