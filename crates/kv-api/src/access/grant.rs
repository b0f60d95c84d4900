//! A grant: verbs on a range of keys of some column families, with its text form
//! `VERBS FAMILIES [KEYS]`, for example `read,write orders prefix:eu/`.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use prost::Message;

use super::Need;
use super::text::{escaped, family_text, unescaped};
use super::verb::{Scope, Verb, Verbs};
use crate::{DEFAULT_COLUMN_FAMILY, family_name_fault};

/// Verbs on the keys `begin <= key < end` of some column families. Field numbers are never reused.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Grant {
    /// A set of verbs, as [`Verbs::bits`].
    #[prost(uint32, tag = "1")]
    pub verbs: u32,
    /// Every family, those of the future included; `families` is then empty.
    #[prost(bool, tag = "2")]
    pub all_families: bool,
    /// The families; the default family has the empty name.
    #[prost(string, repeated, tag = "3")]
    pub families: Vec<String>,
    /// First key.
    #[prost(bytes = "bytes", tag = "4")]
    pub begin: Bytes,
    /// End of the range, exclusive; absent: no end.
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub end: Option<Bytes>,
}

impl Grant {
    /// These verbs on everything.
    pub fn everything(verbs: Verbs) -> Self {
        Grant { verbs: verbs.bits(), all_families: true, ..Grant::default() }
    }

    /// The verbs that are granted.
    pub fn verbs(&self) -> Verbs {
        Verbs::from_bits(self.verbs)
    }

    /// Whether it covers every key of every family.
    pub fn is_everywhere(&self) -> bool {
        self.all_families && self.begin.is_empty() && self.end.is_none()
    }

    /// Whether the verb is granted on some keys of the family that the need names.
    pub(super) fn concerns(&self, need: &Need) -> bool {
        let in_family = |family| self.families.iter().any(|name| name == family);
        self.verbs().has(need.verb) && (self.all_families || need.family.is_some_and(in_family))
    }

    /// Why this grant makes no sense; `None` if it does.
    pub(super) fn fault(&self) -> Option<String> {
        if self.verbs().is_empty() {
            return Some("a grant needs a verb".into());
        }
        if self.all_families != self.families.is_empty() {
            return Some("a grant is for all column families or names some".into());
        }
        let name = |name: &String| !name.is_empty() && family_name_fault(name).is_some();
        if let Some(name) = self.families.iter().find(|family| name(family)) {
            return Some(format!("no column family can be named '{name}'"));
        }
        if self.end.as_ref().is_some_and(|end| *end <= self.begin) {
            return Some("the range of keys is empty".into());
        }
        self.verbs().iter().find_map(|verb| self.scope_fault(verb))
    }

    fn scope_fault(&self, verb: Verb) -> Option<String> {
        let whole_families = self.begin.is_empty() && self.end.is_none();
        match verb.scope() {
            Scope::Families if !whole_families => Some(format!("{verb} is granted for whole column families only")),
            Scope::Cluster if !self.is_everywhere() => {
                Some(format!("{verb} concerns the whole cluster: grant it on all column families, `{verb} *`"))
            }
            Scope::Keys | Scope::Families | Scope::Cluster => None,
        }
    }
}

/// Whether these grants together cover the need: each key of it lies in one of them. Allocates
/// nothing.
pub(super) fn covered<'g>(grants: impl Iterator<Item = &'g Grant> + Clone, need: &Need) -> bool {
    let mut concerned = grants.filter(|grant| grant.concerns(need));
    if need.keys.is_empty() {
        return concerned.next().is_some();
    }
    let mut reached: &[u8] = need.keys.begin();
    loop {
        let at_reached = |grant: &&Grant| {
            grant.begin.as_ref() <= reached && grant.end.as_ref().is_none_or(|end| end.as_ref() > reached)
        };
        let ends = concerned.clone().filter(at_reached).map(|grant| grant.end.as_deref());
        // The furthest end; no end at all is further than any.
        let Some(end) = ends.max_by(|a, b| a.is_none().cmp(&b.is_none()).then(a.cmp(b))) else { return false };
        if need.keys.all_before(end) {
            return true;
        }
        let Some(end) = end else { return true };
        reached = end;
    }
}

/// The least key that is greater than all keys with this prefix; `None` if there is none.
fn end_of_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<&str> = self.families.iter().map(|family| family_text(family)).collect();
        let families = if self.all_families { "*".to_string() } else { families.join(",") };
        write!(f, "{} {families}", self.verbs())?;
        // Two dots separate the ends of a range, so no dot of a key stands for itself there.
        let end = |key: &[u8]| escaped(key).replace('.', "\\x2e");
        match &self.end {
            None if self.begin.is_empty() => Ok(()),
            None => write!(f, " range:{}..", end(&self.begin)),
            // The empty prefix would be everything.
            Some(stop) if !self.begin.is_empty() && end_of_prefix(&self.begin).as_ref() == Some(stop) => {
                write!(f, " prefix:{}", escaped(&self.begin))
            }
            Some(stop) => write!(f, " range:{}..{}", end(&self.begin), end(stop)),
        }
    }
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace();
        let (Some(verbs), Some(families), keys, None) = (words.next(), words.next(), words.next(), words.next()) else {
            return Err(format!(
                "grant `{text}`: VERBS FAMILIES [KEYS] is expected, for example `read,write orders prefix:eu/`"
            ));
        };
        let of = |fault: String| format!("grant `{text}`: {fault}");
        let (begin, end) = parse_keys(keys).map_err(of)?;
        let verbs = verbs.parse::<Verbs>().map_err(of)?.bits();
        let internal = |name: &str| if name == DEFAULT_COLUMN_FAMILY { String::new() } else { name.to_owned() };
        let all_families = families == "*";
        if families.split(',').any(str::is_empty) {
            return Err(of("a column family has no name".into()));
        }
        let families = if all_families { Vec::new() } else { families.split(',').map(internal).collect() };
        let grant = Grant { verbs, all_families, families, begin, end };
        match grant.fault() {
            Some(fault) => Err(of(fault)),
            None => Ok(grant),
        }
    }
}

fn parse_keys(text: Option<&str>) -> Result<(Bytes, Option<Bytes>), String> {
    let Some(text) = text else { return Ok((Bytes::new(), None)) };
    if let Some(prefix) = text.strip_prefix("prefix:") {
        let begin = unescaped(prefix)?;
        if begin.is_empty() {
            return Err("the prefix is empty; leave it out to grant all keys".into());
        }
        return Ok((begin.clone(), end_of_prefix(&begin)));
    }
    let ends = text.strip_prefix("range:").and_then(|range| range.split_once(".."));
    let (begin, end) = ends.ok_or_else(|| {
        format!("`{text}` names no keys; allowed: `prefix:P`, `range:A..B`, `range:A..` and `range:..B`")
    })?;
    let end = if end.is_empty() { None } else { Some(unescaped(end)?) };
    Ok((unescaped(begin)?, end))
}
