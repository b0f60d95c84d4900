//! Faults that lie in wait for leases: moments in which a grantor that forgets, or thinks that its
//! grant is over, would let another replica lead. They seldom come about by chance, since leases
//! are shorter than election timeouts.

use rsml::Message;

use super::cluster::Cluster;
use super::events::Event;

impl Cluster {
    /// Cuts the primary off from all but as many grantors as it needs; see [`Cluster::spring`].
    pub(super) fn trap_lessor(&mut self) {
        let Some(primary) = self.nodes.iter().position(|n| n.is_primary()).filter(|_| self.faults.lease_us > 0) else {
            return;
        };
        let count = self.nodes.len();
        let needed = count / 2;
        let first = self.random.below(count as u64) as usize;
        let peers = (0..count).map(|place| (first + place) % count).filter(|peer| *peer != primary);
        for peer in peers.skip(needed) {
            self.cut.extend([(primary, peer), (peer, primary)]);
        }
        let after = self.random.between(self.faults.lease_us, 5 * self.faults.lease_us);
        let process = self.nodes[primary].process();
        self.schedule(after, Event::Spring(process));
    }

    /// The primary relies on few, and loses contact with one of these: that one starts again and
    /// remembers no grant, or its connection ends. All replicas look for another primary at once.
    pub(super) fn spring(&mut self, primary: usize) {
        let grantors = self.relied_on(primary).unwrap_or_default();
        if grantors.is_empty() {
            return;
        }
        let grantor = self.random.pick(&grantors);
        self.note("grantor trapped", || format!("{grantor}, on whom {primary} relies"));
        self.cut.extend([(primary, grantor), (grantor, primary)]);
        if self.random.one_in(2) {
            self.crash(grantor);
            self.start(grantor);
        }
        for peer in (0..self.nodes.len()).filter(|peer| *peer != primary) {
            self.disconnect(peer, primary);
        }
    }

    /// `successor` is asked to stand for election. Its own promise takes long to become durable,
    /// and it hears from nobody meanwhile; the former primary starts again, helps another one to
    /// lead, and grants it a lease. Then the late one asks for promises, with the word of a primary
    /// that leads no more.
    pub(super) fn hold_up_successor(&mut self, primary: usize, successor: usize, message: &Message) {
        let is_told = matches!(message, Message::Transfer(_)) && self.faults.lease_us > 0;
        if !is_told || !self.random.one_in(self.faults.late_successor) {
            return;
        }
        self.note("successor held up", || format!("{successor}, told by {primary}"));
        let lease_us = self.faults.lease_us;
        let late_us = lease_us + self.random.between(50_000, 200_000);
        self.nodes[successor].log.hangs_until = self.now + late_us;
        let process = self.nodes[primary].process();
        self.schedule(400, Event::Crash(process));
        self.schedule(401, Event::Restart(process));
        for other in (0..self.nodes.len()).filter(|other| ![primary, successor].contains(other)) {
            // Nobody sees the primary's end.
            for (from, to) in [(primary, other), (other, primary)] {
                self.cut.insert((from, to));
                self.schedule(lease_us + 1_000, Event::Heal(from, to));
            }
            for (from, to) in [(successor, other), (other, successor)] {
                self.cut.insert((from, to));
                self.schedule(late_us + 200_000, Event::Heal(from, to));
            }
            self.schedule(lease_us + 1_500, Event::Hint(other, primary));
        }
    }
}
