// Scenario, legacy part: versions and commits.
#include "kv.h"

static void a_snapshot_does_not_see_later_commits(Kv& kv, const Bytes& key) {
    kv.put(key, "old");
    const int64_t then = kv.version();
    kv.put(key, "new");
    const int64_t now = kv.version();
    CHECK(value_of(kv.snapshot_read(key, then)) == "old");
    CHECK(value_of(kv.snapshot_get(key, then)) == "old");
    CHECK(value_of(kv.snapshot_read(key, now)) == "new");
    CHECK(value_of(kv.snapshot_get(key, now)) == "new");
    CHECK(value_of(kv.snapshot_read(key + "missing", then)) == std::nullopt);
    CHECK(value_of(kv.snapshot_get(key + "missing", then)) == std::nullopt);
}

static void a_snapshot_range_does_not_see_later_commits(Kv& kv, const Bytes& key) {
    kv.put(key + "a", "old");
    const int64_t version = kv.version();
    kv.put(key + "a", "new");
    kv.put(key + "b", "new");
    const auto response = kv.snapshot_range(version, key, key + "\xff");
    CHECK(rows(response) == Rows({{key + "a", "old"}}));
    CHECK(!response.has_more);
}

static void a_version_of_the_future_is_an_error(Kv& kv, const Bytes& key) {
    const auto refused = [](const auto& response) { failed(response, "newer than", "FUTURE_VERSION"); };
    const int64_t version = kv.version() + FUTURE;
    refused(kv.snapshot_read(key, version));
    refused(kv.snapshot_get(key, version));
    refused(kv.try_snapshot_range(version, [&](SnapshotGetRangeRequest& request) { request.__set_begin_key(key); }));
}

static void a_commit_writes_all_its_operations_at_one_version(Kv& kv, const Bytes& key) {
    const Bytes a = key + "a", b = key + "b", gone = key + "gone";
    kv.put(gone);
    const int64_t version = kv.commit_all({operation("set", a, "1"), operation("SET", b, "2"), operation("delete", gone)});
    CHECK(version >= 2);
    CHECK(kv.get(a) == "1" && kv.get(b) == "2" && kv.get(gone) == std::nullopt);
    CHECK(kv.snapshot_read(b, version).value == "2");
    CHECK(kv.snapshot_read(b, version - 1).value.empty());
}

static void of_several_operations_on_one_key_the_last_one_counts(Kv& kv, const Bytes& key) {
    const Bytes a = key + "a", b = key + "b";
    kv.commit_all({operation("set", a, "1"), operation("delete", a), operation("set", a, "2"), operation("set", b, "1"),
                   operation("delete", b)});
    CHECK(kv.get(a) == "2" && kv.get(b) == std::nullopt);
}

static void a_commit_whose_read_key_was_written_meanwhile_conflicts(Kv& kv, const Bytes& key) {
    kv.put(key, "1");
    const int64_t version = kv.version();
    kv.put(key, "2");
    const auto response = failed(kv.commit({operation("set", key, "3")}, version, {key}), "", "CONFLICT");
    CHECK(!response.__isset.committed_version);
    CHECK(kv.get(key) == "2");
}

static void a_commit_whose_read_key_was_deleted_meanwhile_conflicts(Kv& kv, const Bytes& key) {
    kv.put(key, "1");
    const int64_t version = kv.version();
    kv.remove(key);
    failed(kv.commit({operation("set", key + "x", "2")}, version, {key}), "", "CONFLICT");
    CHECK(kv.get(key + "x") == std::nullopt);
}

const std::vector<Step> versions_and_commits = {
    {"a read version covers what was written before",
     [](Kv& kv, const Bytes& key) {
         const int64_t before = kv.version();
         kv.put(key);
         CHECK(1 <= before && before < kv.version());
     }},
    {"a snapshot does not see later commits", a_snapshot_does_not_see_later_commits},
    {"a snapshot still sees what was deleted later",
     [](Kv& kv, const Bytes& key) {
         kv.put(key);
         const int64_t then = kv.version();
         kv.remove(key);
         CHECK(value_of(kv.snapshot_get(key, then)) == "x");
         CHECK(value_of(kv.snapshot_get(key, kv.version())) == std::nullopt);
     }},
    {"a snapshot range does not see later commits", a_snapshot_range_does_not_see_later_commits},
    {"a version of the future is an error", a_version_of_the_future_is_an_error},
    {"a commit writes all its operations at one version", a_commit_writes_all_its_operations_at_one_version},
    {"of several operations on one key the last one counts", of_several_operations_on_one_key_the_last_one_counts},
    {"a commit whose read key was written meanwhile conflicts", a_commit_whose_read_key_was_written_meanwhile_conflicts},
    {"a commit whose read key was deleted meanwhile conflicts", a_commit_whose_read_key_was_deleted_meanwhile_conflicts},
    {"a commit whose read key is unchanged succeeds",
     [](Kv& kv, const Bytes& key) {
         kv.put(key, "1");
         succeeded(kv.commit({operation("set", key, "2")}, kv.version(), {key}));
         CHECK(kv.get(key) == "2");
     }},
    {"a conflict key counts in every family",
     [](Kv& kv, const Bytes& key) {
         const int64_t version = kv.version();
         kv.put(key, "1", FAMILY);
         failed(kv.commit({operation("set", key + "x", "2")}, version, {key}), "", "CONFLICT");
     }},
    {"without conflict keys the read version is not looked at",
     [](Kv& kv, const Bytes& key) {
         kv.put(key, "1");
         succeeded(kv.commit({operation("set", key, "2")}, 0));
         succeeded(kv.commit({operation("set", key, "3")}, kv.version() + FUTURE));
         CHECK(kv.get(key) == "3");
     }},
    {"a commit that has read the future is refused",
     [](Kv& kv, const Bytes& key) {
         const int64_t version = kv.version() + FUTURE;
         failed(kv.commit({operation("set", key, "1")}, version, {key}), "newer than", "FUTURE_VERSION");
         CHECK(kv.get(key) == std::nullopt);
     }},
    {"an unknown operation type is refused as a whole",
     [](Kv& kv, const Bytes& key) {
         const auto response = kv.commit({operation("set", key, "1"), operation("frobnicate", key, "2")});
         failed(response, "frobnicate", "INVALID_OPERATION");
         CHECK(kv.get(key) == std::nullopt);
     }},
    {"a set without value is refused",
     [](Kv& kv, const Bytes& key) { failed(kv.commit({operation("set", key)}), "", "INVALID_OPERATION"); }},
    {"an empty commit succeeds at its read version",
     [](Kv& kv, const Bytes&) {
         const int64_t version = kv.version();
         CHECK(succeeded(kv.commit({}, version)).committed_version == version);
     }},
};
