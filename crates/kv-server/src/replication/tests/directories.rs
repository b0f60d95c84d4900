//! Tests of a start with different contents of a replica's directory.

use std::fs;

use kv_store::EngineKind;
use rsml::{ExecutionNotifier, Sequence};

use super::{Place, apply};
use crate::replication::{DatabasePlace, KvStoreExecutor};
use crate::router::ReadSlots;

/// A replica's directory whose database of `generation` has applied three values.
fn filled(generation: u64) -> Place {
    let place = Place::new(EngineKind::RocksDb);
    let mut executor = place.open(generation);
    (0..3).for_each(|_| drop(apply(&mut executor, &["a", "b"], "1")));
    executor.reader().database().flush().expect("flushed");
    place
}

fn mark(place: &Place, text: &str) {
    fs::write(place.replica().join("damaged"), text).expect("written");
}

fn applied(executor: &KvStoreExecutor) -> u64 {
    executor.next_expected_sequence().0 - 1
}

/// Damages a database so that it cannot be opened.
fn spoil(place: &Place, name: &str) {
    fs::write(place.replica().join(name).join("CURRENT"), "nonsense").expect("written");
}

#[test]
fn the_first_generation_lies_where_it_always_did() {
    assert_eq!(filled(0).names(), ["db"]);
    assert_eq!(filled(12).names(), ["db-12"]);
}

#[test]
fn leftovers_of_other_generations_and_copies_go_and_nothing_else() {
    let place = filled(2);
    for name in ["db", "db-1", "db-3", "db.copy-4", "db-2.copy-1", "db-1.damaged-1", "wal", "db-notes"] {
        fs::create_dir(place.replica().join(name)).expect("created");
    }
    let executor = place.open(2);
    assert_eq!(applied(&executor), 3);
    assert_eq!(place.names(), ["db-1.damaged-1", "db-2", "db-notes", "wal"]);
}

#[test]
fn a_marked_database_is_set_aside_and_an_empty_one_opened() {
    let place = filled(2);
    mark(&place, r#"{"generation": 2, "reason": "block checksum mismatch"}"#);
    let executor = place.open(2);
    assert_eq!(applied(&executor), 0);
    assert_eq!(executor.persisted_sequence().expect("sound"), Sequence::ZERO);
    drop(executor);
    assert_eq!(place.names(), ["db-2", "db-2.damaged-1"]);
    // It was set aside once; the present one is another database.
    assert_eq!(applied(&place.open(2)), 0);
    assert_eq!(place.names(), ["db-2", "db-2.damaged-1"]);
}

#[test]
fn a_marker_stays_until_the_database_is_set_aside() {
    let place = filled(0);
    mark(&place, r#"{"generation": 0, "reason": "x"}"#);
    // The highest number is taken, so nothing can be renamed to the next one.
    let obstacle = place.replica().join(format!("db.damaged-{}", u64::MAX));
    fs::create_dir_all(obstacle.join("kept")).expect("created");
    let opened = KvStoreExecutor::open(place.databases(), ReadSlots::new(1), 0);
    assert!(opened.err().expect("it cannot be set aside").to_string().contains("cannot rename"));
    assert!(place.replica().join("damaged").exists(), "the next start has to know");
    fs::remove_dir_all(obstacle).expect("removed");
    assert_eq!(applied(&place.open(0)), 0);
    assert_eq!(place.names(), ["db", "db.damaged-1"]);
}

#[test]
fn a_marker_whose_database_was_set_aside_already_has_no_effect() {
    let place = filled(0);
    fs::rename(place.replica().join("db"), place.replica().join("db.damaged-1")).expect("renamed");
    mark(&place, r#"{"generation": 0, "reason": "x"}"#);
    let mut executor = place.open(0);
    apply(&mut executor, &["a"], "1");
    executor.reader().database().flush().expect("flushed");
    drop(executor);
    assert_eq!(applied(&place.open(0)), 1, "it is another database");
    assert_eq!(place.names(), ["db", "db.damaged-1"]);
}

#[test]
fn a_database_set_aside_is_complete() {
    let place = filled(0);
    mark(&place, r#"{"generation": 0, "reason": "x"}"#);
    drop(place.open(0));
    fs::remove_dir_all(place.replica().join("db")).expect("removed");
    fs::rename(place.replica().join("db.damaged-1"), place.replica().join("db")).expect("renamed");
    assert_eq!(applied(&place.open(0)), 3);
}

#[test]
fn a_marker_of_a_former_generation_is_forgotten() {
    let place = filled(3);
    mark(&place, r#"{"generation": 2, "reason": "x"}"#);
    assert_eq!(applied(&place.open(3)), 3);
    assert_eq!(place.names(), ["db-3"]);
}

#[test]
fn a_marker_that_cannot_be_read_speaks_of_the_live_database() {
    let place = filled(3);
    mark(&place, "{");
    assert_eq!(applied(&place.open(3)), 0);
    assert_eq!(place.names(), ["db-3", "db-3.damaged-1"]);
}

#[test]
fn a_crash_between_setting_aside_and_removing_the_marker_changes_nothing() {
    let place = filled(0);
    mark(&place, r#"{"generation": 0, "reason": "x"}"#);
    fs::rename(place.replica().join("db"), place.replica().join("db.damaged-1")).expect("renamed");
    assert_eq!(applied(&place.open(0)), 0);
    assert_eq!(place.names(), ["db", "db.damaged-1"]);
}

#[test]
fn a_database_too_damaged_to_open_is_set_aside_and_only_the_last_one_is_kept() {
    let place = filled(0);
    for round in 1..=3 {
        spoil(&place, "db");
        assert_eq!(applied(&place.open(0)), 0);
        assert_eq!(place.names(), ["db".to_string(), format!("db.damaged-{round}")]);
    }
}

#[test]
fn a_database_in_use_does_not_count_as_damaged() {
    let place = filled(0);
    let _open = place.open(0);
    assert!(place.databases().open(0).is_err());
    assert_eq!(place.names(), ["db"]);
}
