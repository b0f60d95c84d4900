//! Writing: everything stays in this process until the commit.
//!
//! These calls do not fail. What is wrong with one of them, every later call of the transaction tells, the commit included.

use bytes::Bytes;
use kv_api::MutationKind;

use super::{State, Transaction};
use crate::ClientError;
use crate::keys::{IntoBytes, prefix_end};
use crate::stamped::Stamped;

macro_rules! atomics {
    ($($(#[$doc:meta])* $name:ident $kind:ident;)*) => {
        /// Atomic mutations: they change the value where it is, at the commit, and so meet no conflict however many
        /// transactions do the same. Numbers are unsigned and little-endian, in the length of the operand: a shorter value is
        /// extended with zeros, a longer one is cut. An absent value becomes the operand.
        ///
        /// Reading such a key in the same transaction reads the database, which then counts as read.
        impl Transaction {
            $(
                $(#[$doc])*
                pub fn $name(&self, key: impl IntoBytes, operand: impl IntoBytes) {
                    self.atomic(MutationKind::$kind, key.into_bytes(), operand.into_bytes());
                }
            )*
        }
    };
}

atomics! {
    /// Adds the operand; a carry out of its last byte is lost. `tx.add("visits", 1u64.to_le_bytes())`; with the two's
    /// complement of a signed number it subtracts.
    add Add;
    /// The smaller number.
    min Min;
    /// The larger number.
    max Max;
    /// Whichever comes first in the order of keys.
    byte_min ByteMin;
    /// Whichever comes last in the order of keys.
    byte_max ByteMax;
    /// Keeps the bits that are set in both.
    bit_and BitAnd;
    /// Sets the bits that are set in either.
    bit_or BitOr;
    /// Flips the bits that are set in the operand.
    bit_xor BitXor;
    /// Appends the operand, unless the value would become too long.
    append_if_fits AppendIfFits;
    /// Deletes the key if its value is the operand.
    compare_and_clear CompareAndClear;
}

impl Transaction {
    pub fn set(&self, key: impl IntoBytes, value: impl IntoBytes) {
        let (key, value) = (key.into_bytes(), value.into_bytes());
        self.change(&[&key], |state, family| state.writes.set(family, key.clone(), value));
    }

    /// Deletes a key; one that does not exist is no error.
    pub fn delete(&self, key: impl IntoBytes) {
        let key = key.into_bytes();
        self.change(&[&key], |state, family| state.writes.delete(family, key.clone()));
    }

    /// Deletes the keys `begin <= key < end`, however many there are.
    pub fn clear_range(&self, begin: impl IntoBytes, end: impl IntoBytes) {
        let (begin, end) = (begin.into_bytes(), self.bound(end.into_bytes()));
        // There is no empty key, and the server takes none.
        let begin = if begin.is_empty() { Bytes::from_static(&[0]) } else { begin };
        self.change(&[], |state, family| state.writes.clear_range(family, begin, end));
    }

    /// Deletes the keys that begin with `prefix`.
    pub fn clear_prefix(&self, prefix: impl IntoBytes) {
        let begin = prefix.into_bytes();
        let end = prefix_end(&begin);
        self.clear_range(begin, end);
    }

    /// Sets a key that will contain the commit's versionstamp: [`Transaction::committed`] then names it. Until then it is
    /// unknown, and reading where it may come to lie is an error.
    pub fn set_versionstamped_key(&self, key: Stamped, value: impl IntoBytes) {
        let value = value.into_bytes();
        self.change(&[], |state, family| state.writes.set_stamped_key(family, key, value));
    }

    /// Sets a value that will contain the commit's versionstamp. Reading it in this transaction is an error.
    pub fn set_versionstamped_value(&self, key: impl IntoBytes, value: Stamped) {
        let key = key.into_bytes();
        self.change(&[&key], |state, family| state.writes.set_stamped_value(family, key.clone(), value));
    }

    /// Lets the commit fail if this key is written meanwhile, as if it had been read.
    pub fn add_read_conflict_key(&self, key: impl IntoBytes) {
        let key = key.into_bytes();
        self.change(&[&key], |state, family| state.conflicts.add_key(family, key.clone()));
    }

    /// Lets the commit fail if anything in `begin <= key < end` is written meanwhile, as if it had been read.
    pub fn add_read_conflict_range(&self, begin: impl IntoBytes, end: impl IntoBytes) {
        let (begin, end) = (begin.into_bytes(), self.bound(end.into_bytes()));
        self.change(&[], |state, family| state.conflicts.add_range(family, begin, end));
    }

    fn atomic(&self, kind: MutationKind, key: Bytes, operand: Bytes) {
        self.change(&[&key], |state, family| state.writes.atomic(family, kind, key.clone(), operand));
    }

    fn change(&self, keys: &[&Bytes], change: impl FnOnce(&mut State, &str)) {
        let mut state = self.inner.state();
        match state.check() {
            Ok(()) => {}
            Err(error @ ClientError::TransactionEnded(_)) => {
                tracing::error!(%error, "a change that comes after the end of its transaction is lost");
                return;
            }
            Err(_) => return,
        }
        if keys.iter().any(|key| key.is_empty()) {
            state.misuse = Some(ClientError::InvalidArgument("key cannot be empty".to_string()));
            return;
        }
        change(&mut state, &self.family);
        let (size_bytes, limit_bytes) = (state.writes.size_bytes(), self.inner.database.max_transaction_bytes());
        if size_bytes > limit_bytes {
            state.misuse = Some(ClientError::TransactionTooLarge { size_bytes, limit_bytes });
        }
    }
}
