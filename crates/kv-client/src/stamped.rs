//! Keys and values with a place for the versionstamp that the commit will give them.

use bytes::{Bytes, BytesMut};
use kv_api::Version;

use crate::ClientError;
use crate::keys::IntoBytes;

/// Length of a versionstamp: 8 bytes big-endian commit version, 2 bytes big-endian counter of the stamps of the commit.
pub const VERSIONSTAMP_BYTES: usize = 10;

/// A key or value in which 10 bytes are replaced by the versionstamp when it commits. Stamps grow with the order of
/// commits, and within a commit with the order of calls, so stamped keys sort as they were written.
///
/// ```
/// use kv_client::Stamped;
///
/// let key = Stamped::after("jobs/");
/// let event = Stamped::between("events/", "/login");
/// # let _ = (key, event);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamped {
    pub(crate) bytes: Bytes,
    pub(crate) offset: usize,
}

impl Stamped {
    /// `prefix`, then the stamp.
    pub fn after(prefix: impl IntoBytes) -> Self {
        Stamped::between(prefix, Bytes::new())
    }

    /// `prefix`, the stamp, `suffix`.
    pub fn between(prefix: impl IntoBytes, suffix: impl IntoBytes) -> Self {
        let (prefix, suffix) = (prefix.into_bytes(), suffix.into_bytes());
        let mut bytes = BytesMut::with_capacity(prefix.len() + VERSIONSTAMP_BYTES + suffix.len());
        bytes.extend_from_slice(&prefix);
        bytes.extend_from_slice(&[0; VERSIONSTAMP_BYTES]);
        bytes.extend_from_slice(&suffix);
        Stamped { bytes: bytes.freeze(), offset: prefix.len() }
    }

    /// `bytes`, of which the 10 from `offset` on are replaced.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] when the stamp does not fit.
    pub fn at(bytes: impl IntoBytes, offset: usize) -> Result<Self, ClientError> {
        let bytes = bytes.into_bytes();
        let length = bytes.len();
        match offset.checked_add(VERSIONSTAMP_BYTES) {
            Some(end) if end <= length => Ok(Stamped { bytes, offset }),
            _ => Err(ClientError::InvalidArgument(format!(
                "a versionstamp takes {VERSIONSTAMP_BYTES} bytes: there is no room for one at {offset} of {length} bytes"
            ))),
        }
    }

    /// The bytes with this stamp in them.
    pub(crate) fn with_stamp(&self, stamp: &[u8; VERSIONSTAMP_BYTES]) -> Bytes {
        let mut bytes = self.bytes.to_vec();
        bytes[self.offset..self.offset + VERSIONSTAMP_BYTES].copy_from_slice(stamp);
        bytes.into()
    }

    /// Whether `key` is this key under a stamp of a commit after `read_version`.
    pub(crate) fn may_become(&self, key: &[u8], read_version: Version) -> bool {
        let end = self.offset + VERSIONSTAMP_BYTES;
        key.len() == self.bytes.len()
            && key[..self.offset] == self.bytes[..self.offset]
            && key[end..] == self.bytes[end..]
            && key[self.offset..end] >= first_stamp_after(read_version)[..]
    }
}

/// The lowest stamp that a commit after `version` can have.
pub(crate) fn first_stamp_after(version: Version) -> [u8; VERSIONSTAMP_BYTES] {
    let mut stamp = [0; VERSIONSTAMP_BYTES];
    stamp[..8].copy_from_slice(&version.0.saturating_add(1).to_be_bytes());
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_needs_room() {
        assert_eq!(Stamped::at([0; 12], 2).map(|key| key.offset), Ok(2));
        for offset in [3, usize::MAX] {
            assert!(matches!(Stamped::at([0; 12], offset), Err(ClientError::InvalidArgument(_))));
        }
    }

    #[test]
    fn a_stamped_key_becomes_no_key_of_an_earlier_commit() {
        let key = Stamped::between("a", "z");
        let under = |version| key.with_stamp(&first_stamp_after(Version(version)));
        assert!(key.may_become(&under(7), Version(7)));
        assert!(key.may_become(&under(8), Version(7)));
        assert!(!key.may_become(&under(6), Version(7)));
        assert!(!key.may_become(b"a", Version(7)));
        assert!(!key.may_become(b"b0123456789z", Version(7)));
    }
}
