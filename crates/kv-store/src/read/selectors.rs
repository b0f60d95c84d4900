//! Key selectors: keys named by their position among the rows visible at a version.
//!
//! A selector divides the keys of its family at `key`, which belongs to the first part if
//! `or_equal` is set, and counts rows from there, forward or backward. It resolves to a bound of a
//! range: a key, or the end of the family where the rows run out, as FoundationDB resolves to the
//! end of the key space.
//!
//! Only one row is held in memory, whatever the offset.

use kv_api::{KeySelector, KvError, RangeQuery};

use super::scan::{Bounds, MayContinue, VisibleRows};
use crate::engine::Engine;
use crate::gc::range_clears::RangeClears;
use crate::key_codec;

/// The context in which the selectors of a read are resolved.
pub(crate) struct Resolver<'r> {
    pub engine: &'r dyn Engine,
    pub clears: &'r RangeClears,
    pub version: u64,
    pub may_continue: MayContinue<'r>,
}

impl Resolver<'_> {
    /// The encoded bounds of the range that `query` asks for. If they are equal or in the wrong
    /// order the range is empty.
    pub fn bounds(&self, query: &RangeQuery) -> Result<Bounds, KvError> {
        let family = query.column_family.as_str();
        let begin = match &query.begin_selector {
            None => key_codec::prefix(family, &query.begin),
            Some(selector) => self.resolve(family, selector)?,
        };
        let end = match &query.end_selector {
            None => key_codec::prefix(family, &query.end),
            Some(selector) => self.resolve(family, selector)?,
        };
        Ok(Bounds { begin, end })
    }

    /// The encoded key that a selector resolves to.
    fn resolve(&self, family: &str, selector: &KeySelector) -> Result<Vec<u8>, KvError> {
        let mut division = key_codec::prefix(family, &selector.key);
        if selector.or_equal {
            let key = division.clone();
            key_codec::set_after(&mut division, &key);
        }
        // Offset 0 is the key before the division, offset 1 the key after it.
        let forward = selector.offset > 0;
        let (bounds, rows) = match forward {
            true => (Bounds { begin: division, end: key_codec::family_end(family) }, i64::from(selector.offset)),
            false => (Bounds { begin: key_codec::prefix(family, b""), end: division }, 1 - i64::from(selector.offset)),
        };
        let clears = self.clears.clone();
        let mut visible = VisibleRows::new(self.engine, clears, &bounds, self.version, !forward, self.may_continue)?;
        for row in 1..=rows {
            match visible.next_row()? {
                Some(found) if row == rows => return Ok(found.prefix.to_vec()),
                Some(_) => {}
                None => break,
            }
        }
        Ok(if forward { bounds.end } else { bounds.begin })
    }
}
