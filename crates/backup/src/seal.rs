//! Encryption of a backup.
//!
//! Each backup has a random data key of 256 bits, which is stored in its manifest, wrapped for
//! `age` recipients or with a key file. Everything else is sealed with AES-256-GCM under that key.
//!
//! Invariant: no two pieces are sealed under the same key with the same nonce. The nonce of a frame
//! is the number of its object and its place therein; objects are numbered once, the manifest has a
//! number that no object has, and a chunk that has to be stored again is the same bytes. The place of a
//! piece goes into its associated data, so none can take the place of another.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::BackupError;
use crate::credentials::{read_secret, write_secret};

const KEY_BYTES: usize = 32;
/// The number of the manifest among the objects.
pub(crate) const MANIFEST_OBJECT: u32 = u32::MAX;
/// The beginning of the line in a key file.
const KEY_FILE_MARK: &str = "SYNODKV-BACKUP-KEY-1";

/// How the key of a backup is stored in its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum WrappedKey {
    /// An `age` file that holds the key.
    Age {
        /// The file in base64.
        file: String,
        /// For whom it was made.
        recipients: Vec<String>,
    },
    /// Sealed under the key in a key file.
    KeyFile {
        /// Names the key file without revealing it.
        fingerprint: String,
        /// Random, once for each backup.
        nonce: String,
        /// The sealed key, in base64.
        sealed: String,
    },
}

/// For whom a new backup is sealed.
pub enum Sealing {
    /// Everybody who reads the store reads the rows.
    None,
    /// `age` recipients: lines that begin with `age1`.
    Recipients(Vec<String>),
    /// A key file.
    KeyFile(KeyFile),
}

impl Sealing {
    /// Sealing for whoever has the file at `path`.
    ///
    /// # Errors
    /// It is no key file, or others may read it.
    pub fn key_file(path: &Path) -> Result<Sealing, BackupError> {
        Ok(Sealing::KeyFile(KeyFile::read(path)?))
    }
}

/// The keys that the caller has to open backups.
#[derive(Default)]
pub struct Keys {
    identities: Vec<age::x25519::Identity>,
    key_files: Vec<KeyFile>,
}

impl Keys {
    /// Adds the key of a file: one of `synodkv backup key`, or an `age` identity.
    ///
    /// # Errors
    /// It is neither, or others may read it.
    pub fn add_file(&mut self, path: &Path) -> Result<(), BackupError> {
        let text = read_secret("key", path)?;
        let mut found = false;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if line.starts_with(KEY_FILE_MARK) {
                self.key_files.push(KeyFile::parse(line, path)?);
            } else {
                let identity = age::x25519::Identity::from_str(line).map_err(|_| no_key(path))?;
                self.identities.push(identity);
            }
            found = true;
        }
        if found { Ok(()) } else { Err(no_key(path)) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.key_files.is_empty()
    }
}

fn no_key(path: &Path) -> BackupError {
    BackupError::Input(format!(
        "{} holds no key: expected a line that begins with {KEY_FILE_MARK} (`synodkv backup key` makes one) or with \
         AGE-SECRET-KEY-1 (`age-keygen` makes one)",
        path.display()
    ))
}

/// A secret in a file, under which the keys of backups are sealed.
pub struct KeyFile {
    key: [u8; KEY_BYTES],
}

impl KeyFile {
    /// Makes a new file with a new key, which only its owner may read.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn create(path: &Path) -> Result<(), BackupError> {
        let key: [u8; KEY_BYTES] = random()?;
        let text = format!(
            "# Opens the backups that are made with it. Keep a copy where the loss of the cluster and of the store does not \
             reach it.\n{KEY_FILE_MARK} {}\n",
            BASE64_STANDARD.encode(key)
        );
        write_secret(path, &text)
    }

    fn read(path: &Path) -> Result<KeyFile, BackupError> {
        let text = read_secret("key", path)?;
        let line = text.lines().map(str::trim).find(|line| line.starts_with(KEY_FILE_MARK));
        KeyFile::parse(line.ok_or_else(|| no_key(path))?, path)
    }

    fn parse(line: &str, path: &Path) -> Result<KeyFile, BackupError> {
        let text = line.strip_prefix(KEY_FILE_MARK).unwrap_or_default().trim();
        let key = BASE64_STANDARD.decode(text).ok().and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok());
        Ok(KeyFile { key: key.ok_or_else(|| no_key(path))? })
    }

    fn fingerprint(&self) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        hmac::sign(&key, b"synodkv backup key file").as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The key of one backup.
pub(crate) struct DataKey {
    key: LessSafeKey,
    backup: String,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("backup", &self.backup).finish_non_exhaustive()
    }
}

impl DataKey {
    fn new(bytes: &[u8; KEY_BYTES], backup: &str) -> DataKey {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("the key has the length that the cipher asks for");
        DataKey { key: LessSafeKey::new(key), backup: backup.to_string() }
    }

    /// A new key for the backup, and its wrapped form; `None` without encryption.
    pub fn create(sealing: &Sealing, backup: &str) -> Result<Option<(DataKey, WrappedKey)>, BackupError> {
        let bytes: [u8; KEY_BYTES] = random()?;
        let wrapped = match sealing {
            Sealing::None => return Ok(None),
            Sealing::Recipients(recipients) => wrap_for(recipients, &bytes)?,
            Sealing::KeyFile(file) => {
                let nonce: [u8; NONCE_LEN] = random()?;
                let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &file.key).expect("a key of 256 bits"));
                let mut sealed = bytes.to_vec();
                key.seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(backup.as_bytes()),
                    &mut sealed,
                )
                .expect("a key is short enough to be sealed");
                WrappedKey::KeyFile {
                    fingerprint: file.fingerprint(),
                    nonce: BASE64_STANDARD.encode(nonce),
                    sealed: BASE64_STANDARD.encode(sealed),
                }
            }
        };
        Ok(Some((DataKey::new(&bytes, backup), wrapped)))
    }

    /// Opens the wrapped key of a backup.
    pub fn open(wrapped: &WrappedKey, keys: &Keys, backup: &str) -> Result<DataKey, BackupError> {
        let needed = match wrapped {
            WrappedKey::Age { recipients, .. } => format!("an age identity of {}", recipients.join(" or ")),
            WrappedKey::KeyFile { fingerprint, .. } => format!("the key file with fingerprint {fingerprint}"),
        };
        let bytes = match wrapped {
            WrappedKey::Age { file, .. } => unwrap_age(file, keys),
            WrappedKey::KeyFile { nonce, sealed, .. } => unwrap_key_file(nonce, sealed, keys, backup),
        };
        let bytes = bytes.ok_or_else(|| {
            let given = if keys.is_empty() { "give it with --key-file" } else { "the keys given do not open it" };
            BackupError::Input(format!("backup {backup} is encrypted, and needs {needed}: {given}"))
        })?;
        Ok(DataKey::new(&bytes, backup))
    }

    /// Seals a piece in place: frame `frame` of object `object`. `context` is bound to it.
    pub fn seal(&self, object: u32, frame: u32, context: &[u8], piece: &mut Vec<u8>) {
        let aad = self.aad(object, frame, context);
        self.key
            .seal_in_place_append_tag(nonce(object, frame), Aad::from(aad), piece)
            .expect("a frame is shorter than the 64 GiB that one nonce allows");
    }

    /// Opens what [`Self::seal`] made; `None` if it is anything else.
    pub fn unseal(&self, object: u32, frame: u32, context: &[u8], piece: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = piece.to_vec();
        let aad = self.aad(object, frame, context);
        let length = self.key.open_in_place(nonce(object, frame), Aad::from(aad), &mut buffer).ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }

    fn aad(&self, object: u32, frame: u32, context: &[u8]) -> Vec<u8> {
        let head = format!("synodkv-backup/1\n{}\n{object}\n{frame}\n", self.backup);
        [head.as_bytes(), context].concat()
    }
}

fn nonce(object: u32, frame: u32) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..4].copy_from_slice(&object.to_be_bytes());
    bytes[4..8].copy_from_slice(&frame.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn wrap_for(recipients: &[String], key: &[u8; KEY_BYTES]) -> Result<WrappedKey, BackupError> {
    let parse = |text: &String| {
        age::x25519::Recipient::from_str(text).map_err(|_| {
            BackupError::Input(format!(
                "`{text}` is no age recipient: expected the line beginning with `age1` that `age-keygen` prints"
            ))
        })
    };
    let parsed: Vec<age::x25519::Recipient> = recipients.iter().map(parse).collect::<Result<_, _>>()?;
    let failed = |error: &dyn fmt::Display| BackupError::Input(format!("cannot encrypt for these recipients: {error}"));
    let encryptor = age::Encryptor::with_recipients(parsed.iter().map(|recipient| recipient as &dyn age::Recipient))
        .map_err(|error| failed(&error))?;
    let mut file = Vec::new();
    let mut writer = encryptor.wrap_output(&mut file).map_err(|error| failed(&error))?;
    std::io::Write::write_all(&mut writer, key).map_err(|error| failed(&error))?;
    writer.finish().map_err(|error| failed(&error))?;
    Ok(WrappedKey::Age { file: BASE64_STANDARD.encode(file), recipients: recipients.to_vec() })
}

fn unwrap_age(file: &str, keys: &Keys) -> Option<[u8; KEY_BYTES]> {
    let file = BASE64_STANDARD.decode(file).ok()?;
    let decryptor = age::Decryptor::new_buffered(file.as_slice()).ok()?;
    let identities = keys.identities.iter().map(|identity| identity as &dyn age::Identity);
    let mut reader = decryptor.decrypt(identities).ok()?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut bytes).ok()?;
    bytes.try_into().ok()
}

fn unwrap_key_file(nonce: &str, sealed: &str, keys: &Keys, backup: &str) -> Option<[u8; KEY_BYTES]> {
    let nonce: [u8; NONCE_LEN] = BASE64_STANDARD.decode(nonce).ok()?.try_into().ok()?;
    let sealed = BASE64_STANDARD.decode(sealed).ok()?;
    keys.key_files.iter().find_map(|file| {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &file.key).ok()?);
        let mut buffer = sealed.clone();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = key.open_in_place(nonce, Aad::from(backup.as_bytes()), &mut buffer).ok()?;
        <[u8; KEY_BYTES]>::try_from(&*opened).ok()
    })
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], BackupError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| BackupError::Unavailable("the system's source of randomness cannot be read".to_string()))?;
    Ok(bytes)
}
