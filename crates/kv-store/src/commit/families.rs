//! Which column families exist. The default family, whose name is empty, always does.
//!
//! A dropped family is remembered as long as a commit may depend on what it held: a conflict key
//! without a family is checked in dropped families, too.

use std::collections::BTreeMap;

use kv_api::KvError;

use crate::engine::{Engine, WriteBatch};
use crate::meta::{self, FamilyState};

/// Maximum number of families in addition to the default one. Replicas must agree on it, so it is
/// no setting: a conflict key without a family costs one lookup in each.
pub const MAX_COLUMN_FAMILIES: usize = 100;

#[derive(Clone, Debug, Default)]
pub(crate) struct Families {
    named: BTreeMap<String, FamilyState>,
    /// Whether a dropped family is remembered; most of the time none is.
    any_dropped: bool,
    /// Counts the changes to which families exist.
    changes: u64,
}

impl Families {
    /// Loads the families that the engine has.
    pub fn load(engine: &dyn Engine) -> Result<Families, KvError> {
        let named = meta::load_families(engine)?;
        let any_dropped = named.values().any(|state| *state != FamilyState::Exists);
        Ok(Families { named, any_dropped, changes: 1 })
    }

    /// A number that grows with every change to which families exist.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether requests may name the family.
    pub fn exists(&self, name: &str) -> bool {
        name.is_empty() || self.named.get(name) == Some(&FamilyState::Exists)
    }

    /// Existing families without the default one, in order.
    pub fn names(&self) -> Vec<String> {
        let existing = self.named.iter().filter(|(_, state)| **state == FamilyState::Exists);
        existing.map(|(name, _)| name.clone()).collect()
    }

    /// Families in which a conflict key without a family must be checked: the default one, existing
    /// ones, and dropped ones that are still remembered.
    pub fn readable(&self) -> impl Iterator<Item = &str> {
        std::iter::once("").chain(self.named.keys().map(String::as_str))
    }

    /// Creates a family; false if it exists already.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] when there are [`MAX_COLUMN_FAMILIES`] already.
    pub fn create(&mut self, batch: &mut WriteBatch, name: &str) -> Result<bool, KvError> {
        if self.exists(name) {
            return Ok(false);
        }
        let existing = self.names().len();
        if existing >= MAX_COLUMN_FAMILIES {
            return Err(KvError::InvalidOperation(format!(
                "there are {existing} column families already: no more fit"
            )));
        }
        self.set(batch, name, FamilyState::Exists);
        Ok(true)
    }

    /// Drops an existing family at `version`.
    pub fn drop_at(&mut self, batch: &mut WriteBatch, name: &str, version: u64) {
        self.set(batch, name, FamilyState::Dropped(version));
        self.any_dropped = true;
    }

    fn set(&mut self, batch: &mut WriteBatch, name: &str, state: FamilyState) {
        self.named.insert(name.to_owned(), state);
        self.changes += 1;
        meta::put_family(batch, name, state);
    }

    /// Forgets the families that were dropped up to `oldest_readable`: no later commit reads below
    /// it.
    pub fn forget_dropped(&mut self, batch: &mut WriteBatch, oldest_readable: u64) {
        if !self.any_dropped {
            return;
        }
        self.named.retain(|name, state| {
            let keeps = match state {
                FamilyState::Exists => true,
                FamilyState::Dropped(version) => *version > oldest_readable,
            };
            if !keeps {
                meta::delete_family(batch, name);
            }
            keeps
        });
        self.any_dropped = self.named.values().any(|state| *state != FamilyState::Exists);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, MemoryEngine};

    #[test]
    fn a_dropped_family_is_remembered_until_the_oldest_readable_version_reaches_the_drop_and_then_forgotten_for_good() {
        let engine = MemoryEngine::new(Durability::EveryWrite);
        let write = |change: &mut dyn FnMut(&mut Families, &mut WriteBatch)| {
            let (mut families, mut batch) = (Families::load(&engine).unwrap(), WriteBatch::new());
            change(&mut families, &mut batch);
            engine.write(&batch).unwrap();
            let again = Families::load(&engine).unwrap();
            assert_eq!((again.names(), &again.named), (families.names(), &families.named));
            families.named.len()
        };
        write(&mut |families, batch| {
            assert_eq!((families.create(batch, "f"), families.create(batch, "f")), (Ok(true), Ok(false)));
            families.create(batch, "g").unwrap();
        });
        assert_eq!(write(&mut |families, batch| families.drop_at(batch, "f", 7)), 2);
        assert_eq!(write(&mut |families, batch| families.forget_dropped(batch, 6)), 2);
        assert_eq!(write(&mut |families, batch| families.forget_dropped(batch, 7)), 1);
    }

    #[test]
    fn families_are_refused_beyond_the_most_that_fit() {
        let (mut families, mut batch) = (Families::default(), WriteBatch::new());
        (0..MAX_COLUMN_FAMILIES)
            .for_each(|number| assert_eq!(families.create(&mut batch, &number.to_string()), Ok(true)));
        assert!(matches!(families.create(&mut batch, "one more"), Err(KvError::InvalidOperation(_))));
        families.drop_at(&mut batch, "0", 7);
        assert_eq!(families.create(&mut batch, "one more"), Ok(true));
    }
}
