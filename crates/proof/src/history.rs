//! Histories of clients: operations with the moments of their call and return, and their outcomes.
//!
//! Times are those of one clock (simulated or monotonic), in microseconds. A client has one
//! operation open at a time; one whose fate is unknown never returns, and the client continues
//! under another number.

/// Names a client: one operation at a time each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// One operation of one client, from call to return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<K> {
    pub client: ClientId,
    pub called_us: u64,
    /// When the answer came; meaningless for [`Outcome::Unknown`], which may take effect at any
    /// time after its call.
    pub returned_us: u64,
    pub kind: K,
    pub outcome: Outcome,
}

/// The client's knowledge afterwards. The values read are part of the kind, and valid only for
/// `Ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Took effect, at some moment between call and return.
    Ok,
    /// Takes no effect, now or later.
    Fail,
    /// May have taken effect, or may still: any time after its call, or never.
    Unknown,
}

/// An operation on one register (a key whose whole value is written and read).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterKind {
    Write {
        key: u64,
        value: u64,
    },
    /// 0: the key was absent.
    Read {
        key: u64,
        value: u64,
    },
    /// Writes `new` where `expected` is the value (0: absent). `Ok` means that it was; what a
    /// refused one found is recorded as a read, if it is known at all.
    CompareAndSet {
        key: u64,
        expected: u64,
        new: u64,
    },
}

impl RegisterKind {
    pub fn key(&self) -> u64 {
        match self {
            RegisterKind::Write { key, .. }
            | RegisterKind::Read { key, .. }
            | RegisterKind::CompareAndSet { key, .. } => *key,
        }
    }

    /// The key and the value that it has if this took effect.
    pub fn written(&self) -> Option<(u64, u64)> {
        match self {
            RegisterKind::Write { key, value } => Some((*key, *value)),
            RegisterKind::CompareAndSet { key, new, .. } => Some((*key, *new)),
            RegisterKind::Read { .. } => None,
        }
    }

    /// The value that must be there when this takes effect.
    pub fn observed(&self) -> Option<u64> {
        match self {
            RegisterKind::Read { value, .. } => Some(*value),
            RegisterKind::CompareAndSet { expected, .. } => Some(*expected),
            RegisterKind::Write { .. } => None,
        }
    }
}

/// A transaction over lists: all its steps take effect at one moment, or none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListTransaction {
    pub steps: Vec<ListStep>,
    /// Commit version as (sequence, index in it), where the client learned it: orders committed
    /// transactions.
    pub version: Option<u64>,
}

/// Every appended element is unique in the whole history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListStep {
    Append {
        key: u64,
        element: u64,
    },
    /// The whole list as the transaction found it, its own appends before this step included.
    Read {
        key: u64,
        list: Vec<u64>,
    },
}
