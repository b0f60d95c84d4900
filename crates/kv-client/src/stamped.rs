//! Keys and values with a placeholder for the versionstamp that their commit assigns.

use bytes::{Bytes, BytesMut};
use kv_api::Version;

use crate::ClientError;
use crate::keys::IntoBytes;

/// Length of a versionstamp: the commit version in 8 bytes, then a counter of the commit's stamps
/// in 2 bytes, both big-endian.
pub const VERSIONSTAMP_BYTES: usize = 10;

/// A key or value of which 10 bytes are replaced by a versionstamp when its transaction commits.
/// Stamps ascend in the order of commits, and within a commit in the order of calls. Keys with the
/// same prefix therefore sort in the order in which they were written.
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
    /// `prefix`, followed by the stamp.
    pub fn after(prefix: impl IntoBytes) -> Self {
        Stamped::between(prefix, Bytes::new())
    }

    /// `prefix`, followed by the stamp and `suffix`.
    pub fn between(prefix: impl IntoBytes, suffix: impl IntoBytes) -> Self {
        let (prefix, suffix) = (prefix.into_bytes(), suffix.into_bytes());
        let mut bytes = BytesMut::with_capacity(prefix.len() + VERSIONSTAMP_BYTES + suffix.len());
        bytes.extend_from_slice(&prefix);
        bytes.extend_from_slice(&[0; VERSIONSTAMP_BYTES]);
        bytes.extend_from_slice(&suffix);
        Stamped { bytes: bytes.freeze(), offset: prefix.len() }
    }

    /// `bytes`, of which the 10 that begin at `offset` are replaced by the stamp.
    ///
    /// # Errors
    /// [`ClientError::InvalidArgument`] if the stamp does not fit.
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

    /// The bytes with `stamp` filled in.
    pub(crate) fn with_stamp(&self, stamp: &[u8; VERSIONSTAMP_BYTES]) -> Bytes {
        let mut bytes = self.bytes.to_vec();
        bytes[self.offset..self.offset + VERSIONSTAMP_BYTES].copy_from_slice(stamp);
        bytes.into()
    }

    /// Whether a commit after `read_version` could turn this placeholder into `key`.
    pub(crate) fn may_become(&self, key: &[u8], read_version: Version) -> bool {
        let end = self.offset + VERSIONSTAMP_BYTES;
        key.len() == self.bytes.len()
            && key[..self.offset] == self.bytes[..self.offset]
            && key[end..] == self.bytes[end..]
            && key[self.offset..end] >= first_stamp_after(read_version)[..]
    }
}

/// The lowest stamp that a commit after `version` can assign.
pub(crate) fn first_stamp_after(version: Version) -> [u8; VERSIONSTAMP_BYTES] {
    let mut stamp = [0; VERSIONSTAMP_BYTES];
    stamp[..8].copy_from_slice(&version.0.saturating_add(1).to_be_bytes());
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_that_does_not_fit_is_refused() {
        assert_eq!(Stamped::at([0; 12], 2).map(|key| key.offset), Ok(2));
        for offset in [3, usize::MAX] {
            assert!(matches!(Stamped::at([0; 12], offset), Err(ClientError::InvalidArgument(_))));
        }
    }

    #[test]
    fn a_stamped_key_never_becomes_a_key_of_an_earlier_commit() {
        let key = Stamped::between("a", "z");
        let under = |version| key.with_stamp(&first_stamp_after(Version(version)));
        assert!(key.may_become(&under(7), Version(7)));
        assert!(key.may_become(&under(8), Version(7)));
        assert!(!key.may_become(&under(6), Version(7)));
        assert!(!key.may_become(b"a", Version(7)));
        assert!(!key.may_become(b"b0123456789z", Version(7)));
    }
}
