//! A range as a stream of rows. It is read page by page in constant memory: the current page, and
//! the next one, which is requested in advance.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::poll_fn;
use futures_util::stream::{Stream, try_unfold};
use kv_api::{Row, Rows};
use tokio::task::JoinHandle;

use super::attempt::{Inner, Transaction};
use super::conflicts::ReadMode;
use super::merge::{Merger, Step};
use crate::ClientError;
use crate::keys::key_after;
use crate::range::Range;
use crate::request::RangeRead;

/// Maximum size of the first page, which is small because many ranges are.
const FIRST_PAGE_BYTES: u32 = 16 << 10;
/// How many times as large as a page the next one may be.
const PAGE_GROWTH: u32 = 4;

/// The rows of a range, in order. This is a [`Stream`] that also has the few methods that most
/// programs need.
///
/// Each row shows the transaction's own writes as they are when the row is returned. The range counts
/// as read only up to the last row that was returned, so dropping the stream early causes no
/// conflicts in the rest. The stream ends after an error.
pub struct RangeStream {
    rows: Pin<Box<dyn Stream<Item = Result<Row, ClientError>> + Send>>,
}

/// The keys `begin <= key < end`, and the direction in which to read them.
pub(super) struct Scan {
    pub begin: Bytes,
    pub end: Bytes,
    pub reverse: bool,
}

impl RangeStream {
    pub(super) fn new(transaction: Transaction, range: Range, mode: ReadMode) -> Self {
        let limit = range.limit;
        RangeStream::start(transaction, Source::Range(range), limit, mode)
    }

    pub(super) fn scan(transaction: Transaction, scan: Scan, limit: Option<usize>, mode: ReadMode) -> Self {
        RangeStream::start(transaction, Source::of(scan), limit, mode)
    }

    fn start(transaction: Transaction, source: Source, left: Option<usize>, mode: ReadMode) -> Self {
        let page_bytes = FIRST_PAGE_BYTES.min(transaction.inner.database.options.range_page_bytes);
        let reader = Reader { transaction, source, left, mode, page_bytes, is_long: false, ahead: None };
        let rows = try_unfold(reader, async |mut reader: Reader| {
            let row = reader.next().await?;
            Ok(row.map(|row| (row, reader)))
        });
        RangeStream { rows: Box::pin(rows) }
    }

    /// The next row; `None` at the end of the range.
    ///
    /// # Errors
    /// [`ClientError::Unreadable`] if the next key or value will contain a versionstamp that this
    /// transaction wrote, or any other [`ClientError`] of a read.
    pub async fn next(&mut self) -> Result<Option<Row>, ClientError> {
        poll_fn(|context| self.rows.as_mut().poll_next(context)).await.transpose()
    }

    /// All remaining rows. Meant for ranges that fit in memory.
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
    /// Nothing has been read yet, and the selectors of both ends have not been resolved.
    Range(Range),
    Merger {
        merger: Merger,
        reverse: bool,
    },
}

impl Source {
    fn of(scan: Scan) -> Self {
        let Scan { begin, end, reverse } = scan;
        Source::Merger { merger: Merger::new(begin, end, reverse), reverse }
    }
}

struct Reader {
    transaction: Transaction,
    source: Source,
    /// Number of rows that may still be returned; `None` means no limit.
    left: Option<usize>,
    mode: ReadMode,
    /// Maximum size of the next page.
    page_bytes: u32,
    /// Whether an earlier page had more rows after it.
    is_long: bool,
    /// The page after the current one.
    ahead: Option<Ahead>,
}

/// A page that was requested before it is needed.
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
                    let begin = self.transaction.position(&begin, self.mode).await?;
                    let end = self.transaction.position(&end, self.mode).await?;
                    self.source = Source::of(Scan { begin, end, reverse });
                    continue;
                }
                Source::Merger { merger, .. } => self.transaction.step(merger, self.mode)?,
            };
            match step {
                Step::Row(row) => {
                    self.left = self.left.map(|left| left - 1);
                    return Ok(Some(row));
                }
                Step::End => return Ok(None),
                Step::Fetch { begin, end } => self.fetch(begin, end).await?,
                Step::Unreadable(_) if !self.transaction.has_read_version() => {
                    // The read version narrows down which versionstamps are possible.
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

    /// A page of rows from the near end of the range, and the range for which it was requested.
    async fn page(&mut self, begin: Bytes, end: Bytes) -> Result<(Bytes, Bytes, Rows), ClientError> {
        if let Some(mut ahead) = self.ahead.take() {
            // The far end may have changed since: keys that were cleared in the meantime are hidden
            // anyway.
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

    /// Requests the page after this one in advance, unless this one is the first: many readers stop
    /// there.
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
    /// Advances through a range by one step, and records what was read from the database.
    fn step(&self, merger: &mut Merger, mode: ReadMode) -> Result<Step, ClientError> {
        let mut read = Vec::new();
        let mut state = self.inner.state();
        state.check()?;
        let step = merger.step(&state.writes, &self.family, &mut read);
        if mode == ReadMode::Tracked {
            read.into_iter().for_each(|(begin, end)| state.conflicts.add_range(&self.family, begin, end));
        }
        Ok(step)
    }
}
