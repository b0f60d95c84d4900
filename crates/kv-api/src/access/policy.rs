//! The replicated state: users, roles and tokens. Replicas store its encoding, so field numbers are
//! never reused.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::{Grant, Verb, built_in_role};

/// Largest encoded policy, in bytes. All replicas must apply the same one, so it is not a setting.
pub const MAX_POLICY_BYTES: usize = 1 << 20;

/// The permissions in one cluster.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Policy {
    /// Whether requests are checked at all.
    #[prost(bool, tag = "1")]
    pub enabled: bool,
    /// The number of changes made so far. Equal revisions of one cluster are equal policies.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// By name.
    #[prost(btree_map = "string, message", tag = "3")]
    pub users: BTreeMap<String, User>,
    /// Roles other than the built-in ones, by name.
    #[prost(btree_map = "string, message", tag = "4")]
    pub roles: BTreeMap<String, Role>,
    /// By id.
    #[prost(btree_map = "fixed64, message", tag = "5")]
    pub tokens: BTreeMap<u64, TokenRecord>,
}

/// A user: somebody who has roles.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct User {
    /// Names of roles, sorted.
    #[prost(string, repeated, tag = "1")]
    pub roles: Vec<String>,
    /// Whether the user is shut out for the time being.
    #[prost(bool, tag = "2")]
    pub disabled: bool,
    /// The policy's revision when the user was last changed.
    #[prost(uint64, tag = "3")]
    pub changed_at: u64,
}

/// A role: grants under a name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Role {
    /// The grants of the role.
    #[prost(message, repeated, tag = "1")]
    pub grants: Vec<Grant>,
    /// The policy's revision when the role was last changed.
    #[prost(uint64, tag = "2")]
    pub changed_at: u64,
}

/// A token that identifies a user. The token itself is known to its holder only.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TokenRecord {
    /// A random number, which also stands in the token.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// SHA-256 of the token's text: 32 bytes. No slow hash is needed, because the text is not
    /// chosen by people but has 256 random bits.
    #[prost(bytes = "bytes", tag = "2")]
    pub sha256: Bytes,
    /// Whose token it is.
    #[prost(string, tag = "3")]
    pub user: String,
    /// Microseconds since 1970; 0: never.
    #[prost(uint64, tag = "4")]
    pub expires_us: u64,
    /// Replicated time of its creation, in microseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub created_us: u64,
}

impl Policy {
    /// The grants of a role; `None` if there is no such role.
    pub fn grants_of(&self, role: &str) -> Option<&[Grant]> {
        built_in_role(role).or_else(|| self.roles.get(role).map(|role| role.grants.as_slice()))
    }

    /// Whether a role of this name exists.
    pub fn has_role(&self, role: &str) -> bool {
        self.grants_of(role).is_some()
    }

    /// Whether some user who is not disabled may change users and roles.
    pub fn has_administrator(&self) -> bool {
        let administers = |role: &String| {
            let grants = self.grants_of(role).unwrap_or_default();
            grants.iter().any(|grant| grant.is_everywhere() && grant.verbs().has(Verb::AdminAuth))
        };
        self.users.values().any(|user| !user.disabled && user.roles.iter().any(administers))
    }

    /// The encoded policy.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Reads what [`Self::to_bytes`] wrote; the error says what is wrong with the bytes.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, String> {
        Policy::decode(bytes).map_err(|error| error.to_string())
    }
}

impl TokenRecord {
    /// Whether it is no longer valid at this time, in microseconds since 1970.
    pub fn has_expired(&self, now_us: u64) -> bool {
        self.expires_us != 0 && self.expires_us <= now_us
    }
}
