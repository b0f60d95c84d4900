//! The verbs of grants, and sets of them.

use std::fmt;
use std::str::FromStr;

/// A kind of access. The numbers stand in the encoding of grants and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Verb {
    /// Reads rows, or lets a commit depend on them.
    Read = 0,
    /// Changes rows.
    Write = 1,
    /// Waits for changes of rows.
    Watch = 2,
    /// Reads the state of servers: status, health, statistics, metrics.
    AdminStatus = 3,
    /// Creates and drops column families.
    AdminFamily = 4,
    /// Changes members, and which replica is primary.
    AdminMember = 5,
    /// Makes backups.
    AdminBackup = 6,
    /// Changes users, roles, grants and tokens.
    AdminAuth = 7,
    /// Injects faults.
    Fault = 8,
}

impl Verb {
    /// All verbs, in the order of their numbers.
    pub const ALL: [Verb; 9] = [
        Verb::Read,
        Verb::Write,
        Verb::Watch,
        Verb::AdminStatus,
        Verb::AdminFamily,
        Verb::AdminMember,
        Verb::AdminBackup,
        Verb::AdminAuth,
        Verb::Fault,
    ];

    /// The verb's name in grants and messages.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Read => "read",
            Verb::Write => "write",
            Verb::Watch => "watch",
            Verb::AdminStatus => "admin:status",
            Verb::AdminFamily => "admin:family",
            Verb::AdminMember => "admin:member",
            Verb::AdminBackup => "admin:backup",
            Verb::AdminAuth => "admin:auth",
            Verb::Fault => "fault",
        }
    }

    /// The part of the data that the verb is about.
    pub(super) fn scope(self) -> Scope {
        match self {
            Verb::Read | Verb::Write | Verb::Watch => Scope::Keys,
            Verb::AdminFamily => Scope::Families,
            Verb::AdminStatus | Verb::AdminMember | Verb::AdminBackup | Verb::AdminAuth | Verb::Fault => Scope::Cluster,
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// How finely a verb can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Some keys of some families.
    Keys,
    /// Whole families.
    Families,
    /// Only as a whole.
    Cluster,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = || Verb::ALL.map(Verb::name).join(", ");
        Verb::ALL
            .into_iter()
            .find(|verb| verb.name() == text)
            .ok_or_else(|| format!("`{text}` is no verb; the verbs are {}", all()))
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Verbs(u32);

impl Verbs {
    /// No verb.
    pub const NONE: Verbs = Verbs(0);

    /// The set of these verbs.
    pub fn of(verbs: &[Verb]) -> Self {
        verbs.iter().fold(Verbs::NONE, |set, verb| set.with(*verb))
    }

    /// This set and `verb`.
    pub fn with(self, verb: Verb) -> Self {
        Verbs(self.0 | verb.bit())
    }

    /// The verbs that either set has.
    pub fn or(self, other: Verbs) -> Self {
        Verbs(self.0 | other.0)
    }

    /// The verbs that both sets have.
    pub fn and(self, other: Verbs) -> Self {
        Verbs(self.0 & other.0)
    }

    /// Whether the set has this verb.
    pub fn has(self, verb: Verb) -> bool {
        self.0 & verb.bit() != 0
    }

    /// Whether the set has no verb.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The verbs of the set, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.has(*verb))
    }

    /// The set as a number: one bit for each verb.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The set of this number. Bits of verbs that this version does not know grant nothing.
    pub fn from_bits(bits: u32) -> Self {
        Verbs(bits)
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Verb::name).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Verbs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').try_fold(Verbs::NONE, |set, name| Ok(set.with(name.parse()?)))
    }
}
