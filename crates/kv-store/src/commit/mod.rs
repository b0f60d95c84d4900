//! Commits: checks, conflicts, effects and results. [`decide`] is where to begin reading.

pub(crate) mod conflict_index;
pub(crate) mod conflicts;
pub(crate) mod decide;
pub(crate) mod deciding;
pub(crate) mod execute;
pub(crate) mod families;
pub(crate) mod idempotency;
pub(crate) mod known_keys;
pub(crate) mod resolve;
pub(crate) mod state_machine;
