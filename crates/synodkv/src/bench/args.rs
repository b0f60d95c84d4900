//! The command line of `bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kv_client::Limits;

use super::distribution::Distribution;
use super::naming::{Naming, UNIQUE_DIGITS, YCSB_KEY_BYTES, hex_digits};
use super::workload::Workload;
use crate::failure::Failure;
use crate::output::Format;
use crate::targets::ThriftTarget;
use crate::usage::epilogue;

/// Measure throughput and latency.
///
/// Keeps `--concurrency` requests in flight, spread over `--connections`, for `--seconds`. Several
/// addresses share the connections. With `--rate`, requests are due at fixed times and latency
/// counts from that time, so that a slow server cannot hide by slowing down the client. Lost
/// connections and error replies count as errors, and the load continues.
///
/// The workloads `ycsb-a` to `ycsb-f` are those of YCSB (Cooper et al., SoCC 2010): a record is one
/// row of 10 fields of 100 bytes, an update writes all of it, and every request in flight has a
/// connection of its own. `txn` runs transactions of the Rust client: read two records, write both,
/// retry until committed; latency counts from the first attempt.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = epilogue("Examples:\n  \
    synodkv bench --workload put --concurrency 64 --seconds 10\n  \
    synodkv bench --workload mixed --rate 5000 --format json\n  \
    synodkv bench load --records 1000000                 once, then\n  \
    synodkv bench --workload ycsb-a --records 1000000 --no-load\n  \
    synodkv bench --workload ycsb-e --value-size 1000    loads 100000 records first\n  \
    synodkv bench --workload txn --keys 1000             few records: many conflicts\n  \
    synodkv bench --workload put --unique --acknowledged keys.txt --addr 127.0.0.1:9090,127.0.0.1:9091\n  \
    synodkv bench check --acknowledged keys.txt          was anything acknowledged lost?", "not one request succeeded")
)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    #[command(flatten)]
    pub load: LoadArgs,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Load(FillArgs),
    Check(CheckArgs),
}

/// Write the records that a workload works on, and measure nothing else.
///
/// A workload that needs records loads them by itself, unless `--no-load` is given. Inserts of
/// `ycsb-d` and `ycsb-e` add records after those.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv bench load --records 1000000\n  \
    synodkv bench load --workload txn --records 1000", "the server refused a record"))]
pub struct FillArgs {
    /// The workload whose records to load. All YCSB workloads have the same.
    #[arg(long, value_enum, default_value_t = Workload::YcsbA)]
    pub workload: Workload,
    #[command(flatten)]
    pub records: RecordArgs,
    #[command(flatten)]
    pub target: ThriftTarget,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Read back every key that `bench --unique --acknowledged` recorded.
#[derive(Debug, Args)]
#[command(after_help = epilogue(
    "Example:\n  synodkv bench check --acknowledged keys.txt",
    "a key is missing or has another value"
))]
pub struct CheckArgs {
    /// The file that the benchmark wrote.
    #[arg(long, value_name = "FILE")]
    pub acknowledged: PathBuf,
    #[command(flatten)]
    pub target: ThriftTarget,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// The number and size of records.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Number of different keys.
    #[arg(
        long,
        visible_alias = "records",
        value_name = "N",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000)
    )]
    pub keys: u64,
    /// Length of a key. [default: 16; with YCSB always 23]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub key_size: Option<u32>,
    /// Length of a value. [default: 100; with YCSB all fields together]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=1 << 30))]
    pub value_size: Option<u32>,
    /// YCSB: fields of a record, one after the other in its value. [default: 10]
    #[arg(long, value_name = "N", conflicts_with = "value_size", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub field_count: Option<u32>,
    /// YCSB: length of a field. [default: 100]
    #[arg(long, value_name = "BYTES", conflicts_with = "value_size", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub field_length: Option<u32>,
}

impl RecordArgs {
    pub fn check(&self, workload: Workload) -> Result<(), Failure> {
        let refuse = |text: String| Err(Failure::Usage(text));
        if !workload.is_ycsb() {
            let field = self.field_count.map(|_| "--field-count").or(self.field_length.map(|_| "--field-length"));
            return match field {
                Some(option) => refuse(format!("{option} goes with the workloads ycsb-a to ycsb-f; see --value-size")),
                None => Ok(()),
            };
        }
        if let Some(size) = self.key_size {
            return refuse(format!("--key-size {size}: keys of YCSB have {YCSB_KEY_BYTES} bytes"));
        }
        Ok(())
    }

    fn value_size(&self, workload: Workload) -> u32 {
        self.value_size.unwrap_or_else(|| match workload.is_ycsb() {
            true => self.field_count.unwrap_or(10) * self.field_length.unwrap_or(100),
            false => 100,
        })
    }

    pub fn shape(&self, workload: Workload) -> Shape {
        let naming = match workload.is_ycsb() {
            true => Naming::Ycsb,
            false => Naming::Hexadecimal { key_size: self.key_size.unwrap_or(16) as usize },
        };
        Shape { naming, value_size: self.value_size(workload) as usize }
    }
}

/// The shape of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub naming: Naming,
    pub value_size: usize,
}

impl Shape {
    /// Checks that the servers accept such records, and `rows` of them in one commit.
    pub fn check_limits(self, limits: &Limits, rows: u64) -> Result<(), Failure> {
        let (key_size, commit) =
            (self.naming.key_size() as u64, rows * (self.naming.key_size() + self.value_size) as u64);
        let checks = [
            ("a key", key_size, limits.max_key_bytes, "max_key_bytes"),
            ("a value", self.value_size as u64, limits.max_value_bytes, "max_value_bytes"),
            ("a commit", commit, limits.max_transaction_bytes, "max_transaction_bytes"),
        ];
        match checks.into_iter().find(|(_, bytes, limit, _)| *bytes > *limit as u64) {
            Some((what, bytes, limit, setting)) => Err(Failure::Usage(format!(
                "{what} would have {bytes} bytes, and the servers accept at most {limit} (limits.{setting})"
            ))),
            None => Ok(()),
        }
    }

    /// Checks that keys are long enough for this many records.
    pub fn check_names(self, records: u64) -> Result<(), Failure> {
        self.check_digits(hex_digits(records - 1), &format!("{records} keys"))
    }

    /// Checks that keys are long enough for numbers of this many digits.
    fn check_digits(self, needed: usize, what: &str) -> Result<(), Failure> {
        match self.naming {
            Naming::Hexadecimal { key_size } if key_size < needed => {
                Err(Failure::Usage(format!("--key-size {key_size}: {what} need at least {needed} bytes")))
            }
            Naming::Hexadecimal { .. } | Naming::Ycsb => Ok(()),
        }
    }
}

#[derive(Debug, Args)]
pub struct LoadArgs {
    #[arg(long, value_enum, default_value_t = Workload::Put)]
    pub workload: Workload,
    /// Requests in flight at a time, over all connections; with `txn`, transactions.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: u32,
    /// Connections, at most as many as requests in flight. Replies on a connection come in order,
    /// so with few connections reads wait for the writes before them. [default: 8; with YCSB as
    /// many as requests; with `txn` 1 to each replica, and 1 more for its commits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: Option<u32>,
    /// How long to send requests.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    #[command(flatten)]
    pub records: RecordArgs,
    /// How often each key is requested. [default: that of the YCSB workload; otherwise uniform]
    #[arg(long, value_enum, conflicts_with = "unique")]
    pub distribution: Option<Distribution>,
    /// Total requests per second; without it, as fast as the replies come.
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Sets in one commit of the workload `commit`.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub operations: u32,
    /// Maximum number of rows of one scan of the workload `ycsb-e`; lengths are uniform, starting
    /// at 1.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub scan_rows: u32,
    /// Write each key once only (workload `put`): a counter instead of random keys.
    #[arg(long)]
    pub unique: bool,
    /// Record each acknowledged key in this file (with --unique), for `bench check`.
    #[arg(long, value_name = "FILE", requires = "unique")]
    pub acknowledged: Option<PathBuf>,
    /// Do not load the keys first, because an earlier run did (all workloads except `put` and
    /// `commit`).
    #[arg(long)]
    pub no_load: bool,
    #[command(flatten)]
    pub target: ThriftTarget,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

impl LoadArgs {
    pub fn check(&self) -> Result<(), Failure> {
        self.target.addresses()?;
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e7)) {
            return Err(Failure::Usage("--rate: expected a number above 0, up to 10000000".to_string()));
        }
        if self.unique && self.workload != Workload::Put {
            return Err(Failure::Usage("--unique goes with --workload put only".to_string()));
        }
        self.records.check(self.workload)?;
        match self.unique {
            true => self.shape().check_digits(UNIQUE_DIGITS, "unique keys"),
            false => self.shape().check_names(self.records.keys),
        }
    }

    pub fn shape(&self) -> Shape {
        self.records.shape(self.workload)
    }

    pub fn distribution(&self) -> Distribution {
        self.distribution.unwrap_or(self.workload.distribution())
    }

    /// Number of connections; for transactions, to each replica.
    pub fn connections(&self) -> u32 {
        let default = match self.workload {
            Workload::Txn => 1,
            workload if workload.is_ycsb() => self.concurrency,
            _ => 8,
        };
        self.connections.unwrap_or(default).min(self.concurrency)
    }
}

#[cfg(test)]
pub mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        load: LoadArgs,
    }

    pub fn load_args(arguments: &[&str]) -> LoadArgs {
        Arguments::parse_from([&["bench"], arguments].concat()).load
    }

    #[test]
    fn a_record_of_ycsb_has_ten_fields_of_a_hundred_bytes_by_default() {
        let size = |arguments: &[&str]| load_args(&[&["--workload", "ycsb-a"], arguments].concat()).shape().value_size;
        assert_eq!(size(&[]), 1000);
        assert_eq!(size(&["--field-count", "3", "--field-length", "7"]), 21);
        assert_eq!(size(&["--value-size", "1024"]), 1024);
    }

    #[test]
    fn options_that_have_no_meaning_are_refused() {
        let refused = |arguments: &[&str]| load_args(arguments).check().expect_err("refused").to_string();
        assert!(refused(&["--field-count", "3"]).starts_with("--field-count goes with"));
        assert!(refused(&["--workload", "ycsb-a", "--key-size", "16"]).contains("23 bytes"));
        assert!(refused(&["--key-size", "2"]).contains("100000 keys need at least 5 bytes"));
        assert!(refused(&["--key-size", "15", "--unique"]).contains("at least 16 bytes"));
        assert!(refused(&["--workload", "get", "--unique"]).starts_with("--unique goes with"));
    }

    #[test]
    fn records_that_the_servers_do_not_take_are_refused_with_the_setting() {
        let limits = Limits { max_value_bytes: 99, max_transaction_bytes: 1000, ..Limits::default() };
        let check = |arguments: &[&str], rows| load_args(arguments).shape().check_limits(&limits, rows);
        let refused = |arguments: &[&str], rows| check(arguments, rows).expect_err("refused").to_string();
        assert!(refused(&[], 1).contains("a value would have 100 bytes, and the servers accept at most 99"));
        assert!(refused(&["--key-size", "20000"], 1).contains("limits.max_key_bytes"));
        assert!(refused(&["--value-size", "99"], 9).contains("a commit would have 1035 bytes"));
        check(&["--value-size", "99"], 8).expect("it is allowed");
    }

    #[test]
    fn requests_of_ycsb_do_not_share_connections() {
        let connections = |workload| load_args(&["--workload", workload, "--concurrency", "32"]).connections();
        assert_eq!(["put", "ycsb-a", "txn"].map(connections), [8, 32, 1]);
    }
}
