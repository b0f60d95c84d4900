//! `backup watch`: archives changes as they happen.
//!
//! Changes that are read and not stored yet are bounded: while a segment waits for the store, nothing more is
//! read. The servers keep the changes meanwhile, and the next attempt follows.

use std::process::ExitCode;
use std::time::Duration;

use backup::{Archiver, BackupError, Flushed, OffsetDateTime, shown_bytes};
use kv_client::{ChangeFeed, ChangesBatch, ChangesRequest, Client, ClientError, Version};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::show::shown_time;
use super::{WatchArgs, failure, sealing};
use crate::admin::{AdminClient, Status};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::signals::Signals;

/// How long one request waits for a change.
const WAIT: Duration = Duration::from_secs(10);
const REPLY_BYTES: u32 = 4 << 20;
/// Pauses between attempts to store a segment.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the last segment may take after a signal.
const LAST_PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(args: WatchArgs) -> Result<ExitCode, Failure> {
    let sealing = sealing(&args.encrypt_to, args.encrypt_with.as_deref())?;
    let target = args.store.open(&args.to, false)?;
    let (_, status): (String, Status) = AdminClient::new()?.first(&args.admin, "/status").await?;
    let client = args.target.connect().await?;
    let newest = client.read_version().await?;
    let place = format!("process {} on {}", std::process::id(), host());
    let archiver =
        Archiver::begin(target.clone(), env!("CARGO_PKG_VERSION"), status.cluster_id.clone(), sealing, &place);
    let archiver = archiver.await.map_err(failure)?;
    refuse_open_archive(&archiver, &target).await?;
    let request = ChangesRequest {
        max_wait: WAIT,
        max_bytes: REPLY_BYTES,
        cluster_id: status.cluster_id,
        ..ChangesRequest::after(Version(archiver.position()), Vec::new())
    };
    let feed = client.database().change_feed(request);
    let watch = Watch { goal: args.once.then_some(newest.0), args, client, archiver, feed, due: None, failures: 0 };
    watch.run().await
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "an unknown host".to_string() } else { name.trim().to_string() }
}

/// An encrypted backup with an open archive would give its rows away.
async fn refuse_open_archive(archiver: &Archiver, target: &backup::Target) -> Result<(), Failure> {
    let backups = backup::list(target).await.map_err(failure)?;
    let newest = backups.iter().filter_map(backup::Entry::complete).max_by_key(|summary| summary.version);
    match newest.is_some_and(|summary| summary.encryption.is_some()) && !archiver.is_sealing() {
        false => Ok(()),
        true => Err(Failure::Usage(
            "the newest full backup is encrypted, and the archive would not be: give --encrypt-with FILE or --encrypt-to \
             RECIPIENT, as for `backup create`"
                .to_string(),
        )),
    }
}

struct Watch {
    args: WatchArgs,
    client: Client,
    archiver: Archiver,
    feed: ChangeFeed,
    /// The version up to which to archive, if there is an end.
    goal: Option<u64>,
    /// When the pending changes are to be stored.
    due: Option<Instant>,
    /// Failed attempts in a row.
    failures: u32,
}

impl Watch {
    async fn run(mut self) -> Result<ExitCode, Failure> {
        let mut signals = Signals::listen()?;
        self.say_begin()?;
        loop {
            if self.goal.is_some_and(|goal| self.archiver.position() >= goal) {
                return self.end(None).await;
            }
            let due = self.due.unwrap_or_else(Instant::now);
            tokio::select! {
                batch = self.feed.next(), if !self.archiver.is_full() => match batch {
                    Ok(batch) => self.take(&batch),
                    Err(ClientError::ChangesTooOld { oldest, .. }) => self.skip(oldest).await?,
                    Err(error) => return Err(Failure::from(error).after(&self.so_far())),
                },
                () = sleep_until(due), if self.due.is_some() => self.store().await?,
                _ = signals.next() => return self.end(Some(LAST_PATIENCE)).await,
            }
            if output::is_closed() {
                return self.end(Some(LAST_PATIENCE)).await;
            }
        }
    }

    fn say_begin(&self) -> Result<(), Failure> {
        let (version, every) = (self.archiver.archived(), self.args.every.as_secs());
        match self.args.format {
            Format::Text => output::write_line(&format!(
                "archiving changes after version {version} into {}, a segment every {every} s",
                self.args.to
            )),
            Format::Json => output::write_json(&json!({ "event": "begin", "after": version, "every_seconds": every })),
        }
    }

    fn so_far(&self) -> String {
        format!("the archive ends at version {}; ", self.archiver.archived())
    }

    fn take(&mut self, batch: &ChangesBatch) {
        self.archiver.add(&batch.changes, batch.through.0, OffsetDateTime::now_utc(), !batch.has_more);
        if !self.archiver.has_pending() {
            return;
        }
        if self.archiver.is_full() {
            self.due = Some(Instant::now());
        } else if self.due.is_none() {
            self.due = Some(Instant::now() + self.args.every);
        }
    }

    /// No server has the next changes any more.
    async fn skip(&mut self, oldest: Version) -> Result<(), Failure> {
        while self.archiver.has_pending() {
            self.store().await?;
            if let (Some(due), true) = (self.due, self.archiver.has_pending()) {
                sleep_until(due).await;
            }
        }
        let end = self.archiver.position();
        let to = &self.args.to;
        match self.archiver.skip_to_full().await.map_err(failure)? {
            Some(version) if version >= oldest.0 => {
                output::remark(format!(
                    "the changes from version {} to {version} are not in the archive: no server has them any more. It goes on \
                     from the full backup of version {version}",
                    end + 1
                ));
                self.feed.seek(Version(version));
                Ok(())
            }
            _ => Err(Failure::Failed(format!(
                "the archive ends at version {end}, and the servers keep changes only after version {oldest}: those in between \
                 are lost to it. It needs a new full backup: synodkv backup create --to {to}; then start this again. \
                 changes.retention_ms of the servers says how long they keep changes"
            ))),
        }
    }

    /// Stores what is pending, and says so; later, if the store fails.
    async fn store(&mut self) -> Result<(), Failure> {
        self.due = None;
        match self.archiver.flush().await {
            Ok(None) => {}
            Ok(Some(flushed)) => {
                if self.failures > 0 {
                    output::remark("the store works again");
                }
                self.failures = 0;
                self.report(&flushed).await?;
            }
            Err(error @ BackupError::Unavailable(_)) => {
                let pause = (FIRST_PAUSE * 2_u32.saturating_pow(self.failures.min(6))).min(LONGEST_PAUSE);
                self.failures += 1;
                // Each pause is longer, and the longest is a minute: few lines.
                output::remark(format!("{error}; the next attempt follows in {} s", pause.as_secs()));
                self.due = Some(Instant::now() + pause);
            }
            Err(error) => return Err(failure(error).after(&self.so_far())),
        }
        if self.due.is_none() && self.archiver.has_pending() {
            self.due = Some(Instant::now() + self.args.every);
        }
        Ok(())
    }

    async fn report(&self, flushed: &Flushed) -> Result<(), Failure> {
        // Without an answer the lag is unknown, which is no reason to end.
        let newest = tokio::time::timeout(Duration::from_secs(5), self.client.read_version()).await;
        let lag = newest.ok().and_then(Result::ok).map(|version| version.0.saturating_sub(flushed.segment.last));
        let behind = (OffsetDateTime::now_utc() - flushed.time).as_seconds_f64().max(0.0);
        let seconds = if lag == Some(0) { 0.0 } else { behind };
        let segment = &flushed.segment;
        match self.args.format {
            Format::Text => output::write_line(&format!(
                "{}  archived up to version {}: {} changed, {}; lag {} versions, {seconds:.1} s",
                shown_time(flushed.time),
                segment.last,
                flushed.changes,
                shown_bytes(segment.bytes),
                lag.map_or_else(|| "unknown".to_string(), |lag| lag.to_string()),
            )),
            Format::Json => output::write_json(&json!({
                "event": "segment",
                "first": segment.first,
                "last": segment.last,
                "time": shown_time(flushed.time),
                "changes": flushed.changes,
                "bytes": segment.bytes,
                "object": segment.name(),
                "lag_versions": lag,
                "lag_seconds": seconds,
            })),
        }
    }

    /// Stores the rest, and ends.
    async fn end(mut self, patience: Option<Duration>) -> Result<ExitCode, Failure> {
        let give_up_at = patience.map(|patience| Instant::now() + patience);
        while self.archiver.has_pending() {
            let next = async {
                if let Some(due) = self.due.filter(|_| self.failures > 0) {
                    sleep_until(due).await;
                }
                self.store().await
            };
            match give_up_at {
                None => next.await?,
                Some(at) => match tokio::time::timeout_at(at, next).await {
                    Ok(stored) => stored?,
                    Err(_) => {
                        let text = format!("{}the changes after it are not stored", self.so_far());
                        return Err(Failure::Unsure(text));
                    }
                },
            }
        }
        let version = self.archiver.archived();
        match self.args.format {
            Format::Text => output::write_line(&format!("the archive ends at version {version}"))?,
            Format::Json => output::write_json(&json!({ "event": "end", "version": version }))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
