//! The pre-vote: a replica that wants to stand for election first asks whether a quorum would elect
//! it.

use super::replica::Replica;
use super::view_manager::{Campaign, Role};
use crate::message::{Message, PreVote, PreVoteReply};
use crate::{ReplicaId, View};

impl Replica {
    /// Asks the others whether they would elect this replica, if it may stand now.
    pub(super) fn start_pre_vote(&mut self) {
        self.views.start_election_timer(self.now);
        if !self.may_stand() {
            return;
        }
        if self.lease_forbids(self.options.me, View::BIRTH) {
            let over = self.leases.granted.map_or(self.now, |grant| grant.until);
            self.views.expire_election_timer_soon(over, self.options.heartbeat_us);
            return;
        }
        let round = self.views.start_pre_vote(self.options.me);
        let view = self.next_view().0;
        self.send_all(Message::PreVote(PreVote { view, round }));
        self.stand_if_wanted();
    }

    fn next_view(&self) -> View {
        self.views.next_view(self.acceptor.promised(), self.options.me)
    }

    /// Grants unless this replica has heard lately from a primary (other than the asker), or this
    /// replica leads or stands itself: two candidates that grant each other pre-votes would keep
    /// pre-empting one another while their disks are slow.
    pub(super) fn on_pre_vote(&mut self, from: ReplicaId, message: PreVote) {
        let is_busy = matches!(self.views.role(), Role::Primary | Role::Preparing(_));
        let is_asker_primary = self.views.primary() == Some(from);
        let is_quiet = self.views.is_quiet(self.now) || self.lease_forbids(from, View::BIRTH);
        let granted = self.may_promise() && !is_busy && (is_asker_primary || !is_quiet);
        if !granted {
            coverage!("liveness.pre_vote_denied");
        }
        let promised = self.acceptor.promised().0;
        self.send(from, Message::PreVoteReply(PreVoteReply { round: message.round, granted, promised }), Vec::new());
    }

    /// Counts an answer to the pre-vote of this replica.
    pub(super) fn on_pre_vote_reply(&mut self, from: ReplicaId, message: PreVoteReply) {
        self.views.observe_view(View(message.promised));
        if message.granted && self.views.grant_pre_vote(from, message.round) {
            self.stand_if_wanted();
        }
    }

    fn stand_if_wanted(&mut self) {
        if self.views.pre_votes() >= self.membership.quorum() {
            self.start_campaign(View::BIRTH);
        }
    }

    /// Begins phase 1 by promising the new view; the 1a is sent once that promise is durable.
    /// `transferred_from`: the view whose primary transferred its leadership to this replica.
    pub(super) fn start_campaign(&mut self, transferred_from: View) {
        assert!(!self.options.is_witness, "a witness stands for election");
        self.become_secondary(None);
        if self.lease_forbids(self.options.me, transferred_from) {
            return;
        }
        let view = self.next_view();
        self.views.observe_view(view);
        self.promise(view);
        self.views.start_campaign(Campaign::new(view, transferred_from, self.now));
        self.views.start_election_timer(self.now);
    }
}
