//! Tests of a replica that switches to a copy of another's database while it is read.

use std::sync::atomic::{AtomicBool, Ordering};

use kv_api::{KeyRef, Version};
use kv_store::EngineKind;
use rsml::{ExecutionErrorKind, ExecutionNotifier, Sequence};

use super::{Place, apply, copy, state_at};
use crate::replication::KvStoreExecutor;

fn value_of(executor: &KvStoreExecutor, key: &'static str) -> Option<bytes::Bytes> {
    let database = executor.reader().database();
    database.read_at(&KeyRef::new(key), database.applied_version()).expect("read")
}

#[test]
fn after_the_switch_the_replica_continues_from_the_state_of_its_peer() {
    for place in Place::all() {
        let peer_place = Place::new(place.engine);
        let (mut peer, mut behind) = (peer_place.open(0), place.open(0));
        apply(&mut behind, &["a"], "early");
        for round in 0..50 {
            apply(&mut peer, &["a", &format!("key {round}")], &format!("late {round}"));
        }
        let state = copy(&peer, &behind, 1);
        // Nothing changes before the switch.
        assert_eq!(value_of(&behind, "a"), Some("early".into()));
        behind.switch_to(1).expect("it was built");
        assert_eq!((state, behind.next_expected_sequence()), (state_at(Sequence(50)), Sequence(51)));
        assert_eq!(behind.sealed_state().expect("sound"), Some(state_at(Sequence(50))));
        assert_eq!(value_of(&behind, "a"), Some("late 49".into()));
        assert_eq!(apply(&mut peer, &["b"], "1"), apply(&mut behind, &["b"], "1"));
        assert!(behind.is_ready());
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_switched_database_is_opened_again_by_its_number() {
    let (peer_place, place) = (Place::new(EngineKind::RocksDb), Place::new(EngineKind::RocksDb));
    let (mut peer, mut behind) = (peer_place.open(0), place.open(0));
    (0..9).for_each(|_| drop(apply(&mut peer, &["a"], "late")));
    copy(&peer, &behind, 3);
    behind.switch_to(3).expect("it was built");
    assert_eq!(behind.persisted_sequence().expect("sound"), Sequence(9));
    place.wait_for_names(&["db-3"]);
    drop(behind);
    let again = place.open(3);
    assert_eq!((again.next_expected_sequence(), value_of(&again, "a")), (Sequence(10), Some("late".into())));
}

#[test]
fn readers_never_see_an_older_version_while_databases_are_switched() {
    for place in Place::all() {
        let peer_place = Place::new(place.engine);
        let (mut peer, mut behind) = (peer_place.open(0), place.open(0));
        apply(&mut behind, &["left", "right"], "0");
        let reader = behind.reader().clone();
        let (reader, done) = (&reader, &AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(move || {
                    let mut seen = Version::EMPTY;
                    while !done.load(Ordering::Relaxed) {
                        let database = reader.database();
                        let version = database.applied_version();
                        assert!(version >= seen, "{version} after {seen}");
                        seen = version;
                        let read = |key: &'static str| database.read_at(&KeyRef::new(key), version).expect("read");
                        assert_eq!(read("left"), read("right"), "at {version}");
                    }
                });
            }
            for generation in 1..=4 {
                for round in 0..200 {
                    apply(&mut peer, &["left", "right"], &format!("{generation} {round}"));
                }
                copy(&peer, &behind, generation);
                behind.switch_to(generation).expect("it was built");
                apply(&mut behind, &["left", "right"], "own");
                // All replicas apply the same log.
                apply(&mut peer, &["left", "right"], "own");
            }
            done.store(true, Ordering::Relaxed);
        });
        if place.engine == EngineKind::RocksDb {
            place.wait_for_names(&["db-4"]);
        }
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_read_that_runs_keeps_the_former_database_until_it_ends() {
    let (peer_place, place) = (Place::new(EngineKind::RocksDb), Place::new(EngineKind::RocksDb));
    let (mut peer, mut behind) = (peer_place.open(0), place.open(0));
    apply(&mut behind, &["a"], "early");
    (0..9).for_each(|_| drop(apply(&mut peer, &["a"], "late")));
    copy(&peer, &behind, 1);
    let running = behind.reader().database();
    behind.switch_to(1).expect("it was built");
    assert_eq!(running.read_at(&KeyRef::new("a"), Version(2)).expect("read"), Some("early".into()));
    assert_eq!(place.names(), ["db", "db-1"]);
    drop(running);
    place.wait_for_names(&["db-1"]);
}

#[tokio::test]
async fn a_reader_that_waits_for_a_version_finds_it_in_the_new_database() {
    let (peer_place, place) = (Place::new(EngineKind::Memory), Place::new(EngineKind::Memory));
    let (mut peer, mut behind) = (peer_place.open(0), place.open(0));
    (0..9).for_each(|_| drop(apply(&mut peer, &["a"], "late")));
    let reader = behind.reader().clone();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let waiting = tokio::spawn(async move { reader.wait_applied(Version(10), deadline).await });
    copy(&peer, &behind, 1);
    behind.switch_to(1).expect("it was built");
    waiting.await.expect("no panic").expect("it is there");
}

#[test]
fn a_database_that_was_not_built_or_is_older_is_not_switched_to() {
    for place in Place::all() {
        let peer_place = Place::new(place.engine);
        let (mut peer, mut ahead) = (peer_place.open(0), place.open(0));
        let missing = ahead.switch_to(1).expect_err("nothing was built");
        assert!(missing.reason.contains("generation 1"), "{missing}");
        apply(&mut peer, &["a"], "1");
        (0..3).for_each(|_| drop(apply(&mut ahead, &["a"], "1")));
        copy(&peer, &ahead, 1);
        let older = ahead.switch_to(1).expect_err("it is older");
        assert!(older.reason.contains("version 2, and 4 was read"), "{older}");
        assert_eq!(ahead.reader().database().applied_version(), Version(4));
    }
}

#[test]
fn an_unsound_copy_is_recognised_and_leaves_nothing() {
    for place in Place::all() {
        let behind = place.open(0);
        let before = place.names();
        let mut sink = behind.snapshots().begin_install(1).expect("begun");
        let error = sink.write("no copy of anything".into()).expect_err("refused");
        assert_eq!(error.kind, ExecutionErrorKind::Corrupt, "{error}");
        assert!(sink.finish().is_err());
        assert_eq!(place.names(), before);
        let nothing = behind.snapshots().take().err().expect("nothing was applied yet");
        assert_eq!(nothing.kind, ExecutionErrorKind::Failed, "{nothing}");
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn an_attempt_that_was_given_up_goes_with_the_next() {
    let (peer_place, place) = (Place::new(EngineKind::RocksDb), Place::new(EngineKind::RocksDb));
    let (mut peer, mut behind) = (peer_place.open(0), place.open(0));
    (0..9).for_each(|_| drop(apply(&mut peer, &["a"], "late")));
    copy(&peer, &behind, 1);
    copy(&peer, &behind, 1);
    copy(&peer, &behind, 2);
    assert_eq!(place.names(), ["db", "db-1", "db-2"]);
    behind.switch_to(2).expect("it was built");
    place.wait_for_names(&["db-2"]);
}
