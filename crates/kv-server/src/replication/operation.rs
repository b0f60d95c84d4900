//! How an operation stands in the consensus log. Fields are added with new numbers only, so that a later version reads
//! the log of an earlier one.

use bytes::Bytes;
use kv_api::AtomicCommit;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct LoggedOperation {
    #[prost(message, optional, tag = "1")]
    commit: Option<AtomicCommit>,
}

pub fn encode(commit: AtomicCommit) -> Bytes {
    LoggedOperation { commit: Some(commit) }.encode_to_vec().into()
}

/// An operation that this version does not know is an error: to pass over it would let the replicas differ.
pub fn decode(payload: Bytes) -> Result<AtomicCommit, String> {
    let operation =
        LoggedOperation::decode(payload).map_err(|error| format!("an operation in the log is damaged: {error}"))?;
    operation.commit.ok_or_else(|| "the log holds an operation of a newer version of this program".to_string())
}

#[cfg(test)]
mod tests {
    use kv_api::{KeyRange, KeyRef, Mutation, MutationKind};

    use super::*;

    /// Never changed once its version is released: a later version adds a file, and a test that reads it.
    const VERSION_1: &str = include_str!("../fixtures/operation_version_1.txt");

    /// With every kind of mutation and every field.
    fn operation_1() -> AtomicCommit {
        let kinds = (0..).map_while(|kind| MutationKind::try_from(kind).ok());
        let mutation = |kind| Mutation { kind: kind as i32, ..Mutation::set("key", "value") };
        let mut mutations: Vec<Mutation> = kinds.map(mutation).collect();
        mutations.push(Mutation {
            kind: MutationKind::SetVersionstampedKey as i32,
            key: "key with place".into(),
            value: "value".into(),
            column_family: "family".into(),
            stamp_offset: Some(4),
        });
        AtomicCommit {
            read_version: 300,
            mutations,
            read_conflict_keys: vec!["read".into(), "".into()],
            read_conflicts: vec![KeyRef { key: "read".into(), column_family: "family".into() }],
            read_conflict_ranges: vec![KeyRange { begin: "a".into(), end: "b".into(), column_family: "family".into() }],
            idempotency_id: "once".into(),
        }
    }

    #[test]
    fn an_operation_of_version_1_is_read_and_written_as_it_was() {
        let text: String = VERSION_1.lines().filter(|line| !line.starts_with('#')).collect();
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
        let bytes: Bytes = (0..text.len()).step_by(2).map(byte).collect();
        let written: String = encode(operation_1()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, text, "it is written differently");
        assert_eq!(decode(bytes), Ok(operation_1()), "it is read differently");
    }

    #[test]
    fn an_operation_of_a_later_version_is_refused_and_not_passed_over() {
        // Field 2, empty.
        let error = decode(Bytes::from_static(&[0x12, 0])).expect_err("an unknown operation");
        assert!(error.contains("newer version"), "{error}");
    }
}
