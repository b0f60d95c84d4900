//! Commits whose result is in doubt: each way in which a request or its answer can be late, lost, doubled or cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kv_api::thrift::generated::AtomicCommitRequest;
use kv_api::thrift::{ApplicationErrorKind, ThriftCall, ThriftException, ThriftReply};
use kv_client::{Client, ClientError, Database, KeyRef, Options, TransactionOptions};
use tokio::time::Instant;

use crate::clock::{passing, settle};
use crate::peer::{Action, Gate, Peer};
use crate::store::{Store, refused};
use crate::{alone, set};

/// What becomes of a commit and of its answer. The gate opens after everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    CarriedOutLate,
    CarriedOutLateAndClosedAtOnce,
    AnsweredLate,
    NeverCarriedOut,
    NeverAnswered,
    ClosedUnanswered,
    ClosedBeforeItIsCarriedOut,
    AnsweredAndClosed,
    AnsweredTwice,
    AnsweredInHalves,
    HalfAnswered,
    AnsweredAsAnother,
    Strayed,
    AnsweredInAnotherProtocol,
    Broken { is_carried_out: bool },
    Unknown { is_carried_out: bool },
    UnknownAndCarriedOutLate,
}

const FATES: [Fate; 19] = [
    Fate::CarriedOutLate,
    Fate::CarriedOutLateAndClosedAtOnce,
    Fate::AnsweredLate,
    Fate::NeverCarriedOut,
    Fate::NeverAnswered,
    Fate::ClosedUnanswered,
    Fate::ClosedBeforeItIsCarriedOut,
    Fate::AnsweredAndClosed,
    Fate::AnsweredTwice,
    Fate::AnsweredInHalves,
    Fate::HalfAnswered,
    Fate::AnsweredAsAnother,
    Fate::Strayed,
    Fate::AnsweredInAnotherProtocol,
    Fate::Broken { is_carried_out: false },
    Fate::Broken { is_carried_out: true },
    Fate::Unknown { is_carried_out: false },
    Fate::Unknown { is_carried_out: true },
    Fate::UnknownAndCarriedOutLate,
];

impl Fate {
    /// Whether the client gets a whole and proper answer that says what happened.
    fn is_told(self) -> bool {
        matches!(self, Fate::AnsweredAndClosed | Fate::AnsweredTwice)
    }

    fn befalls(self, call: ThriftCall, store: &Store, gate: &Gate) -> Action {
        let broken = || ThriftReply::Exception(ThriftException::new(ApplicationErrorKind::InternalError, "it broke"));
        let unknown = || ThriftReply::AtomicCommit(refused("COMMIT_UNKNOWN_RESULT"));
        let serve = || store.serve(call.clone());
        let serve_late = || {
            let (gate, store, call) = (gate.clone(), store.clone(), call.clone());
            tokio::spawn(async move {
                gate.opened().await;
                store.serve(call)
            });
        };
        match self {
            Fate::CarriedOutLate => {
                let (store, call) = (store.clone(), call.clone());
                Action::after(gate, move || Action::Reply(store.serve(call)))
            }
            Fate::CarriedOutLateAndClosedAtOnce => {
                serve_late();
                Action::Close
            }
            Fate::AnsweredLate => {
                let reply = serve();
                Action::after(gate, move || Action::Reply(reply))
            }
            Fate::NeverCarriedOut => Action::Silence,
            Fate::NeverAnswered => {
                serve();
                Action::Silence
            }
            Fate::ClosedUnanswered => {
                serve();
                Action::Close
            }
            Fate::ClosedBeforeItIsCarriedOut => Action::Close,
            Fate::AnsweredAndClosed => Action::ReplyAndClose(serve()),
            Fate::AnsweredTwice => Action::Twice(serve()),
            Fate::AnsweredInHalves => Action::Halves(serve(), gate.clone()),
            Fate::HalfAnswered => Action::HalfAndClose(serve()),
            Fate::AnsweredAsAnother => Action::AsAnEarlierOne(serve(), 1),
            Fate::Strayed => Action::Stray(serve()),
            Fate::AnsweredInAnotherProtocol => {
                serve();
                Action::Bytes(b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec())
            }
            Fate::Broken { is_carried_out } => {
                is_carried_out.then(serve);
                Action::Reply(broken())
            }
            Fate::Unknown { is_carried_out } => {
                is_carried_out.then(serve);
                Action::Reply(unknown())
            }
            Fate::UnknownAndCarriedOutLate => {
                serve_late();
                Action::Reply(unknown())
            }
        }
    }
}

struct Scene {
    store: Store,
    peers: Vec<Peer>,
    /// Whether the next write meets its fate; the others are served.
    is_fated: Arc<AtomicBool>,
    gate: Gate,
}

fn is_write(call: &ThriftCall) -> bool {
    matches!(call, ThriftCall::AtomicCommit(_) | ThriftCall::SetKey(_))
}

impl Scene {
    /// `for_good`: every write meets that fate, not only the first one.
    async fn of(fate: Fate, replicas: usize, for_good: bool) -> Scene {
        let (store, gate) = (Store::default(), Gate::closed());
        let is_fated = Arc::new(AtomicBool::new(true));
        let mut peers = Vec::new();
        for _ in 0..replicas {
            let (is_fated, gate) = (is_fated.clone(), gate.clone());
            let fault = move |call: &ThriftCall, store: &Store| {
                let is_next = is_write(call) && is_fated.fetch_and(for_good, Ordering::SeqCst);
                is_next.then(|| fate.befalls(call.clone(), store, &gate))
            };
            peers.push(store.replica(fault).await);
        }
        Scene { store, peers, is_fated, gate }
    }

    fn addresses(&self) -> Vec<String> {
        self.peers.iter().map(Peer::address).collect()
    }

    async fn connect(&self, options: Options) -> Database {
        Database::connect(self.addresses(), options).await.expect("the replicas are there")
    }

    /// Whether a commit has told that nobody will ask for the result of the first one again.
    fn is_first_told_as_finished(&self) -> bool {
        let contents = self.store.contents();
        let first = contents.commits[0].idempotency_id.as_ref().expect("it has one");
        contents
            .commits
            .iter()
            .filter_map(|commit| commit.finished_idempotency_ids.as_ref())
            .flatten()
            .any(|id| id == first)
    }

    /// How often a commit of this value took effect.
    fn executions(&self, value: &str) -> usize {
        let is_it = |commit: &AtomicCommitRequest| commit.operations[0].value.as_deref() == Some(value.as_bytes());
        self.store.contents().executed.iter().filter(|(_, commit)| is_it(commit)).count()
    }
}

fn impatient() -> Options {
    let short = Duration::from_millis(50);
    Options { attempt_timeout: short, stall_timeout: short, ..alone() }
}

/// However the first copy is lost, the commit is sent again and happens once. Its id may be forgotten by the servers
/// only if no copy can come later.
#[tokio::test(start_paused = true)]
async fn a_commit_under_an_id_happens_once_whatever_becomes_of_its_first_copy() {
    for (fate, replicas) in FATES.iter().flat_map(|fate| [(*fate, 1), (*fate, 2)]) {
        let scene = Scene::of(fate, replicas, false).await;
        let db = passing(scene.connect(impatient())).await;
        let first = passing(set(&db, "k", "first")).await;
        assert_eq!(first, Ok(()), "{fate:?}");
        assert_eq!(scene.executions("first"), 1, "{fate:?} with {replicas} replicas");
        assert!(!scene.is_fated.load(Ordering::SeqCst), "it was not tested");
        assert_eq!(passing(set(&db, "k", "second")).await, Ok(()), "{fate:?}");
        let is_finished = scene.is_first_told_as_finished();
        assert_eq!(is_finished, fate.is_told(), "{fate:?} with {replicas} replicas");
        scene.gate.open();
        settle().await;
        assert_eq!(scene.executions("first"), 1, "{fate:?} with {replicas} replicas, in the end");
        assert_eq!(scene.store.value("k").as_deref(), Some("second"), "{fate:?} with {replicas} replicas");
    }
}

/// Every copy meets the same fate until the deadline. What is said then must leave room for what comes after it.
#[tokio::test(start_paused = true)]
async fn a_result_that_is_in_doubt_at_the_deadline_is_said_to_be() {
    for (fate, replicas) in FATES.iter().flat_map(|fate| [(*fate, 1), (*fate, 2)]) {
        for attempt_timeout in [Duration::from_millis(20), Duration::from_secs(60)] {
            let scene = Scene::of(fate, replicas, true).await;
            let db = passing(scene.connect(Options { attempt_timeout, ..impatient() })).await;
            let options = TransactionOptions { timeout: Duration::from_millis(300), ..TransactionOptions::default() };
            let (begun, bodies) = (Instant::now(), AtomicUsize::new(0));
            let run = db.run_with(options, async |tx| {
                bodies.fetch_add(1, Ordering::SeqCst);
                tx.set("k", "first");
                Ok::<_, ClientError>(())
            });
            let result = passing(run).await;
            assert!(begun.elapsed() < options.timeout + Duration::from_millis(20), "{fate:?}: {:?}", begun.elapsed());
            scene.is_fated.store(false, Ordering::SeqCst);
            assert_eq!(passing(set(&db, "k", "second")).await, Ok(()), "{fate:?}");
            let is_finished = scene.is_first_told_as_finished();
            scene.gate.open();
            settle().await;
            match result {
                Ok(_) => assert_eq!(scene.executions("first"), 1, "{fate:?}"),
                Err(error) => {
                    assert!(!fate.is_told() && error.maybe_committed(), "{fate:?} with {replicas}: {error:?}");
                    assert!(scene.executions("first") <= 1, "{fate:?} with {replicas} replicas");
                    assert!(!is_finished, "{fate:?} with {replicas} replicas: a copy may come");
                }
            }
            assert_eq!(bodies.load(Ordering::SeqCst), 1, "{fate:?} with {replicas}: nobody knows that it is safe");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_an_id_is_sent_once_and_in_doubt_unless_it_is_answered() {
    for (fate, replicas) in FATES.iter().flat_map(|fate| [(*fate, 1), (*fate, 2)]) {
        let scene = Scene::of(fate, replicas, false).await;
        let transaction = TransactionOptions { idempotent: false, ..TransactionOptions::default() };
        let db = passing(scene.connect(Options { transaction, ..impatient() })).await;
        let result = passing(set(&db, "k", "first")).await;
        check_single(&scene, fate, &result).await;
    }
}

/// Neither a silence nor a broken connection makes the client ask somebody else for a write, however soon it does for a
/// read.
#[tokio::test(start_paused = true)]
async fn a_write_of_a_client_is_sent_once_and_in_doubt_unless_it_is_answered() {
    for (fate, replicas) in FATES.iter().flat_map(|fate| [(*fate, 1), (*fate, 3)]) {
        if let Fate::Unknown { .. } | Fate::UnknownAndCarriedOutLate = fate {
            // That is no answer to this request.
            continue;
        }
        let scene = Scene::of(fate, replicas, false).await;
        let short = Duration::from_millis(100);
        let options = Options { hedge_after: short / 10, request_timeout: short, ..impatient() };
        let client = passing(Client::connect(scene.addresses(), options)).await.expect("they are there");
        let begun = Instant::now();
        let result = passing(client.set(KeyRef::new("k"), "first")).await;
        assert!(begun.elapsed() < short + Duration::from_millis(20), "{fate:?}: {:?}", begun.elapsed());
        check_single(&scene, fate, &result).await;
        assert_eq!(scene.store.calls_of("setKey"), 1, "{fate:?} with {replicas} replicas");
    }
}

async fn check_single(scene: &Scene, fate: Fate, result: &Result<(), ClientError>) {
    match result {
        Ok(()) => assert!(fate.is_told(), "{fate:?}"),
        Err(error) => assert!(!fate.is_told() && error.maybe_committed(), "{fate:?}: {error:?}"),
    }
    scene.gate.open();
    settle().await;
    let executions = scene.executions("first");
    assert!(executions == 1 || executions == 0 && result.is_err(), "{fate:?}: {executions} times");
    assert!(scene.store.contents().commits.len() <= 1, "{fate:?}: it was sent again");
}

/// The servers remember a result for long, not for ever: a copy that comes after that must meet a version that is too
/// old.
#[tokio::test(start_paused = true)]
async fn a_copy_that_outlives_the_memory_of_its_result_does_nothing() {
    for fate in [Fate::CarriedOutLate, Fate::CarriedOutLateAndClosedAtOnce, Fate::UnknownAndCarriedOutLate] {
        for reads in [false, true] {
            let scene = Scene::of(fate, 2, false).await;
            let db = passing(scene.connect(impatient())).await;
            let run = db.run(async |tx| {
                if reads {
                    tx.get("another").await?;
                }
                tx.set("k", "first");
                Ok::<_, ClientError>(())
            });
            passing(run).await.expect("the second copy is answered");
            scene.store.set("k", "second");
            scene.store.let_much_time_pass();
            scene.gate.open();
            settle().await;
            assert_eq!(scene.executions("first"), 1, "{fate:?}");
            assert_eq!(scene.store.value("k").as_deref(), Some("second"), "{fate:?}");
        }
    }
}

/// The version on which it depends is one that was heard of a moment ago. If that is too old after all, it takes a new
/// one.
#[tokio::test(start_paused = true)]
async fn a_commit_that_reads_nothing_does_not_insist_on_a_version_that_is_too_old() {
    let store = Store::default();
    let peer = store.honest().await;
    let db = passing(crate::connect(&peer, alone())).await;
    passing(set(&db, "k", "first")).await.expect("it is committed");
    store.let_much_time_pass();
    store.set("k", "theirs");
    let bodies = AtomicUsize::new(0);
    let run = db.run(async |tx| {
        bodies.fetch_add(1, Ordering::SeqCst);
        tx.set("k", "second");
        Ok::<_, ClientError>(())
    });
    passing(run).await.expect("it is committed");
    assert_eq!(bodies.load(Ordering::SeqCst), 2);
}
