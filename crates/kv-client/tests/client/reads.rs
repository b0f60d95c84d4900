//! The reads of transactions: their results, the requests they send, and what counts as read.

use kv_api::thrift::ThriftCall;
use kv_client::{ClientError, Database, KeySelector, Options, Range, Version};

use crate::peer::Action;
use crate::store::Store;
use crate::{alone, connect};

/// Sets the rows `k000` to `k<count - 1>` to values of the given size.
fn fill(store: &Store, count: usize, value_bytes: usize) {
    (0..count).for_each(|number| store.set(&format!("k{number:03}"), &"v".repeat(value_bytes)));
}

fn keys(rows: &[kv_client::Row]) -> Vec<&str> {
    rows.iter().map(|row| std::str::from_utf8(&row.key).expect("text")).collect()
}

/// The keys and ranges that the last commit names as read.
fn conflicts(store: &Store) -> (Vec<String>, Vec<(String, String)>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let contents = store.contents();
    let commit = contents.commits.last().expect("there was a commit");
    // Leave out the client's guard, which is not a key of the test.
    let single = commit.read_conflicts.iter().flatten().filter(|key| key.key[0] != 0xFF);
    let single = single.map(|key| text(&key.key)).collect();
    let ranges = commit.read_conflict_ranges.iter().flatten();
    (single, ranges.map(|range| (text(&range.begin_key), text(&range.end_key))).collect())
}

fn range(begin: &str, end: &str) -> (String, String) {
    (begin.to_string(), end.to_string())
}

async fn some_rows(count: usize) -> (Store, Database) {
    let store = Store::default();
    fill(&store, count, 1);
    let db = connect(&store.faultless().await, alone()).await;
    (store, db)
}

#[tokio::test]
async fn own_writes_are_read_without_a_request() {
    let (store, db) = some_rows(0).await;
    let tx = db.transaction();
    tx.set("k", "v");
    assert_eq!(tx.get("k").await.expect("a value").as_deref(), Some(&b"v"[..]));
    tx.clear_range("a", "z");
    assert_eq!(tx.get("k").await, Ok(None));
    assert_eq!(tx.get_range("b".."y").all().await, Ok(Vec::new()));
    tx.commit().await.expect("it is committed");
    assert_eq!((store.calls_of("snapshotGet"), store.calls_of("snapshotGetRange")), (0, 0));
    assert_eq!(conflicts(&store), (vec![], vec![]));
}

#[tokio::test]
async fn all_reads_are_at_one_version() {
    let (store, db) = some_rows(1).await;
    let tx = db.transaction();
    assert_eq!(tx.get("k000").await.map(|value| value.is_some()), Ok(true));
    store.set("k001", "new");
    assert_eq!(tx.get("k001").await, Ok(None));
    assert_eq!(keys(&tx.get_range(..).all().await.expect("rows")), ["k000"]);
    assert_eq!(store.calls_of("getReadVersion"), 1);
}

#[tokio::test]
async fn an_earlier_version_can_be_read() {
    let (store, db) = some_rows(2).await;
    let tx = db.transaction();
    tx.set_read_version(Version(2)).expect("it has none yet");
    assert_eq!(keys(&tx.get_range(..).all().await.expect("rows")), ["k000"]);
    assert!(matches!(tx.set_read_version(Version(1)), Err(ClientError::InvalidArgument(_))));
    assert_eq!(store.calls_of("getReadVersion"), 0);
}

#[tokio::test]
async fn transactions_that_begin_together_share_rounds_for_read_versions() {
    let (store, db) = some_rows(1).await;
    let read = |db: Database| async move { db.transaction().read_version().await };
    let tasks: Vec<_> = (0..200).map(|_| tokio::spawn(read(db.clone()))).collect();
    for task in tasks {
        assert_eq!(task.await.expect("no panic"), Ok(Version(2)));
    }
    assert!(store.calls_of("getReadVersion") < 100, "{} rounds", store.calls_of("getReadVersion"));
}

#[tokio::test]
async fn a_long_range_is_read_in_pages_of_growing_but_bounded_size() {
    let store = Store::default();
    fill(&store, 300, 1000);
    let targets = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = targets.clone();
    let peer = store
        .replica(move |call, _| {
            if let ThriftCall::SnapshotGetRange(request) = call {
                seen.lock().expect("no panic").push(request.target_bytes.expect("always given"));
            }
            None
        })
        .await;
    let db = connect(&peer, Options { range_page_bytes: 100_000, ..alone() }).await;
    for is_reverse in [false, true] {
        let range = if is_reverse { Range::all().reverse() } else { Range::all() };
        let rows = db.transaction().get_range(range).all().await.expect("rows");
        let mut expected: Vec<String> = (0..300).map(|number| format!("k{number:03}")).collect();
        if is_reverse {
            expected.reverse();
        }
        assert_eq!(keys(&rows), expected);
        let targets = std::mem::take(&mut *targets.lock().expect("no panic"));
        assert_eq!(targets[..3], [16 << 10, 64 << 10, 100_000]);
        assert!(targets.iter().all(|target| *target <= 100_000));
    }
}

#[tokio::test]
async fn a_page_that_was_requested_in_advance_shows_later_writes_too() {
    let store = Store::default();
    fill(&store, 300, 1000);
    let db = connect(&store.faultless().await, Options { range_page_bytes: 20_000, ..alone() }).await;
    for is_reverse in [false, true] {
        let tx = db.transaction();
        let range = if is_reverse { Range::all().reverse() } else { Range::all() };
        let mut rows = tx.get_range(range);
        // The 50th row is in the third page.
        for _ in 0..50 {
            rows.next().await.expect("a row");
        }
        let pages = store.calls_of("snapshotGetRange");
        tx.clear_range("k100", "k190");
        tx.set("k150", "mine");
        let rest = rows.all().await.expect("rows");
        let mut expected: Vec<String> = (0..300)
            .filter(|number| !(100..190).contains(number) || *number == 150)
            .map(|number| format!("k{number:03}"))
            .collect();
        if is_reverse {
            expected.reverse();
        }
        assert_eq!(keys(&rest), expected[50..]);
        assert!(store.calls_of("snapshotGetRange") > pages, "more pages were needed");
    }
}

/// Requesting a page in advance is not yet reading it.
#[tokio::test]
async fn a_page_that_was_only_requested_does_not_count_as_read() {
    let store = Store::default();
    fill(&store, 300, 1000);
    let db = connect(&store.faultless().await, Options { range_page_bytes: 20_000, ..alone() }).await;
    let tx = db.transaction();
    let mut rows = tx.get_range(Range::prefix("k"));
    for _ in 0..50 {
        rows.next().await.expect("a row");
    }
    tx.set("x", "");
    tx.commit().await.expect("it is committed");
    assert_eq!(conflicts(&store), (vec![], vec![range("k", "k049\0")]));
}

#[tokio::test]
async fn only_rows_that_were_returned_count_as_read() {
    let (store, db) = some_rows(10).await;
    let tx = db.transaction();
    let mut rows = tx.get_range(Range::prefix("k"));
    for _ in 0..3 {
        rows.next().await.expect("a row");
    }
    let last_two = tx.get_range(Range::prefix("k").reverse().limit(2)).all().await.expect("rows");
    assert_eq!(keys(&last_two), ["k009", "k008"]);
    tx.get("k005").await.expect("a value");
    tx.snapshot().get("k006").await.expect("a value");
    tx.snapshot().get_range(..).all().await.expect("rows");
    tx.set("x", "");
    tx.commit().await.expect("it is committed");
    assert_eq!(conflicts(&store), (vec!["k005".into()], vec![range("k", "k002\0"), range("k008", "l")]));
}

#[tokio::test]
async fn own_writes_within_a_range_do_not_count_as_read() {
    let (store, db) = some_rows(6).await;
    let tx = db.transaction();
    tx.set("k001", "mine");
    tx.clear_range("k003", "k005");
    let rows = tx.get_range(Range::prefix("k")).all().await.expect("rows");
    assert_eq!(keys(&rows), ["k000", "k001", "k002", "k005"]);
    tx.commit().await.expect("it is committed");
    assert_eq!(conflicts(&store), (vec![], vec![range("k", "k001"), range("k001\0", "k003"), range("k005", "l")]));
}

#[tokio::test]
async fn conflicts_can_be_added_explicitly() {
    let (store, db) = some_rows(1).await;
    let tx = db.transaction();
    tx.add_read_conflict_key("k");
    tx.add_read_conflict_range("m", "n");
    tx.family("users").add_read_conflict_key("ada");
    tx.set("x", "");
    tx.commit().await.expect("it is committed");
    assert_eq!(conflicts(&store), (vec!["k".into(), "ada".into()], vec![range("m", "n")]));
    let contents = store.contents();
    let families: Vec<_> =
        contents.commits[0].read_conflicts.iter().flatten().map(|key| key.column_family.as_deref()).collect();
    assert_eq!(families, [None, Some("users")]);
    assert_eq!(contents.commits[0].read_version, 2, "obtained for the commit");
}

#[tokio::test]
async fn families_are_separate_and_both_names_of_the_default_family_mean_the_same() {
    let (_store, db) = some_rows(0).await;
    let tx = db.transaction();
    tx.set("k", "default");
    tx.family("users").set("k", "users");
    assert_eq!(tx.family("default").get("k").await.expect("a value").as_deref(), Some(&b"default"[..]));
    assert_eq!(tx.family("users").snapshot().get("k").await.expect("a value").as_deref(), Some(&b"users"[..]));
}

#[tokio::test]
async fn selectors_count_keys_including_own_writes() {
    let (store, db) = some_rows(6).await;
    let tx = db.transaction();
    tx.set("k0005", "between the first two");
    tx.delete("k002");
    // The keys now are k000, k0005, k001, k003, k004, k005.
    let cases = [
        (KeySelector::first_greater_or_equal("k002"), Some("k003")),
        (KeySelector::first_greater_than("k000"), Some("k0005")),
        (KeySelector::last_less_than("k001"), Some("k0005")),
        (KeySelector::last_less_or_equal("k001"), Some("k001")),
        (KeySelector::first_greater_or_equal("k000").offset_by(3), Some("k003")),
        (KeySelector::last_less_than("k003").offset_by(-2), Some("k000")),
        (KeySelector::last_less_than("k000"), None),
        (KeySelector::first_greater_than("k005"), None),
        (KeySelector::first_greater_than("k004").offset_by(1), None),
        (KeySelector::last_less_or_equal("k0005").offset_by(-2), None),
    ];
    for (selector, expected) in cases {
        let found = tx.snapshot().get_key(&selector).await.expect("an answer");
        assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{selector:?}");
    }
    let between =
        Range::between(KeySelector::last_less_than("k003"), KeySelector::first_greater_or_equal("k003").offset_by(2));
    assert_eq!(keys(&tx.get_range(between).all().await.expect("rows")), ["k001", "k003", "k004"]);
    tx.commit().await.expect("it is committed");
    // From the key at which the range begins to the last one before its end, without the key that
    // the transaction itself deleted.
    assert_eq!(conflicts(&store), (vec![], vec![range("k001", "k002"), range("k002\0", "k004\0")]));
}

#[tokio::test]
async fn deleting_rows_of_a_range_while_reading_it_does_not_disturb_the_read() {
    let (store, db) = some_rows(50).await;
    let deleted = db
        .run(|tx| async move {
            let mut rows = tx.get_range(Range::prefix("k"));
            let mut deleted = 0;
            while let Some(row) = rows.next().await? {
                tx.delete(&row.key);
                deleted += 1;
            }
            Ok::<_, ClientError>(deleted)
        })
        .await;
    assert_eq!(deleted, Ok(50));
    assert_eq!(store.value("k000"), None);
}

#[tokio::test]
async fn a_page_that_has_no_rows_but_says_there_are_more_is_an_error() {
    let store = Store::default();
    let peer = store
        .replica(|call, _| {
            let ThriftCall::SnapshotGetRange(_) = call else { return None };
            let page = kv_api::thrift::generated::SnapshotGetRangeResponse {
                key_values: Vec::new(),
                success: true,
                error: None,
                has_more: true,
                error_code: None,
                leader_endpoint: None,
            };
            Some(Action::Reply(page.into()))
        })
        .await;
    let db = connect(&peer, alone()).await;
    let result = db.transaction().get_range(..).all().await;
    assert!(matches!(result, Err(ClientError::Malformed { .. })), "{result:?}");
}
