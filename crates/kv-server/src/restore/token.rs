//! The token with which several replicas are restored into one new cluster.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use kv_api::access::Policy;
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
/// It also names the users that the first replica was restored with: all must have the same.
///
/// As text: the id in hexadecimal, the seconds since 1970 in hexadecimal, and where there are users, a hash of them;
/// with hyphens in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundingToken {
    cluster_id: ClusterId,
    seconds: u64,
    /// Of users, roles and tokens; `None`: there are none.
    users: Option<u64>,
}

impl FoundingToken {
    /// The token of another new cluster.
    pub(super) fn new(policy: Option<&Policy>) -> Result<FoundingToken, ServerError> {
        Ok(FoundingToken { cluster_id: ClusterId(random()?), seconds: now(), users: policy.map(hash_of) })
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
    /// restored, would have forgotten its votes. Refuses other users than those of the first replica.
    pub(super) fn check(&self, policy: Option<&Policy>) -> Result<(), String> {
        let now = now();
        if now > self.seconds + LIFETIME.as_secs() {
            return Err(
                "--founding: the token is older than 24 hours. A replica whose cluster has been running must not be \
                 restored into it, because it would have forgotten its votes: add a new one with `synodkv join`. If the \
                 cluster was never started, restore all replicas again"
                    .to_string(),
            );
        }
        if self.users != policy.map(hash_of) {
            let (first, this) = match (self.users, policy) {
                (Some(_), None) => ("with users, roles and tokens", "without them: give --auth keep"),
                (None, Some(_)) => ("without users, roles and tokens", "with them: give --auth drop"),
                _ => ("with other users, roles and tokens", "with those of another backup: give the same --at VERSION"),
            };
            return Err(format!("--founding: the first replica was restored {first}, and this one would be {this}"));
        }
        if now + CLOCK_SKEW.as_secs() < self.seconds {
            return Err("--founding: the token is of the future: look at the clock of this machine".to_string());
        }
        Ok(())
    }
}

fn hash_of(policy: &Policy) -> u64 {
    let hash = digest(&SHA256, &policy.to_bytes());
    u64::from_be_bytes(hash.as_ref()[..8].try_into().expect("a hash has 32 bytes"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl fmt::Display for FoundingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:x}", self.cluster_id.0, self.seconds)?;
        self.users.map_or(Ok(()), |users| write!(f, "-{users:016x}"))
    }
}

impl FromStr for FoundingToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let parsed = (|| {
            let mut parts = text.split('-');
            let id = parts.next().filter(|id| id.len() == 32)?;
            let cluster_id = ClusterId(u128::from_str_radix(id, 16).ok()?);
            let seconds = hex(parts.next()?)?;
            let users = parts.next().map(|users| hex(users).ok_or(())).transpose().ok()?;
            parts.next().is_none().then_some(FoundingToken { cluster_id, seconds, users })
        })();
        parsed.ok_or_else(|| "expected the token that the restore of the first replica has printed".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_being_printed_and_names_a_disk_for_each_replica() {
        let token = FoundingToken::new(None).unwrap();
        let read: FoundingToken = token.to_string().parse().unwrap();
        assert_eq!(read, token);
        assert_eq!(read.disk_id(1), token.disk_id(1));
        assert_ne!(read.disk_id(1), token.disk_id(2));
        assert_eq!(read.check(None), Ok(()));
        for wrong in ["", "12-34", "00112233445566778899aabbccddeeff", "x0112233445566778899aabbccddeeff-1"] {
            wrong.parse::<FoundingToken>().unwrap_err();
        }
    }

    #[test]
    fn a_token_names_the_users_of_the_first_replica() {
        let users = Policy { revision: 3, ..Policy::default() };
        let with: FoundingToken = FoundingToken::new(Some(&users)).unwrap().to_string().parse().unwrap();
        assert_eq!(with.check(Some(&users)), Ok(()));
        assert!(with.check(None).unwrap_err().contains("--auth keep"));
        assert!(with.check(Some(&Policy { revision: 4, ..users.clone() })).unwrap_err().contains("--at VERSION"));
        assert!(FoundingToken::new(None).unwrap().check(Some(&users)).unwrap_err().contains("--auth drop"));
        for wrong in [format!("{with}-1"), format!("{}-x", FoundingToken::new(None).unwrap())] {
            wrong.parse::<FoundingToken>().unwrap_err();
        }
    }

    #[test]
    fn an_old_token_is_refused() {
        let old = FoundingToken { seconds: now() - LIFETIME.as_secs() - 10, ..FoundingToken::new(None).unwrap() };
        assert!(old.check(None).unwrap_err().contains("forgotten its votes"));
        let future = FoundingToken { seconds: now() + 2 * CLOCK_SKEW.as_secs(), ..old };
        assert!(future.check(None).unwrap_err().contains("clock"));
    }
}
