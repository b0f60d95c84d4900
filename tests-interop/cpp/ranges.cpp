// Scenario, legacy part: ranges.
#include "kv.h"

static const Rows LETTERS = {{"a", "1"}, {"b", "2"}, {"c", "3"}, {"d", "4"}, {"e", "5"}, {"\xff\x01", "6"}};
static const Rows TEXT_LETTERS(LETTERS.begin(), LETTERS.begin() + 5);

static const auto unchanged = [](auto&) {};

void fill_letters(Kv& kv) {
    const auto everything = kv.range("", Bytes(20, '\xff'), [](GetRangeRequest& request) {
        request.__set_limit(0);
        request.__set_column_family(FAMILY);
    });
    std::vector<Operation> clear, fill;
    for (const Bytes& key : keys(everything)) {
        clear.push_back(operation("delete", key, std::nullopt, FAMILY));
    }
    for (const auto& [key, value] : LETTERS) {
        fill.push_back(operation("set", key, value, FAMILY));
    }
    kv.commit_all(clear);
    kv.commit_all(fill);
}

template <class R> static Bytes joined(const R& response) {
    Bytes text;
    for (const Bytes& key : keys(response)) {
        text += (text.empty() ? "" : " ") + key;
    }
    return text;
}

/// Fills the ends of a request for a range of the family, and what `set` says.
template <class Set> static auto letters_from(const MaybeBytes& begin, const MaybeBytes& end, Set set) {
    return [=](auto& request) {
        if (begin) {
            request.__set_begin_key(*begin);
        }
        if (end) {
            request.__set_end_key(*end);
        }
        request.__set_column_family(FAMILY);
        set(request);
    };
}

template <class Set> static Bytes read(Kv& kv, const MaybeBytes& begin, const MaybeBytes& end, Set set) {
    return joined(kv.range(letters_from(begin, end, set)));
}

static void a_range_is_ordered_and_says_whether_there_is_more(Kv& kv, const Bytes& key) {
    Rows expected;
    for (int number = 0; number < 5; number++) {
        expected.emplace_back(key + std::to_string(number), "value " + std::to_string(number));
    }
    for (auto row = expected.rbegin(); row != expected.rend(); ++row) {
        kv.put(row->first, row->second);
    }
    const auto limited = [&](int limit) {
        return kv.range(key, key + "\xff", [=](GetRangeRequest& request) { request.__set_limit(limit); });
    };
    const auto whole = kv.range(key, key + "\xff"), part = limited(2), exact = limited(5);
    CHECK(rows(whole) == expected && !whole.has_more);
    CHECK(rows(part) == Rows(expected.begin(), expected.begin() + 2) && part.has_more);
    CHECK(rows(exact) == expected && !exact.has_more);
}

static void a_range_keeps_to_1000_rows_unless_told_otherwise(Kv& kv, const Bytes& key) {
    std::vector<Operation> fill, clear;
    std::vector<Bytes> names;
    for (int number = 0; number <= 1000; number++) {
        const std::string digits = std::to_string(10'000 + number).substr(1);
        names.push_back(key + digits);
        fill.push_back(operation("set", names.back(), "x"));
        clear.push_back(operation("delete", names.back()));
    }
    kv.commit_all(fill);
    const auto part = kv.range(key, key + "\xff");
    CHECK(keys(part) == std::vector<Bytes>(names.begin(), names.end() - 1) && part.has_more);
    for (int limit : {0, -1}) {
        const auto whole = kv.range(key, key + "\xff", [=](GetRangeRequest& request) { request.__set_limit(limit); });
        CHECK(keys(whole) == names && !whole.has_more);
    }
    kv.commit_all(clear);
}

static void ends_are_included_and_left_out_as_asked(Kv& kv, const Bytes&) {
    fill_letters(kv);
    CHECK(read(kv, "b", "d", unchanged) == "b c");
    const auto others = [](auto& request) {
        request.__set_begin_or_equal(false);
        request.__set_end_or_equal(true);
    };
    CHECK(read(kv, "b", "d", others) == "c d");
}

static void a_begin_offset_passes_over_rows(Kv& kv, const Bytes&) {
    fill_letters(kv);
    const auto by = [](int offset) { return [=](auto& request) { request.__set_begin_offset(offset); }; };
    CHECK(read(kv, "a", std::nullopt, by(2)) == "c d e");
    CHECK(read(kv, "a", std::nullopt, by(-3)) == "a b c d e");
    CHECK(read(kv, "a", std::nullopt, by(5)).empty());
}

static void an_end_offset_moves_the_end_key(Kv& kv, const Bytes&) {
    fill_letters(kv);
    const auto by = [](int offset) { return [=](auto& request) { request.__set_end_offset(offset); }; };
    CHECK(read(kv, "a", "b", by(2)) == "a b c");
    CHECK(read(kv, "b", "e", by(-2)) == "b");
    CHECK(read(kv, "a", "a\xff", by(1)) == "a b");
    const auto with_end = [](auto& request) {
        request.__set_end_offset(1);
        request.__set_end_or_equal(true);
    };
    CHECK(read(kv, "a", "\xff", with_end) == "a b c d e");
}

static void an_inverted_range_is_empty(Kv& kv, const Bytes&) {
    fill_letters(kv);
    const auto now = kv.range(letters_from("c", "b", unchanged));
    const auto then = kv.snapshot_range(kv.version(), letters_from("c", "b", unchanged));
    CHECK(now.key_values.empty() && !now.has_more);
    CHECK(then.key_values.empty() && !then.has_more);
}

static void a_snapshot_range_takes_the_same_fields(Kv& kv, const Bytes&) {
    fill_letters(kv);
    const int64_t version = kv.version();
    kv.put("bb", "x", FAMILY);
    const auto then = [&](const MaybeBytes& begin, const MaybeBytes& end, bool has_more, auto set) {
        const auto response = kv.snapshot_range(version, letters_from(begin, end, set));
        CHECK(response.has_more == has_more);
        return joined(response);
    };
    const auto others = [](auto& request) {
        request.__set_begin_or_equal(false);
        request.__set_end_or_equal(true);
    };
    CHECK(then("b", "d", false, others) == "c d");
    CHECK(then("a", std::nullopt, false, [](auto& request) { request.__set_begin_offset(2); }) == "c d e");
    CHECK(then("a", "b", false, [](auto& request) { request.__set_end_offset(2); }) == "a b c");
    CHECK(then(std::nullopt, std::nullopt, true, [](auto& request) { request.__set_limit(2); }) == "a b");
    CHECK(then(std::nullopt, std::nullopt, false, unchanged) == "a b c d e");
}

const std::vector<Step> ranges = {
    {"a range is ordered and says whether there is more", a_range_is_ordered_and_says_whether_there_is_more},
    {"a range keeps to 1000 rows unless told otherwise", a_range_keeps_to_1000_rows_unless_told_otherwise},
    {"a range without bounds reaches up to 0xFF",
     [](Kv& kv, const Bytes&) {
         fill_letters(kv);
         CHECK(rows(kv.range(letters_from(std::nullopt, std::nullopt, unchanged))) == TEXT_LETTERS);
         CHECK(rows(kv.range(letters_from(std::nullopt, "\xff\xff", unchanged))) == LETTERS);
     }},
    {"ends are included and left out as asked", ends_are_included_and_left_out_as_asked},
    {"a begin offset passes over rows", a_begin_offset_passes_over_rows},
    {"an end offset moves the end key", an_end_offset_moves_the_end_key},
    {"an inverted range is empty", an_inverted_range_is_empty},
    {"a snapshot range takes the same fields", a_snapshot_range_takes_the_same_fields},
};
