//! Which keys a reader of the journal asks for.

use std::ops::Range;

use kv_api::{ChangeRange, KvError};

use super::block::RawEffect;
use super::summary::{Summary, hash_of};
use crate::key_codec;

/// Sets of keys, as disjoint ranges of encoded keys in order. A range clear is cut to the parts
/// that lie within: a reader learns nothing about other keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeFilter {
    ranges: Vec<Range<Vec<u8>>>,
    /// For each range: the hash of its key, if it holds a single one.
    single_keys: Vec<Option<u64>>,
}

impl ChangeFilter {
    /// Every key of every family.
    pub fn everything() -> Self {
        ChangeFilter { ranges: vec![Vec::new()..key_codec::END.to_vec()], single_keys: vec![None] }
    }

    /// The keys in these ranges, which may overlap. None: every key.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] for a range that ends before it begins, or a family name that
    /// is too long.
    pub fn of(ranges: &[ChangeRange]) -> Result<Self, KvError> {
        if ranges.is_empty() {
            return Ok(Self::everything());
        }
        let mut encoded: Vec<Range<Vec<u8>>> = ranges.iter().map(encode).collect::<Result<_, _>>()?;
        encoded.retain(|range| range.start < range.end);
        encoded.sort_by(|a, b| a.start.cmp(&b.start));
        let mut merged: Vec<Range<Vec<u8>>> = Vec::with_capacity(encoded.len());
        for range in encoded {
            match merged.last_mut().filter(|last| range.start <= last.end) {
                Some(last) if last.end < range.end => last.end = range.end,
                Some(_) => {}
                None => merged.push(range),
            }
        }
        let single_keys = merged.iter().map(hash_of_single_key).collect();
        Ok(ChangeFilter { ranges: merged, single_keys })
    }

    /// The ranges, as encoded keys: disjoint and in order; each with whether it holds one key alone.
    pub fn encoded_ranges(&self) -> impl Iterator<Item = (&Range<Vec<u8>>, bool)> {
        self.ranges.iter().zip(&self.single_keys).map(|(range, single)| (range, single.is_some()))
    }

    /// Whether a stretch with this summary may hold effects on these keys.
    pub(super) fn may_match(&self, summary: &Summary) -> bool {
        self.ranges.iter().zip(&self.single_keys).any(|(range, single)| match single {
            Some(hash) => summary.may_touch_key(&range.start, *hash),
            // The range of everything begins before the name of any family.
            None => {
                (range.start.is_empty() || summary.has_family_of(&range.start))
                    && summary.may_touch_range(&range.start, &range.end)
            }
        })
    }

    /// Passes the parts of an effect on these keys to `take`.
    pub(super) fn cut<'b>(
        &'b self,
        effect: RawEffect<'b>,
        mut take: impl FnMut(RawEffect<'b>) -> Result<(), KvError>,
    ) -> Result<(), KvError> {
        match effect {
            RawEffect::Key { prefix, .. } => {
                let place = self.ranges.partition_point(|range| range.end.as_slice() <= prefix);
                match self.ranges.get(place).is_some_and(|range| range.start.as_slice() <= prefix) {
                    true => take(effect),
                    false => Ok(()),
                }
            }
            RawEffect::Range { begin, end, cause } => {
                let place = self.ranges.partition_point(|range| range.end.as_slice() <= begin);
                let touched = self.ranges[place..].iter().take_while(|range| range.start.as_slice() < end);
                touched.into_iter().try_for_each(|range| {
                    let (begin, end) = (begin.max(range.start.as_slice()), end.min(range.end.as_slice()));
                    take(RawEffect::Range { begin, end, cause })
                })
            }
        }
    }
}

/// The encoded keys of a range of one family.
fn encode(range: &ChangeRange) -> Result<Range<Vec<u8>>, KvError> {
    key_codec::check_family(&range.column_family)?;
    let family = range.column_family.as_str();
    let end = match &range.end {
        Some(end) if *end < range.begin => {
            return Err(KvError::InvalidOperation("a range of changes ends before it begins".into()));
        }
        Some(end) => key_codec::prefix(family, end),
        None => key_codec::family_end(family),
    };
    Ok(key_codec::prefix(family, &range.begin)..end)
}

/// A range `key <= k < key 00` holds one key.
fn hash_of_single_key(range: &Range<Vec<u8>>) -> Option<u64> {
    let key = key_codec::user_key(&range.start).ok()?;
    let next = [&key[..], b"\0"].concat();
    let family = key_codec::family(&range.start).ok()?;
    (range.end == key_codec::prefix(family, &next)).then(|| hash_of(&range.start))
}
