//! `backup create`.

use std::process::ExitCode;
use std::time::Duration;

use backup::{BackupError, BackupWriter, Description, Sealing, Target, Written, shown_bytes};
use bytes::Bytes;
use indicatif::ProgressBar;
use kv_client::{RangeRead, Row, prefix_end};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::source::{ReadError, Source};
use super::users::{self, Auth, Users};
use super::{CreateArgs, failure, sealing, shown_family};
use crate::admin::{AdminClient, Status};
use crate::failure::Failure;
use crate::output;
use crate::signals::Signals;
use crate::text::Notation;

/// Rows and bytes per page, so that the server never has to build a huge reply.
const PAGE_ROWS: u32 = 20_000;
const PAGE_BYTES: u32 = 4 << 20;
/// How often a backup begins, if its version is lost.
const ATTEMPTS: u32 = 3;

/// Why an attempt to make a backup ended.
enum Ended {
    /// Another attempt may succeed.
    Lost(String),
    Failed(Failure),
}

impl From<BackupError> for Ended {
    fn from(error: BackupError) -> Self {
        Ended::Failed(failure(error))
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Ended::Failed(failure)
    }
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Lost(text) => Ended::Lost(text),
            ReadError::Failed(failure) => Ended::Failed(failure),
        }
    }
}

pub async fn run(args: CreateArgs) -> Result<ExitCode, Failure> {
    let sealing = sealing(&args.encrypt_to, args.encrypt_with.as_deref())?;
    let range = range(&args)?;
    let target = args.store.open(&args.to, true)?;
    let admin = AdminClient::new()?;
    let mut signals = Signals::listen()?;
    let began = Instant::now();
    for attempt in 1.. {
        let made = Attempt { args: &args, admin: &admin, target: &target, sealing: &sealing, range: &range };
        match made.run(&mut signals).await {
            Ok((written, address)) => return report(&args, &target, &written, &address, began.elapsed()),
            Err(Ended::Failed(failure)) => {
                return Err(failure.with_text(|text| format!("{text}; there is no new backup")));
            }
            Err(Ended::Lost(reason)) if attempt < ATTEMPTS => {
                output::remark(format!("the backup begins again with a newer version: {reason}"));
            }
            Err(Ended::Lost(reason)) => {
                return Err(Failure::Unsure(format!("{reason}; there is no new backup after {ATTEMPTS} attempts")));
            }
        }
    }
    unreachable!("the last attempt returns")
}

fn interrupted(signal: &str) -> Ended {
    Ended::Failed(Failure::Failed(signal.to_string()))
}

/// The ends of the keys, if not all of them are wanted.
fn range(args: &CreateArgs) -> Result<Option<(Bytes, Bytes)>, Failure> {
    let notation = if args.hex { Notation::Hex } else { Notation::Plain };
    let Some([begin, end]) = args.range.as_deref() else { return Ok(None) };
    let (begin, end) = (notation.argument("A", begin)?, notation.argument("B", end)?);
    if begin >= end {
        return Err(Failure::Usage("--range A B: A must be less than B, and nothing is between them".to_string()));
    }
    Ok(Some((begin.into(), end.into())))
}

struct Attempt<'a> {
    args: &'a CreateArgs,
    admin: &'a AdminClient,
    target: &'a Target,
    sealing: &'a Sealing,
    range: &'a Option<(Bytes, Bytes)>,
}

impl Attempt<'_> {
    async fn status(&self) -> Result<Status, Failure> {
        let (_, status): (String, Status) = self.admin.first(&self.args.admin, "/status").await?;
        Ok(status)
    }

    /// Users, roles and tokens, if they are wanted.
    async fn users(&self) -> Result<Option<Users>, Failure> {
        match self.args.auth {
            Auth::Keep => users::ask(self.admin, &self.args.admin).await.map(Some),
            Auth::Drop => Ok(None),
        }
    }

    /// Makes the backup, unless a signal comes. Then, as after any failure, nothing of it stays behind, neither in
    /// the store nor at the server; a second signal ends at once.
    async fn run(&self, signals: &mut Signals) -> Result<(Written, String), Ended> {
        let (mut source, families, description) = tokio::select! {
            begun = self.begin() => begun?,
            signal = signals.next() => return Err(interrupted(signal)),
        };
        let mut writer = BackupWriter::begin(self.target.clone(), description, self.sealing).await?;
        let bar = output::progress("backing up", None);
        let written = tokio::select! {
            written = self.write(&families, &mut source, &mut writer, &bar) => written,
            signal = signals.next() => Err(interrupted(signal)),
        };
        bar.finish_and_clear();
        let address = source.address().to_string();
        let ended = async {
            let result = match written {
                Ok(()) => writer.finish().await.map_err(Ended::from),
                Err(ended) => {
                    writer.abandon().await;
                    Err(ended)
                }
            };
            source.release().await;
            result
        };
        tokio::select! {
            result = ended => Ok((result?, address)),
            signal = signals.next() => Err(interrupted(signal)),
        }
    }

    /// Pins a version, and finds out what there is at that version.
    async fn begin(&self) -> Result<(Source, Vec<String>, Description), Ended> {
        let status = self.status().await?;
        let users = self.users().await?;
        let source = Source::pin(&self.args.target, &status).await?;
        if let Err(ended) = self.check_unchanged(&status, users.as_ref()).await {
            source.release().await;
            return Err(ended);
        }
        let families = self.families(&status)?;
        let description = Description {
            program: env!("CARGO_PKG_VERSION").to_string(),
            cluster_id: status.cluster_id.clone(),
            version: source.version().0,
            feature_level: status.feature_level.unwrap_or(kv_api::LOWEST_LEVEL),
            is_partial: !self.args.family.is_empty() || self.range.is_some(),
            begin: self.range.as_ref().map(|(begin, _)| begin.clone()),
            end: self.range.as_ref().map(|(_, end)| end.clone()),
            users: users.map(|users| users.encoded),
        };
        Ok((source, families, description))
    }

    /// Families and users are the same as before the version was chosen: so they are those of that version.
    async fn check_unchanged(&self, before: &Status, users: Option<&Users>) -> Result<(), Ended> {
        let after = self.status().await?;
        if after.column_families != before.column_families || after.cluster_id != before.cluster_id {
            return Err(Ended::Lost("families were created or dropped just now".to_string()));
        }
        if self.users().await?.map(|users| users.revision) != users.map(|users| users.revision) {
            return Err(Ended::Lost("users, roles or tokens were changed just now".to_string()));
        }
        Ok(())
    }

    /// The families to back up, in the order in which a restore writes them.
    fn families(&self, status: &Status) -> Result<Vec<String>, Failure> {
        let all = &status.column_families;
        if let Some(unknown) = self.args.family.iter().find(|name| !all.contains(name)) {
            return Err(Failure::Usage(format!("there is no family `{unknown}`; there are {}", all.join(", "))));
        }
        let wanted = if self.args.family.is_empty() { all } else { &self.args.family };
        let name = |name: &String| if name == kv_api::DEFAULT_COLUMN_FAMILY { String::new() } else { name.clone() };
        let mut families: Vec<String> = wanted.iter().map(name).collect();
        kv_store::BulkLoad::order(&mut families);
        families.dedup();
        Ok(families)
    }

    async fn write(
        &self,
        families: &[String],
        source: &mut Source,
        writer: &mut BackupWriter,
        bar: &ProgressBar,
    ) -> Result<(), Ended> {
        let mut pace = Pace::new(self.args.mb_per_second);
        let (mut rows, mut bytes) = (0_u64, 0_u64);
        for family in families {
            writer.family(family).await?;
            let (begin, end) = self.range.clone().unwrap_or_else(|| (Bytes::new(), prefix_end("")));
            let mut range = RangeRead {
                begin,
                end,
                column_family: family.clone(),
                limit: Some(PAGE_ROWS),
                reverse: false,
                target_bytes: Some(PAGE_BYTES),
            };
            let mut page = source.page(&range).await?;
            loop {
                let size = page.rows.iter().map(|row| (row.key.len() + row.value.len()) as u64).sum::<u64>();
                rows += page.rows.len() as u64;
                bytes += size;
                bar.set_message(format!("backing up {}: {rows} rows, {}", shown_family(family), shown_bytes(bytes)));
                pace.wait(size).await;
                let next = page.rows.last().filter(|_| page.has_more).map(|row| after(&row.key));
                let written = page.rows.into_iter().map(|Row { key, value }| (key, value));
                let Some(next) = next else {
                    writer.rows(written).await?;
                    break;
                };
                range.begin = next;
                // The next page is read while this one is compressed and stored.
                let (stored, read) = tokio::join!(writer.rows(written), source.page(&range));
                stored?;
                page = read?;
            }
        }
        Ok(())
    }
}

/// The next possible key.
fn after(key: &[u8]) -> Bytes {
    [key, b"\0"].concat().into()
}

/// Keeps reading below a rate.
struct Pace {
    bytes_per_second: Option<f64>,
    due: Instant,
}

impl Pace {
    fn new(mb_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second: mb_per_second.map(|mb| mb as f64 * 1e6), due: Instant::now() }
    }

    /// Waits as long as these bytes may take.
    async fn wait(&mut self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        // Time that was not used is not made up for: the rate is a bound, not an average.
        self.due = self.due.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate);
        sleep_until(self.due).await;
    }
}

fn report(
    args: &CreateArgs,
    target: &Target,
    written: &Written,
    address: &str,
    took: Duration,
) -> Result<ExitCode, Failure> {
    let Written { folder, summary } = written;
    let seconds = took.as_secs_f64().max(1e-3);
    let text = format!(
        "version {} is backed up in {target}/{folder}: {} rows, {} of keys and values, {} stored, {:.1} s ({:.0} MB/s), read from \
         {address}{}\n{}",
        summary.version,
        summary.rows,
        shown_bytes(summary.row_bytes),
        shown_bytes(summary.stored_bytes()),
        seconds,
        summary.row_bytes as f64 / 1e6 / seconds,
        summary.encryption.as_ref().map(|how| format!(", encrypted {}", how.describe())).unwrap_or_default(),
        match summary.has_users {
            true => "users, roles and the hashes of tokens are in it: a restore asks for --auth",
            false => "users, roles and tokens are not in it (--auth keep)",
        },
    );
    let document = json!({
        "backup": summary.backup,
        "folder": folder,
        "version": summary.version,
        "rows": summary.rows,
        "row_bytes": summary.row_bytes,
        "stored_bytes": summary.stored_bytes(),
        "objects": summary.objects.len(),
        "encrypted": summary.encryption.is_some(),
        "has_users": summary.has_users,
        "server": address,
        "seconds": seconds,
    });
    output::done(args.format, &document, &text)
}
