//! Statements: the lines of `synodkv txn` and of `synodkv shell`.
//!
//! `words` splits a line into words, and `arguments` tells options from operands. `commands` is the
//! table of all commands with their help, and `actions` has the function of each. `parse` makes a
//! [`Statement`] of a line, `execute` runs it in a transaction, and `present` prints its outcome.
//! Nothing here knows where lines come from or when a transaction commits.

mod actions;
mod arguments;
pub mod commands;
pub mod execute;
pub mod parse;
pub mod present;
pub mod words;

use kv_client::{Bytes, MutationKind, Stamped, Version};

/// A parsed line.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Statement(Statement),
    Session(SessionCommand),
}

/// An operation within a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The name of its command.
    pub name: &'static str,
    /// The column family; empty means the default one.
    pub family: String,
    pub action: Action,
    /// The version to read at, instead of that of the transaction.
    pub at: Option<Version>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Get { key: Bytes, is_snapshot: bool, is_number: bool },
    Range(Scan),
    Assert { key: Bytes, expected: Expected },
    Conflict { begin: Bytes, end: Option<Bytes> },
    Set { key: Bytes, value: Bytes },
    Delete { key: Bytes },
    Clear { begin: Bytes, end: Bytes },
    Atomic { kind: MutationKind, key: Bytes, operand: Bytes },
    SetStampedKey { key: Stamped, value: Bytes },
    SetStampedValue { key: Bytes, value: Stamped },
}

impl Action {
    pub fn writes(&self) -> bool {
        !matches!(self, Action::Get { .. } | Action::Range(_) | Action::Assert { .. } | Action::Conflict { .. })
    }
}

/// A range read: `begin <= key < end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub begin: Bytes,
    pub end: Bytes,
    /// Maximum number of rows; `None` for all.
    pub limit: Option<usize>,
    pub is_reverse: bool,
    pub is_snapshot: bool,
}

/// The condition of an assert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Value(Bytes),
    /// Another value, or none.
    Not(Bytes),
    Exists,
    Missing,
}

/// A command about the session, not about data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCommand {
    Begin {
        at: Option<Version>,
    },
    Commit,
    Rollback,
    /// Makes this the family of the following statements.
    Use {
        family: String,
    },
    Help {
        command: Option<String>,
    },
    Quit,
}
