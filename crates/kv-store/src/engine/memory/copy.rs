//! Copies of the memory engine: its tables at one moment, and engines built from them.
//!
//! Each table is a part: its entries in order of key, each `key length (u32) | key | value length
//! (u32) | value`, numbers big-endian. The same content gives the same bytes. A copy of the former
//! layout ends before the garbage table, which is empty then.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kv_api::KvError;

use super::super::copy::{EngineCopy, EngineInstall, Header, Kind, Part, PartHash, PartsTarget, Receiver};
use super::super::{Durability, Engine, Table};
use super::{ActiveCopy, MemoryEngine, Rows, Tables};

/// Entries that are copied under one hold of the lock.
const CHUNK_ENTRIES: usize = 256;

const TABLES: [(Table, &str); 3] = [(Table::Data, "data"), (Table::Meta, "meta"), (Table::Garbage, "garbage")];

/// The number of tables in the former layout.
const FORMER_TABLES: usize = 2;

/// The content of an engine at one moment, encoded.
pub(super) struct MemoryCopy {
    /// In the order of [`TABLES`].
    tables: Vec<Bytes>,
    stream: Bytes,
}

impl MemoryCopy {
    pub fn take(engine: &MemoryEngine) -> Result<Self, KvError> {
        let moment = ActiveCopy::begin(engine);
        let tables = TABLES.map(|(table, _)| encode(&moment, table)).into_iter().collect::<Result<Vec<_>, _>>()?;
        drop(moment);
        let part = |((_, name), bytes): (&(Table, &str), &Bytes)| Part {
            name: name.to_string(),
            length: bytes.len() as u64,
            hash: PartHash::of(bytes),
        };
        let parts = TABLES.iter().zip(&tables).map(part).collect();
        let mut stream = BytesMut::from(Header { kind: Kind::MemoryTables, parts }.encode());
        // The tables are views of the one buffer.
        let starts: Vec<usize> = tables
            .iter()
            .map(|table| {
                let start = stream.len();
                stream.extend_from_slice(table);
                start
            })
            .collect();
        let stream = stream.freeze();
        let tables = starts.into_iter().zip(tables).map(|(start, table)| stream.slice(start..start + table.len()));
        Ok(MemoryCopy { tables: tables.collect(), stream })
    }
}

fn encode(moment: &ActiveCopy<'_>, table: Table) -> Result<Bytes, KvError> {
    let mut encoded = BytesMut::new();
    let mut last: Option<Bytes> = None;
    loop {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let chunk = moment.entries(table, after, CHUNK_ENTRIES);
        for (key, value) in chunk.entries {
            put(&mut encoded, &key)?;
            put(&mut encoded, &value)?;
        }
        if chunk.last.is_none() {
            return Ok(encoded.freeze());
        }
        last = chunk.last;
    }
}

fn put(into: &mut BytesMut, field: &[u8]) -> Result<(), KvError> {
    let length = u32::try_from(field.len())
        .map_err(|_| KvError::Storage(format!("an entry of {} bytes is too long to be copied", field.len())))?;
    into.put_u32(length);
    into.put(field);
    Ok(())
}

/// Takes the next key or value; `None` if `from` does not begin with one.
fn take(from: &mut Bytes) -> Option<Bytes> {
    let length = from.clone().try_get_u32().ok()? as usize;
    if from.len() - 4 < length {
        return None;
    }
    from.advance(4);
    Some(from.split_to(length))
}

impl EngineCopy for MemoryCopy {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let place = TABLES.iter().position(|(other, _)| *other == table).expect("every table is copied");
        Ok(decode(self.tables[place].clone())?.remove(key))
    }

    fn total_bytes(&self) -> u64 {
        self.stream.len() as u64
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, KvError> {
        let start = usize::try_from(offset).ok().filter(|start| *start <= self.stream.len());
        let end = start.and_then(|start| start.checked_add(length)).filter(|end| *end <= self.stream.len());
        match (start, end) {
            (Some(start), Some(end)) => Ok(self.stream.slice(start..end)),
            _ => Err(KvError::Storage(format!("the copy has {} bytes, none at {offset}", self.stream.len()))),
        }
    }
}

fn decode(mut bytes: Bytes) -> Result<Rows, KvError> {
    let damaged = || KvError::Corruption("the copy of a database: a table's entries cannot be read".into());
    let mut rows: Rows = BTreeMap::new();
    while !bytes.is_empty() {
        let key = take(&mut bytes).ok_or_else(damaged)?;
        let value = take(&mut bytes).ok_or_else(damaged)?;
        if rows.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(damaged());
        }
        rows.insert(key, value);
    }
    Ok(rows)
}

/// A memory engine that is being built from a copy.
pub struct MemoryInstall {
    durability: Durability,
    receiver: Receiver<Received>,
}

#[derive(Default)]
struct Received {
    names: Vec<String>,
    bytes: Vec<BytesMut>,
}

impl PartsTarget for Received {
    fn begin(&mut self, part: &Part) -> Result<(), KvError> {
        self.names.push(part.name.clone());
        self.bytes.push(BytesMut::new());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        self.bytes.last_mut().expect("a part was begun").extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), KvError> {
        Ok(())
    }
}

impl MemoryInstall {
    /// An empty engine to be built.
    pub fn new(durability: Durability) -> Self {
        MemoryInstall { durability, receiver: Receiver::new(Kind::MemoryTables, Received::default()) }
    }

    /// Takes the next bytes of the copy. After an error every further call fails, too.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when the bytes are not those of a sound copy.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        self.receiver.write(bytes)
    }

    /// The engine, with the whole copy flushed.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when the copy is incomplete.
    pub fn into_engine(self) -> Result<MemoryEngine, KvError> {
        let Received { names, bytes } = self.receiver.finish()?;
        let expected = TABLES.map(|(_, name)| name);
        if names != expected && names != expected[..FORMER_TABLES] {
            return Err(KvError::Corruption(format!("the copy of a database: its parts are {}", names.join(", "))));
        }
        let mut tables = bytes.into_iter().map(|bytes| decode(bytes.freeze()));
        let mut next = || tables.next().unwrap_or_else(|| Ok(Rows::new()));
        let tables = Tables { data: next()?, meta: next()?, garbage: next()? };
        Ok(MemoryEngine::holding(self.durability, tables))
    }
}

impl EngineInstall for MemoryInstall {
    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        MemoryInstall::write(self, bytes)
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn Engine>, KvError> {
        Ok(Arc::new(self.into_engine()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::WriteBatch;

    #[test]
    fn a_copy_of_the_former_layout_becomes_an_engine_with_an_empty_garbage_table() {
        let mut stream = BytesMut::new();
        put(&mut stream, b"key").unwrap();
        put(&mut stream, b"value").unwrap();
        let part = |name: &str| Part { name: name.into(), length: stream.len() as u64, hash: PartHash::of(&stream) };
        let header =
            |names: &[&str]| Header { kind: Kind::MemoryTables, parts: names.iter().map(|name| part(name)).collect() };
        let install = |names: &[&str]| {
            let mut install = MemoryInstall::new(Durability::UntilFlush);
            install.write(&header(names).encode()).unwrap();
            names.iter().for_each(|_| install.write(&stream).unwrap());
            install.into_engine()
        };
        let engine = install(&["data", "meta"]).unwrap();
        for (table, expected) in [(Table::Data, Some("value")), (Table::Meta, Some("value")), (Table::Garbage, None)] {
            assert_eq!(engine.get(table, b"key").unwrap().as_deref(), expected.map(str::as_bytes));
        }
        let mut batch = WriteBatch::new();
        batch.put(Table::Garbage, b"entry", b"");
        engine.write(&batch).unwrap();
        for names in [&["data"][..], &["data", "garbage"], &["data", "meta", "other"]] {
            let error = install(names).err().expect("refused").to_string();
            assert!(error.contains(&names.join(", ")), "{error}");
        }
    }
}
