//! Scenario, legacy part: versions and commits.

use crate::generated::TTransactionalKVSyncClient;
use crate::kv::*;

pub const STEPS: &[Step] = &[
    ("a read version covers what was written before", a_read_version_covers_what_was_written_before),
    ("a snapshot does not see later commits", a_snapshot_does_not_see_later_commits),
    ("a snapshot still sees what was deleted later", a_snapshot_still_sees_what_was_deleted_later),
    ("a snapshot range does not see later commits", a_snapshot_range_does_not_see_later_commits),
    ("a version of the future is an error", a_version_of_the_future_is_an_error),
    ("a commit writes all its operations at one version", a_commit_writes_all_its_operations_at_one_version),
    ("of several operations on one key the last one counts", of_several_operations_on_one_key_the_last_one_counts),
    (
        "a commit whose read key was written meanwhile conflicts",
        a_commit_whose_read_key_was_written_meanwhile_conflicts,
    ),
    (
        "a commit whose read key was deleted meanwhile conflicts",
        a_commit_whose_read_key_was_deleted_meanwhile_conflicts,
    ),
    ("a commit whose read key is unchanged succeeds", a_commit_whose_read_key_is_unchanged_succeeds),
    ("a conflict key counts in every family", a_conflict_key_counts_in_every_family),
    (
        "without conflict keys the read version is not looked at",
        without_conflict_keys_the_read_version_is_not_looked_at,
    ),
    ("a commit that has read the future is refused", a_commit_that_has_read_the_future_is_refused),
    ("an unknown operation type is refused as a whole", an_unknown_operation_type_is_refused_as_a_whole),
    ("a set without value is refused", a_set_without_value_is_refused),
    ("an empty commit succeeds at its read version", an_empty_commit_succeeds_at_its_read_version),
];

fn a_read_version_covers_what_was_written_before(kv: &mut Kv, key: &[u8]) {
    let before = kv.version();
    kv.put(key, "x");
    assert!(1 <= before && before < kv.version());
}

fn a_snapshot_does_not_see_later_commits(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "old");
    let then = kv.version();
    kv.put(key, "new");
    let now = kv.version();
    for (version, expected) in [(then, b"old"), (now, b"new")] {
        assert_eq!(kv.snapshot_read(key, version).as_deref(), Some(&expected[..]));
        assert_eq!(kv.snapshot_get(key, version).as_deref(), Some(&expected[..]));
    }
    assert_eq!(kv.snapshot_read(join(key, "missing"), then), None);
    assert_eq!(kv.snapshot_get(join(key, "missing"), then), None);
}

fn a_snapshot_still_sees_what_was_deleted_later(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "x");
    let then = kv.version();
    succeeded(kv.try_delete(key, None));
    assert_eq!(kv.snapshot_get(key, then).as_deref(), Some(&b"x"[..]));
    let now = kv.version();
    assert_eq!(kv.snapshot_get(key, now), None);
}

fn a_snapshot_range_does_not_see_later_commits(kv: &mut Kv, key: &[u8]) {
    kv.put(join(key, "a"), "old");
    let version = kv.version();
    kv.put(join(key, "a"), "new");
    kv.put(join(key, "b"), "new");
    let then = kv.snapshot_range(version, Range::new(key, join(key, b"\xff")));
    assert_eq!(then, Rows { rows: vec![(join(key, "a"), b"old".to_vec())], has_more: false });
}

fn a_version_of_the_future_is_an_error(kv: &mut Kv, key: &[u8]) {
    let (text, code) = ("newer than", "FUTURE_VERSION");
    let version = kv.version() + FUTURE;
    let range = Range { begin_key: Some(key.to_vec()), ..Range::default() };
    failed(kv.try_snapshot_read(key, version, None), text, code);
    failed(kv.try_snapshot_get(key, version), text, code);
    failed(kv.next().snapshot_get_range(range.at(version)).expect("a reply"), text, code);
}

fn a_commit_writes_all_its_operations_at_one_version(kv: &mut Kv, key: &[u8]) {
    let (a, b, gone) = (join(key, "a"), join(key, "b"), join(key, "gone"));
    kv.put(&gone, "x");
    let version = kv.commit_all(vec![operation("set", &a, "1"), operation("SET", &b, "2"), delete(&gone)]);
    assert!(version >= 2);
    assert_eq!(kv.get(&a).as_deref(), Some(&b"1"[..]));
    assert_eq!(kv.get(&b).as_deref(), Some(&b"2"[..]));
    assert_eq!(kv.get(&gone), None);
    assert_eq!(kv.snapshot_read(&b, version).as_deref(), Some(&b"2"[..]));
    assert_eq!(kv.snapshot_read(&b, version - 1), None);
}

fn of_several_operations_on_one_key_the_last_one_counts(kv: &mut Kv, key: &[u8]) {
    let (a, b) = (join(key, "a"), join(key, "b"));
    kv.commit_all(vec![
        operation("set", &a, "1"),
        delete(&a),
        operation("set", &a, "2"),
        operation("set", &b, "1"),
        delete(&b),
    ]);
    assert_eq!(kv.get(&a).as_deref(), Some(&b"2"[..]));
    assert_eq!(kv.get(&b), None);
}

fn a_commit_whose_read_key_was_written_meanwhile_conflicts(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "1");
    let version = kv.version();
    kv.put(key, "2");
    let reply = failed(kv.commit(commit(version, vec![operation("set", key, "3")], &[key])), "", "CONFLICT");
    assert_eq!(reply.committed_version, None);
    assert_eq!(kv.get(key).as_deref(), Some(&b"2"[..]));
}

fn a_commit_whose_read_key_was_deleted_meanwhile_conflicts(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "1");
    let version = kv.version();
    succeeded(kv.try_delete(key, None));
    let other = join(key, "x");
    failed(kv.commit(commit(version, vec![operation("set", &other, "2")], &[key])), "", "CONFLICT");
    assert_eq!(kv.get(&other), None);
}

fn a_commit_whose_read_key_is_unchanged_succeeds(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "1");
    let version = kv.version();
    succeeded(kv.commit(commit(version, vec![operation("set", key, "2")], &[key])));
    assert_eq!(kv.get(key).as_deref(), Some(&b"2"[..]));
}

fn a_conflict_key_counts_in_every_family(kv: &mut Kv, key: &[u8]) {
    let version = kv.version();
    succeeded(kv.try_put(key, "1", FAMILY));
    failed(kv.commit(commit(version, vec![operation("set", join(key, "x"), "2")], &[key])), "", "CONFLICT");
}

fn without_conflict_keys_the_read_version_is_not_looked_at(kv: &mut Kv, key: &[u8]) {
    kv.put(key, "1");
    succeeded(kv.commit(commit(0, vec![operation("set", key, "2")], &[])));
    let future = kv.version() + FUTURE;
    succeeded(kv.commit(commit(future, vec![operation("set", key, "3")], &[])));
    assert_eq!(kv.get(key).as_deref(), Some(&b"3"[..]));
}

fn a_commit_that_has_read_the_future_is_refused(kv: &mut Kv, key: &[u8]) {
    let future = kv.version() + FUTURE;
    let request = commit(future, vec![operation("set", key, "1")], &[key]);
    failed(kv.commit(request), "newer than", "FUTURE_VERSION");
    assert_eq!(kv.get(key), None);
}

fn an_unknown_operation_type_is_refused_as_a_whole(kv: &mut Kv, key: &[u8]) {
    let operations = vec![operation("set", key, "1"), operation("frobnicate", key, "2")];
    failed(kv.commit(commit(0, operations, &[])), "frobnicate", "INVALID_OPERATION");
    assert_eq!(kv.get(key), None);
}

fn a_set_without_value_is_refused(kv: &mut Kv, key: &[u8]) {
    failed(kv.commit(commit(0, vec![operation_in(None, "set", key, None)], &[])), "", "INVALID_OPERATION");
}

fn an_empty_commit_succeeds_at_its_read_version(kv: &mut Kv, _: &[u8]) {
    let version = kv.version();
    assert_eq!(succeeded(kv.commit(commit(version, Vec::new(), &[]))).committed_version, Some(version));
}
