//! The meta table of a database that no process has open. Nothing in its folder changes.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kv_api::KvError;
use rocksdb::{ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, Options};

use super::errors::{open_error, storage_error};
use super::options::family_name;
use crate::engine::Table;

pub(in crate::engine) struct StoppedRocks {
    db: DB,
    path: PathBuf,
}

impl StoppedRocks {
    /// Opens the meta table alone, without the right to write.
    pub fn open(path: &Path) -> Result<Self, KvError> {
        // Opening creates the folder, also without the right to write.
        if !path.join("CURRENT").exists() {
            return Err(KvError::Corruption(format!("there is no database in {}", path.display())));
        }
        let names = [DEFAULT_COLUMN_FAMILY_NAME, family_name(Table::Meta)];
        let families = names.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
        let mut options = Options::default();
        options.set_paranoid_checks(true);
        let opened = DB::open_cf_descriptors_read_only(&options, path, families, false);
        let db = opened.map_err(|error| open_error(path, &error))?;
        Ok(StoppedRocks { db, path: path.to_owned() })
    }

    /// The value of a key of the meta table.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let family = self.db.cf_handle(family_name(Table::Meta)).expect("it was opened");
        let value = self.db.get_cf(family, key).map_err(|error| storage_error(&self.path, &error))?;
        Ok(value.map(Bytes::from))
    }
}
