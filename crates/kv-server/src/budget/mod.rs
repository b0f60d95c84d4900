//! The resource budget of this process: descriptors, memory and threads, computed once at the
//! start, before anything is opened, from the settings and the limits of the system.
//!
//! Defaults are lowered until the sum fits. Explicit settings are kept, with a warning, except for
//! the number of connections, each of which needs a descriptor. A limit below the minimum is an
//! error. The section "Resource budget" in docs/OPERATIONS.md has the same table for people; `serve
//! --print-config` and `/status` show the figures.
//!
//! The parts enforce their shares themselves: the listeners, the reservations of
//! [`ByteBudget`](crate::byte_budget::ByteBudget), RocksDB, `rsml`.

mod descriptors;
mod fit;
mod host;
mod memory;

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

pub use descriptors::Descriptors;
pub use host::{Host, MemoryLimit, MemoryOrigin};
pub use memory::{Memory, ReplicaMemory};

use crate::config::Config;
use crate::problems::Problem;
use memory::MIB;

/// One line of the budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name in the table.
    pub name: &'static str,
    /// The amount that it gets.
    pub amount: u64,
    /// The amount that it would get if there were plenty.
    pub wanted: u64,
    /// How the amount follows from the settings, in words.
    pub formula: String,
    /// The part of the program that enforces the amount.
    pub enforced: &'static str,
}

/// A limit of the system is below the minimum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {what} is {limit}, and at least {needed} is needed; {remedy}")]
pub struct TooSmall {
    /// The limit, in words.
    pub what: &'static str,
    /// Its value.
    pub limit: String,
    /// The minimum.
    pub needed: String,
    /// How to raise it.
    pub remedy: &'static str,
}

/// The numbers on which the budget depends most: how many databases, replicas and peers this
/// process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Databases in this process.
    pub databases: u64,
    /// 0 in standalone mode.
    pub replicas: u64,
    /// Peers of each replica.
    pub peers: u64,
}

/// The budget has room for at least this many peers of each replica.
const FEWEST_PEERS: u64 = 2;

impl Shape {
    fn of(config: &Config) -> Shape {
        let replicas = config.local_replica_ids().len() as u64;
        // A cluster that begins with one member grows.
        let peers = (config.replication.replicas.len() as u64).saturating_sub(1).max(FEWEST_PEERS);
        Shape { databases: replicas.max(1), replicas, peers: if replicas == 0 { 0 } else { peers } }
    }
}

/// Threads of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Threads {
    /// Threads of the runtime, for sockets and short reads.
    pub workers: usize,
    /// Maximum number of threads of the runtime that may block, for long reads, opening and
    /// closing, and name resolution.
    pub blocking: usize,
    /// Threads of databases, logs and consensus.
    pub storage: u64,
}

/// Blocking threads for work other than long reads: name resolution, opening, closing, status.
const SPARE_BLOCKING: usize = 16;
/// Threads of a replica: core, log, preparing segments, apply, garbage collection, flushing or
/// closing.
const REPLICA_THREADS: u64 = 6;
/// Threads of a standalone database: commits, garbage collection.
const DATABASE_THREADS: u64 = 2;

impl Threads {
    /// Worker and blocking threads of a runtime. At most two long reads per processor run at a
    /// time.
    pub fn of_runtime(processors: usize) -> (usize, usize) {
        (processors.max(1), 2 * processors.max(1) + SPARE_BLOCKING)
    }

    pub(crate) fn plan(config: &Config, shape: Shape, processors: usize) -> Threads {
        let (workers, blocking) = Threads::of_runtime(processors);
        let own = match shape.replicas {
            0 => DATABASE_THREADS,
            replicas => replicas * REPLICA_THREADS,
        };
        Threads { workers, blocking, storage: own + u64::from(config.storage.background_threads) }
    }

    /// All threads, with the main thread.
    pub fn all(&self) -> u64 {
        1 + self.workers as u64 + self.blocking as u64 + self.storage
    }
}

/// The budget as decided at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Files and sockets.
    pub descriptors: Descriptors,
    /// Memory.
    pub memory: Memory,
    /// Threads.
    pub threads: Threads,
    /// Processors that this process may use.
    pub processors: usize,
    connections_wanted: usize,
}

impl Budget {
    /// Computes the budget and lowers the settings to it.
    ///
    /// # Errors
    /// [`TooSmall`] if a limit of the system is below the minimum.
    pub fn plan(config: &mut Config, host: &Host) -> Result<Budget, TooSmall> {
        let shape = Shape::of(config);
        let connections_wanted = config.server.max_connections;
        let descriptors = Descriptors::plan(config, shape, host.descriptors)?;
        let threads = Threads::plan(config, shape, host.processors);
        let limit = match config.server.memory_limit_mb {
            0 => host.memory.clone(),
            mib => MemoryLimit { bytes: mib as u64 * MIB, origin: MemoryOrigin::Setting },
        };
        let memory = Memory::plan(config, shape, threads, descriptors.connections, limit)?;
        descriptors.lower(config);
        memory.lower(config);
        Ok(Budget { descriptors, memory, threads, processors: host.processors, connections_wanted })
    }

    /// Problems to show to operators: limits that made this server smaller than its settings say.
    pub fn problems(&self) -> Vec<Problem> {
        [self.few_descriptors(), self.little_memory()].into_iter().flatten().collect()
    }

    fn few_descriptors(&self) -> Option<Problem> {
        let Descriptors { limit, wanted, connections, database_files, log_files, .. } = &self.descriptors;
        self.descriptors.is_short().then(|| {
            let mut text = format!(
                "{limit} files may be open (RLIMIT_NOFILE) and {wanted} may be needed: at most {connections} client \
                 connections of server.max_connections = {}, {database_files} table files for each database",
                self.connections_wanted
            );
            if *log_files > 0 {
                let _ = write!(text, ", {log_files} log segments for each replica");
            }
            Problem::new(
                "few_descriptors",
                text,
                "raise the hard limit (LimitNOFILE= of systemd, `ulimit -Hn`), or lower server.max_connections",
            )
        })
    }

    fn little_memory(&self) -> Option<Problem> {
        let memory = &self.memory;
        let (limit, usable, wanted) = (memory.limit.bytes / MIB, memory.usable / MIB, memory.wanted.div_ceil(MIB));
        let origin = &memory.limit.origin;
        let sizes = format!(
            "block cache {} MiB, write buffers {} MiB, replies {} MiB, requests {} MiB, {} client connections",
            memory.block_cache / MIB,
            memory.write_buffers / MIB,
            memory.replies / MIB,
            memory.requests / MIB,
            memory.connections
        );
        match (memory.is_overcommitted, memory.is_short()) {
            (true, _) => Some(Problem::new(
                "memory_overcommitted",
                format!(
                    "the settings allow {} MiB, and {limit} MiB is the limit ({origin}): {sizes}",
                    self.sum() / MIB
                ),
                "lower what the configuration sets (see `serve --print-config`), or raise the limit; as it is, the \
                 system may end this process",
            )),
            (false, true) => Some(Problem::new(
                "little_memory",
                format!(
                    "{wanted} MiB may be needed by default, and {usable} MiB can be shared out of {limit} MiB \
                     ({origin}): lowered to {sizes}"
                ),
                "raise the limit, or set the values that matter to you: see \"Resource budget\" in docs/OPERATIONS.md",
            )),
            (false, false) => None,
        }
    }

    /// The most memory that this process takes, in bytes, except for what grows with use.
    pub fn sum(&self) -> u64 {
        self.memory.lines.iter().map(|line| line.amount).sum()
    }

    /// For `/status`.
    pub fn to_json(&self) -> Value {
        let lines = |lines: &[Line]| -> Value {
            lines
                .iter()
                .map(|line| (line.name.to_string(), json!(line.amount)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let memory = &self.memory;
        json!({
            "descriptors": {
                "limit": self.descriptors.limit,
                "wanted": self.descriptors.wanted,
                "shares": lines(&self.descriptors.lines),
            },
            "memory_bytes": {
                "limit": memory.limit.bytes,
                "limit_from": memory.limit.origin.to_string(),
                "usable": memory.usable,
                "wanted": memory.wanted,
                "sum": self.sum(),
                "shares": lines(&memory.lines),
                "grows_with_use": memory.growing,
                "resident": resident_bytes(),
            },
            "threads": self.threads,
            "processors": self.processors,
        })
    }

    /// The table for people, each line prefixed with `# `.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let memory = &self.memory;
        let _ = writeln!(
            text,
            "# Resource budget: {} descriptors, {} MiB of memory ({}), {} processors, {} threads",
            self.descriptors.limit,
            memory.limit.bytes / MIB,
            memory.limit.origin,
            self.processors,
            self.threads.all()
        );
        let mut table = |title: &str, lines: &[Line], unit: &dyn Fn(u64) -> String| {
            let _ = writeln!(text, "#\n# {title:<26} {:>10} {:>10}  how much; enforced by", "gets", "wanted");
            for Line { name, amount, wanted, formula, enforced } in lines {
                let (amount, wanted) = (unit(*amount), unit(*wanted));
                let _ = writeln!(text, "#   {name:<24} {amount:>10} {wanted:>10}  {formula}; {enforced}");
            }
            let total = |of: fn(&Line) -> u64| unit(lines.iter().map(of).sum());
            let _ = writeln!(text, "#   {:<24} {:>10} {:>10}", "sum", total(|l| l.amount), total(|l| l.wanted));
        };
        table("descriptors", &self.descriptors.lines, &|count| count.to_string());
        table("memory", &memory.lines, &|bytes| format!("{} MiB", bytes.div_ceil(MIB)));
        let _ = writeln!(text, "#\n# grows with use, and is not in the sum");
        for growing in &memory.growing {
            let most = growing.at_most_bytes.map_or("-".to_string(), |bytes| format!("{} MiB", bytes.div_ceil(MIB)));
            let _ = writeln!(text, "#   {:<36} {most:>10}  {}", growing.name, growing.bound);
        }
        let Threads { workers, blocking, storage } = self.threads;
        let _ =
            writeln!(text, "#\n# threads: {workers} of the runtime, {blocking} that may block, {storage} of storage");
        text
    }
}

/// A problem if the process is about to reach its memory limit. Measured at each call.
pub(crate) fn memory_short(limit: &MemoryLimit) -> Option<Problem> {
    let resident = resident_bytes()?;
    (resident / 95 * 100 > limit.bytes).then(|| {
        Problem::new(
            "memory_short",
            format!("{} MiB are resident of {} MiB ({})", resident / MIB, limit.bytes / MIB, limit.origin),
            "raise the limit, or lower server.max_reply_memory_mb, storage.block_cache_mb and storage.write_buffer_mb",
        )
    })
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(descriptors: u64, mib: u64) -> Host {
        let memory = MemoryLimit { bytes: mib * MIB, origin: MemoryOrigin::Machine };
        Host { descriptors, memory, processors: 2 }
    }

    #[test]
    fn a_small_machine_lowers_the_settings_with_one_problem_for_each_limit() {
        let mut config = Config::standalone();
        let budget = Budget::plan(&mut config, &host(1_024, 1_024)).expect("enough to serve");
        assert!(config.server.max_connections < 1_024 && config.storage.block_cache_mb < 256);
        let problems = budget.problems();
        let kinds: Vec<_> = problems.iter().map(|problem| problem.kind).collect();
        assert_eq!(kinds, ["few_descriptors", "little_memory"]);
        assert!(problems[0].text.contains("1024 files") && problems[0].text.contains("server.max_connections = 10000"));
        assert!(budget.sum() <= budget.memory.usable);
    }

    #[test]
    fn a_large_machine_changes_no_setting() {
        let mut config = Config::standalone();
        let budget = Budget::plan(&mut config, &host(1 << 20, 64 << 10)).expect("plenty");
        assert_eq!((config, budget.problems()), (Config::standalone(), Vec::new()));
    }

    #[test]
    fn the_setting_overrides_the_limit_of_the_system() {
        let mut config = Config::standalone();
        config.server.memory_limit_mb = 600;
        let budget = Budget::plan(&mut config, &host(1 << 20, 64 << 10)).expect("enough to serve");
        assert_eq!(budget.memory.limit.bytes, 600 * MIB);
        assert!(budget.problems()[0].text.contains("server.memory_limit_mb"));
    }

    #[test]
    fn the_table_has_every_line_and_the_sums() {
        let budget = Budget::plan(&mut Config::standalone(), &host(1 << 20, 64 << 10)).expect("plenty");
        let text = budget.describe();
        for line in budget.descriptors.lines.iter().chain(&budget.memory.lines) {
            assert!(text.contains(line.name), "{}", line.name);
        }
        assert!(text.lines().all(|line| line.starts_with('#')));
        let json = budget.to_json();
        assert_eq!(json["memory_bytes"]["sum"].as_u64(), Some(budget.sum()));
    }

    #[test]
    fn a_process_near_its_limit_is_a_problem() {
        let tiny = MemoryLimit { bytes: MIB, origin: MemoryOrigin::Machine };
        assert_eq!(memory_short(&tiny).map(|problem| problem.kind), Some("memory_short"));
        assert_eq!(memory_short(&MemoryLimit { bytes: u64::MAX, origin: MemoryOrigin::Machine }), None);
    }
}
