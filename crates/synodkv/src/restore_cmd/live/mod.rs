//! A restore of a range into a live cluster, in transactions.
//!
//! The range in the cluster is divided by the keys of the backup: each transaction is about the keys
//! from the end of the one before through its last row. Invariants:
//! - rows of an object are written only after all of it was compared with the backup;
//! - with `--overwrite`, a transaction clears its part and writes the rows, so doing it twice is the
//!   same as once;
//! - with `--if-empty`, a transaction reads its part, and commits only if it was empty. The first one
//!   after an interruption may find its own rows: these exactly, or it refuses;
//! - the checkpoint is written after the commit that it tells of.

mod checkpoint;
mod plan;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use backup::{Backup, BackupError, ChunkInfo};
use bytes::Bytes;
use kv_client::{ClientError, Database, Limits, Range, Row, Transaction, TransactionOptions, Version};
use serde_json::json;

use super::{RestoreArgs, check_objects};
use crate::backup_cmd::{failure, shown_family};
use crate::failure::Failure;
use crate::output;
use crate::text::Notation;
use checkpoint::Checkpoint;
use plan::Plan;

/// Rows and bytes of one transaction.
const BATCH_ROWS: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;

pub async fn run(args: RestoreArgs, backup: Backup) -> Result<ExitCode, Failure> {
    if !args.live.if_empty && !args.live.overwrite {
        return Err(Failure::Usage(
            "say what happens to rows that are there: --if-empty refuses them, --overwrite replaces the whole range"
                .to_string(),
        ));
    }
    let plan = Plan::of(&args, &backup)?;
    check_objects(&backup).await?;
    let checkpoint = Checkpoint::open(args.live.checkpoint.as_deref(), &plan.record(&backup))?;
    let (client, limits) = args.live.into.thrift().connect_with_limits().await?;
    let target = Target {
        database: client.database(),
        timeout: args.live.into.thrift().timeout(),
        batch_bytes: batch_bytes(&limits),
        backup: Arc::new(backup),
        plan,
        checkpoint,
    };
    if target.checkpoint.is_done() {
        return target.report(&args, 0, Version::default());
    }
    if args.live.if_empty && !target.checkpoint.has_begun() {
        target.refuse_rows().await?;
    }
    if args.dry_run {
        return target.dry_run(&args).await;
    }
    target.write_all(&args).await
}

/// Bytes of rows in one transaction, which holds the ends of its part twice besides.
fn batch_bytes(limits: &Limits) -> usize {
    BATCH_BYTES.min(limits.max_transaction_bytes.saturating_sub(4 * (limits.max_key_bytes + 1))).max(1)
}

struct Target {
    database: Database,
    timeout: Duration,
    batch_bytes: usize,
    backup: Arc<Backup>,
    plan: Plan,
    checkpoint: Checkpoint,
}

/// Why a transaction was not made.
enum Refusal {
    Client(ClientError),
    /// There is a row where none should be.
    NotEmpty(Bytes),
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        Refusal::Client(error)
    }
}

impl Target {
    /// Refuses a range that holds a row, before anything is written.
    async fn refuse_rows(&self) -> Result<(), Failure> {
        let (begin, end) = self.plan.destination();
        let first = self.database.transaction().snapshot().family(&self.plan.family);
        let rows = first.get_range(Range::new(begin, end).limit(1)).all().await?;
        match rows.first() {
            None => Ok(()),
            Some(row) => Err(self.not_empty(&row.key).with_text(|text| format!("{text}; nothing was written"))),
        }
    }

    fn not_empty(&self, key: &[u8]) -> Failure {
        Failure::Failed(format!(
            "--if-empty: the range holds `{}` of family {}",
            Notation::Escaped.show(key),
            shown_family(&self.plan.family)
        ))
    }

    /// The rows of a chunk that are wanted and not written yet, with the keys that they get.
    async fn rows(&self, chunk: &ChunkInfo, next: &Bytes) -> Result<Vec<(Bytes, Bytes)>, Failure> {
        let object = self.backup.fetch(chunk.object).await.map_err(failure)?;
        let (backup, plan, chunk, next) = (self.backup.clone(), self.plan.clone(), chunk.clone(), next.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut rows = Vec::new();
            backup.rows(&chunk, object, |key, value| {
                if key >= &next[..] && key < &plan.end[..] {
                    rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                }
                Ok::<(), BackupError>(())
            })?;
            Ok(rows)
        });
        read.await.map_err(|error| Failure::Unsure(error.to_string()))?.map_err(failure)
    }

    /// The chunks from the key `next` on.
    fn chunks(&self, next: &Bytes) -> Vec<ChunkInfo> {
        let content = self.backup.content().expect("it was unlocked");
        let is_wanted = |chunk: &&ChunkInfo| {
            chunk.family == self.plan.family && chunk.last_key >= *next && chunk.first_key < self.plan.end
        };
        content.chunks.iter().filter(is_wanted).cloned().collect()
    }

    async fn dry_run(self, args: &RestoreArgs) -> Result<ExitCode, Failure> {
        let next = self.checkpoint.next_or(&self.plan.begin);
        let mut rows = 0;
        for chunk in self.chunks(&next) {
            rows += self.rows(&chunk, &next).await?.len() as u64;
        }
        let text = format!("would write {rows} rows; nothing was written (--dry-run)");
        output::done(args.format, &json!({ "dry_run": true, "rows": rows }), &text)
    }

    async fn write_all(mut self, args: &RestoreArgs) -> Result<ExitCode, Failure> {
        let bar = output::progress("rows restored", None);
        let (mut written, mut last) = (0_u64, Version::default());
        let next = self.checkpoint.next_or(&self.plan.begin);
        let mut is_first = self.checkpoint.has_begun();
        self.checkpoint.begin()?;
        for chunk in self.chunks(&next) {
            let stopped = |failure: Failure| self.stopped(failure, written);
            let rows = self.rows(&chunk, &next).await.map_err(stopped)?;
            for batch in batches(&rows, self.batch_bytes) {
                let behind = [&batch[batch.len() - 1].0[..], b"\0"].concat().into();
                let made = self.commit(batch, &behind, is_first).await;
                last = made.map_err(|failure| self.stopped(failure, written))?;
                written += batch.len() as u64;
                is_first = false;
                self.checkpoint
                    .advance(behind, batch.len() as u64)
                    .map_err(|failure| self.stopped(failure, written))?;
                bar.inc(batch.len() as u64);
                bar.set_message(format!("rows restored: {written}"));
            }
        }
        // Behind the last row, something may be there as well.
        let end = self.plan.end.clone();
        let made = self.commit(&[], &end, is_first).await;
        last = made.map_err(|failure| self.stopped(failure, written))?.max(last);
        self.checkpoint.finish().map_err(|failure| self.stopped(failure, written))?;
        bar.finish_and_clear();
        self.report(args, written, last)
    }

    fn stopped(&self, failure: Failure, written: u64) -> Failure {
        let again = match self.checkpoint.is_kept() {
            true => "; the same command goes on from here",
            false => "; without --checkpoint, the same command begins again",
        };
        failure.with_text(|text| format!("{text}{again}")).after(&format!("{written} rows are written; "))
    }

    /// Makes the part of the range up to the key `end` of the backup what it is there.
    async fn commit(&self, batch: &[(Bytes, Bytes)], end: &Bytes, may_repeat: bool) -> Result<Version, Failure> {
        let from = self.plan.place(&self.checkpoint.next_or(&self.plan.begin));
        let to = self.plan.place(end);
        if from >= to {
            return Ok(Version::default());
        }
        let rows: Vec<Row> =
            batch.iter().map(|(key, value)| Row { key: self.plan.place(key), value: value.clone() }).collect();
        let options = TransactionOptions { timeout: self.timeout, ..TransactionOptions::default() };
        let overwrite = self.plan.overwrite;
        let body = |transaction: Transaction| {
            let transaction = transaction.family(&self.plan.family);
            let (from, to, rows) = (from.clone(), to.clone(), &rows);
            async move {
                if overwrite {
                    transaction.clear_range(from, to);
                } else {
                    let wanted = if may_repeat { rows.len() + 1 } else { 1 };
                    let found = transaction.get_range(Range::new(from, to).limit(wanted)).all().await?;
                    if may_repeat && found == *rows {
                        return Ok(());
                    }
                    if let Some(row) = found.into_iter().next() {
                        return Err(Refusal::NotEmpty(row.key));
                    }
                }
                rows.iter().for_each(|row| transaction.set(row.key.clone(), row.value.clone()));
                Ok(())
            }
        };
        let done = self.database.run_with(options, body).await.map_err(|refusal| match refusal {
            Refusal::Client(error) => Failure::of_write(error),
            Refusal::NotEmpty(key) => self.not_empty(&key),
        })?;
        Ok(done.1.version)
    }

    fn report(self, args: &RestoreArgs, written: u64, last: Version) -> Result<ExitCode, Failure> {
        let before = self.checkpoint.rows() - written;
        let earlier = if before > 0 { format!(", and {before} by earlier runs") } else { String::new() };
        let text = match (written, before) {
            (0, 0) => "the backup holds no row of this range".to_string(),
            _ => format!(
                "{written} rows are restored{earlier}, from version {} of the backup",
                self.backup.summary().version
            ),
        };
        let document = json!({
            "backup": self.backup.summary().backup,
            "backup_version": self.backup.summary().version,
            "rows": written,
            "rows_before": before,
            "version": last.0,
        });
        output::done(args.format, &document, &text)
    }
}

/// Divides rows into transactions.
fn batches(rows: &[(Bytes, Bytes)], most_bytes: usize) -> impl Iterator<Item = &[(Bytes, Bytes)]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fits = rest.iter().take(BATCH_ROWS).take_while(|(key, value)| {
            bytes += key.len() + value.len();
            bytes <= most_bytes
        });
        let (batch, behind) = rest.split_at(fits.count().max(1));
        rest = behind;
        Some(batch)
    })
}
