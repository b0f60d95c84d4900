//! `backup`: makes backups of a running cluster, and looks after them.

mod create;
mod show;
mod source;
mod upkeep;
pub mod users;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use backup::{BackupError, Credentials, Keys, Sealing, Target};
use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::Format;
use crate::targets::{AdminTarget, ThriftTarget};
use crate::usage::{epilogue, whole_number};

/// Make backups of a running cluster, and look after them.
///
/// A backup holds the rows of all families at one version, while others read and write. Its place is
/// a directory (`/backups/a`, `file:///backups/a`) or an S3-compatible store (`s3://BUCKET/PREFIX`),
/// each for the backups of one cluster. `synodkv restore` makes a new cluster of it, of any size.
/// docs/BACKUP.md is the whole story.
#[derive(Debug, Args)]
#[command(after_help = epilogue(EXAMPLES, "the backup is damaged, or the store or the cluster refused"))]
pub struct BackupArgs {
    #[command(subcommand)]
    action: BackupAction,
}

const EXAMPLES: &str = "Examples:\n  \
    synodkv backup create --to /backups/a\n  \
    synodkv backup create --to s3://bucket/a --encrypt-to age1… --mb-per-second 50\n  \
    synodkv backup watch --to s3://bucket/a               archives every change since\n  \
    synodkv backup list s3://bucket/a\n  \
    synodkv backup verify s3://bucket/a\n  \
    synodkv backup prune s3://bucket/a --keep 14d\n\n\
    S3 takes its credentials from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and\n\
    AWS_ENDPOINT_URL for another service than Amazon's), or from the file that --credentials names.";

#[derive(Debug, Subcommand)]
enum BackupAction {
    Create(CreateArgs),
    Watch(WatchArgs),
    List(ListArgs),
    Describe(DescribeArgs),
    Verify(VerifyArgs),
    Prune(PruneArgs),
    Check(CheckArgs),
    Key(KeyArgs),
}

/// How a store is reached.
#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// Credentials of S3: a file with lines such as AWS_ACCESS_KEY_ID=…, that only its owner may
    /// read. [default: the environment]
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
}

impl StoreArgs {
    pub fn open(&self, url: &str, may_create: bool) -> Result<Target, Failure> {
        let credentials = self.credentials.as_deref().map(Credentials::from_file).transpose().map_err(failure)?;
        Target::open(url, credentials.as_ref(), may_create).map_err(failure)
    }
}

/// The keys that open backups.
#[derive(Clone, Debug, Args)]
pub struct KeyFileArgs {
    /// The key of an encrypted backup: a file of `synodkv backup key`, or an age identity. May be
    /// repeated.
    #[arg(long = "key-file", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl KeyFileArgs {
    pub fn read(&self) -> Result<Keys, Failure> {
        let mut keys = Keys::default();
        for file in &self.files {
            keys.add_file(file).map_err(failure)?;
        }
        Ok(keys)
    }
}

/// Make a full backup of a running cluster.
///
/// It reads from one server, from a secondary where there is one, and pins its version there, so that
/// it stays readable however long this takes; nothing waits for it. If that server is lost, another
/// one is read at the same version; if no server has that version any more, the backup begins again,
/// at most three times. `--auth keep` also backs up users, roles and the hashes of tokens; that needs
/// `admin:backup`.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv backup create --to /backups/a\n  \
    synodkv backup create --to s3://bucket/a --credentials /etc/synodkv/s3.env --mb-per-second 50\n  \
    synodkv backup create --to s3://bucket/a --encrypt-to age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n  \
    synodkv backup create --to /backups/a --auth keep\n  \
    synodkv backup create --to /backups/users --family users",
    "the store or the cluster refused"))]
pub struct CreateArgs {
    /// The place: a directory, or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    store: StoreArgs,
    /// Only this family; may be repeated. [default: all]
    #[arg(long, value_name = "NAME")]
    family: Vec<String>,
    /// Only keys from A up to, not including, B, in each family.
    #[arg(long, value_names = ["A", "B"], num_args = 2)]
    range: Option<Vec<std::ffi::OsString>>,
    /// The keys of --range are hexadecimal.
    #[arg(long, requires = "range")]
    hex: bool,
    /// Encrypt for an age recipient (age1…); may be repeated. Its identity is needed to restore.
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "encrypt_with")]
    encrypt_to: Vec<String>,
    /// Encrypt with a key file that `synodkv backup key` has made.
    #[arg(long, value_name = "FILE")]
    encrypt_with: Option<PathBuf>,
    /// Users, roles and tokens: `keep` puts them into the backup, tokens as hashes; `drop` does not.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = users::Auth::Drop)]
    auth: users::Auth,
    /// Read at most this many megabytes of rows per second. [default: as fast as possible]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    mb_per_second: Option<u64>,
    #[command(flatten)]
    target: ThriftTarget,
    #[command(flatten)]
    admin: AdminTarget,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Archive all changes, from the newest full backup on, until it is interrupted.
///
/// With the archive, `synodkv restore --at VERSION` or `--time TIME` restores every version since a full
/// backup. It reads changes from any server of the cluster, another one when that is lost, and stores
/// them in segments: one each --every, or sooner when there is much. It continues where the archive ends.
/// Servers keep changes for changes.retention_ms, by default ten minutes: if it was away for longer, the changes
/// in between are lost to the archive, and it needs a new full backup (exit status 1, and the message has the
/// command); if there is one already, it continues from there. Only one runs at a time: a second one
/// takes over, and the first one ends (exit status 1). SIGINT and SIGTERM store what there is, and end it (exit status 0).
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv backup create --to s3://bucket/a && synodkv backup watch --to s3://bucket/a\n  \
    synodkv backup watch --to s3://bucket/a --credentials /etc/synodkv/s3.env --encrypt-with backup.key\n  \
    synodkv backup watch --to /backups/a --once          up to now, for a timer\n  \
    synodkv backup watch --to /backups/a --format json   one line per segment, with the lag",
    "changes are lost to the archive, another archiver has taken over, or the store refused"))]
pub struct WatchArgs {
    /// The place, which holds a full backup.
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    store: StoreArgs,
    /// Store a segment at least this often while there are changes: a number with s, m, h or d. So
    /// much may be lost with the cluster.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = every)]
    every: Duration,
    /// Archive what has changed up to now, and end.
    #[arg(long)]
    once: bool,
    /// Encrypt for an age recipient (age1…); may be repeated. Its identity is needed to restore.
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "encrypt_with")]
    encrypt_to: Vec<String>,
    /// Encrypt with a key file that `synodkv backup key` has made.
    #[arg(long, value_name = "FILE")]
    encrypt_with: Option<PathBuf>,
    #[command(flatten)]
    target: ThriftTarget,
    #[command(flatten)]
    admin: AdminTarget,
    /// How segments are reported.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// List the backups in a place, with their versions, times and sizes, and what can be restored.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv backup list /backups/a\n  \
    synodkv backup list s3://bucket/a --format json | jq -r '.backups[].version'", "the store refused"))]
pub struct ListArgs {
    /// The place.
    #[arg(value_name = "URL")]
    url: String,
    #[command(flatten)]
    store: StoreArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Describe one backup: whose it is, what it holds, and what a restore of it needs.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv backup describe /backups/a\n  \
    synodkv backup describe s3://bucket/a --version 812345 --key-file backup.key", "it is damaged, or the store refused"))]
pub struct DescribeArgs {
    /// The place.
    #[arg(value_name = "URL")]
    url: String,
    /// The backup of this version. [default: the newest]
    #[arg(long, value_name = "VERSION", value_parser = whole_number::<u64>)]
    version: Option<u64>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyFileArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Check that a backup can be restored.
///
/// `--full`, the default, reads every object and compares its hash; with the key, or without
/// encryption, also the order, the number and the hash of the rows. `--restore-test` also writes the
/// rows to databases in memory, and compares what these hold. `--quick` only asks for the sizes of
/// the objects. Every damaged object is named.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv backup verify /backups/a\n  \
    synodkv backup verify s3://bucket/a --quick\n  \
    synodkv backup verify s3://bucket/a --restore-test --key-file backup.key", "the backup is damaged"))]
pub struct VerifyArgs {
    /// The place.
    #[arg(value_name = "URL")]
    url: String,
    /// The backup of this version. [default: the newest]
    #[arg(long, value_name = "VERSION", value_parser = whole_number::<u64>, conflicts_with = "all")]
    version: Option<u64>,
    /// All backups in the place.
    #[arg(long)]
    all: bool,
    /// Only whether all objects are there, with their sizes.
    #[arg(long, conflicts_with_all = ["full", "restore_test"])]
    quick: bool,
    /// Every object, and every row if the key is at hand (the default).
    #[arg(long)]
    full: bool,
    /// Also restore the rows into memory, piece by piece.
    #[arg(long)]
    restore_test: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyFileArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Remove backups that are older than a time.
///
/// The newest complete backup is never removed, and nothing is if that one misses objects. Parts of
/// backups that failed more than a day ago are removed, too.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv backup prune s3://bucket/a --keep 14d --dry-run\n  \
    synodkv backup prune s3://bucket/a --keep 14d", "the newest backup is damaged, so nothing was removed"))]
pub struct PruneArgs {
    /// The place.
    #[arg(value_name = "URL")]
    url: String,
    /// Backups that are younger stay: a number with s, m, h or d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    keep: Duration,
    /// Remove nothing: list what would be removed, and what not.
    #[arg(long)]
    dry_run: bool,
    /// Also if the newest backup is damaged.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    store: StoreArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Try out a place for backups: permissions, conditional puts, clock, speed.
///
/// It stores, reads, lists and removes an object of 8 MiB below `probe/`.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Example:\n  synodkv backup check s3://bucket/a", "the store cannot hold backups"))]
pub struct CheckArgs {
    /// The place.
    #[arg(value_name = "URL")]
    url: String,
    #[command(flatten)]
    store: StoreArgs,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Make a key file for --encrypt-with.
///
/// The file opens the backups that are made with it, and nobody can restore them without
/// it: keep a copy in another place than the cluster and the backups.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Example:\n  synodkv backup key --out backup.key", "not used"))]
pub struct KeyArgs {
    /// The new file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub async fn run(args: BackupArgs) -> Result<ExitCode, Failure> {
    match args.action {
        BackupAction::Create(args) => create::run(args).await,
        BackupAction::Watch(args) => watch::run(args).await,
        BackupAction::List(args) => show::list(args).await,
        BackupAction::Describe(args) => show::describe(args).await,
        BackupAction::Verify(args) => upkeep::verify(args).await,
        BackupAction::Prune(args) => upkeep::prune(args).await,
        BackupAction::Check(args) => upkeep::check(args).await,
        BackupAction::Key(args) => upkeep::key(&args),
    }
}

/// The failure of a command because of its backup.
pub fn failure(error: BackupError) -> Failure {
    match error {
        BackupError::Input(text) => Failure::Usage(text),
        BackupError::NotRestorable { .. } => Failure::Usage(error.to_string()),
        BackupError::Refused(_) | BackupError::Damaged { .. } => Failure::Failed(error.to_string()),
        BackupError::Unavailable(text) => Failure::Unsure(text),
    }
}

/// The name that people use for a family.
pub fn shown_family(name: &str) -> &str {
    if name.is_empty() { kv_api::DEFAULT_COLUMN_FAMILY } else { name }
}

/// For whom the options say that something is sealed.
fn sealing(recipients: &[String], key_file: Option<&Path>) -> Result<Sealing, Failure> {
    match key_file {
        Some(path) => Sealing::key_file(path).map_err(failure),
        None if recipients.is_empty() => Ok(Sealing::None),
        None => Ok(Sealing::Recipients(recipients.to_vec())),
    }
}

/// A time between two segments.
fn every(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let is_allowed = (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&time);
    is_allowed.then_some(time).ok_or_else(|| "expected 1s to 1h".to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number with s, m, h or d, for example 14d".to_string();
    let place = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(place);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds <= 100 * 366 * 86_400);
    seconds.map(Duration::from_secs).ok_or_else(|| "expected at most 100 years".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        assert_eq!(duration("14d"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "14", "d", "14 days", "-1d", "99999999d"] {
            duration(wrong).unwrap_err();
        }
    }
}
