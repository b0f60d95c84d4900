//! The feature level, as a trait, so that the front end can show and raise it without knowing the
//! mode.
//!
//! A program executes a range of levels ([`LOWEST_LEVEL`] to [`HIGHEST_LEVEL`]), and each log or
//! database has one level, which never goes down. While it is that of the previous release, the
//! previous release can be put back; raising it ends an upgrade.

use async_trait::async_trait;
pub use kv_api::{HIGHEST_LEVEL, LOWEST_LEVEL};
use serde::Serialize;
use tokio::time::Instant;

use crate::order::OrderError;

/// The feature level of the data that this server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelView {
    /// The present level.
    pub level: u32,
    /// The level to which it can be raised now, or why there is none.
    pub next: Result<u32, String>,
}

/// The levels of one replica, as far as this server knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ReplicaLevels {
    /// The level that its database has applied.
    pub feature_level: u32,
    /// The lowest level that its program executes.
    pub lowest_level: u32,
    /// The highest.
    pub highest_level: u32,
}

/// Shows the feature level and raises it.
#[async_trait]
pub trait UpgradeControl: Send + Sync + 'static {
    /// The present level, and the next one.
    fn level(&self) -> LevelView;

    /// Raises the level to `to`, by default to the highest that all replicas execute. Returns the
    /// level that this server has applied then. A release that does not execute it cannot be put
    /// back. With `force`, replicas whose voting disk is silent are passed over, as long as a
    /// majority is there.
    async fn finalize(&self, to: Option<u32>, force: bool, deadline: Instant) -> Result<u32, OrderError>;
}

/// The error for a write that the log must not hold at the present level.
pub(crate) fn above_level(needed: u32, level: u32) -> kv_api::KvError {
    kv_api::KvError::InvalidOperation(format!(
        "this needs feature level {needed}, and the data is at level {level}: once all replicas run this release, raise the \
         level with `synodkv upgrade finalize`"
    ))
}
