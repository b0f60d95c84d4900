//! Scenario, legacy part: ranges.

use crate::kv::*;

pub const STEPS: &[Step] = &[
    ("a range is ordered and says whether there is more", a_range_is_ordered_and_says_whether_there_is_more),
    ("a range keeps to 1000 rows unless told otherwise", a_range_keeps_to_1000_rows_unless_told_otherwise),
    ("a range without bounds reaches up to 0xFF", a_range_without_bounds_reaches_up_to_0xff),
    ("ends are included and left out as asked", ends_are_included_and_left_out_as_asked),
    ("a begin offset passes over rows", a_begin_offset_passes_over_rows),
    ("an end offset moves the end key", an_end_offset_moves_the_end_key),
    ("an inverted range is empty", an_inverted_range_is_empty),
    ("a snapshot range takes the same fields", a_snapshot_range_takes_the_same_fields),
];

const LETTERS: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"\xff\x01"];

fn letters() -> Vec<(Vec<u8>, Vec<u8>)> {
    LETTERS.iter().zip(1..).map(|(key, number)| (key.to_vec(), number.to_string().into_bytes())).collect()
}

/// Fills the family `interop` with the keys a b c d e and FF 01, and nothing else.
pub fn fill_letters(kv: &mut Kv) {
    let everything = kv.range(Range { limit: Some(0), ..in_family(Range::new("", [0xff; 20])) });
    kv.commit_all(everything.keys().iter().map(|key| operation_in(FAMILY, "delete", key, None)).collect());
    kv.commit_all(letters().iter().map(|(key, value)| operation_in(FAMILY, "set", key, Some(value))).collect());
}

pub fn in_family(range: Range) -> Range {
    Range { column_family: FAMILY.map(str::to_string), ..range }
}

/// The keys, with spaces between.
pub fn joined(rows: &Rows) -> String {
    String::from_utf8_lossy(&rows.keys().join(&b' ')).into_owned()
}

fn from(begin: &str) -> Range {
    in_family(Range { begin_key: Some(begin.into()), ..Range::default() })
}

fn between(begin: &str, end: impl AsRef<[u8]>) -> Range {
    in_family(Range::new(begin, end))
}

fn others(range: Range) -> Range {
    Range { begin_or_equal: Some(false), end_or_equal: Some(true), ..range }
}

fn a_range_is_ordered_and_says_whether_there_is_more(kv: &mut Kv, key: &[u8]) {
    let rows: Vec<_> =
        (0..5).map(|number| (join(key, number.to_string()), format!("value {number}").into_bytes())).collect();
    for (name, value) in rows.iter().rev() {
        kv.put(name, value);
    }
    for (limit, count, has_more) in [(None, 5, false), (Some(2), 2, true), (Some(5), 5, false)] {
        let found = kv.range(Range { limit, ..Range::new(key, join(key, b"\xff")) });
        assert_eq!(found, Rows { rows: rows[..count].to_vec(), has_more });
    }
}

fn a_range_keeps_to_1000_rows_unless_told_otherwise(kv: &mut Kv, key: &[u8]) {
    let names: Vec<_> = (0..=1000).map(|number| join(key, format!("{number:04}"))).collect();
    kv.commit_all(names.iter().map(|name| operation("set", name, "x")).collect());
    for (limit, count) in [(None, 1000), (Some(0), 1001), (Some(-1), 1001)] {
        let found = kv.range(Range { limit, ..Range::new(key, join(key, b"\xff")) });
        assert_eq!((found.keys(), found.has_more), (names[..count].to_vec(), count < names.len()));
    }
    kv.commit_all(names.iter().map(delete).collect());
}

fn a_range_without_bounds_reaches_up_to_0xff(kv: &mut Kv, _: &[u8]) {
    fill_letters(kv);
    assert_eq!(kv.range(in_family(Range::default())).rows, letters()[..5]);
    let to_the_end = Range { end_key: Some(vec![0xff, 0xff]), ..Range::default() };
    assert_eq!(kv.range(in_family(to_the_end)).rows, letters());
}

fn ends_are_included_and_left_out_as_asked(kv: &mut Kv, _: &[u8]) {
    fill_letters(kv);
    assert_eq!(joined(&kv.range(between("b", "d"))), "b c");
    assert_eq!(joined(&kv.range(others(between("b", "d")))), "c d");
}

fn a_begin_offset_passes_over_rows(kv: &mut Kv, _: &[u8]) {
    fill_letters(kv);
    for (offset, expected) in [(2, "c d e"), (-3, "a b c d e"), (5, "")] {
        assert_eq!(joined(&kv.range(Range { begin_offset: Some(offset), ..from("a") })), expected);
    }
}

fn an_end_offset_moves_the_end_key(kv: &mut Kv, _: &[u8]) {
    fill_letters(kv);
    let moved = |range, offset| Range { end_offset: Some(offset), ..range };
    assert_eq!(joined(&kv.range(moved(between("a", "b"), 2))), "a b c");
    assert_eq!(joined(&kv.range(moved(between("b", "e"), -2))), "b");
    assert_eq!(joined(&kv.range(moved(between("a", b"a\xff"), 1))), "a b");
    let with_end = Range { end_or_equal: Some(true), ..between("a", b"\xff") };
    assert_eq!(joined(&kv.range(moved(with_end, 1))), "a b c d e");
}

fn an_inverted_range_is_empty(kv: &mut Kv, _: &[u8]) {
    fill_letters(kv);
    let nothing = Rows { rows: Vec::new(), has_more: false };
    assert_eq!(kv.range(between("c", "b")), nothing);
    let version = kv.version();
    assert_eq!(kv.snapshot_range(version, between("c", "b")), nothing);
}

fn a_snapshot_range_takes_the_same_fields(kv: &mut Kv, _: &[u8]) {
    fill_letters(kv);
    let version = kv.version();
    succeeded(kv.try_put("bb", "x", FAMILY));
    for (range, expected, has_more) in [
        (others(between("b", "d")), "c d", false),
        (Range { begin_offset: Some(2), ..from("a") }, "c d e", false),
        (Range { end_offset: Some(2), ..between("a", "b") }, "a b c", false),
        (in_family(Range { limit: Some(2), ..Range::default() }), "a b", true),
        (in_family(Range::default()), "a b c d e", false),
    ] {
        let then = kv.snapshot_range(version, range);
        assert_eq!((joined(&then).as_str(), then.has_more), (expected, has_more));
    }
}
