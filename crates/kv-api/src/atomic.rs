//! Mutations that depend on the stored value, with FoundationDB's documented meaning: numbers are
//! little-endian and unsigned, and the stored value is cut or filled with zeros to the operand's
//! length before it is combined with it.
//!
//! Where nothing is stored, the operand becomes the value (`compare_and_clear` stores nothing). The
//! database applies these mutations; clients apply them too, to show a transaction its own writes.

use std::cmp::Ordering;

use crate::MutationKind;
use bytes::Bytes;

/// Longest value that `append_if_fits` makes, in bytes. All replicas must apply the same one, so it
/// is not a setting.
pub const MAX_APPENDED_BYTES: usize = 100_000;

/// The effect of a mutation on the stored value.
#[derive(Debug, PartialEq, Eq)]
pub enum AtomicChange {
    Set(Bytes),
    Delete,
    /// The stored value, or its absence, stays as it is.
    Keep,
}

/// `stored`: the value before the mutation, if there is one.
///
/// # Panics
/// If the result of `kind` does not depend on the stored value.
pub fn combine(kind: MutationKind, stored: Option<Bytes>, operand: &Bytes) -> AtomicChange {
    let Some(stored) = stored else {
        return match kind {
            MutationKind::CompareAndClear => AtomicChange::Keep,
            _ => AtomicChange::Set(operand.clone()),
        };
    };
    match kind {
        MutationKind::Add => AtomicChange::Set(add(&stored, operand)),
        MutationKind::Min => pick(&stored, operand, Ordering::Less),
        MutationKind::Max => pick(&stored, operand, Ordering::Greater),
        MutationKind::ByteMin if stored <= *operand => AtomicChange::Keep,
        MutationKind::ByteMax if stored >= *operand => AtomicChange::Keep,
        MutationKind::ByteMin | MutationKind::ByteMax => AtomicChange::Set(operand.clone()),
        MutationKind::BitAnd => bitwise(&stored, operand, |a, b| a & b),
        MutationKind::BitOr => bitwise(&stored, operand, |a, b| a | b),
        MutationKind::BitXor => bitwise(&stored, operand, |a, b| a ^ b),
        MutationKind::AppendIfFits if stored.len() + operand.len() <= MAX_APPENDED_BYTES => {
            AtomicChange::Set([&stored[..], operand].concat().into())
        }
        MutationKind::AppendIfFits => AtomicChange::Keep,
        MutationKind::CompareAndClear if stored == *operand => AtomicChange::Delete,
        MutationKind::CompareAndClear => AtomicChange::Keep,
        _ => panic!("{kind:?} does not depend on the stored value"),
    }
}

/// The value after the mutation, or `None` if there is none.
///
/// # Panics
/// As [`combine`].
pub fn apply(kind: MutationKind, stored: Option<Bytes>, operand: &Bytes) -> Option<Bytes> {
    match combine(kind, stored.clone(), operand) {
        AtomicChange::Set(value) => Some(value),
        AtomicChange::Delete => None,
        AtomicChange::Keep => stored,
    }
}

/// The value after several mutations, applied in order.
pub fn apply_all(operations: &[(MutationKind, Bytes)], stored: Option<Bytes>) -> Option<Bytes> {
    operations.iter().fold(stored, |stored, (kind, operand)| apply(*kind, stored, operand))
}

/// A little-endian number cut or filled with zeros to `length` bytes.
fn resized(number: &[u8], length: usize) -> Vec<u8> {
    let mut resized = number.to_vec();
    resized.resize(length, 0);
    resized
}

fn add(stored: &[u8], operand: &[u8]) -> Bytes {
    let mut sum = resized(stored, operand.len());
    let mut carry = 0u16;
    for (byte, other) in sum.iter_mut().zip(operand) {
        carry += u16::from(*byte) + u16::from(*other);
        *byte = carry as u8;
        carry >>= 8;
    }
    sum.into()
}

/// The stored number, in the operand's length, if its comparison with the operand gives `wanted`;
/// otherwise the operand.
fn pick(stored: &[u8], operand: &Bytes, wanted: Ordering) -> AtomicChange {
    let stored = resized(stored, operand.len());
    match stored.iter().rev().cmp(operand.iter().rev()) == wanted {
        true => AtomicChange::Set(stored.into()),
        false => AtomicChange::Set(operand.clone()),
    }
}

fn bitwise(stored: &[u8], operand: &[u8], combine: impl Fn(u8, u8) -> u8) -> AtomicChange {
    let stored = resized(stored, operand.len());
    AtomicChange::Set(stored.iter().zip(operand).map(|(a, b)| combine(*a, *b)).collect::<Vec<u8>>().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn on(kind: MutationKind, stored: &[u8], operand: &[u8]) -> AtomicChange {
        combine(kind, Some(Bytes::copy_from_slice(stored)), &Bytes::copy_from_slice(operand))
    }

    fn set(value: &[u8]) -> AtomicChange {
        AtomicChange::Set(Bytes::copy_from_slice(value))
    }

    #[test]
    fn the_stored_number_takes_the_length_of_the_operand() {
        use MutationKind::*;
        assert_eq!(on(Add, &[0xff, 0xff, 1], &[1, 0]), set(&[0, 0]), "a carry out of the operand's length is lost");
        assert_eq!(on(Add, &[0xff], &[1, 0, 0]), set(&[0, 1, 0]));
        assert_eq!(on(Min, &[1, 2, 9], &[2, 2]), set(&[1, 2]));
        assert_eq!(on(Min, &[5], &[4, 1]), set(&[5, 0]));
        assert_eq!(on(Max, &[5], &[4, 1]), set(&[4, 1]));
        assert_eq!(on(Max, &[5, 0, 7], &[4]), set(&[5]));
        assert_eq!(on(BitOr, &[1, 2, 4], &[8, 0]), set(&[9, 2]));
        assert_eq!(on(BitAnd, &[3], &[1, 0xff]), set(&[1, 0]));
        assert_eq!(on(BitXor, &[3], &[1, 0xff]), set(&[2, 0xff]));
        assert_eq!(on(Add, &[7], &[]), set(&[]));
    }

    #[test]
    fn bytes_are_compared_as_keys_are() {
        use MutationKind::*;
        assert_eq!(on(ByteMin, b"b", b"ba"), AtomicChange::Keep);
        assert_eq!(on(ByteMin, b"b", b"a\xff"), set(b"a\xff"));
        assert_eq!(on(ByteMax, b"b", b"ba"), set(b"ba"));
        assert_eq!(on(ByteMax, b"b", b"b"), AtomicChange::Keep);
    }

    #[test]
    fn where_nothing_is_stored_the_operand_is() {
        use MutationKind::*;
        let operand = Bytes::from_static(&[1, 2]);
        for kind in [Add, Min, Max, ByteMin, ByteMax, BitAnd, BitOr, BitXor, AppendIfFits] {
            assert_eq!(combine(kind, None, &operand), set(&[1, 2]), "{kind:?}");
        }
        assert_eq!(combine(CompareAndClear, None, &operand), AtomicChange::Keep);
    }

    #[test]
    fn an_appended_operand_fits_or_is_left_out() {
        use MutationKind::AppendIfFits;
        assert_eq!(on(AppendIfFits, b"ab", b"c"), set(b"abc"));
        let full = vec![1; MAX_APPENDED_BYTES];
        assert_eq!(on(AppendIfFits, &full, b"c"), AtomicChange::Keep);
        assert_eq!(on(AppendIfFits, &full[1..], b"c"), set(&[&full[1..], b"c"].concat()));
    }

    #[test]
    fn compare_and_clear_clears_what_is_equal() {
        use MutationKind::CompareAndClear;
        assert_eq!(on(CompareAndClear, b"a", b"a"), AtomicChange::Delete);
        assert_eq!(on(CompareAndClear, b"a", b"a\0"), AtomicChange::Keep);
    }

    proptest! {
        #[test]
        fn numbers_of_eight_bytes_behave_as_numbers_do(a: u64, b: u64) {
            let of = |kind| match on(kind, &a.to_le_bytes(), &b.to_le_bytes()) {
                AtomicChange::Set(value) => u64::from_le_bytes(value.as_ref().try_into().unwrap()),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(of(MutationKind::Add), a.wrapping_add(b));
            prop_assert_eq!(of(MutationKind::Min), a.min(b));
            prop_assert_eq!(of(MutationKind::Max), a.max(b));
            prop_assert_eq!(of(MutationKind::BitAnd), a & b);
            prop_assert_eq!(of(MutationKind::BitOr), a | b);
            prop_assert_eq!(of(MutationKind::BitXor), a ^ b);
        }
    }
}
