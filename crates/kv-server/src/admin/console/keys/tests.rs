//! Tests of the tree of keys against a plain list of rows.

use std::collections::BTreeSet;

use kv_api::Row;
use proptest::prelude::*;

use super::*;

fn list(pairs: &[(&str, &str)]) -> Result<List, String> {
    let parameters = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    List::parse(parameters).map_err(|refusal| refusal.1)
}

/// Answers as the database would, `page` rows at a time.
fn read(keys: &BTreeSet<Vec<u8>>, begin: &Bytes, end: Option<&Bytes>, page: usize) -> Rows {
    let all: Vec<&Vec<u8>> =
        keys.iter().filter(|key| key[..] >= begin[..] && end.is_none_or(|end| key[..] < end[..])).collect();
    let row = |key: &&Vec<u8>| Row { key: (**key).clone().into(), value: Bytes::from_static(b"v") };
    Rows { rows: all.iter().take(page).map(row).collect(), has_more: all.len() > page }
}

/// The names of the entries of a list, over as many answers as that takes.
fn browse(keys: &BTreeSet<Vec<u8>>, prefix: &[u8], limit: usize, page: usize) -> Vec<Bytes> {
    let mut names: Vec<Bytes> = Vec::new();
    loop {
        let list = List {
            family: None,
            prefix: Bytes::copy_from_slice(prefix),
            after: names.last().cloned(),
            delimiter: Some(b'/'),
            limit,
            at: At::Now,
        };
        let mut collected = Collected { entries: Vec::new(), next: list.begin() };
        while let Some(begin) = collected.next.clone().filter(|_| collected.entries.len() < limit) {
            collected.add(&list, &read(keys, &begin, successor(prefix).as_ref(), page));
        }
        assert!(collected.entries.len() <= limit);
        names.extend(collected.entries.iter().map(|entry| entry.name().clone()));
        if collected.next.is_none() || collected.entries.is_empty() {
            return names;
        }
    }
}

#[test]
fn folders_are_shown_once_and_keys_one_by_one() {
    let keys = ["a", "a/1", "a/2/x", "a/2/y", "a/b", "a/", "b/1", "z"];
    let keys = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    assert_eq!(browse(&keys, b"", 2, 3), ["a", "a/", "b/", "z"].map(Bytes::from));
    assert_eq!(browse(&keys, b"a/", 100, 100), ["a/", "a/1", "a/2/", "a/b"].map(Bytes::from));
    assert_eq!(browse(&keys, b"a/2", 100, 1), ["a/2/"].map(Bytes::from));
    assert!(browse(&keys, b"nothing", 100, 1).is_empty());
}

#[test]
fn the_last_keys_of_all_are_found() {
    assert_eq!(successor(b"a\xFF\xFF").as_deref(), Some(&b"b"[..]));
    assert_eq!(successor(b"\xFF\xFF"), None);
    let keys = BTreeSet::from([vec![0xFF], vec![0xFF, 0xFF, b'/', 1]]);
    assert_eq!(browse(&keys, b"\xFF", 1, 1), [&b"\xFF"[..], b"\xFF\xFF/"].map(Bytes::copy_from_slice));
}

#[test]
fn bad_parameters_are_named_with_what_is_allowed() {
    for (pairs, part) in [
        (&[("prefix", "6")][..], "prefix = `6`: expected bytes"),
        (&[("limit", "0")], "1 to 500"),
        (&[("limit", "501")], "1 to 500"),
        (&[("version", "0")], "1 or more"),
        (&[("version", "9223372036854775808")], "1 or more"),
        (&[("delimiter", "ab")], "one ASCII character"),
        (&[("delimiter", "é")], "one ASCII character"),
        (&[("prefix", "61"), ("after", "62")], "for the same prefix"),
        (&[("colour", "red")], "unknown parameter `colour`"),
    ] {
        let error = list(pairs).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
    let plain = list(&[("delimiter", ""), ("version", "stale"), ("family", "users")]).expect("valid");
    assert_eq!((plain.delimiter, plain.at, plain.limit), (None, At::Stale, DEFAULT_LIMIT));
}

#[test]
fn a_list_keeps_the_beginning_of_a_value_only() {
    let value = Bytes::from(vec![7; 1 << 20]);
    let entry = Entry::of_row(&list(&[]).expect("valid"), &Row { key: "k".into(), value });
    let Entry::Key { length, preview, .. } = &entry else { panic!("{entry:?}") };
    assert_eq!((*length, preview.len()), (1 << 20, PREVIEW_BYTES));
}

proptest! {
    #[test]
    fn every_key_is_in_the_list_or_in_one_folder_of_it(
        keys in prop::collection::btree_set(
            prop::collection::vec(prop_oneof![Just(b'/'), Just(b'a'), Just(0u8), Just(0xFF)], 1..6), 0..40),
        prefix in prop::collection::vec(prop_oneof![Just(b'/'), Just(b'a'), Just(0xFF)], 0..3),
        limit in 1usize..5,
        page in 1usize..5,
    ) {
        let expected: BTreeSet<Vec<u8>> = keys
            .iter()
            .filter(|key| key.starts_with(&prefix))
            .map(|key| match key[prefix.len()..].iter().position(|byte| *byte == b'/') {
                Some(end) => key[..prefix.len() + end + 1].to_vec(),
                None => key.clone(),
            })
            .collect();
        let found: Vec<Vec<u8>> = browse(&keys, &prefix, limit, page).iter().map(|name| name.to_vec()).collect();
        prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }
}
