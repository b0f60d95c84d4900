//! A copy of a RocksDB database as one stream of bytes, read from a checkpoint: a folder of hard
//! links.
//!
//! RocksDB flushes its write buffers, all tables together, and then links the files that are live
//! at one moment, so a checkpoint ends with a whole batch. Until it is dropped it keeps the space
//! of files that are compacted away meanwhile.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use kv_api::KvError;
use rocksdb::DB;
use rocksdb::checkpoint::Checkpoint;

use super::filter::FilterWatermark;
use super::folder::{Folder, file_error};
use super::options::{Create, RocksOptions, database_options, families, family_name};
use super::{RocksEngine, open_error, storage_error};
use crate::engine::copy::{Header, Kind, Part, PartHash};
use crate::engine::{EngineCopy, Table};

/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 1 << 20;

pub(super) struct RocksCopy {
    folder: Folder,
    opened_with: RocksOptions,
    header: Bytes,
    parts: Vec<Part>,
    total_bytes: u64,
    /// The file read last, and its position in `parts`.
    open_file: Option<(usize, File)>,
}

impl RocksCopy {
    pub fn take(engine: &RocksEngine) -> Result<Self, KvError> {
        let folder = engine.folder.for_copy();
        let failed = |error: rocksdb::Error| storage_error(engine.path(), &error);
        Checkpoint::new(&engine.db).and_then(|made| made.create_checkpoint(folder.path())).map_err(failed)?;
        let parts = parts_of(&folder)?;
        let header = Header { kind: Kind::RocksFiles, parts };
        let (bytes, parts) = (header.encode(), header.parts);
        let total_bytes = bytes.len() as u64 + parts.iter().map(|part| part.length).sum::<u64>();
        let opened_with = engine.opened_with.clone();
        Ok(RocksCopy { folder, opened_with, header: bytes, parts, total_bytes, open_file: None })
    }

    /// Reads bytes that the part at `place` contains.
    fn read_part(&mut self, place: usize, offset: u64, into: &mut [u8]) -> Result<(), KvError> {
        let path = self.folder.path().join(&self.parts[place].name);
        let failed = |error: io::Error| file_error("read", &path, &error);
        let file = match self.open_file.take() {
            Some((open, file)) if open == place => file,
            _ => File::open(&path).map_err(failed)?,
        };
        file.read_exact_at(into, offset).map_err(failed)?;
        self.open_file = Some((place, file));
        Ok(())
    }
}

/// The files of a database, in order of name.
fn parts_of(folder: &Folder) -> Result<Vec<Part>, KvError> {
    let failed = folder.io_error("read");
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder.path()).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_of_database(&name) {
            let (length, hash) = hash_file(&entry.path()).map_err(|error| file_error("read", &entry.path(), &error))?;
            parts.push(Part { name, length, hash });
        }
    }
    parts.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(parts)
}

/// RocksDB's own journal and lock are not copied.
fn is_of_database(name: &str) -> bool {
    !name.starts_with("LOG") && name != "LOCK"
}

fn hash_file(path: &Path) -> io::Result<(u64, u64)> {
    let mut file = File::open(path)?;
    let mut hash = PartHash::default();
    let mut length = 0;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((length, hash.value()));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
    }
}

impl EngineCopy for RocksCopy {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let path = self.folder.path();
        let options = database_options(&self.opened_with, Create::Nothing);
        // The checkpoint is not compacted.
        let families = families(&self.opened_with, &FilterWatermark::default());
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false)
            .map_err(|error| open_error(path, &error))?;
        let family = db.cf_handle(family_name(table)).expect("all column families are opened");
        Ok(db.get_cf(family, key).map_err(|error| storage_error(path, &error))?.map(Bytes::from))
    }

    fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, KvError> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.total_bytes) {
            return Err(KvError::Storage(format!("the copy has {} bytes, not {length} at {offset}", self.total_bytes)));
        }
        let mut bytes = BytesMut::zeroed(length);
        let mut filled = 0;
        // Where the current piece begins in the stream.
        let mut start = self.header.len() as u64;
        if offset < start {
            let from = usize::try_from(offset).expect("less than the header's length");
            filled = length.min(self.header.len() - from);
            bytes[..filled].copy_from_slice(&self.header[from..from + filled]);
        }
        for place in 0..self.parts.len() {
            if filled == length {
                break;
            }
            let (at, end) = (offset + filled as u64, start + self.parts[place].length);
            if at < end {
                let piece = usize::try_from(end - at).unwrap_or(usize::MAX).min(length - filled);
                self.read_part(place, at - start, &mut bytes[filled..filled + piece])?;
                filled += piece;
            }
            start = end;
        }
        Ok(bytes.freeze())
    }
}
