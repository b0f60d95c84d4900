//! No caller waits forever for a replica that stops, for any reason.
//!
//! A panic of the core, under its lock, is not tested: here all tasks run on one thread of the
//! system, and if one unwinds, tasks that release a lock in the meantime poison it as if they had
//! panicked.

use super::one_replica::deadline;
use super::*;
use crate::TransferError;

fn execute(replica: &ConsensusReplica, payload: &'static [u8]) -> Result<Bytes, RequestError> {
    block_on(replica.execute_request_async(Bytes::from_static(payload), deadline()))
}

/// Callers of every kind wait for a replica while `end` ends it. Each must get an answer, and later
/// callers must be refused.
fn all_callers_are_answered(end: fn(&Harness)) {
    let harness = Harness::start();
    let writers = [(); 2].map(|()| harness.spawn(|replica| execute(replica, b"x")));
    let reader = harness.spawn(|replica| block_on(replica.read_barrier(deadline())));
    let transfer = harness.spawn(|replica| block_on(replica.transfer_primary(None, deadline())));
    end(&harness);
    for outcome in writers.map(|writer| writer.join().expect("no panic")) {
        let is_known = matches!(outcome, Ok(_) | Err(RequestError::Unknown(_) | RequestError::NotExecuted(_)));
        assert!(is_known, "{outcome:?}");
    }
    let point = reader.join().expect("no panic");
    assert!(matches!(point, Ok(_) | Err(ReadError::Stopped(_))), "{point:?}");
    let transferred = transfer.join().expect("no panic");
    assert!(transferred.is_err(), "{transferred:?}");
    harness.replica.stop(false);
    later_callers_are_refused(&harness.replica);
}

fn later_callers_are_refused(replica: &ConsensusReplica) {
    assert!(matches!(execute(replica, b"x"), Err(RequestError::NotExecuted(_))));
    assert!(matches!(block_on(replica.read_barrier(deadline())), Err(ReadError::Stopped(_))));
    let transferred = block_on(replica.transfer_primary(None, deadline()));
    assert!(matches!(transferred, Err(TransferError::Stopped(_))), "{transferred:?}");
    assert!(replica.watch().borrow().failed.is_some());
}

#[test]
fn a_stop_answers_all_callers() {
    explore(|| {
        all_callers_are_answered(|harness| harness.replica.stop(false));
    });
}

#[test]
fn a_log_that_fails_answers_all_callers() {
    explore(|| {
        all_callers_are_answered(|harness| {
            harness.break_log();
            let outcome = execute(&harness.replica, b"x");
            assert!(matches!(outcome, Err(RequestError::Unknown(_) | RequestError::NotExecuted(_))), "{outcome:?}");
        });
    });
}

#[test]
fn an_executor_that_fails_answers_all_callers() {
    explore(|| {
        all_callers_are_answered(|harness| {
            let outcome = execute(&harness.replica, b"fail");
            assert!(matches!(outcome, Err(RequestError::Unknown(_))), "{outcome:?}");
        });
    });
}

#[test]
fn a_failure_reported_from_outside_answers_all_callers() {
    explore(|| {
        all_callers_are_answered(|harness| harness.replica.fail(Failure::invariant()));
    });
}

#[test]
fn an_executor_that_panics_answers_all_callers() {
    explore(|| {
        all_callers_are_answered(|harness| {
            let outcome = execute(&harness.replica, b"panic");
            assert!(matches!(outcome, Err(RequestError::Unknown(_))), "{outcome:?}");
        });
    });
}

#[test]
fn two_concurrent_stops_both_return_after_all_threads_have_ended() {
    explore(|| {
        let harness = Harness::start();
        let writer = harness.spawn(|replica| execute(replica, b"x"));
        let other = harness.spawn(|replica| replica.stop(false));
        harness.replica.stop(false);
        other.join().expect("no panic");
        let outcome = writer.join().expect("no panic");
        assert!(matches!(outcome, Ok(_) | Err(RequestError::Unknown(_) | RequestError::NotExecuted(_))), "{outcome:?}");
        later_callers_are_refused(&harness.replica);
    });
}
