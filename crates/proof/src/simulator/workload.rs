//! The workload of clients: kinds of operations, their frequencies, and timeouts.
//!
//! Every commit, whatever it is for, also pushes its own number into a *journal* under a
//! versionstamped key. So the database itself tells, at any time, which commits took effect, how
//! often, and in which order.

use super::random::Random;

/// Names one commit, however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Write,
    Read,
    CompareAndSet,
    /// Clears all registers as one range.
    Forget,
    /// Reads and appends to lists in one transaction.
    Lists,
    ReadLists,
    Transfer,
    /// All balances, by ranges, at one version.
    Audit,
    /// Moves an amount in the ledger by atomic additions, or clears all of it: both keep its sum at
    /// zero.
    Give,
    Push,
    Scan,
    Pop,
    /// Reads some elements from the front of the queue and clears them as a range.
    TakeMany,
    /// Where nobody has a claim: makes one. Else takes it away.
    Claim,
    /// Any operation on scratch keys.
    ScratchKeys,
    /// Creates a family, or drops one.
    Families,
    /// Changes users, roles or tokens.
    Access,
    /// Something as it was at an old version, at the edge of the readable window or beyond.
    Snapshot,
    /// Nothing but its row in the journal.
    Note,
}

impl Kind {
    /// The kinds from which clients choose.
    pub const ALL: [Kind; 18] = [
        Kind::Write,
        Kind::Read,
        Kind::CompareAndSet,
        Kind::Forget,
        Kind::Lists,
        Kind::ReadLists,
        Kind::Transfer,
        Kind::Audit,
        Kind::Give,
        Kind::Push,
        Kind::Scan,
        Kind::Pop,
        Kind::TakeMany,
        Kind::Claim,
        Kind::ScratchKeys,
        Kind::Families,
        Kind::Access,
        Kind::Snapshot,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Write => "write",
            Kind::Read => "read",
            Kind::CompareAndSet => "compare-and-set",
            Kind::Forget => "forget registers",
            Kind::Lists => "list transaction",
            Kind::ReadLists => "list read",
            Kind::Transfer => "transfer",
            Kind::Audit => "audit",
            Kind::Give => "give by addition",
            Kind::Push => "push",
            Kind::Scan => "scan",
            Kind::Pop => "pop",
            Kind::TakeMany => "take many",
            Kind::Claim => "claim",
            Kind::ScratchKeys => "scratch_keys",
            Kind::Families => "families",
            Kind::Access => "users and roles",
            Kind::Snapshot => "snapshot read",
            Kind::Note => "note",
        }
    }

    pub fn is_read_only(self) -> bool {
        matches!(self, Kind::Read | Kind::ReadLists | Kind::Audit | Kind::Scan | Kind::Snapshot)
    }

    /// Begins with a commit: reads nothing first.
    pub fn is_blind(self) -> bool {
        matches!(
            self,
            Kind::Write | Kind::Forget | Kind::Give | Kind::Push | Kind::Families | Kind::Access | Kind::Note
        )
    }
}

/// How clients behave in one run.
#[derive(Clone, Debug)]
pub struct WorkloadProfile {
    pub clients: usize,
    /// The longest pause between two operations.
    pub pause_us: u64,
    /// The longest that a client waits for a step.
    pub patience_us: u64,
    pub registers: u64,
    pub lists: u64,
    pub accounts: u64,
    /// The number of scratch keys.
    pub scratch_keys: u64,
    /// How often each kind is chosen.
    weights: Vec<(Kind, u64)>,
    /// One in this many steps goes to another node than the one before.
    pub wander: u64,
    /// Extra bytes in a commit, at most.
    pub padding: u64,
    /// One in this many commits carries an idempotency id, and is sent again until it has an
    /// answer.
    pub ids: u64,
    /// Readable windows of the servers, which need not be the same, in milliseconds.
    pub windows_ms: Vec<u64>,
}

impl WorkloadProfile {
    pub fn any(random: &mut Random) -> WorkloadProfile {
        let mut weights: Vec<(Kind, u64)> = Kind::ALL.iter().map(|kind| (*kind, random.pick(&[0, 1, 1, 3]))).collect();
        // Something must be written and something read, or nothing can be wrong.
        weights.extend([(Kind::Write, 1), (Kind::Read, 1)]);
        let usual_ms = random.pick(&[100, 500, 2_000, 5_000, 20_000, 60_000]);
        let unequal = random.one_in(4);
        let mut window_ms = || if unequal { random.pick(&[50, 500, 5_000]) } else { usual_ms };
        let windows_ms = (0..7).map(|_| window_ms()).collect();
        WorkloadProfile {
            clients: random.between(2, 6) as usize,
            pause_us: random.pick(&[50_000, 400_000, 800_000, 1_500_000, 2_000_000, 2_000_000]),
            patience_us: random.pick(&[20_000, 300_000, 2_000_000, 6_000_000]),
            registers: random.between(1, 4),
            lists: random.between(1, 3),
            accounts: random.between(2, 5),
            scratch_keys: random.pick(&[2, 6, 20]),
            weights,
            wander: random.pick(&[0, 2, 10]),
            padding: random.pick(&[0, 0, 60, 400]),
            ids: random.pick(&[0, 1, 2, 4]),
            windows_ms,
        }
    }

    /// Few and patient clients that do a little of everything.
    pub fn calm() -> WorkloadProfile {
        WorkloadProfile {
            clients: 3,
            pause_us: 60_000,
            patience_us: 6_000_000,
            registers: 3,
            lists: 2,
            accounts: 3,
            scratch_keys: 6,
            weights: Kind::ALL.iter().map(|kind| (*kind, if kind.is_read_only() { 2 } else { 1 })).collect(),
            wander: 5,
            padding: 50,
            ids: 3,
            windows_ms: vec![2_000],
        }
    }

    pub fn window_ms(&self, node: usize) -> u64 {
        self.windows_ms[node % self.windows_ms.len()]
    }

    pub fn choose(&self, random: &mut Random) -> Kind {
        let sum: u64 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut left = random.below(sum);
        for (kind, weight) in &self.weights {
            if left < *weight {
                return *kind;
            }
            left -= weight;
        }
        Kind::Write
    }
}
