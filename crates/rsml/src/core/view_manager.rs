//! The role that this replica plays, and the election timer that makes it stand for election.
//!
//! A replica stands only after a *pre-vote* (Ongaro's thesis, section 9.6): a quorum must confirm
//! that it hears from no primary either. A replica that cannot win, or that alone has lost the
//! primary, therefore disturbs nobody.
//!
//! The proposer of a primary lives next to the role, in the replica: it exists exactly while the
//! role is [`Role::Primary`].

use std::collections::{BTreeMap, BTreeSet};

use super::Jitter;
use super::choice::{Best, Promises};
use crate::{DiskId, Epoch, Instant, ReplicaId, View};

/// Phase 1 in progress: this replica stands for election in `view`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Campaign {
    /// The view that this replica wants to lead.
    pub view: View,
    /// The view whose primary transferred its leadership to this replica; [`View::BIRTH`] if none
    /// did.
    pub transferred_from: View,
    /// The promises received so far, that of this replica included.
    pub promises: Promises,
    /// Whether the 1a was sent, which requires that the promise of this replica is durable.
    pub asked: bool,
    /// The log to adopt, once enough replicas have promised.
    pub best: Option<Best>,
    /// The replica that was last asked for entries of that log.
    pub source: Option<ReplicaId>,
    /// When it was last asked.
    pub fetched: Instant,
}

impl Campaign {
    /// A campaign for `view` that has asked nobody yet.
    pub fn new(view: View, transferred_from: View, now: Instant) -> Campaign {
        let promises = Promises::new();
        Campaign { view, transferred_from, promises, asked: false, best: None, source: None, fetched: now }
    }
}

/// The present task of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It belongs to no cluster yet. `empty_peers`: the disks of the peers that belong to none
    /// either.
    Unborn {
        /// The peers that said so, and their disks.
        empty_peers: BTreeMap<ReplicaId, DiskId>,
    },
    /// It follows the primary, or waits for one.
    Secondary,
    /// It asks whether the others would elect it.
    PreVoting {
        /// The number of this pre-vote; answers to earlier ones do not count.
        round: u64,
        /// The replicas that would, this one included.
        granted: BTreeSet<ReplicaId>,
    },
    /// It stands for election: phase 1.
    Preparing(Campaign),
    /// It leads: phase 2.
    Primary,
}

/// When to stand for election, and for how long others are denied to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ElectionTimer {
    /// When a secondary stands, and a candidate gives up.
    deadline: Instant,
    /// Until then, pre-votes of others are denied: a primary, or a candidate that was promised a
    /// view, was heard from lately.
    quiet_until: Instant,
    random: Jitter,
    min_us: u64,
    max_us: u64,
}

impl ElectionTimer {
    fn start(&mut self, now: Instant) {
        let us = self.min_us + self.random.below(self.max_us - self.min_us + 1);
        self.deadline = now.plus_us(us);
    }
}

/// Knows the role of this replica, the primary that it follows and the views that were heard of,
/// and decides when to stand for election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ViewManager {
    role: Role,
    /// The primary of the promised view, if it was heard from.
    primary: Option<ReplicaId>,
    timer: ElectionTimer,
    /// The highest view heard of; the next campaign is for a higher one.
    highest_seen: View,
    /// The number of the last pre-vote of this replica.
    round: u64,
}

impl ViewManager {
    /// Elections time out after a random time from `min_us` to `max_us`. `first_round`: above it,
    /// no pre-vote of a former start was numbered.
    pub fn new(role: Role, now: Instant, min_us: u64, max_us: u64, seed: u64, first_round: u64) -> ViewManager {
        let random = Jitter::new(seed);
        let mut timer = ElectionTimer { deadline: now, quiet_until: now, random, min_us, max_us };
        timer.start(now);
        ViewManager { role, primary: None, timer, highest_seen: View::BIRTH, round: first_round }
    }

    // --- the role ---

    /// The present role.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Whether this replica leads.
    pub fn is_primary(&self) -> bool {
        matches!(self.role, Role::Primary)
    }

    /// Whether this replica follows, or waits for a primary to follow.
    pub fn is_secondary(&self) -> bool {
        matches!(self.role, Role::Secondary)
    }

    /// Whether this replica stands for election, or asks whether it should.
    pub fn is_candidate(&self) -> bool {
        matches!(self.role, Role::PreVoting { .. } | Role::Preparing(_))
    }

    /// Whether this replica belongs to no cluster yet.
    pub fn is_unborn(&self) -> bool {
        matches!(self.role, Role::Unborn { .. })
    }

    /// The name of the role in status and metrics.
    pub fn role_name(&self) -> &'static str {
        match self.role {
            Role::Unborn { .. } => "unborn",
            Role::Secondary => "secondary",
            Role::PreVoting { .. } | Role::Preparing(_) => "candidate",
            Role::Primary => "primary",
        }
    }

    /// The primary as far as it is known: this replica itself while it leads.
    pub fn primary(&self) -> Option<ReplicaId> {
        self.primary
    }

    /// The peers of a replica that belongs to no cluster which said the same of themselves.
    pub fn empty_peers_mut(&mut self) -> Option<&mut BTreeMap<ReplicaId, DiskId>> {
        match &mut self.role {
            Role::Unborn { empty_peers } => Some(empty_peers),
            _ => None,
        }
    }

    /// Becomes a secondary of `primary`, or one without a primary. True when the primary was
    /// another one before.
    pub fn follow(&mut self, primary: Option<ReplicaId>) -> bool {
        self.role = Role::Secondary;
        std::mem::replace(&mut self.primary, primary) != primary
    }

    /// Begins a pre-vote, with the vote of `me`. Returns its number.
    pub fn start_pre_vote(&mut self, me: ReplicaId) -> u64 {
        self.round += 1;
        self.role = Role::PreVoting { round: self.round, granted: BTreeSet::from([me]) };
        self.round
    }

    /// Counts the vote of `from` in the pre-vote `round`, unless that one is over. Returns whether
    /// it was counted.
    pub fn grant_pre_vote(&mut self, from: ReplicaId, round: u64) -> bool {
        match &mut self.role {
            Role::PreVoting { round: current, granted } if *current == round => {
                granted.insert(from);
                true
            }
            _ => false,
        }
    }

    /// How many replicas have granted the present pre-vote; 0 when there is none.
    pub fn pre_votes(&self) -> usize {
        match &self.role {
            Role::PreVoting { granted, .. } => granted.len(),
            _ => 0,
        }
    }

    /// Begins phase 1.
    pub fn start_campaign(&mut self, campaign: Campaign) {
        self.role = Role::Preparing(campaign);
    }

    /// Phase 1, while this replica is in it.
    pub fn campaign(&self) -> Option<&Campaign> {
        match &self.role {
            Role::Preparing(campaign) => Some(campaign),
            _ => None,
        }
    }

    /// Phase 1, while this replica is in it.
    pub fn campaign_mut(&mut self) -> Option<&mut Campaign> {
        match &mut self.role {
            Role::Preparing(campaign) => Some(campaign),
            _ => None,
        }
    }

    /// Ends phase 1 by leading the view of the campaign.
    ///
    /// # Panics
    /// When this replica is not in phase 1.
    pub fn lead(&mut self, me: ReplicaId) -> Campaign {
        self.primary = Some(me);
        match std::mem::replace(&mut self.role, Role::Primary) {
            Role::Preparing(campaign) => campaign,
            other => panic!("only a campaign ends in leading, not {other:?}"),
        }
    }

    // --- views ---

    /// This replica acts in `epoch` from now on: views of earlier epochs do not count any more.
    pub fn enter(&mut self, epoch: Epoch, now: Instant) {
        self.start_in(epoch);
        self.timer.quiet_until = now;
        self.timer.start(now);
    }

    /// This replica starts, and acts in `epoch`.
    pub fn start_in(&mut self, epoch: Epoch) {
        self.highest_seen = View::floor_of(epoch);
    }

    /// Notes a view that was heard of. One of another epoch says nothing about this one.
    pub fn observe_view(&mut self, view: View) {
        if view.epoch() == self.highest_seen.epoch() {
            self.highest_seen = self.highest_seen.max(view);
        }
    }

    /// The view that `me` would stand in now: above the one it has promised, and above all that it
    /// has heard of.
    pub fn next_view(&self, promised: View, me: ReplicaId) -> View {
        self.highest_seen.max(promised).next_owned_by(me)
    }

    // --- the election timer ---

    /// Starts a new election timeout of random length.
    pub fn start_election_timer(&mut self, now: Instant) {
        self.timer.start(now);
    }

    /// A primary, or a candidate that was promised a view, is alive: starts the timeout again, and
    /// denies pre-votes for the shortest one.
    pub fn reset_election_timer(&mut self, now: Instant) {
        self.timer.quiet_until = now.plus_us(self.timer.min_us);
        self.timer.start(now);
    }

    /// The primary seems gone: stands within `within_us`, after a random pause so that not all
    /// stand at once.
    pub fn expire_election_timer_soon(&mut self, now: Instant, within_us: u64) {
        self.timer.quiet_until = now;
        let soon = now.plus_us(self.timer.random.below(within_us));
        self.timer.deadline = self.timer.deadline.min(soon);
    }

    /// Whether a secondary should stand now, or a candidate give up.
    pub fn election_timed_out(&self, now: Instant) -> bool {
        now >= self.timer.deadline
    }

    /// Whether a primary, or a candidate that was promised a view, was heard from lately.
    pub fn is_quiet(&self, now: Instant) -> bool {
        now < self.timer.quiet_until
    }

    /// For how many microseconds no primary has been heard from, so that pre-votes are granted
    /// again.
    pub fn leaderless_us(&self, now: Instant) -> u64 {
        now.since_us(self.timer.quiet_until)
    }

    /// Forgets all that decides nothing, as if everything had happened at `at`; see
    /// [`super::Replica::canonicalize`].
    pub fn canonicalize(&mut self, at: Instant) {
        self.timer.random = Jitter::new(0);
        self.timer.deadline = at.plus_us(self.timer.max_us);
        self.timer.quiet_until = at;
        self.round = 0;
        match &mut self.role {
            Role::Preparing(campaign) => campaign.fetched = at,
            Role::PreVoting { round, .. } => *round = 0,
            Role::Primary | Role::Secondary | Role::Unborn { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: ReplicaId = ReplicaId(0);

    fn manager() -> ViewManager {
        ViewManager::new(Role::Secondary, Instant(0), 300, 600, 7, 0)
    }

    #[test]
    fn an_election_times_out_between_its_bounds_and_later_after_a_sign_of_life() {
        let mut views = manager();
        assert!(!views.election_timed_out(Instant(299)) && views.election_timed_out(Instant(600)));
        views.reset_election_timer(Instant(1000));
        assert!(!views.election_timed_out(Instant(1299)) && views.election_timed_out(Instant(1600)));
        assert!(views.is_quiet(Instant(1299)) && !views.is_quiet(Instant(1300)));
        views.expire_election_timer_soon(Instant(1010), 50);
        assert!(views.election_timed_out(Instant(1060)) && !views.is_quiet(Instant(1010)));
    }

    #[test]
    fn only_votes_for_the_present_pre_vote_count() {
        let mut views = manager();
        let old = views.start_pre_vote(ME);
        let new = views.start_pre_vote(ME);
        assert!(!views.grant_pre_vote(ReplicaId(1), old));
        assert!(views.grant_pre_vote(ReplicaId(1), new));
        assert!(views.grant_pre_vote(ReplicaId(1), new), "a repetition");
        assert_eq!(views.pre_votes(), 2);
        views.follow(None);
        assert!(!views.grant_pre_vote(ReplicaId(2), new));
        assert_eq!(views.pre_votes(), 0);
    }

    #[test]
    fn the_next_view_exceeds_all_that_were_promised_or_heard_of() {
        let mut views = manager();
        let heard = View::BIRTH.next_owned_by(ReplicaId(2));
        views.observe_view(heard);
        views.observe_view(View::BIRTH);
        assert!(views.next_view(View::BIRTH, ME) > heard);
        let promised = heard.next_owned_by(ReplicaId(1));
        assert!(views.next_view(promised, ME) > promised);
        assert_eq!(views.next_view(promised, ME).owner(), Some(ME));
    }

    #[test]
    fn an_election_times_out_at_its_deadline() {
        let views = ViewManager::new(Role::Secondary, Instant(0), 300, 300, 7, 0);
        assert!(!views.election_timed_out(Instant(299)) && views.election_timed_out(Instant(300)));
    }
}
