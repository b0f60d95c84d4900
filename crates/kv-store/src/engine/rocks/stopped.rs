//! Reads the records of a database that no process has open, and changes nothing in its folder.

use std::path::Path;

use bytes::Bytes;
use kv_api::KvError;
use rocksdb::{ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, Options};

use super::errors::{open_error, storage_error};
use super::options::family_name;
use crate::engine::Table;
use crate::meta::StoredRecords;

/// Opens the meta table alone, without the right to write.
pub(in crate::engine) fn read_stopped(path: &Path) -> Result<StoredRecords, KvError> {
    // Opening creates the folder, also without the right to write.
    if !path.join("CURRENT").exists() {
        return Err(KvError::Corruption(format!("there is no database in {}", path.display())));
    }
    let meta = family_name(Table::Meta);
    let families = [DEFAULT_COLUMN_FAMILY_NAME, meta].map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    let opened = DB::open_cf_descriptors_read_only(&options, path, families, false);
    let db = opened.map_err(|error| open_error(path, &error))?;
    let family = db.cf_handle(meta).expect("it was opened");
    StoredRecords::read(|key| {
        let value = db.get_cf(family, key).map_err(|error| storage_error(path, &error))?;
        Ok(value.map(Bytes::from))
    })
}
