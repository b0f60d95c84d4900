//! A check that a database still holds everything after a conversion.

use std::sync::Arc;

use kv_api::access::Policy;
use kv_store::{Durability, EngineKind, SharedResources, StoreOptions, TransactionalKvDatabase, open_engine};
use std::path::Path;

use super::ConvertError;

/// Facts that are equal in the old form and the new one. The rows themselves are in the same files.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Content {
    pub version: u64,
    pub time_us: u64,
    pub level: u32,
    pub oldest_readable: u64,
    pub remembered_ids: u64,
    families: Arc<Vec<String>>,
    policy: Arc<Policy>,
}

impl Content {
    pub fn of(database: &TransactionalKvDatabase) -> Content {
        Content {
            version: database.applied_version().0,
            time_us: database.time_us(),
            level: database.level(),
            oldest_readable: database.oldest_readable().0,
            remembered_ids: database.retention().remembered_ids,
            families: database.column_families(),
            policy: database.policy(),
        }
    }

    /// # Errors
    /// The two differ: then the conversion must end here.
    pub fn check(&self, other: &Content) -> Result<(), ConvertError> {
        match self == other {
            true => Ok(()),
            false => Err(ConvertError::Failed(format!(
                "the new database differs from the old one, which stays in use: {other:?} instead of {self:?}. Report \
                 this as a bug"
            ))),
        }
    }
}

/// Opens a database for a conversion. Nothing but the conversion changes it: no garbage is
/// collected.
pub(super) fn open(
    path: &Path,
    durability: Durability,
    resources: &SharedResources,
) -> Result<Arc<TransactionalKvDatabase>, ConvertError> {
    let options = match durability {
        Durability::EveryWrite => StoreOptions::standalone(),
        Durability::UntilFlush => StoreOptions::replicated(),
    };
    let failed = |error| ConvertError::Failed(format!("cannot open the database in {}: {error}", path.display()));
    let engine = open_engine(EngineKind::RocksDb, path, durability, resources).map_err(failed)?;
    let options = StoreOptions { collect_every: None, ..options.with_share(resources) };
    TransactionalKvDatabase::open(engine, options).map_err(failed)
}
