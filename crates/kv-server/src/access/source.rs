//! Where the gate gets the policy from.

use std::sync::Arc;

use kv_api::KvError;
use kv_api::access::Policy;

/// The applied policy of this server.
pub trait PolicySource: Send + Sync + 'static {
    /// The revision of the applied policy if it is enabled, otherwise 0. One atomic load: every
    /// request asks.
    fn enabled_revision(&self) -> u64;

    /// The applied policy.
    fn policy(&self) -> Arc<Policy>;

    /// Refuses when this server has not heard from a primary for so long that its policy may be out of
    /// date.
    ///
    /// # Errors
    /// [`KvError::NoPrimary`].
    fn check_fresh(&self) -> Result<(), KvError>;
}

/// A source that never checks anything: for callers without a database.
pub struct NoPolicy;

impl PolicySource for NoPolicy {
    fn enabled_revision(&self) -> u64 {
        0
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::default()
    }

    fn check_fresh(&self) -> Result<(), KvError> {
        Ok(())
    }
}
