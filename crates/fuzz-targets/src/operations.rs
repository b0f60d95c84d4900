//! Operations as the log holds them, and what the database makes of them.
//!
//! The service checks a request before it is proposed; the database takes nothing on trust from that. Checked: an operation
//! survives its encoding; verdicts and rows are the same whether operations are applied one by one or together, whatever
//! the conflict index remembers, and whenever old versions are removed.

use std::sync::Arc;

use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitVerdict, FamilyChange, KeyRange, KeyRef, LoggedWrite, Mutation, MutationKind, TimedWrite,
    decode_verdict, encode_verdict,
};
use kv_store::{Durability, MemoryEngine, RowsHash, StateBlob, StoreOptions, TransactionalKvDatabase};

use crate::Input;

/// Operations, each preceded by its length in two bytes.
pub fn apply(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut writes = Vec::new();
    while !input.is_empty() {
        let length = input.u16();
        let payload = Bytes::copy_from_slice(input.take(usize::from(length)));
        if let Ok(write) = LoggedWrite::from_bytes(payload) {
            assert_eq!(LoggedWrite::from_bytes(write.to_bytes()), Ok(write.clone()));
            // A step takes a part of the usual window.
            writes.push(TimedWrite { time_us: 7_000_000 * writes.len() as u64, write });
        }
    }
    let together = Played::new(&writes, writes.len(), 1000, false);
    let apart = Played::new(&writes, 1, 0, false);
    assert_eq!(together, apart, "batches or the conflict index decided something");
    let mut collected = Played::new(&writes, 1, 3, true);
    // Rows that a range clear hides count until they are removed.
    collected.rows = together.rows;
    assert_eq!(together, collected, "the removal of old versions decided something");
    for verdict in together.verdicts {
        assert_eq!(decode_verdict(&encode_verdict(&verdict)).map(|again| again.is_ok()), Ok(verdict.is_ok()));
    }
}

#[derive(Debug, PartialEq)]
struct Played {
    verdicts: Vec<CommitVerdict>,
    rows: u64,
    hash: RowsHash,
}

impl Played {
    fn new(writes: &[TimedWrite], batch: usize, index_entries: usize, collects: bool) -> Played {
        let options = StoreOptions {
            conflict_index_entries: index_entries,
            known_keys: index_entries,
            row_cache_bytes: 64 * index_entries,
            collect_every: None,
            ..StoreOptions::replicated()
        };
        let engine = Arc::new(MemoryEngine::new(Durability::UntilFlush));
        let database = TransactionalKvDatabase::open(engine, options).expect("memory does not fail");
        let mut verdicts = Vec::new();
        for (sequence, writes) in (1..).zip(writes.chunks(batch.max(1))) {
            let prepared = database.prepare(writes).expect("memory does not fail");
            let committed = prepared.commit(StateBlob { sequence, blob: Bytes::new() });
            verdicts.extend(committed.expect("memory does not fail"));
            if collects {
                database.flush().expect("memory does not fail");
                database.collect_garbage(5).expect("memory does not fail");
            }
        }
        let hash = database.hash_rows("", b"", database.applied_version(), u64::MAX).expect("memory does not fail");
        Played { verdicts, rows: database.statistics_now().total_keys, hash }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let of_kind = |kind: MutationKind, key: &'static [u8], value: &'static [u8]| Mutation {
        kind: kind as i32,
        ..Mutation::set(key, value)
    };
    let in_family = Mutation { column_family: "family".into(), ..Mutation::set("a", "2") };
    let stamped = Mutation { stamp_offset: Some(1), ..of_kind(MutationKind::SetVersionstampedKey, &[b'k'; 12], b"v") };
    let at_end = of_kind(MutationKind::SetVersionstampedValue, b"k", &[0; 10]);
    let add = of_kind(MutationKind::Add, b"n", &[1; 8]);
    let clear = of_kind(MutationKind::ClearRange, b"a", b"z");
    let checked = AtomicCommit {
        read_version: 2,
        read_conflict_keys: vec!["a".into()],
        read_conflicts: vec![KeyRef { key: "b".into(), column_family: "family".into() }],
        read_conflict_ranges: vec![KeyRange { begin: "a".into(), end: "c".into(), column_family: String::new() }],
        ..AtomicCommit::of(vec![Mutation::set("a", "3"), Mutation::delete("b")])
    };
    let logs = [
        vec![AtomicCommit::of(vec![Mutation::set("a", "1"), in_family]), checked.clone()],
        vec![AtomicCommit::of(vec![stamped, at_end]), AtomicCommit::of(vec![add]), AtomicCommit::of(vec![clear])],
        vec![checked, AtomicCommit { idempotency_id: "id".into(), ..AtomicCommit::default() }],
    ];
    let encoded = logs.map(|commits| {
        let create = LoggedWrite::family(FamilyChange { name: "family".into(), drop: false });
        let drop = LoggedWrite::family(FamilyChange { name: "family".into(), drop: true });
        let commits = commits.into_iter().map(LoggedWrite::commit);
        let payloads = [create].into_iter().chain(commits).chain([drop]).map(|write| write.to_bytes());
        payloads.flat_map(|payload| [&(payload.len() as u16).to_le_bytes(), &payload[..]].concat()).collect()
    });
    encoded.into()
}
