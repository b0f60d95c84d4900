// The common parts of the steps: connections taken in turn, short calls, and the checks of a success and a failure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "TransactionalKV.h"

using namespace std::string_literals;

using Bytes = std::string;
using MaybeBytes = std::optional<Bytes>;
using Rows = std::vector<std::pair<Bytes, Bytes>>;

constexpr int64_t FUTURE = 1'000'000;
const std::string FAMILY = "interop";
const std::string IN_DEFAULT = "";

#define CHECK(condition) check((condition), __FILE__, __LINE__, #condition)

inline void check(bool holds, const char* file, int line, const std::string& what) {
    if (!holds) {
        std::ostringstream text;
        text << file << ":" << line << ": " << what;
        throw std::runtime_error(text.str());
    }
}

// The fields of a reply depend on its method and on the interface that the code was made from.
template <class R, class = void> struct has_success : std::false_type {};
template <class R> struct has_success<R, std::void_t<decltype(R::success)>> : std::true_type {};
template <class R, class = void> struct has_error_code : std::false_type {};
template <class R> struct has_error_code<R, std::void_t<decltype(R::error_code)>> : std::true_type {};

template <class R> R succeeded(R response) {
    if constexpr (has_success<R>::value) {
        check(response.success, __FILE__, __LINE__, "it failed: " + response.error);
    }
    // An empty text counts as a failure in existing clients: absent is absent.
    check(!response.__isset.error, __FILE__, __LINE__, "it has an error: " + response.error);
    return response;
}

template <class R> R failed(R response, const std::string& text, const std::string& code) {
    if constexpr (has_success<R>::value) {
        check(!response.success, __FILE__, __LINE__, "it should have failed with " + code);
    }
    check(response.__isset.error && response.error.find(text) != Bytes::npos, __FILE__, __LINE__,
          "error \"" + response.error + "\" should contain \"" + text + "\"");
    if constexpr (has_error_code<R>::value) {
        check(response.error_code == code, __FILE__, __LINE__,
              response.error_code + ", not " + code + ": " + response.error);
    }
    return response;
}

template <class R> MaybeBytes value_of(const R& response) {
    succeeded(response);
    CHECK(response.found || response.value.empty());
    return response.found ? MaybeBytes(response.value) : std::nullopt;
}

inline Bytes stamp(int64_t version, int counter = 0) {
    Bytes bytes;
    for (int shift = 56; shift >= 0; shift -= 8) {
        bytes.push_back(static_cast<char>(version >> shift));
    }
    bytes.push_back(static_cast<char>(counter >> 8));
    bytes.push_back(static_cast<char>(counter));
    return bytes;
}

/// A request about one key.
template <class Request> Request about(const Bytes& key, const std::string& family) {
    Request request;
    request.key = key;
    if (!family.empty()) {
        request.__set_column_family(family);
    }
    return request;
}

inline Operation operation(const std::string& type, const Bytes& key, const MaybeBytes& value = std::nullopt,
                           const std::string& family = IN_DEFAULT) {
    auto operation = about<Operation>(key, family);
    operation.type = type;
    if (value) {
        operation.__set_value(*value);
    }
    return operation;
}

template <class R> std::vector<Bytes> keys(const R& response) {
    std::vector<Bytes> keys;
    for (const auto& row : response.key_values) {
        keys.push_back(row.key);
    }
    return keys;
}

template <class R> Rows rows(const R& response) {
    Rows rows;
    for (const auto& row : response.key_values) {
        rows.emplace_back(row.key, row.value);
    }
    return rows;
}

/// `names(key, "a b")`: key followed by a, key followed by b.
inline std::vector<Bytes> names(const Bytes& key, const std::string& text) {
    std::istringstream words(text);
    std::vector<Bytes> names;
    for (std::string word; words >> word;) {
        names.push_back(key + word);
    }
    return names;
}

/// A connection to each server; every call goes to the next one.
class Kv {
public:
    using Client = TransactionalKVClient;

    Kv(std::vector<std::shared_ptr<Client>> clients, int nodes, std::optional<std::string> token)
        : nodes(nodes), token(std::move(token)), clients_(std::move(clients)) {}

    const int nodes;
    /// That of all clients; none without authentication.
    const std::optional<std::string> token;

    Client& next() { return *clients_[++calls_ % clients_.size()]; }

    /// The same by a single one of the connections.
    Kv one() { return Kv({clients_[++calls_ % clients_.size()]}, nodes, token); }

    /// `call<Response>(&Client::method, request)`
    template <class Response, class Request, class Method> Response call(Method method, const Request& request) {
        Response response;
        (next().*method)(response, request);
        return response;
    }

    void put(const Bytes& key, const Bytes& value = "x", const std::string& family = IN_DEFAULT) {
        succeeded(try_put(key, value, family));
    }

    SetResponse try_put(const Bytes& key, const Bytes& value, const std::string& family = IN_DEFAULT) {
        auto request = about<SetRequest>(key, family);
        request.value = value;
        return call<SetResponse>(&Client::setKey, request);
    }

    void remove(const Bytes& key) { succeeded(try_remove(key)); }

    DeleteResponse try_remove(const Bytes& key, const std::string& family = IN_DEFAULT) {
        return call<DeleteResponse>(&Client::deleteKey, about<DeleteRequest>(key, family));
    }

    MaybeBytes get(const Bytes& key, const std::string& family = IN_DEFAULT) { return value_of(try_get(key, family)); }

    GetResponse try_get(const Bytes& key, const std::string& family = IN_DEFAULT) {
        return call<GetResponse>(&Client::get, about<GetRequest>(key, family));
    }

    SnapshotReadResponse snapshot_read(const Bytes& key, int64_t version, const std::string& family = IN_DEFAULT) {
        auto request = about<SnapshotReadRequest>(key, family);
        request.read_version = version;
        return call<SnapshotReadResponse>(&Client::snapshotRead, request);
    }

    SnapshotGetResponse snapshot_get(const Bytes& key, int64_t version) {
        SnapshotGetRequest request;
        request.key = key;
        request.read_version = version;
        return call<SnapshotGetResponse>(&Client::snapshotGet, request);
    }

    int64_t version() {
        return succeeded(call<GetReadVersionResponse>(&Client::getReadVersion, GetReadVersionRequest())).read_version;
    }

    /// `set` changes the request further.
    template <class Set>
    AtomicCommitResponse commit(std::vector<Operation> operations, int64_t version, std::vector<Bytes> conflicts, Set set) {
        AtomicCommitRequest request;
        request.read_version = version;
        request.operations = std::move(operations);
        request.read_conflict_keys = std::move(conflicts);
        set(request);
        return call<AtomicCommitResponse>(&Client::atomicCommit, request);
    }

    AtomicCommitResponse commit(std::vector<Operation> operations, int64_t version = 0, std::vector<Bytes> conflicts = {}) {
        return commit(std::move(operations), version, std::move(conflicts), [](AtomicCommitRequest&) {});
    }

    /// Succeeds; returns the committed version.
    int64_t commit_all(std::vector<Operation> operations) {
        return succeeded(commit(std::move(operations))).committed_version;
    }

    /// `set` fills the request.
    template <class Set> GetRangeResponse try_range(Set set) {
        GetRangeRequest request;
        set(request);
        return call<GetRangeResponse>(&Client::getRange, request);
    }

    template <class Set> GetRangeResponse range(Set set) { return succeeded(try_range(set)); }

    template <class Set> GetRangeResponse range(const Bytes& begin, const Bytes& end, Set set) {
        return range([&](GetRangeRequest& request) {
            request.__set_begin_key(begin);
            request.__set_end_key(end);
            set(request);
        });
    }

    GetRangeResponse range(const Bytes& begin, const Bytes& end) { return range(begin, end, [](GetRangeRequest&) {}); }

    template <class Set> SnapshotGetRangeResponse try_snapshot_range(int64_t version, Set set) {
        SnapshotGetRangeRequest request;
        request.read_version = version;
        set(request);
        return call<SnapshotGetRangeResponse>(&Client::snapshotGetRange, request);
    }

    template <class Set> SnapshotGetRangeResponse snapshot_range(int64_t version, Set set) {
        return succeeded(try_snapshot_range(version, set));
    }

    template <class Set>
    SnapshotGetRangeResponse snapshot_range(int64_t version, const Bytes& begin, const Bytes& end, Set set) {
        return snapshot_range(version, [&](SnapshotGetRangeRequest& request) {
            request.__set_begin_key(begin);
            request.__set_end_key(end);
            set(request);
        });
    }

    SnapshotGetRangeResponse snapshot_range(int64_t version, const Bytes& begin, const Bytes& end) {
        return snapshot_range(version, begin, end, [](SnapshotGetRangeRequest&) {});
    }

private:
    std::vector<std::shared_ptr<Client>> clients_;
    size_t calls_ = 0;
};

struct Step {
    std::string name;
    void (*run)(Kv& kv, const Bytes& key);
};

extern const std::vector<Step> single_keys;
extern const std::vector<Step> versions_and_commits;
extern const std::vector<Step> ranges;
extern const std::vector<Step> stamps_and_the_rest;
extern const std::vector<Step> extensions;

/// Fills the family `interop` with the keys a b c d e and FF 01, and nothing else.
void fill_letters(Kv& kv);
