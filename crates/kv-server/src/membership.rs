//! Changes of the members of a cluster, as a trait, so that the admin interface can offer them
//! without knowing the mode. The types are also the JSON of that interface, for its clients.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::order::OrderError;

/// The part that a member plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Its disk votes.
    Voter,
    /// It follows the log without a vote.
    Observer,
    /// Its disk votes, and has the log and no rows: it never leads, and serves no client.
    Witness,
}

/// A member of the present configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its id.
    pub id: u8,
    /// Its part.
    pub role: MemberRole,
    /// The disk that votes, as 32 hexadecimal digits; `None` for an observer.
    pub disk: Option<String>,
    /// The disk that was heard from under this id, as far as this server knows.
    pub present_disk: Option<String>,
    /// Whether that disk is a witness's: it can vote as a witness, and in no other way.
    #[serde(default)]
    pub is_witness: bool,
    /// Where its peers reach it; empty if that is not known here.
    pub peer: String,
    /// Where Thrift clients reach it; empty if that is not known here.
    pub thrift: String,
    /// Where its admin interface is; empty if that is not known here.
    pub admin: String,
    /// It is reached there, and the cluster has not recorded that yet: a member that starts now
    /// does not find it.
    #[serde(default)]
    pub is_moving: bool,
    /// Whether it runs and its messages arrive.
    pub reachable: bool,
    /// How many entries of the log it has not applied yet, as far as this server knows.
    pub lag: Option<u64>,
    /// Whether it has caught up so far that it could vote at once, as far as this server knows.
    pub ready: bool,
}

/// The members at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersView {
    /// The epoch of the configuration; a change names the epoch that it replaces.
    pub epoch: u64,
    /// The entry of the log that began the epoch.
    pub since: u64,
    /// A change was proposed and is not done yet.
    pub changing: bool,
    /// The primary, if one is known.
    pub primary: Option<u8>,
    /// By ascending id.
    pub members: Vec<MemberView>,
}

/// A member as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedMember {
    /// Its id.
    pub id: u8,
    /// Its part.
    pub role: MemberRole,
    /// The disk that shall vote, as 32 hexadecimal digits. By default the one that votes already,
    /// or else the one that was heard from under this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Where its peers reach it. By default as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Where Thrift clients reach it. By default as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thrift: Option<String>,
    /// Where its admin interface is. By default as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
}

/// A change of the members: all of them as they should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedMembers {
    /// The epoch whose members are replaced.
    pub expected_epoch: u64,
    /// The new members.
    pub members: Vec<WantedMember>,
    /// Skips the checks that only keep the cluster running.
    #[serde(default)]
    pub force: bool,
}

/// One thing that a change needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The condition.
    pub name: String,
    /// Whether it is.
    pub ok: bool,
    /// Why it is not, and what to do.
    pub reason: Option<String>,
    /// Whether `force` skips it.
    pub can_be_forced: bool,
}

/// Everything that a change needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Whether all of it is so.
    pub allowed: bool,
    /// The conditions one by one.
    pub checks: Vec<Check>,
}

impl From<Vec<Check>> for Checks {
    fn from(checks: Vec<Check>) -> Self {
        Checks { allowed: checks.iter().all(|check| check.ok), checks }
    }
}

impl MembersView {
    /// The member with this id.
    pub fn get(&self, id: u8) -> Option<&MemberView> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// Shows and changes the members.
#[async_trait]
pub trait MemberControl: Send + Sync + 'static {
    /// The members as this server knows them; an error in standalone mode.
    fn members(&self) -> Result<MembersView, OrderError>;

    /// Replaces the members. Returns them once this server acts under them.
    async fn change(&self, wanted: WantedMembers, deadline: Instant) -> Result<MembersView, OrderError>;

    /// The conditions of that change. Changes nothing.
    async fn check(&self, wanted: WantedMembers) -> Result<Vec<Check>, OrderError>;
}
