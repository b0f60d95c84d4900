//! Tests of the operations of a commit and of ranges, which behave the same through every server of
//! every kind of cluster.

use kv_api::thrift::generated as wire;
use tokio::task::JoinSet;

use crate::cluster::{Settings, TestCluster};
use crate::on_clusters;
use crate::thrift::{RawClient, commit, operation, put, range, range_at};

on_clusters! {
    a_range_clear_hides_rows_and_conflicts_with_their_readers(Settings::default()):
        standalone, in_memory, tcp, processes;
    atomic_mutations_change_what_is_stored_without_reading_it(Settings::default()):
        standalone, in_memory, tcp, processes;
    additions_through_all_servers_never_conflict_and_are_never_lost(Settings::default()):
        standalone, in_memory, tcp, processes;
    key_selectors_are_resolved_at_the_version_of_the_read(Settings::default()): standalone, in_memory, tcp, processes;
    single_versionstamped_keys_and_values_are_unique_and_in_order(Settings::default()):
        standalone, in_memory, tcp, processes;
    a_large_range_is_read_page_by_page_at_one_version(Settings::default()): standalone, in_memory, tcp, processes;
}

async fn a_range_clear_hides_rows_and_conflicts_with_their_readers<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    let last = clients.len() - 1;
    clients[0].commit((b'a'..=b'h').map(|key| put(&[key], b"old")).collect()).await;
    let before = clients[last].read_version().await;
    // Within one commit, writes before the clear are removed by it, and writes after it stay.
    let clear = operation("clear_range", b"c", Some(b"g"));
    let version = clients[last].commit(vec![put(b"d", b"gone"), clear, put(b"e", b"new")]).await;
    for client in &mut clients {
        assert_eq!(client.keys(range(b"", b"z")).await, ["a", "b", "e", "g", "h"]);
        let reversed = wire::GetRangeRequest { reverse: Some(true), ..range(b"b", b"h") };
        assert_eq!(client.keys(reversed).await, ["g", "e", "b"]);
        assert_eq!(client.get(b"d").await, None);
        assert_eq!(client.get(b"e").await, Some(b"new".to_vec()));
        // The past is unchanged.
        let then = client.call(range_at(range(b"", b"z"), before)).await;
        assert_eq!(then.key_values.len(), 8, "{then:?}");
        assert_eq!(client.get_at(b"d", before).await.value, b"old");
        assert!(!client.get_at(b"d", version).await.found);
    }
    for (key, conflicts) in [(b"d", true), (b"f", true), (b"b", false), (b"g", false)] {
        let reading = wire::AtomicCommitRequest {
            read_version: before,
            read_conflicts: Some(vec![wire::KeyRef { key: key.to_vec(), column_family: None }]),
            ..commit(vec![put(b"witness", key)])
        };
        let reply = clients[0].call(reading).await;
        assert_eq!(reply.success, !conflicts, "{reply:?}");
        if conflicts {
            assert_eq!(reply.error_code.as_deref(), Some("CONFLICT"));
            let named: Vec<_> = reply.conflicting_keys.into_iter().flatten().map(|key| key.key).collect();
            assert_eq!(named, [key]);
        }
    }
    // A range that was empty when it was read, and a clear that removed nothing there.
    let empty = wire::KeyRange { begin_key: b"x".to_vec(), end_key: b"y".to_vec(), column_family: None };
    let before = clients[0].read_version().await;
    clients[last].commit(vec![operation("clear_range", b"w", Some(b"z"))]).await;
    let reading = wire::AtomicCommitRequest {
        read_version: before,
        read_conflict_ranges: Some(vec![empty]),
        ..commit(vec![put(b"witness", b"x")])
    };
    assert_eq!(clients[0].call(reading).await.error_code.as_deref(), Some("CONFLICT"));
    cluster.assert_replicas_agree().await;
}

async fn atomic_mutations_change_what_is_stored_without_reading_it<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    // Operation, what is stored, operand, what is stored then. Numbers are little-endian, and as
    // long as the operand.
    type Stored = Option<&'static [u8]>;
    let table: [(&str, Stored, &[u8], Stored); 20] = [
        ("add", None, &[1, 0], Some(&[1, 0])),
        ("add", Some(&[255, 0]), &[1, 0], Some(&[0, 1])),
        ("ADD", Some(&[255, 255]), &[1], Some(&[0])),
        ("min", None, &[5], Some(&[5])),
        ("min", Some(&[1, 1]), &[2, 1], Some(&[1, 1])),
        ("max", Some(&[1, 2]), &[2, 1], Some(&[1, 2])),
        ("max", None, &[9], Some(&[9])),
        ("byte_min", Some(b"abc"), b"abd", Some(b"abc")),
        ("byte_min", None, b"x", Some(b"x")),
        ("byte_max", Some(b"abc"), b"b", Some(b"b")),
        ("bit_and", Some(&[0b1100]), &[0b1010], Some(&[0b1000])),
        ("bit_and", None, &[0b1010], Some(&[0b1010])),
        ("bit_or", Some(&[0b1100]), &[0b1010], Some(&[0b1110])),
        ("bit_or", None, &[0b1010], Some(&[0b1010])),
        ("bit_xor", Some(&[0b1100]), &[0b1010], Some(&[0b0110])),
        ("append_if_fits", Some(b"ab"), b"c", Some(b"abc")),
        ("append_if_fits", None, b"c", Some(b"c")),
        ("compare_and_clear", Some(b"same"), b"same", None),
        ("compare_and_clear", Some(b"other"), b"same", Some(b"other")),
        ("compare_and_clear", None, b"same", None),
    ];
    for (number, (kind, before, operand, after)) in table.into_iter().enumerate() {
        let key = format!("k{number:02}").into_bytes();
        let servers = clients.len();
        if let Some(value) = before {
            clients[number % servers].set(&key, value).await;
        }
        clients[(number + 1) % servers].commit(vec![operation(kind, &key, Some(operand))]).await;
        let found = clients[(number + 2) % servers].get(&key).await;
        assert_eq!(found.as_deref(), after, "{kind} {operand:?} on {before:?}");
    }
    // They see the earlier operations of the same commit.
    let operations = vec![
        put(b"several", &[1]),
        operation("add", b"several", Some(&[2])),
        operation("clear_range", b"several", Some(b"severam")),
        operation("add", b"several", Some(&[4])),
    ];
    clients[0].commit(operations).await;
    for client in &mut clients {
        assert_eq!(client.get(b"several").await, Some(vec![4]));
    }
    cluster.assert_replicas_agree().await;
}

async fn additions_through_all_servers_never_conflict_and_are_never_lost<C: TestCluster>(cluster: &mut C) {
    const EACH: u64 = 40;
    let mut adding = JoinSet::new();
    let clients = RawClient::to_each(cluster).await;
    let servers = clients.len() as u64;
    for mut client in clients {
        adding.spawn(async move {
            for _ in 0..EACH {
                client.commit(vec![operation("add", b"sum", Some(&1u64.to_le_bytes()))]).await;
            }
        });
    }
    adding.join_all().await;
    for mut client in RawClient::to_each(cluster).await {
        let sum = client.get(b"sum").await.expect("a sum");
        assert_eq!(sum, (servers * EACH).to_le_bytes());
    }
    cluster.assert_replicas_agree().await;
}

async fn key_selectors_are_resolved_at_the_version_of_the_read<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    clients[0].commit((b'a'..=b'f').map(|key| put(&[key], b"v")).collect()).await;
    let before = clients[0].read_version().await;
    let clear = operation("clear_range", b"b", Some(b"d"));
    clients[0].commit(vec![clear, operation("delete", b"e", None)]).await;
    let selector = |key: &[u8], or_equal, offset| Some(wire::KeySelector { key: key.to_vec(), or_equal, offset });
    let table = [
        (selector(b"b", false, 1), selector(b"f", true, 1), "bcdef", "df"),
        (selector(b"f", false, -1), selector(b"f", false, 1), "de", "ad"),
        (selector(b"c", true, 0), selector(b"", false, 4), "c", "adf"),
        (selector(b"c", false, -9), selector(b"c", false, 9), "abcdef", "adf"),
        (selector(b"e", true, 2), None, "", ""),
    ];
    for client in &mut clients {
        for (begin, end, then, now) in table.clone() {
            let request =
                wire::GetRangeRequest { begin_selector: begin.clone(), end_selector: end.clone(), ..range(b"", b"z") };
            let found = client.call(range_at(request.clone(), before)).await;
            let keys: Vec<u8> = found.key_values.into_iter().flat_map(|row| row.key).collect();
            assert_eq!(String::from_utf8_lossy(&keys), then, "{begin:?} to {end:?} before");
            assert_eq!(client.keys(request.clone()).await.concat(), now, "{begin:?} to {end:?} after");
            let first = client.call(wire::GetRangeRequest { limit: Some(1), ..request }).await;
            assert_eq!(first.has_more, now.len() > 1, "{first:?}");
        }
    }
}

async fn single_versionstamped_keys_and_values_are_unique_and_in_order<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    let buffer = [b"log/".as_slice(), &[0; 10]].concat();
    let mut made = Vec::new();
    for round in 0..10u8 {
        for client in &mut clients {
            let request = wire::SetVersionstampedKeyRequest {
                key_prefix: buffer.clone(),
                value: vec![round],
                column_family: None,
                auth_token: None,
            };
            let reply = client.call(request).await;
            assert!(reply.success, "{reply:?}");
            made.push(reply.generated_key);
            let request = wire::SetVersionstampedValueRequest {
                key: b"newest".to_vec(),
                value_prefix: buffer.clone(),
                column_family: None,
                auth_token: None,
            };
            let reply = client.call(request).await;
            assert!(reply.success, "{reply:?}");
            assert!(reply.generated_value > *made.last().expect("one was made"), "stamps rise with every commit");
            assert_eq!(client.get(b"newest").await, Some(reply.generated_value));
        }
    }
    assert!(made.is_sorted_by(|one, next| one < next), "each commit was acknowledged before the next began");
    for client in &mut clients {
        let rows = client.call(range(b"log/", b"log0")).await;
        assert_eq!(rows.key_values.into_iter().map(|row| row.key).collect::<Vec<_>>(), made);
        // A tail that is not all zero does not get a stamp.
        let kept = wire::SetVersionstampedKeyRequest {
            key_prefix: b"as it is, not stamped".to_vec(),
            value: Vec::new(),
            column_family: None,
            auth_token: None,
        };
        assert_eq!(client.call(kept).await.generated_key, b"as it is, not stamped");
    }
}

async fn a_large_range_is_read_page_by_page_at_one_version<C: TestCluster>(cluster: &mut C) {
    const ROWS: usize = 3_000;
    let mut clients = RawClient::to_each(cluster).await;
    for part in 0..3 {
        let rows = (part * ROWS / 3..(part + 1) * ROWS / 3).map(|row| put(format!("{row:06}").as_bytes(), &[7; 50]));
        clients[0].commit(rows.collect()).await;
    }
    let version = clients[0].read_version().await;
    clients[0].commit(vec![operation("clear_range", b"000100", Some(b"002900"))]).await;
    let (mut begin, mut found, mut pages) = (b"".to_vec(), Vec::new(), 0);
    loop {
        let place = pages % clients.len();
        let page = wire::GetRangeRequest { target_bytes: Some(10_000), limit: Some(0), ..range(&begin, b"\xff") };
        let page = clients[place].call(range_at(page, version)).await;
        assert!(page.success, "{page:?}");
        let bytes: usize = page.key_values.iter().map(|row| row.key.len() + row.value.len()).sum();
        assert!(bytes < 10_000 + 56, "a page of {bytes} bytes");
        found.extend(page.key_values.into_iter().map(|row| String::from_utf8(row.key).expect("text")));
        pages += 1;
        if !page.has_more {
            break;
        }
        begin = [found.last().expect("a page holds a row").as_bytes(), b"\0"].concat();
    }
    assert_eq!(found, (0..ROWS).map(|row| format!("{row:06}")).collect::<Vec<_>>());
    assert!(pages > ROWS * 56 / 10_000, "{pages} pages");
}
