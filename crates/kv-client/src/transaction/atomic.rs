//! What atomic mutations make of a value: FoundationDB's documented meaning. Numbers are unsigned and little-endian.

use bytes::Bytes;
use kv_api::MutationKind;

/// Longest value that `append_if_fits` makes, in bytes: fixed in the server, too.
pub(crate) const MAX_APPENDED_BYTES: usize = 100_000;

/// The value after atomic mutations in their order; `None`: the key does not exist.
pub(crate) fn apply_all(operations: &[(MutationKind, Bytes)], value: Option<Bytes>) -> Option<Bytes> {
    operations.iter().fold(value, |value, (kind, operand)| apply(*kind, value, operand))
}

/// The value after one atomic mutation. Kinds that do not depend on the value before are not asked here.
pub(crate) fn apply(kind: MutationKind, value: Option<Bytes>, operand: &Bytes) -> Option<Bytes> {
    let Some(value) = value else {
        // An absent value counts as the operand's neutral one, and there is nothing to clear.
        return (kind != MutationKind::CompareAndClear).then(|| operand.clone());
    };
    match kind {
        MutationKind::Add => Some(add(&value, operand)),
        MutationKind::Min => {
            Some(if is_less(operand, &value) { operand.clone() } else { fitted(&value, operand.len()) })
        }
        MutationKind::Max => {
            Some(if is_less(operand, &value) { fitted(&value, operand.len()) } else { operand.clone() })
        }
        MutationKind::ByteMin => Some(value.min(operand.clone())),
        MutationKind::ByteMax => Some(value.max(operand.clone())),
        MutationKind::BitAnd => Some(bitwise(&value, operand, |a, b| a & b)),
        MutationKind::BitOr => Some(bitwise(&value, operand, |a, b| a | b)),
        MutationKind::BitXor => Some(bitwise(&value, operand, |a, b| a ^ b)),
        MutationKind::AppendIfFits => Some(append(value, operand)),
        MutationKind::CompareAndClear => (value != *operand).then_some(value),
        MutationKind::Set
        | MutationKind::Delete
        | MutationKind::SetVersionstampedKey
        | MutationKind::SetVersionstampedValue
        | MutationKind::ClearRange => unreachable!("{kind:?} does not depend on the value before"),
    }
}

/// The value cut, or extended with zeros, to `length` bytes: a number of the operand's length.
fn fitted(value: &Bytes, length: usize) -> Bytes {
    if value.len() >= length {
        return value.slice(..length);
    }
    let mut extended = value.to_vec();
    extended.resize(length, 0);
    extended.into()
}

fn bitwise(value: &Bytes, operand: &Bytes, combine: impl Fn(u8, u8) -> u8) -> Bytes {
    let value = fitted(value, operand.len());
    value.iter().zip(operand).map(|(a, b)| combine(*a, *b)).collect()
}

fn add(value: &Bytes, operand: &Bytes) -> Bytes {
    let mut carry = 0;
    let value = fitted(value, operand.len());
    let digits = value.iter().zip(operand).map(|(a, b)| {
        let sum = u16::from(*a) + u16::from(*b) + carry;
        carry = sum >> 8;
        (sum & 0xFF) as u8
    });
    digits.collect()
}

/// Whether the operand is the smaller number, when the value is made one of its length.
fn is_less(operand: &Bytes, value: &Bytes) -> bool {
    operand.iter().rev().lt(fitted(value, operand.len()).iter().rev())
}

fn append(value: Bytes, operand: &Bytes) -> Bytes {
    if value.len() + operand.len() > MAX_APPENDED_BYTES {
        return value;
    }
    [&value[..], &operand[..]].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: MutationKind, value: Option<&[u8]>, operand: &[u8], expected: Option<&[u8]>) {
        let bytes = Bytes::copy_from_slice;
        let result = apply(kind, value.map(bytes), &bytes(operand));
        assert_eq!(result.as_deref(), expected, "{kind:?} of {value:?} by {operand:?}");
    }

    #[test]
    fn an_absent_value_becomes_the_operand_except_when_it_is_compared() {
        use MutationKind::*;
        for kind in [Add, Min, Max, ByteMin, ByteMax, BitAnd, BitOr, BitXor, AppendIfFits] {
            check(kind, None, b"\x05\x01", Some(b"\x05\x01"));
        }
        check(CompareAndClear, None, b"x", None);
    }

    #[test]
    fn numbers_take_the_length_of_the_operand() {
        use MutationKind::*;
        check(Add, Some(b"\xff"), b"\x01\x00", Some(b"\x00\x01"));
        check(Add, Some(b"\xff\xff"), b"\x01\x00", Some(b"\x00\x00"));
        check(Add, Some(b"\x01\x02\x03"), b"\x01", Some(b"\x02"));
        check(Add, Some(b"\x01"), b"", Some(b""));
        check(Min, Some(b"\x07\x01"), b"\x08", Some(b"\x07"));
        check(Min, Some(b"\x07"), b"\x08\x00", Some(b"\x07\x00"));
        check(Max, Some(b"\x07"), b"\x06\x01", Some(b"\x06\x01"));
        check(Max, Some(b"\x09"), b"\x06\x00", Some(b"\x09\x00"));
        check(Max, Some(b"\x09\xff"), b"\x08", Some(b"\x09"));
    }

    #[test]
    fn bits_are_combined_in_the_length_of_the_operand() {
        use MutationKind::*;
        check(BitAnd, Some(b"\x0f\xff"), b"\x3c", Some(b"\x0c"));
        check(BitAnd, Some(b"\x0f"), b"\x3c\xff", Some(b"\x0c\x00"));
        check(BitOr, Some(b"\x0f"), b"\x30\x01", Some(b"\x3f\x01"));
        check(BitXor, Some(b"\x0f\x01"), b"\xff\x01", Some(b"\xf0\x00"));
    }

    #[test]
    fn bytes_are_compared_as_keys_are() {
        use MutationKind::*;
        check(ByteMin, Some(b"ab"), b"b", Some(b"ab"));
        check(ByteMin, Some(b"b"), b"ab", Some(b"ab"));
        check(ByteMax, Some(b"ab"), b"b", Some(b"b"));
        check(ByteMax, Some(b"ab"), b"a", Some(b"ab"));
    }

    #[test]
    fn appending_stops_at_the_largest_value_and_comparing_clears() {
        use MutationKind::*;
        check(AppendIfFits, Some(b"12345"), b"678", Some(b"12345678"));
        let full = vec![1; MAX_APPENDED_BYTES];
        check(AppendIfFits, Some(&full[1..]), b"\x01", Some(&full));
        check(AppendIfFits, Some(&full), b"\x01", Some(&full));
        check(CompareAndClear, Some(b"x"), b"x", None);
        check(CompareAndClear, Some(b"x"), b"xy", Some(b"x"));
    }
}
