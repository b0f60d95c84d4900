//! Users, roles and tokens in backups. Of tokens, a backup has hashes only.

use bytes::Bytes;
use clap::ValueEnum;
use kv_api::access::Policy;
use serde::Deserialize;

use crate::admin::AdminClient;
use crate::failure::Failure;
use crate::targets::AdminTarget;

/// Whether users, roles and tokens are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// They are kept.
    Keep,
    /// They are left out.
    Drop,
}

/// The answer of `GET /auth/backup`.
#[derive(Deserialize)]
struct Answer {
    revision: u64,
    policy: String,
}

/// All users, roles and tokens of a cluster.
pub struct Users {
    pub revision: u64,
    pub encoded: Bytes,
}

/// Asks for them. The caller needs `admin:backup`.
pub async fn ask(admin: &AdminClient, target: &AdminTarget) -> Result<Users, Failure> {
    let asked = admin.first::<Answer>(target, "/auth/backup").await;
    let (address, Answer { revision, policy }) = asked.map_err(|failure| {
        failure.with_text(|text| format!("--auth keep: users, roles and tokens cannot be read: {text}"))
    })?;
    let byte = |at: usize| policy.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..policy.len()).step_by(2).map(byte).collect();
    let encoded = bytes.map(Bytes::from).filter(|bytes| read(bytes.clone()).is_ok());
    match encoded {
        Some(encoded) => Ok(Users { revision, encoded }),
        None => Err(Failure::Unsure(format!("{address} answers with users that cannot be read"))),
    }
}

/// Those of a backup; the error says what is wrong.
pub fn read(encoded: Bytes) -> Result<Policy, String> {
    Policy::from_bytes(encoded).map_err(|reason| format!("its users, roles and tokens cannot be read: {reason}"))
}

/// How many there are, in words.
pub fn shown(policy: &Policy) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    format!(
        "{}, {} and {}; authentication is {}",
        count(policy.users.len(), "user"),
        count(policy.roles.len(), "role"),
        count(policy.tokens.len(), "token"),
        if policy.enabled { "enabled" } else { "not enabled" }
    )
}
