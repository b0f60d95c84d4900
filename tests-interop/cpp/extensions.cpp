// Scenario, extensions: what only clients made from the present interface have.
#include <chrono>

#include "kv.h"

static const Bytes ROOM(10, '\0');

static int64_t millis_since_1970() {
    using namespace std::chrono;
    return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

static std::vector<Operation> set_all(const std::vector<Bytes>& names, const Bytes& value) {
    std::vector<Operation> operations;
    for (const Bytes& name : names) {
        operations.push_back(operation("set", name, value));
    }
    return operations;
}

static void replies_of_reads_carry_an_error_code(Kv& kv, const Bytes& key) {
    CHECK(kv.try_get("").error_code == "KEY_EMPTY");
    CHECK(kv.try_get(key, "nowhere").error_code == "UNKNOWN_COLUMN_FAMILY");
    CHECK(kv.snapshot_get(key, kv.version() + FUTURE).error_code == "FUTURE_VERSION");
    SetVersionstampedKeyRequest request;
    request.key_prefix = Bytes(9, '\0');
    request.value = "x";
    const auto response = kv.call<SetVersionstampedKeyResponse>(&Kv::Client::setVersionstampedKey, request);
    CHECK(response.error_code == "INVALID_OPERATION");
}

static void a_stale_read_needs_no_agreement(Kv& kv, const Bytes& key) {
    const auto get = [&](const char* consistency) {
        GetRequest request;
        request.key = key;
        request.__set_consistency(consistency);
        return kv.call<GetResponse>(&Kv::Client::get, request);
    };
    kv.put(key);
    // The state that this replica has applied may be older than the write.
    const MaybeBytes stale = value_of(get("stale"));
    CHECK(stale == "x" || stale == std::nullopt);
    const auto range = kv.range(key, key + "\xff", [](GetRangeRequest& request) { request.__set_consistency("stale"); });
    CHECK(range.key_values.size() <= 1);
    CHECK(value_of(get("linearizable")) == "x");
    failed(get("whatever"), "", "INVALID_OPERATION");
}

static void a_range_can_be_read_from_its_end(Kv& kv, const Bytes& key) {
    const auto all = names(key, "4 3 2 1 0"), last = names(key, "4 3");
    kv.commit_all(set_all(all, "x"));
    const auto reverse = [](auto& request) { request.__set_reverse(true); };
    const auto reverse_two = [](auto& request) {
        request.__set_reverse(true);
        request.__set_limit(2);
    };
    const auto check_both = [&](auto set, const std::vector<Bytes>& expected, bool has_more) {
        const auto now = kv.range(key, key + "\xff", set);
        const auto then = kv.snapshot_range(kv.version(), key, key + "\xff", set);
        CHECK(keys(now) == expected && now.has_more == has_more);
        CHECK(keys(then) == expected && then.has_more == has_more);
    };
    check_both(reverse, all, false);
    check_both(reverse_two, last, true);
}

static void a_range_may_be_cut_short_by_bytes_when_asked(Kv& kv, const Bytes& key) {
    const auto all = names(key, "0 1 2 3 4");
    kv.commit_all(set_all(all, Bytes(100, 'x')));
    const auto cut = [&](int bytes) {
        return kv.range(key, key + "\xff", [=](GetRangeRequest& request) { request.__set_target_bytes(bytes); });
    };
    const auto part = cut(250), least = cut(1);
    const size_t count = part.key_values.size();
    CHECK(1 <= count && count < 5 && part.has_more);
    CHECK(keys(part) == std::vector<Bytes>(all.begin(), all.begin() + count));
    CHECK(keys(least) == names(key, "0") && least.has_more);
}

static KeySelector selector(const Bytes& key, bool or_equal, int offset) {
    KeySelector selector;
    selector.key = key;
    selector.or_equal = or_equal;
    selector.offset = offset;
    return selector;
}

static void key_selectors_choose_the_ends_of_a_range(Kv& kv, const Bytes&) {
    fill_letters(kv);
    const auto selectors = [](const KeySelector& begin, const std::optional<KeySelector>& end) {
        return [=](auto& request) {
            request.__set_begin_selector(begin);
            if (end) {
                request.__set_end_selector(*end);
            }
            request.__set_column_family(FAMILY);
        };
    };
    const auto read = [&](const KeySelector& begin, const std::optional<KeySelector>& end = std::nullopt) {
        return keys(kv.range(selectors(begin, end)));
    };
    CHECK(read(selector("c", false, 1), selector("e", false, 1)) == names("", "c d"));
    CHECK(read(selector("c", true, 1)) == names("", "d e"));
    CHECK(read(selector("c", true, 0), selector("d", true, 1)) == names("", "c d"));
    CHECK(read(selector("c", false, 0)) == names("", "b c d e"));
    CHECK(read(selector("b", false, 2)) == names("", "c d e"));
    CHECK(read(selector("bb", true, 0), selector("bb", true, 1)) == names("", "b"));
    const auto then = kv.snapshot_range(kv.version(), selectors(selector("c", false, 1), selector("e", false, 1)));
    CHECK(keys(then) == names("", "c d"));
}

static void a_pinned_snapshot_can_be_unpinned(Kv& kv, const Bytes& key) {
    Kv one = kv.one();
    one.put(key, "old");
    PinSnapshotRequest pin;
    pin.read_version = one.version();
    pin.__set_ttl_ms(30'000);
    const auto pinned = succeeded(one.call<PinSnapshotResponse>(&Kv::Client::pinSnapshot, pin));
    const int64_t ahead = pinned.expires_at_ms - millis_since_1970();
    CHECK(25'000 < ahead && ahead < 35'000);
    one.put(key, "new");
    CHECK(value_of(one.snapshot_get(key, pin.read_version)) == "old");
    UnpinSnapshotRequest unpin;
    unpin.read_version = pin.read_version;
    for (int round = 0; round < 2; round++) {
        succeeded(one.call<UnpinSnapshotResponse>(&Kv::Client::unpinSnapshot, unpin));
    }
}

static void a_range_that_was_read_conflicts_with_writes_inside_it(Kv& kv, const Bytes& key) {
    const int64_t version = kv.version();
    kv.put(key + "b");
    const auto commit_having_read = [&](const Bytes& begin, const Bytes& end) {
        KeyRange range;
        range.begin_key = key + begin;
        range.end_key = key + end;
        return kv.commit({operation("set", key + "x", "1")}, version, {},
                         [&](AtomicCommitRequest& request) { request.__set_read_conflict_ranges({range}); });
    };
    failed(commit_having_read("a", "c"), "", "CONFLICT");
    succeeded(commit_having_read("c", "d"));
    succeeded(commit_having_read("a", "b"));
}

static KeyRef key_ref(const Bytes& key, const std::string& family = IN_DEFAULT) {
    return about<KeyRef>(key, family);
}

static AtomicCommitResponse commit_having_read(Kv& kv, const Bytes& key, int64_t version, std::vector<KeyRef> read) {
    return kv.commit({operation("set", key + "x", "1")}, version, {},
                     [&](AtomicCommitRequest& request) { request.__set_read_conflicts(read); });
}

static void a_conflict_with_a_family_counts_only_there(Kv& kv, const Bytes& key) {
    const int64_t version = kv.version();
    kv.put(key, "x", FAMILY);
    succeeded(commit_having_read(kv, key, version, {key_ref(key)}));
    failed(commit_having_read(kv, key, version, {key_ref(key, FAMILY)}), "", "CONFLICT");
}

static void a_conflict_says_what_it_met_and_what_to_do(Kv& kv, const Bytes& key) {
    const int64_t version = kv.version();
    kv.put(key + "a");
    const auto response = commit_having_read(kv, key, version, {key_ref(key + "a"), key_ref(key + "b")});
    failed(response, "", "CONFLICT");
    CHECK(response.conflicting_keys.size() == 1 && response.conflicting_keys[0].key == key + "a");
    CHECK(response.retryable && !response.maybe_committed);
}

static void a_mistake_is_not_to_be_tried_again(Kv& kv, const Bytes& key) {
    const auto response = failed(kv.commit({operation("frobnicate", key, "1")}), "", "INVALID_OPERATION");
    CHECK(!response.retryable && !response.maybe_committed);
}

static void a_commit_tells_the_keys_and_values_that_it_made(Kv& kv, const Bytes& key) {
    Operation last = operation("SET_VERSIONSTAMPED_VALUE", key + "v", ROOM + "!");
    last.__set_stamp_offset(0);
    const auto response = succeeded(
        kv.commit({operation("SET_VERSIONSTAMPED_KEY", key + "k" + ROOM, "x"), operation("set", key, "y"), last}));
    const Bytes first = stamp(response.committed_version, 0), second = stamp(response.committed_version, 1);
    CHECK(response.versionstamp == first);
    CHECK(response.generated_keys == std::vector<Bytes>({key + "k" + first}));
    CHECK(response.generated_values == std::vector<Bytes>({second + "!"}));
    CHECK(kv.get(key + "k" + first) == "x" && kv.get(key + "v") == second + "!");
}

static void a_reply_holds_no_details_that_its_client_may_not_know(Kv& kv, const Bytes& key) {
    const std::vector<Operation> operations = {operation("SET_VERSIONSTAMPED_KEY", key + ROOM, "x")};
    const auto without = succeeded(kv.commit(operations));
    CHECK(!without.__isset.versionstamp && !without.__isset.generated_keys);
    const auto with =
        succeeded(kv.commit(operations, 0, {}, [](AtomicCommitRequest& request) { request.__set_include_details(true); }));
    CHECK(with.__isset.versionstamp && with.__isset.generated_keys);
}

static void clear_range_removes_its_range(Kv& kv, const Bytes& key) {
    kv.commit_all(set_all(names(key, "a b c d e"), "old"));
    const int64_t version = kv.version();
    kv.commit_all({operation("set", key + "bb", "1"), operation("clear_range", key + "b", key + "d"),
                   operation("set", key + "c", "new")});
    CHECK(keys(kv.range(key, key + "\xff")) == names(key, "a c d e"));
    CHECK(kv.get(key + "c") == "new");
    failed(kv.commit({operation("set", key + "x", "1")}, version, {key + "b"}), "", "CONFLICT");
    CHECK(keys(kv.snapshot_range(version, key, key + "\xff")) == names(key, "a b c d e"));
}

/// Commits one operation; returns what the key then holds.
static MaybeBytes mutate(Kv& kv, const std::string& type, const Bytes& key, const Bytes& operand) {
    kv.commit_all({operation(type, key, operand)});
    return kv.get(key);
}

static void add_counts(Kv& kv, const Bytes& key) {
    CHECK(mutate(kv, "add", key, "\x01\0"s) == "\x01\0"s);
    CHECK(mutate(kv, "add", key, "\xff\0"s) == "\0\x01"s);
    CHECK(mutate(kv, "add", key, "\xff\xfe"s) == "\xff\xff"s);
    CHECK(mutate(kv, "add", key, "\x01\0\0"s) == "\0\0\x01"s);
    CHECK(mutate(kv, "add", key, "\x05"s) == "\x05"s);
}

static void min_and_max_compare_as_numbers(Kv& kv, const Bytes& key) {
    kv.put(key, "\x05\0"s);
    CHECK(mutate(kv, "min", key, "\x03\x01"s) == "\x05\0"s);
    CHECK(mutate(kv, "min", key, "\x02\0"s) == "\x02\0"s);
    CHECK(mutate(kv, "max", key, "\0\x01"s) == "\0\x01"s);
    CHECK(mutate(kv, "max", key, "\x01\0"s) == "\0\x01"s);
    CHECK(mutate(kv, "min", key + "min", "\x07") == "\x07");
    CHECK(mutate(kv, "max", key + "max", "\x07") == "\x07");
}

static void byte_min_and_byte_max_compare_as_bytes(Kv& kv, const Bytes& key) {
    kv.put(key, "m");
    CHECK(mutate(kv, "byte_min", key, "mm") == "m");
    CHECK(mutate(kv, "byte_min", key, "b") == "b");
    CHECK(mutate(kv, "byte_max", key, "a") == "b");
    CHECK(mutate(kv, "byte_max", key, "z") == "z");
    CHECK(mutate(kv, "byte_min", key + "min", "q") == "q");
    CHECK(mutate(kv, "byte_max", key + "max", "q") == "q");
}

static void bits_are_combined(Kv& kv, const Bytes& key) {
    kv.put(key, "\x0c");
    CHECK(mutate(kv, "bit_and", key, "\x0a") == "\x08");
    CHECK(mutate(kv, "bit_or", key, "\x03") == "\x0b");
    CHECK(mutate(kv, "bit_xor", key, "\xff") == "\xf4");
    for (const char* type : {"bit_and", "bit_or", "bit_xor"}) {
        CHECK(mutate(kv, type, key + type, "\x05") == "\x05");
    }
}

static void append_if_fits_appends(Kv& kv, const Bytes& key) {
    CHECK(mutate(kv, "append_if_fits", key, "ab") == "ab");
    CHECK(mutate(kv, "append_if_fits", key, "cd") == "abcd");
    CHECK(mutate(kv, "append_if_fits", key, Bytes(99'997, 'x')) == "abcd");
}

static void operations_of_a_commit_are_executed_in_their_order(Kv& kv, const Bytes& key) {
    const Bytes other = key + "b";
    kv.commit_all({operation("set", key, "\x01"), operation("add", key, "\x02"), operation("set", other, "x"),
                   operation("compare_and_clear", other, "x"), operation("add", key, "\x04")});
    CHECK(kv.get(key) == "\x07" && kv.get(other) == std::nullopt);
}

static void a_repeated_commit_returns_the_first_result(Kv& kv, const Bytes& key) {
    const auto add = [&](const Bytes& operand) {
        return kv.commit({operation("add", key, operand)}, 0, {},
                         [&](AtomicCommitRequest& request) { request.__set_idempotency_id(key + "id"); });
    };
    const int64_t first = succeeded(add("\x01")).committed_version;
    CHECK(succeeded(add("\x01")).committed_version == first);
    CHECK(kv.get(key) == "\x01");
    failed(add("\x02"), "", "INVALID_OPERATION");
    CHECK(kv.get(key) == "\x01");
}

static void a_finished_idempotency_id_is_forgotten(Kv& kv, const Bytes& key) {
    const auto add = [&](const Bytes& operand) {
        const auto response = kv.commit({operation("add", key, operand)}, 0, {},
                                        [&](AtomicCommitRequest& request) { request.__set_idempotency_id(key + "id"); });
        return succeeded(response).committed_version;
    };
    const int64_t first = add("\x01");
    succeeded(kv.commit({operation("set", key + "x", "1")}, 0, {}, [&](AtomicCommitRequest& request) {
        request.__set_finished_idempotency_ids({key + "id"});
    }));
    CHECK(add("\x02") > first);
    CHECK(kv.get(key) == "\x03");
}

static void the_limits_of_the_server_are_reported(Kv& kv, const Bytes&) {
    const auto response = kv.call<GetClusterHealthResponse>(&Kv::Client::getClusterHealth, GetClusterHealthRequest());
    const ServerLimits limits = succeeded(response).limits;
    CHECK(limits.max_key_bytes == 10000 && limits.max_value_bytes == 100000);
    CHECK(limits.max_transaction_bytes == 10000000 && limits.max_conflicts == 100000);
    CHECK(limits.max_reply_bytes == 67108864);
}

/// A token that nobody has.
static const std::string UNKNOWN_TOKEN = "synodkv_00000000000000ff_" + std::string(64, '0');

static AuthenticateResponse identify(Kv& one, const std::string& token) {
    AuthenticateRequest request;
    request.token = token;
    return one.call<AuthenticateResponse>(&Kv::Client::authenticate, request);
}

static GetResponse get_with(Kv& one, const Bytes& key, const std::string& token) {
    GetRequest request;
    request.key = key;
    request.__set_auth_token(token);
    return one.call<GetResponse>(&Kv::Client::get, request);
}

/// Where nothing is checked, everything succeeds.
template <class R> static void refused(const Kv& kv, const R& response) {
    if (kv.token) {
        failed(response, "not valid", "UNAUTHENTICATED");
    } else {
        succeeded(response);
    }
}

static void authenticate_tells_the_user_of_the_connection(Kv& kv, const Bytes& key) {
    Kv one = kv.one();
    const auto response = succeeded(identify(one, kv.token.value_or(UNKNOWN_TOKEN)));
    CHECK(response.__isset.user == kv.token.has_value());
    CHECK(!kv.token || response.user == "client");
    CHECK(one.get(key) == std::nullopt);
}

static void a_token_of_nobody_takes_the_identity_of_a_connection_away(Kv& kv, const Bytes& key) {
    Kv one = kv.one();
    refused(kv, identify(one, UNKNOWN_TOKEN));
    refused(kv, one.try_get(key));
    succeeded(identify(one, kv.token.value_or(UNKNOWN_TOKEN)));
    CHECK(one.get(key) == std::nullopt);
}

static void a_token_in_a_request_counts_for_that_request(Kv& kv, const Bytes& key) {
    Kv one = kv.one();
    succeeded(get_with(one, key, kv.token.value_or(UNKNOWN_TOKEN)));
    refused(kv, get_with(one, key, UNKNOWN_TOKEN));
    CHECK(one.get(key) == std::nullopt);
}

const std::vector<Step> extensions = {
    {"replies of reads carry an error code", replies_of_reads_carry_an_error_code},
    {"a stale read needs no agreement", a_stale_read_needs_no_agreement},
    {"a range can be read from its end", a_range_can_be_read_from_its_end},
    {"a range may be cut short by bytes when asked", a_range_may_be_cut_short_by_bytes_when_asked},
    {"key selectors choose the ends of a range", key_selectors_choose_the_ends_of_a_range},
    {"a pinned snapshot can be unpinned", a_pinned_snapshot_can_be_unpinned},
    {"a range that was read conflicts with writes inside it", a_range_that_was_read_conflicts_with_writes_inside_it},
    {"a conflict with a family counts only there", a_conflict_with_a_family_counts_only_there},
    {"a conflict says what it met and what to do", a_conflict_says_what_it_met_and_what_to_do},
    {"a mistake is not to be tried again", a_mistake_is_not_to_be_tried_again},
    {"a commit tells the keys and values that it made", a_commit_tells_the_keys_and_values_that_it_made},
    {"a reply holds no details that its client may not know", a_reply_holds_no_details_that_its_client_may_not_know},
    {"clear_range removes its range", clear_range_removes_its_range},
    {"add counts", add_counts},
    {"min and max compare as numbers", min_and_max_compare_as_numbers},
    {"byte_min and byte_max compare as bytes", byte_min_and_byte_max_compare_as_bytes},
    {"bits are combined", bits_are_combined},
    {"append_if_fits appends", append_if_fits_appends},
    {"compare_and_clear clears what is equal",
     [](Kv& kv, const Bytes& key) {
         kv.put(key);
         CHECK(mutate(kv, "compare_and_clear", key, "y") == "x");
         CHECK(mutate(kv, "compare_and_clear", key, "x") == std::nullopt);
     }},
    {"operations of a commit are executed in their order", operations_of_a_commit_are_executed_in_their_order},
    {"a repeated commit returns the first result", a_repeated_commit_returns_the_first_result},
    {"a finished idempotency id is forgotten", a_finished_idempotency_id_is_forgotten},
    {"authenticate tells the user of the connection", authenticate_tells_the_user_of_the_connection},
    {"a token of nobody takes the identity of a connection away",
     a_token_of_nobody_takes_the_identity_of_a_connection_away},
    {"a token in a request counts for that request", a_token_in_a_request_counts_for_that_request},
    {"the limits of the server are reported", the_limits_of_the_server_are_reported},
};
