//! The changes of each version, which a feed must tell, and when they were made.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use kv_api::{Change, ChangeRange, ClearCause, Effect, FamilyEffect, Version};

/// A family and one of its keys.
type Place = (String, Bytes);

struct Clear {
    begin: Place,
    /// `None`: the end of the family.
    end: Option<Bytes>,
    cause: ClearCause,
}

#[derive(Default)]
struct Changed {
    time_us: u64,
    clears: Vec<Clear>,
    /// Keys that were written after the last clear of them.
    keys: BTreeMap<Place, Option<Bytes>>,
}

/// Every version, with what it changed.
#[derive(Default)]
pub struct ChangeLog(BTreeMap<u64, Changed>);

impl ChangeLog {
    /// A version begins, which is the newest.
    pub fn begin(&mut self, version: u64, time_us: u64) {
        let earlier = self.0.insert(version, Changed { time_us, ..Changed::default() });
        assert!(earlier.is_none(), "version {version} begins twice");
    }

    fn newest(&mut self) -> &mut Changed {
        self.0.last_entry().expect("a version has begun").into_mut()
    }

    pub fn write(&mut self, family: &str, key: &Bytes, value: Option<Bytes>) {
        self.newest().keys.insert((family.into(), key.clone()), value);
    }

    /// Writes of the same version there, before this, are not told.
    pub fn clear(&mut self, family: &str, begin: &Bytes, end: Option<&Bytes>, cause: ClearCause) {
        let changed = self.newest();
        let covers = |key: &Bytes| key >= begin && end.is_none_or(|end| key < end);
        changed.keys.retain(|(of, key), _| of != family || !covers(key));
        changed.clears.push(Clear { begin: (family.into(), begin.clone()), end: end.cloned(), cause });
    }

    /// The newest version is complete: clears that touch are told as one.
    pub fn end(&mut self) {
        let clears = &mut self.newest().clears;
        clears.sort_by(|a, b| a.begin.cmp(&b.begin));
        clears.dedup_by(|next, last| {
            let touches = next.begin.0 == last.begin.0 && last.end.as_ref().is_none_or(|end| next.begin.1 <= *end);
            if touches {
                last.end = last.end.take().zip(next.end.take()).map(|(a, b)| a.max(b));
            }
            touches
        });
    }

    /// When a version was made, by replicated time.
    pub fn time_us(&self, version: u64) -> u64 {
        self.0.get(&version).map_or(0, |changed| changed.time_us)
    }

    /// The versions after `after`, up to `through`, that changed something in these ranges, which do
    /// not touch each other and are in order. None: everywhere.
    pub fn between(&self, after: u64, through: u64, ranges: &[ChangeRange], with_values: bool) -> Vec<Change> {
        let versions = self.0.range((Bound::Excluded(after), Bound::Included(through)));
        let told = versions.map(|(version, changed)| Change {
            version: Version(*version),
            time_us: changed.time_us,
            effects: changed.effects(ranges, with_values),
        });
        told.filter(|change| !change.effects.is_empty()).collect()
    }
}

impl Changed {
    fn effects(&self, ranges: &[ChangeRange], with_values: bool) -> Vec<FamilyEffect> {
        let mut effects = Vec::new();
        let mut tell = |family: &str, effect| {
            effects.push(FamilyEffect { column_family: family.into(), effect });
        };
        for Clear { begin: (family, begin), end, cause } in &self.clears {
            if ranges.is_empty() {
                tell(family, Effect::Clear { begin: begin.clone(), end: end.clone(), cause: *cause });
            }
            for range in ranges.iter().filter(|range| range.column_family == *family) {
                let begin = begin.max(&range.begin).clone();
                let end = match (end, &range.end) {
                    (Some(a), Some(b)) => Some(a.min(b).clone()),
                    (a, b) => a.as_ref().or(b.as_ref()).cloned(),
                };
                if end.as_ref().is_none_or(|end| begin < *end) {
                    tell(family, Effect::Clear { begin, end, cause: *cause });
                }
            }
        }
        let is_asked_for = |family: &String, key: &Bytes| {
            let holds = |range: &ChangeRange| {
                range.column_family == *family && *key >= range.begin && range.end.as_ref().is_none_or(|end| key < end)
            };
            ranges.is_empty() || ranges.iter().any(holds)
        };
        for ((family, key), value) in self.keys.iter().filter(|((family, key), _)| is_asked_for(family, key)) {
            let key = key.clone();
            let effect = match value {
                Some(value) if with_values => Effect::Set { key, value: value.clone() },
                Some(_) => Effect::Set { key, value: Bytes::new() },
                None => Effect::Delete { key },
            };
            tell(family, effect);
        }
        effects
    }
}
