//! The rules for names of users and roles.

/// Longest name of a user or role, in bytes.
pub const MAX_ACCESS_NAME_BYTES: usize = 128;

/// Why a user or role cannot have this name, phrased to follow the name in a message; `None` if it
/// can. `@` and `:` are allowed because names of certificates and JWTs have them.
pub(super) fn name_fault(name: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.@:".contains(&b);
    let is_name = (1..=MAX_ACCESS_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed);
    (!is_name).then(|| format!("a name has 1 to {MAX_ACCESS_NAME_BYTES} letters, digits, or _ - . @ :"))
}
