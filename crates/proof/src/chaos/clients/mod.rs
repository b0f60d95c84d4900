//! Clients that keep working through every fault, and record their histories.
//!
//! Each server has clients that speak to it alone, so that every replica serves reads and takes
//! writes; some others speak to whichever server answers.

pub mod bank;
mod lists;
mod registers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kv_client::{AtomicCommit, Client, ClientError, Committed, Options, RangeRead, Rows, Version};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::cluster::Cluster;
use super::random::Random;
use super::records::{Recorder, outcome_of};
use crate::checkers::versions::VersionKind;
use crate::history::{ClientId, Operation, Outcome};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses between two operations of a client: enough load for faults to matter, little enough for a
/// long history.
const MAX_THINK_MS: u64 = 20;

/// The state that all clients share.
struct Shared {
    recorder: Arc<Recorder>,
    stop: AtomicBool,
    /// Values and elements that nobody wrote before.
    next_value: AtomicU64,
    /// Operations on registers and lists so far: the keys in use move on with them, so that no
    /// history of a key grows without bounds.
    register_operations: AtomicU64,
    list_operations: AtomicU64,
}

pub struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// One client, with its random choices.
struct Actor {
    shared: Arc<Shared>,
    client: Client,
    id: ClientId,
    random: Random,
}

/// An operation that has begun.
#[derive(Clone, Copy)]
struct Begun {
    client: ClientId,
    called_us: u64,
}

fn options() -> Options {
    let backoff_max = Duration::from_millis(200);
    Options { connect_timeout: CONNECT_TIMEOUT, request_timeout: REQUEST_TIMEOUT, backoff_max, ..Options::default() }
}

pub async fn start(cluster: &Cluster, recorder: &Arc<Recorder>, seed: u64) -> Result<Clients, String> {
    let shared = Arc::new(Shared {
        recorder: recorder.clone(),
        stop: AtomicBool::new(false),
        next_value: AtomicU64::new(1),
        register_operations: AtomicU64::new(0),
        list_operations: AtomicU64::new(0),
    });
    let mut random = Random::new(seed ^ 0x5eed);
    let mut tasks = JoinSet::new();
    let addresses: Vec<String> = cluster.replicas.iter().map(|replica| replica.thrift.clone()).collect();
    let mut actor = async |addresses: Vec<String>| {
        let client = Client::connect(addresses, options()).await.map_err(|error| error.to_string())?;
        let id = recorder.new_client();
        Ok::<_, String>(Actor { shared: shared.clone(), client, id, random: Random::new(random.number()) })
    };
    bank::open_accounts(&mut actor(addresses.clone()).await?).await?;
    for index in 0..addresses.len() {
        let own = vec![addresses[index].clone()];
        let mut all = addresses.clone();
        all.rotate_left(index);
        for reach in [own.clone(), own.clone(), all] {
            tasks.spawn(registers::run(actor(reach.clone()).await?));
            tasks.spawn(lists::run(actor(reach).await?));
        }
        tasks.spawn(bank::transfer(actor(own.clone()).await?));
        tasks.spawn(bank::read(actor(own).await?));
    }
    Ok(Clients { shared, tasks })
}

impl Clients {
    /// Ends all clients, after what they have under way.
    pub async fn stop(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client meets no error but those it records");
        }
    }
}

/// Reads everything through every replica, as the last operations of the histories.
pub async fn final_reads(cluster: &Cluster, recorder: &Arc<Recorder>) -> Result<(), String> {
    for replica in &cluster.replicas {
        let failed = |error: ClientError| format!("the last reads through {}: {error}", replica.thrift);
        let client = Client::connect([replica.thrift.clone()], options()).await.map_err(failed)?;
        registers::read_all(&client, recorder).await.map_err(failed)?;
        lists::read_all(&client, recorder).await.map_err(failed)?;
        bank::read_all(&client, recorder).await.map_err(failed)?;
    }
    Ok(())
}

/// All rows whose keys begin with `prefix`, which ends with a slash.
fn range(prefix: &str) -> RangeRead {
    let end = prefix.trim_end_matches('/').to_string() + "0";
    RangeRead { begin: prefix.to_string().into(), end: end.into(), ..RangeRead::default() }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("clients write text")
}

/// The rows with their keys as numbers.
fn numbered(rows: &Rows, prefix: &str) -> Vec<(u64, String)> {
    let number = |key: &[u8]| text(key)[prefix.len()..].parse().expect("clients write numbers");
    rows.rows.iter().map(|row| (number(&row.key), text(&row.value).to_string())).collect()
}

impl Actor {
    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    async fn think(&mut self) {
        sleep(Duration::from_millis(self.random.between(0, MAX_THINK_MS))).await;
    }

    fn new_value(&self) -> u64 {
        self.shared.next_value.fetch_add(1, Ordering::Relaxed)
    }

    fn begin(&self) -> Begun {
        Begun { client: self.id, called_us: self.shared.recorder.now_us() }
    }

    /// Notes how an operation ended; a client that does not know continues under another name.
    fn end<T>(&mut self, what: &'static str, result: &Result<T, ClientError>) -> Outcome {
        let recorder = &self.shared.recorder;
        let outcome = outcome_of(result);
        recorder.count(what, outcome);
        if let Err(error) = result {
            recorder.count_error(error);
        }
        if outcome == Outcome::Unknown {
            self.id = recorder.new_client();
        }
        outcome
    }

    async fn read_version(&self) -> Result<Version, ClientError> {
        let begun = self.begin();
        let version = self.client.read_version().await?;
        let told = begun.operation(&self.shared.recorder, VersionKind::Read(version.0), Outcome::Ok);
        self.shared.recorder.version(told);
        Ok(version)
    }

    async fn commit(&self, commit: AtomicCommit) -> Result<Committed, ClientError> {
        let begun = self.begin();
        let committed = self.client.commit(commit).await?;
        let recorder = &self.shared.recorder;
        recorder.acknowledged();
        recorder.version(begun.operation(recorder, VersionKind::Commit(committed.version.0), Outcome::Ok));
        Ok(committed)
    }
}

impl Begun {
    /// The operation, ending now.
    fn operation<K>(self, recorder: &Recorder, kind: K, outcome: Outcome) -> Operation<K> {
        let Begun { client, called_us } = self;
        Operation { client, called_us, returned_us: recorder.now_us(), kind, outcome }
    }
}
