// Scenario, legacy part: versionstamps, what is refused, faults, and the cluster.
#include "kv.h"

static const Bytes ROOM(10, '\0');
static const char* const CONFLICTS_CLIENT_SIDE = "Conflict detection handled client-side in FoundationDB model";

static SetVersionstampedKeyResponse set_stamped_key(Kv& kv, const Bytes& buffer) {
    SetVersionstampedKeyRequest request;
    request.key_prefix = buffer;
    request.value = "x";
    return kv.call<SetVersionstampedKeyResponse>(&Kv::Client::setVersionstampedKey, request);
}

static SetVersionstampedValueResponse set_stamped_value(Kv& kv, const Bytes& key, const Bytes& buffer) {
    SetVersionstampedValueRequest request;
    request.key = key;
    request.value_prefix = buffer;
    return kv.call<SetVersionstampedValueResponse>(&Kv::Client::setVersionstampedValue, request);
}

static bool is_stamp_after(int64_t version, const Bytes& text) {
    // Big-endian: the order of bytes is that of numbers.
    return text.size() == ROOM.size() && text.substr(8) == "\0\0"s && text > stamp(version + 1).substr(0, 8);
}

static void a_versionstamped_key_gets_its_stamp(Kv& kv, const Bytes& key) {
    const int64_t version = kv.version();
    const Bytes generated = succeeded(set_stamped_key(kv, key + ROOM)).generated_key;
    CHECK(generated.substr(0, key.size()) == key);
    CHECK(is_stamp_after(version, generated.substr(key.size())));
    CHECK(kv.get(generated) == "x");
}

static void a_versionstamped_value_gets_its_stamp(Kv& kv, const Bytes& key) {
    const int64_t version = kv.version();
    const Bytes generated = succeeded(set_stamped_value(kv, key, "at " + ROOM)).generated_value;
    CHECK(generated.substr(0, 3) == "at ");
    CHECK(is_stamp_after(version, generated.substr(3)));
    CHECK(kv.get(key) == generated);
}

static void a_buffer_that_does_not_end_in_zeros_is_stored_as_it_is(Kv& kv, const Bytes& key) {
    const Bytes buffer = "no stamp!!";
    CHECK(succeeded(set_stamped_key(kv, key + buffer)).generated_key == key + buffer);
    CHECK(kv.get(key + buffer) == "x");
    CHECK(succeeded(set_stamped_value(kv, key, buffer)).generated_value == buffer);
    CHECK(kv.get(key) == buffer);
}

static void a_buffer_without_room_for_a_stamp_is_an_error(Kv& kv, const Bytes& key) {
    const Bytes small(9, '\0');
    failed(set_stamped_key(kv, small), "", "INVALID_OPERATION");
    failed(set_stamped_value(kv, key, small), "", "INVALID_OPERATION");
    failed(kv.commit({operation("SET_VERSIONSTAMPED_KEY", small, "x")}), "", "INVALID_OPERATION");
    failed(kv.commit({operation("SET_VERSIONSTAMPED_VALUE", key, small)}), "", "INVALID_OPERATION");
}

static void stamped_operations_of_a_commit_carry_its_version_and_are_counted(Kv& kv, const Bytes& key) {
    const int64_t version = kv.commit_all({operation("SET_VERSIONSTAMPED_KEY", key + "k" + Bytes(10, '\xff'), "x"),
                                           operation("set_versionstamped_value", key + "v", "at " + ROOM)});
    CHECK(kv.get(key + "k" + stamp(version, 0)) == "x");
    CHECK(kv.get(key + "v") == "at " + stamp(version, 1));
}

static void calls_of_the_stateful_protocol_are_refused_politely(Kv& kv, const Bytes& key) {
    const auto refused = [](const auto& response, const char* text) { CHECK(!response.success && response.error == text); };
    AddReadConflictRequest conflict;
    conflict.key = key;
    refused(kv.call<AddReadConflictResponse>(&Kv::Client::addReadConflict, conflict), CONFLICTS_CLIENT_SIDE);
    AddReadConflictRangeRequest range;
    range.start_key = key;
    range.end_key = key + "\xff";
    refused(kv.call<AddReadConflictRangeResponse>(&Kv::Client::addReadConflictRange, range), CONFLICTS_CLIENT_SIDE);
    SetReadVersionRequest version;
    version.version = 7;
    refused(kv.call<SetReadVersionResponse>(&Kv::Client::setReadVersion, version),
            "Read version managed client-side in FoundationDB model");
    const auto committed =
        kv.call<GetCommittedVersionResponse>(&Kv::Client::getCommittedVersion, GetCommittedVersionRequest());
    refused(committed, "Committed version managed client-side in FoundationDB model");
    CHECK(committed.version == 0);
}

static void inject(Kv& one, double probability) {
    FaultInjectionRequest request;
    request.fault_type = "TIMEOUT";
    request.__set_probability(probability);
    request.__set_target_operation("commit");
    succeeded(one.call<FaultInjectionResponse>(&Kv::Client::setFaultInjection, request));
}

static void an_injected_fault_hits_commits_until_it_is_cleared(Kv& kv, const Bytes& key) {
    Kv one = kv.one();
    inject(one, 1.0);
    const auto response = one.commit({operation("set", key, "1")});
    inject(one, 0.0);
    failed(response, "", "TIMEOUT");
    one.commit_all({operation("set", key, "2")});
    CHECK(one.get(key) == "2");
}

static void cluster_health_counts_its_nodes(Kv& kv, const Bytes&) {
    const auto response = kv.call<GetClusterHealthResponse>(&Kv::Client::getClusterHealth, GetClusterHealthRequest());
    const ClusterHealth health = succeeded(response).cluster_health;
    CHECK(health.total_nodes_count == kv.nodes && health.healthy_nodes_count == kv.nodes);
    CHECK(health.nodes.size() == static_cast<size_t>(kv.nodes));
    for (const NodeStatus& node : health.nodes) {
        CHECK(node.status == "healthy");
    }
    CHECK(health.cluster_status == "healthy" && health.leader.is_leader && health.current_term >= 0);
}

static void database_statistics_count_commits(Kv& kv, const Bytes& key) {
    Kv one = kv.one();
    const auto committed = [&] {
        const auto response = one.call<GetDatabaseStatsResponse>(&Kv::Client::getDatabaseStats, GetDatabaseStatsRequest());
        return succeeded(response).database_stats.committed_transactions;
    };
    const int64_t before = committed();
    one.put(key);
    CHECK(committed() > before);
}

static void node_information_is_given_and_an_unknown_node_is_an_error(Kv& kv, const Bytes&) {
    const auto node = [&](int number) {
        GetNodeInfoRequest request;
        request.__set_node_id(number);
        return kv.call<GetNodeInfoResponse>(&Kv::Client::getNodeInfo, request);
    };
    CHECK(succeeded(node(0)).node_info.node_id == 0);
    const auto unknown = node(77);
    CHECK(!unknown.success && unknown.error.find("Node 77 not found") != Bytes::npos);
}

const std::vector<Step> stamps_and_the_rest = {
    {"a versionstamped key gets its stamp", a_versionstamped_key_gets_its_stamp},
    {"a versionstamped value gets its stamp", a_versionstamped_value_gets_its_stamp},
    {"a buffer that does not end in zeros is stored as it is", a_buffer_that_does_not_end_in_zeros_is_stored_as_it_is},
    {"a buffer without room for a stamp is an error", a_buffer_without_room_for_a_stamp_is_an_error},
    {"stamped operations of a commit carry its version and are counted",
     stamped_operations_of_a_commit_carry_its_version_and_are_counted},
    {"calls of the stateful protocol are refused politely", calls_of_the_stateful_protocol_are_refused_politely},
    {"an injected fault hits commits until it is cleared", an_injected_fault_hits_commits_until_it_is_cleared},
    {"cluster health counts its nodes", cluster_health_counts_its_nodes},
    {"database statistics count commits", database_statistics_count_commits},
    {"node information is given and an unknown node is an error", node_information_is_given_and_an_unknown_node_is_an_error},
};
