//! Random logs compared with a naive model: the same verdicts, and the same rows at every version,
//! on every engine, however the log is batched, whatever the conflict index remembers, and with
//! restarts in between.

mod support;

use bytes::Bytes;
use kv_api::{KvError, RangeQuery, Version};
use kv_store::{Durability, TransactionalKvDatabase};
use proptest::collection::vec;
use proptest::prelude::*;
use support::model::{FAMILIES, Log, Model, log, range_query};
use support::place::{self, Place};
use support::{apply, create_family};

/// How a log is applied to a database.
#[derive(Clone, Debug)]
struct Delivery {
    /// Sizes of the batches, used in turn.
    batch_sizes: Vec<usize>,
    conflict_index_entries: usize,
    /// The database restarts after this many batches; 0: never.
    restart_every: usize,
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let index = prop_oneof![Just(0), Just(1), 2..8_usize, Just(1_000_000)];
    (vec(1..6_usize, 1..4), index, 0..4_usize).prop_map(|(batch_sizes, conflict_index_entries, restart_every)| {
        Delivery { batch_sizes, conflict_index_entries, restart_every }
    })
}

/// Applies the log, and checks each verdict.
fn play(place: &Place, log: &Log, delivery: &Delivery) {
    let mut database = place.open_with_index(delivery.conflict_index_entries);
    FAMILIES.iter().filter(|name| !name.is_empty()).for_each(|name| create_family(&database, name));
    let mut done = 0;
    for (number, size) in delivery.batch_sizes.iter().cycle().enumerate() {
        if done == log.commits.len() {
            break;
        }
        if delivery.restart_every > 0 && number % delivery.restart_every == delivery.restart_every - 1 {
            drop(database);
            database = place.open_with_index(delivery.conflict_index_entries);
        }
        let end = log.commits.len().min(done + size);
        assert_eq!(apply(&database, &log.commits[done..end]), log.verdicts[done..end]);
        done = end;
    }
}

fn check_rows(database: &TransactionalKvDatabase, model: &Model, queries: &[RangeQuery]) {
    assert_eq!(database.applied_version(), Version(model.version()));
    assert_eq!(database.statistics_now().total_keys, model.total_rows());
    for version in 0..=model.version() {
        for key in model.keys() {
            assert_eq!(
                database.read_at(&key, Version(version)).unwrap(),
                model.get(&key, version),
                "{key:?} at {version}"
            );
        }
        for family in FAMILIES {
            let everything = RangeQuery { column_family: family.into(), ..whole_range() };
            let rows = database.range_at(&everything, Version(version)).unwrap();
            assert_eq!(rows.rows, model.visible(family, version), "family {family:?} at {version}");
            assert!(!rows.has_more);
        }
        for query in queries {
            assert_eq!(
                database.range_at(query, Version(version)),
                model.range(query, version),
                "{query:?} at {version}"
            );
        }
    }
    let future = model.version() + 1;
    let error = KvError::FutureVersion { read_version: future, current: model.version() };
    assert_eq!(database.range_at(&whole_range(), Version(future)), Err(error));
}

fn whole_range() -> RangeQuery {
    RangeQuery::between(Bytes::new(), Bytes::from_static(&[0xff; 20]))
}

fn check_everything(place: &Place, log: &Log, delivery: &Delivery, queries: &[RangeQuery]) {
    play(place, log, delivery);
    check_rows(&place.open_with_index(delivery.conflict_index_entries), &log.model, queries);
}

fn memory() -> Place {
    place::all(Durability::UntilFlush).remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_engine_agrees_with_the_model(
        log in log(60), delivery in delivery(), queries in vec(range_query(), 8),
    ) {
        check_everything(&memory(), &log, &delivery, &queries);
    }

    #[test]
    fn verdicts_do_not_depend_on_batches_restarts_or_the_index(log in log(40), deliveries in vec(delivery(), 3)) {
        for delivery in deliveries {
            play(&memory(), &log, &delivery);
        }
    }
}

#[cfg(feature = "rocksdb")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn the_rocksdb_engine_agrees_with_the_model(
        log in log(60), delivery in delivery(), flush: bool, queries in vec(range_query(), 8),
    ) {
        let place = place::all(Durability::UntilFlush).remove(1);
        play(&place, &log, &delivery);
        let database = place.open_with_index(delivery.conflict_index_entries);
        if flush {
            database.flush().unwrap();
        }
        check_rows(&database, &log.model, &queries);
    }
}
