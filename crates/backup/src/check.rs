//! Tries out a store before it is relied on.

use std::time::{Duration, Instant};

use bytes::Bytes;
use time::OffsetDateTime;

use crate::seal::random;
use crate::{BackupError, Target};

/// The object with which the speed is measured.
const PROBE_BYTES: usize = 8 << 20;
/// A clock that is off by more makes ages of backups wrong.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// The abilities of a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Whether a put that must create the object fails where there is one. Without that, only the
    /// random part of names keeps two backups apart.
    pub conditional_put: bool,
    /// How far the clock of the store is ahead of that of this machine, in seconds.
    pub clock_ahead_seconds: i64,
    /// Bytes per second of one put.
    pub put_bytes_per_second: f64,
    /// Bytes per second of one get.
    pub get_bytes_per_second: f64,
    /// Remarks for the operator.
    pub warnings: Vec<String>,
}

/// Stores, reads, lists and removes an object of its own.
///
/// # Errors
/// One of these is not permitted, or gives a wrong result: the store cannot hold backups.
pub async fn check(target: &Target) -> Result<Checked, BackupError> {
    let id: String = random::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("probe/{id}");
    let result = probe(target, &name).await;
    let removed = target.remove(&name).await;
    let checked = result?;
    removed?;
    Ok(checked)
}

async fn probe(target: &Target, name: &str) -> Result<Checked, BackupError> {
    // Bytes that no store can compress.
    let seed: [u8; 32] = random()?;
    let mut bytes = vec![0; PROBE_BYTES];
    blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut bytes);
    let bytes = Bytes::from(bytes);
    let began = Instant::now();
    if !target.put(name, bytes.clone(), true).await? {
        return Err(BackupError::Refused(format!("{target}/{name} exists, and its name is random")));
    }
    let put = began.elapsed();
    let conditional_put = !target.put(name, Bytes::from_static(b"another"), true).await?;
    if !conditional_put {
        target.put(name, bytes.clone(), false).await?;
    }
    let began = Instant::now();
    if target.get(name).await? != bytes {
        return Err(BackupError::Refused(format!("{target}/{name} was read, and differs from what was stored")));
    }
    let get = began.elapsed();
    let listed = target.list("probe").await?;
    let Some((_, object)) = listed.iter().find(|(found, _)| found == name) else {
        return Err(BackupError::Refused(format!(
            "{target}/{name} was stored, and a list does not show it: backups could not be found"
        )));
    };
    let clock_ahead_seconds = object.last_modified.timestamp() - OffsetDateTime::now_utc().unix_timestamp();
    let mut warnings = Vec::new();
    if !conditional_put {
        warnings.push(
            "the store does not honour conditional puts (If-None-Match): backups are kept apart by their random names alone"
                .to_string(),
        );
    }
    if clock_ahead_seconds.unsigned_abs() > MAX_CLOCK_DIFFERENCE.as_secs() {
        warnings.push(format!(
            "the clocks of the store and of this machine are {} seconds apart: `prune` may take backups for older or \
             younger than they are",
            clock_ahead_seconds.unsigned_abs()
        ));
    }
    let speed = |took: Duration| PROBE_BYTES as f64 / took.as_secs_f64().max(1e-6);
    Ok(Checked {
        conditional_put,
        clock_ahead_seconds,
        put_bytes_per_second: speed(put),
        get_bytes_per_second: speed(get),
        warnings,
    })
}
