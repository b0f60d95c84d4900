//! The manifest of a backup, and the file that says whose backups a target holds.
//!
//! `manifest.json` is one object: `summary`, which everybody may read; `content`, which names
//! families and keys, and is sealed where the backup is encrypted; and `blake3`, the hash of the
//! bytes of the two. The sealed content is bound to the bytes of the summary.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::BackupError;
use crate::seal::{DataKey, Keys, MANIFEST_OBJECT, WrappedKey};

/// The number of this format.
pub const FORMAT: u32 = 1;
/// That of a backup with users, roles and tokens: programs which do not know them refuse it.
pub const FORMAT_WITH_USERS: u32 = 2;
/// The file at the root of a target.
pub(crate) const ROOT_FILE: &str = "synodkv-backup.json";
/// The folder of full backups.
pub(crate) const FULL: &str = "full";
pub(crate) const MANIFEST: &str = "manifest.json";

/// Whose backups a target holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootFile {
    pub format: u32,
    /// `None`: a standalone server, which has no cluster id.
    pub cluster_id: Option<String>,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// Its number, from 1.
    pub number: u32,
    /// Its size.
    pub bytes: u64,
    /// Its BLAKE3 hash in hexadecimal.
    pub blake3: String,
}

/// The public part of a manifest: everybody who can read the store may know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of the format.
    pub format: u32,
    /// The id of the backup.
    pub backup: String,
    /// The version of the program that made it.
    pub program: String,
    /// The cluster; `None`: a standalone server.
    pub cluster_id: Option<String>,
    /// The version of all rows.
    pub version: u64,
    /// The feature level of the cluster.
    pub feature_level: u32,
    /// When it was begun, by the clock of the machine that made it.
    #[serde(with = "rfc3339")]
    pub started: OffsetDateTime,
    /// When it was ended.
    #[serde(with = "rfc3339")]
    pub finished: OffsetDateTime,
    /// Whether only some families or keys were asked for.
    pub is_partial: bool,
    /// How many rows it holds.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub row_bytes: u64,
    /// Whether users, roles and tokens are in it.
    pub has_users: bool,
    /// The key, if it is encrypted.
    pub encryption: Option<Encryption>,
    /// All objects besides the manifest, by their numbers.
    pub objects: Vec<ObjectInfo>,
}

impl Summary {
    /// Bytes of all objects.
    pub fn stored_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).sum()
    }
}

/// How a backup is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// The cipher of the frames.
    cipher: String,
    pub(crate) key: WrappedKey,
}

const CIPHER: &str = "AES-256-GCM";

impl Encryption {
    pub(crate) fn new(key: WrappedKey) -> Encryption {
        Encryption { cipher: CIPHER.to_string(), key }
    }

    /// Its recipients or its key file, in words.
    pub fn describe(&self) -> String {
        match &self.key {
            WrappedKey::Age { recipients, .. } => format!("for {}", recipients.join(", ")),
            WrappedKey::KeyFile { fingerprint, .. } => format!("with the key file of fingerprint {fingerprint}"),
        }
    }
}

/// A family in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyInfo {
    /// Its name; the default family has an empty one.
    pub name: String,
    /// Its rows in the backup.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub row_bytes: u64,
}

/// Consecutive rows of one family, which are one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkInfo {
    /// The number of the object.
    pub object: u32,
    /// The family.
    pub family: String,
    /// The first key.
    #[serde(with = "hex_bytes")]
    pub first_key: Bytes,
    /// The last one.
    #[serde(with = "hex_bytes")]
    pub last_key: Bytes,
    /// The number of rows.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub row_bytes: u64,
    /// XXH3 of them, as `/rows/hash` of a server reports it for the same rows.
    #[serde(with = "hex_number")]
    pub hash: u64,
    /// Frames in the object.
    pub frames: u32,
}

/// The part of a manifest that is sealed in an encrypted backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// All families, in the order of their chunks.
    pub families: Vec<FamilyInfo>,
    /// Where the backed up range begins, if it is not everything.
    #[serde(with = "hex_option")]
    pub begin: Option<Bytes>,
    /// Where it ends.
    #[serde(with = "hex_option")]
    pub end: Option<Bytes>,
    /// The rows: by family, then by key.
    pub chunks: Vec<ChunkInfo>,
    /// Users, roles and tokens, encoded as a server gives them; of tokens there are hashes only.
    #[serde(default, with = "hex_option", skip_serializing_if = "Option::is_none")]
    pub users: Option<Bytes>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    summary: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed_content: Option<String>,
    blake3: String,
}

/// A manifest as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub summary: Summary,
    summary_text: String,
    content: StoredContent,
}

#[derive(Clone, Debug)]
enum StoredContent {
    Plain(Content),
    Sealed(Vec<u8>),
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("plain fields always serialize")
}

fn hash(summary: &str, content: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(summary.len() as u64).to_le_bytes());
    hasher.update(summary.as_bytes());
    hasher.update(content);
    hasher.finalize().to_hex().to_string()
}

/// The bytes of a manifest.
pub(crate) fn encode(summary: &Summary, content: &Content, key: Option<&DataKey>) -> Bytes {
    let (summary, content) = (raw(summary), raw(content));
    let document = match key {
        None => {
            let blake3 = hash(summary.get(), content.get().as_bytes());
            Document { summary, content: Some(content), sealed_content: None, blake3 }
        }
        Some(key) => {
            let mut sealed = content.get().as_bytes().to_vec();
            key.seal(MANIFEST_OBJECT, 0, summary.get().as_bytes(), &mut sealed);
            let sealed = BASE64_STANDARD.encode(sealed);
            let blake3 = hash(summary.get(), sealed.as_bytes());
            Document { summary, content: None, sealed_content: Some(sealed), blake3 }
        }
    };
    let mut text = serde_json::to_vec(&document).expect("plain fields always serialize");
    text.push(b'\n');
    text.into()
}

impl Manifest {
    pub fn decode(name: &str, text: &[u8]) -> Result<Manifest, BackupError> {
        let damaged = |reason: String| BackupError::damaged(name, reason);
        let document: Document =
            serde_json::from_slice(text).map_err(|error| damaged(format!("it is no manifest: {error}")))?;
        let stored = match (&document.content, &document.sealed_content) {
            (Some(content), None) => content.get().as_bytes(),
            (None, Some(sealed)) => sealed.as_bytes(),
            _ => return Err(damaged("it has no content".to_string())),
        };
        if hash(document.summary.get(), stored) != document.blake3 {
            return Err(damaged("it was changed: its hash differs".to_string()));
        }
        // The format first: a newer one may have other fields.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let summary_text = document.summary.get().to_string();
        let format: Format =
            serde_json::from_str(&summary_text).map_err(|error| damaged(format!("its summary: {error}")))?;
        if !(FORMAT..=FORMAT_WITH_USERS).contains(&format.format) {
            return Err(BackupError::Refused(format!(
                "{name} has format {}, and this program reads formats {FORMAT} to {FORMAT_WITH_USERS}: use a newer program",
                format.format
            )));
        }
        let summary = serde_json::from_str(&summary_text).map_err(|error| damaged(format!("its summary: {error}")))?;
        let content = match document.sealed_content {
            None => StoredContent::Plain(
                serde_json::from_slice(stored).map_err(|error| damaged(format!("its content: {error}")))?,
            ),
            Some(sealed) => StoredContent::Sealed(
                BASE64_STANDARD.decode(sealed).map_err(|error| damaged(format!("its content: {error}")))?,
            ),
        };
        Ok(Manifest { summary, summary_text, content })
    }

    /// The content, and the key with which it was opened.
    pub fn open(&self, name: &str, keys: &Keys) -> Result<(Content, Option<DataKey>), BackupError> {
        let damaged = |reason: &str| BackupError::damaged(name, reason);
        let (content, key) = match (&self.content, &self.summary.encryption) {
            (StoredContent::Plain(content), None) => (content.clone(), None),
            (StoredContent::Sealed(sealed), Some(encryption)) => {
                if encryption.cipher != CIPHER {
                    return Err(damaged(&format!("it names the cipher {}, and {CIPHER} is known", encryption.cipher)));
                }
                let key = DataKey::open(&encryption.key, keys, &self.summary.backup)?;
                let opened = key
                    .unseal(MANIFEST_OBJECT, 0, self.summary_text.as_bytes(), sealed)
                    .ok_or_else(|| damaged("it was changed: its content cannot be decrypted"))?;
                let content = serde_json::from_slice(&opened)
                    .map_err(|error| BackupError::damaged(name, format!("its content: {error}")))?;
                (content, Some(key))
            }
            _ => return Err(damaged("it says that it is encrypted, and is not, or the reverse")),
        };
        self.check(&content).map_err(|reason| damaged(&reason))?;
        Ok((content, key))
    }

    /// Whether summary and content fit together.
    fn check(&self, content: &Content) -> Result<(), String> {
        let rows: u64 = content.chunks.iter().map(|chunk| chunk.rows).sum();
        let by_family: u64 = content.families.iter().map(|family| family.rows).sum();
        if rows != self.summary.rows || by_family != rows {
            return Err(format!("it names {rows} rows, {by_family} by family, and {} in all", self.summary.rows));
        }
        let numbers = |numbers: Vec<u32>| numbers.into_iter().eq(1..=self.summary.objects.len() as u32);
        if !numbers(content.chunks.iter().map(|chunk| chunk.object).collect())
            || !numbers(self.summary.objects.iter().map(|object| object.number).collect())
        {
            return Err("its objects and its chunks are not the same".to_string());
        }
        let known = |chunk: &ChunkInfo| content.families.iter().any(|family| family.name == chunk.family);
        if !content.chunks.iter().all(known) {
            return Err("it has rows of a family that it does not name".to_string());
        }
        if content.users.is_some() != self.summary.has_users {
            return Err("it says that users are in it, and they are not, or the reverse".to_string());
        }
        Ok(())
    }
}

pub(crate) mod rfc3339 {
    use super::*;

    pub fn serialize<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
        let text = time.format(&Rfc3339).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom)
    }
}

mod hex_number {
    use super::*;

    pub fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:016x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Bytes> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

mod hex_bytes {
    use super::*;

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        from_hex(&String::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("expected pairs of hexadecimal digits"))
    }
}

mod hex_option {
    use super::*;

    pub fn serialize<S: Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| to_hex(bytes)).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        let read = |text: String| {
            from_hex(&text).ok_or_else(|| serde::de::Error::custom("expected pairs of hexadecimal digits"))
        };
        text.map(read).transpose()
    }
}
