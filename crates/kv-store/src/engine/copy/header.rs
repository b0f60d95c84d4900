//! The header of a copy, which lists its parts.
//!
//! ```text
//! header = magic (8 bytes) | version (u32) | length of the list (u32) | list | xxh3 of all before (u64)
//! list   = kind of engine (u32) | number of parts (u32) | part …
//! part   = length of the name (u16) | name | length (u64) | xxh3 (u64)
//! ```
//! Numbers are big-endian. The parts follow in the order of the list, with nothing between them.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kv_api::KvError;

use super::{PartHash, damaged};

const MAGIC: [u8; 8] = *b"SKV-COPY";
/// To be increased when a program that knows only this layout must not read a copy.
const VERSION: u32 = 1;
/// Magic, version and length of the list.
const FIXED_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 8;
/// Room for about 400,000 files. A longer list is no sound header.
const MAX_LIST_BYTES: usize = 16 << 20;
const MAX_NAME_BYTES: usize = 255;

/// The kind of engine that can read the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files of a RocksDB database.
    RocksFiles = 1,
    /// The tables of the memory engine.
    MemoryTables = 2,
}

impl Kind {
    fn of(number: u32) -> Option<Kind> {
        [Kind::RocksFiles, Kind::MemoryTables].into_iter().find(|kind| *kind as u32 == number)
    }

    fn words(self) -> &'static str {
        match self {
            Kind::RocksFiles => "a RocksDB database",
            Kind::MemoryTables => "a database in memory",
        }
    }
}

/// One part of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// A name that [`is_plain`] accepts.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// XXH3 (64 bits, seed 0) of its bytes.
    pub hash: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub parts: Vec<Part>,
}

impl Header {
    pub fn encode(&self) -> Bytes {
        let mut list = BytesMut::new();
        list.put_u32(self.kind as u32);
        list.put_u32(u32::try_from(self.parts.len()).expect("a copy has far fewer parts"));
        for part in &self.parts {
            list.put_u16(u16::try_from(part.name.len()).expect("names of parts are short"));
            list.put(part.name.as_bytes());
            list.put_u64(part.length);
            list.put_u64(part.hash);
        }
        assert!(list.len() <= MAX_LIST_BYTES, "a copy of {} parts has too long a list", self.parts.len());
        let mut header = BytesMut::with_capacity(FIXED_BYTES + list.len() + CHECKSUM_BYTES);
        header.put(&MAGIC[..]);
        header.put_u32(VERSION);
        header.put_u32(list.len() as u32);
        header.put(list);
        header.put_u64(PartHash::of(&header));
        header.freeze()
    }

    /// The length of the header that `begin` begins with; `None` if more bytes are needed to tell.
    pub fn length(begin: &[u8]) -> Result<Option<usize>, KvError> {
        let known = begin.len().min(MAGIC.len());
        if begin[..known] != MAGIC[..known] {
            return Err(damaged("it does not begin as copies do"));
        }
        let Some(mut numbers) = begin.get(MAGIC.len()..FIXED_BYTES) else { return Ok(None) };
        let (version, list_bytes) = (numbers.get_u32(), numbers.get_u32() as usize);
        if version != VERSION {
            let text = format!("it has format {version}; this version of the program reads format {VERSION}");
            return Err(KvError::Storage(format!("the copy of a database: {text}")));
        }
        if list_bytes > MAX_LIST_BYTES {
            return Err(damaged(format!("its list of parts has {list_bytes} bytes, beyond {MAX_LIST_BYTES}")));
        }
        Ok(Some(FIXED_BYTES + list_bytes + CHECKSUM_BYTES))
    }

    /// Decodes a header of the length that [`Header::length`] gave, for an engine of the kind
    /// `wanted`.
    pub fn decode(bytes: &[u8], wanted: Kind) -> Result<Header, KvError> {
        let (content, mut checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        if checksum.get_u64() != PartHash::of(content) {
            return Err(damaged("its header has another checksum than it says"));
        }
        let header = Self::decode_list(&content[FIXED_BYTES..]).ok_or_else(|| damaged("its header cannot be read"))?;
        if header.kind != wanted {
            let text = format!("it is of {}, and this is {}", header.kind.words(), wanted.words());
            return Err(KvError::Storage(format!("the copy of a database: {text}")));
        }
        let mut names = BTreeSet::new();
        match header.parts.iter().find(|part| !is_plain(&part.name) || !names.insert(&part.name)) {
            Some(part) => Err(damaged(format!("`{}` is no name of a part, or named twice", part.name.escape_debug()))),
            None => Ok(header),
        }
    }

    fn decode_list(mut list: &[u8]) -> Option<Header> {
        let kind = Kind::of(list.try_get_u32().ok()?)?;
        let count = list.try_get_u32().ok()?;
        let mut parts = Vec::new();
        let mut total_bytes = 0u64;
        for _ in 0..count {
            let name_bytes = usize::from(list.try_get_u16().ok()?);
            let name = std::str::from_utf8(list.get(..name_bytes)?).ok()?.to_owned();
            list.advance(name_bytes);
            let (length, hash) = (list.try_get_u64().ok()?, list.try_get_u64().ok()?);
            total_bytes = total_bytes.checked_add(length)?;
            parts.push(Part { name, length, hash });
        }
        list.is_empty().then_some(Header { kind, parts })
    }
}

/// Whether a name is safe as that of a file in a folder.
fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.starts_with('.') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let part = |name: &str, length| Part { name: name.into(), length, hash: length ^ 7 };
        Header { kind: Kind::RocksFiles, parts: vec![part("000012.sst", 4096), part("CURRENT", 16)] }
    }

    #[test]
    fn a_header_decodes_as_it_was_encoded() {
        let bytes = header().encode();
        assert_eq!(Header::length(&bytes[..20]).unwrap(), Some(bytes.len()));
        assert_eq!(Header::decode(&bytes, Kind::RocksFiles).unwrap(), header());
    }

    #[test]
    fn every_changed_byte_of_a_header_is_noticed() {
        let bytes = header().encode();
        for place in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[place] ^= 0x40;
            let noticed = match Header::length(&changed) {
                Err(_) => true,
                Ok(length) => length != Some(bytes.len()) || Header::decode(&changed, Kind::RocksFiles).is_err(),
            };
            assert!(noticed, "byte {place}");
        }
    }

    #[test]
    fn a_copy_of_another_engine_or_a_later_format_is_named() {
        let bytes = header().encode();
        let other = Header::decode(&bytes, Kind::MemoryTables).unwrap_err().to_string();
        assert!(other.contains("it is of a RocksDB database, and this is a database in memory"), "{other}");
        let mut later = bytes.to_vec();
        later[11] = 9;
        assert!(Header::length(&later).unwrap_err().to_string().contains("format 9"));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["", ".", "..", "../evil", "a/b", "/etc/passwd", "a\0b", ".hidden"] {
            let header = Header { kind: Kind::RocksFiles, parts: vec![Part { name: name.into(), length: 1, hash: 1 }] };
            assert!(Header::decode(&header.encode(), Kind::RocksFiles).is_err(), "{name:?}");
        }
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let part = |name: &str| Part { name: name.into(), length: u64::MAX, hash: 1 };
        let header = Header { kind: Kind::RocksFiles, parts: vec![part("a"), part("b")] };
        assert!(Header::decode(&header.encode(), Kind::RocksFiles).is_err());
    }
}
