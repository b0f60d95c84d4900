//! Changes of the members at an operator's request.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use rsml::core::{MemberChange, ReconfigureError};
use rsml::{Addresses, ConfiguredMember, DiskId, DriverStatus, Epoch, ReplicaId};
use tokio::time::Instant;

use super::cluster::ReplicatedCluster;
use crate::config::Address;
use crate::membership::{Check, MemberControl, MemberRole, MemberView, MembersView, WantedMember, WantedMembers};
use crate::order::OrderError;

/// The order that only the primary can follow.
const CHANGE: &str = "change the members";
/// A peer that has sent nothing for this long could not vote at once.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How often to look whether the status shows a change.
const STATUS_LOOK: Duration = Duration::from_millis(2);
/// A replica that lacks no more entries than this has caught up, as far as reports tell.
const CLOSE_ENTRIES: u64 = 2_000;

impl ReplicatedCluster {
    fn members_view(&self) -> MembersView {
        let seen_by = self.reporter().consensus.status();
        let configuration = &seen_by.core.configuration;
        let members = configuration.members.iter().map(|(id, member)| {
            let (addresses, recorded) = (self.local().addresses(*id), member.addresses());
            let client = |place: usize| addresses.clients.get(place).cloned().unwrap_or_default();
            let role = match member {
                ConfiguredMember::Voter { .. } => MemberRole::Voter,
                ConfiguredMember::Witness { .. } => MemberRole::Witness,
                ConfiguredMember::Observer { .. } => MemberRole::Observer,
            };
            let (reachable, lag) = (self.is_reachable(*id, &seen_by), self.lag(*id, &seen_by));
            MemberView {
                id: id.0,
                role,
                disk: member.voting_disk().map(hex),
                present_disk: self.present_disk(*id, &seen_by).map(hex),
                is_witness: self.is_witness(*id, &seen_by),
                peer: addresses.peer.clone(),
                thrift: client(0),
                admin: client(1),
                is_moving: !recorded.is_empty() && addresses != *recorded,
                reachable,
                lag,
                ready: reachable && lag.is_some_and(|lag| lag <= CLOSE_ENTRIES),
            }
        });
        MembersView {
            epoch: seen_by.core.epoch.0,
            since: configuration.since.0,
            changing: seen_by.core.is_sealed,
            primary: seen_by.core.primary.map(|id| id.0),
            members: members.collect(),
        }
    }

    fn is_reachable(&self, id: ReplicaId, seen_by: &DriverStatus) -> bool {
        let is_heard = |us: &u64| Duration::from_micros(*us) < HEARD_WITHIN;
        self.local_status(id).is_some_and(|status| status.failed.is_none())
            || seen_by.core.heard_us.get(&id).is_some_and(is_heard)
    }

    fn lag(&self, id: ReplicaId, seen_by: &DriverStatus) -> Option<u64> {
        let applied = match self.local_status(id) {
            Some(status) => status.digest_sequence.0,
            None => seen_by.core.reports.get(&id)?.applied,
        };
        Some(seen_by.core.commit.0.saturating_sub(applied))
    }

    fn present_disk(&self, id: ReplicaId, seen_by: &DriverStatus) -> Option<DiskId> {
        let local = self.local_status(id).map(|status| status.core.disk_id);
        local.or_else(|| seen_by.core.disks.get(&id).copied())
    }

    fn is_witness(&self, id: ReplicaId, seen_by: &DriverStatus) -> bool {
        match self.local_status(id) {
            Some(_) => self.local().is_witness(),
            None => seen_by.core.reports.get(&id).is_some_and(|report| report.is_witness),
        }
    }

    fn local_status(&self, id: ReplicaId) -> Option<DriverStatus> {
        let local = self.local().replicas().iter().find(|replica| replica.id == u32::from(id.0));
        local.map(|replica| replica.consensus.status())
    }

    /// The change for consensus: what the caller left out stays as it is.
    fn completed(&self, wanted: &WantedMembers) -> Result<MemberChange, OrderError> {
        // Only the primary knows which disks follow.
        let status = self.to_be_ordered().consensus.status();
        if status.core.role != "primary" {
            return Err(self.ask_the_primary(status.core.primary, CHANGE));
        }
        let mut members = rsml::Members::new();
        for member in &wanted.members {
            let id = ReplicaId(member.id);
            if members.insert(id, self.completed_member(id, member, &status)?).is_some() {
                return Err(OrderError::Impossible(format!("member {id} is named twice")));
            }
        }
        Ok(MemberChange { expected: Epoch(wanted.expected_epoch), members, force: wanted.force })
    }

    fn completed_member(
        &self,
        id: ReplicaId,
        member: &WantedMember,
        status: &DriverStatus,
    ) -> Result<ConfiguredMember, OrderError> {
        let addresses = self.completed_addresses(id, member)?;
        if member.role == MemberRole::Observer {
            return match &member.disk {
                None => Ok(ConfiguredMember::Observer { addresses }),
                Some(_) => Err(OrderError::Impossible(format!("member {id}: an observer has no disk that votes"))),
            };
        }
        let voting = status.core.configuration.members.get(&id).and_then(ConfiguredMember::voting_disk);
        let disk = match &member.disk {
            Some(text) => Some(parse_disk(id, text)?),
            None => voting.or_else(|| self.present_disk(id, status)),
        };
        let disk = disk.ok_or_else(|| {
            OrderError::NotNow(format!(
                "replica {id} cannot vote yet, because the primary does not know its disk: add it as an observer, start \
                 it, and wait until it was heard from"
            ))
        })?;
        Ok(match member.role {
            MemberRole::Witness => ConfiguredMember::Witness { disk, addresses },
            _ => ConfiguredMember::Voter { disk, addresses },
        })
    }

    fn completed_addresses(&self, id: ReplicaId, member: &WantedMember) -> Result<Addresses, OrderError> {
        let known = self.local().addresses(id);
        let former = |place: usize| known.clients.get(place).cloned().unwrap_or_default();
        let wanted = |name: &str, given: &Option<String>, former: String| {
            let address = given.clone().unwrap_or(former);
            let fault = match Address::from_str(&address) {
                _ if address.is_empty() => "it is not known here: give it as HOST:PORT".to_string(),
                Err(error) => format!("`{address}`: {error}"),
                Ok(address) if address.port() == 0 => format!("`{address}`: port 0 cannot be connected to"),
                Ok(address) if address.is_unspecified() => {
                    format!("`{address}` can only be listened on: give the address at which others reach it")
                }
                Ok(_) => return Ok(address),
            };
            Err(OrderError::Impossible(format!("the {name} address of member {id}: {fault}")))
        };
        Ok(Addresses {
            peer: wanted("peer", &member.peer, known.peer.clone())?,
            clients: vec![wanted("thrift", &member.thrift, former(0))?, wanted("admin", &member.admin, former(1))?],
        })
    }

    /// Waits until the status, which lags some milliseconds behind, shows that epoch.
    async fn wait_for_status(&self, epoch: Epoch, deadline: Instant) {
        while self.reporter().consensus.status().core.epoch < epoch && Instant::now() < deadline {
            tokio::time::sleep(STATUS_LOOK).await;
        }
    }

    fn explain_change(&self, error: ReconfigureError) -> OrderError {
        match error {
            ReconfigureError::NotPrimary { primary } => self.ask_the_primary(primary, CHANGE),
            ReconfigureError::TimedOut | ReconfigureError::Stopped(_) => OrderError::TimedOut(error.to_string()),
            ReconfigureError::VoterCount(_)
            | ReconfigureError::ObserverCount(_)
            | ReconfigureError::TooManyWitnesses { .. }
            | ReconfigureError::OtherPart { .. }
            | ReconfigureError::DiskTwice(_) => OrderError::Impossible(error.to_string()),
            error => OrderError::NotNow(error.to_string()),
        }
    }
}

#[async_trait]
impl MemberControl for ReplicatedCluster {
    fn members(&self) -> Result<MembersView, OrderError> {
        Ok(self.members_view())
    }

    async fn change(&self, wanted: WantedMembers, deadline: Instant) -> Result<MembersView, OrderError> {
        let change = self.completed(&wanted)?;
        let members = describe(&change.members);
        match self.to_be_ordered().consensus.reconfigure(change, deadline.into_std()).await {
            Ok(epoch) => {
                tracing::info!(epoch = epoch.0, members, "the members were changed, as requested");
                self.wait_for_status(epoch, deadline).await;
            }
            // The answer to a repeated request whose first answer was lost.
            Err(ReconfigureError::Unchanged) => {}
            Err(error) => return Err(self.explain_change(error)),
        }
        Ok(self.members_view())
    }

    async fn check(&self, wanted: WantedMembers) -> Result<Vec<Check>, OrderError> {
        let change = self.completed(&wanted)?;
        let found = self.to_be_ordered().consensus.preconditions(change).await;
        let found = found.map_err(|error| self.explain_change(error))?;
        let check = |found: rsml::core::Precondition| Check {
            name: found.name.to_string(),
            ok: found.result.is_ok(),
            reason: found.result.err().map(|error| error.to_string()),
            can_be_forced: found.can_be_forced,
        };
        Ok(found.into_iter().map(check).collect())
    }
}

fn describe(members: &rsml::Members) -> String {
    let one = |(id, member): (&ReplicaId, &ConfiguredMember)| match member {
        ConfiguredMember::Voter { .. } => format!("{id} voter"),
        ConfiguredMember::Witness { .. } => format!("{id} witness"),
        ConfiguredMember::Observer { .. } => format!("{id} observer"),
    };
    members.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn hex(disk: DiskId) -> String {
    format!("{:032x}", disk.0)
}

fn parse_disk(id: ReplicaId, text: &str) -> Result<DiskId, OrderError> {
    let parsed = u128::from_str_radix(text, 16).ok().filter(|disk| *disk != 0 && text.len() == 32);
    parsed.map(DiskId).ok_or_else(|| {
        OrderError::Impossible(format!("the disk of member {id}: `{text}`: expected 32 hexadecimal digits"))
    })
}
