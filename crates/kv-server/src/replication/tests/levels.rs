//! Tests of an executor at feature levels.

use kv_api::access::{AccessCommand, WriteAuthority};
use kv_store::EngineKind;
use rsml::{ExecutionErrorKind, ReplicatedState};

use super::*;

/// Applies one value whose request is `payload` at `level`, with a state that says `recorded`.
fn apply_at(
    executor: &mut KvStoreExecutor,
    payload: Bytes,
    level: u32,
    recorded: u32,
) -> Result<(), rsml::ExecutionError> {
    let sequence = executor.next_expected_sequence();
    let request = CommittedRequest { disk_id: DiskId(1), boot: Boot(1), number: sequence.0, payload };
    let value = CommittedValue { sequence, time_us: 0, feature_level: FeatureLevel(level), requests: vec![request] };
    let state = ReplicatedState { sequence, feature_level: FeatureLevel(recorded), ..ReplicatedState::default() };
    executor.notify_commit(&value)?.commit(SealedState { sequence, state: state.to_bytes() }).map(drop)
}

fn commit() -> Bytes {
    LoggedWrite::commit(AtomicCommit::of(vec![Mutation::set("k", "v")])).to_bytes()
}

#[test]
fn the_database_records_the_level_of_the_log() {
    for place in Place::all() {
        let mut executor = place.open(0);
        apply_at(&mut executor, commit(), 1, 1).expect("applied");
        assert_eq!(executor.reader().database().level(), 1);
        apply_at(&mut executor, commit(), 2, 2).expect("applied");
        assert_eq!(executor.reader().database().level(), 2);
    }
}

#[test]
fn a_write_that_this_program_does_not_know_stops_the_replica_and_is_not_passed_over() {
    for place in Place::all() {
        let mut executor = place.open(0);
        // Field 15, empty: what a later version may add.
        let unknown = Bytes::from_static(&[0x7a, 0]);
        let error = apply_at(&mut executor, unknown, 2, 2).expect_err("it cannot be executed");
        assert_eq!(error.kind, ExecutionErrorKind::TooNew, "{error}");
        assert_eq!(executor.next_expected_sequence(), Sequence(1));
    }
}

#[test]
fn a_change_of_users_below_its_level_stops_the_replica_whatever_its_program_executes() {
    for place in Place::all() {
        let mut executor = place.open(0);
        let change = || LoggedWrite::access(AccessCommand::RevokeToken(1).into(), 1).to_bytes();
        let authorized = || LoggedWrite::clock_tick().on_behalf_of(Some(WriteAuthority::server())).to_bytes();
        for payload in [change(), authorized()] {
            let error = apply_at(&mut executor, payload, 1, 1).expect_err("the log of level 1 holds no such write");
            assert_eq!(error.kind, ExecutionErrorKind::TooNew, "{error}");
            assert!(error.reason.contains("level 2") && error.reason.contains("level 1"), "{error}");
            assert_eq!(executor.next_expected_sequence(), Sequence(1));
        }
        apply_at(&mut executor, change(), 2, 2).expect("it is decided, and refused");
        apply_at(&mut executor, authorized(), 2, 2).expect("applied");
    }
}

#[test]
fn a_copy_whose_records_disagree_about_the_level_is_not_used() {
    for place in Place::all() {
        let peer_place = Place::new(place.engine);
        let (mut peer, behind) = (peer_place.open(0), place.open(0));
        apply_at(&mut peer, commit(), 2, 1).expect("the executor believes the library");
        let mut snapshot = peer.snapshots().take().expect("copied");
        let mut sink = behind.snapshots().begin_install(1).expect("begun");
        let length = snapshot.source.total_bytes() as usize;
        sink.write(snapshot.source.read(0, length).expect("read")).expect("written");
        assert_eq!(sink.finish().expect_err("they disagree").kind, ExecutionErrorKind::Corrupt);
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_database_whose_records_disagree_about_the_level_is_not_opened() {
    let place = Place::new(EngineKind::RocksDb);
    let mut executor = place.open(0);
    apply_at(&mut executor, commit(), 2, 1).expect("the executor believes the library");
    drop(executor);
    let again = KvStoreExecutor::open(place.databases(), ReadSlots::new(1), 0);
    assert_eq!(again.err().expect("they disagree").kind, ExecutionErrorKind::Corrupt);
}

#[test]
fn a_database_in_memory_opens_at_the_first_level() {
    let executor = Place::new(EngineKind::Memory).open(0);
    assert_eq!(executor.reader().database().level(), 1);
}
