//! A range as a transaction sees it: pages of rows from the database, with the transaction's own
//! writes on top.
//!
//! A merger scans the range from one end and takes one step for each row. It asks for a page when
//! neither local writes nor the current page determine the next row. Each step looks at the writes
//! as they are at that time, so a row reflects the writes up to the moment in which it is returned.
//! The merger reports which part of the range the scan really took from the database: this is the
//! only part in which a concurrent write could change the result.
//!
//! It does no I/O and has no limit: a caller that has enough rows stops asking.

use std::collections::VecDeque;

use bytes::Bytes;
use kv_api::{Row, Rows};

use super::writes::{FamilyWrites, KeyWrites, Writes};
use crate::keys::{holds_one_key, key_after};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Row(Row),
    /// The scan needs a page of rows of `begin <= key < end`: the first ones, or the last ones in
    /// reverse.
    Fetch {
        begin: Bytes,
        end: Bytes,
    },
    /// The next key, at this position or after it, will contain a versionstamp, or its value will.
    Unreadable(Bytes),
    End,
}

/// A range that was read from the database: `begin <= key < end`.
pub(crate) type ReadRange = (Bytes, Bytes);

/// Invariant: `page` contains the rows that the database has between the position of the scan and
/// `covered`, nearest first.
#[derive(Debug)]
pub(crate) struct Merger {
    /// The rest of the range: `begin <= key < end`.
    begin: Bytes,
    end: Bytes,
    reverse: bool,
    page: VecDeque<Row>,
    /// The position up to which the last page has all rows; `None` before the first page.
    covered: Option<Bytes>,
}

impl Merger {
    pub fn new(begin: Bytes, end: Bytes, reverse: bool) -> Self {
        Merger { begin, end, reverse, page: VecDeque::new(), covered: None }
    }

    /// Takes in the answer to [`Step::Fetch`]. A page that says there are more rows must have at
    /// least one, or the scan would never end.
    pub fn feed(&mut self, begin: Bytes, end: Bytes, rows: Rows) -> Result<(), &'static str> {
        let last = rows.rows.last().map(|row| row.key.clone());
        self.covered = Some(match (rows.has_more, last) {
            (false, _) => {
                if self.reverse {
                    begin
                } else {
                    end
                }
            }
            (true, Some(last)) => {
                if self.reverse {
                    last
                } else {
                    key_after(&last)
                }
            }
            (true, None) => return Err("a page that has no rows but says there are more"),
        });
        self.page = rows.rows.into();
        Ok(())
    }

    /// The next row, or the reason why it is not available. Appends the ranges that it read from
    /// the database to `read`.
    pub fn step(&mut self, writes: &Writes, family: &str, read: &mut Vec<ReadRange>) -> Step {
        let family = writes.family(family);
        while self.begin < self.end {
            let stretch = self.stretch(family);
            if stretch.source == Source::Missing {
                return Step::Fetch { begin: stretch.begin, end: stretch.end };
            }
            let nearest = self.nearest(&stretch, family);
            let (begin, end) = self.up_to(&nearest, &stretch);
            if family.is_unreadable(&begin, &end) {
                return Step::Unreadable(begin);
            }
            let Some((key, local)) = nearest else {
                self.pass(stretch.source, (begin, end), None, read);
                continue;
            };
            let database = self.take_row(|row| row.key == key).map(|row| row.value);
            let value = match local.map(|local| local.value(database.clone())) {
                Some(Ok(value)) => value,
                Some(Err(_)) => return Step::Unreadable(key),
                None => database,
            };
            let independent = local.filter(|local| local.is_independent()).map(|_| &key);
            self.pass(stretch.source, (begin, end), independent, read);
            if let Some(value) = value {
                return Step::Row(Row { key, value });
            }
        }
        Step::End
    }

    /// The longest part of the range, from the position of the scan on, that has a single source.
    fn stretch(&self, family: &FamilyWrites) -> Stretch {
        if self.reverse { self.stretch_backward(family) } else { self.stretch_forward(family) }
    }

    fn stretch_forward(&self, family: &FamilyWrites) -> Stretch {
        let stretch =
            |source, end: &Bytes| Stretch { source, begin: self.begin.clone(), end: end.min(&self.end).clone() };
        if family.key(&self.begin).is_some_and(KeyWrites::is_independent) {
            return stretch(Source::Local, &key_after(&self.begin));
        }
        if let Some((_, cleared_end)) = family.cleared().containing(&self.begin) {
            return stretch(Source::Local, cleared_end);
        }
        let open_end = family.cleared().first_from(&self.begin).map_or(&self.end, |(begin, _)| begin);
        match &self.covered {
            Some(covered) if *covered > self.begin => stretch(Source::Page, covered.min(open_end)),
            _ => stretch(Source::Missing, open_end),
        }
    }

    fn stretch_backward(&self, family: &FamilyWrites) -> Stretch {
        let stretch =
            |source, begin: &Bytes| Stretch { source, begin: begin.max(&self.begin).clone(), end: self.end.clone() };
        if let Some((key, last)) = family.last_key(&self.begin, &self.end)
            && holds_one_key(key, &self.end)
            && last.is_independent()
        {
            return stretch(Source::Local, key);
        }
        if let Some((cleared_begin, _)) = family.cleared().reaching(&self.end) {
            return stretch(Source::Local, cleared_begin);
        }
        let open_begin = family.cleared().before(&self.end).map_or(&self.begin, |(_, end)| end);
        match &self.covered {
            Some(covered) if *covered < self.end => stretch(Source::Page, covered.max(open_begin)),
            _ => stretch(Source::Missing, open_begin),
        }
    }

    /// The nearest key of the stretch that is in the page or in local writes.
    fn nearest<'w>(&mut self, stretch: &Stretch, family: &'w FamilyWrites) -> Option<(Bytes, Option<&'w KeyWrites>)> {
        let Stretch { source, begin, end } = stretch;
        // Drop rows that the scan has passed already, because local writes have hidden them since
        // the page was fetched.
        let reverse = self.reverse;
        while self.take_row(|row| if reverse { row.key >= *end } else { row.key < *begin }).is_some() {}
        let row =
            self.page.front().map(|row| &row.key).filter(|key| *source == Source::Page && begin <= key && key < &end);
        let local = if self.reverse { family.last_key(begin, end) } else { family.first_key(begin, end) };
        let is_nearer = |key: &Bytes, other: &Bytes| if self.reverse { key > other } else { key < other };
        match (row, local) {
            (Some(row), Some((key, _))) if is_nearer(row, key) => Some((row.clone(), None)),
            (_, Some((key, local))) => Some((key.clone(), Some(local))),
            (Some(row), None) => Some((row.clone(), None)),
            (None, None) => None,
        }
    }

    /// Removes the nearest row from the page if it matches.
    fn take_row(&mut self, is_wanted: impl Fn(&Row) -> bool) -> Option<Row> {
        if self.page.front().is_some_and(is_wanted) { self.page.pop_front() } else { None }
    }

    /// The part of the stretch up to and including the nearest key; all of it if there is none.
    fn up_to(&self, nearest: &Option<(Bytes, Option<&KeyWrites>)>, stretch: &Stretch) -> ReadRange {
        let Stretch { begin, end, .. } = stretch;
        match nearest {
            None => (begin.clone(), end.clone()),
            Some((key, _)) if self.reverse => (key.clone(), end.clone()),
            Some((key, _)) => (begin.clone(), key_after(key)),
        }
    }

    /// Moves the scan past the range `passed`. If the page was its source, the range counts as
    /// read, except for the key in it whose value does not depend on the database.
    fn pass(&mut self, source: Source, passed: ReadRange, independent: Option<&Bytes>, read: &mut Vec<ReadRange>) {
        let (begin, end) = passed;
        if source == Source::Page {
            read.push(match independent {
                None => (begin.clone(), end.clone()),
                Some(key) if self.reverse => (key_after(key), end.clone()),
                Some(key) => (begin.clone(), key.clone()),
            });
        }
        if self.reverse {
            self.end = begin;
        } else {
            self.begin = end;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Local writes determine every key.
    Local,
    /// The page has the rows of the database, and local writes apply on top.
    Page,
    /// A page has to be fetched.
    Missing,
}

/// A part of the range that has a single source.
struct Stretch {
    source: Source,
    begin: Bytes,
    end: Bytes,
}
