//! The workload `txn`: transactions of the Rust client, as programs use it. Each reads two records,
//! writes both, and is retried until it has committed. Concurrent transactions with a record in
//! common conflict and retry.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use kv_client::{Client, ClientError, Database, ErrorCode, Options, Transaction, TransactionOptions};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until};

use super::Run;
use super::args::LoadArgs;
use super::random::{SplitMix64, noise};
use super::workload::Operation;
use crate::failure::Failure;

/// Values are cut from this many random bytes.
const NOISE_BYTES: usize = 64 << 10;

pub async fn connect(args: &LoadArgs) -> Result<Client, Failure> {
    let options = Options {
        connections_per_endpoint: args.connections() as usize,
        // The client itself should not limit concurrency.
        max_in_flight: args.concurrency.max(1024) as usize,
        ..args.target.options()?
    };
    Ok(Client::connect(args.target.addresses()?, options).await?)
}

/// The state that all loops share.
struct Shared {
    run: Rc<Run>,
    database: Database,
    options: TransactionOptions,
    /// Transactions begun; used with a rate.
    begun: Cell<u64>,
    value_size: usize,
    noise: Vec<u8>,
}

/// Starts one loop per concurrent transaction.
pub fn start(run: &Rc<Run>, args: &LoadArgs, client: Client, loops: &mut JoinSet<()>, local: &LocalSet) {
    let value_size = args.shape().value_size;
    let shared = Rc::new(Shared {
        run: run.clone(),
        database: client.database(),
        options: TransactionOptions { timeout: run.patience, ..TransactionOptions::default() },
        begun: Cell::new(0),
        value_size,
        noise: noise(NOISE_BYTES + value_size),
    });
    for index in 0..args.concurrency {
        loops.spawn_local_on(repeat(shared.clone(), SplitMix64::seeded(u64::from(index))), local);
    }
}

/// Runs one transaction after the other until the run ends.
async fn repeat(shared: Rc<Shared>, mut random: SplitMix64) {
    let run = &shared.run;
    while let Some(since) = shared.next_begin().await {
        let outcome = shared.transact(&mut random).await;
        let now = Instant::now();
        let mut statistics = run.statistics.borrow_mut();
        match outcome {
            Ok(()) => {
                let latency = now.saturating_duration_since(since);
                statistics.success(Operation::Transaction, latency, now, now <= run.ends_at);
            }
            Err(error) => statistics.error(code_of(&error), 1),
        }
    }
}

impl Shared {
    /// Waits until the next transaction may begin. Returns the time from which its latency counts,
    /// or `None` if the run is over.
    async fn next_begin(&self) -> Option<Instant> {
        let run = &self.run;
        let Some(rate) = run.rate else {
            let now = Instant::now();
            return (now < run.ends_at).then_some(now);
        };
        let turn = self.begun.replace(self.begun.get() + 1);
        let due_at = run.begins_at + Duration::from_secs_f64(turn as f64 / rate);
        if due_at >= run.ends_at {
            return None;
        }
        sleep_until(due_at).await;
        (Instant::now() < run.ends_at).then_some(due_at)
    }

    /// Does what `Database::run` does, and counts attempts.
    async fn transact(&self, random: &mut SplitMix64) -> Result<(), ClientError> {
        let (one, other) = self.run.keys.borrow_mut().next_two();
        let naming = self.run.templates.shape().naming;
        let keys = [naming.key(one), naming.key(other)];
        let mut transaction = self.database.transaction_with(self.options);
        loop {
            let error = match self.attempt(&transaction, &keys, random).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let code = code_of(&error).to_string();
            transaction = transaction.on_error(error).await?;
            self.run.statistics.borrow_mut().retry(&code);
        }
    }

    async fn attempt(
        &self,
        transaction: &Transaction,
        keys: &[Vec<u8>; 2],
        random: &mut SplitMix64,
    ) -> Result<(), ClientError> {
        let [one, other] = keys;
        let (first, second) = tokio::join!(transaction.get(one), transaction.get(other));
        first?;
        second?;
        for key in keys {
            let from = random.below(NOISE_BYTES as u64) as usize;
            transaction.set(key, &self.noise[from..from + self.value_size]);
        }
        transaction.commit().await.map(|_| ())
    }
}

/// The server's error code, or a name for the lack of an answer.
fn code_of(error: &ClientError) -> &str {
    match error {
        ClientError::Unreachable { .. } => "UNREACHABLE",
        ClientError::ConnectionLost { .. } => "CONNECTION_LOST",
        ClientError::DeadlineExceeded { .. } => "NO_ANSWER",
        ClientError::CommitUnknown { .. } => "COMMIT_UNKNOWN",
        error => error.code().map(ErrorCode::as_str).filter(|code| !code.is_empty()).unwrap_or("ERROR"),
    }
}
