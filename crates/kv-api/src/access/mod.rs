//! Permissions: users, roles, grants and tokens as replicated state, the changes that commands
//! make to them, and the decisions that follow.
//!
//! Everything here is pure: no clock, no randomness, no I/O. So every replica that applies the same
//! changes has the same [`Policy`], and a decision depends on nothing but its arguments. Secrets
//! never come here: of a token there is only the SHA-256.
//!
//! Everything that is not granted is denied. An empty policy is not enabled, and then decides nothing.

mod change;
mod grant;
mod names;
mod need;
mod policy;
mod rights;
mod roles;
#[cfg(test)]
mod tests;
mod text;
mod verb;

pub use change::{AccessChange, AccessCommand, AccessError, AddUser, DisableUser, SetRole, SetUserRoles};
pub use grant::Grant;
pub use names::MAX_ACCESS_NAME_BYTES;
pub use need::{Keys, Need};
pub use policy::{MAX_POLICY_BYTES, Policy, Role, TokenRecord, User};
pub use rights::{Explanation, Identity, Principal, Refusal, Rights, WriteAuthority};
pub use roles::{BUILT_IN_ROLES, ROOT, built_in_role};
pub use verb::{Verb, Verbs};
