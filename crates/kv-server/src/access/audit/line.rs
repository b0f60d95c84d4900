//! One line of the audit log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kv_api::access::{AccessCommand, Keys};
use kv_api::{DEFAULT_COLUMN_FAMILY, KvOperation};
use serde::Serialize;

use super::AuditKeys;
use crate::access::{Caller, ConnectionFacts, check_needs, digest_of_bytes};

/// More keys than this are counted and not listed.
const MAX_KEYS: usize = 16;

/// One line. Absent fields do not apply.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    time: String,
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// How the user was identified.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    address: String,
    encrypted: bool,
    method: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    verbs: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    families: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keys: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    more_keys: usize,
    /// A change of families, users or roles.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    outcome: String,
    ms: f64,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Line {
    pub fn new(id: u64, time: SystemTime, facts: &ConnectionFacts, method: &'static str) -> Self {
        Line {
            time: utc(time),
            id,
            user: None,
            by: None,
            address: facts.address.to_string(),
            encrypted: facts.encrypted,
            method,
            verbs: Vec::new(),
            families: Vec::new(),
            keys: Vec::new(),
            more_keys: 0,
            change: None,
            version: None,
            outcome: String::new(),
            ms: 0.0,
        }
    }

    pub fn of_caller(&mut self, caller: &Caller) {
        let granted = caller.granted();
        self.user = granted.map(|granted| granted.rights.user().to_owned());
        self.by = granted.map(|granted| granted.means.name());
    }

    pub fn of_operation(&mut self, operation: &KvOperation, notation: AuditKeys) {
        // It has no needs that cannot be listed: one that makes no sense was refused before.
        let _ = check_needs(operation, &mut |need| {
            add(&mut self.verbs, need.verb.name());
            let family = match need.family {
                None => "*",
                Some("") => DEFAULT_COLUMN_FAMILY,
                Some(family) => family,
            };
            if !self.families.iter().any(|known| known == family) {
                self.families.push(family.to_owned());
            }
            match keys_text(&need.keys, notation) {
                None => {}
                Some(keys) if self.keys.len() < MAX_KEYS => self.keys.push(keys),
                Some(_) => self.more_keys += 1,
            }
            Ok(())
        });
        self.change = match operation {
            KvOperation::ChangeFamily(change) => {
                Some(format!("{} family {}", if change.drop { "drop" } else { "create" }, change.name))
            }
            KvOperation::ChangeAccess(change) => change.command.as_ref().map(described),
            KvOperation::ReadVersion
            | KvOperation::Get { .. }
            | KvOperation::GetRange { .. }
            | KvOperation::AtomicCommit(_)
            | KvOperation::ReadChanges(_)
            | KvOperation::ClockTick => None,
        };
    }

    pub fn end(&mut self, outcome: &str, version: Option<u64>, took: Duration) {
        self.outcome = outcome.to_owned();
        self.version = version;
        self.ms = (took.as_secs_f64() * 1e6).round() / 1e3;
    }

    /// The line with its line feed.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a line is plain data");
        text.push('\n');
        text
    }
}

fn add(list: &mut Vec<&'static str>, item: &'static str) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn keys_text(keys: &Keys, notation: AuditKeys) -> Option<String> {
    let key = |key: &[u8]| match notation {
        AuditKeys::Hash => {
            let digest = digest_of_bytes(key);
            format!("sha256:{}", digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        AuditKeys::Prefix(bytes) if key.len() > bytes => format!("{}…", key[..bytes].escape_ascii()),
        AuditKeys::Prefix(_) | AuditKeys::Full => key.escape_ascii().to_string(),
    };
    Some(match keys {
        Keys::All => return None,
        Keys::One(one) => key(one),
        Keys::Prefix(prefix) => format!("{}*", key(prefix)),
        Keys::Range { begin, end } => format!("{}..{}", key(begin), key(end)),
        Keys::Through { begin, last } => format!("{}..={}", key(begin), key(last)),
        Keys::From(begin) => format!("{}..", key(begin)),
    })
}

/// A change in words, without secrets and their hashes.
fn described(command: &AccessCommand) -> String {
    match command {
        AccessCommand::Enable(token) => format!("enable authentication with token {:016x}", token.id),
        AccessCommand::Disable(_) => "disable authentication".into(),
        AccessCommand::AddUser(user) => format!("add user {} with roles {}", user.name, user.roles.join(", ")),
        AccessCommand::RemoveUser(name) => format!("remove user {name}"),
        AccessCommand::SetUserRoles(user) => format!("set roles of user {} to {}", user.name, user.roles.join(", ")),
        AccessCommand::DisableUser(user) if user.disabled => format!("disable user {}", user.name),
        AccessCommand::DisableUser(user) => format!("let user {} in again", user.name),
        AccessCommand::AddToken(token) => format!("add token {:016x} of user {}", token.id, token.user),
        AccessCommand::RevokeToken(id) => format!("revoke token {id:016x}"),
        AccessCommand::SetRole(role) => {
            let grants: Vec<String> = role.grants.iter().map(ToString::to_string).collect();
            format!("set role {} to {}", role.name, grants.join("; "))
        }
        AccessCommand::RemoveRole(name) => format!("remove role {name}"),
    }
}

/// As in RFC 3339, with milliseconds.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// The date of a day, counted from 1970-01-01. Years begin in March here, so that the leap day is
/// the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc() {
        let at = |seconds: u64, ms: u64| utc(UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + ms));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399, 999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199, 1), "2024-02-29T23:59:59.001Z");
        assert_eq!(at(1_735_689_600, 0), "2025-01-01T00:00:00.000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }
}
