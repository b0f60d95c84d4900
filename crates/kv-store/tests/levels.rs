//! The feature level of a database: absent from the bytes while it is the first one, written with
//! the batch that raises it, and refused by programs that do not execute it.

mod support;

use kv_api::{HIGHEST_LEVEL, KvError};
use kv_store::engine::{Table, WriteBatch};
use kv_store::{Durability, StateBlob, StoreOptions, TransactionalKvDatabase};
use support::{apply, block_on, commit, place, set};

fn replicated() -> StoreOptions {
    StoreOptions { collect_every: None, ..StoreOptions::replicated() }
}

fn standalone() -> StoreOptions {
    StoreOptions { collect_every: None, ..StoreOptions::standalone() }
}

/// Applies one commit as the batch `sequence`, after which the level is `level`.
fn apply_at(database: &TransactionalKvDatabase, sequence: u64, level: u32) {
    let writes = support::timeless(&[commit([set("k", "v")])]);
    let blob = StateBlob { sequence, blob: "state".into() };
    database.prepare_at(&writes, level).unwrap().commit(blob).unwrap();
}

#[test]
fn at_the_first_level_nothing_is_written_about_it() {
    for place in place::all(Durability::EveryWrite) {
        let engine = place.engine();
        let database = TransactionalKvDatabase::open(engine.clone(), replicated()).unwrap();
        apply(&database, &[commit([set("a", "1")])]);
        apply_at(&database, 2, 1);
        assert_eq!(database.level(), 1);
        assert_eq!(engine.get(Table::Meta, b"level").unwrap(), None);
        assert_eq!(engine.get(Table::Meta, b"format").unwrap().unwrap().as_ref(), 2_u32.to_be_bytes());
    }
}

#[test]
fn a_raised_level_is_there_after_a_restart_and_older_programs_refuse_the_format() {
    for mut place in place::all(Durability::EveryWrite) {
        let database = place.open_with(replicated());
        apply_at(&database, 1, 2);
        assert_eq!(database.level(), 2);
        place.crash(database);
        let engine = place.engine();
        assert_eq!(engine.get(Table::Meta, b"format").unwrap().unwrap().as_ref(), 3_u32.to_be_bytes());
        let database = TransactionalKvDatabase::open(engine, replicated()).unwrap();
        assert_eq!(database.level(), 2);
        apply_at(&database, 2, 2);
    }
}

#[test]
fn a_batch_that_is_lost_takes_its_level_along() {
    for mut place in place::all(Durability::UntilFlush) {
        let database = place.open_with(replicated());
        apply_at(&database, 1, 1);
        database.flush().unwrap();
        apply_at(&database, 2, 2);
        place.crash(database);
        let database = place.open_with(replicated());
        let sequence = database.state_blob().unwrap().map(|(sequence, _)| sequence);
        assert_eq!(database.level(), if sequence == Some(2) { 2 } else { 1 });
    }
}

#[test]
fn a_database_above_the_program_is_not_opened_and_the_error_names_both_levels() {
    for place in place::all(Durability::EveryWrite) {
        let engine = place.engine();
        let database = TransactionalKvDatabase::open(engine.clone(), StoreOptions { highest_level: 7, ..replicated() });
        let database = database.unwrap();
        apply_at(&database, 1, 7);
        drop(database);
        let error = TransactionalKvDatabase::open(engine, replicated()).err().expect("it is too new").to_string();
        assert!(error.contains("level 7") && error.contains(&format!("levels 1 to {HIGHEST_LEVEL}")), "{error}");
    }
}

#[test]
fn records_that_contradict_each_other_are_damage() {
    for place in place::all(Durability::EveryWrite) {
        let engine = place.engine();
        drop(TransactionalKvDatabase::open(engine.clone(), replicated()).unwrap());
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, b"level", &2_u32.to_be_bytes());
        engine.write(&batch).unwrap();
        let error = TransactionalKvDatabase::open(engine, replicated()).err().expect("the format is that of level 1");
        assert!(matches!(error, KvError::Corruption(_)), "{error}");
    }
}

#[test]
fn a_standalone_database_is_raised_by_itself_and_never_goes_down() {
    for place in place::all(Durability::EveryWrite) {
        let database = place.open_with(standalone());
        assert!(database.is_unwritten());
        block_on(database.write(kv_api::LoggedWrite::commit(commit([set("k", "v")])))).unwrap();
        assert!(!database.is_unwritten());
        assert_eq!(database.raise_level(2), Ok(2));
        assert_eq!(database.raise_level(2), Ok(2), "it is there already");
        for wrong in [1, HIGHEST_LEVEL + 1] {
            assert!(matches!(database.raise_level(wrong), Err(KvError::InvalidOperation(_))), "{wrong}");
        }
        drop(database);
        assert_eq!(place.open_with(standalone()).level(), 2);
    }
}

#[test]
fn the_level_of_a_replica_is_raised_by_its_log_alone() {
    for place in place::all(Durability::EveryWrite) {
        let database = place.open_with(replicated());
        assert!(matches!(database.raise_level(2), Err(KvError::NotSupported(_))));
        assert_eq!(database.level(), 1);
    }
}
