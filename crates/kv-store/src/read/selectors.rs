//! Key selectors: keys named by their place among the rows visible at a version.
//!
//! A selector cuts the keys of its family in two: those before `key` (with it, where `or_equal`), and the rest. From there
//! it counts rows, forward or backward. What it finds is an end of a range: the place of a key, or an end of the family
//! where that is reached first, as in FoundationDB an end of the whole key space is.
//!
//! Only one row is held at a time, however far a selector goes.

use kv_api::{KeySelector, KvError, RangeQuery};

use super::scan::{Bounds, GoesOn, VisibleRows};
use crate::engine::Engine;
use crate::gc::range_clears::RangeClears;
use crate::key_codec;

/// Where the selectors of one read look: its engine, its clears, its version.
pub(crate) struct Resolver<'r> {
    pub engine: &'r dyn Engine,
    pub clears: &'r RangeClears,
    pub version: u64,
    pub goes_on: GoesOn<'r>,
}

impl Resolver<'_> {
    /// The encoded ends of the range that `query` means at the version. They may be equal or swapped: then it is empty.
    pub fn bounds(&self, query: &RangeQuery) -> Result<Bounds, KvError> {
        let family = query.column_family.as_str();
        let begin = match &query.begin_selector {
            None => key_codec::prefix(family, &query.begin),
            Some(selector) => self.place(family, selector)?,
        };
        let end = match &query.end_selector {
            None => key_codec::prefix(family, &query.end),
            Some(selector) => self.place(family, selector)?,
        };
        Ok(Bounds { begin, end })
    }

    /// The encoded place of the key that a selector names.
    fn place(&self, family: &str, selector: &KeySelector) -> Result<Vec<u8>, KvError> {
        let mut cut = key_codec::prefix(family, &selector.key);
        if selector.or_equal {
            let key = cut.clone();
            key_codec::set_behind(&mut cut, &key);
        }
        // The key before the cut is at offset 0, the one behind it at 1.
        let forward = selector.offset > 0;
        let (bounds, rows) = match forward {
            true => (Bounds { begin: cut, end: key_codec::family_end(family) }, i64::from(selector.offset)),
            false => (Bounds { begin: key_codec::prefix(family, b""), end: cut }, 1 - i64::from(selector.offset)),
        };
        let clears = self.clears.clone();
        let mut visible = VisibleRows::new(self.engine, clears, &bounds, self.version, !forward, self.goes_on)?;
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
