//! Scenario, legacy part: versionstamps, what is refused, faults, and the cluster.

use crate::generated::*;
use crate::kv::*;

pub const STEPS: &[Step] = &[
    ("a versionstamped key gets its stamp", a_versionstamped_key_gets_its_stamp),
    ("a versionstamped value gets its stamp", a_versionstamped_value_gets_its_stamp),
    ("a buffer that does not end in zeros is stored as it is", a_buffer_that_does_not_end_in_zeros_is_stored_as_it_is),
    ("a buffer without room for a stamp is an error", a_buffer_without_room_for_a_stamp_is_an_error),
    (
        "stamped operations of a commit carry its version and are counted",
        stamped_operations_of_a_commit_carry_its_version_and_are_counted,
    ),
    ("calls of the stateful protocol are refused politely", calls_of_the_stateful_protocol_are_refused_politely),
    ("an injected fault hits commits until it is cleared", an_injected_fault_hits_commits_until_it_is_cleared),
    ("cluster health counts its nodes", cluster_health_counts_its_nodes),
    ("database statistics count commits", database_statistics_count_commits),
    (
        "node information is given and an unknown node is an error",
        node_information_is_given_and_an_unknown_node_is_an_error,
    ),
];

pub const ROOM: [u8; 10] = [0; 10];
const CONFLICTS_CLIENT_SIDE: &str = "Conflict detection handled client-side in FoundationDB model";

pub fn set_stamped_key(kv: &mut Kv, key_prefix: Vec<u8>) -> SetVersionstampedKeyResponse {
    let request = SetVersionstampedKeyRequest {
        key_prefix,
        value: b"x".to_vec(),
        column_family: None,
        #[cfg(feature = "extensions")]
        auth_token: None,
    };
    kv.next().set_versionstamped_key(request).expect("a reply")
}

fn set_stamped_value(kv: &mut Kv, key: &[u8], value_prefix: Vec<u8>) -> SetVersionstampedValueResponse {
    let request = SetVersionstampedValueRequest {
        key: key.to_vec(),
        value_prefix,
        column_family: None,
        #[cfg(feature = "extensions")]
        auth_token: None,
    };
    kv.next().set_versionstamped_value(request).expect("a reply")
}

#[track_caller]
fn assert_stamp_after(version: i64, text: &[u8]) {
    let (stamped, counter) = text.split_at(8);
    assert_eq!(counter, [0, 0]);
    assert!(i64::from_be_bytes(stamped.try_into().expect("8 bytes")) > version);
}

fn a_versionstamped_key_gets_its_stamp(kv: &mut Kv, key: &[u8]) {
    let version = kv.version();
    let generated = succeeded(set_stamped_key(kv, join(key, ROOM))).generated_key;
    let (front, stamp) = generated.split_at(key.len());
    assert_eq!(front, key);
    assert_stamp_after(version, stamp);
    assert_eq!(kv.get(&generated).as_deref(), Some(&b"x"[..]));
}

fn a_versionstamped_value_gets_its_stamp(kv: &mut Kv, key: &[u8]) {
    let version = kv.version();
    let generated = succeeded(set_stamped_value(kv, key, join(b"at ", ROOM))).generated_value;
    let (front, stamp) = generated.split_at(3);
    assert_eq!(front, b"at ");
    assert_stamp_after(version, stamp);
    assert_eq!(kv.get(key), Some(generated));
}

fn a_buffer_that_does_not_end_in_zeros_is_stored_as_it_is(kv: &mut Kv, key: &[u8]) {
    let buffer = b"no stamp!!";
    let stored = join(key, buffer);
    assert_eq!(succeeded(set_stamped_key(kv, stored.clone())).generated_key, stored);
    assert_eq!(kv.get(&stored).as_deref(), Some(&b"x"[..]));
    assert_eq!(succeeded(set_stamped_value(kv, key, buffer.to_vec())).generated_value, buffer);
    assert_eq!(kv.get(key).as_deref(), Some(&buffer[..]));
}

fn a_buffer_without_room_for_a_stamp_is_an_error(kv: &mut Kv, key: &[u8]) {
    let short = vec![0; 9];
    failed(set_stamped_key(kv, short.clone()), "", "INVALID_OPERATION");
    failed(set_stamped_value(kv, key, short.clone()), "", "INVALID_OPERATION");
    for operation in
        [operation("SET_VERSIONSTAMPED_KEY", &short, "x"), operation("SET_VERSIONSTAMPED_VALUE", key, &short)]
    {
        failed(kv.commit(commit(0, vec![operation], &[])), "", "INVALID_OPERATION");
    }
}

fn stamped_operations_of_a_commit_carry_its_version_and_are_counted(kv: &mut Kv, key: &[u8]) {
    let version = kv.commit_all(vec![
        operation("SET_VERSIONSTAMPED_KEY", [&join(key, "k")[..], &[0xff; 10]].concat(), "x"),
        operation("set_versionstamped_value", join(key, "v"), join(b"at ", ROOM)),
    ]);
    let stamped_key = [&join(key, "k")[..], &stamp(version, 0)].concat();
    assert_eq!(kv.get(stamped_key).as_deref(), Some(&b"x"[..]));
    assert_eq!(kv.get(join(key, "v")), Some(join(b"at ", stamp(version, 1))));
}

fn calls_of_the_stateful_protocol_are_refused_politely(kv: &mut Kv, key: &[u8]) {
    let refused =
        |success: bool, error: Option<String>, text| assert_eq!((success, error.as_deref()), (false, Some(text)));
    let request = AddReadConflictRequest {
        key: key.to_vec(),
        column_family: None,
    };
    let reply = kv.next().add_read_conflict(request).expect("a reply");
    refused(reply.success, reply.error, CONFLICTS_CLIENT_SIDE);
    let end_key = join(key, b"\xff");
    let request = AddReadConflictRangeRequest {
        start_key: key.to_vec(),
        end_key,
        column_family: None,
    };
    let reply = kv.next().add_read_conflict_range(request).expect("a reply");
    refused(reply.success, reply.error, CONFLICTS_CLIENT_SIDE);
    let reply = kv
        .next()
        .set_read_version(SetReadVersionRequest {
            version: 7,
        })
        .expect("a reply");
    refused(reply.success, reply.error, "Read version managed client-side in FoundationDB model");
    let reply = kv
        .next()
        .get_committed_version(GetCommittedVersionRequest {
        })
        .expect("a reply");
    refused(reply.success, reply.error, "Committed version managed client-side in FoundationDB model");
    assert_eq!(reply.version, 0);
}

fn inject(kv: &mut Kv, probability: f64) {
    let request = FaultInjectionRequest {
        fault_type: "TIMEOUT".to_string(),
        probability: Some(probability.into()),
        duration_ms: None,
        target_operation: Some("commit".to_string()),
        #[cfg(feature = "extensions")]
        auth_token: None,
    };
    succeeded(kv.next().set_fault_injection(request).expect("a reply"));
}

fn an_injected_fault_hits_commits_until_it_is_cleared(kv: &mut Kv, key: &[u8]) {
    kv.by_one(|kv| {
        inject(kv, 1.0);
        let reply = kv.commit(commit(0, vec![operation("set", key, "1")], &[]));
        inject(kv, 0.0);
        failed(reply, "", "TIMEOUT");
        kv.commit_all(vec![operation("set", key, "2")]);
        assert_eq!(kv.get(key).as_deref(), Some(&b"2"[..]));
    });
}

fn cluster_health_counts_its_nodes(kv: &mut Kv, _: &[u8]) {
    let request = GetClusterHealthRequest { auth_token: None };
    let reply = succeeded(kv.next().get_cluster_health(request).expect("a reply"));
    let health = reply.cluster_health.expect("health");
    assert_eq!((health.total_nodes_count, health.healthy_nodes_count), (kv.nodes, kv.nodes));
    assert_eq!(health.nodes.len() as i32, kv.nodes);
    assert!(health.nodes.iter().all(|node| node.status == "healthy"));
    assert_eq!(health.cluster_status, "healthy");
    assert!(health.leader.expect("a leader").is_leader && health.current_term >= 0);
}

fn committed_transactions(kv: &mut Kv) -> i64 {
    let request = GetDatabaseStatsRequest { auth_token: None, include_detailed_stats: None };
    let reply = succeeded(kv.next().get_database_stats(request).expect("a reply"));
    reply.database_stats.expect("figures").committed_transactions
}

fn database_statistics_count_commits(kv: &mut Kv, key: &[u8]) {
    kv.by_one(|kv| {
        let before = committed_transactions(kv);
        kv.put(key, "x");
        assert!(committed_transactions(kv) > before);
    });
}

fn node_information_is_given_and_an_unknown_node_is_an_error(kv: &mut Kv, _: &[u8]) {
    let request = |node_id| GetNodeInfoRequest { auth_token: None, node_id: Some(node_id) };
    let known = succeeded(kv.next().get_node_info(request(0)).expect("a reply"));
    assert_eq!(known.node_info.expect("a node").node_id, 0);
    let unknown = kv.next().get_node_info(request(77)).expect("a reply");
    assert!(!unknown.success && unknown.error.expect("an error").contains("Node 77 not found"));
}
