//! `bench`: generates load with many requests in flight on few connections, and reports the
//! results.
//!
//! Client and server may share a small machine, so the client must cost little: requests are made
//! from templates by copying (`template`), each connection is one loop on one thread that sends all
//! due requests in one write and reads all available replies (`connection`), and there is no task,
//! channel or lock per request. Transactions are the exception: they use the Rust client
//! (`transactions`). `workload`, `distribution` and `keys` choose the requests, `naming` makes keys
//! and values, and `statistics` counts and reports. Records that a workload needs are loaded first;
//! acknowledged writes can be recorded and checked later (`acknowledged`).

mod acknowledged;
mod args;
mod connection;
mod distribution;
mod keys;
mod load;
mod naming;
mod random;
mod statistics;
mod template;
mod transactions;
mod wire;
mod workload;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use kv_client::{Client, Tls, Token};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::access;
use crate::failure::Failure;
use crate::output::{self, Format};
use acknowledged::Recorder;
pub use args::BenchArgs;
use args::{BenchCommand, LoadArgs};
use connection::Driver;
use keys::KeySpace;
use statistics::Statistics;
use template::Templates;
use workload::Workload;

pub async fn run(args: BenchArgs) -> Result<ExitCode, Failure> {
    match args.command {
        Some(BenchCommand::Load(fill)) => load::run(fill).await,
        Some(BenchCommand::Check(check)) => acknowledged::check(check).await,
        None => measure(args.load).await,
    }
}

/// The state that all connections of a run share.
struct Run {
    addresses: Vec<String>,
    tls: Option<Tls>,
    token: Option<Token>,
    connections: u32,
    rate: Option<f64>,
    begins_at: Instant,
    ends_at: Instant,
    /// How long to wait for replies after the end of the run.
    patience: Duration,
    keys: RefCell<KeySpace>,
    templates: Templates,
    statistics: RefCell<Statistics>,
    recorder: RefCell<Option<Recorder>>,
}

async fn measure(args: LoadArgs) -> Result<ExitCode, Failure> {
    args.check()?;
    let keys = KeySpace::new(&args);
    // Fails at once if no server answers, before anything is measured.
    let client = match args.workload {
        Workload::Txn => transactions::connect(&args).await?,
        _ => args.target.connect().await?,
    };
    let rows = if args.workload == Workload::Commit { args.operations } else { 1 };
    let limits = client.limits().await?;
    args.shape().check_limits(&limits, rows.into())?;
    if args.workload.needs_records() && !args.no_load {
        load::load(&client, &limits, args.shape(), args.records.keys).await?;
    }
    let recorder = args.acknowledged.as_deref().map(Recorder::create).transpose()?;
    let begins_at = Instant::now();
    let operations = args.workload.mix().iter().map(|(operation, _)| *operation);
    let run = Rc::new(Run {
        addresses: args.target.addresses()?,
        tls: access::tls()?,
        token: access::token()?,
        connections: args.connections(),
        rate: args.rate,
        begins_at,
        ends_at: begins_at + Duration::from_secs(args.seconds),
        patience: Duration::from_secs(args.target.timeout_seconds),
        templates: Templates::new(&args),
        keys: RefCell::new(keys),
        statistics: RefCell::new(Statistics::new(begins_at, operations)),
        recorder: RefCell::new(recorder),
    });
    drive_all(&run, &args, client).await;
    if let Some(recorder) = run.recorder.borrow_mut().take() {
        recorder.finish()?;
    }
    let report = run.statistics.borrow().report(&args);
    match args.format {
        Format::Json => output::write_json(&report)?,
        Format::Text => output::write_line(&report.to_string())?,
    }
    Ok(ExitCode::from(u8::from(report.operations == 0)))
}

/// Runs all connections to the end. Ctrl-C ends the run early, with a report.
async fn drive_all(run: &Rc<Run>, args: &LoadArgs, client: Client) {
    let local = LocalSet::new();
    let mut drivers = JoinSet::new();
    if args.workload == Workload::Txn {
        transactions::start(run, args, client, &mut drivers, &local);
    } else {
        drop(client);
        for index in 0..run.connections {
            let depth = args.concurrency / run.connections + u32::from(index < args.concurrency % run.connections);
            drivers.spawn_local_on(Driver::new(run.clone(), index, depth as usize).run(), &local);
        }
    }
    let watched = async {
        let bar = output::progress(args.workload.name(), None);
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
