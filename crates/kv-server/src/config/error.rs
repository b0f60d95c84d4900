//! The error of a configuration, in one line.

use figment::error::Kind;

/// One line that names the key, the value, what is allowed and the origin of the value, as far as
/// they are known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {message}")]
pub struct ConfigError {
    message: String,
}

impl ConfigError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        ConfigError { message: message.into() }
    }

    /// A value of the right type that is out of bounds.
    pub(super) fn value(key: &str, value: impl std::fmt::Display, wanted: &str, origin: &str) -> Self {
        ConfigError::new(format!("{key} = {value}{origin}: {wanted}"))
    }

    /// Converts an error of the parser. `value` is the one at the error's place, if there is one.
    pub(super) fn parse(error: &figment::Error, value: Option<String>, origin: &str) -> Self {
        let path = key_text(&error.path);
        let place = match &value {
            Some(value) => format!("{path} = {value}{origin}"),
            None => format!("{path}{origin}"),
        };
        let list = |allowed: &[&str]| allowed.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        ConfigError::new(match &error.kind {
            Kind::UnknownField(name, allowed) => {
                let section = section_of(&error.path, name);
                let (key, place) = match section.split_last() {
                    None => (name.clone(), "at top level".to_string()),
                    Some((last, list)) if is_index(last) => {
                        (format!("{}.{name}", key_text(section)), format!("in [[{}]]", key_text(list)))
                    }
                    Some(_) => (format!("{}.{name}", key_text(section)), format!("in [{}]", key_text(section))),
                };
                // A file of another server differs already at the top level.
                let hint = if section.is_empty() {
                    "; docs/MIGRATE.md lists what replaced the predecessor's settings"
                } else {
                    ""
                };
                format!("unknown key `{key}`{origin}; allowed {place}: {}{hint}", list(allowed))
            }
            Kind::UnknownVariant(_, allowed) => format!("{place}; allowed: {}", list(allowed)),
            Kind::InvalidType(_, wanted) | Kind::InvalidValue(_, wanted) if value.is_some() => {
                format!("{place}: expected {}", in_words(wanted))
            }
            Kind::InvalidType(actual, wanted) | Kind::InvalidValue(actual, wanted) => {
                format!("{place}: found {actual}, expected {}", in_words(wanted))
            }
            Kind::MissingField(name) => {
                let key = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
                format!("`{key}` is missing{origin}")
            }
            Kind::Message(message) if path.is_empty() => format!("{}{origin}", in_one_line(message)),
            other => format!("{place}: {other}"),
        })
    }
}

/// Translates serde's names of number types for users.
fn in_words(wanted: &str) -> String {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more".to_string(),
        "a boolean" => "true or false".to_string(),
        "a sequence" => "a list, in brackets".to_string(),
        other => other.to_string(),
    }
}

/// The parser's message about a file that is not TOML, without the drawing of the place: first the
/// place, then the error.
fn in_one_line(message: &str) -> String {
    let is_picture = |line: &&str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    let mut lines = message.lines().filter(|line| !is_picture(line));
    let place = lines.next().unwrap_or_default();
    let faults: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    match faults.as_slice() {
        [] => place.to_string(),
        faults => format!("{place}: {}", faults.join(", ")),
    }
}

fn is_index(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_digit())
}

/// `replication.replicas[0].peer`
fn key_text(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if is_index(part) {
            text.push_str(&format!("[{part}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(part);
        }
    }
    text
}

/// The parser's path of an unknown key sometimes ends in the key itself and sometimes in its
/// section.
fn section_of<'a>(path: &'a [String], name: &str) -> &'a [String] {
    match path.split_last() {
        Some((last, section)) if last == name => section,
        _ => path,
    }
}
