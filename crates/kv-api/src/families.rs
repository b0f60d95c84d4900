//! The rules for names of column families.

use crate::DEFAULT_COLUMN_FAMILY;

/// Longest name of a column family, in bytes.
pub const MAX_FAMILY_NAME_BYTES: usize = 64;

/// Why no column family can be created under this name, phrased to follow the name in a message;
/// `None` if it can.
pub fn family_name_fault(name: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name == DEFAULT_COLUMN_FAMILY {
        return Some("this family is always there".to_string());
    }
    let is_name = (1..=MAX_FAMILY_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed);
    if is_name && name != "." && name != ".." {
        return None;
    }
    Some(format!("a name has 1 to {MAX_FAMILY_NAME_BYTES} letters, digits, or _ - . (and is not . or .. alone)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_bounded() {
        for name in ["a", "users", "a_b-c.D9", "...", &"x".repeat(64)] {
            assert_eq!(family_name_fault(name), None, "{name}");
        }
        for name in ["", "a b", "a/b", "ä", "a\0", ".", "..", &"x".repeat(65)] {
            assert!(family_name_fault(name).is_some_and(|fault| fault.contains("1 to 64")), "{name}");
        }
        assert!(family_name_fault("default").is_some_and(|fault| fault.contains("always there")));
    }
}
