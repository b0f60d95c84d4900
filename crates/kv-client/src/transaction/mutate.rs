//! The calls that write. Writes stay in this process until the commit.
//!
//! These calls do not fail. If one of them is invalid, every later call of the transaction returns
//! its error, including the commit.

use bytes::Bytes;
use kv_api::MutationKind;

use super::attempt::Transaction;
use super::state::State;
use crate::ClientError;
use crate::keys::{IntoBytes, prefix_end};
use crate::stamped::Stamped;

macro_rules! atomics {
    ($($(#[$doc:meta])* $name:ident $kind:ident;)*) => {
        /// Atomic mutations. The server changes the value during the commit, so transactions that
        /// do the same at the same time do not conflict. Numbers are unsigned, little-endian, and
        /// as long as the operand: a shorter value is extended with zeros, and a longer one is cut.
        /// An absent value becomes the operand.
        ///
        /// Reading such a key in the same transaction reads it from the database, which counts for
        /// conflicts like any other read.
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
    /// Adds the operand, as in `tx.add("visits", 1u64.to_le_bytes())`. A carry out of the last byte
    /// is lost. The two's complement of a number subtracts it.
    add Add;
    /// Keeps the smaller of the value and the operand, compared as numbers.
    min Min;
    /// Keeps the larger of the value and the operand, compared as numbers.
    max Max;
    /// Keeps the one of value and operand that comes first in the order of keys.
    byte_min ByteMin;
    /// Keeps the one of value and operand that comes last in the order of keys.
    byte_max ByteMax;
    /// Keeps the bits that are set in both the value and the operand.
    bit_and BitAnd;
    /// Sets the bits that are set in the value or the operand.
    bit_or BitOr;
    /// Flips the bits of the value that are set in the operand.
    bit_xor BitXor;
    /// Appends the operand, unless that would make the value too long.
    append_if_fits AppendIfFits;
    /// Deletes the key if its value equals the operand.
    compare_and_clear CompareAndClear;
}

impl Transaction {
    /// Sets a key to a value.
    pub fn set(&self, key: impl IntoBytes, value: impl IntoBytes) {
        let (key, value) = (key.into_bytes(), value.into_bytes());
        self.change(&[&key], |state, family| state.writes.set(family, key.clone(), value));
    }

    /// Deletes a key. Deleting a key that does not exist is not an error.
    pub fn delete(&self, key: impl IntoBytes) {
        let key = key.into_bytes();
        self.change(&[&key], |state, family| state.writes.delete(family, key.clone()));
    }

    /// Deletes all keys in `begin <= key < end`. The commit is equally small for any number of
    /// keys.
    pub fn clear_range(&self, begin: impl IntoBytes, end: impl IntoBytes) {
        let (begin, end) = (begin.into_bytes(), self.bound(end.into_bytes()));
        // The server rejects an empty key, even as the beginning of a range.
        let begin = if begin.is_empty() { Bytes::from_static(&[0]) } else { begin };
        self.change(&[], |state, family| state.writes.clear_range(family, begin, end));
    }

    /// Deletes all keys that begin with `prefix`.
    pub fn clear_prefix(&self, prefix: impl IntoBytes) {
        let begin = prefix.into_bytes();
        let end = prefix_end(&begin);
        self.clear_range(begin, end);
    }

    /// Sets a key that will contain the commit's versionstamp. After the commit,
    /// [`Transaction::committed`] returns the key. Until then it is unknown, and reading a range in
    /// which it may end up is an error.
    pub fn set_versionstamped_key(&self, key: Stamped, value: impl IntoBytes) {
        let value = value.into_bytes();
        self.change(&[], |state, family| state.writes.set_stamped_key(family, key, value));
    }

    /// Sets a key to a value that will contain the commit's versionstamp. Reading it in this
    /// transaction is an error.
    pub fn set_versionstamped_value(&self, key: impl IntoBytes, value: Stamped) {
        let key = key.into_bytes();
        self.change(&[&key], |state, family| state.writes.set_stamped_value(family, key.clone(), value));
    }

    /// Makes the commit fail if this key is written in the meantime, as if it had been read.
    pub fn add_read_conflict_key(&self, key: impl IntoBytes) {
        let key = key.into_bytes();
        self.change(&[&key], |state, family| state.conflicts.add_key(family, key.clone()));
    }

    /// Makes the commit fail if any key in `begin <= key < end` is written in the meantime, as if
    /// the range had been read.
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
                tracing::error!(%error, "ignored a write after the end of its transaction");
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
