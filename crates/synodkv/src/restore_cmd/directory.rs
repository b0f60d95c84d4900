//! A restore into an empty data directory.

use std::process::ExitCode;
use std::sync::Arc;

use backup::{Backup, BackupError, ChunkInfo, Keys, shown_bytes};
use bytes::Bytes;
use indicatif::ProgressBar;
use kv_api::ACCESS_LEVEL;
use kv_api::access::Policy;
use kv_client::Version;
use kv_server::restore::{ExpectedRows, Origin as RestoreOrigin, Restoration, RestoreError, Restored, check};
use kv_server::{Config, Mode, Overrides};
use serde_json::json;

use super::{RestoreArgs, Source, check_objects};
use crate::backup_cmd::failure;
use crate::backup_cmd::users::{self, Auth};
use crate::failure::Failure;
use crate::output;
use crate::reload::Origin;

pub async fn run(args: RestoreArgs, source: Source, keys: Arc<Keys>) -> Result<ExitCode, Failure> {
    let config = load(&args)?;
    let backup = source.backup();
    let (summary, content) = (backup.summary().clone(), backup.content().expect("it was unlocked").clone());
    let version = source.version().checked_add(args.version_gap).filter(|version| *version <= 1 << 62);
    let Some(version) = version else {
        return Err(Failure::Usage(format!(
            "--version-gap {}: versions would begin above {}; give a smaller one",
            args.version_gap,
            1_u64 << 62
        )));
    };
    let policy = policy(&args, content.users.clone())?;
    let families = content.families.iter().map(|family| family.name.clone());
    let origin = RestoreOrigin {
        version: Version(version),
        // A standalone server has users at any level.
        level: summary.feature_level.max(policy.as_ref().map_or(0, |_| ACCESS_LEVEL)),
        families: families.filter(|name| !name.is_empty()).collect(),
        policy,
    };
    check(&config, &origin, args.founding.as_ref()).map_err(explain)?;
    check_objects(backup).await?;
    if summary.is_partial {
        output::remark("the backup holds only the families or keys that were asked for when it was made");
    }
    if args.dry_run {
        return show_plan(&args, &config, &source, version);
    }
    let began = tokio::time::Instant::now();
    let token = args.founding;
    let restoration = tokio::task::spawn_blocking(move || Restoration::begin(config, &origin, token));
    let restoration = joined(restoration.await)?.map_err(explain)?;
    let restored_point = Point::of(&source);
    let (restoration, backup) = changes(restoration, source, &keys).await?;
    let bar = output::progress("rows restored", Some(summary.rows));
    let (restoration, backup) = write(restoration, Arc::new(backup), &content.chunks, &bar).await?;
    bar.finish_and_clear();
    let check_bar = output::progress("comparing all rows with the backup", None);
    let expected: Vec<ExpectedRows> = content.chunks.iter().map(expected).collect();
    let finished = tokio::task::spawn_blocking(move || restoration.finish(&expected)).await;
    check_bar.finish_and_clear();
    let restored = joined(finished)?.map_err(explain)?;
    report(&args, &backup, &restored_point, &restored, version, began.elapsed())
}

/// The users, roles and tokens to restore.
fn policy(args: &RestoreArgs, kept: Option<Bytes>) -> Result<Option<Policy>, Failure> {
    match (kept, args.auth) {
        (Some(_), None) => Err(Failure::Usage(
            "the backup holds users, roles and tokens: give --auth keep (who could log in can do so again, and nobody else), \
             or --auth drop (the new cluster is open to everybody until `synodkv auth enable`)"
                .to_string(),
        )),
        (None, Some(Auth::Keep)) => Err(Failure::Usage(
            "--auth keep: there are no users, roles and tokens in the backup; it was made without --auth keep".to_string(),
        )),
        (Some(encoded), Some(Auth::Keep)) => users::read(encoded).map(Some).map_err(Failure::Failed),
        (_, Some(Auth::Drop)) | (None, None) => Ok(None),
    }
}

/// Whether users, roles and tokens are restored, in words.
fn fate_of_users(args: &RestoreArgs, backup: &Backup) -> &'static str {
    match (backup.summary().has_users, args.auth) {
        (false, _) => "users, roles and tokens are not in the backup",
        (true, Some(Auth::Keep)) => "users, roles and tokens are those of the backup",
        (true, _) => "users, roles and tokens are left out (--auth drop)",
    }
}

fn load(args: &RestoreArgs) -> Result<Config, Failure> {
    let overrides = Overrides {
        mode: args.mode.clone(),
        node_id: args.node_id,
        data_dir: args.data_dir.clone(),
        ..Overrides::default()
    };
    let origin = Origin { file: args.config.clone(), overrides };
    origin.load().map_err(|error| Failure::Usage(error.to_string()))
}

fn expected(chunk: &ChunkInfo) -> ExpectedRows {
    ExpectedRows {
        family: chunk.family.clone(),
        first_key: chunk.first_key.clone(),
        rows: chunk.rows,
        hash: chunk.hash,
    }
}

/// Why rows were not written.
enum Stopped {
    Backup(BackupError),
    Restore(RestoreError),
}

impl From<BackupError> for Stopped {
    fn from(error: BackupError) -> Self {
        Stopped::Backup(error)
    }
}

impl From<RestoreError> for Stopped {
    fn from(error: RestoreError) -> Self {
        Stopped::Restore(error)
    }
}

/// The point that is restored, for the report.
struct Point {
    version: u64,
    segments: usize,
}

impl Point {
    fn of(source: &Source) -> Point {
        Point { version: source.version(), segments: source.segments() }
    }

    fn shown(&self, backup: &Backup) -> String {
        match self.segments {
            0 => String::new(),
            count => format!(" (the full backup of version {} and {count} segments)", backup.summary().version),
        }
    }
}

/// Takes in the changes after the backup.
async fn changes(restoration: Restoration, source: Source, keys: &Arc<Keys>) -> Result<(Restoration, Backup), Failure> {
    let point = match source {
        Source::Full(backup) => return Ok((restoration, backup)),
        Source::Point(point) => point,
    };
    let bar = output::progress("reading the archive", None);
    let take = |restoration: &mut Restoration, change| restoration.change(&change).map_err(Stopped::from);
    let taken = point.changes(keys, restoration, take).await;
    bar.finish_and_clear();
    Ok((taken.map_err(stopped)?, point.backup))
}

fn stopped(stopped: Stopped) -> Failure {
    match stopped {
        Stopped::Backup(error) => unfinished(error),
        Stopped::Restore(error) => explain(error),
    }
}

/// Writes all rows. The next object is read while the rows of one are written.
async fn write(
    mut restoration: Restoration,
    backup: Arc<Backup>,
    chunks: &[ChunkInfo],
    bar: &ProgressBar,
) -> Result<(Restoration, Arc<Backup>), Failure> {
    let mut chunks = chunks.iter();
    let mut next = chunks.next();
    let mut object = match next {
        Some(chunk) => Some(backup.fetch(chunk.object).await.map_err(unfinished)?),
        None => None,
    };
    while let (Some(chunk), Some(bytes)) = (next, object.take()) {
        let (written_chunk, source, counter) = (chunk.clone(), backup.clone(), bar.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut count = 0;
            source.rows(&written_chunk, bytes, |key, value| {
                count += 1;
                if count % 1024 == 0 {
                    counter.inc(1024);
                }
                restoration.row(&written_chunk.family, key, value).map_err(Stopped::from)
            })?;
            counter.inc(count % 1024);
            Ok::<_, Stopped>(restoration)
        });
        next = chunks.next();
        let fetched = async {
            match next {
                Some(chunk) => backup.fetch(chunk.object).await.map(Some),
                None => Ok(None),
            }
        };
        let (written, fetched) = tokio::join!(written, fetched);
        restoration = joined(written)?.map_err(stopped)?;
        object = fetched.map_err(unfinished)?;
    }
    Ok((restoration, backup))
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Failure> {
    result.map_err(|error| Failure::Unsure(error.to_string()))
}

const UNFINISHED: &str = "; no server can open the directory, and the same command begins again";

fn unfinished(error: BackupError) -> Failure {
    failure(error).with_text(|text| format!("{text}{UNFINISHED}"))
}

fn explain(error: RestoreError) -> Failure {
    match error {
        RestoreError::Refused(text) => Failure::Failed(format!("{text}; nothing was written")),
        RestoreError::Failed(text) => Failure::Unsure(format!("{text}{UNFINISHED}")),
    }
}

fn show_plan(args: &RestoreArgs, config: &Config, source: &Source, version: u64) -> Result<ExitCode, Failure> {
    let (backup, point) = (source.backup(), Point::of(source));
    let summary = backup.summary();
    let replicas = if config.mode == Mode::Replicated { config.local_replica_ids() } else { Vec::new() };
    let whose = match replicas.len() {
        0 => "a standalone server".to_string(),
        _ => format!("replicas {replicas:?} of {} in a new cluster", config.replication.replicas.len()),
    };
    let text = format!(
        "would restore {} rows, {}, of version {}{} into {} for {whose}; versions begin at \
         {version}\n{}\nnothing was written (--dry-run)",
        summary.rows,
        shown_bytes(summary.row_bytes),
        summary.version,
        match point.segments {
            0 => String::new(),
            count => format!(" and {count} segments of changes up to version {}", point.version),
        },
        config.storage.data_dir.display(),
        fate_of_users(args, backup),
    );
    let document = json!({
        "dry_run": true,
        "backup": summary.backup,
        "backup_version": summary.version,
        "restored_version": point.version,
        "segments": point.segments,
        "version": version,
        "rows": summary.rows,
        "replicas": replicas,
        "data_dir": config.storage.data_dir,
    });
    output::done(args.format, &document, &text)
}

fn report(
    args: &RestoreArgs,
    backup: &Backup,
    point: &Point,
    restored: &Restored,
    version: u64,
    took: std::time::Duration,
) -> Result<ExitCode, Failure> {
    let summary = backup.summary();
    let seconds = took.as_secs_f64().max(1e-3);
    let mut lines = vec![format!(
        "{} rows of version {}{} are restored and compared, {seconds:.1} s ({:.0} MB/s); versions begin at {version}",
        restored.rows,
        point.version,
        point.shown(backup),
        summary.row_bytes as f64 / 1e6 / seconds
    )];
    let flag = |name: &str, value: Option<String>| value.map(|value| format!(" {name} {value}")).unwrap_or_default();
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let (config, data_dir) = (flag("--config", path(&args.config)), flag("--data-dir", path(&args.data_dir)));
    let (mode, node) = (flag("--mode", args.mode.clone()), flag("--node-id", args.node_id.map(|id| id.to_string())));
    let missing: Vec<u32> =
        restored.voters.iter().copied().filter(|voter| !restored.replicas.contains(voter)).collect();
    if let (Some(id), Some(token)) = (&restored.cluster_id, &restored.token) {
        lines.push(format!("the new cluster is {id}"));
        if !missing.is_empty() {
            let ids: Vec<String> = missing.iter().map(u32::to_string).collect();
            lines.push(format!(
                "restore replicas {} of the same cluster, each into a directory of its own, before any of them is started, \
                 with: --node-id N --founding {token} --at {}{}",
                ids.join(", "),
                point.version,
                if matches!(args.auth, Some(Auth::Keep)) { " --auth keep" } else { "" }
            ));
        }
    }
    lines.push(fate_of_users(args, backup).to_string());
    lines.push(format!("start it with: synodkv serve{mode}{config}{node}{data_dir}"));
    let document = json!({
        "backup": summary.backup,
        "backup_version": summary.version,
        "restored_version": point.version,
        "segments": point.segments,
        "version": version,
        "rows": restored.rows,
        "cluster_id": restored.cluster_id,
        "replicas": restored.replicas,
        "voters": restored.voters,
        "founding": restored.token.map(|token| token.to_string()),
        "has_users": summary.has_users && args.auth == Some(Auth::Keep),
        "seconds": seconds,
    });
    output::done(args.format, &document, &lines.join("\n"))
}
