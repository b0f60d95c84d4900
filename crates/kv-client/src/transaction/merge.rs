//! A range as a transaction sees it: what the database holds, page by page, under what the transaction wrote itself.
//!
//! A merger walks through the range from one end, one step per row, and asks for a page when it comes to a place that
//! neither local writes nor the last page tell about. Each step looks at the writes as they are then, so rows are as of the
//! moment in which they are handed out. It reports which part of the range the walk really took from the database; that
//! part, and nothing else, is what a concurrent write could have changed.
//!
//! It does no input or output, and knows no limit: whoever has rows enough stops asking.

use std::collections::VecDeque;

use bytes::Bytes;
use kv_api::{Row, Rows};

use crate::keys::{holds_one_key, key_after};
use crate::transaction::writes::{FamilyWrites, KeyWrites, Writes};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Row(Row),
    /// To go on, the rows of `begin <= key < end` are needed, from the end at which the walk is.
    Fetch {
        begin: Bytes,
        end: Bytes,
    },
    /// Behind this key, or at it, comes one that only the commit will know, or whose value it will.
    Unreadable(Bytes),
    End,
}

/// A range that was taken from the database: `begin <= key < end`.
pub(crate) type Taken = (Bytes, Bytes);

/// Invariant: `page` holds the rows that the database has between the place of the walk and `covered`, nearest first.
#[derive(Debug)]
pub(crate) struct Merger {
    /// What is left of the range: `begin <= key < end`.
    begin: Bytes,
    end: Bytes,
    reverse: bool,
    page: VecDeque<Row>,
    /// How far the last page tells; `None` before the first one.
    covered: Option<Bytes>,
}

impl Merger {
    pub fn new(begin: Bytes, end: Bytes, reverse: bool) -> Self {
        Merger { begin, end, reverse, page: VecDeque::new(), covered: None }
    }

    /// Takes in the answer to [`Step::Fetch`]. One that says there is more must have a row, or the walk would not end.
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
            (true, None) => return Err("a page of a range without rows that says there are more"),
        });
        self.page = rows.rows.into();
        Ok(())
    }

    /// The next row, or what stands in its way. Ranges that it took from the database are added to `taken`.
    pub fn step(&mut self, writes: &Writes, family: &str, taken: &mut Vec<Taken>) -> Step {
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
                self.pass(stretch.source, (begin, end), None, taken);
                continue;
            };
            let database = self.take_row(|row| row.key == key).map(|row| row.value);
            let value = match local.map(|local| local.value(database.clone())) {
                Some(Ok(value)) => value,
                Some(Err(_)) => return Step::Unreadable(key),
                None => database,
            };
            let independent = local.filter(|local| local.is_independent()).map(|_| &key);
            self.pass(stretch.source, (begin, end), independent, taken);
            if let Some(value) = value {
                return Step::Row(Row { key, value });
            }
        }
        Step::End
    }

    /// The longest part of the range, from where the walk is, of which one source tells.
    fn stretch(&self, family: &FamilyWrites) -> Stretch {
        if self.reverse { self.stretch_backward(family) } else { self.stretch_forward(family) }
    }

    fn stretch_forward(&self, family: &FamilyWrites) -> Stretch {
        let stretch =
            |source, end: &Bytes| Stretch { source, begin: self.begin.clone(), end: end.min(&self.end).clone() };
        if family.key(&self.begin).is_some_and(KeyWrites::is_independent) {
            return stretch(Source::Local, &key_after(&self.begin));
        }
        if let Some((_, cleared_end)) = family.cleared().holding(&self.begin) {
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

    /// The nearest key of the stretch that the page or local writes know.
    fn nearest<'w>(&mut self, stretch: &Stretch, family: &'w FamilyWrites) -> Option<(Bytes, Option<&'w KeyWrites>)> {
        let Stretch { source, begin, end } = stretch;
        // Passed by without the page, because local writes have hidden it since it was fetched.
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

    /// Takes the nearest row off the page if it is such a one.
    fn take_row(&mut self, is_wanted: impl Fn(&Row) -> bool) -> Option<Row> {
        if self.page.front().is_some_and(is_wanted) { self.page.pop_front() } else { None }
    }

    /// The part of the stretch through the nearest key; all of it, when there is none.
    fn up_to(&self, nearest: &Option<(Bytes, Option<&KeyWrites>)>, stretch: &Stretch) -> Taken {
        let Stretch { begin, end, .. } = stretch;
        match nearest {
            None => (begin.clone(), end.clone()),
            Some((key, _)) if self.reverse => (key.clone(), end.clone()),
            Some((key, _)) => (begin.clone(), key_after(key)),
        }
    }

    /// Goes on behind `passed`, of which the database told, except for the key in it that local writes alone know about.
    fn pass(&mut self, source: Source, passed: Taken, independent: Option<&Bytes>, taken: &mut Vec<Taken>) {
        let (begin, end) = passed;
        if source == Source::Page {
            taken.push(match independent {
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
    /// Local writes know every key.
    Local,
    /// The page does, under local writes.
    Page,
    Missing,
}

struct Stretch {
    source: Source,
    begin: Bytes,
    end: Bytes,
}
