//! Three real processes with few descriptors and little memory, under clients that behave badly,
//! for a long time.
//!
//! A well-behaved client works alone first, and then in parallel with all the others; a recorder
//! writes rows and remembers the acknowledged ones. In the end nothing acknowledged may be missing,
//! no process may have ended, none may have taken more memory than its limit, and the well-behaved
//! client must not have waited much longer than alone.

mod bad_clients;
mod good_clients;
mod servers;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use good_clients::{Latencies, Recorder};
use servers::{Peaks, Servers};

/// How much longer than alone a well-behaved client may wait, at the 99th percentile.
const MAX_TIMES_SLOWER: f64 = 10.0;

#[derive(Clone, Debug)]
pub struct Options {
    /// The program under test.
    pub program: PathBuf,
    /// An empty folder for data, configuration and logs.
    pub folder: PathBuf,
    /// How long the bad clients work; the well-behaved one is alone for a tenth of it before, two
    /// minutes at most.
    pub duration: Duration,
    /// Open files and memory that each process may have.
    pub files: u32,
    pub memory_mb: u64,
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
    let mut servers = Servers::start(options)?;
    println!("{}", servers.describe());
    servers.wait_until_ready().await?;
    bad_clients::load_rows(&servers.thrift()).await?;
    let alone_for = (options.duration / 10).min(Duration::from_secs(120));
    println!("a well-behaved client alone, for {} s", alone_for.as_secs());
    let alone = good_clients::work(&servers.thrift(), alone_for, options.seed).await?;
    println!("alone:      {alone}");

    let stop = Arc::new(AtomicBool::new(false));
    let recorder = Recorder::start(servers.thrift(), stop.clone());
    let bad = bad_clients::start(&servers, options.seed, &stop);
    let beside = tokio::spawn({
        let (thrift, duration, seed) = (servers.thrift(), options.duration, options.seed);
        async move { good_clients::work(&thrift, duration, seed).await }
    });
    let mut peaks = Peaks::default();
    let mut violations = watch(&mut servers, &mut peaks, options.duration).await;
    stop.store(true, Ordering::Relaxed);
    let beside: Latencies = beside.await.map_err(|error| error.to_string())??;
    println!("beside all: {beside}");
    let bad = bad.stop().await;
    let acknowledged = recorder.stop().await;

    violations.extend(servers.wait_until_ready().await.err());
    let rows = acknowledged.len();
    violations.extend(good_clients::missing(&servers, acknowledged).await?);
    violations.extend(servers.verify().err());
    violations.extend(servers.panics());
    violations.extend(peaks.violations(options));
    let slower = beside.p99_us() as f64 / alone.p99_us().max(1) as f64;
    if slower > MAX_TIMES_SLOWER {
        violations.push(format!("the well-behaved client's p99 is {slower:.1} times what it is alone"));
    }
    violations.extend(servers.stop().await);
    let summary = format!(
        "{} minutes at {} files and {} MiB\nalone:      {alone}\nbeside all: {beside}; p99 × {slower:.1}\n{peaks}\n\
         acknowledged rows: {rows}\n{bad}",
        options.duration.as_secs_f64() / 60.0,
        options.files,
        options.memory_mb
    );
    Ok(Report { violations, summary })
}

/// Looks at the processes every second until the time is over.
async fn watch(servers: &mut Servers, peaks: &mut Peaks, duration: Duration) -> Vec<String> {
    let (begin, mut told) = (Instant::now(), Instant::now());
    let mut violations = Vec::new();
    while begin.elapsed() < duration {
        sleep(Duration::from_secs(1)).await;
        violations.extend(servers.restart_ended());
        servers.sample(peaks);
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            println!("{:5} s  {peaks}", begin.elapsed().as_secs());
        }
    }
    violations
}
