//! Executes a statement in a transaction.

use kv_client::{Bytes, ClientError, MutationKind, Range, Row, Transaction};

use super::{Action, Expected, Scan, Statement};
use crate::text::Notation;

/// The result of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Nothing,
    Value {
        key: Bytes,
        value: Option<Bytes>,
    },
    /// `None` if the key does not exist.
    Number {
        key: Bytes,
        number: Option<u128>,
    },
    Rows {
        rows: Vec<Row>,
        has_more: bool,
    },
}

/// Why the transaction cannot continue.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Stop {
    /// An assert failed.
    #[error("{0}")]
    Assert(String),
    /// A value that should be shown as a number is not one.
    #[error("{0}")]
    NoNumber(String),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Executes a statement. `notation` is for keys and values in errors.
pub async fn execute(transaction: &Transaction, statement: &Statement, notation: Notation) -> Result<Outcome, Stop> {
    let transaction = transaction.family(&statement.family);
    match &statement.action {
        Action::Get { key, is_snapshot, is_number } => get(&transaction, key, *is_snapshot, *is_number, notation).await,
        Action::Range(scan) => range(&transaction, scan).await,
        Action::Assert { key, expected } => assert(&transaction, key, expected, notation).await,
        action => {
            write(&transaction, action);
            Ok(Outcome::Nothing)
        }
    }
}

async fn get(
    transaction: &Transaction,
    key: &Bytes,
    is_snapshot: bool,
    is_number: bool,
    notation: Notation,
) -> Result<Outcome, Stop> {
    let value = match is_snapshot {
        true => transaction.snapshot().get(key).await?,
        false => transaction.get(key).await?,
    };
    let key = key.clone();
    if !is_number {
        return Ok(Outcome::Value { key, value });
    }
    let number = value.map(|value| number_of(&value).ok_or_else(|| no_number(&key, &value, notation))).transpose()?;
    Ok(Outcome::Number { key, number })
}

/// A little-endian number; `None` if it has more than 16 bytes.
fn number_of(value: &[u8]) -> Option<u128> {
    let mut bytes = [0; 16];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    Some(u128::from_le_bytes(bytes))
}

fn no_number(key: &[u8], value: &[u8], notation: Notation) -> Stop {
    let (key, length) = (notation.show(key), value.len());
    Stop::NoNumber(format!("the value of `{key}` has {length} bytes: too long for a number, which has at most 16"))
}

async fn range(transaction: &Transaction, scan: &Scan) -> Result<Outcome, Stop> {
    let Scan { begin, end, limit, is_reverse, is_snapshot } = scan;
    let range = |begin: &Bytes, end: &Bytes, limit: Option<usize>| {
        let mut range = Range::new(begin, end);
        if let Some(rows) = limit {
            range = range.limit(rows);
        }
        if *is_reverse { range.reverse() } else { range }
    };
    let wanted = range(begin, end, *limit);
    let rows = match is_snapshot {
        true => transaction.snapshot().get_range(wanted).all().await?,
        false => transaction.get_range(wanted).all().await?,
    };
    let mut has_more = false;
    if let Some(last) = rows.last().filter(|_| *limit == Some(rows.len())) {
        // The check for another row is only for display and must not cause a conflict.
        let rest = match is_reverse {
            true => range(begin, &last.key, Some(1)),
            false => range(&[&last.key[..], b"\0"].concat().into(), end, Some(1)),
        };
        has_more = transaction.snapshot().get_range(rest).next().await?.is_some();
    }
    Ok(Outcome::Rows { rows, has_more })
}

async fn assert(
    transaction: &Transaction,
    key: &Bytes,
    expected: &Expected,
    notation: Notation,
) -> Result<Outcome, Stop> {
    let found = transaction.get(key).await?;
    match unmet(found.as_ref(), expected, notation) {
        None => Ok(Outcome::Nothing),
        Some(reason) => Err(Stop::Assert(format!("assert failed: `{}` {reason}", notation.show(key)))),
    }
}

/// How the value of the key differs from the expected one; `None` if it does not.
fn unmet(found: Option<&Bytes>, expected: &Expected, notation: Notation) -> Option<String> {
    let show = |value: &Bytes| notation.show(value);
    match (expected, found) {
        (Expected::Value(value), Some(found)) if found == value => None,
        (Expected::Value(value), Some(found)) => Some(format!("is `{}`, not `{}`", show(found), show(value))),
        (Expected::Not(value), Some(found)) if found == value => Some(format!("is `{}`", show(found))),
        (Expected::Missing, Some(found)) => Some(format!("exists: it is `{}`", show(found))),
        (Expected::Value(_) | Expected::Exists, None) => Some("does not exist".to_string()),
        (Expected::Not(_) | Expected::Exists, Some(_)) | (Expected::Not(_) | Expected::Missing, None) => None,
    }
}

fn write(transaction: &Transaction, action: &Action) {
    match action {
        Action::Set { key, value } => transaction.set(key, value),
        Action::Delete { key } => transaction.delete(key),
        // The interface does not accept empty ranges.
        Action::Clear { begin, end } if begin >= end => {}
        Action::Clear { begin, end } => transaction.clear_range(begin, end),
        Action::SetStampedKey { key, value } => transaction.set_versionstamped_key(key.clone(), value),
        Action::SetStampedValue { key, value } => transaction.set_versionstamped_value(key, value.clone()),
        Action::Conflict { begin, end: None } => transaction.add_read_conflict_key(begin),
        Action::Conflict { begin, end: Some(end) } => transaction.add_read_conflict_range(begin, end),
        Action::Atomic { kind, key, operand } => change(transaction, *kind, key, operand),
        Action::Get { .. } | Action::Range(_) | Action::Assert { .. } => unreachable!("{action:?} is no write"),
    }
}

fn change(transaction: &Transaction, kind: MutationKind, key: &Bytes, operand: &Bytes) {
    match kind {
        MutationKind::Add => transaction.add(key, operand),
        MutationKind::Min => transaction.min(key, operand),
        MutationKind::Max => transaction.max(key, operand),
        MutationKind::ByteMin => transaction.byte_min(key, operand),
        MutationKind::ByteMax => transaction.byte_max(key, operand),
        MutationKind::BitAnd => transaction.bit_and(key, operand),
        MutationKind::BitOr => transaction.bit_or(key, operand),
        MutationKind::BitXor => transaction.bit_xor(key, operand),
        MutationKind::AppendIfFits => transaction.append_if_fits(key, operand),
        MutationKind::CompareAndClear => transaction.compare_and_clear(key, operand),
        MutationKind::Set
        | MutationKind::Delete
        | MutationKind::ClearRange
        | MutationKind::SetVersionstampedKey
        | MutationKind::SetVersionstampedValue => unreachable!("{kind:?} has an action of its own"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_assert_shows_the_actual_value() {
        let unmet = |found: Option<&'static str>, expected: Expected| {
            unmet(found.map(Bytes::from).as_ref(), &expected, Notation::Escaped)
        };
        let (value, not) = (|v: &'static str| Expected::Value(v.into()), |v: &'static str| Expected::Not(v.into()));
        for (found, expected) in [
            (Some("a"), value("a")),
            (Some("a"), not("b")),
            (None, not("b")),
            (Some(""), Expected::Exists),
            (None, Expected::Missing),
        ] {
            assert_eq!(unmet(found, expected), None);
        }
        assert_eq!(unmet(Some("a"), value("b")).as_deref(), Some("is `a`, not `b`"));
        assert_eq!(unmet(None, value("b")).as_deref(), Some("does not exist"));
        assert_eq!(unmet(Some("b"), not("b")).as_deref(), Some("is `b`"));
        assert_eq!(unmet(None, Expected::Exists).as_deref(), Some("does not exist"));
        assert_eq!(unmet(Some("\0"), Expected::Missing).as_deref(), Some("exists: it is `\\x00`"));
    }

    #[test]
    fn a_number_may_have_any_length_up_to_sixteen_bytes() {
        assert_eq!(number_of(b""), Some(0));
        assert_eq!(number_of(b"\x02\x01"), Some(258));
        assert_eq!(number_of(&[0xff; 16]), Some(u128::MAX));
        assert_eq!(number_of(&[0; 17]), None);
    }
}
