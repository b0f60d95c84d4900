//! `bench`: load with many requests under way on few connections, and what came of it.
//!
//! Client and server may share a small machine, so the client must cost little: requests are made from templates by
//! copying (`template`), each connection is one loop on one thread that writes all that may be sent in one go and reads all
//! that has come (`connection`), and there is no task, no channel and no lock per request. `statistics` counts and
//! reports. Rows that a workload reads are loaded first; acknowledged writes can be recorded and checked later
//! (`acknowledged`).

mod acknowledged;
mod connection;
mod keys;
mod load;
mod statistics;
mod template;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tokio::time::Instant;

use crate::cli::{ThriftTarget, check_addresses};
use crate::failure::Failure;
use crate::output::{self, Format};
use acknowledged::Recorder;
use connection::Driver;
use keys::KeySpace;
use statistics::Statistics;
use template::Templates;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// setKey of random keys.
    Put,
    /// get of random keys, loaded before.
    Get,
    /// Half put, half get.
    Mixed,
    /// atomicCommit of several sets without conflict check.
    Commit,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
            Workload::Commit => "commit",
        }
    }

    fn reads(self) -> bool {
        matches!(self, Workload::Get | Workload::Mixed)
    }
}

/// Measure throughput and latency.
///
/// Keeps `--concurrency` requests under way in all, spread over `--connections`, for `--seconds`; several addresses share
/// the connections. With `--rate` requests are due at fixed times, and latency counts from when a request was due, so that a
/// slow server cannot hide by slowing down the client. Lost connections and error replies count as errors, and the load goes
/// on.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    synodkv bench --workload put --concurrency 64 --seconds 10\n  \
    synodkv bench --workload mixed --rate 5000 --format json\n  \
    synodkv bench --workload put --unique --acknowledged keys.txt --addr 127.0.0.1:9090,127.0.0.1:9091\n  \
    synodkv bench check --acknowledged keys.txt          was anything acknowledged lost?"
)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    #[command(flatten)]
    pub load: LoadArgs,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Check(CheckArgs),
}

/// Read back every key that `bench --unique --acknowledged` recorded.
///
/// Exit status 1 when one is missing or has another value.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  synodkv bench check --acknowledged keys.txt")]
pub struct CheckArgs {
    /// The file that the benchmark wrote.
    #[arg(long, value_name = "FILE")]
    pub acknowledged: PathBuf,
    #[command(flatten)]
    pub target: ThriftTarget,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct LoadArgs {
    #[arg(long, value_enum, default_value_t = Workload::Put)]
    pub workload: Workload,
    /// Requests under way at a time, over all connections.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: u32,
    /// Connections; no more are opened than requests are under way.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// How long to send requests.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// How many different keys.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Length of a key.
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub key_size: u32,
    /// Length of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub value_size: u32,
    /// Requests per second in all; without it, as fast as the replies come.
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Sets in one commit of the workload `commit`.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub operations: u32,
    /// Write each key once only (workload `put`): a counter instead of random keys.
    #[arg(long)]
    pub unique: bool,
    /// Record each acknowledged key in this file (with --unique), for `bench check`.
    #[arg(long, value_name = "FILE", requires = "unique")]
    pub acknowledged: Option<PathBuf>,
    /// Do not load the keys first (workloads `get` and `mixed`): they are there from an earlier run.
    #[arg(long)]
    pub no_load: bool,
    #[command(flatten)]
    pub target: ThriftTarget,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

impl LoadArgs {
    fn check(&self) -> Result<(), Failure> {
        check_addresses("--addr", &self.target.addresses)?;
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e7)) {
            return Err(Failure::Usage("--rate: expected a number above 0, up to 10000000".to_string()));
        }
        if self.unique && self.workload != Workload::Put {
            return Err(Failure::Usage("--unique goes with --workload put only".to_string()));
        }
        Ok(())
    }
}

pub async fn run(args: BenchArgs) -> Result<ExitCode, Failure> {
    match args.command {
        Some(BenchCommand::Check(check)) => acknowledged::check(check).await,
        None => measure(args.load).await,
    }
}

/// What all connections of a run share.
struct Run {
    workload: Workload,
    addresses: Vec<String>,
    connections: u32,
    rate: Option<f64>,
    begins_at: Instant,
    ends_at: Instant,
    /// A reply that takes longer than this after the end is not waited for.
    patience: Duration,
    keys: RefCell<KeySpace>,
    templates: Templates,
    statistics: RefCell<Statistics>,
    recorder: RefCell<Option<Recorder>>,
}

async fn measure(args: LoadArgs) -> Result<ExitCode, Failure> {
    args.check()?;
    let keys = KeySpace::new(&args)?;
    // Says right away when nobody is there, before anything is measured.
    let client = args.target.connect().await?;
    if args.workload.reads() && !args.no_load {
        load::load(&client, &keys, &args).await?;
    }
    drop(client);
    let recorder = args.acknowledged.as_deref().map(Recorder::create).transpose()?;
    let connections = args.connections.min(args.concurrency);
    let begins_at = Instant::now();
    let run = Rc::new(Run {
        workload: args.workload,
        addresses: args.target.addresses.clone(),
        connections,
        rate: args.rate,
        begins_at,
        ends_at: begins_at + Duration::from_secs(args.seconds),
        patience: Duration::from_secs(args.target.timeout_seconds),
        templates: Templates::new(&args, &keys),
        keys: RefCell::new(keys),
        statistics: RefCell::new(Statistics::new(begins_at)),
        recorder: RefCell::new(recorder),
    });
    drive_all(&run, args.concurrency).await;
    if let Some(recorder) = run.recorder.borrow_mut().take() {
        recorder.finish()?;
    }
    let report = run.statistics.borrow().report(&args, connections);
    match args.format {
        Format::Json => output::write_json(&report)?,
        Format::Text => output::write_line(&report.to_string())?,
    }
    Ok(ExitCode::from(u8::from(report.operations == 0)))
}

/// Runs every connection to its end; Ctrl-C ends the run early, with a report.
async fn drive_all(run: &Rc<Run>, concurrency: u32) {
    let connections = run.connections;
    let local = tokio::task::LocalSet::new();
    let mut drivers = tokio::task::JoinSet::new();
    for index in 0..connections {
        let depth = concurrency / connections + u32::from(index < concurrency % connections);
        drivers.spawn_local_on(Driver::new(run.clone(), index, depth as usize).run(), &local);
    }
    let watched = async {
        let bar = output::progress(run.workload.name(), None);
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                done = drivers.join_next() => match done {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                },
                _ = ticks.tick() => bar.set_message(run.statistics.borrow_mut().progress_line(Instant::now())),
                _ = tokio::signal::ctrl_c() => break,
            }
        }
        bar.finish_and_clear();
    };
    local.run_until(watched).await;
}
