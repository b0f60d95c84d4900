//! Operations as the log holds them, and what the database makes of them.
//!
//! The service checks a request before it is proposed; the database takes nothing on trust from that. Checked: an operation
//! survives its encoding; verdicts and rows are the same whether operations are applied one by one or together, and
//! whatever the conflict index remembers.

use std::sync::Arc;

use bytes::Bytes;
use kv_api::{AtomicCommit, CommitVerdict, KeyRange, KeyRef, Mutation, MutationKind, decode_verdict, encode_verdict};
use kv_server::replication::operation;
use kv_store::{Durability, MemoryEngine, RowsHash, StateBlob, StoreOptions, TransactionalKvDatabase};

use crate::Input;

/// Operations, each preceded by its length in two bytes.
pub fn apply(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut commits = Vec::new();
    while !input.is_empty() {
        let length = input.u16();
        let payload = Bytes::copy_from_slice(input.take(usize::from(length)));
        if let Ok(commit) = operation::decode(payload) {
            assert_eq!(operation::decode(operation::encode(commit.clone())), Ok(commit.clone()));
            commits.push(commit);
        }
    }
    let together = Played::new(&commits, commits.len(), 1000);
    let apart = Played::new(&commits, 1, 0);
    assert_eq!(together, apart, "batches or the conflict index decided something");
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
    fn new(commits: &[AtomicCommit], batch: usize, index_entries: usize) -> Played {
        let options = StoreOptions {
            conflict_index_entries: index_entries,
            known_keys: index_entries,
            ..StoreOptions::replicated()
        };
        let engine = Arc::new(MemoryEngine::new(Durability::UntilFlush));
        let database = TransactionalKvDatabase::open(engine, options).expect("memory does not fail");
        let mut verdicts = Vec::new();
        for (sequence, commits) in (1..).zip(commits.chunks(batch.max(1))) {
            let mut seal = |_: &[CommitVerdict]| StateBlob { sequence, blob: Bytes::new() };
            verdicts.extend(database.apply(commits, &mut seal).expect("memory does not fail"));
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
        let payloads = commits.into_iter().map(operation::encode);
        payloads.flat_map(|payload| [&(payload.len() as u16).to_le_bytes(), &payload[..]].concat()).collect()
    });
    encoded.into()
}
