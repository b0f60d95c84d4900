//! Lists, creates and drops column families. Replicas agree on such a change like on a commit.

use std::collections::BTreeMap;

use kv_api::{CommitResult, DEFAULT_COLUMN_FAMILY, FamilyChange, KvError, KvOperation, KvOutcome, family_name_fault};
use kv_store::TransactionalKvDatabase;

use super::{KvServiceCore, mismatch};
use crate::router::RequestContext;

/// A column family that requests may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name as requests use it.
    pub name: String,
    /// False for a family that its first write will create.
    pub exists: bool,
    /// Whether this server's `storage.column_families` names it.
    pub is_configured: bool,
}

impl KvServiceCore {
    /// The families that requests may name, the default one first: those that exist in the database
    /// of this server's first replica, and those that the first write creates.
    pub fn column_families(&self) -> Vec<String> {
        self.families_here().into_iter().map(|family| family.name).collect()
    }

    /// The same families, with every change that was acknowledged before the call.
    pub async fn families(&self, context: &RequestContext) -> Result<Vec<Family>, KvError> {
        let version = self.read_version(context).await?;
        for local in self.parts.replicas.replicas().iter().take(1) {
            local.reader.wait_applied(version, context.deadline).await?;
        }
        Ok(self.families_here())
    }

    fn families_here(&self) -> Vec<Family> {
        let mut exists: BTreeMap<String, bool> =
            self.parts.column_families.iter().map(|name| (name.clone(), false)).collect();
        for local in self.parts.replicas.replicas().iter().take(1) {
            exists.extend(local.reader.database().column_families().iter().map(|name| (name.clone(), true)));
        }
        let default = Family { name: DEFAULT_COLUMN_FAMILY.into(), exists: true, is_configured: false };
        let others = exists.into_iter().map(|(name, exists)| {
            let is_configured = self.parts.column_families.contains(&name);
            Family { name, exists, is_configured }
        });
        std::iter::once(default).chain(others).collect()
    }

    /// Refuses a family, given by its internal name, that neither exists in `database` nor is
    /// created by its first write.
    pub fn check_family(&self, name: &str, database: &TransactionalKvDatabase) -> Result<(), KvError> {
        match database.has_family(name) || self.parts.column_families.iter().any(|configured| configured == name) {
            true => Ok(()),
            false => Err(KvError::UnknownColumnFamily { name: name.into(), existing: self.column_families() }),
        }
    }

    /// Creates a family. If it exists already, this succeeds and changes nothing.
    pub async fn create_family(&self, name: &str, context: &RequestContext) -> Result<CommitResult, KvError> {
        if let Some(fault) = family_name_fault(name) {
            return Err(KvError::InvalidOperation(format!("column family '{name}' cannot be created: {fault}")));
        }
        self.change_family(FamilyChange { name: name.into(), drop: false }, context).await
    }

    /// Drops the family with all its rows.
    pub async fn drop_family(&self, name: &str, context: &RequestContext) -> Result<CommitResult, KvError> {
        if name.is_empty() || name == DEFAULT_COLUMN_FAMILY {
            return Err(KvError::InvalidOperation("the default column family cannot be dropped".into()));
        }
        if self.parts.column_families.iter().any(|configured| configured == name) {
            return Err(KvError::InvalidOperation(format!(
                "storage.column_families of this server names '{name}', so that the next write to it would create it again: \
                 remove it from the configuration of every server, restart them, and then drop it"
            )));
        }
        self.change_family(FamilyChange { name: self.family(Some(name.into()))?, drop: true }, context).await
    }

    async fn change_family(&self, change: FamilyChange, context: &RequestContext) -> Result<CommitResult, KvError> {
        match self.route(KvOperation::ChangeFamily(change), context).await {
            Ok(KvOutcome::Committed(result)) => Ok(result),
            Ok(other) => Err(mismatch("the result of a change of families", &other)),
            Err(error) => Err(self.with_families(error, context)),
        }
    }
}
