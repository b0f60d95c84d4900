//! The encoding of a [`CommitVerdict`]. Replicas fold the bytes into a digest and remember them for
//! repeated requests. Equal verdicts must therefore have equal bytes on every replica and in every
//! later version: numbers are never reused or reordered.

use bytes::Bytes;
use prost::Message;

use crate::{CommitResult, CommitVerdict, KeyRef, KvError};

/// Exactly one of the two fields is present.
#[derive(Clone, PartialEq, Message)]
struct VerdictRecord {
    #[prost(message, optional, tag = "1")]
    committed: Option<CommitResult>,
    #[prost(message, optional, tag = "2")]
    refused: Option<RefusalRecord>,
}

/// The meaning of the fields depends on `kind`; fields that a kind does not use are absent.
#[derive(Clone, PartialEq, Message)]
struct RefusalRecord {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    text: String,
    #[prost(message, repeated, tag = "3")]
    keys: Vec<KeyRef>,
    #[prost(uint64, tag = "4")]
    first: u64,
    #[prost(uint64, tag = "5")]
    second: u64,
}

mod kind {
    pub const CONFLICT: u32 = 1;
    pub const INVALID_OPERATION: u32 = 2;
    pub const KEY_EMPTY: u32 = 3;
    pub const KEY_TOO_LARGE: u32 = 4;
    pub const VALUE_TOO_LARGE: u32 = 5;
    pub const TRANSACTION_TOO_LARGE: u32 = 6;
    pub const UNKNOWN_COLUMN_FAMILY: u32 = 7;
    pub const TRANSACTION_TOO_OLD: u32 = 8;
    pub const FUTURE_VERSION: u32 = 9;
    pub const RESULT_TOO_LARGE: u32 = 10;
    pub const TIMEOUT: u32 = 11;
    pub const NO_PRIMARY: u32 = 12;
    pub const NOT_PRIMARY: u32 = 13;
    pub const COMMIT_UNKNOWN: u32 = 14;
    pub const OVERLOADED: u32 = 15;
    pub const STORAGE_FULL: u32 = 16;
    pub const STORAGE: u32 = 17;
    pub const NOT_SUPPORTED: u32 = 18;
    pub const INJECTED: u32 = 19;
    pub const UNAUTHENTICATED: u32 = 20;
    pub const FORBIDDEN: u32 = 21;
}

/// The verdict's bytes; [`decode_verdict`] gives the verdict back.
pub fn encode_verdict(verdict: &CommitVerdict) -> Bytes {
    let record = match verdict {
        Ok(result) => VerdictRecord { committed: Some(result.clone()), refused: None },
        Err(error) => VerdictRecord { committed: None, refused: Some(refusal_record(error)) },
    };
    record.encode_to_vec().into()
}

/// Reads what [`encode_verdict`] wrote; anything else is [`KvError::Storage`].
pub fn decode_verdict(bytes: &[u8]) -> Result<CommitVerdict, KvError> {
    let record = VerdictRecord::decode(bytes)
        .map_err(|error| KvError::Storage(format!("commit verdict cannot be decoded: {error}")))?;
    match (record.committed, record.refused) {
        (Some(result), None) => Ok(Ok(result)),
        (None, Some(refusal)) => Ok(Err(refusal_error(refusal)?)),
        _ => Err(KvError::Storage("commit verdict is neither a success nor a refusal".into())),
    }
}

fn refusal_record(error: &KvError) -> RefusalRecord {
    let of = |kind| RefusalRecord { kind, ..RefusalRecord::default() };
    let with_text = |kind, text: &str| RefusalRecord { kind, text: text.to_owned(), ..RefusalRecord::default() };
    let with_numbers = |kind, first, second| RefusalRecord { kind, first, second, ..RefusalRecord::default() };
    match error {
        KvError::Conflict { keys } => RefusalRecord { keys: keys.clone(), ..of(kind::CONFLICT) },
        KvError::InvalidOperation(text) => with_text(kind::INVALID_OPERATION, text),
        KvError::KeyEmpty => of(kind::KEY_EMPTY),
        KvError::KeyTooLarge { length, limit } => with_numbers(kind::KEY_TOO_LARGE, *length as u64, *limit as u64),
        KvError::ValueTooLarge { length, limit } => with_numbers(kind::VALUE_TOO_LARGE, *length as u64, *limit as u64),
        KvError::TransactionTooLarge { size, limit } => {
            with_numbers(kind::TRANSACTION_TOO_LARGE, *size as u64, *limit as u64)
        }
        // Replicas never agree on this one. If it got here, its meaning would be a transaction that
        // is too large.
        KvError::TooManyConflicts { count, limit } => {
            with_numbers(kind::TRANSACTION_TOO_LARGE, *count as u64, *limit as u64)
        }
        KvError::UnknownColumnFamily { name, .. } => with_text(kind::UNKNOWN_COLUMN_FAMILY, name),
        KvError::TransactionTooOld { read_version, oldest } => {
            with_numbers(kind::TRANSACTION_TOO_OLD, *read_version, *oldest)
        }
        KvError::FutureVersion { read_version, current } => with_numbers(kind::FUTURE_VERSION, *read_version, *current),
        KvError::ResultTooLarge { limit } => with_numbers(kind::RESULT_TOO_LARGE, *limit, 0),
        // No commit is refused with this; as above, its kind would not matter.
        KvError::ClusterChanged { .. } => with_text(kind::INVALID_OPERATION, &error.to_string()),
        KvError::Timeout(text) => with_text(kind::TIMEOUT, text),
        KvError::NoPrimary(text) => with_text(kind::NO_PRIMARY, text),
        KvError::NotPrimary { endpoint, node } => {
            RefusalRecord { first: u64::from(*node), ..with_text(kind::NOT_PRIMARY, endpoint) }
        }
        KvError::CommitUnknown(text) => with_text(kind::COMMIT_UNKNOWN, text),
        KvError::Overloaded(text) => with_text(kind::OVERLOADED, text),
        KvError::StorageFull(text) => with_text(kind::STORAGE_FULL, text),
        // Replicas never agree on faults of one replica's storage. If one got here, its kind would
        // not matter.
        KvError::Storage(text) | KvError::Corruption(text) => with_text(kind::STORAGE, text),
        KvError::NotSupported(text) => with_text(kind::NOT_SUPPORTED, text),
        KvError::Injected { code } => with_text(kind::INJECTED, code),
        KvError::Unauthenticated(text) => with_text(kind::UNAUTHENTICATED, text),
        KvError::Forbidden(text) => with_text(kind::FORBIDDEN, text),
    }
}

fn refusal_error(record: RefusalRecord) -> Result<KvError, KvError> {
    let RefusalRecord { kind, text, keys, first, second } = record;
    let size = |number: u64| {
        usize::try_from(number)
            .map_err(|_| KvError::Storage(format!("commit verdict has a length of {number}, beyond this machine")))
    };
    Ok(match kind {
        kind::CONFLICT => KvError::Conflict { keys },
        kind::INVALID_OPERATION => KvError::InvalidOperation(text),
        kind::KEY_EMPTY => KvError::KeyEmpty,
        kind::KEY_TOO_LARGE => KvError::KeyTooLarge { length: size(first)?, limit: size(second)? },
        kind::VALUE_TOO_LARGE => KvError::ValueTooLarge { length: size(first)?, limit: size(second)? },
        kind::TRANSACTION_TOO_LARGE => KvError::TransactionTooLarge { size: size(first)?, limit: size(second)? },
        kind::UNKNOWN_COLUMN_FAMILY => KvError::UnknownColumnFamily { name: text, existing: Vec::new() },
        kind::TRANSACTION_TOO_OLD => KvError::TransactionTooOld { read_version: first, oldest: second },
        kind::FUTURE_VERSION => KvError::FutureVersion { read_version: first, current: second },
        kind::RESULT_TOO_LARGE => KvError::ResultTooLarge { limit: first },
        kind::TIMEOUT => KvError::Timeout(text),
        kind::NO_PRIMARY => KvError::NoPrimary(text),
        kind::NOT_PRIMARY => KvError::NotPrimary {
            endpoint: text,
            node: u32::try_from(first)
                .map_err(|_| KvError::Storage(format!("commit verdict names node {first}, beyond u32")))?,
        },
        kind::COMMIT_UNKNOWN => KvError::CommitUnknown(text),
        kind::OVERLOADED => KvError::Overloaded(text),
        kind::STORAGE_FULL => KvError::StorageFull(text),
        kind::STORAGE => KvError::Storage(text),
        kind::NOT_SUPPORTED => KvError::NotSupported(text),
        kind::INJECTED => KvError::Injected { code: text },
        kind::UNAUTHENTICATED => KvError::Unauthenticated(text),
        kind::FORBIDDEN => KvError::Forbidden(text),
        unknown => return Err(KvError::Storage(format!("commit verdict is of unknown kind {unknown}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_refusal() -> Vec<KvError> {
        let text = || "why".to_owned();
        vec![
            KvError::Conflict { keys: vec![] },
            KvError::Conflict {
                keys: vec![KeyRef::new("a"), KeyRef { key: Bytes::from_static(b"\0b"), column_family: "f".into() }],
            },
            KvError::InvalidOperation(text()),
            KvError::KeyEmpty,
            KvError::KeyTooLarge { length: 10_001, limit: 10_000 },
            KvError::ValueTooLarge { length: 100_001, limit: 100_000 },
            KvError::TransactionTooLarge { size: 7, limit: 6 },
            KvError::UnknownColumnFamily { name: "nope".into(), existing: Vec::new() },
            KvError::TransactionTooOld { read_version: 1, oldest: 9 },
            KvError::FutureVersion { read_version: 9, current: 1 },
            KvError::ResultTooLarge { limit: 5 },
            KvError::Timeout(text()),
            KvError::NoPrimary(text()),
            KvError::NotPrimary { endpoint: "127.0.0.1:9090".into(), node: 2 },
            KvError::CommitUnknown(text()),
            KvError::Overloaded(text()),
            KvError::StorageFull(text()),
            KvError::Storage(text()),
            KvError::NotSupported(text()),
            KvError::Injected { code: "TIMEOUT".into() },
            KvError::Unauthenticated(text()),
            KvError::Forbidden(String::new()),
        ]
    }

    #[test]
    fn every_refusal_decodes_to_itself() {
        for error in every_refusal() {
            let verdict: CommitVerdict = Err(error);
            assert_eq!(decode_verdict(&encode_verdict(&verdict)), Ok(verdict));
        }
    }

    #[test]
    fn successes_come_back_as_they_were() {
        for result in [
            CommitResult::default(),
            CommitResult { version: u64::MAX, generated_keys: vec![], generated_values: vec!["v".into(), "".into()] },
            CommitResult { version: 2, generated_keys: vec!["k".into()], generated_values: vec![] },
        ] {
            assert_eq!(decode_verdict(&encode_verdict(&Ok(result.clone()))), Ok(Ok(result)));
        }
    }

    #[test]
    fn no_two_verdicts_share_their_bytes() {
        let mut seen: Vec<Bytes> = every_refusal().into_iter().map(|error| encode_verdict(&Err(error))).collect();
        seen.push(encode_verdict(&Ok(CommitResult::default())));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn the_bytes_of_a_verdict_never_change() {
        let verdict = Err(KvError::FutureVersion { read_version: 300, current: 2 });
        assert_eq!(encode_verdict(&verdict).as_ref(), [0x12, 7, 8, 9, 0x20, 0xac, 2, 0x28, 2]);
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&b""[..], b"\xff", b"\x12\x02\x08\x63", b"\x0a\x00\x12\x00"] {
            assert!(matches!(decode_verdict(bytes), Err(KvError::Storage(_))), "{bytes:?}");
        }
    }
}
