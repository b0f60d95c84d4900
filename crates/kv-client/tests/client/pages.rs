//! Ranges in many pages, with trouble at each boundary between two pages. The result is either
//! every row once, or an error.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_api::thrift::generated::SnapshotGetRangeResponse;
use kv_api::thrift::{ThriftCall, ThriftReply};
use kv_client::{ErrorCode, Options, Range};

use crate::clock::{passing, settle};
use crate::peer::{Action, Gate};
use crate::store::Store;
use crate::{alone, connect};

const ROWS: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Close,
    Silence,
    Halves,
    HalfAndClose,
    Twice,
    UnderAnotherSequence,
    TooOld,
}

const TROUBLES: [Trouble; 7] = [
    Trouble::Close,
    Trouble::Silence,
    Trouble::Halves,
    Trouble::HalfAndClose,
    Trouble::Twice,
    Trouble::UnderAnotherSequence,
    Trouble::TooOld,
];

impl Trouble {
    fn apply(self, call: ThriftCall, store: &Store) -> Action {
        let reply = store.serve(call);
        match self {
            Trouble::Close => Action::Close,
            Trouble::Silence => Action::Silence,
            Trouble::Halves => Action::Halves(reply, Gate::closed()),
            Trouble::HalfAndClose => Action::HalfAndClose(reply),
            Trouble::Twice => Action::Twice(reply),
            Trouble::UnderAnotherSequence => Action::UnderSequenceOf(reply, 1),
            Trouble::TooOld => {
                let (error, code) = ("too old".to_string(), "TRANSACTION_TOO_OLD".to_string());
                Action::Reply(SnapshotGetRangeResponse::new(Vec::new(), false, error, false, code, None).into())
            }
        }
    }
}

fn key(number: usize) -> String {
    format!("k{number:03}")
}

/// Options with which each page has only a few rows.
fn small_pages() -> Options {
    let short = Duration::from_millis(50);
    Options { range_page_bytes: 40, attempt_timeout: short, stall_timeout: short, ..alone() }
}

/// The begin and end of each page that the client requested.
type Pages = Arc<Mutex<Vec<(Vec<u8>, Vec<u8>)>>>;

#[tokio::test(start_paused = true)]
async fn no_row_is_lost_or_duplicated_when_the_answer_of_any_page_goes_wrong() {
    for (trouble, at_page) in TROUBLES.iter().flat_map(|trouble| (0..6).map(|page| (*trouble, page))) {
        let store = Store::default();
        (0..ROWS).for_each(|number| store.set(&key(number), "some value"));
        let pages = Pages::default();
        let asked = pages.clone();
        let peer = store
            .replica(move |call, store| {
                let ThriftCall::SnapshotGetRange(request) = call else { return None };
                let mut asked = asked.lock().expect("no panic");
                asked.push((request.begin_key.clone()?, request.end_key.clone()?));
                // The client accepts a refusal only if it comes twice: another replica may know
                // more.
                let times = if trouble == Trouble::TooOld { 2 } else { 1 };
                let is_hit = (at_page..at_page + times).contains(&(asked.len() - 1));
                is_hit.then(|| trouble.apply(call.clone(), store))
            })
            .await;
        let db = passing(connect(&peer, small_pages())).await;
        for (reverse, limit) in [(false, None), (true, None), (false, Some(23)), (true, Some(23))] {
            pages.lock().expect("no panic").clear();
            let mut range = Range::prefix("k");
            let mut expected: Vec<String> = (0..ROWS).map(key).collect();
            if reverse {
                (range, expected) = (range.reverse(), expected.into_iter().rev().collect());
            }
            if let Some(limit) = limit {
                range = range.limit(limit);
                expected.truncate(limit);
            }
            let result = passing(db.transaction().get_range(range).all()).await;
            assert!(pages.lock().expect("no panic").len() > at_page, "no page has met the trouble");
            match result {
                Ok(rows) => {
                    let keys: Vec<&[u8]> = rows.iter().map(|row| &row.key[..]).collect();
                    let expected: Vec<&[u8]> = expected.iter().map(String::as_bytes).collect();
                    assert_eq!(keys, expected, "{trouble:?} at page {at_page}, reverse: {reverse}, {limit:?}");
                    assert_ne!(trouble, Trouble::TooOld, "that page was refused");
                }
                Err(error) => {
                    assert_eq!(error.code(), Some(&ErrorCode::TransactionTooOld), "{trouble:?}: {error:?}");
                    assert_eq!(trouble, Trouble::TooOld);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_trouble_no_row_is_requested_twice() {
    for (reverse, limit) in [(false, ROWS), (true, ROWS), (false, 23), (true, 23)] {
        let store = Store::default();
        (0..ROWS).for_each(|number| store.set(&key(number), "some value"));
        let served = Arc::new(Mutex::new(Vec::new()));
        let of_peer = served.clone();
        let peer = store
            .replica(move |call, store| {
                let ThriftCall::SnapshotGetRange(_) = call else { return None };
                let reply = store.serve(call.clone());
                let ThriftReply::SnapshotGetRange(page) = &reply else { panic!("another reply: {reply:?}") };
                of_peer.lock().expect("no panic").extend(page.key_values.iter().map(|row| row.key.clone()));
                Some(Action::Reply(reply))
            })
            .await;
        let db = passing(connect(&peer, small_pages())).await;
        let range = Range::prefix("k").limit(limit);
        let range = if reverse { range.reverse() } else { range };
        let mut rows = db.transaction().get_range(range);
        let mut keys = Vec::new();
        while let Some(row) = passing(rows.next()).await.expect("no failure") {
            keys.push(row.key);
            // Give the page that was requested in advance time to arrive.
            settle().await;
        }
        assert_eq!(keys.len(), limit);
        assert_eq!(*served.lock().expect("no panic"), keys, "reverse: {reverse}");
    }
}

/// Right before, at, and right after the last key of a page there can be a row, a gap, or an own
/// write.
#[tokio::test(start_paused = true)]
async fn own_writes_and_gaps_at_the_boundaries_of_pages_are_seen_once() {
    let store = Store::default();
    // Many of these keys are immediate neighbours.
    let keys = ["a", "a\0", "a\0\0", "a\x01", "b", "b\0", "c", "c\u{7f}", "d", "d\0", "e", "e\0", "f", "g"];
    keys.iter().for_each(|key| store.set(key, "v"));
    let peer = store.faultless().await;
    for range_page_bytes in 1..12 {
        let db = passing(connect(&peer, Options { range_page_bytes, ..small_pages() })).await;
        for own in keys.iter().flat_map(|key| [key.to_string(), format!("{key}\0\x01")]) {
            for (reverse, delete) in [(false, false), (true, false), (false, true), (true, true)] {
                let tx = db.transaction();
                let mut expected: Vec<String> = keys.iter().map(|key| key.to_string()).collect();
                expected.retain(|key| *key != own);
                if delete {
                    tx.delete(&own);
                } else {
                    tx.set(&own, "mine");
                    expected.push(own.clone());
                }
                expected.sort();
                let mut range = Range::all();
                if reverse {
                    (range, expected) = (range.reverse(), expected.into_iter().rev().collect());
                }
                let rows = passing(tx.get_range(range).all()).await.expect("rows");
                let found: Vec<String> =
                    rows.iter().map(|row| String::from_utf8_lossy(&row.key).into_owned()).collect();
                assert_eq!(found, expected, "{own:?}, pages of {range_page_bytes} bytes, reverse: {reverse}");
            }
        }
    }
}
