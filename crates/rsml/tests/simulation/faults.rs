//! What goes wrong in a run, and how often.

use crate::random::Random;

/// How often things go wrong: `one in n`, 0 for never. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Faults {
    pub lose: u64,
    pub duplicate: u64,
    pub delay: u64,
    pub max_delay_us: u64,
    /// Answers that arrive when the question is long forgotten; promises, when the next promise is asked for.
    pub straggle: u64,
    /// When a pre-vote is granted: the voter hears everybody again, and the candidate's disk takes its time.
    pub late_primary: u64,
    /// Messages on one link arrive in the order in which they were sent, as over one connection.
    pub keeps_order: bool,
    /// The longest that every message takes.
    pub network_us: u64,
    /// The longest that a disk write takes, per node.
    pub disk_us: Vec<u64>,
    /// Per fault event (one every 50 ms): crash or restart a node, cut links, hang a disk, pause a node.
    pub crash: u64,
    pub cut: u64,
    pub hang: u64,
    pub pause: u64,
    /// Right after a message that claims something durable, or starts something, was sent: crash the sender.
    pub crash_after_send: u64,
    /// Right after a vote arrived: crash the replica that counts it.
    pub crash_after_vote: u64,
    /// Per fault event: cut off whoever leads, for a while, in one direction or both.
    pub isolate_primary: u64,
    /// When a replica begins to lead: let those that were cut off return, cut off another instead, crash the new one.
    pub upset_primary: u64,
    /// Per request: make it a burst of them.
    pub burst: u64,
    /// A crash of a node loses what its disk was not told to synchronise, and tears what was being written.
    pub power_loss: bool,
    /// Per start of a node: its disk has lost entries; its database; everything.
    pub lose_entries: u64,
    pub lose_database: u64,
    pub wipe: u64,
    /// Databases persist whatever they apply at once, and not only now and then.
    pub eager_databases: bool,
    /// Per fault event: ask somebody to let another replica lead; stop a node in good order; forbid it to lead, or allow
    /// it again; let its disk run full, or make space.
    pub transfer: u64,
    pub stop: u64,
    pub veto: u64,
    pub full: u64,
    /// Per fault event: a clock leaps ahead. Only without leases, whose bound on clocks that breaks.
    pub leap: u64,
    /// Clocks run at most so much too fast or too slow, in millionths.
    pub drift_ppm: u64,
    /// Leases of this length; 0: none.
    pub lease_us: u64,
    /// Per fault event: one node, and only one in a run, begins to execute otherwise than the log says.
    pub corrupt: u64,
    /// Digests are compared at multiples of this sequence.
    pub digest_interval: u64,
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
            lose_entries: 0,
            lose_database: 0,
            wipe: 0,
            eager_databases: false,
            transfer: 0,
            stop: 0,
            veto: 0,
            full: 0,
            leap: 0,
            drift_ppm: 0,
            lease_us: 0,
            corrupt: 0,
            digest_interval: 5,
        }
    }

    /// Some kinds often, some seldom, some never.
    pub fn any(random: &mut Random) -> Faults {
        let usual_disk_us = [200, 2_000, 2_000, 20_000, 80_000][random.below(5) as usize];
        let disk_us =
            (0..7).map(|_| if random.one_in(4) { random.between(200, 150_000) } else { usual_disk_us }).collect();
        let network_us = [100, 300, 300, 3_000, 20_000][random.below(5) as usize];
        // Two clocks that are off by this much in opposite directions differ by less than a tenth.
        let drift_ppm = [0, 500, 52_000][random.below(3) as usize];
        let lease_us = [0, 0, random.between(60_000, 290_000)][random.below(3) as usize];
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
            lose_entries: weight(1, 5),
            lose_database: weight(2, 10),
            wipe: weight(5, 50),
            keeps_order: weight(0, 2) == 0,
            eager_databases: weight(1, 2) == 1,
            transfer: weight(1, 60),
            stop: weight(5, 100),
            veto: weight(5, 100),
            full: weight(5, 100),
            leap: if lease_us > 0 { 0 } else { weight(5, 200) },
            drift_ppm,
            lease_us,
            corrupt: 0,
            digest_interval: random.between(1, 30),
        }
    }

    /// Anything, with leases on clocks that run as differently as they may.
    pub fn any_and_leases(random: &mut Random) -> Faults {
        let lease_us = random.between(60_000, 290_000);
        let drift_ppm = [0, 52_000][random.below(2) as usize];
        Faults { lease_us, drift_ppm, leap: 0, ..Faults::any(random) }
    }

    /// Anything, and a database that is damaged without noticing.
    pub fn any_and_corruption(random: &mut Random) -> Faults {
        let corrupt = random.between(5, 60);
        let any = Faults::any(random);
        // Whoever stops for good is as much as may be lost.
        Faults { corrupt, wipe: 0, lose_database: 0, lose_entries: 0, ..any }
    }

    /// A lossy network, but everybody runs, and nobody lags for long behind what digests are kept of.
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

    pub fn disk_us(&self, node: usize) -> u64 {
        self.disk_us[node % self.disk_us.len()]
    }
}
