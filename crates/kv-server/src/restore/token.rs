//! The token with which several replicas are restored into one new cluster.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use rsml::{ClusterId, DiskId};

use crate::error::ServerError;
use crate::replication::random;

/// How long a token is valid.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How far the clocks of two machines may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Names a new cluster and the time at which its restore began. The ids of its disks follow from
/// it, so that replicas which are restored on different machines know each other.
///
/// As text: the id in hexadecimal, a hyphen, and the seconds since 1970 in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundingToken {
    cluster_id: ClusterId,
    seconds: u64,
}

impl FoundingToken {
    /// The token of another new cluster.
    pub(super) fn new() -> Result<FoundingToken, ServerError> {
        Ok(FoundingToken { cluster_id: ClusterId(random()?), seconds: now() })
    }

    /// The id of the cluster.
    pub(super) fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// The disk of a first member.
    pub(super) fn disk_id(&self, replica: u32) -> DiskId {
        let named = [&self.cluster_id.0.to_be_bytes()[..], &replica.to_be_bytes(), b"restored"].concat();
        let hash = digest(&SHA256, &named);
        DiskId(u128::from_be_bytes(hash.as_ref()[..16].try_into().expect("a hash has 32 bytes")))
    }

    /// Refuses a token whose cluster may be running: a replica that has voted there, and is
    /// restored, would have forgotten its votes.
    pub(super) fn check(&self) -> Result<(), String> {
        let now = now();
        if now > self.seconds + LIFETIME.as_secs() {
            return Err(
                "--founding: the token is older than 24 hours. A replica whose cluster has been running must not be \
                 restored into it, because it would have forgotten its votes: add a new one with `synodkv join`. If the \
                 cluster was never started, restore all replicas again"
                    .to_string(),
            );
        }
        if now + CLOCK_SKEW.as_secs() < self.seconds {
            return Err("--founding: the token is of the future: look at the clock of this machine".to_string());
        }
        Ok(())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl fmt::Display for FoundingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:x}", self.cluster_id.0, self.seconds)
    }
}

impl FromStr for FoundingToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('-').and_then(|(id, seconds)| {
            let id = (id.len() == 32).then(|| u128::from_str_radix(id, 16).ok())??;
            Some(FoundingToken { cluster_id: ClusterId(id), seconds: u64::from_str_radix(seconds, 16).ok()? })
        });
        parsed.ok_or_else(|| "expected the token that the restore of the first replica has printed".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_being_printed_and_names_a_disk_for_each_replica() {
        let token = FoundingToken::new().unwrap();
        let read: FoundingToken = token.to_string().parse().unwrap();
        assert_eq!(read, token);
        assert_eq!(read.disk_id(1), token.disk_id(1));
        assert_ne!(read.disk_id(1), token.disk_id(2));
        assert_eq!(read.check(), Ok(()));
        for wrong in ["", "12-34", "00112233445566778899aabbccddeeff", "x0112233445566778899aabbccddeeff-1"] {
            wrong.parse::<FoundingToken>().unwrap_err();
        }
    }

    #[test]
    fn an_old_token_is_refused() {
        let old = FoundingToken { seconds: now() - LIFETIME.as_secs() - 10, ..FoundingToken::new().unwrap() };
        assert!(old.check().unwrap_err().contains("forgotten its votes"));
        let future = FoundingToken { seconds: now() + 2 * CLOCK_SKEW.as_secs(), ..old };
        assert!(future.check().unwrap_err().contains("clock"));
    }
}
