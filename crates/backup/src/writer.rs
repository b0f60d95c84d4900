//! Writes a backup.

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use crate::frames::ChunkBuilder;
use crate::manifest::{
    self, ChunkInfo, Content, Encryption, FORMAT, FORMAT_WITH_USERS, FULL, FamilyInfo, MANIFEST, ObjectInfo, ROOT_FILE,
    RootFile, Summary,
};
use crate::seal::{DataKey, Sealing, random};
use crate::{BackupError, Target};

/// Objects that are on their way at a time. Each is at most
/// [`MAX_OBJECT_BYTES`](crate::MAX_OBJECT_BYTES).
const UPLOADS: usize = 2;

/// The subject of a backup.
#[derive(Clone, Debug)]
pub struct Description {
    /// The version of the program.
    pub program: String,
    /// The cluster; `None`: a standalone server.
    pub cluster_id: Option<String>,
    /// The version of all rows.
    pub version: u64,
    /// The feature level of the cluster.
    pub feature_level: u32,
    /// Whether only some families or keys were asked for.
    pub is_partial: bool,
    /// Where the range begins, if it is not everything.
    pub begin: Option<Bytes>,
    /// Where it ends.
    pub end: Option<Bytes>,
    /// Users, roles and tokens, if they are to be in it; see [`Content::users`].
    pub users: Option<Bytes>,
}

/// A backup that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its folder in the target.
    pub folder: String,
    /// Its summary.
    pub summary: Summary,
}

/// A backup under construction. Rows come family by family, and in each by ascending keys.
pub struct BackupWriter {
    target: Target,
    folder: String,
    backup: String,
    description: Description,
    started: OffsetDateTime,
    key: Option<Arc<DataKey>>,
    encryption: Option<Encryption>,
    content: Content,
    objects: Vec<ObjectInfo>,
    chunk: Option<ChunkBuilder>,
    uploads: JoinSet<Result<(ObjectInfo, ChunkInfo), BackupError>>,
    stored: Vec<(ObjectInfo, ChunkInfo)>,
    next_object: u32,
}

impl BackupWriter {
    /// Begins a backup in a folder of its own.
    ///
    /// # Errors
    /// The target holds backups of another cluster, or cannot be used.
    pub async fn begin(
        target: Target,
        description: Description,
        sealing: &Sealing,
    ) -> Result<BackupWriter, BackupError> {
        let backup: String = random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let sealed = DataKey::create(sealing, &backup)?;
        claim(&target, &RootFile { format: FORMAT, cluster_id: description.cluster_id.clone() }).await?;
        let (key, encryption) = match sealed {
            Some((key, wrapped)) => (Some(Arc::new(key)), Some(Encryption::new(wrapped))),
            None => (None, None),
        };
        let folder = format!("{FULL}/{:020}-{}", description.version, &backup[..8]);
        let content = Content {
            begin: description.begin.clone(),
            end: description.end.clone(),
            users: description.users.clone(),
            ..Content::default()
        };
        Ok(BackupWriter {
            target,
            folder,
            backup,
            description,
            started: OffsetDateTime::now_utc(),
            key,
            encryption,
            content,
            objects: Vec::new(),
            chunk: None,
            uploads: JoinSet::new(),
            stored: Vec::new(),
            next_object: 1,
        })
    }

    /// The folder of the backup in its target.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Begins the next family; the default one has an empty name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn family(&mut self, name: &str) -> Result<(), BackupError> {
        self.end_chunk().await?;
        self.content.families.push(FamilyInfo { name: name.to_string(), rows: 0, row_bytes: 0 });
        Ok(())
    }

    /// Adds rows of the family that was begun.
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// # Panics
    /// If no family was begun, or the keys do not ascend.
    pub async fn rows(&mut self, rows: impl IntoIterator<Item = (Bytes, Bytes)>) -> Result<(), BackupError> {
        for (key, value) in rows {
            let family = self.content.families.last_mut().expect("a family was begun");
            family.rows += 1;
            family.row_bytes += (key.len() + value.len()) as u64;
            let chunk = self.chunk.get_or_insert_with(|| {
                let number = self.next_object;
                self.next_object += 1;
                ChunkBuilder::new(number, &family.name)
            });
            if chunk.row(&key, &value) {
                self.end_frame().await?;
            }
        }
        Ok(())
    }

    async fn end_frame(&mut self) -> Result<(), BackupError> {
        let Some(mut chunk) = self.chunk.take() else { return Ok(()) };
        let key = self.key.clone();
        let compressed = tokio::task::spawn_blocking(move || {
            chunk.end_frame(key.as_ref());
            chunk
        });
        let chunk = compressed.await.map_err(|error| BackupError::Unavailable(error.to_string()))?;
        match chunk.is_full() {
            true => self.store(chunk).await,
            false => {
                self.chunk = Some(chunk);
                Ok(())
            }
        }
    }

    async fn end_chunk(&mut self) -> Result<(), BackupError> {
        self.end_frame().await?;
        match self.chunk.take() {
            Some(chunk) => self.store(chunk).await,
            None => Ok(()),
        }
    }

    async fn store(&mut self, chunk: ChunkBuilder) -> Result<(), BackupError> {
        while self.uploads.len() >= UPLOADS {
            self.await_upload().await?;
        }
        let (target, folder) = (self.target.clone(), self.folder.clone());
        self.uploads.spawn(async move {
            let (object, info) = chunk.finish();
            let name = object_name(&folder, info.object);
            let stored = ObjectInfo {
                number: info.object,
                bytes: object.len() as u64,
                blake3: blake3::hash(&object).to_hex().to_string(),
            };
            match target.put(&name, object, true).await? {
                true => Ok((stored, info)),
                // The name has a random part.
                false => {
                    Err(BackupError::Refused(format!("{target}/{name} exists, and this program did not write it")))
                }
            }
        });
        Ok(())
    }

    async fn await_upload(&mut self) -> Result<(), BackupError> {
        let Some(done) = self.uploads.join_next().await else { return Ok(()) };
        self.stored.push(done.map_err(|error| BackupError::Unavailable(error.to_string()))??);
        Ok(())
    }

    /// Ends the backup: from now on it exists.
    ///
    /// # Errors
    /// Those of the store; there is no backup then.
    pub async fn finish(mut self) -> Result<Written, BackupError> {
        self.end_chunk().await?;
        while !self.uploads.is_empty() {
            self.await_upload().await?;
        }
        self.stored.sort_by_key(|(object, _)| object.number);
        (self.objects, self.content.chunks) = std::mem::take(&mut self.stored).into_iter().unzip();
        let sum = |of: fn(&FamilyInfo) -> u64| self.content.families.iter().map(of).sum();
        let summary = Summary {
            format: if self.content.users.is_some() { FORMAT_WITH_USERS } else { FORMAT },
            backup: self.backup.clone(),
            program: self.description.program.clone(),
            cluster_id: self.description.cluster_id.clone(),
            version: self.description.version,
            feature_level: self.description.feature_level,
            started: self.started,
            finished: OffsetDateTime::now_utc(),
            is_partial: self.description.is_partial,
            rows: sum(|family| family.rows),
            row_bytes: sum(|family| family.row_bytes),
            has_users: self.content.users.is_some(),
            encryption: self.encryption.clone(),
            objects: self.objects.clone(),
        };
        let manifest = manifest::encode(&summary, &self.content, self.key.as_deref());
        let name = format!("{}/{MANIFEST}", self.folder);
        if !self.target.put(&name, manifest, true).await? {
            let text = format!("{}/{name} exists, and this program did not write it", self.target);
            return Err(BackupError::Refused(text));
        }
        Ok(Written { folder: self.folder.clone(), summary })
    }

    /// Removes what was stored, as far as that is possible: `prune` removes the rest later.
    pub async fn abandon(mut self) {
        self.uploads.shutdown().await;
        for number in 1..self.next_object {
            if let Err(error) = self.target.remove(&object_name(&self.folder, number)).await {
                tracing::debug!(%error, "removing a part of an abandoned backup failed");
            }
        }
    }
}

pub(crate) fn object_name(folder: &str, number: u32) -> String {
    format!("{folder}/{number:06}.chunk")
}

/// Makes the target one of this cluster's backups.
pub(crate) async fn claim(target: &Target, root: &RootFile) -> Result<(), BackupError> {
    let text = serde_json::to_vec(root).expect("plain fields always serialize");
    if target.put(ROOT_FILE, text.into(), true).await? {
        return Ok(());
    }
    let found = read_root(target).await?;
    if found.cluster_id == root.cluster_id {
        return Ok(());
    }
    let name = |id: &Option<String>| match id {
        Some(id) => format!("cluster {id}"),
        None => "a standalone server".to_string(),
    };
    Err(BackupError::Refused(format!(
        "{target} holds backups of {}, and this is {}: choose another place (after a restore, too, because the restored \
         cluster is another one)",
        name(&found.cluster_id),
        name(&root.cluster_id)
    )))
}

pub(crate) async fn read_root(target: &Target) -> Result<RootFile, BackupError> {
    let text = target.get(ROOT_FILE).await?;
    let name = format!("{target}/{ROOT_FILE}");
    let root: RootFile = serde_json::from_slice(&text)
        .map_err(|error| BackupError::damaged(&name, format!("it cannot be read: {error}")))?;
    match root.format {
        FORMAT => Ok(root),
        other => Err(BackupError::Refused(format!(
            "{name} has format {other}, and this program reads format {FORMAT}: use a newer program"
        ))),
    }
}
