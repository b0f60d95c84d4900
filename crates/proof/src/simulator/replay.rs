//! The journal replayed: the commits that took effect, in the order of their versions, must explain everything that was
//! ever read, at whatever version, and no committed transaction may have overlooked a write.
//!
//! This knows more than the checkers of histories (the database's own order), so it needs no search; they know less and
//! believe nothing of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::KeyRef;

use super::records::Records;
use super::workload::{OpId, QUEUE, version_of};
use crate::checkers::{Verdict, Violation};

/// Every version of every key, newest last. `None`: deleted.
type Versions = BTreeMap<KeyRef, Vec<(u64, Option<Bytes>)>>;

fn violation(anomaly: &'static str, story: String) -> Violation {
    Violation { checker: "replay", anomaly, story }
}

/// `journal`: stamps and operations as the database lists them.
pub fn check(journal: &[(u128, u64)], records: &Records) -> Verdict {
    let mut versions = Versions::new();
    for (stamp, op) in journal {
        let version = version_of(*stamp);
        let change = records
            .change(OpId(*op))
            .ok_or_else(|| violation("invented", format!("operation {op} at version {version}")))?;
        for key in &change.reads {
            check_unwritten(&versions, key, change.read_version, *op, version)?;
        }
        for range in &change.ranges {
            let is_inside = |key: &KeyRef| {
                key.column_family == range.column_family && (&range.begin..&range.end).contains(&&key.key)
            };
            for key in versions.keys().filter(|key| is_inside(key)) {
                check_unwritten(&versions, key, change.read_version, *op, version)?;
            }
        }
        for (key, value) in &change.writes {
            versions.entry(key.clone()).or_default().push((version, value.clone()));
        }
        if let Some(element) = change.pushes {
            let stamp = u128::from(version) << 16 | 1;
            let value = Bytes::copy_from_slice(&element.to_be_bytes());
            versions.entry(queue_key(stamp)).or_default().push((version, Some(value)));
        }
    }
    check_reads(&versions, records)
}

fn queue_key(stamp: u128) -> KeyRef {
    KeyRef::new([&[QUEUE], &stamp.to_be_bytes()[6..]].concat())
}

fn check_unwritten(versions: &Versions, key: &KeyRef, read_version: u64, op: u64, version: u64) -> Verdict {
    let newest = versions.get(key).and_then(|list| list.last()).map_or(0, |(version, _)| *version);
    if newest > read_version {
        let story = format!(
            "operation {op} read {:?} at {read_version} and was committed at {version}, over a write at {newest}",
            key.key
        );
        return Err(violation("lost update", story));
    }
    Ok(())
}

fn at<'v>(versions: &'v Versions, key: &KeyRef, version: u64) -> Option<&'v Bytes> {
    let list = versions.get(key)?;
    let place = list.partition_point(|(written, _)| *written <= version);
    list[..place].last().and_then(|(_, value)| value.as_ref())
}

fn check_reads(versions: &Versions, records: &Records) -> Verdict {
    for read in &records.key_reads {
        let expected = at(versions, &read.key, read.version);
        if expected != read.value.as_ref() {
            let story = format!(
                "{:?} at version {} was read as {:?}, the commits say {expected:?}",
                read.key.key, read.version, read.value
            );
            return Err(violation("wrong read", story));
        }
    }
    for read in &records.queue_reads {
        let in_queue = versions.range(KeyRef::new([QUEUE].to_vec())..KeyRef::new([QUEUE + 1].to_vec()));
        let expected = in_queue.filter_map(|(key, _)| {
            let stamp = key.key[1..].iter().fold(0, |sum: u128, byte| sum << 8 | u128::from(*byte));
            at(versions, key, read.version).map(|value| (stamp, super::workload::number(value)))
        });
        if !expected.eq(read.seen.iter().copied()) {
            let story = format!("the queue at version {} was read as {:?}", read.version, read.seen);
            return Err(violation("wrong read", story));
        }
    }
    Ok(())
}
