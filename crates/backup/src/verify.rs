//! Checks that a backup can be restored, before anybody needs it.

use bytes::Bytes;

use crate::manifest::ChunkInfo;
use crate::{Backup, BackupError};

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// All objects are there, with their sizes.
    Quick,
    /// Their bytes are those that were stored, and if the key is at hand, their rows are those that
    /// were read from the cluster.
    Full,
}

/// Something that is wrong with a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object.
    pub object: String,
    /// Its fault.
    pub reason: String,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects that are as they should be.
    pub objects: usize,
    /// Rows that were read.
    pub rows: u64,
    /// Everything that is damaged.
    pub findings: Vec<Finding>,
}

/// A test of a chunk with its rows. The error is the fault that it found.
pub type TestRows<'t> = dyn Fn(&ChunkInfo, &[(Bytes, Bytes)]) -> Result<(), String> + Sync + 't;

/// Checks all objects, also after one that is damaged. `with_rows` gets each chunk that was read,
/// with its rows, and may find a fault by itself. `progress` gets the bytes of each object.
///
/// # Errors
/// The store fails. Damage of the backup is in the result.
pub async fn verify(
    backup: &Backup,
    depth: Depth,
    with_rows: Option<&TestRows<'_>>,
    mut progress: impl FnMut(u64),
) -> Result<Verified, BackupError> {
    let mut verified = Verified::default();
    for object in &backup.summary().objects {
        let checked = match depth {
            Depth::Quick => quick(backup, object.number, object.bytes).await,
            Depth::Full => full(backup, object.number, with_rows).await,
        };
        match checked {
            Ok(rows) => {
                verified.objects += 1;
                verified.rows += rows;
            }
            Err(BackupError::Damaged { object, reason }) => verified.findings.push(Finding { object, reason }),
            Err(error) => return Err(error),
        }
        progress(object.bytes);
    }
    Ok(verified)
}

async fn quick(backup: &Backup, number: u32, expected: u64) -> Result<u64, BackupError> {
    match backup.size(number).await? {
        Some(bytes) if bytes == expected => Ok(0),
        Some(bytes) => {
            Err(BackupError::damaged(backup.shown(number), format!("it has {bytes} bytes, and {expected} were stored")))
        }
        None => Err(BackupError::damaged(backup.shown(number), "it is missing")),
    }
}

async fn full(backup: &Backup, number: u32, with_rows: Option<&TestRows<'_>>) -> Result<u64, BackupError> {
    let object = backup.fetch(number).await?;
    let chunks = backup.content().map_or(&[][..], |content| &content.chunks);
    let Some(chunk) = chunks.iter().find(|chunk| chunk.object == number) else {
        // Locked: the bytes are all that can be checked.
        return Ok(0);
    };
    let mut rows = Vec::new();
    let mut count = 0;
    backup.rows(chunk, object, |key, value| {
        count += 1;
        if with_rows.is_some() {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        }
        Ok::<(), BackupError>(())
    })?;
    if let Some(with_rows) = with_rows {
        with_rows(chunk, &rows).map_err(|reason| BackupError::damaged(backup.shown(number), reason))?;
    }
    Ok(count)
}
