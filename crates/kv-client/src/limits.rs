//! What the servers take at most, as far as they have told.
//!
//! Until one has, the defaults of the interface stand in: an older server tells nothing.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use kv_api::Limits;
use kv_api::thrift::generated::ServerLimits;

/// Shared by everything that belongs to one [`crate::Client`].
#[derive(Clone, Default)]
pub(crate) struct KnownLimits(Arc<RwLock<Limits>>);

impl KnownLimits {
    pub fn get(&self) -> Limits {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what a server told. What makes no sense as a limit is not believed.
    pub fn learn(&self, told: &ServerLimits) {
        let take = |limit: &mut usize, told: i64| {
            if let Some(told) = usize::try_from(told).ok().filter(|told| *told > 0) {
                *limit = told;
            }
        };
        let mut limits = self.0.write().unwrap_or_else(PoisonError::into_inner);
        take(&mut limits.max_key_bytes, told.max_key_bytes);
        take(&mut limits.max_value_bytes, told.max_value_bytes);
        take(&mut limits.max_transaction_bytes, told.max_transaction_bytes);
        take(&mut limits.max_conflicts, told.max_conflicts);
        take(&mut limits.max_reply_bytes, told.max_reply_bytes);
    }

    /// The same end of a range, no longer than it has to be: among keys of at most `max_key_bytes`, what stands behind that
    /// length and one byte more decides nothing. So an end behind all keys costs no more than the longest key.
    pub fn bound(&self, end: Bytes) -> Bytes {
        let longest = self.0.read().unwrap_or_else(PoisonError::into_inner).max_key_bytes.saturating_add(1);
        if end.len() > longest { end.slice(..longest) } else { end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::end_of_keys;

    #[test]
    fn the_end_of_keys_lies_behind_the_longest_key_of_every_server() {
        let limits = KnownLimits::default();
        for max_key_bytes in [1, 10_000, 20_000, 1 << 20] {
            limits.learn(&ServerLimits::new(max_key_bytes, 0, -1, 0, 0));
            let longest = vec![0xFF; max_key_bytes as usize];
            let end = limits.bound(end_of_keys());
            assert!(end > longest && end.len() == longest.len() + 1);
        }
        let defaults = Limits { max_key_bytes: 1 << 20, ..Limits::default() };
        assert_eq!(limits.get(), defaults, "what makes no sense is not believed");
    }

    #[test]
    fn a_short_end_stays_as_it_is() {
        assert_eq!(KnownLimits::default().bound("b".into()), "b");
    }
}
