//! `replication.auto_finalize`: `false`, or a delay.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const EXPECTED: &str = "false, or a delay such as \"30s\", \"10m\", \"2h\" or \"7d\"";

/// Whether a primary raises the feature level by itself once all replicas have executed a higher
/// one for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoFinalize {
    /// Only `synodkv upgrade finalize` does.
    #[default]
    Off,
    /// After this many seconds.
    AfterSeconds(u64),
}

impl AutoFinalize {
    /// The delay; `None` if only an operator raises the level.
    pub fn delay(self) -> Option<Duration> {
        match self {
            AutoFinalize::Off => None,
            AutoFinalize::AfterSeconds(seconds) => Some(Duration::from_secs(seconds)),
        }
    }
}

impl FromStr for AutoFinalize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "false" {
            return Ok(AutoFinalize::Off);
        }
        let unit_s = match text.chars().last() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(EXPECTED),
        };
        // A number longer than nine digits is no delay, and would overflow.
        let digits = &text[..text.len() - 1];
        let number: u64 = digits.parse().map_err(|_| EXPECTED)?;
        if digits.len() > 9 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(EXPECTED);
        }
        Ok(AutoFinalize::AfterSeconds(number * unit_s))
    }
}

impl fmt::Display for AutoFinalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AutoFinalize::Off => f.write_str("false"),
            AutoFinalize::AfterSeconds(seconds) => write!(f, "{seconds}s"),
        }
    }
}

impl Serialize for AutoFinalize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            AutoFinalize::Off => serializer.serialize_bool(false),
            AutoFinalize::AfterSeconds(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for AutoFinalize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Delay;
        impl Visitor<'_> for Delay {
            type Value = AutoFinalize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<AutoFinalize, E> {
                match value {
                    false => Ok(AutoFinalize::Off),
                    true => Err(E::invalid_value(Unexpected::Bool(true), &self)),
                }
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<AutoFinalize, E> {
                value.parse().map_err(|_| E::invalid_value(Unexpected::Str(value), &self))
            }
        }
        deserializer.deserialize_any(Delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_has_a_unit() {
        let of = |text: &str| text.parse::<AutoFinalize>();
        assert_eq!(of("false"), Ok(AutoFinalize::Off));
        for (text, seconds) in [("0s", 0), ("30s", 30), ("10m", 600), ("2h", 7_200), ("7d", 604_800)] {
            assert_eq!(of(text), Ok(AutoFinalize::AfterSeconds(seconds)), "{text}");
        }
        for text in ["", "true", "10", "m", "-5m", "+5m", "1.5h", "5w", "9999999999s", "5\u{b5}"] {
            assert_eq!(of(text), Err(EXPECTED), "{text}");
        }
    }
}
