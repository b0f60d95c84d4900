//! How a run begins: situations that random schedules hardly reach are set up on purpose, and the
//! run continues at random.
//!
//! An opening is a starting point, not a scene: faults that come by themselves come during it too,
//! its times are drawn, and nothing is expected of it.

use super::cluster::Cluster;
use super::events::Event;
use super::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// None: chance from the first moment on.
    Chance,
    /// A replica that was cut off while the primary changed returns with a log of an older view,
    /// and the primary changes again while it catches up.
    OldLogReturns,
    /// Followers are cut off one after the other, so that a candidate meets logs of the same view
    /// that end at different places, next to some of older ones.
    SplitLogs,
    /// A replica that lags far behind gets what it lacks, until it is cut off in the middle, from
    /// one primary after the other.
    StagedTwice,
    /// A voter's disk and an empty one alternate in one place, while the primary changes and leases
    /// and promises are given.
    DisksAlternate,
    /// A primary that was deposed unnoticed hears from nobody but the empty disk of a voter that has
    /// helped to elect its successor.
    DeposedStillLeads,
}

/// The longest that somebody may take to lead: a few elections.
const LED_WITHIN_US: u64 = 3_000_000;

impl Opening {
    /// Mostly chance.
    pub fn any(random: &mut Random) -> Opening {
        let openings = [
            Opening::OldLogReturns,
            Opening::SplitLogs,
            Opening::StagedTwice,
            Opening::DisksAlternate,
            Opening::DeposedStillLeads,
        ];
        if random.one_in(4) { random.pick(&openings) } else { Opening::Chance }
    }
}

impl Cluster {
    pub fn open(&mut self, opening: Opening) {
        if opening == Opening::Chance || self.nodes.len() < 3 {
            return;
        }
        self.say(|| format!("opening: {opening:?}"));
        let rounds = self.random.between(1, 3);
        // A change of the members would rely on a disk that is about to be away.
        let reconfigure = self.faults.reconfigure;
        if opening == Opening::DisksAlternate {
            self.faults.reconfigure = 0;
        }
        match opening {
            Opening::Chance => {}
            Opening::OldLogReturns => self.return_with_an_old_log(rounds),
            Opening::SplitLogs => (0..rounds).for_each(|_| self.split_logs()),
            Opening::StagedTwice => self.stage_again_and_again(rounds + 1),
            Opening::DisksAlternate => self.alternate_disks(rounds),
            Opening::DeposedStillLeads => self.follow_the_deposed(),
        }
        self.faults.reconfigure = reconfigure;
        self.cut.clear();
    }

    /// Lets time pass until somebody other than `not` leads.
    fn run_until_led(&mut self, not: Option<usize>) -> Option<usize> {
        let until = self.now + LED_WITHIN_US * self.faults.slowness;
        while self.now < until {
            let leads = (0..self.nodes.len()).find(|node| Some(*node) != not && self.nodes[*node].is_primary());
            if leads.is_some() {
                return leads;
            }
            self.run(10_000);
        }
        None
    }

    fn run_for_up_to(&mut self, most_us: u64) {
        let for_us = self.random.between(1, most_us);
        self.run(for_us);
    }

    /// Clients that do not wait leave this many notes at a node within 100 ms.
    fn leave_notes(&mut self, node: usize, most: u64) {
        for _ in 0..self.random.between(most / 3, most) {
            let after = self.random.below(100_000);
            self.schedule(after, Event::BlindNote(node));
        }
    }

    fn any_but(&mut self, node: usize) -> usize {
        let step = self.random.between(1, self.nodes.len() as u64 - 1) as usize;
        (node + step) % self.nodes.len()
    }

    fn cut_off(&mut self, node: usize) {
        for peer in (0..self.nodes.len()).filter(|peer| *peer != node) {
            self.cut.extend([(node, peer), (peer, node)]);
        }
    }

    /// The primary is gone, for a while or until it is started again, or is only cut off.
    fn depose(&mut self, primary: usize) {
        if self.random.one_in(2) {
            self.cut_off(primary);
        } else {
            self.crash(primary);
            let (process, after) = (self.nodes[primary].process(), self.random.below(1_500_000));
            self.schedule(after, Event::Restart(process));
        }
    }

    fn return_with_an_old_log(&mut self, changes: u64) {
        let Some(first) = self.run_until_led(None) else { return };
        let late = self.any_but(first);
        self.leave_notes(first, 20);
        self.run_for_up_to(100_000);
        self.cut_off(late);
        let mut primary = first;
        for _ in 0..changes {
            self.leave_notes(primary, 20);
            self.run_for_up_to(300_000);
            self.depose(primary);
            let Some(next) = self.run_until_led(Some(primary)) else { break };
            self.cut.clear();
            self.cut_off(late);
            primary = next;
        }
        self.cut.clear();
        self.run_for_up_to(60_000);
        self.depose(primary);
        self.run_for_up_to(400_000);
    }

    fn split_logs(&mut self) {
        let Some(primary) = self.run_until_led(None) else { return };
        self.leave_notes(primary, 40);
        let first = self.any_but(primary);
        let count = self.nodes.len();
        for follower in (0..count).map(|place| (first + place) % count).filter(|node| *node != primary) {
            self.run_for_up_to(25_000);
            self.cut.insert((primary, follower));
        }
        self.run_for_up_to(50_000);
        self.depose(primary);
        self.cut.retain(|(from, to)| *from == primary || *to == primary);
        if self.run_until_led(Some(primary)).is_some() {
            self.run_for_up_to(30_000);
        }
    }

    fn stage_again_and_again(&mut self, times: u64) {
        let Some(first) = self.run_until_led(None) else { return };
        let late = self.any_but(first);
        self.cut_off(late);
        self.leave_notes(first, 100);
        self.run_for_up_to(600_000);
        let mut primary = first;
        for _ in 0..times {
            self.cut.clear();
            self.run_for_up_to(60_000);
            self.cut_off(late);
            self.depose(primary);
            self.cut_off(late);
            let Some(next) = self.run_until_led(Some(primary)) else { return };
            self.leave_notes(next, 30);
            primary = next;
        }
    }

    /// Not where a database may go wrong: whoever stops for good then is all that may be missing.
    fn alternate_disks(&mut self, times: u64) {
        if self.faults.corrupt > 0 || self.run_until_led(None).is_none() {
            return;
        }
        self.run_for_up_to(200_000);
        let node = self.any_node();
        for _ in 0..times {
            if self.faults.lease_us > 0 && self.random.one_in(2) {
                self.exchange_under_a_lease(node);
                continue;
            }
            self.leave_notes(node, 10);
            self.run_for_up_to(100_000);
            self.crash(node);
            let is_away = self.take_disk_away(node);
            self.start_after(node, 20_000);
            self.leave_notes(node, 10);
            self.run_for_up_to(400_000);
            self.change_primary(node);
            self.crash(node);
            if is_away {
                self.bring_disk_back(node);
            }
            self.start_after(node, 20_000);
            self.run_for_up_to(200_000);
            self.change_primary(node);
        }
    }

    /// Not where a database may go wrong: see [`Cluster::alternate_disks`].
    fn follow_the_deposed(&mut self) {
        if self.faults.corrupt > 0 {
            return;
        }
        let Some(deposed) = self.run_until_led(None) else { return };
        self.run_for_up_to(100_000);
        self.cut_off(deposed);
        let Some(successor) = self.run_until_led(Some(deposed)) else { return };
        let voter = self.any_but(deposed);
        if voter == successor {
            return;
        }
        self.leave_notes(successor, 20);
        self.run_for_up_to(100_000);
        self.crash(voter);
        self.take_disk_away(voter);
        self.cut_off(voter);
        self.cut.remove(&(deposed, voter));
        self.cut.remove(&(voter, deposed));
        self.start_after(voter, 20_000);
        self.clients.iter_mut().for_each(|client| client.node = deposed);
        self.run_for_up_to(400_000);
    }

    /// The disk of `node` returns while the primary hears only from the disk in its place, and
    /// thinks that it cannot be replaced. The voter's disk promised its last view to another
    /// primary, which is ready to lead again.
    fn exchange_under_a_lease(&mut self, node: usize) {
        let Some(former) = self.run_until_led(Some(node)) else { return };
        self.run_for_up_to(50_000);
        self.crash(node);
        if !self.take_disk_away(node) {
            return self.start_after(node, 20_000);
        }
        self.start_after(node, 20_000);
        self.run_for_up_to(300_000);
        self.transfer(former, None);
        let Some(primary) = self.run_until_led(Some(former)).filter(|primary| *primary != node) else { return };
        let lease_us = self.faults.lease_us;
        for peer in (0..self.nodes.len()).filter(|peer| ![primary, node].contains(peer)) {
            self.cut.extend([(primary, peer), (peer, primary)]);
        }
        self.leave_notes(primary, 10);
        self.run_for_up_to(3 * lease_us);
        self.crash(node);
        self.bring_disk_back(node);
        self.cut.extend([(primary, node), (node, primary)]);
        self.start_after(node, 1_000);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != primary) {
            self.disconnect(peer, primary);
        }
        self.run_for_up_to(2 * lease_us);
        self.cut.clear();
    }

    fn start_after(&mut self, node: usize, most_us: u64) {
        self.run_for_up_to(most_us);
        if self.nodes[node].running.is_none() && self.may_restart(node) {
            self.start(node);
        }
    }

    /// Half of the time, whoever leads does so no more, unless it is this one.
    fn change_primary(&mut self, but: usize) {
        let primary = (0..self.nodes.len()).find(|node| *node != but && self.nodes[*node].is_primary());
        let Some(primary) = primary.filter(|_| self.random.one_in(2)) else { return };
        self.depose(primary);
        self.run_for_up_to(600_000);
        self.cut.clear();
    }
}
