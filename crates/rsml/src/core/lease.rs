//! Leases, if switched on: a primary serves reads at once while a quorum has promised to let nobody
//! else lead.
//!
//! Each 2a asks for a lease, and carries the time at which it was sent, on the primary's clock; a
//! replica that grants the lease (a *grantor*) returns that time. The primary counts from that
//! moment, and only nine tenths of the length: the grant, which counts from its arrival, lasts
//! longer as long as the rates of any two clocks differ by less than a tenth. So while a primary
//! holds leases of a quorum (itself included), no candidate gets the promises of a quorum, and
//! nothing can be chosen that the primary does not know.
//!
//! Invariants (rule 9):
//! - A replica that granted a lease in a view promises nothing to another replica before the grant
//!   is over: neither in a 1b, nor to itself as a candidate, nor by installing a snapshot. The only
//!   exception is a candidate to which the primary of that very view transferred its leadership:
//!   the primary has revoked its lease before, for good. Following a higher view in a 2a is no such
//!   promise: a quorum has made it already.
//! - Grants are not durable, but the length of the longest one that may be valid is. At each start
//!   a replica assumes that it has just granted such a lease in the view that it promised last: no
//!   older one can be valid, since it was over before that promise. So the length may be changed,
//!   or leases switched off, with any restart.
//! - A primary that revokes its lease never uses one again in that view, so a transfer message that
//!   arrives late finds no lease that it could break.

use super::replica::Replica;
use crate::message::Accept;
use crate::{Epoch, Instant, ReplicaId, View};

/// A granted lease: only the owner of `view` is promised anything before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grant {
    view: View,
    pub until: Instant,
}

impl Grant {
    /// The last lease that a former start of this replica may have granted; `lease_us` is the
    /// longest.
    fn at_start(promised: View, now: Instant, lease_us: u64) -> Option<Grant> {
        (lease_us > 0 && promised > View::BIRTH).then(|| Grant { view: promised, until: now.plus_us(lease_us) })
    }
}

/// The lease that this replica granted, and those that it uses no more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leases {
    /// The newest lease granted, on which a primary may rely.
    pub granted: Option<Grant>,
    /// Until then, leases that a former start granted may be valid that are longer than those
    /// granted now.
    pub former_until: Option<Instant>,
    /// The last view in which this primary revoked its lease.
    revoked: View,
}

impl Leases {
    /// At a start. `longest_us`: the longest lease that may be valid; `lease_us`: the length of
    /// those granted from now on.
    /// Grants of an epoch before `epoch`, in which this replica acts, ended with it (rule M3).
    pub fn at_start(promised: View, epoch: Epoch, now: Instant, longest_us: u64, lease_us: u64) -> Leases {
        let granted = Grant::at_start(promised, now, longest_us).filter(|_| promised.epoch() >= epoch);
        let former_until = (longest_us > lease_us).then(|| now.plus_us(longest_us));
        Leases { granted, former_until, revoked: View::BIRTH }
    }
}

/// For how long the primary relies on a lease.
pub(super) fn usable_us(lease_us: u64) -> u64 {
    lease_us - lease_us.div_ceil(10)
}

impl Replica {
    /// Whether a lease forbids to promise `candidate` a view. `transferred_from`: the view whose
    /// primary transferred its leadership to the candidate.
    pub(super) fn lease_forbids(&self, candidate: ReplicaId, transferred_from: View) -> bool {
        let forbids = self.leases.granted.is_some_and(|grant| {
            self.now < grant.until && grant.view.owner() != Some(candidate) && grant.view != transferred_from
        });
        if forbids {
            coverage!("rule9.lease_forbids");
        }
        forbids
    }

    /// Grants the primary of the promised view the lease that it asks for, if this replica keeps
    /// leases of that length. Returns the time to send back; 0 for none.
    pub(super) fn grant_lease(&mut self, message: &Accept) -> u64 {
        let keeps = message.lease_us > 0 && message.lease_us <= self.options.lease_us;
        // A lease would delay the promise that is about to be made, again and again.
        if !keeps || !self.may_promise() || self.catch_up.will_promise_above(self.acceptor.promised()) {
            return 0;
        }
        assert!(
            message.lease_us <= self.acceptor.hard().lease_us,
            "the next start would not wait for the end of this lease"
        );
        let view = View(message.view);
        let before = self.leases.granted.filter(|grant| grant.view == view).map_or(self.now, |grant| grant.until);
        self.leases.granted = Some(Grant { view, until: before.max(self.now.plus_us(message.lease_us)) });
        message.lease_from_us
    }

    /// Once the leases of a former start are over, the next start need not wait for longer ones
    /// than this start grants.
    pub(super) fn forget_former_leases(&mut self) {
        if self.leases.former_until.is_some_and(|until| self.now >= until) {
            self.leases.former_until = None;
            self.acceptor.grants_leases_of(self.options.lease_us);
        }
    }

    /// The length of the lease to ask for in a 2a of `view`; 0: none.
    pub(super) fn wanted_lease_us(&self, view: View) -> u64 {
        if self.leases.revoked == view { 0 } else { self.options.lease_us }
    }

    /// Revokes the lease of this primary, for as long as it leads `view`.
    pub(super) fn revoke_lease(&mut self, view: View) {
        self.leases.revoked = view;
    }

    /// Whether leases of a quorum keep all others from leading at this moment.
    pub(super) fn holds_lease(&self) -> bool {
        self.holds_lease_at(self.now)
    }

    fn holds_lease_at(&self, now: Instant) -> bool {
        // A grantor may have entered the next epoch meanwhile (rule M8).
        let holds = !self.is_sealed()
            && self.grantors(now).is_some_and(|grantors| grantors.count() + 1 >= self.membership.quorum());
        if holds {
            coverage!("rule9.lease_serves");
        }
        holds
    }

    fn grantors(&self, now: Instant) -> Option<impl Iterator<Item = ReplicaId>> {
        let proposer = self.proposer.as_ref().filter(|p| self.wanted_lease_us(p.view) > 0)?;
        Some(proposer.grantors(now))
    }

    /// For checks from outside: the peers whose leases let this primary serve reads at `now`
    /// without asking anybody; `None` if it has to ask.
    pub fn relies_on(&self, now: Instant) -> Option<Vec<ReplicaId>> {
        let grantors = self.grantors(now)?.collect();
        (self.is_established() && self.holds_lease_at(now)).then_some(grantors)
    }
}
