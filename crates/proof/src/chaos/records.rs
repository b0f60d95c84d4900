//! Records of the clients, made while they work: histories for the checkers, counts for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kv_client::ClientError;
use tokio::time::sleep;

use super::nemesis::Counts;
use crate::checkers::bank::Balances;
use crate::checkers::versions::VersionKind;
use crate::history::{ClientId, ListStep, ListTransaction, Operation, Outcome, RegisterKind};

const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// How often an operation of one kind ended how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub ok: u64,
    pub failed: u64,
    pub unknown: u64,
}

/// The longest time without an acknowledged write.
#[derive(Clone, Debug, Default)]
pub struct Pause {
    pub length_us: u64,
    pub ended_us: u64,
    /// The faults in effect when it ended.
    pub faults: String,
}

#[derive(Clone, Debug, Default)]
pub struct Records {
    pub registers: Vec<Operation<RegisterKind>>,
    pub lists: Vec<Operation<ListTransaction>>,
    pub readings: Vec<Operation<Balances>>,
    pub versions: Vec<Operation<VersionKind>>,
    pub tallies: BTreeMap<&'static str, Tally>,
    pub errors: BTreeMap<String, u64>,
    pub last_acknowledged_us: u64,
    pub longest_pause: Pause,
    active_faults: BTreeSet<String>,
    ended_us: u64,
    clients: u64,
}

/// Shared by all clients.
pub struct Recorder {
    started: Instant,
    records: Mutex<Records>,
}

/// The outcome of an operation, and the reason if it failed.
pub fn outcome_of<T>(result: &Result<T, ClientError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Ok,
        Err(error) if error.maybe_committed() => Outcome::Unknown,
        Err(_) => Outcome::Fail,
    }
}

impl Recorder {
    pub fn start() -> Arc<Recorder> {
        Arc::new(Recorder { started: Instant::now(), records: Mutex::default() })
    }

    pub fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client under a name that nobody had before.
    pub fn new_client(&self) -> ClientId {
        let mut records = self.records();
        records.clients += 1;
        ClientId(records.clients)
    }

    pub fn count(&self, what: &'static str, outcome: Outcome) {
        let mut records = self.records();
        let tally = records.tallies.entry(what).or_default();
        match outcome {
            Outcome::Ok => tally.ok += 1,
            Outcome::Fail => tally.failed += 1,
            Outcome::Unknown => tally.unknown += 1,
        }
    }

    /// Remembers an error by its kind: for people who wonder why so much failed.
    pub fn count_error(&self, error: &ClientError) {
        let kind = match error {
            ClientError::Refused { code, .. } => code.as_str().to_string(),
            ClientError::Unreachable { .. } => "unreachable".to_string(),
            ClientError::ConnectionLost { .. } => "connection lost".to_string(),
            ClientError::DeadlineExceeded { .. } => "deadline exceeded".to_string(),
            other => other.to_string(),
        };
        *self.records().errors.entry(kind).or_default() += 1;
    }

    /// A write was acknowledged just now.
    pub fn acknowledged(&self) {
        let now_us = self.now_us();
        let mut records = self.records();
        let length_us = now_us.saturating_sub(records.last_acknowledged_us);
        if length_us > records.longest_pause.length_us && records.last_acknowledged_us > 0 {
            let faults = records.active_faults.iter().cloned().collect::<Vec<_>>().join("; ");
            records.longest_pause = Pause { length_us, ended_us: now_us, faults };
        }
        records.last_acknowledged_us = records.last_acknowledged_us.max(now_us);
    }

    pub fn register(&self, operation: Operation<RegisterKind>) {
        self.records().registers.push(operation);
    }

    pub fn list(&self, operation: Operation<ListTransaction>) {
        self.records().lists.push(operation);
    }

    pub fn reading(&self, operation: Operation<Balances>) {
        self.records().readings.push(operation);
    }

    pub fn version(&self, operation: Operation<VersionKind>) {
        self.records().versions.push(operation);
    }

    /// Every register that an operation was recorded of.
    pub fn register_keys(&self) -> BTreeSet<u64> {
        self.records().registers.iter().map(|operation| operation.kind.key()).collect()
    }

    /// Every list that a transaction was recorded of.
    pub fn list_keys(&self) -> BTreeSet<u64> {
        let records = self.records();
        let steps = records.lists.iter().flat_map(|operation| &operation.kind.steps);
        steps
            .map(|step| match step {
                ListStep::Append { key, .. } | ListStep::Read { key, .. } => *key,
            })
            .collect()
    }

    pub fn fault_begins(&self, fault: &str) {
        self.records().active_faults.insert(fault.to_string());
    }

    pub fn fault_ends(&self, fault: &str) {
        self.records().active_faults.remove(fault);
    }

    /// Everything recorded; nothing is left here.
    pub fn take(&self) -> Records {
        let ended_us = self.now_us();
        Records { ended_us, ..std::mem::take(&mut *self.records()) }
    }

    fn progress(&self) -> (Tally, u64, BTreeSet<String>) {
        let records = self.records();
        let sum = records.tallies.values().fold(Tally::default(), |sum, tally| Tally {
            ok: sum.ok + tally.ok,
            failed: sum.failed + tally.failed,
            unknown: sum.unknown + tally.unknown,
        });
        (sum, records.longest_pause.length_us, records.active_faults.clone())
    }
}

pub async fn print_progress(recorder: Arc<Recorder>) {
    let mut before = Tally::default();
    loop {
        sleep(PROGRESS_EVERY).await;
        let (now, pause_us, faults) = recorder.progress();
        println!(
            "{:8.1} s  {} operations done, {} failed, {} unknown in the last {} s; longest pause {:.1} s; faults: {faults:?}",
            recorder.now_us() as f64 / 1e6,
            now.ok - before.ok,
            now.failed - before.failed,
            now.unknown - before.unknown,
            PROGRESS_EVERY.as_secs(),
            pause_us as f64 / 1e6,
        );
        before = now;
    }
}

impl Records {
    pub fn count(&self) -> usize {
        self.registers.len() + self.lists.len() + self.readings.len() + self.versions.len()
    }

    pub fn summary(&self, faults: &Counts) -> String {
        let mut text = format!("ran for {:.0} s\n", self.ended_us as f64 / 1e6);
        for (what, Tally { ok, failed, unknown }) in &self.tallies {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {what:<28} {ok:>8} done {failed:>8} failed {unknown:>6} unknown");
        }
        let each = |counts: Vec<String>| if counts.is_empty() { "none".to_string() } else { counts.join(", ") };
        let faults = each(faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect());
        let errors = each(self.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect());
        let Pause { length_us, ended_us, faults: during } = &self.longest_pause;
        let (length, ended) = (*length_us as f64 / 1e6, *ended_us as f64 / 1e6);
        let _ = writeln!(text, "faults: {faults}\nerrors: {errors}");
        let _ =
            write!(text, "longest pause without an acknowledged write: {length:.1} s, until {ended:.1} s ({during})");
        text
    }

    /// All histories, one operation a line.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        write_lines(&folder.join("registers.txt"), &self.registers)?;
        write_lines(&folder.join("lists.txt"), &self.lists)?;
        write_lines(&folder.join("balances.txt"), &self.readings)?;
        write_lines(&folder.join("versions.txt"), &self.versions)
    }
}

fn write_lines<K: std::fmt::Debug>(path: &Path, operations: &[Operation<K>]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    operations.iter().try_for_each(|operation| writeln!(file, "{operation:?}"))?;
    file.flush()
}
