//! A range as a stream of rows, page by page, in constant memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::stream::{Stream, try_unfold};
use kv_api::{Row, Rows};

use super::Transaction;
use super::merge::{Merger, Step};
use super::read::Noted;
use crate::ClientError;
use crate::client::RangeRead;
use crate::range::Range;

/// The first page is small, because many ranges are; each one after it may be so many times as large.
const FIRST_PAGE_BYTES: u32 = 16 << 10;
const PAGE_GROWTH: u32 = 4;

/// The rows of a range, in order: a [`Stream`], with the few methods beside that most programs need.
///
/// It shows the transaction's writes as they are when a row is handed out. What it did not hand out does not count as
/// read, so dropping it early costs nothing. After an error it is at its end.
pub struct RangeStream {
    rows: Pin<Box<dyn Stream<Item = Result<Row, ClientError>> + Send>>,
}

/// From where to where, and in which direction.
pub(super) struct Walk {
    pub begin: Bytes,
    pub end: Bytes,
    pub reverse: bool,
}

impl RangeStream {
    pub(super) fn new(transaction: Transaction, range: Range, noted: Noted) -> Self {
        let limit = range.limit;
        RangeStream::start(transaction, Source::Range(range), limit, noted)
    }

    pub(super) fn walk(transaction: Transaction, walk: Walk, limit: Option<usize>, noted: Noted) -> Self {
        RangeStream::start(transaction, Source::of(walk), limit, noted)
    }

    fn start(transaction: Transaction, source: Source, left: Option<usize>, noted: Noted) -> Self {
        let page_bytes = FIRST_PAGE_BYTES.min(transaction.inner.database.options.range_page_bytes);
        let reader = Reader { transaction, source, left, noted, page_bytes };
        let rows = try_unfold(reader, async |mut reader: Reader| {
            let row = reader.next().await?;
            Ok(row.map(|row| (row, reader)))
        });
        RangeStream { rows: Box::pin(rows) }
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// Those of the client; [`ClientError::Unreadable`] where a key or value comes that only the commit will know.
    pub async fn next(&mut self) -> Result<Option<Row>, ClientError> {
        poll_fn(|context| self.rows.as_mut().poll_next(context)).await.transpose()
    }

    /// All rows that are left: for ranges that fit in memory.
    ///
    /// # Errors
    /// As [`RangeStream::next`].
    pub async fn all(mut self) -> Result<Vec<Row>, ClientError> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }
}

impl Stream for RangeStream {
    type Item = Result<Row, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.rows.as_mut().poll_next(context)
    }
}

impl std::fmt::Debug for RangeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangeStream").finish_non_exhaustive()
    }
}

enum Source {
    /// Nothing has been read yet; its ends may have to be found.
    Range(Range),
    Merger {
        merger: Merger,
        reverse: bool,
    },
}

impl Source {
    fn of(walk: Walk) -> Self {
        let Walk { begin, end, reverse } = walk;
        Source::Merger { merger: Merger::new(begin, end, reverse), reverse }
    }
}

struct Reader {
    transaction: Transaction,
    source: Source,
    /// Rows that may still be handed out.
    left: Option<usize>,
    noted: Noted,
    /// Size of the next page.
    page_bytes: u32,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Row>, ClientError> {
        if self.left == Some(0) {
            return Ok(None);
        }
        loop {
            let step = match &mut self.source {
                Source::Range(range) => {
                    let Range { begin, end, reverse, .. } = range.clone();
                    let begin = self.transaction.place(&begin, self.noted).await?;
                    let end = self.transaction.place(&end, self.noted).await?;
                    self.source = Source::of(Walk { begin, end, reverse });
                    continue;
                }
                Source::Merger { merger, .. } => self.transaction.step(merger, self.noted)?,
            };
            match step {
                Step::Row(row) => {
                    self.left = self.left.map(|left| left - 1);
                    return Ok(Some(row));
                }
                Step::End => return Ok(None),
                Step::Fetch { begin, end } => self.fetch(begin, end).await?,
                Step::Unreadable(_) if !self.transaction.has_read_version() => {
                    // With the version more is known of the stamps to come.
                    self.transaction.read_version().await?;
                }
                Step::Unreadable(key) => return Err(self.transaction.unreadable(key)),
            }
        }
    }

    async fn fetch(&mut self, begin: Bytes, end: Bytes) -> Result<(), ClientError> {
        let Source::Merger { merger, reverse } = &mut self.source else { return Ok(()) };
        let range = RangeRead {
            begin: begin.clone(),
            end: end.clone(),
            column_family: String::new(),
            limit: self.left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
            reverse: *reverse,
            target_bytes: Some(self.page_bytes),
        };
        let rows: Rows = self.transaction.page(range).await?;
        let malformed = |reason: &str| ClientError::Malformed {
            endpoint: "a replica".to_string(),
            reason: reason.to_string(),
            maybe_committed: false,
        };
        merger.feed(begin, end, rows).map_err(malformed)?;
        let max = self.transaction.inner.database.options.range_page_bytes;
        self.page_bytes = self.page_bytes.saturating_mul(PAGE_GROWTH).min(max);
        Ok(())
    }
}

impl Transaction {
    /// Goes one step through a range, and notes what it takes from the database.
    fn step(&self, merger: &mut Merger, noted: Noted) -> Result<Step, ClientError> {
        let mut taken = Vec::new();
        let mut state = self.inner.state();
        state.check()?;
        let step = merger.step(&state.writes, &self.family, &mut taken);
        if noted == Noted::Yes {
            taken.into_iter().for_each(|(begin, end)| state.conflicts.add_range(&self.family, begin, end));
        }
        Ok(step)
    }

    async fn page(&self, range: RangeRead) -> Result<Rows, ClientError> {
        let version = self.read_version().await?;
        let range = RangeRead { column_family: self.family.to_string(), ..range };
        let rows = self.inner.database.get_range(range, version, self.inner.retry.deadline).await;
        self.inner.observe(rows)
    }
}
