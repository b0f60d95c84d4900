//! The audit log: who did what, one JSON object per line.
//!
//! Lines go through a bounded queue to a thread of their own, so no request waits for the disk. If
//! the queue is full, the line is dropped and counted, or its request waits, as configured. A
//! request whose client leaves before the outcome is known has a line that says so. Nothing here
//! ever sees a token, and values are never written.

mod line;
mod writer;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use kv_api::{KvError, KvOperation, KvOutcome};
use line::Line;
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, Sender};
pub use writer::reopen_audit_logs;

use super::table::Kind;
use super::{Caller, Session};

/// How many lines may wait for the disk.
const QUEUE_LINES: usize = 16_384;

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    /// The file; `None`: no audit log.
    pub file: Option<PathBuf>,
    /// Which reads, of rows or of the state of the cluster, are recorded.
    pub reads: AuditScope,
    /// Which writes, and other changes, are recorded.
    pub writes: AuditScope,
    /// How keys are written.
    pub keys: AuditKeys,
    /// Whether each batch of lines is synchronised to the disk.
    pub sync: bool,
    /// The fate of a line for which the queue has no room.
    pub on_overflow: OnOverflow,
}

impl Default for AuditSettings {
    fn default() -> Self {
        AuditSettings {
            file: None,
            reads: AuditScope::Denied,
            writes: AuditScope::All,
            keys: AuditKeys::Hash,
            sync: false,
            on_overflow: OnOverflow::Drop,
        }
    }
}

/// Which requests of a kind are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditScope {
    None,
    /// Those that were refused because of who asked.
    Denied,
    All,
}

/// The fate of a line for which the queue has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOverflow {
    /// It is dropped and counted.
    Drop,
    /// Its request is not answered before there is room.
    Block,
}

/// How keys are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AuditKeys {
    /// The beginning of their SHA-256.
    Hash,
    /// Their first bytes.
    Prefix(usize),
    /// As they are.
    Full,
}

impl FromStr for AuditKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "hash" => Ok(AuditKeys::Hash),
            None if text == "full" => Ok(AuditKeys::Full),
            Some(("prefix", bytes)) if bytes.parse::<usize>().is_ok_and(|bytes| bytes > 0) => {
                Ok(AuditKeys::Prefix(bytes.parse().unwrap_or(usize::MAX)))
            }
            _ => Err(format!("`{text}`: allowed: \"hash\", \"full\" and \"prefix:N\", N being a number of bytes")),
        }
    }
}

impl TryFrom<String> for AuditKeys {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<AuditKeys> for String {
    fn from(keys: AuditKeys) -> Self {
        match keys {
            AuditKeys::Hash => "hash".into(),
            AuditKeys::Prefix(bytes) => format!("prefix:{bytes}"),
            AuditKeys::Full => "full".into(),
        }
    }
}

/// The audit log of one server.
pub struct AuditLog {
    settings: AuditSettings,
    queue: Sender<Line>,
    requests: AtomicU64,
    dropped: IntCounter,
}

impl AuditLog {
    /// Opens the file and starts its thread; `None` if none is configured. The thread ends with the
    /// last owner, after it has written what was queued.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(settings: &AuditSettings) -> Result<Option<Arc<AuditLog>>, String> {
        let Some(path) = settings.file.clone() else { return Ok(None) };
        let (queue, lines) = mpsc::channel(QUEUE_LINES);
        let dropped = IntCounter::new("synodkv_audit_dropped_total", "Lines of the audit log that were dropped")
            .expect("a valid metric");
        writer::start(path, settings.sync, lines, dropped.clone())?;
        let (settings, requests) = (settings.clone(), AtomicU64::new(0));
        Ok(Some(Arc::new(AuditLog { settings, queue, requests, dropped })))
    }

    /// The metric of dropped lines.
    pub fn dropped(&self) -> &IntCounter {
        &self.dropped
    }

    fn records(&self, kind: Kind, is_denied: bool) -> bool {
        let scope = match kind {
            Kind::Read => self.settings.reads,
            Kind::Write => self.settings.writes,
        };
        match scope {
            AuditScope::None => false,
            AuditScope::Denied => is_denied,
            AuditScope::All => true,
        }
    }

    /// Begins the record of an operation, if it is to be recorded.
    pub fn begin(&self, operation: &KvOperation, caller: &Caller, is_denied: bool) -> Option<Recording<'_>> {
        let kind = match operation {
            KvOperation::ReadVersion
            | KvOperation::Get { .. }
            | KvOperation::GetRange { .. }
            | KvOperation::ReadChanges(_) => Kind::Read,
            KvOperation::AtomicCommit(_)
            | KvOperation::ChangeFamily(_)
            | KvOperation::ChangeAccess(_)
            | KvOperation::ClockTick => Kind::Write,
        };
        let session = caller.session().filter(|_| self.records(kind, is_denied))?;
        let mut line = self.line(session, caller.method());
        line.of_caller(caller);
        line.of_operation(operation, self.settings.keys);
        Some(Recording { log: self, line: Some(line), began: Instant::now() })
    }

    /// Begins the record of a call that is no operation on rows.
    pub fn begin_call(&self, kind: Kind, session: &Session, method: &'static str) -> Recording<'_> {
        let line = self.line(session, method);
        let line = Some(line).filter(|_| self.records(kind, false));
        Recording { log: self, line, began: Instant::now() }
    }

    /// Records a call that was refused because of who asked.
    pub async fn denied(&self, kind: Kind, session: &Session, method: &'static str, error: &KvError) {
        if self.records(kind, true) {
            let line = self.line(session, method);
            Recording { log: self, line: Some(line), began: Instant::now() }.end(error.code(), None).await;
        }
    }

    fn line(&self, session: &Session, method: &'static str) -> Line {
        let id = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        Line::new(id, SystemTime::now(), session.facts(), method)
    }

    async fn write(&self, line: Line) {
        match self.settings.on_overflow {
            OnOverflow::Drop => self.write_now(line),
            // The thread lives as long as this queue.
            OnOverflow::Block => drop(self.queue.send(line).await),
        }
    }

    fn write_now(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.dropped.inc();
        }
    }
}

/// The record of a request whose outcome is not known yet.
pub struct Recording<'a> {
    log: &'a AuditLog,
    /// `None`: it is not recorded, or was already.
    line: Option<Line>,
    began: Instant,
}

impl Recording<'_> {
    /// Adds who asked.
    pub fn of_caller(&mut self, caller: &Caller) {
        if let Some(line) = &mut self.line {
            line.of_caller(caller);
        }
    }

    /// Records the outcome of an operation.
    pub async fn end_with(self, outcome: &Result<KvOutcome, KvError>) {
        match outcome {
            Ok(KvOutcome::Committed(result)) => self.end("ok", Some(result.version)).await,
            Ok(KvOutcome::ReadVersion(version)) => self.end("ok", Some(version.0)).await,
            Ok(KvOutcome::Changes(changes)) => self.end("ok", Some(changes.through.0)).await,
            Ok(KvOutcome::Value(_) | KvOutcome::Rows(_)) => self.end("ok", None).await,
            Err(error) => self.end(error.code(), None).await,
        }
    }

    /// Records the outcome: `ok` or the code of an error.
    pub async fn end(mut self, outcome: &str, version: Option<u64>) {
        if let Some(mut line) = self.line.take() {
            line.end(outcome, version, self.began.elapsed());
            self.log.write(line).await;
        }
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Some(mut line) = self.line.take() {
            line.end("the client left", None, self.began.elapsed());
            self.log.write_now(line);
        }
    }
}

#[cfg(test)]
mod tests;
