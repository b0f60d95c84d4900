//! Real processes under real faults.
//!
//! Three servers of the release build, each with RocksDB and a synchronised log, on file systems of
//! their own where the machine allows it. They reach each other through [`links`] that can be cut
//! and delayed. A [`nemesis`] executes a [`schedule`] of faults that a seed decides; [`clients`]
//! keep working and record their histories; at the end all faults are lifted, and [`judgement`] is
//! passed on the [`records`].
//!
//! The seed decides the schedule and what clients ask for, not the timing: a failure may take
//! several runs to come again.
//!
//! Left out: losing what was written and not synchronised, damaged bytes, clocks that jump. The
//! simulator does these; here the kernel keeps all that a killed process wrote.

pub mod clients;
pub mod cluster;
mod disk;
pub mod http;
pub mod judgement;
pub mod links;
pub mod nemesis;
pub mod random;
pub mod records;
pub mod schedule;

use std::path::PathBuf;
use std::time::Duration;

use cluster::Cluster;
use nemesis::Nemesis;
use records::Recorder;
use schedule::Schedule;

/// How long clients keep working after all faults were lifted, to show that they make progress.
const CALM: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Options {
    /// The program under test.
    pub program: PathBuf,
    /// An empty folder for data, configuration and logs.
    pub folder: PathBuf,
    /// How long faults are injected.
    pub duration: Duration,
    pub seed: u64,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub violations: Vec<String>,
    pub summary: String,
}

/// Runs the whole thing; prints a line now and then.
///
/// # Errors
/// When the machine, and not the program under test, is in the way.
pub async fn run(options: &Options) -> Result<Report, String> {
    let schedule = Schedule::new(options.seed, options.duration);
    let mut cluster = Cluster::prepare(options)?;
    println!("{}", cluster.disks());
    cluster.start_all().await?;
    cluster.wait_until_ready().await?;
    let recorder = Recorder::start();
    let clients = clients::start(&cluster, &recorder, options.seed).await?;
    let progress = tokio::spawn(records::print_progress(recorder.clone()));
    let mut nemesis = Nemesis::new(cluster, recorder.clone());
    nemesis.execute(&schedule).await;
    nemesis.heal().await;
    let (mut cluster, mut violations, faults) = nemesis.finish();
    let healed_us = recorder.now_us();
    violations.extend(cluster.wait_until_ready().await.err());
    tokio::time::sleep(CALM).await;
    clients.stop().await;
    progress.abort();
    violations.extend(clients::final_reads(&cluster, &recorder).await.err());
    violations.extend(cluster.verify().err());
    violations.extend(cluster.panics());
    cluster.stop_all().await;
    let records = recorder.take();
    println!("judging {} operations", records.count());
    if records.last_acknowledged_us <= healed_us {
        violations.push("no write was acknowledged after everything had been healed".to_string());
    }
    violations.extend(judgement::judge(&records));
    if !violations.is_empty() {
        records.write_to(&options.folder).map_err(|error| format!("the history cannot be kept: {error}"))?;
    }
    Ok(Report { violations, summary: records.summary(&faults) })
}
