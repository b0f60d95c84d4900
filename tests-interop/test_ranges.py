"""Scenario, legacy part: ranges."""

import pytest
from checks import commit, get_range, keys, put, read_version, rows, snapshot_get_range, succeeded
from server import COLUMN_FAMILY

LETTERS = [(letter, b"%d" % number) for number, letter in enumerate([b"a", b"b", b"c", b"d", b"e", b"\xff\x01"], 1)]
FAMILY = {"column_family": COLUMN_FAMILY}


@pytest.fixture
def letters(client):
    """The family `interop` with the keys a b c d e and FF 01, and nothing else."""
    old = keys(get_range(client, b"", b"\xff" * 20, limit=0, **FAMILY))
    succeeded(commit(client, [("delete", key, None, FAMILY) for key in old]))
    succeeded(commit(client, [("set", *row, FAMILY) for row in LETTERS]))
    return client


def letter_keys(client, *ends, **fields):
    return b" ".join(keys(get_range(client, *ends, **fields, **FAMILY)))


def test_a_range_is_ordered_and_says_whether_there_is_more(client, key):
    expected = [(key + b"%d" % i, b"value %d" % i) for i in range(5)]
    for row in reversed(expected):
        put(client, *row)
    for limit, count, has_more in ((None, 5, False), (2, 2, True), (5, 5, False)):
        response = get_range(client, key, key + b"\xff", **({"limit": limit} if limit else {}))
        assert (rows(response), response.has_more) == (expected[:count], has_more)


def test_a_range_keeps_to_1000_rows_unless_told_otherwise(client, key):
    names = [key + b"%04d" % number for number in range(1001)]
    succeeded(commit(client, [("set", name, b"x") for name in names]))
    for limit, count in (({}, 1000), ({"limit": 0}, 1001), ({"limit": -1}, 1001)):
        response = get_range(client, key, key + b"\xff", **limit)
        assert (keys(response), response.has_more) == (names[:count], count < len(names))
    succeeded(commit(client, [("delete", name, None) for name in names]))


def test_a_range_without_bounds_reaches_up_to_0xff(letters):
    assert rows(get_range(letters, **FAMILY)) == LETTERS[:5]
    assert rows(get_range(letters, end=b"\xff\xff", **FAMILY)) == LETTERS


def test_ends_are_included_and_left_out_as_asked(letters):
    assert letter_keys(letters, b"b", b"d") == b"b c"
    assert letter_keys(letters, b"b", b"d", begin_or_equal=False, end_or_equal=True) == b"c d"


def test_a_begin_offset_passes_over_rows(letters):
    assert letter_keys(letters, b"a", begin_offset=2) == b"c d e"
    assert letter_keys(letters, b"a", begin_offset=-3) == b"a b c d e"
    assert letter_keys(letters, b"a", begin_offset=5) == b""


def test_an_end_offset_moves_the_end_key(letters):
    assert letter_keys(letters, b"a", b"b", end_offset=2) == b"a b c"
    assert letter_keys(letters, b"b", b"e", end_offset=-2) == b"b"
    assert letter_keys(letters, b"a", b"a\xff", end_offset=1) == b"a b"
    assert letter_keys(letters, b"a", b"\xff", end_offset=1, end_or_equal=True) == b"a b c d e"


def test_an_inverted_range_is_empty(letters):
    for response in (
        get_range(letters, b"c", b"b", **FAMILY),
        snapshot_get_range(letters, read_version(letters), b"c", b"b", **FAMILY),
    ):
        assert (rows(response), response.has_more) == ([], False)


def test_a_snapshot_range_takes_the_same_fields(letters):
    version = read_version(letters)
    put(letters, b"bb", **FAMILY)

    def read(*ends, **fields):
        response = snapshot_get_range(letters, version, *ends, **fields, **FAMILY)
        return b" ".join(keys(response)), response.has_more

    assert read(b"b", b"d", begin_or_equal=False, end_or_equal=True) == (b"c d", False)
    assert read(b"a", begin_offset=2) == (b"c d e", False)
    assert read(b"a", b"b", end_offset=2) == (b"a b c", False)
    assert read(limit=2) == (b"a b", True)
    assert read() == (b"a b c d e", False)
