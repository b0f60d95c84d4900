//! The kinds of faults in a run, and their frequencies.

use super::random::Random;

/// How often things go wrong: `one in n`, 0 for never. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Faults {
    pub lose: u64,
    pub duplicate: u64,
    pub delay: u64,
    pub max_delay_us: u64,
    /// Answers that arrive when the question is long forgotten; promises, when the next promise is
    /// asked for.
    pub straggle: u64,
    /// When a pre-vote is granted: the voter hears from all replicas again, and the candidate's
    /// disk takes its time.
    pub late_primary: u64,
    /// Messages on one link arrive in the order in which they were sent, as over one connection.
    pub keeps_order: bool,
    /// The longest that every message takes.
    pub network_us: u64,
    /// The longest that a disk write takes, per node.
    pub disk_us: Vec<u64>,
    /// Per fault event (one every 50 ms): crash or restart a node, cut links, hang a disk, pause a
    /// node.
    pub crash: u64,
    pub cut: u64,
    pub hang: u64,
    pub pause: u64,
    /// Right after a message that claims something durable, or starts something, was sent: crash
    /// the sender.
    pub crash_after_send: u64,
    /// Right after a vote arrived: crash the replica that counts it.
    pub crash_after_vote: u64,
    /// Per fault event: cut off whoever leads, for a while, in one direction or both.
    pub isolate_primary: u64,
    /// When a replica begins to lead: let those that were cut off return, cut off another instead,
    /// crash the new one.
    pub upset_primary: u64,
    /// Per request: make it a burst of them.
    pub burst: u64,
    /// A crash of a node loses what its disk was not told to synchronise, and tears what was being
    /// written.
    pub power_loss: bool,
    /// Databases persist whatever they apply at once, and not only now and then.
    pub eager_databases: bool,
    /// Per batch applied, and per fault event: the database removes some of what nobody can ask for
    /// any more.
    pub collect: u64,
    /// Per fault event: a version is pinned, and another one let go.
    pub pin: u64,
    /// Inputs that come within this long share one look at what follows from them; 0: each has its
    /// own.
    pub gather_us: u64,
    /// The longest that entries wait before they are applied; 0: they never do.
    pub apply_us: u64,
    /// Clocks are fast or slow by up to this many parts per million.
    pub drift_ppm: u64,
    /// Per fault event: a clock jumps ahead. Only without leases, whose bound on clocks that
    /// breaks.
    pub clock_jump: u64,
    /// Per fault event: a write or a synchronisation of a log fails, and with it the replica.
    pub fail_log: u64,
    /// Per fault event: one node, and only one in a run, once executes otherwise than the log says.
    pub corrupt: u64,
    /// Per start of a node: sectors of its log have rotted; its database is gone; its disk is
    /// another one.
    pub rot: u64,
    pub lose_database: u64,
    pub wipe: u64,
    /// Per start of a node whose disk was replaced: the disk is back, or leaves again; 0: it is
    /// gone for good.
    pub exchange: u64,
    /// Per fault event: sectors of a running node's log rot.
    pub rot_running: u64,
    /// Per fault event: a log's disk is full for a while.
    pub fill: u64,
    /// Per fault event: somebody is asked to let another replica lead; a node is stopped in good
    /// order; it may not lead any more, or may again.
    pub transfer: u64,
    pub stop: u64,
    pub veto: u64,
    /// The longest leases; 0: none.
    pub lease_us: u64,
    /// Each start of a node has a length of leases of its own, up to the longest, or none.
    pub unequal_leases: bool,
    /// Per fault event, with leases: as few as possible are left to grant the primary leases, and
    /// one of these is given reason to let another one lead.
    pub trap_lessor: u64,
    /// With leases: the target of a transfer stands late, when another replica already leads.
    pub late_successor: u64,
    /// More may be lost than the others can restore: then the cluster may stop, but must not be
    /// wrong.
    pub beyond_budget: bool,
    /// Logs are trimmed early, however far others lag.
    pub short_logs: bool,
    /// Disks seldom have so much space that a log may be kept for a copy under way.
    pub cramped: bool,
    /// Copies of databases take their time.
    pub slow_copies: bool,
    /// Digests are compared at multiples of this sequence.
    pub digest_interval: u64,
    /// The newest program of a run executes feature levels up to this; 1: all know of no levels.
    pub highest_level: u32,
    /// Per start of a node: it has another program.
    pub change_program: u64,
    /// Per fault event: somebody is asked to raise the feature level.
    pub ask_for_level: u64,
    /// Primaries raise the feature level by themselves after this time; 0: never.
    pub raise_after_us: u64,
    /// For how long a replica counts as heard from when the level is raised.
    pub level_heard_us: u64,
    /// Per fault event: somebody is asked for other members.
    pub reconfigure: u64,
    /// Per node that does not belong to the cluster at first: it is a witness.
    pub witnesses: u64,
    /// A voter that came back with an empty disk votes again once it has caught up.
    pub readmit: bool,
    /// Replicas are reached elsewhere after some starts, and say so.
    pub moves: bool,
    /// Heartbeats, timeouts and ticks are longer than by default by this factor.
    pub slowness: u64,
}

impl Faults {
    pub fn none() -> Faults {
        Faults {
            lose: 0,
            duplicate: 0,
            delay: 0,
            max_delay_us: 0,
            straggle: 0,
            late_primary: 0,
            keeps_order: true,
            network_us: 300,
            disk_us: vec![2_000],
            crash: 0,
            cut: 0,
            hang: 0,
            pause: 0,
            crash_after_send: 0,
            crash_after_vote: 0,
            isolate_primary: 0,
            upset_primary: 0,
            burst: 0,
            power_loss: false,
            eager_databases: false,
            collect: 3,
            pin: 0,
            gather_us: 0,
            apply_us: 0,
            drift_ppm: 0,
            clock_jump: 0,
            fail_log: 0,
            corrupt: 0,
            rot: 0,
            lose_database: 0,
            wipe: 0,
            exchange: 0,
            rot_running: 0,
            fill: 0,
            transfer: 0,
            stop: 0,
            veto: 0,
            lease_us: 0,
            unequal_leases: false,
            trap_lessor: 0,
            late_successor: 0,
            beyond_budget: false,
            short_logs: false,
            cramped: false,
            slow_copies: false,
            digest_interval: 5,
            highest_level: 1,
            change_program: 0,
            ask_for_level: 0,
            raise_after_us: 0,
            level_heard_us: 10_000_000,
            reconfigure: 0,
            witnesses: 0,
            readmit: false,
            moves: false,
            slowness: 1,
        }
    }

    /// The part that stays when faults have ended: the set-up of the cluster.
    pub fn ended(&self) -> Faults {
        Faults {
            digest_interval: self.digest_interval,
            slowness: self.slowness,
            short_logs: self.short_logs,
            lease_us: self.lease_us,
            unequal_leases: self.unequal_leases,
            drift_ppm: self.drift_ppm,
            collect: self.collect,
            beyond_budget: self.beyond_budget,
            highest_level: self.highest_level,
            raise_after_us: self.raise_after_us,
            level_heard_us: self.level_heard_us,
            ..Faults::none()
        }
    }

    /// Some kinds often, some seldom, some never.
    pub fn any(random: &mut Random) -> Faults {
        let usual_disk_us = [200, 2_000, 2_000, 20_000, 80_000][random.below(5) as usize];
        let disk_us =
            (0..7).map(|_| if random.one_in(4) { random.between(200, 150_000) } else { usual_disk_us }).collect();
        let network_us = [100, 300, 300, 3_000, 20_000][random.below(5) as usize];
        // Two clocks that are off by this much in opposite directions differ by less than a tenth.
        let drift_ppm = random.pick(&[0, 500, 52_000]);
        let lease_us = if random.one_in(3) { random.between(60_000, 290_000) } else { 0 };
        let mut weight = |low, high| if random.one_in(3) { 0 } else { random.between(low, high) };
        Faults {
            lose: weight(5, 500),
            duplicate: weight(5, 500),
            delay: weight(2, 100),
            max_delay_us: weight(1_000, 400_000),
            straggle: weight(3, 300),
            late_primary: weight(1, 8),
            network_us,
            disk_us,
            crash: weight(3, 60),
            cut: weight(3, 60),
            hang: weight(10, 100),
            pause: weight(10, 100),
            crash_after_send: weight(20, 2_000),
            crash_after_vote: weight(50, 5_000),
            isolate_primary: weight(3, 60),
            upset_primary: weight(1, 4),
            burst: weight(10, 50),
            power_loss: weight(1, 1) == 1,
            keeps_order: weight(0, 2) == 0,
            eager_databases: weight(1, 2) == 1,
            collect: weight(1, 20),
            pin: weight(2, 60),
            gather_us: [0, 0, 200, 5_000][weight(0, 3) as usize],
            apply_us: [0, 0, 1_000, 100_000][weight(0, 3) as usize],
            drift_ppm,
            clock_jump: if lease_us > 0 { 0 } else { weight(20, 200) },
            fail_log: weight(20, 200),
            rot: weight(1, 5),
            lose_database: weight(2, 10),
            wipe: weight(5, 50),
            exchange: weight(1, 6),
            rot_running: weight(20, 200),
            fill: weight(20, 200),
            transfer: weight(2, 60),
            stop: weight(5, 100),
            veto: weight(5, 100),
            lease_us,
            unequal_leases: weight(0, 1) == 1,
            trap_lessor: weight(5, 60),
            late_successor: weight(1, 4),
            beyond_budget: false,
            short_logs: weight(0, 1) == 1,
            cramped: weight(0, 2) == 1,
            slow_copies: weight(0, 2) == 1,
            corrupt: 0,
            change_program: weight(1, 6),
            ask_for_level: weight(2, 40),
            digest_interval: random.between(1, 30),
            highest_level: random.pick(&[1, 1, 2, 2, 3]),
            raise_after_us: random.pick(&[0, 0, 0, 500_000]),
            level_heard_us: random.pick(&[1_000_000, 3_000_000, 10_000_000]),
            reconfigure: 0,
            witnesses: 0,
            readmit: false,
            moves: false,
            slowness: random.pick(&[1, 1, 1, 2, 2, 3]),
        }
    }

    /// Anything, with leases on clocks that run as differently as they may.
    pub fn any_and_leases(random: &mut Random) -> Faults {
        let lease_us = random.between(60_000, 290_000);
        let drift_ppm = random.pick(&[0, 52_000]);
        Faults { lease_us, drift_ppm, clock_jump: 0, ..Faults::any(random) }
    }

    /// Anything, and operators who change the members.
    pub fn any_and_members(random: &mut Random) -> Faults {
        let reconfigure = random.between(2, 40);
        let highest_level = random.pick(&[2, 2, 3]);
        let (readmit, moves) = (random.one_in(2), random.one_in(3));
        let any = Faults { reconfigure, highest_level, readmit, moves, ..Faults::any(random) };
        let any = Faults { change_program: 0, witnesses: random.pick(&[0, 2, 3]), ..any };
        match random.below(4) {
            // Disks are lost again and again, and the members change by themselves alone.
            0 => Faults { reconfigure: 20_000, readmit: true, wipe: random.between(2, 6), ..any },
            1 => any,
            // No disk loses anything, so operators may force whatever they want.
            _ => Faults { rot: 0, rot_running: 0, lose_database: 0, wipe: 0, exchange: 0, ..any },
        }
    }

    /// Anything, and losses that nobody can make good.
    pub fn any_beyond_budget(random: &mut Random) -> Faults {
        let (rot, wipe) = (random.between(1, 4), random.between(10, 60));
        Faults { rot, wipe, beyond_budget: true, ..Faults::any(random) }
    }

    /// Anything, and a database that is damaged without noticing.
    pub fn any_and_corruption(random: &mut Random) -> Faults {
        let corrupt = random.between(5, 60);
        // A replica that stops for good uses up the budget of losses.
        Faults { corrupt, wipe: 0, exchange: 0, lose_database: 0, rot: 0, rot_running: 0, ..Faults::any(random) }
    }

    /// A lossy network, but every replica runs, and none lags for long behind the sequences whose
    /// digests are kept.
    pub fn bad_weather(random: &mut Random) -> Faults {
        Faults {
            lose: random.between(20, 500),
            duplicate: random.between(5, 500),
            delay: random.between(10, 100),
            max_delay_us: random.between(1_000, 100_000),
            straggle: random.between(10, 300),
            network_us: random.between(100, 3_000),
            keeps_order: random.one_in(2),
            burst: random.between(10, 50),
            eager_databases: random.one_in(2),
            digest_interval: 30,
            ..Faults::none()
        }
    }

    /// Whether the members may change, by an operator or by themselves.
    pub fn changes_members(&self) -> bool {
        self.reconfigure > 0 || self.readmit || self.moves
    }

    /// Whether disks lose anything.
    pub fn has_losses(&self) -> bool {
        self.rot > 0 || self.rot_running > 0 || self.lose_database > 0 || self.wipe > 0 || self.exchange > 0
    }

    pub fn disk_us(&self, node: usize) -> u64 {
        self.disk_us[node % self.disk_us.len()]
    }
}
