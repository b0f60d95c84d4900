//! Which faults, when, for how long: decided by a seed alone.
//!
//! Two lanes run in parallel, one for the processes with their disks, one for the network. Within a
//! lane one fault ends before the next begins. The schedule cannot know the primary of that moment,
//! so a fault may name *the primary*.

use std::fmt;
use std::time::Duration;

use super::random::Random;

pub const REPLICAS: usize = 3;

/// The target of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Victims {
    /// The replica that leads when the fault begins; a random one if none does.
    Primary,
    One(usize),
    AllBut(usize),
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// kill -9, and a start afterwards.
    Kill(Victims),
    /// SIGTERM, and a start afterwards.
    Restart(Victims),
    /// SIGSTOP, and SIGCONT afterwards.
    Pause(Victims),
    /// The file system has no space left.
    FillDisk(Victims),
    /// Writes to the file system do not return.
    FreezeDisk(Victims),
    /// Nothing passes to and from these. `told`: connections are closed; otherwise all is silent.
    Isolate { victims: Victims, told: bool },
    /// Nothing passes between these two.
    CutBetween { one: usize, other: usize },
    /// Nothing passes from one to the other; back it does.
    CutOneWay { from: usize, to: usize },
    /// All that is sent arrives later.
    Delay { milliseconds: u64 },
    /// The primary is asked to hand over to this replica, or to whom it likes.
    Failover { to: Option<usize> },
    /// The disk is replaced by an empty one. At most once in a run: the replica learns from then
    /// on, and votes no more.
    Wipe { replica: usize },
}

impl Fault {
    /// Under which name it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill -9",
            Fault::Restart(_) => "restart",
            Fault::Pause(_) => "SIGSTOP",
            Fault::FillDisk(_) => "full disk",
            Fault::FreezeDisk(_) => "hanging disk",
            Fault::Isolate { told: true, .. } => "isolation, connections closed",
            Fault::Isolate { told: false, .. } => "isolation, silent",
            Fault::CutBetween { .. } => "partial partition",
            Fault::CutOneWay { .. } => "one-way link",
            Fault::Delay { .. } => "delay",
            Fault::Failover { .. } => "failover",
            Fault::Wipe { .. } => "replaced disk",
        }
    }
}

impl fmt::Display for Victims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Victims::Primary => write!(f, "the primary"),
            Victims::One(replica) => write!(f, "replica {replica}"),
            Victims::AllBut(replica) => write!(f, "all but replica {replica}"),
            Victims::All => write!(f, "all replicas"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Fault::Kill(victims)
            | Fault::Restart(victims)
            | Fault::Pause(victims)
            | Fault::FillDisk(victims)
            | Fault::FreezeDisk(victims)
            | Fault::Isolate { victims, .. } => write!(f, "{kind}: {victims}"),
            Fault::CutBetween { one, other } => write!(f, "{kind}: between {one} and {other}"),
            Fault::CutOneWay { from, to } => write!(f, "{kind}: from {from} to {to}"),
            Fault::Delay { milliseconds } => write!(f, "{kind}: {milliseconds} ms"),
            Fault::Failover { to: Some(to) } => write!(f, "{kind}: to {to}"),
            Fault::Failover { to: None } => write!(f, "{kind}"),
            Fault::Wipe { replica } => write!(f, "{kind}: replica {replica}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub begin: Duration,
    pub end: Duration,
    pub fault: Fault,
}

/// In the order in which they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub faults: Vec<Planned>,
}

impl Schedule {
    pub fn new(seed: u64, duration: Duration) -> Schedule {
        let mut random = Random::new(seed);
        let mut faults = lane(&mut random, duration, process_fault);
        let wipe_after = duration.mul_f64(0.6);
        // In the place of another fault of that lane, so that no other process is down meanwhile.
        if let Some(replaced) = faults.iter_mut().find(|planned| planned.begin > wipe_after) {
            replaced.fault = Fault::Wipe { replica: random.index(REPLICAS) };
        }
        faults.extend(lane(&mut random, duration, network_fault));
        faults.sort_by_key(|planned| planned.begin);
        Schedule { faults }
    }
}

/// Faults with some rest between them, all over when the time is.
fn lane(random: &mut Random, duration: Duration, draw: fn(&mut Random) -> (Fault, u64)) -> Vec<Planned> {
    let mut faults = Vec::new();
    let mut at = random.between(1_000, 4_000);
    loop {
        let (fault, length_ms) = draw(random);
        let (begin, end) = (Duration::from_millis(at), Duration::from_millis(at + length_ms));
        if end > duration {
            return faults;
        }
        faults.push(Planned { begin, end, fault });
        at += length_ms + random.weighted(&[(3, 1_000), (3, 3_000), (1, 8_000)]);
    }
}

fn victims(random: &mut Random) -> Victims {
    let replica = random.index(REPLICAS);
    let choices = [(8, Victims::Primary), (8, Victims::One(replica)), (2, Victims::AllBut(replica)), (2, Victims::All)];
    random.weighted(&choices)
}

fn one_victim(random: &mut Random) -> Victims {
    let replica = random.index(REPLICAS);
    random.weighted(&[(1, Victims::Primary), (1, Victims::One(replica))])
}

fn process_fault(random: &mut Random) -> (Fault, u64) {
    let (several, one) = (victims(random), one_victim(random));
    let to = Some(random.index(REPLICAS)).filter(|_| random.chance(50));
    let fault = random.weighted(&[
        (10, Fault::Kill(several)),
        (4, Fault::Restart(one)),
        (6, Fault::Pause(several)),
        (3, Fault::FillDisk(one)),
        (3, Fault::FreezeDisk(one)),
        (4, Fault::Failover { to }),
    ]);
    let length_ms = match fault {
        Fault::Restart(_) => random.between(1_500, 3_000),
        _ => random.weighted(&[(3, 300), (4, 2_000), (2, 6_000)]) + random.between(0, 1_000),
    };
    (fault, length_ms)
}

fn network_fault(random: &mut Random) -> (Fault, u64) {
    let (from, step) = (random.index(REPLICAS), 1 + random.index(REPLICAS - 1));
    let to = (from + step) % REPLICAS;
    let (victims, told) = (one_victim(random), random.chance(40));
    let delay = random.weighted(&[(2, 5), (2, 50), (1, 400)]);
    let fault = random.weighted(&[
        (6, Fault::Isolate { victims, told }),
        (3, Fault::CutBetween { one: from, other: to }),
        (3, Fault::CutOneWay { from, to }),
        (4, Fault::Delay { milliseconds: delay }),
    ]);
    (fault, random.weighted(&[(2, 500), (4, 3_000), (2, 8_000)]) + random.between(0, 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_decides_the_schedule() {
        assert_eq!(Schedule::new(7, MINUTE), Schedule::new(7, MINUTE));
        assert_ne!(Schedule::new(7, MINUTE), Schedule::new(8, MINUTE));
    }

    #[test]
    fn all_faults_are_over_when_the_time_is() {
        for seed in 0..100 {
            let faults = Schedule::new(seed, MINUTE).faults;
            assert!(faults.len() > 5, "seed {seed}: {} faults", faults.len());
            assert!(faults.iter().all(|planned| planned.begin < planned.end && planned.end <= MINUTE), "seed {seed}");
            assert!(faults.is_sorted_by_key(|planned| planned.begin), "seed {seed}");
        }
    }

    #[test]
    fn at_most_one_disk_is_replaced() {
        for seed in 0..100 {
            let faults = Schedule::new(seed, MINUTE).faults;
            let wipes = faults.iter().filter(|planned| matches!(planned.fault, Fault::Wipe { .. })).count();
            assert!(wipes <= 1, "seed {seed}: {wipes}");
        }
    }

    #[test]
    fn every_kind_of_fault_is_drawn_in_a_long_run() {
        let faults = Schedule::new(1, 60 * MINUTE).faults;
        let kinds: std::collections::BTreeSet<_> = faults.iter().map(|planned| planned.fault.kind()).collect();
        assert_eq!(kinds.len(), 12, "{kinds:?}");
    }
}
