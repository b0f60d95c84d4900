//! The limits that the servers have reported.
//!
//! Until one has reported any, the defaults of the interface are used. Old servers never report
//! any.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use kv_api::Limits;
use kv_api::thrift::generated::ServerLimits;

/// The known limits, shared by everything that belongs to one [`crate::Client`].
#[derive(Clone, Default)]
pub(crate) struct KnownLimits(Arc<RwLock<Limits>>);

impl KnownLimits {
    pub fn get(&self) -> Limits {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over the limits that a server reported, except for those that are not positive.
    pub fn learn(&self, reported: &ServerLimits) {
        let take = |limit: &mut usize, reported: i64| {
            if let Some(reported) = usize::try_from(reported).ok().filter(|reported| *reported > 0) {
                *limit = reported;
            }
        };
        let mut limits = self.0.write().unwrap_or_else(PoisonError::into_inner);
        take(&mut limits.max_key_bytes, reported.max_key_bytes);
        take(&mut limits.max_value_bytes, reported.max_value_bytes);
        take(&mut limits.max_transaction_bytes, reported.max_transaction_bytes);
        take(&mut limits.max_conflicts, reported.max_conflicts);
        take(&mut limits.max_reply_bytes, reported.max_reply_bytes);
    }

    /// Shortens the end of a range without changing which keys the range contains. Keys have at
    /// most `max_key_bytes`, so only that many bytes of the end and one more can matter. An end
    /// after all keys thus costs hardly more than the longest key.
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
    fn the_end_of_keys_sorts_after_the_longest_key_of_every_server() {
        let limits = KnownLimits::default();
        for max_key_bytes in [1, 10_000, 20_000, 1 << 20] {
            limits.learn(&ServerLimits::new(max_key_bytes, 0, -1, 0, 0));
            let longest = vec![0xFF; max_key_bytes as usize];
            let end = limits.bound(end_of_keys());
            assert!(end > longest && end.len() == longest.len() + 1);
        }
        let defaults = Limits { max_key_bytes: 1 << 20, ..Limits::default() };
        assert_eq!(limits.get(), defaults, "limits that are not positive are ignored");
    }

    #[test]
    fn a_short_end_is_not_changed() {
        assert_eq!(KnownLimits::default().bound("b".into()), "b");
    }
}
