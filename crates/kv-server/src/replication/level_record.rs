//! The record of the feature level in a replica's database.

use kv_api::KvError;
use kv_store::TransactionalKvDatabase;
use rsml::ReplicatedState;

/// The feature level that the database records is a copy of the one in the replicated state, and was
/// written together with it.
///
/// # Errors
/// [`KvError::Corruption`] if they differ, and the errors of the storage.
pub(super) fn check_level(database: &TransactionalKvDatabase) -> Result<(), KvError> {
    let Some((_, state)) = database.state_blob()? else { return Ok(()) };
    // A state that cannot be read is reported by whoever needs it.
    let Some(state) = ReplicatedState::from_bytes(&state) else { return Ok(()) };
    let (replicated, recorded) = (state.feature_level.0, database.level());
    match replicated == recorded {
        true => Ok(()),
        false => Err(KvError::Corruption(format!(
            "its replicated state is at feature level {replicated}, and its own record says {recorded}"
        ))),
    }
}
