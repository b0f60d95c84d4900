//! The troubles: what replicas do with calls instead of serving them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_api::thrift::generated::{GetReadVersionResponse, SnapshotGetRangeResponse, SnapshotGetResponse};
use kv_api::thrift::{ApplicationErrorKind, ThriftCall, ThriftException, ThriftReply};

use crate::peer::{Action, Gate};
use crate::store::{Store, refused};

/// A random number generator, SplitMix64, which gives the same numbers everywhere.
pub struct Draw(u64);

impl Draw {
    pub fn of(seed: u64) -> Draw {
        Draw(seed)
    }

    pub fn fork(&mut self) -> Draw {
        Draw(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ExecutedLate,
    AnsweredLate,
    NeverExecuted,
    NeverAnswered,
    ClosedUnanswered,
    ClosedAndExecutedLate,
    ClosedBefore,
    AnsweredAndClosed,
    Twice,
    Halves,
    HalfAndClosed,
    UnderAnotherSequence,
    AfterTheNext,
    /// Certainly not executed.
    Refused,
    /// The server answers that it does not know the result.
    Unknown,
    Broken,
}

const KINDS: [Kind; 16] = [
    Kind::ExecutedLate,
    Kind::AnsweredLate,
    Kind::NeverExecuted,
    Kind::NeverAnswered,
    Kind::ClosedUnanswered,
    Kind::ClosedAndExecutedLate,
    Kind::ClosedBefore,
    Kind::AnsweredAndClosed,
    Kind::Twice,
    Kind::Halves,
    Kind::HalfAndClosed,
    Kind::UnderAnotherSequence,
    Kind::AfterTheNext,
    Kind::Refused,
    Kind::Unknown,
    Kind::Broken,
];

/// Shared by the replicas of a run.
#[derive(Clone)]
pub struct Troubles(Arc<Mutex<State>>);

struct State {
    is_on: bool,
    /// The percentage of calls that go wrong.
    percent: u64,
    weights: Vec<(Kind, u64)>,
    gates: Vec<Gate>,
}

impl Troubles {
    pub fn drawn(draw: &mut Draw) -> Troubles {
        let percent = 5 + draw.below(45);
        let weights = KINDS.iter().map(|kind| (*kind, draw.below(3) * draw.below(10))).collect();
        Troubles(Arc::new(Mutex::new(State { is_on: false, percent, weights, gates: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self) {
        self.state().is_on = true;
    }

    pub fn end(&self) {
        self.state().is_on = false;
    }

    /// Opens a few of the gates. The others open later, some of them only at the end.
    pub fn open_some_gates(&self, draw: &mut Draw) {
        self.state().gates.retain(|gate| {
            let opens = draw.below(40) == 0;
            if opens {
                gate.open();
            }
            !opens
        });
    }

    pub fn open_all_gates(&self) {
        self.state().gates.drain(..).for_each(|gate| gate.open());
    }

    pub fn disturb(&self, call: &ThriftCall, store: &Store, draw: &mut Draw) -> Option<Action> {
        let (kind, gate) = {
            let mut state = self.state();
            if !state.is_on || draw.below(100) >= state.percent {
                return None;
            }
            let gate = Gate::closed();
            state.gates.push(gate.clone());
            (drawn_kind(&state.weights, draw)?, gate)
        };
        Some(action(kind, call.clone(), store, gate, draw))
    }
}

fn drawn_kind(weights: &[(Kind, u64)], draw: &mut Draw) -> Option<Kind> {
    let all: u64 = weights.iter().map(|(_, weight)| weight).sum();
    let mut at = draw.below(all.max(1));
    weights.iter().find_map(|(kind, weight)| match at.checked_sub(*weight) {
        None => Some(*kind),
        Some(rest) => {
            at = rest;
            None
        }
    })
}

fn action(kind: Kind, call: ThriftCall, store: &Store, gate: Gate, draw: &mut Draw) -> Action {
    let serve = || store.serve(call.clone());
    match kind {
        Kind::ExecutedLate => {
            let store = store.clone();
            Action::after(&gate, move || Action::Reply(store.serve(call)))
        }
        Kind::AnsweredLate => {
            let reply = serve();
            Action::after(&gate, move || Action::Reply(reply))
        }
        Kind::NeverExecuted => Action::Silence,
        Kind::NeverAnswered => {
            serve();
            Action::Silence
        }
        Kind::ClosedUnanswered => {
            serve();
            Action::Close
        }
        Kind::ClosedAndExecutedLate => {
            execute_late(call, store, gate);
            Action::Close
        }
        Kind::ClosedBefore => Action::Close,
        Kind::AnsweredAndClosed => Action::ReplyAndClose(serve()),
        Kind::Twice => Action::Twice(serve()),
        Kind::Halves => Action::Halves(serve(), gate),
        Kind::HalfAndClosed => Action::HalfAndClose(serve()),
        // Not the sequence id of the previous call: if the answer to that is held back, the client
        // could not tell the difference.
        Kind::UnderAnotherSequence => Action::UnderSequenceOf(serve(), if draw.below(2) == 0 { 1000 } else { -1 }),
        Kind::AfterTheNext => Action::AfterTheNext(serve()),
        Kind::Refused => refusal(&call, draw).map_or_else(|| Action::Reply(serve()), Action::Reply),
        Kind::Unknown => match call {
            ThriftCall::AtomicCommit(_) => {
                execute_sometime(call, store, gate, draw);
                Action::Reply(refused("COMMIT_UNKNOWN_RESULT").into())
            }
            _ => Action::Close,
        },
        Kind::Broken => {
            execute_sometime(call, store, gate, draw);
            Action::Reply(ThriftReply::Exception(ThriftException::new(ApplicationErrorKind::InternalError, "broken")))
        }
    }
}

/// Executes the call now, late, or never.
fn execute_sometime(call: ThriftCall, store: &Store, gate: Gate, draw: &mut Draw) {
    match draw.below(3) {
        0 => drop(store.serve(call)),
        1 => execute_late(call, store, gate),
        _ => {}
    }
}

fn execute_late(call: ThriftCall, store: &Store, gate: Gate) {
    let store = store.clone();
    tokio::spawn(async move {
        gate.opened().await;
        store.serve(call)
    });
}

/// A refusal that a server can give to this request, and which means that it was not executed.
fn refusal(call: &ThriftCall, draw: &mut Draw) -> Option<ThriftReply> {
    let mut code = |codes: &[&str]| codes[draw.below(codes.len() as u64) as usize].to_string();
    let error = "not now".to_string();
    Some(match call {
        ThriftCall::AtomicCommit(_) => {
            refused(&code(&["NO_PRIMARY", "OVERLOADED", "TIMEOUT", "FUTURE_VERSION"])).into()
        }
        ThriftCall::GetReadVersion(_) => {
            GetReadVersionResponse::new(0, false, error, code(&["NO_PRIMARY", "OVERLOADED", "TIMEOUT"]), None).into()
        }
        ThriftCall::SnapshotGet(_) => {
            let code = code(&["FUTURE_VERSION", "OVERLOADED", "TIMEOUT", "TRANSACTION_TOO_OLD"]);
            SnapshotGetResponse::new(Vec::new(), false, error, code, None).into()
        }
        ThriftCall::SnapshotGetRange(_) => {
            let code = code(&["FUTURE_VERSION", "OVERLOADED", "TIMEOUT", "TRANSACTION_TOO_OLD"]);
            SnapshotGetRangeResponse::new(Vec::new(), false, error, false, code, None).into()
        }
        _ => return None,
    })
}
