//! Rounds of requests for a read version: which callers a round may serve, and how long it lasts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_api::thrift::ThriftCall;
use kv_api::thrift::generated::GetReadVersionResponse;
use kv_client::{ClientError, Database, Options, TransactionOptions, Version};
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance};

use crate::clock::{passing, settle};
use crate::peer::{Action, Gate, Peer};
use crate::store::Store;
use crate::{alone, connect};

/// More callers than the client has concurrent rounds.
const MANY: usize = 12;

/// A replica that looks up the version at once, and sends it only when the test opens a gate.
struct Held {
    store: Store,
    _peer: Peer,
    /// One gate for each round, in order.
    gates: Arc<Mutex<Vec<Gate>>>,
    db: Database,
}

impl Held {
    async fn start(options: Options) -> Held {
        let (store, gates) = (Store::default(), Arc::new(Mutex::new(Vec::new())));
        let made = gates.clone();
        let peer = store
            .replica(move |call, store| {
                let ThriftCall::GetReadVersion(_) = call else { return None };
                let (gate, reply) = (Gate::closed(), store.serve(call.clone()));
                made.lock().expect("no panic").push(gate.clone());
                Some(Action::after(&gate, move || Action::Reply(reply)))
            })
            .await;
        // With several connections the answers of rounds can overtake each other.
        let db = passing(connect(&peer, Options { connections_per_endpoint: 8, ..options })).await;
        Held { store, _peer: peer, gates, db }
    }

    fn rounds(&self) -> usize {
        self.gates.lock().expect("no panic").len()
    }

    fn open(&self, round: usize) {
        self.gates.lock().expect("no panic")[round].open();
    }

    /// Starts to ask for a version, and waits until nothing happens any more.
    async fn ask(&self, timeout: Duration) -> JoinHandle<Result<Version, ClientError>> {
        let options = TransactionOptions { timeout, ..TransactionOptions::default() };
        let tx = self.db.transaction_with(options);
        let asking = tokio::spawn(async move { tx.read_version().await });
        settle().await;
        asking
    }

    /// Asks until some callers wait for a round to end. Returns the number of rounds, and the
    /// callers.
    async fn fill(&self, timeout: Duration) -> (usize, Vec<JoinHandle<Result<Version, ClientError>>>) {
        let mut callers = Vec::new();
        for _ in 0..MANY {
            callers.push(self.ask(timeout).await);
        }
        assert!(self.rounds() < MANY, "no caller waits");
        (self.rounds(), callers)
    }
}

const LONG: Duration = Duration::from_secs(60);

fn patient() -> Options {
    Options { attempt_timeout: LONG, stall_timeout: LONG, ..alone() }
}

#[tokio::test(start_paused = true)]
async fn a_round_that_began_before_a_call_does_not_answer_it() {
    for first_to_end in 0..3 {
        let held = Held::start(patient()).await;
        let (rounds, _early) = held.fill(LONG).await;
        // This is acknowledged after those rounds have looked up their versions.
        held.store.set("k", "v");
        let acknowledged = Version(held.store.contents().newest() as u64);
        let mut late = Vec::new();
        for _ in 0..3 {
            late.push(held.ask(LONG).await);
        }
        assert_eq!(held.rounds(), rounds, "they wait");
        held.open(first_to_end);
        settle().await;
        assert!(held.rounds() > rounds, "a new round begins for them");
        assert!(late.iter().all(|asking| !asking.is_finished()), "they must not be answered yet");
        (0..held.rounds()).for_each(|round| held.open(round));
        for asking in late {
            let version = passing(asking).await.expect("no panic").expect("a version");
            assert!(version >= acknowledged, "{version:?} does not cover {acknowledged:?}");
        }
    }
}

/// The same from a program's point of view: it reads what has been acknowledged.
#[tokio::test(start_paused = true)]
async fn a_read_sees_a_write_that_was_acknowledged_during_earlier_rounds() {
    let held = Held::start(patient()).await;
    let (rounds, _early) = held.fill(LONG).await;
    held.store.set("k", "v");
    let db = held.db.clone();
    let reading = tokio::spawn(async move { db.transaction().get("k").await });
    for round in 0..rounds {
        settle().await;
        held.open(round);
    }
    settle().await;
    (0..held.rounds()).for_each(|round| held.open(round));
    let value = passing(reading).await.expect("no panic").expect("an answer");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_round_lasts_until_the_latest_deadline_of_its_callers() {
    let held = Held::start(patient()).await;
    let (rounds, _early) = held.fill(LONG).await;
    let short = Duration::from_millis(300);
    let begun = Instant::now();
    let (before, impatient, after) = (held.ask(LONG).await, held.ask(short).await, held.ask(LONG).await);
    held.open(0);
    settle().await;
    assert!(held.rounds() > rounds, "a new round begins for them");
    let error = passing(impatient).await.expect("no panic").expect_err("its time is up");
    assert!(matches!(error, ClientError::DeadlineExceeded { maybe_committed: false, .. }), "{error:?}");
    assert!(begun.elapsed() < short * 2, "it waited for {:?}", begun.elapsed());
    advance(short * 10).await;
    settle().await;
    (0..held.rounds()).for_each(|round| held.open(round));
    for asking in [before, after] {
        assert!(passing(asking).await.expect("no panic").is_ok(), "it had time left");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_rounds_do_not_use_up_the_number_of_concurrent_rounds() {
    let store = Store::default();
    let mut left = MANY;
    let peer = store
        .replica(move |call, _| {
            let ThriftCall::GetReadVersion(_) = call else { return None };
            left = left.checked_sub(1)?;
            let (error, code) = ("forbidden".to_string(), "FORBIDDEN".to_string());
            Some(Action::Reply(GetReadVersionResponse::new(0, false, error, code, None).into()))
        })
        .await;
    let db = passing(connect(&peer, alone())).await;
    for _ in 0..MANY {
        passing(db.transaction().read_version()).await.expect_err("it is refused");
    }
    let mut asking = std::pin::pin!(async { db.transaction().read_version().await });
    let version = crate::clock::without_time_passing(asking.as_mut())
        .await
        .expect("no request was sent, or its answer was not passed on");
    assert_eq!(version, Ok(Version(1)));
}

/// The answer to an abandoned call arrives while a later call waits on the same connection.
#[tokio::test(start_paused = true)]
async fn a_version_that_arrives_after_its_caller_gave_up_is_given_to_no_other_caller() {
    let held = Held::start(Options { connections_per_endpoint: 1, ..alone() }).await;
    let short = Duration::from_millis(200);
    let early = held.ask(short).await;
    passing(early).await.expect("no panic").expect_err("its time is up");
    held.store.set("k", "v");
    let late = held.ask(LONG).await;
    held.open(0);
    settle().await;
    (0..held.rounds()).for_each(|round| held.open(round));
    assert_eq!(passing(late).await.expect("no panic"), Ok(Version(2)));
}
