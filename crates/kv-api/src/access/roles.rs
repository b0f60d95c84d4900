//! The built-in roles. They exist in every cluster, cannot be changed, and are not stored.

use std::sync::LazyLock;

use super::{Grant, Verb, Verbs};

/// The role, and the user that `auth enable` creates, that may do everything.
pub const ROOT: &str = "root";

/// The names of the built-in roles.
pub const BUILT_IN_ROLES: [&str; 5] = [ROOT, "reader", "writer", "operator", "metrics"];

/// The grants of a built-in role; `None` if this is not the name of one.
pub fn built_in_role(name: &str) -> Option<&'static [Grant]> {
    let at = BUILT_IN_ROLES.iter().position(|role| *role == name)?;
    Some(std::slice::from_ref(&GRANTS[at]))
}

static GRANTS: LazyLock<[Grant; 5]> = LazyLock::new(|| {
    BUILT_IN_ROLES.map(|role| {
        Grant::everything(match role {
            ROOT => Verbs::of(&Verb::ALL),
            "reader" => Verbs::of(&[Verb::Read, Verb::Watch]),
            "writer" => Verbs::of(&[Verb::Read, Verb::Write, Verb::Watch]),
            "operator" => Verbs::of(&[Verb::AdminStatus, Verb::AdminFamily, Verb::AdminMember, Verb::AdminBackup]),
            "metrics" => Verbs::of(&[Verb::AdminStatus]),
            _ => Verbs::NONE,
        })
    })
});
