//! Commits whose outcome is in doubt: every way in which a request or its answer can be late, lost,
//! duplicated or cut.

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

/// What happens to a commit and to its answer. Late events happen when the test opens the gate,
/// after everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    ExecutedLate,
    ExecutedLateAndClosedAtOnce,
    AnsweredLate,
    NeverExecuted,
    NeverAnswered,
    ClosedUnanswered,
    ClosedBeforeExecution,
    AnsweredAndClosed,
    AnsweredTwice,
    AnsweredInHalves,
    HalfAnswered,
    AnsweredUnderAnotherSequence,
    AnsweredAfterTheNext,
    AnsweredInAnotherProtocol,
    Broken { is_executed: bool },
    Unknown { is_executed: bool },
    UnknownAndExecutedLate,
}

const FATES: [Fate; 19] = [
    Fate::ExecutedLate,
    Fate::ExecutedLateAndClosedAtOnce,
    Fate::AnsweredLate,
    Fate::NeverExecuted,
    Fate::NeverAnswered,
    Fate::ClosedUnanswered,
    Fate::ClosedBeforeExecution,
    Fate::AnsweredAndClosed,
    Fate::AnsweredTwice,
    Fate::AnsweredInHalves,
    Fate::HalfAnswered,
    Fate::AnsweredUnderAnotherSequence,
    Fate::AnsweredAfterTheNext,
    Fate::AnsweredInAnotherProtocol,
    Fate::Broken { is_executed: false },
    Fate::Broken { is_executed: true },
    Fate::Unknown { is_executed: false },
    Fate::Unknown { is_executed: true },
    Fate::UnknownAndExecutedLate,
];

impl Fate {
    /// Whether the client gets a complete and valid answer that says what happened.
    fn is_answered(self) -> bool {
        matches!(self, Fate::AnsweredAndClosed | Fate::AnsweredTwice)
    }

    fn apply(self, call: ThriftCall, store: &Store, gate: &Gate) -> Action {
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
            Fate::ExecutedLate => {
                let (store, call) = (store.clone(), call.clone());
                Action::after(gate, move || Action::Reply(store.serve(call)))
            }
            Fate::ExecutedLateAndClosedAtOnce => {
                serve_late();
                Action::Close
            }
            Fate::AnsweredLate => {
                let reply = serve();
                Action::after(gate, move || Action::Reply(reply))
            }
            Fate::NeverExecuted => Action::Silence,
            Fate::NeverAnswered => {
                serve();
                Action::Silence
            }
            Fate::ClosedUnanswered => {
                serve();
                Action::Close
            }
            Fate::ClosedBeforeExecution => Action::Close,
            Fate::AnsweredAndClosed => Action::ReplyAndClose(serve()),
            Fate::AnsweredTwice => Action::Twice(serve()),
            Fate::AnsweredInHalves => Action::Halves(serve(), gate.clone()),
            Fate::HalfAnswered => Action::HalfAndClose(serve()),
            Fate::AnsweredUnderAnotherSequence => Action::UnderSequenceOf(serve(), 1),
            Fate::AnsweredAfterTheNext => Action::AfterTheNext(serve()),
            Fate::AnsweredInAnotherProtocol => {
                serve();
                Action::Bytes(b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec())
            }
            Fate::Broken { is_executed } => {
                is_executed.then(serve);
                Action::Reply(broken())
            }
            Fate::Unknown { is_executed } => {
                is_executed.then(serve);
                Action::Reply(unknown())
            }
            Fate::UnknownAndExecutedLate => {
                serve_late();
                Action::Reply(unknown())
            }
        }
    }
}

struct Scene {
    store: Store,
    peers: Vec<Peer>,
    /// Whether the next write meets its fate. Other writes are served.
    is_armed: Arc<AtomicBool>,
    gate: Gate,
}

fn is_write(call: &ThriftCall) -> bool {
    matches!(call, ThriftCall::AtomicCommit(_) | ThriftCall::SetKey(_))
}

impl Scene {
    /// With `every_time`, every write meets that fate, not only the first one.
    async fn of(fate: Fate, replicas: usize, every_time: bool) -> Scene {
        let (store, gate) = (Store::default(), Gate::closed());
        let is_armed = Arc::new(AtomicBool::new(true));
        let mut peers = Vec::new();
        for _ in 0..replicas {
            let (is_armed, gate) = (is_armed.clone(), gate.clone());
            let fault = move |call: &ThriftCall, store: &Store| {
                let is_next = is_write(call) && is_armed.fetch_and(every_time, Ordering::SeqCst);
                is_next.then(|| fate.apply(call.clone(), store, &gate))
            };
            peers.push(store.replica(fault).await);
        }
        Scene { store, peers, is_armed, gate }
    }

    fn addresses(&self) -> Vec<String> {
        self.peers.iter().map(Peer::address).collect()
    }

    async fn connect(&self, options: Options) -> Database {
        Database::connect(self.addresses(), options).await.expect("the replicas are there")
    }

    /// Whether a later commit has reported the id of the first one as finished.
    fn is_first_reported_as_finished(&self) -> bool {
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

/// No matter how the first copy is lost, the commit is sent again and happens once. The client
/// reports its id as finished only if no copy can arrive later.
#[tokio::test(start_paused = true)]
async fn a_commit_with_an_id_happens_once_whatever_happens_to_its_first_copy() {
    for (fate, replicas) in FATES.iter().flat_map(|fate| [(*fate, 1), (*fate, 2)]) {
        let scene = Scene::of(fate, replicas, false).await;
        let db = passing(scene.connect(impatient())).await;
        let first = passing(set(&db, "k", "first")).await;
        assert_eq!(first, Ok(()), "{fate:?}");
        assert_eq!(scene.executions("first"), 1, "{fate:?} with {replicas} replicas");
        assert!(!scene.is_armed.load(Ordering::SeqCst), "no write has met this fate");
        assert_eq!(passing(set(&db, "k", "second")).await, Ok(()), "{fate:?}");
        let is_finished = scene.is_first_reported_as_finished();
        assert_eq!(is_finished, fate.is_answered(), "{fate:?} with {replicas} replicas");
        scene.gate.open();
        settle().await;
        assert_eq!(scene.executions("first"), 1, "{fate:?} with {replicas} replicas, in the end");
        assert_eq!(scene.store.value("k").as_deref(), Some("second"), "{fate:?} with {replicas} replicas");
    }
}

/// Every copy meets the same fate until the deadline. The error then must allow for anything that
/// can still happen.
#[tokio::test(start_paused = true)]
async fn a_commit_that_is_in_doubt_at_its_deadline_ends_with_an_error_that_says_so() {
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
            scene.is_armed.store(false, Ordering::SeqCst);
            assert_eq!(passing(set(&db, "k", "second")).await, Ok(()), "{fate:?}");
            let is_finished = scene.is_first_reported_as_finished();
            scene.gate.open();
            settle().await;
            match result {
                Ok(_) => assert_eq!(scene.executions("first"), 1, "{fate:?}"),
                Err(error) => {
                    assert!(!fate.is_answered() && error.maybe_committed(), "{fate:?} with {replicas}: {error:?}");
                    assert!(scene.executions("first") <= 1, "{fate:?} with {replicas} replicas");
                    assert!(!is_finished, "{fate:?} with {replicas} replicas: a copy may still arrive");
                }
            }
            assert_eq!(
                bodies.load(Ordering::SeqCst),
                1,
                "{fate:?} with {replicas}: running the body again is not safe"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_an_id_is_sent_once_and_is_in_doubt_unless_it_is_answered() {
    for (fate, replicas) in FATES.iter().flat_map(|fate| [(*fate, 1), (*fate, 2)]) {
        let scene = Scene::of(fate, replicas, false).await;
        let transaction = TransactionOptions { idempotent: false, ..TransactionOptions::default() };
        let db = passing(scene.connect(Options { transaction, ..impatient() })).await;
        let result = passing(set(&db, "k", "first")).await;
        check_single(&scene, fate, &result).await;
    }
}

/// Neither silence nor a broken connection makes the client send a write to another server,
/// although it would soon do so for a read.
#[tokio::test(start_paused = true)]
async fn a_write_of_a_client_is_sent_once_and_is_in_doubt_unless_it_is_answered() {
    for (fate, replicas) in FATES.iter().flat_map(|fate| [(*fate, 1), (*fate, 3)]) {
        if let Fate::Unknown { .. } | Fate::UnknownAndExecutedLate = fate {
            // Servers do not answer this request in this way.
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
        Ok(()) => assert!(fate.is_answered(), "{fate:?}"),
        Err(error) => assert!(!fate.is_answered() && error.maybe_committed(), "{fate:?}: {error:?}"),
    }
    scene.gate.open();
    settle().await;
    let executions = scene.executions("first");
    assert!(executions == 1 || executions == 0 && result.is_err(), "{fate:?}: {executions} times");
    assert!(scene.store.contents().commits.len() <= 1, "{fate:?}: it was sent again");
}

/// Servers remember a result for a long time, but not forever. The read version of a copy that
/// arrives after that must be too old.
#[tokio::test(start_paused = true)]
async fn a_copy_that_arrives_after_its_result_was_forgotten_does_nothing() {
    for fate in [Fate::ExecutedLate, Fate::ExecutedLateAndClosedAtOnce, Fate::UnknownAndExecutedLate] {
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
            scene.store.expire_everything();
            scene.gate.open();
            settle().await;
            assert_eq!(scene.executions("first"), 1, "{fate:?}");
            assert_eq!(scene.store.value("k").as_deref(), Some("second"), "{fate:?}");
        }
    }
}

/// Such a commit depends on a version that the client learned a moment ago. If that is too old all
/// the same, the next attempt takes a new one.
#[tokio::test(start_paused = true)]
async fn a_commit_without_reads_takes_a_new_version_when_its_version_is_too_old() {
    let store = Store::default();
    let peer = store.faultless().await;
    let db = passing(crate::connect(&peer, alone())).await;
    passing(set(&db, "k", "first")).await.expect("it is committed");
    store.expire_everything();
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
