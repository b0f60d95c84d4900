//! Who leads, and when this replica should stand itself.
//!
//! A replica stands only after a *pre-vote* (Ongaro's thesis, section 9.6): a quorum must say that it hears no primary
//! either. So a replica that cannot win, or that alone has lost the primary, disturbs nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::choice::{Best, Promises};
use super::{Jitter, Proposer};
use crate::{Instant, ReplicaId, View};

/// Phase 1 under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Campaign {
    pub view: View,
    /// The view whose primary handed over to this replica.
    pub handed_over: View,
    pub promises: Promises,
    /// The 1a has left: the own promise is durable.
    pub asked: bool,
    /// The log being adopted, once enough have promised.
    pub best: Option<Best>,
    /// Who was asked last for entries of it.
    pub source: Option<ReplicaId>,
    /// When it was last asked for entries.
    pub fetched: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Belongs to no cluster yet.
    Unborn {
        empty_peers: BTreeMap<ReplicaId, crate::DiskId>,
    },
    Secondary,
    PreVoting {
        round: u64,
        granted: BTreeSet<ReplicaId>,
    },
    Preparing(Campaign),
    Primary(Box<Proposer>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ViewManager {
    pub role: Role,
    /// The primary heard in the promised view.
    pub primary: Option<ReplicaId>,
    /// When to stand (secondary), or to give up standing.
    pub deadline: Instant,
    /// Before this, others are denied a pre-vote: a primary or a promising candidate was heard lately.
    pub quiet_until: Instant,
    /// The highest view heard of; the next attempt exceeds it.
    pub highest_seen: View,
    pub round: u64,
    pub jitter: Jitter,
    min_us: u64,
    max_us: u64,
}

impl ViewManager {
    pub fn new(role: Role, now: Instant, min_us: u64, max_us: u64, seed: u64, first_round: u64) -> ViewManager {
        let mut manager = ViewManager {
            role,
            primary: None,
            deadline: now,
            quiet_until: now,
            highest_seen: View::BIRTH,
            round: first_round,
            jitter: Jitter(seed),
            min_us,
            max_us,
        };
        manager.wait(now);
        manager
    }

    /// Starts a new random election timeout.
    pub fn wait(&mut self, now: Instant) {
        let us = self.min_us + self.jitter.below(self.max_us - self.min_us + 1);
        self.deadline = now.plus_us(us);
    }

    /// A primary, or a candidate that was promised a view, is alive.
    pub fn hush(&mut self, now: Instant) {
        self.quiet_until = now.plus_us(self.min_us);
        self.wait(now);
    }

    /// The primary seems gone: look at once, but not all in the same moment.
    pub fn suspect(&mut self, now: Instant, within_us: u64) {
        self.quiet_until = now;
        let soon = now.plus_us(self.jitter.below(within_us));
        self.deadline = self.deadline.min(soon);
    }

    pub fn see(&mut self, view: View) {
        self.highest_seen = self.highest_seen.max(view);
    }

    pub fn proposer(&self) -> Option<&Proposer> {
        match &self.role {
            Role::Primary(proposer) => Some(proposer),
            _ => None,
        }
    }

    pub fn proposer_mut(&mut self) -> Option<&mut Proposer> {
        match &mut self.role {
            Role::Primary(proposer) => Some(proposer),
            _ => None,
        }
    }

    /// Takes the proposer out for a moment, so that it and the rest of the replica can be changed together.
    pub fn take_proposer(&mut self) -> Option<Box<Proposer>> {
        match std::mem::replace(&mut self.role, Role::Secondary) {
            Role::Primary(proposer) => Some(proposer),
            other => {
                self.role = other;
                None
            }
        }
    }

    pub fn role_name(&self) -> &'static str {
        match self.role {
            Role::Unborn { .. } => "unborn",
            Role::Secondary => "secondary",
            Role::PreVoting { .. } | Role::Preparing(_) => "candidate",
            Role::Primary(_) => "primary",
        }
    }
}
