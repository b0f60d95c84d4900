//! The segments of a target, put together to chains by their names alone.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::{CLAIMS, LOG};
use crate::{BackupError, Target};

/// Digits of a hash in a name.
pub(super) const SHORT_HASH: usize = 16;
const NOTHING: &str = "0000000000000000";

/// A segment, as its name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its first version.
    pub first: u64,
    /// Its last version.
    pub last: u64,
    /// The beginning of the hash of the one before; `None`: it begins a chain.
    pub(super) previous: Option<String>,
    /// The beginning of its own hash.
    pub(super) hash: String,
    /// Its size.
    pub bytes: u64,
    /// When it was stored, by the clock of the store.
    pub stored: OffsetDateTime,
}

impl Segment {
    /// Its name in the target.
    pub fn name(&self) -> String {
        let previous = self.previous.as_deref().unwrap_or(NOTHING);
        format!("{LOG}/{:020}-{:020}-{previous}-{}.seg", self.first, self.last, self.hash)
    }

    fn parse(name: &str, bytes: u64, stored: OffsetDateTime) -> Option<Segment> {
        let stem = name.strip_prefix(LOG)?.strip_prefix('/')?.strip_suffix(".seg")?;
        let parts: Vec<&str> = stem.split('-').collect();
        let [first, last, previous, hash] = parts[..] else { return None };
        let is_hash = |text: &str| text.len() == SHORT_HASH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let is_valid = first > 0 && first <= last && is_hash(previous) && is_hash(hash);
        let previous = (previous != NOTHING).then(|| previous.to_string());
        let segment = Segment { first, last, previous, hash: hash.to_string(), bytes, stored };
        (is_valid && segment.name() == name).then_some(segment)
    }
}

/// Segments of which each follows the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// At least one, in order.
    pub segments: Vec<Segment>,
}

impl Chain {
    /// The version whose rows the chain changes first.
    pub fn base(&self) -> u64 {
        self.segments[0].first - 1
    }

    /// The last version that it leads to.
    pub fn last(&self) -> u64 {
        self.segments[self.segments.len() - 1].last
    }

    /// The segment before its first one, if that is not there: it was pruned, or is lost.
    pub fn missing(&self) -> Option<&str> {
        self.segments[0].previous.as_deref()
    }

    /// Whether rows of `version` can be changed into those of a later one.
    pub fn covers(&self, version: u64) -> bool {
        (self.base()..=self.last()).contains(&version)
    }

    /// The segments that change rows of version `from` into those of version `to`.
    pub fn between(&self, from: u64, to: u64) -> &[Segment] {
        let begin = self.segments.partition_point(|segment| segment.last <= from);
        let end = self.segments.partition_point(|segment| segment.first <= to);
        &self.segments[begin..end.max(begin)]
    }
}

/// The archive of a target.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// By their ends. There is one, as long as nothing was missed and nothing was lost.
    pub chains: Vec<Chain>,
    /// Segments that another one has replaced: two archivers had stored one at the same place.
    pub replaced: Vec<Segment>,
}

impl Archive {
    /// Lists the archive; without one, it is empty.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load(target: &Target) -> Result<Archive, BackupError> {
        let objects = target.list(LOG).await?;
        let time = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let segment = |(name, object): (String, object_store::ObjectMeta)| {
            Segment::parse(&name, object.size, time(object.last_modified.timestamp()))
        };
        let segments = objects.into_iter().filter(|(name, _)| !name.starts_with(CLAIMS)).filter_map(segment);
        Ok(Archive::of(segments.collect()))
    }

    /// Puts segments together. Of several that follow the same one, the chain takes the one that leads
    /// furthest.
    pub(super) fn of(mut segments: Vec<Segment>) -> Archive {
        segments.sort_by_key(|segment| (segment.first, segment.last, segment.name()));
        segments.dedup();
        let mut by_end: HashMap<(u64, &str), usize> = HashMap::new();
        for (place, segment) in segments.iter().enumerate() {
            by_end.insert((segment.last, &segment.hash), place);
        }
        let parents: Vec<Option<usize>> = segments
            .iter()
            .map(|segment| by_end.get(&(segment.first - 1, segment.previous.as_deref()?)).copied())
            .collect();
        // A parent lies before its children, because it ends before they begin.
        let mut reach: Vec<u64> = segments.iter().map(|segment| segment.last).collect();
        let mut next: Vec<Option<usize>> = vec![None; segments.len()];
        for place in (0..segments.len()).rev() {
            if let Some(parent) = parents[place]
                && (next[parent].is_none() || reach[place] > reach[parent])
            {
                (reach[parent], next[parent]) = (reach[place], Some(place));
            }
        }
        let mut is_used = vec![false; segments.len()];
        let mut chains = Vec::new();
        for root in (0..segments.len()).filter(|place| parents[*place].is_none()) {
            let mut chain = Vec::new();
            let mut place = Some(root);
            while let Some(at) = place {
                is_used[at] = true;
                chain.push(segments[at].clone());
                place = next[at];
            }
            chains.push(Chain { segments: chain });
        }
        chains.sort_by_key(|chain| (chain.last(), chain.base()));
        let replaced = segments.iter().zip(is_used).filter(|(_, is_used)| !is_used);
        Archive { chains, replaced: replaced.map(|(segment, _)| segment.clone()).collect() }
    }

    /// All segments.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.chains.iter().flat_map(|chain| &chain.segments).chain(&self.replaced)
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.segments().map(|segment| segment.bytes).sum()
    }

    /// How far rows of `version` can be changed, and by which chain.
    pub fn reach(&self, version: u64) -> Option<&Chain> {
        self.chains.iter().rev().find(|chain| chain.covers(version))
    }
}
