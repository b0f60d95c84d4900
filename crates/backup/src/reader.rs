//! Finds backups in a target, and reads their rows.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use time::OffsetDateTime;

use crate::frames::read_rows;
use crate::manifest::{ChunkInfo, Content, FULL, MANIFEST, Manifest, ROOT_FILE, Summary};
use crate::seal::{DataKey, Keys};
use crate::writer::{object_name, read_root};
use crate::{BackupError, Target};

/// Manifests that are read at a time.
const READS: usize = 8;

/// A folder with a backup, or with a part of one.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The folder in the target.
    pub folder: String,
    /// The summary of a complete backup; `None`: there is no manifest, because the backup is under
    /// way, or has failed.
    pub summary: Option<Result<Summary, BackupError>>,
    /// Objects in the folder.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// When the newest of them was stored, by the clock of the store.
    pub last_change: OffsetDateTime,
}

impl Entry {
    /// The summary of a complete backup whose manifest can be read.
    pub fn complete(&self) -> Option<&Summary> {
        self.summary.as_ref()?.as_ref().ok()
    }
}

/// All backups of a target, from the oldest version to the newest.
///
/// # Errors
/// There are no backups, or the store fails.
pub async fn list(target: &Target) -> Result<Vec<Entry>, BackupError> {
    let objects = target.list(FULL).await?;
    if objects.is_empty() {
        return match target.size(ROOT_FILE).await? {
            Some(_) => read_root(target).await.map(|_| Vec::new()),
            None => Err(BackupError::Input(format!(
                "{target} holds no backups (there is no {ROOT_FILE}): look at the place, and at its spelling"
            ))),
        };
    }
    let mut entries: Vec<(Entry, bool)> = Vec::new();
    for (name, object) in objects {
        let mut parts = name.split('/');
        let (Some(_), Some(folder), Some(file), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let folder = format!("{FULL}/{folder}");
        let changed =
            OffsetDateTime::from_unix_timestamp(object.last_modified.timestamp()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        if entries.last().is_none_or(|(entry, _)| entry.folder != folder) {
            let entry = Entry { folder, summary: None, objects: 0, bytes: 0, last_change: changed };
            entries.push((entry, false));
        }
        let (entry, has_manifest) = entries.last_mut().expect("it was pushed just now");
        entry.objects += 1;
        entry.bytes += object.size;
        entry.last_change = entry.last_change.max(changed);
        *has_manifest |= file == MANIFEST;
    }
    let read = entries.into_iter().map(|(mut entry, has_manifest)| async move {
        if has_manifest {
            entry.summary = Some(manifest(target, &entry.folder).await.map(|manifest| manifest.summary));
        }
        entry
    });
    Ok(stream::iter(read).buffered(READS).collect().await)
}

async fn manifest(target: &Target, folder: &str) -> Result<Manifest, BackupError> {
    let name = format!("{folder}/{MANIFEST}");
    let text = target.get(&name).await?;
    Manifest::decode(&format!("{target}/{name}"), &text)
}

/// A complete backup.
#[derive(Debug)]
pub struct Backup {
    target: Target,
    folder: String,
    summary: Summary,
    manifest: Manifest,
    opened: Option<(Content, Option<DataKey>)>,
}

/// Opens the newest backup, or that of a version.
///
/// # Errors
/// There is none, or its manifest is damaged.
pub async fn open_newest(target: &Target, version: Option<u64>) -> Result<Backup, BackupError> {
    let entries = list(target).await?;
    let mut found: Option<(&Entry, &Summary)> = None;
    let mut unreadable = None;
    for entry in &entries {
        match &entry.summary {
            Some(Ok(summary)) => {
                let is_wanted = version.is_none_or(|version| version == summary.version);
                let is_newer = found
                    .is_none_or(|(_, other)| (summary.version, summary.finished) > (other.version, other.finished));
                if is_wanted && is_newer {
                    found = Some((entry, summary));
                }
            }
            Some(Err(error)) => unreadable = Some(error.clone()),
            None => {}
        }
    }
    let Some((entry, _)) = found else {
        // A damaged manifest may be that of the wanted backup.
        if let Some(error) = unreadable {
            return Err(error);
        }
        let versions: Vec<String> = entries
            .iter()
            .filter_map(|entry| Some(entry.summary.as_ref()?.as_ref().ok()?.version.to_string()))
            .collect();
        return Err(BackupError::Input(match (version, versions.is_empty()) {
            (_, true) => format!("{target} holds no complete backup"),
            (Some(version), _) => {
                format!("{target} holds no backup of version {version}; there are {}", versions.join(", "))
            }
            (None, _) => unreachable!("the newest one was found"),
        }));
    };
    open(target, &entry.folder).await
}

/// Opens the backup in a folder of the target.
///
/// # Errors
/// There is none, or its manifest is damaged.
pub async fn open(target: &Target, folder: &str) -> Result<Backup, BackupError> {
    let manifest = manifest(target, folder).await?;
    let summary = manifest.summary.clone();
    Ok(Backup { target: target.clone(), folder: folder.to_string(), summary, manifest, opened: None })
}

impl Backup {
    /// Its folder in the target.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Its public part.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether its rows can be read only with a key that was not given yet.
    pub fn is_locked(&self) -> bool {
        self.opened.is_none() && self.summary.encryption.is_some()
    }

    /// Opens the content.
    ///
    /// # Errors
    /// The key is not among `keys`, or the manifest is damaged.
    pub fn unlock(&mut self, keys: &Keys) -> Result<(), BackupError> {
        let name = format!("{}/{}/{MANIFEST}", self.target, self.folder);
        self.opened = Some(self.manifest.open(&name, keys)?);
        Ok(())
    }

    /// The content, once it is unlocked.
    pub fn content(&self) -> Option<&Content> {
        self.opened.as_ref().map(|(content, _)| content)
    }

    /// The place of an object, for messages.
    pub fn shown(&self, number: u32) -> String {
        format!("{}/{}", self.target, object_name(&self.folder, number))
    }

    pub(crate) async fn size(&self, number: u32) -> Result<Option<u64>, BackupError> {
        self.target.size(&object_name(&self.folder, number)).await
    }

    /// Reads an object, and compares it with its description. An object that differs is read once more, in
    /// case it was changed on the way.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] if it is not the object that was stored.
    pub async fn fetch(&self, number: u32) -> Result<Bytes, BackupError> {
        let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let Some(expected) = place.and_then(|place| self.summary.objects.get(place)) else {
            return Err(BackupError::damaged(self.shown(number), "the manifest does not name it"));
        };
        let mut found = String::new();
        for _ in 0..2 {
            let object = self.target.get(&object_name(&self.folder, number)).await?;
            let bytes = object.len() as u64;
            if bytes != expected.bytes {
                found = format!("it has {bytes} bytes, and {} were stored", expected.bytes);
                continue;
            }
            let hashed = tokio::task::spawn_blocking(move || (blake3::hash(&object).to_hex().to_string(), object));
            let (hash, object) = hashed.await.map_err(|error| BackupError::Unavailable(error.to_string()))?;
            if hash == expected.blake3 {
                return Ok(object);
            }
            found = format!("it was changed: its BLAKE3 hash is {hash}, and {} was stored", expected.blake3);
        }
        Err(BackupError::damaged(self.shown(number), found))
    }

    /// Visits the rows of a chunk, whose object was fetched. Blocks.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] if they are not as described, which may be known only after the last
    /// one; and the errors of `visit`.
    ///
    /// # Panics
    /// If the backup was not unlocked.
    pub fn rows<E: From<BackupError>>(
        &self,
        chunk: &ChunkInfo,
        object: Bytes,
        visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (_, key) = self.opened.as_ref().expect("the backup was unlocked");
        read_rows(&self.shown(chunk.object), object, chunk, key.as_ref(), visit)
    }
}
