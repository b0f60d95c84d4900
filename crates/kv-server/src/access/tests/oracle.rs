//! The choke point against brute force, over a small space of keys and random grants.
//!
//! For each request there are two independent questions. By key: does the service admit exactly
//! those requests all of whose keys are granted, key by key? By effect: if it admits one, can its
//! caller see anything of a key that it may not read, or change one that it may not write? For the
//! second, the request runs on two model databases that differ only where the caller may not read.
//! So a walk of a selector that looks further than the needs say shows itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_api::access::{AccessCommand, Grant, SetRole, Verb};
use kv_api::{
    AtomicCommit, Change, Changes, ChangesQuery, CommitResult, Effect, FamilyEffect, KeyRange, KeyRef, KeySelector,
    KvError, KvOperation, KvOutcome, MutationKind, RangeQuery, Row, Rows, Version, atomic,
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Gate, Rule, TestPolicy, add_user, record, session, token};
use crate::cluster::{ClusterSnapshot, ClusterView, LocalDatabase, LocalDatabases};
use crate::fault_injection::FaultInjector;
use crate::metrics::ServerMetrics;
use crate::request_watch::RequestWatch;
use crate::router::{RequestContext, RequestRouter};
use crate::service_core::{
    CommitRequest, CoreParts, KvServiceCore, OperationRequest, PollRequest, RangeRequest, WatchRequest,
};

const ALPHABET: [u8; 4] = [0, b'a', b'b', 0xff];
const FAMILIES: [&str; 2] = ["", "f"];
/// The read version of the transactions; rows of the model were written before or after it.
const READ_VERSION: u64 = 5;
const COMMIT_VERSION: u64 = 9;

type Place = (String, Vec<u8>);

/// A row, or the trace of one that was deleted, with the version that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cell {
    value: Option<Bytes>,
    written: u64,
}

type Model = BTreeMap<Place, Cell>;

/// A database that is obviously right, without versions to read at.
struct ModelRouter(Mutex<Model>);

impl ModelRouter {
    fn keys(model: &Model, family: &str) -> Vec<(Vec<u8>, Bytes)> {
        let cells = model.iter().filter(|((of, _), _)| of == family);
        cells.filter_map(|((_, key), cell)| Some((key.clone(), cell.value.clone()?))).collect()
    }

    /// The key at which a range begins or ends; `None` behind all keys.
    fn resolve(rows: &[(Vec<u8>, Bytes)], selector: &KeySelector) -> Option<Vec<u8>> {
        let before = |key: &Vec<u8>| if selector.or_equal { **key <= *selector.key } else { **key < *selector.key };
        let last = rows.iter().filter(|(key, _)| before(key)).count() as i64 - 1;
        let at = (last + i64::from(selector.offset)).max(0);
        rows.get(usize::try_from(at).expect("not negative")).map(|(key, _)| key.clone())
    }

    fn range(model: &Model, query: &RangeQuery) -> Rows {
        let rows = Self::keys(model, &query.column_family);
        let end_of = |selector: &Option<KeySelector>, plain: &Bytes| match selector {
            Some(selector) => Self::resolve(&rows, selector),
            None => Some(plain.to_vec()),
        };
        let begin = end_of(&query.begin_selector, &query.begin);
        let end = end_of(&query.end_selector, &query.end);
        let inside = |key: &Vec<u8>| {
            begin.as_ref().is_some_and(|begin| begin <= key) && end.as_ref().is_none_or(|end| key < end)
        };
        let mut found: Vec<Row> = rows
            .iter()
            .filter(|(key, _)| inside(key))
            .map(|(key, value)| Row { key: key.clone().into(), value: value.clone() })
            .collect();
        if query.reverse {
            found.reverse();
        }
        let mut found: Vec<Row> = found.into_iter().skip(query.skip as usize).collect();
        let limit = query.limit.map_or(found.len(), |limit| limit as usize);
        let has_more = found.len() > limit;
        found.truncate(limit);
        Rows { rows: found, has_more }
    }

    /// Every row of the ranges changed just now.
    fn changes(model: &Model, query: &ChangesQuery) -> Changes {
        let asked = |family: &str, key: &[u8]| {
            query.ranges.is_empty()
                || query.ranges.iter().any(|range| {
                    range.column_family == family
                        && *range.begin <= *key
                        && range.end.as_ref().is_none_or(|end| *key < **end)
                })
        };
        let touched = model.iter().filter(|((family, key), _)| asked(family, key));
        let effect = |((family, key), cell): (&Place, &Cell)| {
            let key = Bytes::from(key.clone());
            let effect = match cell.value.clone() {
                Some(value) => Effect::Set { key, value },
                None => Effect::Delete { key },
            };
            FamilyEffect { column_family: family.clone(), effect }
        };
        let change = Change { version: Version(COMMIT_VERSION), time_us: 0, effects: touched.map(effect).collect() };
        Changes { changes: vec![change], through: Version(COMMIT_VERSION), has_more: false, oldest: Version(1) }
    }

    fn conflict(model: &Model, commit: &AtomicCommit) -> Option<KeyRef> {
        let conflicts = |(place, cell): &(&Place, &Cell)| {
            let (family, key) = place;
            let named = |of: &KeyRef| of.column_family == *family && *of.key == **key;
            let within = |of: &KeyRange| of.column_family == *family && *of.begin <= **key && **key < *of.end;
            cell.written > commit.read_version
                && (commit.read_conflict_keys.iter().any(|of| **of == **key)
                    || commit.read_conflicts.iter().any(named)
                    || commit.read_conflict_ranges.iter().any(within))
        };
        let (family, key) = model.iter().find(conflicts)?.0;
        Some(KeyRef { key: key.clone().into(), column_family: family.clone() })
    }

    fn commit(model: &mut Model, commit: &AtomicCommit) -> Result<CommitResult, KvError> {
        if let Some(key) = Self::conflict(model, commit) {
            return Err(KvError::Conflict { keys: vec![key] });
        }
        let mut result = CommitResult { version: COMMIT_VERSION, ..CommitResult::default() };
        let mut stamps = 0u16;
        let mut stamped = |buffer: &Bytes, offset: Option<u32>| {
            let at = offset.map_or(buffer.len() - 10, |offset| offset as usize);
            let mut bytes = buffer.to_vec();
            bytes[at..at + 8].copy_from_slice(&COMMIT_VERSION.to_be_bytes());
            bytes[at + 8..at + 10].copy_from_slice(&stamps.to_be_bytes());
            stamps += 1;
            Bytes::from(bytes)
        };
        for mutation in &commit.mutations {
            let (kind, family) = (mutation.kind(), mutation.column_family.clone());
            if kind == MutationKind::ClearRange {
                let inside = |(of, key): &Place| *of == family && *mutation.key <= **key && **key < *mutation.value;
                let cleared = Cell { value: None, written: COMMIT_VERSION };
                model.iter_mut().filter(|(place, _)| inside(place)).for_each(|(_, cell)| *cell = cleared.clone());
                continue;
            }
            let key = match kind {
                MutationKind::SetVersionstampedKey => {
                    let key = stamped(&mutation.key, mutation.stamp_offset);
                    result.generated_keys.push(key.clone());
                    key
                }
                _ => mutation.key.clone(),
            };
            let stored = model.get(&(family.clone(), key.to_vec())).and_then(|cell| cell.value.clone());
            let value = match kind {
                MutationKind::Set | MutationKind::SetVersionstampedKey => Some(mutation.value.clone()),
                MutationKind::Delete => None,
                MutationKind::SetVersionstampedValue => {
                    let value = stamped(&mutation.value, mutation.stamp_offset);
                    result.generated_values.push(value.clone());
                    Some(value)
                }
                kind => atomic::apply(kind, stored, &mutation.value),
            };
            model.insert((family, key.to_vec()), Cell { value, written: COMMIT_VERSION });
        }
        Ok(result)
    }
}

#[async_trait]
impl RequestRouter for ModelRouter {
    async fn route(&self, operation: KvOperation, _: &RequestContext) -> Result<KvOutcome, KvError> {
        let mut model = self.0.lock().expect("no panic");
        match &operation {
            KvOperation::ReadVersion => Ok(KvOutcome::ReadVersion(Version(READ_VERSION))),
            KvOperation::Get { key, .. } => {
                let cell = model.get(&(key.column_family.clone(), key.key.to_vec()));
                Ok(KvOutcome::Value(cell.and_then(|cell| cell.value.clone())))
            }
            KvOperation::GetRange { query, .. } => Ok(KvOutcome::Rows(Self::range(&model, query))),
            KvOperation::AtomicCommit(commit) => Self::commit(&mut model, commit).map(KvOutcome::Committed),
            KvOperation::ChangeFamily(_) | KvOperation::ChangeAccess(_) => {
                Ok(KvOutcome::Committed(CommitResult::default()))
            }
            KvOperation::ReadChanges(query) => Ok(KvOutcome::Changes(Self::changes(&model, query))),
            KvOperation::ClockTick => panic!("no request makes it"),
        }
    }
}

struct Nobody;

#[async_trait]
impl ClusterView for Nobody {
    async fn snapshot(&self) -> ClusterSnapshot {
        unreachable!("nobody asks for the cluster")
    }

    fn cluster_id(&self) -> Option<String> {
        None
    }
}

impl LocalDatabases for Nobody {
    fn replicas(&self) -> Vec<LocalDatabase> {
        Vec::new()
    }
}

/// A request, as every interface can make it.
#[derive(Clone, Debug)]
enum Request {
    Get {
        family: String,
        key: Vec<u8>,
        at: At,
    },
    Range {
        range: RangeRequest,
        at: At,
    },
    Set {
        family: String,
        key: Vec<u8>,
    },
    Delete {
        family: String,
        key: Vec<u8>,
    },
    StampedKey {
        family: String,
        buffer: Vec<u8>,
    },
    StampedValue {
        family: String,
        key: Vec<u8>,
    },
    Commit(CommitRequest),
    /// Without a family: everything.
    Poll {
        family: Option<String>,
        begin: Vec<u8>,
        end: Option<Vec<u8>>,
    },
    WatchKey {
        family: String,
        key: Vec<u8>,
    },
    CreateFamily,
    DropFamily,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Now,
    Stale,
    Snapshot,
}

/// The answer as the caller sees it, as text.
async fn run(core: &KvServiceCore, request: Request, context: &RequestContext) -> Result<String, KvError> {
    let show = |seen: &dyn std::fmt::Debug| format!("{seen:?}");
    let (everything, version) = (u64::MAX, READ_VERSION as i64);
    Ok(match request {
        Request::Get { family, key, at } => {
            let (key, family) = (Bytes::from(key), Some(family));
            show(&match at {
                At::Now => core.get(key, family, None, context).await?,
                At::Stale => core.get(key, family, Some("stale"), context).await?,
                At::Snapshot => core.snapshot_get(key, version, family, context).await?,
            })
        }
        Request::Range { range, at } => show(&match at {
            At::Now => core.get_range(range, None, everything, context).await?,
            At::Stale => core.get_range(range, Some("stale"), everything, context).await?,
            At::Snapshot => core.snapshot_get_range(range, version, everything, context).await?,
        }),
        Request::Set { family, key } => {
            show(&core.set(key.into(), Bytes::from_static(b"new"), Some(family), context).await?)
        }
        Request::Delete { family, key } => show(&core.delete(key.into(), Some(family), context).await?),
        Request::StampedKey { family, buffer } => {
            show(&core.set_versionstamped_key(buffer.into(), Bytes::new(), Some(family), context).await?)
        }
        Request::StampedValue { family, key } => {
            let buffer = Bytes::from_static(&[0; 10]);
            show(&core.set_versionstamped_value(key.into(), buffer, Some(family), context).await?)
        }
        Request::Commit(commit) => show(&core.atomic_commit(commit, context).await?),
        Request::Poll { family, begin, end } => {
            let range = family.map(|family| (Some(family), Some(begin.into()), end.map(Bytes::from)));
            let ranges = range.into_iter().collect();
            let request = PollRequest { after_version: version, ranges, ..PollRequest::default() };
            show(&core.poll_changes(request, true, context).await?)
        }
        Request::WatchKey { family, key } => {
            let keys = vec![(Some(family), key.into())];
            let request = WatchRequest { keys, at_version: version, ..WatchRequest::default() };
            show(&core.watch_keys(request, context).await?)
        }
        Request::CreateFamily => show(&core.create_family("f", context).await?),
        Request::DropFamily => show(&core.drop_family("f", context).await?),
    })
}

/// The use of one key of a request; without a key, a request that touches none asks for no
/// more than some right in the family.
type Use = (Verb, Option<String>, Option<Vec<u8>>);

/// Every use of every key, one by one; `None` for requests whose keys depend on the rows.
fn uses(request: &Request) -> Option<Vec<Use>> {
    let one = |verb, family: &str, key: &[u8]| (verb, Some(family.to_owned()), Some(key.to_vec()));
    Some(match request {
        Request::Get { family, key, .. } => vec![one(Verb::Read, family, key)],
        Request::Set { family, key } | Request::Delete { family, key } | Request::StampedValue { family, key } => {
            vec![one(Verb::Write, family, key)]
        }
        Request::StampedKey { family, buffer } if buffer.ends_with(&[0; 10]) => {
            stamped_keys(buffer, buffer.len() - 10).iter().map(|key| one(Verb::Write, family, key)).collect()
        }
        Request::StampedKey { family, buffer } => vec![one(Verb::Write, family, buffer)],
        Request::Range { range, .. } => {
            if range.begin_selector.is_some() || range.end_selector.is_some() || range.end_offset.is_some() {
                return None;
            }
            let begin = range.begin.clone().unwrap_or_default();
            let end = range.end.clone().unwrap_or(Bytes::from_static(&[0xff]));
            let (from, through) = (range.begin_or_equal != Some(false), range.end_or_equal == Some(true));
            let inside = |key: &&Vec<u8>| {
                (***key > *begin || (from && ***key == *begin)) && (***key < *end || (through && ***key == *end))
            };
            let family = range.column_family.clone().unwrap_or_default();
            // A grant can also end right behind an excluded key.
            let behind = [&begin, &[0][..]].concat();
            universe().iter().chain([&behind]).filter(inside).map(|key| one(Verb::Read, &family, key)).collect()
        }
        Request::Commit(commit) => commit_uses(commit),
        Request::Poll { family, begin, end } => {
            let inside = |key: &&Vec<u8>| **key >= *begin && end.as_ref().is_none_or(|end| *key < end);
            // A grant can end at the greatest of these keys, so one more stands for all behind it.
            let all: Vec<Vec<u8>> = universe().into_iter().chain([vec![0xff; 9]]).collect();
            let keys: Vec<&Vec<u8>> = all.iter().filter(inside).collect();
            let nothing = Some(begin) == end.as_ref() && family.is_some();
            let verbs = [Verb::Watch, Verb::Read].into_iter();
            verbs
                .flat_map(|verb| {
                    let keys = keys.iter().filter(|_| !nothing).map(|key| Some((*key).clone()));
                    let keys = keys.chain(nothing.then_some(None));
                    keys.map(move |key| (verb, family.clone(), key)).collect::<Vec<Use>>()
                })
                .collect()
        }
        Request::WatchKey { family, key } => {
            vec![one(Verb::Watch, family, key), one(Verb::Read, family, key)]
        }
        // The verb of families is not granted here.
        Request::CreateFamily | Request::DropFamily => vec![(Verb::AdminFamily, Some("f".into()), None)],
    })
}

fn commit_uses(commit: &CommitRequest) -> Vec<Use> {
    let one = |verb, family: &str, key: &[u8]| (verb, Some(family.to_owned()), Some(key.to_vec()));
    let mut uses: Vec<Use> = Vec::new();
    for operation in &commit.operations {
        let family = operation.column_family.clone().unwrap_or_default();
        match operation.kind.as_str() {
            "clear_range" => {
                let end = operation.value.clone().unwrap_or_default();
                let inside = |key: &&Vec<u8>| ***key >= *operation.key && ***key < *end;
                uses.extend(universe().iter().filter(inside).map(|key| one(Verb::Write, &family, key)));
                uses.extend((operation.key == end).then(|| (Verb::Write, Some(family.clone()), None)));
            }
            "set_versionstamped_key" => {
                let at = operation.stamp_offset.map_or(operation.key.len() - 10, |offset| offset as usize);
                uses.extend(stamped_keys(&operation.key, at).iter().map(|key| one(Verb::Write, &family, key)));
            }
            _ => uses.push(one(Verb::Write, &family, &operation.key)),
        }
    }
    let not_empty = commit.read_conflict_keys.iter().filter(|key| !key.is_empty());
    uses.extend(not_empty.map(|key| (Verb::Read, None, Some(key.to_vec()))));
    let not_empty = commit.read_conflicts.iter().filter(|of| !of.key.is_empty());
    uses.extend(not_empty.map(|of| one(Verb::Read, &of.column_family, &of.key)));
    for of in &commit.read_conflict_ranges {
        let inside = |key: &&Vec<u8>| ***key >= *of.begin && ***key < *of.end;
        uses.extend(universe().iter().filter(inside).map(|key| one(Verb::Read, &of.column_family, key)));
    }
    uses
}

/// The key with stamps of every letter: grants begin and end at short keys, so that each other
/// stamp lies with one of these. The bytes before the stamp stand for the least stamp there could be.
fn stamped_keys(buffer: &[u8], at: usize) -> Vec<Vec<u8>> {
    let with = |letter: u8| [&buffer[..at], &[letter; 10], &buffer[at + 10..]].concat();
    // Between the letters, too.
    ALPHABET.into_iter().chain([1, b'c']).map(with).chain([buffer[..at].to_vec()]).collect()
}

/// Whether a grant allows this use of this one key.
fn is_granted(grants: &[Grant], (verb, family, key): &Use) -> bool {
    grants.iter().any(|grant| {
        let in_family = match family {
            Some(family) => grant.all_families || grant.families.contains(family),
            None => grant.all_families,
        };
        let in_range =
            key.as_ref().is_none_or(|key| *grant.begin <= **key && grant.end.as_ref().is_none_or(|end| **key < **end));
        grant.verbs().has(*verb) && in_family && in_range
    })
}

/// Every key of at most two letters.
fn universe() -> Vec<Vec<u8>> {
    let letters = || ALPHABET.into_iter();
    let mut keys = vec![Vec::new()];
    keys.extend(letters().map(|letter| vec![letter]));
    keys.extend(letters().flat_map(|first| letters().map(move |second| vec![first, second])));
    // The keys right behind them, where ranges with excluded ends begin.
    let behind = |key: &Vec<u8>| [key.as_slice(), &[0]].concat();
    let behind: Vec<Vec<u8>> = keys.iter().filter(|key| key.len() == 2).map(behind).collect();
    keys.extend(behind);
    keys
}

fn a_key() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(universe().into_iter().filter(|key| !key.is_empty()).collect::<Vec<_>>())
}

fn an_end() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(universe())
}

fn a_family() -> impl Strategy<Value = String> {
    proptest::sample::select(FAMILIES.map(str::to_owned).to_vec())
}

fn a_grant() -> impl Strategy<Value = Grant> {
    let families = proptest::sample::subsequence(FAMILIES.map(str::to_owned).to_vec(), 0..=2);
    let ends = prop_oneof![2 => (an_end(), proptest::option::of(an_end())), 1 => Just((Vec::new(), None))];
    (1u32..8, families, ends).prop_map(|(verbs, families, (begin, end))| Grant {
        verbs,
        all_families: families.is_empty(),
        families,
        end: end.filter(|end| *end > begin).map(Bytes::from),
        begin: begin.into(),
    })
}

fn a_selector() -> impl Strategy<Value = KeySelector> {
    (an_end(), any::<bool>(), -2i32..4).prop_map(|(key, or_equal, offset)| KeySelector {
        key: key.into(),
        or_equal,
        offset,
    })
}

fn a_range() -> impl Strategy<Value = RangeRequest> {
    let bytes = || proptest::option::of(an_end().prop_map(Bytes::from));
    let maybe = || proptest::option::of(any::<bool>());
    let selector = || proptest::option::weighted(0.4, a_selector());
    let few = || proptest::option::weighted(0.2, 0i32..3);
    let ends = (bytes(), bytes(), maybe(), maybe(), few(), few());
    (ends, few(), a_family(), any::<bool>(), selector(), selector()).prop_map(
        |(
            (begin, end, begin_or_equal, end_or_equal, begin_offset, end_offset),
            limit,
            family,
            reverse,
            first,
            last,
        )| {
            RangeRequest {
                begin,
                end,
                begin_offset,
                begin_or_equal,
                end_offset: end_offset.filter(|offset| *offset != 0),
                end_or_equal,
                limit,
                column_family: Some(family),
                reverse,
                target_bytes: None,
                begin_selector: first,
                end_selector: last,
            }
        },
    )
}

/// A key with room for a stamp, and where that begins.
fn a_stamped_key() -> impl Strategy<Value = (Vec<u8>, Option<i32>)> {
    (an_end(), prop_oneof![Just(None), an_end().prop_map(Some)]).prop_map(|(prefix, suffix)| match suffix {
        None => ([prefix.as_slice(), &[0; 10]].concat(), None),
        Some(suffix) => ([prefix.as_slice(), &[0; 10], &suffix].concat(), Some(prefix.len() as i32)),
    })
}

fn an_operation() -> impl Strategy<Value = OperationRequest> {
    let plain = [
        "set",
        "delete",
        "add",
        "min",
        "max",
        "byte_min",
        "byte_max",
        "bit_and",
        "bit_or",
        "bit_xor",
        "append_if_fits",
        "compare_and_clear",
    ];
    let of = |kind: &str, key: Vec<u8>, value: Vec<u8>, family: String, stamp_offset| OperationRequest {
        kind: kind.into(),
        key: key.into(),
        value: Some(value.into()),
        column_family: Some(family),
        stamp_offset,
    };
    prop_oneof![
        4 => (proptest::sample::select(plain.to_vec()), a_key(), a_family())
            .prop_map(move |(kind, key, family)| of(kind, key, vec![7], family, None)),
        2 => (an_end(), an_end(), a_family())
            .prop_map(move |(a, b, family)| of("clear_range", a.clone().min(b.clone()), a.max(b), family, None)),
        2 => (a_stamped_key(), a_family())
            .prop_map(move |((key, at), family)| of("set_versionstamped_key", key, vec![7], family, at)),
        1 => (a_key(), a_family())
            .prop_map(move |(key, family)| of("set_versionstamped_value", key, vec![0; 10], family, None)),
    ]
}

fn a_commit() -> impl Strategy<Value = CommitRequest> {
    let several = proptest::collection::vec(an_operation(), 1..3);
    let keys = proptest::collection::vec(an_end().prop_map(Bytes::from), 0..2);
    let key_ref = (an_end(), a_family()).prop_map(|(key, column_family)| KeyRef { key: key.into(), column_family });
    let range = (an_end(), an_end(), a_family()).prop_map(|(begin, end, column_family)| KeyRange {
        begin: begin.into(),
        end: end.into(),
        column_family,
    });
    let refs = proptest::collection::vec(key_ref, 0..2);
    (several, keys, refs, proptest::collection::vec(range, 0..2)).prop_map(|(operations, keys, refs, ranges)| {
        CommitRequest {
            read_version: READ_VERSION as i64,
            operations,
            read_conflict_keys: keys,
            read_conflicts: refs,
            read_conflict_ranges: ranges,
            ..CommitRequest::default()
        }
    })
}

fn a_request() -> impl Strategy<Value = Request> {
    let at = || prop_oneof![Just(At::Now), Just(At::Stale), Just(At::Snapshot)];
    prop_oneof![
        2 => (a_family(), a_key(), at()).prop_map(|(family, key, at)| Request::Get { family, key, at }),
        6 => (a_range(), at()).prop_map(|(range, at)| Request::Range { range, at }),
        1 => (a_family(), a_key()).prop_map(|(family, key)| Request::Set { family, key }),
        1 => (a_family(), a_key()).prop_map(|(family, key)| Request::Delete { family, key }),
        1 => (a_family(), a_stamped_key()).prop_map(|(family, (buffer, _))| Request::StampedKey { family, buffer }),
        1 => (a_family(), a_key()).prop_map(|(family, key)| Request::StampedValue { family, key }),
        6 => a_commit().prop_map(Request::Commit),
        3 => (a_family(), an_end(), proptest::option::of(an_end())).prop_map(|(family, begin, end)| match end {
            Some(end) if end < begin => Request::Poll { family: Some(family), begin: end, end: Some(begin) },
            end => Request::Poll { family: Some(family), begin, end },
        }),
        1 => Just(Request::Poll { family: None, begin: Vec::new(), end: None }),
        1 => (a_family(), a_key()).prop_map(|(family, key)| Request::WatchKey { family, key }),
        1 => Just(Request::CreateFamily),
        1 => Just(Request::DropFamily),
    ]
}

fn a_model() -> impl Strategy<Value = Model> {
    let cell = (proptest::option::weighted(0.8, Just(Bytes::from_static(b"v"))), 1u64..8)
        .prop_map(|(value, written)| Cell { value, written });
    proptest::collection::btree_map((a_family(), a_key()), cell, 0..12)
}

fn core_of(model: Model, gate: Arc<Gate>) -> (Arc<ModelRouter>, KvServiceCore) {
    let router = Arc::new(ModelRouter(Mutex::new(model)));
    (router.clone(), core_on(router, gate))
}

/// A core without a cluster around it.
pub(super) fn core_on(router: Arc<dyn RequestRouter>, gate: Arc<Gate>) -> KvServiceCore {
    KvServiceCore::new(CoreParts {
        router,
        cluster: Arc::new(Nobody),
        replicas: Arc::new(Nobody),
        metrics: ServerMetrics::new(),
        faults: Arc::new(FaultInjector::new(false)),
        limits: kv_api::Limits::default(),
        column_families: Vec::new(),
        max_pin: Duration::from_secs(1),
        gate,
        watch: Arc::new(RequestWatch::new(0)),
    })
}

/// The rows of one model where the caller may read, and those of the other elsewhere.
fn mixed(grants: &[Grant], visible: &Model, elsewhere: &Model) -> Model {
    let may_read = |(family, key): &Place| is_granted(grants, &(Verb::Read, Some(family.clone()), Some(key.clone())));
    let of = |model: &Model, readable: bool| {
        let cells = model.iter().filter(|(place, _)| may_read(place) == readable);
        cells.map(|(place, cell)| (place.clone(), cell.clone())).collect::<Vec<_>>()
    };
    of(visible, true).into_iter().chain(of(elsewhere, false)).collect()
}

fn check(grants: &[Grant], request: &Request, one: &Model, other: &Model) -> Result<(), TestCaseError> {
    let policy = Arc::new(TestPolicy::default());
    policy.change(AccessCommand::SetRole(SetRole { name: "r".into(), grants: grants.to_vec() }));
    policy.change(add_user("u", &["r"]));
    policy.change(AccessCommand::AddToken(record(2, "u")));
    policy.change(AccessCommand::Enable(record(1, "")));
    let gate = Arc::new(Gate::new(policy, None, false));
    let caller = gate.admit(&session(), Some(&token(2)), "test", Rule::Operation).expect("the user exists");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let outcome = |model: Model| {
        let (router, core) = core_of(model, gate.clone());
        let seen = runtime.block_on(async {
            let context = RequestContext::of(caller.clone(), Instant::now() + Duration::from_secs(600));
            run(&core, request.clone(), &context).await
        });
        let after = router.0.lock().expect("no panic").clone();
        (seen, after)
    };
    let (seen, after) = outcome(one.clone());
    let is_denied = matches!(seen, Err(KvError::Forbidden(_)));
    if let Some(uses) = uses(request).filter(|uses| !uses.is_empty()) {
        let expected = uses.iter().all(|of| is_granted(grants, of));
        prop_assert_eq!(!is_denied, expected, "key by key: {:?}", seen);
    }
    let twin = mixed(grants, one, other);
    let (seen_there, _) = outcome(twin);
    prop_assert_eq!(format!("{:?}", seen), format!("{:?}", seen_there), "it shows what may not be read");
    let places: std::collections::BTreeSet<&Place> = one.keys().chain(after.keys()).collect();
    for place in places.into_iter().filter(|place| one.get(*place) != after.get(*place)) {
        let (family, key) = place.clone();
        prop_assert!(is_granted(grants, &(Verb::Write, Some(family), Some(key))), "it wrote {:?}", place);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_choke_point_agrees_with_brute_force(
        grants in proptest::collection::vec(a_grant(), 0..5),
        request in a_request(),
        one in a_model(),
        other in a_model(),
    ) {
        check(&grants, &request, &one, &other)?;
    }
}
