//! Clients that do what they should: one whose waiting is measured, and one whose rows must not get
//! lost.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_api::KeyRef;
use kv_client::{Client, ClientError, Options};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::servers::Servers;
use crate::chaos::random::Random;

/// Between two operations.
const THINK: Duration = Duration::from_millis(10);
const KEYS: u64 = 10_000;

fn options() -> Options {
    Options { request_timeout: Duration::from_secs(20), ..Options::default() }
}

async fn connect(thrift: &[String]) -> Result<Client, String> {
    Client::connect(thrift.iter().cloned(), options()).await.map_err(|error| error.to_string())
}

/// How long operations took, in microseconds, ascending.
pub struct Latencies {
    sorted_us: Vec<u64>,
    failed: u64,
}

impl Latencies {
    fn percentile(&self, percent: f64) -> u64 {
        let last = self.sorted_us.len().saturating_sub(1);
        let at = (last as f64 * percent / 100.0).round() as usize;
        self.sorted_us.get(at).copied().unwrap_or(0)
    }

    pub fn p99_us(&self) -> u64 {
        self.percentile(99.0)
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} failed; p50 {} µs, p99 {} µs, longest {} µs",
            self.sorted_us.len(),
            self.failed,
            self.percentile(50.0),
            self.p99_us(),
            self.percentile(100.0)
        )
    }
}

/// Reads and writes small rows, one after another, for so long.
pub async fn work(thrift: &[String], duration: Duration, seed: u64) -> Result<Latencies, String> {
    let client = connect(thrift).await?;
    let mut random = Random::new(seed);
    let (begin, mut latencies) = (Instant::now(), Latencies { sorted_us: Vec::new(), failed: 0 });
    while begin.elapsed() < duration {
        let key = KeyRef::new(format!("good/{}", random.between(0, KEYS)));
        let started = Instant::now();
        let done = match random.chance(50) {
            true => client.set(key, vec![b'x'; 100]).await,
            false => client.get(key).await.map(drop),
        };
        latencies.failed += u64::from(done.is_err());
        latencies.sorted_us.push(started.elapsed().as_micros() as u64);
        sleep(THINK).await;
    }
    latencies.sorted_us.sort_unstable();
    Ok(latencies)
}

/// Writes rows, each once, and remembers those that were acknowledged.
pub struct Recorder(JoinHandle<Vec<u64>>);

impl Recorder {
    pub fn start(thrift: Vec<String>, stop: Arc<AtomicBool>) -> Recorder {
        Recorder(tokio::spawn(record(thrift, stop)))
    }

    /// The numbers of the rows that have to be there.
    pub async fn stop(self) -> Vec<u64> {
        self.0.await.expect("the recorder meets no error but those it survives")
    }
}

fn key_of(number: u64) -> KeyRef {
    KeyRef::new(format!("recorded/{number:012}"))
}

fn value_of(number: u64) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(8 + (number % 1000) as usize, number as u8);
    value
}

async fn record(thrift: Vec<String>, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let mut client = None;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if client.is_none() {
            client = connect(&thrift).await.ok();
        }
        if let Some(client) = &client
            && client.set(key_of(number), value_of(number)).await.is_ok()
        {
            acknowledged.push(number);
        }
        sleep(THINK).await;
    }
    acknowledged
}

/// The acknowledged rows that a replica has not, or has otherwise.
pub async fn missing(servers: &Servers, acknowledged: Vec<u64>) -> Result<Vec<String>, String> {
    let mut violations = Vec::new();
    for thrift in servers.thrift() {
        let client = connect(std::slice::from_ref(&thrift)).await?;
        let mut wrong = BTreeMap::new();
        for number in &acknowledged {
            match client.get(key_of(*number)).await {
                Ok(Some(value)) if value == value_of(*number) => {}
                Ok(found) => drop(wrong.insert(*number, found.is_some())),
                Err(error @ ClientError::Refused { .. }) => return Err(format!("{thrift}: {error}")),
                Err(error) => return Err(format!("{thrift}: reading back failed: {error}")),
            }
        }
        if let Some((first, is_there)) = wrong.first_key_value() {
            let how = if *is_there { "has another value" } else { "is missing" };
            violations.push(format!("{} acknowledged rows are wrong at {thrift}; row {first} {how}", wrong.len()));
        }
    }
    Ok(violations)
}
