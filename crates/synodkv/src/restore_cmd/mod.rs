//! `restore`: makes a new server or cluster of a backup, or writes a range of it into a live one.

mod directory;
mod live;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use std::sync::Arc;

use backup::{Backup, BackupError, Keys, OffsetDateTime, Point, PointInTime, Target, choose, open_newest};
use clap::Args;
use kv_server::restore::FoundingToken;

use crate::backup_cmd::users::Auth;
use crate::backup_cmd::{KeyFileArgs, StoreArgs, failure};
use crate::failure::Failure;
use crate::output::Format;
use crate::targets::IntoTarget;
use crate::usage::{epilogue, whole_number};

/// Make a new server or cluster of a backup.
///
/// The data directory must be empty or new. The new cluster has another id, and its versions begin
/// far behind those of the backup, so that nothing from before is taken for something of it. The
/// backup does not say how large the cluster is: the configuration does. All replicas of one process
/// are restored at once. For replicas on several machines, run the command on each: the first one
/// prints a token for the others (--founding), which is valid for a day. Every row is read again and
/// compared before a server can open the directory; a restore that was interrupted begins again.
///
/// Without --at and --time it restores the newest rows that the place holds: those of the newest full
/// backup, or with an archive (`synodkv backup watch`), of the newest version in it. A version or time
/// that cannot be restored is refused, and the message names all that can be.
///
/// With --into, a range of the backup is written into a live cluster instead, in transactions.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv restore --from /backups/a --data-dir data                             a standalone server\n  \
    synodkv restore --from s3://bucket/a --data-dir data --mode replicated        three replicas in one process\n  \
    synodkv restore --from s3://bucket/a --data-dir data --at 812345              the rows of that version\n  \
    synodkv restore --from s3://bucket/a --data-dir data --time 2026-03-01T14:30:00Z\n  \
    synodkv restore --from s3://bucket/a --data-dir data --config cluster.toml --node-id 0\n  \
    synodkv restore --from s3://bucket/a --data-dir data --config cluster.toml --node-id 1 --founding TOKEN\n  \
    synodkv restore --from /backups/a --into 10.0.0.1:9090 --range user/ user0 --overwrite\n  \
    synodkv restore --from /backups/a --into 10.0.0.1:9090 --range user/ user0 --if-empty \\\n    \
        --remove-prefix user/ --add-prefix old-user/\n\n\
    A backup with users, roles and tokens needs --auth: with `keep`, the tokens of the old cluster open the new one;\n\
    with `drop`, and after backups without them, a new cluster is open to everybody until `synodkv auth enable`.\n\
    docs/BACKUP.md is the whole story.",
    "refused: the directory or the range is not empty, the backup is damaged, …; the text says whether something was written"))]
pub struct RestoreArgs {
    /// The place of the backups: a directory, or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "URL")]
    from: String,
    /// The rows of this version: that of a full backup, or with an archive, any since. [default: the
    /// newest]
    #[arg(long, value_name = "VERSION", value_parser = whole_number::<u64>)]
    at: Option<u64>,
    /// The rows at this time, such as 2026-03-01T14:30:00Z: those of the last version that was committed
    /// up to then. Needs an archive that reaches so far.
    #[arg(long, value_name = "TIME", value_parser = time_of_day, conflicts_with_all = ["at", "into"])]
    time: Option<OffsetDateTime>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyFileArgs,
    /// The new data directory. [default: that of the configuration, or ./data]
    #[arg(long, value_name = "DIR", conflicts_with = "into")]
    data_dir: Option<PathBuf>,
    /// Configuration file (TOML) of the server that will run.
    #[arg(long, value_name = "FILE", env = "SYNODKV_CONFIG")]
    config: Option<PathBuf>,
    /// `standalone` or `replicated`. [default: that of the configuration]
    #[arg(long, value_name = "MODE", conflicts_with = "into")]
    mode: Option<String>,
    /// Restore only this replica of [[replication.replicas]].
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>, conflicts_with = "into")]
    node_id: Option<u32>,
    /// The token that the restore of the first replica has printed, for the others of the same new
    /// cluster. Never give it for a replica that has been started in that cluster.
    #[arg(long, value_name = "TOKEN", conflicts_with = "into")]
    founding: Option<FoundingToken>,
    /// How far behind the backup's version the new cluster's versions begin.
    #[arg(long, value_name = "COUNT", default_value_t = 1 << 32,
        value_parser = clap::value_parser!(u64).range(1..=1 << 60), conflicts_with = "into")]
    version_gap: u64,
    /// Users, roles and tokens of the backup: `keep` or `drop` them. Must be given if it has some.
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with = "into")]
    auth: Option<Auth>,
    #[command(flatten)]
    live: LiveArgs,
    /// Check everything that can be checked, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// A restore into a live cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Into a live cluster")]
struct LiveArgs {
    #[command(flatten)]
    into: IntoTarget,
    /// The keys of the backup from A up to, not including, B. [default: all]
    #[arg(long, value_names = ["A", "B"], num_args = 2, requires = "into")]
    range: Option<Vec<OsString>>,
    /// The family, in the backup and in the cluster. [default: default]
    #[arg(long, value_name = "NAME", requires = "into")]
    family: Option<String>,
    /// Refuse if the range in the cluster holds a row.
    #[arg(long, requires = "into", conflicts_with = "overwrite")]
    if_empty: bool,
    /// Make the range in the cluster what it is in the backup: rows that are not in the backup are
    /// removed.
    #[arg(long, requires = "into")]
    overwrite: bool,
    /// Take this prefix off every key; all keys of the range must begin with it.
    #[arg(long, value_name = "P", requires = "into")]
    remove_prefix: Option<OsString>,
    /// Put this prefix before every key.
    #[arg(long, value_name = "Q", requires = "into")]
    add_prefix: Option<OsString>,
    /// Keys and prefixes are hexadecimal.
    #[arg(long, requires = "into")]
    hex: bool,
    /// Where the progress is kept: the same command with the same file continues after an
    /// interruption. [default: none is kept]
    #[arg(long, value_name = "FILE", requires = "into")]
    checkpoint: Option<PathBuf>,
}

pub async fn run(args: RestoreArgs) -> Result<ExitCode, Failure> {
    let keys = args.keys.read()?;
    let target = args.store.open(&args.from, false)?;
    // Without the keys it ends here, before anything is written.
    if args.live.into.is_given() {
        let mut backup = live_backup(&target, args.at, &keys).await?;
        backup.unlock(&keys).map_err(failure)?;
        return live::run(args, backup).await;
    }
    let mut source = source(&target, &args, &keys).await?;
    if let Source::Point(point) = &mut source {
        point.unlock(&keys).await.map_err(failure)?;
    } else if let Source::Full(backup) = &mut source {
        backup.unlock(&keys).map_err(failure)?;
    }
    directory::run(args, source, Arc::new(keys)).await
}

/// The origin of the rows.
enum Source {
    /// One full backup, perhaps of some families or keys only.
    Full(Backup),
    /// A full backup with the changes up to a version.
    Point(PointInTime),
}

impl Source {
    fn backup(&self) -> &Backup {
        match self {
            Source::Full(backup) => backup,
            Source::Point(point) => &point.backup,
        }
    }

    /// The version of the rows.
    fn version(&self) -> u64 {
        match self {
            Source::Full(backup) => backup.summary().version,
            Source::Point(point) => point.version,
        }
    }

    /// The number of segments after the backup.
    fn segments(&self) -> usize {
        match self {
            Source::Full(_) => 0,
            Source::Point(point) => point.segments.len(),
        }
    }
}

async fn source(target: &Target, args: &RestoreArgs, keys: &Keys) -> Result<Source, Failure> {
    let point = match (args.at, args.time) {
        (Some(version), _) => Point::Version(version),
        (_, Some(time)) => Point::Time(time),
        _ => Point::Newest,
    };
    match choose(target, point, keys).await {
        Ok(found) => Ok(Source::Point(found)),
        // A backup of a part is restored as it is; no changes can be put on it.
        Err(error @ (BackupError::NotRestorable { .. } | BackupError::Input(_))) if args.time.is_none() => {
            open_newest(target, args.at).await.map(Source::Full).map_err(|_| failure(error))
        }
        Err(error) => Err(failure(error)),
    }
}

/// The full backup for a live cluster.
async fn live_backup(target: &Target, at: Option<u64>, keys: &Keys) -> Result<Backup, Failure> {
    let error = match open_newest(target, at).await {
        Ok(backup) => return Ok(backup),
        Err(error) => error,
    };
    let Some(version) = at else { return Err(failure(error)) };
    match choose(target, Point::Version(version), keys).await {
        Ok(point) => Err(Failure::Usage(format!(
            "--into with a version between full backups is not supported yet: restore version {version} into an empty \
             directory, or the full backup before it with --at {}",
            point.backup.summary().version
        ))),
        Err(_) => Err(failure(error)),
    }
}

fn time_of_day(text: &str) -> Result<OffsetDateTime, String> {
    let format = &time::format_description::well_known::Rfc3339;
    OffsetDateTime::parse(text, format).map_err(|_| {
        "expected a time with its zone, such as 2026-03-01T14:30:00Z or 2026-03-01T15:30:00+01:00".to_string()
    })
}

/// All objects must be there before anything is written.
async fn check_objects(backup: &Backup) -> Result<(), Failure> {
    let verified = backup::verify(backup, backup::Depth::Quick, None, |_| {}).await.map_err(failure)?;
    match verified.findings.first() {
        None => Ok(()),
        Some(finding) => Err(Failure::Failed(format!(
            "the backup is damaged: {}: {}; nothing was written. `synodkv backup list` shows others (--at VERSION)",
            finding.object, finding.reason
        ))),
    }
}
