//! Records that replicas agree on or keep: log entries, replicated state, verdicts.
//!
//! A record that can be decoded survives its encoding: replicas with different histories hold the
//! same bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::{CommitResult, KeyRef, KvError, decode_verdict, encode_verdict};
use prost::Message as _;
use rsml::{
    Addresses, BirthRecord, Boot, ClusterId, ConfiguredMember, DiskId, Epoch, Reconfigure, ReplicaId, ReplicatedState,
    RequestBatch, Sequence, SessionState, Value,
};

/// The first byte says which kind of record the others are.
pub fn any(bytes: &[u8]) {
    let Some((kind, record)) = bytes.split_first() else { return };
    match kind % 3 {
        0 => value(Bytes::copy_from_slice(record)),
        1 => state(record),
        _ => verdict(record),
    }
}

pub fn value(record: Bytes) {
    let Ok(value) = Value::decode(record) else { return };
    assert_eq!(Value::decode(value.to_bytes()).as_ref(), Ok(&value));
    if let Some(birth) = value.birth {
        let configuration = birth.configuration();
        assert!(configuration.members.len() <= birth.members.len());
    }
}

fn state(record: &[u8]) {
    let Some(state) = ReplicatedState::from_bytes(record) else { return };
    assert_eq!(ReplicatedState::from_bytes(&state.to_bytes()), Some(state.clone()));
    let first: BTreeMap<_, _> = state.birth().configuration().voters().collect();
    assert_eq!(first, state.first_voters);
}

fn verdict(record: &[u8]) {
    match decode_verdict(record) {
        Ok(verdict) => assert_eq!(decode_verdict(&encode_verdict(&verdict)), Ok(verdict)),
        Err(error) => assert!(matches!(error, KvError::Storage(_)), "{error}"),
    }
}

fn sample_state() -> ReplicatedState {
    let first_voters: BTreeMap<_, _> = (0..3).map(|id| (ReplicaId(id), DiskId(u128::from(id) << 100 | 77))).collect();
    let sessions = first_voters.values().map(|disk| (*disk, SessionState { boot: Boot(3), last: 12 })).collect();
    ReplicatedState {
        cluster_id: ClusterId(7 << 80),
        sequence: Sequence(9),
        configuration: BirthRecord::new(ClusterId(7 << 80), &first_voters).configuration(),
        first_voters,
        sessions,
        time_us: 55,
        digest: u64::MAX,
        ..ReplicatedState::default()
    }
}

/// One voter leaves, and an observer comes.
fn seal() -> Reconfigure {
    let addresses = Addresses { peer: "host:1".into(), clients: vec!["host:2".into()] };
    let mut members = sample_state().configuration.members;
    members.remove(&ReplicaId(1));
    members.insert(ReplicaId(5), ConfiguredMember::Observer { addresses });
    Reconfigure::new(Epoch(2), &members)
}

fn values() -> Vec<Value> {
    let birth: BirthRecord = sample_state().birth();
    let batch = RequestBatch {
        disk_id: birth.members[1].disk_id,
        boot: 2,
        first: 4,
        payloads: vec![Bytes::from_static(b"payload"), Bytes::new()],
        ..RequestBatch::default()
    };
    vec![
        Value::default(),
        Value { birth: Some(birth), ..Value::default() },
        Value { proposed_view: 257, reconfigure: Some(seal()), ..Value::default() },
        Value { proposed_view: 257, time_us: 1 << 40, batches: vec![batch.clone(), batch], ..Value::default() },
    ]
}

pub fn sample_value() -> Vec<u8> {
    values().pop().expect("there are some").to_bytes().into()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let committed = CommitResult { version: 300, generated_keys: vec!["k".into()], generated_values: vec!["".into()] };
    let conflict = KvError::Conflict { keys: vec![KeyRef::new("a")] };
    let future = KvError::FutureVersion { read_version: 9, current: 1 };
    let verdicts = [Ok(committed), Err(conflict), Err(future), Err(KvError::Storage("why".into()))];
    let of_kind = |kind: u8, record: &[u8]| [&[kind], record].concat();
    let values = values().into_iter().map(|value| of_kind(0, &value.to_bytes()));
    let states = [ReplicatedState::default(), sample_state()].map(|state| of_kind(1, &state.to_bytes()));
    let verdicts = verdicts.iter().map(|verdict| of_kind(2, &encode_verdict(verdict)));
    values.chain(states).chain(verdicts).collect()
}
