//! A range as a stream of rows, page by page, in constant memory: the page at hand, and the next one on its way.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::stream::{Stream, try_unfold};
use kv_api::{Row, Rows};
use tokio::task::JoinHandle;

use super::merge::{Merger, Step};
use super::read::Noted;
use super::{Inner, Transaction};
use crate::ClientError;
use crate::client::RangeRead;
use crate::keys::key_after;
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
        let reader = Reader { transaction, source, left, noted, page_bytes, is_long: false, ahead: None };
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
    /// Whether there was a page before with more behind it.
    is_long: bool,
    ahead: Option<Ahead>,
}

/// A page that was asked for before it is needed.
struct Ahead {
    begin: Bytes,
    end: Bytes,
    page: JoinHandle<Result<Rows, ClientError>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.page.abort();
    }
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
        let (begin, end, rows) = self.page(begin, end).await?;
        if rows.has_more {
            self.look_ahead(&begin, &end, &rows);
        }
        let Source::Merger { merger, .. } = &mut self.source else { return Ok(()) };
        merger.feed(begin, end, rows).map_err(|reason| ClientError::Malformed {
            endpoint: "a replica".to_string(),
            reason: reason.to_string(),
            maybe_committed: false,
        })
    }

    /// The rows from the near end of the range on, and which part of the range they stand for.
    async fn page(&mut self, begin: Bytes, end: Bytes) -> Result<(Bytes, Bytes, Rows), ClientError> {
        if let Some(mut ahead) = self.ahead.take() {
            // The other end may have moved: what was cleared meanwhile is hidden anyway.
            let is_wanted = if self.is_reverse() { ahead.end == end } else { ahead.begin == begin };
            if is_wanted && let Ok(rows) = (&mut ahead.page).await {
                return Ok((ahead.begin.clone(), ahead.end.clone(), self.transaction.inner.observe(rows)?));
            }
        }
        let version = self.transaction.read_version().await?;
        let Inner { database, retry, .. } = &*self.transaction.inner;
        let range = self.range(begin.clone(), end.clone(), self.left);
        let rows = database.get_range(range, version, retry.deadline).await;
        Ok((begin, end, self.transaction.inner.observe(rows)?))
    }

    /// Asks for the page after this one, when rows are taken one page after the other.
    fn look_ahead(&mut self, begin: &Bytes, end: &Bytes, rows: &Rows) {
        let is_first = !std::mem::replace(&mut self.is_long, true);
        let max = self.transaction.inner.database.options.range_page_bytes;
        self.page_bytes = self.page_bytes.saturating_mul(PAGE_GROWTH).min(max);
        let left = self.left.map(|left| left.saturating_sub(rows.rows.len()));
        let (Some(last), Some(version)) = (rows.rows.last(), self.transaction.inner.read_version.get()) else { return };
        if is_first || left == Some(0) {
            return;
        }
        let (begin, end) = match self.is_reverse() {
            true => (begin.clone(), last.key.clone()),
            false => (key_after(&last.key), end.clone()),
        };
        let Inner { database, retry, .. } = &*self.transaction.inner;
        let (database, version, deadline) = (database.clone(), *version, retry.deadline);
        let range = self.range(begin.clone(), end.clone(), left);
        let page = tokio::spawn(async move { database.get_range(range, version, deadline).await });
        self.ahead = Some(Ahead { begin, end, page });
    }

    fn range(&self, begin: Bytes, end: Bytes, left: Option<usize>) -> RangeRead {
        RangeRead {
            begin,
            end,
            column_family: self.transaction.family.to_string(),
            limit: left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
            reverse: self.is_reverse(),
            target_bytes: Some(self.page_bytes),
        }
    }

    fn is_reverse(&self) -> bool {
        matches!(self.source, Source::Merger { reverse: true, .. })
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
}
