//! Checks that verdicts written by released versions stay readable, and that the bytes of this
//! version do not change unnoticed. A fixture file never changes once its version is released: a
//! new kind of refusal needs a new file and a test. A sample without a line in its file fails the
//! test, which prints the missing lines.

use std::collections::BTreeMap;

use crate::{CommitResult, CommitVerdict, KeyRef, KvError, decode_verdict, encode_verdict};

const VERSION_1: &str = include_str!("fixtures/verdicts_version_1.txt");

fn verdicts_1() -> Vec<(&'static str, CommitVerdict)> {
    let text = || "why".to_owned();
    let family = KeyRef { key: "b".into(), column_family: "family".into() };
    let committed = CommitResult {
        version: 300,
        generated_keys: vec!["key".into()],
        generated_values: vec!["value".into(), "".into()],
    };
    vec![
        ("committed", Ok(committed)),
        ("conflict", Err(KvError::Conflict { keys: vec![KeyRef::new("a"), family] })),
        ("invalid_operation", Err(KvError::InvalidOperation(text()))),
        ("key_empty", Err(KvError::KeyEmpty)),
        ("key_too_large", Err(KvError::KeyTooLarge { length: 10_001, limit: 10_000 })),
        ("value_too_large", Err(KvError::ValueTooLarge { length: 100_001, limit: 100_000 })),
        ("transaction_too_large", Err(KvError::TransactionTooLarge { size: 7, limit: 6 })),
        ("unknown_column_family", Err(KvError::UnknownColumnFamily { name: "nope".into(), existing: Vec::new() })),
        ("transaction_too_old", Err(KvError::TransactionTooOld { read_version: 1, oldest: 9 })),
        ("future_version", Err(KvError::FutureVersion { read_version: 300, current: 2 })),
        ("result_too_large", Err(KvError::ResultTooLarge { limit: 5 })),
        ("timeout", Err(KvError::Timeout(text()))),
        ("no_primary", Err(KvError::NoPrimary(text()))),
        ("not_primary", Err(KvError::NotPrimary { endpoint: "127.0.0.1:9090".into(), node: 2 })),
        ("commit_unknown", Err(KvError::CommitUnknown(text()))),
        ("overloaded", Err(KvError::Overloaded(text()))),
        ("storage_full", Err(KvError::StorageFull(text()))),
        ("storage", Err(KvError::Storage(text()))),
        ("not_supported", Err(KvError::NotSupported(text()))),
        ("injected", Err(KvError::Injected { code: "TIMEOUT".into() })),
        ("unauthenticated", Err(KvError::Unauthenticated(text()))),
        ("forbidden", Err(KvError::Forbidden(text()))),
    ]
}

fn lines(text: &'static str) -> BTreeMap<&'static str, &'static str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(": ").expect("name: bytes")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

#[test]
fn verdicts_of_version_1_are_read_and_written_as_they_were() {
    let mut lines = lines(VERSION_1);
    let mut missing = Vec::new();
    for (name, verdict) in verdicts_1() {
        let written: String = encode_verdict(&verdict).iter().map(|byte| format!("{byte:02x}")).collect();
        let Some(line) = lines.remove(name) else {
            missing.push(format!("{name}: {written}"));
            continue;
        };
        assert_eq!(decode_verdict(&from_hex(line)), Ok(verdict), "{name} is read differently");
        assert_eq!(written, line, "{name} is written differently");
    }
    assert!(missing.is_empty(), "no fixtures of these names:\n{}", missing.join("\n"));
    assert!(lines.is_empty(), "nobody reads {:?}", lines.keys());
}
