//! The record of the feature level in a replica's database.

use kv_store::TransactionalKvDatabase;
use rsml::{ExecutionError, ReplicatedState};

use super::snapshots::failed;

/// The feature level that the database records is a copy of the one in the replicated state, and was
/// written together with it.
pub(super) fn check_level(database: &TransactionalKvDatabase) -> Result<(), ExecutionError> {
    let Some((_, state)) = database.state_blob().map_err(failed)? else { return Ok(()) };
    // A state that cannot be read is reported by whoever needs it.
    let Some(state) = ReplicatedState::from_bytes(&state) else { return Ok(()) };
    let (replicated, recorded) = (state.feature_level.0, database.level());
    if replicated != recorded {
        let text = format!("its replicated state is at feature level {replicated}, and its own record says {recorded}");
        return Err(ExecutionError::corrupt(text));
    }
    Ok(())
}
