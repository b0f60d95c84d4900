//! The effect of atomic mutations on a value, computed with numbers if the operands are short
//! enough.

use bytes::Bytes;
use kv_api::MutationKind;

/// Longest value that an append makes, in bytes.
const MAX_APPENDED_BYTES: usize = 100_000;

/// A little-endian number of `length` bytes, of which those that are missing are zero.
fn number(bytes: &[u8], length: usize) -> u128 {
    assert!(length <= 16, "operands in simulations have at most 16 bytes, not {length}");
    bytes.iter().take(length).rev().fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

fn bytes_of(number: u128, length: usize) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes()[..length])
}

/// `Some`: the value is written, or removed (`None` inside). `None`: nothing is written.
pub fn after(kind: MutationKind, stored: Option<&Bytes>, operand: &Bytes) -> Option<Option<Bytes>> {
    let Some(stored) = stored else {
        return (kind != MutationKind::CompareAndClear).then(|| Some(operand.clone()));
    };
    let length = operand.len();
    let numbers = || (number(stored, length), number(operand, length));
    let written = |number: u128| Some(Some(bytes_of(number, length)));
    match kind {
        MutationKind::Add => {
            let (a, b) = numbers();
            written(a.wrapping_add(b))
        }
        MutationKind::Min => {
            let (a, b) = numbers();
            written(a.min(b))
        }
        MutationKind::Max => {
            let (a, b) = numbers();
            written(a.max(b))
        }
        MutationKind::BitAnd => {
            let (a, b) = numbers();
            written(a & b)
        }
        MutationKind::BitOr => {
            let (a, b) = numbers();
            written(a | b)
        }
        MutationKind::BitXor => {
            let (a, b) = numbers();
            written(a ^ b)
        }
        MutationKind::ByteMin => (operand < stored).then(|| Some(operand.clone())),
        MutationKind::ByteMax => (operand > stored).then(|| Some(operand.clone())),
        MutationKind::AppendIfFits => {
            let joined = [&stored[..], operand].concat();
            (joined.len() <= MAX_APPENDED_BYTES).then(|| Some(joined.into()))
        }
        MutationKind::CompareAndClear => (stored == operand).then_some(None),
        other => panic!("{other:?} does not depend on the stored value"),
    }
}
