// Scenario, legacy part: connection and single keys.
#include <algorithm>
#include <chrono>

#include "kv.h"

static int64_t micros_since_1970() {
    using namespace std::chrono;
    return duration_cast<microseconds>(system_clock::now().time_since_epoch()).count();
}

static void an_empty_key_is_an_error(Kv& kv, const Bytes&) {
    const auto refused = [](const auto& response) { failed(response, "key cannot be empty", "KEY_EMPTY"); };
    const int64_t version = kv.version();
    refused(kv.try_get(""));
    refused(kv.try_put("", "x"));
    refused(kv.try_remove(""));
    refused(kv.snapshot_read("", version));
    refused(kv.snapshot_get("", version));
}

static void an_unknown_column_family_is_an_error(Kv& kv, const Bytes& key) {
    const auto refused = [](const auto& response) {
        failed(response, "Column family 'nowhere' not found", "UNKNOWN_COLUMN_FAMILY");
    };
    const auto nowhere = [&](auto& request) {
        request.__set_begin_key(key);
        request.__set_column_family("nowhere");
    };
    const int64_t version = kv.version();
    refused(kv.try_get(key, "nowhere"));
    refused(kv.try_put(key, "x", "nowhere"));
    refused(kv.try_remove(key, "nowhere"));
    refused(kv.try_range(nowhere));
    refused(kv.snapshot_read(key, version, "nowhere"));
    refused(kv.try_snapshot_range(version, nowhere));
    refused(kv.commit({operation("set", key, "x", "nowhere")}));
}

static void a_column_family_has_keys_of_its_own(Kv& kv, const Bytes& key) {
    kv.put(key, "other", FAMILY);
    CHECK(kv.get(key, FAMILY) == "other");
    CHECK(kv.get(key) == std::nullopt);
    CHECK(kv.get(key, "default") == std::nullopt);
    kv.put(key, "d");
    CHECK(kv.get(key, "default") == "d");
    CHECK(kv.get(key, FAMILY) == "other");
}

static void a_large_value_passes_unharmed(Kv& kv, const Bytes& key) {
    Bytes value;
    for (int number = 0; number < 390 * 256; number++) {
        value.push_back(static_cast<char>(number));
    }
    kv.put(key, value);
    CHECK(kv.get(key) == value);
    kv.remove(key);
}

static void keys_are_ordered_by_their_bytes(Kv& kv, const Bytes& key) {
    Rows expected;
    for (const Bytes& tail : {""s, "\0"s, "\0\0"s, "\0\xff"s, "a"s, "\x7f"s, "\x80"s, "\xff"s, "\xff\0"s}) {
        expected.emplace_back(key + tail, std::to_string(expected.size()));
    }
    std::vector<Operation> operations;
    for (const auto& [name, value] : expected) {
        operations.push_back(operation("set", name, value));
    }
    std::reverse(operations.begin(), operations.end());
    kv.commit_all(operations);
    CHECK(rows(kv.range(key, key + "\xff\xff")) == expected);
}

/// All at once: what is sent and what is received are apart in this library.
static void many_requests_get_each_its_own_reply(Kv& kv, const Bytes& key) {
    Kv::Client& client = kv.next();
    for (int number = 0; number < 20; number++) {
        SetRequest request;
        request.key = key + std::to_string(number);
        request.value = "value " + std::to_string(number);
        client.send_setKey(request);
    }
    for (int number = 0; number < 20; number++) {
        SetResponse response;
        client.recv_setKey(response);
        succeeded(response);
    }
    for (int number = 0; number < 20; number++) {
        GetRequest request;
        request.key = key + std::to_string(number);
        client.send_get(request);
    }
    for (int number = 0; number < 20; number++) {
        GetResponse response;
        client.recv_get(response);
        CHECK(value_of(response) == "value " + std::to_string(number));
    }
}

const std::vector<Step> single_keys = {
    {"ping echoes message and timestamp",
     [](Kv& kv, const Bytes&) {
         PingRequest request;
         request.__set_message("hello\0"s);
         request.__set_timestamp(42);
         const auto response = kv.call<PingResponse>(&Kv::Client::ping, request);
         CHECK(response.message == "hello\0"s && response.timestamp == 42);
         CHECK(std::abs(response.server_timestamp - micros_since_1970()) < 60'000'000);
     }},
    {"ping without arguments says pong",
     [](Kv& kv, const Bytes&) {
         const auto response = kv.call<PingResponse>(&Kv::Client::ping, PingRequest());
         CHECK(response.message == "pong" && response.timestamp == 0);
     }},
    {"a written key is read back",
     [](Kv& kv, const Bytes& key) {
         kv.put(key, "value\0\xff"s);
         CHECK(kv.get(key) == "value\0\xff"s);
     }},
    {"a missing key is no error",
     [](Kv& kv, const Bytes& key) {
         const auto response = kv.try_get(key);
         CHECK(!response.found && response.value.empty() && !response.__isset.error);
     }},
    {"an empty value is found",
     [](Kv& kv, const Bytes& key) {
         kv.put(key, "");
         const auto response = kv.try_get(key);
         CHECK(response.found && response.value.empty() && !response.__isset.error);
     }},
    {"an empty key is an error", an_empty_key_is_an_error},
    {"an unknown column family is an error", an_unknown_column_family_is_an_error},
    {"a column family has keys of its own", a_column_family_has_keys_of_its_own},
    {"a deleted key is gone and deleting it again succeeds",
     [](Kv& kv, const Bytes& key) {
         kv.put(key);
         for (int round = 0; round < 2; round++) {
             kv.remove(key);
             CHECK(kv.get(key) == std::nullopt);
         }
     }},
    {"a large value passes unharmed", a_large_value_passes_unharmed},
    {"a value above the limit is refused with its code",
     [](Kv& kv, const Bytes& key) {
         failed(kv.try_put(key, Bytes(100'001, 'x')), "100000", "VALUE_TOO_LARGE");
         CHECK(kv.get(key) == std::nullopt);
     }},
    {"keys are ordered by their bytes", keys_are_ordered_by_their_bytes},
    {"many requests get each its own reply", many_requests_get_each_its_own_reply},
};
