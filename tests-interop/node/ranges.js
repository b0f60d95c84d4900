// Scenario, legacy part: ranges.
"use strict";

const assert = require("node:assert/strict");
const { FAMILY, bytes, keys, rows } = require("./kv");

const LETTERS = ["a", "b", "c", "d", "e", bytes(0xff, 0x01)].map((key, number) => [bytes(key), bytes(`${number + 1}`)]);

/** Fills the family `interop` with the keys a b c d e and FF 01, and nothing else. */
async function letters(kv) {
  const old = keys(await kv.range(bytes(""), Buffer.alloc(20, 0xff), { limit: 0, ...FAMILY }));
  await kv.commitAll(old.map((key) => ["delete", key, undefined, FAMILY]));
  await kv.commitAll(LETTERS.map(([key, value]) => ["set", key, value, FAMILY]));
}

const joined = (response) => keys(response).join(" ");

/** Keys of that family from `begin` to `end`, with spaces between. */
async function read(kv, begin, end, fields = {}) {
  return joined(await kv.range(begin && bytes(begin), end && bytes(end), { ...fields, ...FAMILY }));
}

module.exports = {
  "a range is ordered and says whether there is more": async (kv, key) => {
    const expected = [0, 1, 2, 3, 4].map((number) => [bytes(key, `${number}`), bytes(`value ${number}`)]);
    for (const [name, value] of [...expected].reverse()) {
      await kv.put(name, value);
    }
    for (const [fields, count, hasMore] of [[{}, 5, false], [{ limit: 2 }, 2, true], [{ limit: 5 }, 5, false]]) {
      const response = await kv.range(key, bytes(key, 0xff), fields);
      assert.deepEqual([rows(response), response.has_more], [expected.slice(0, count), hasMore]);
    }
  },

  "a range keeps to 1000 rows unless told otherwise": async (kv, key) => {
    const names = Array.from({ length: 1001 }, (_, number) => bytes(key, `${number}`.padStart(4, "0")));
    await kv.commitAll(names.map((name) => ["set", name, "x"]));
    for (const [fields, count] of [[{}, 1000], [{ limit: 0 }, 1001], [{ limit: -1 }, 1001]]) {
      const response = await kv.range(key, bytes(key, 0xff), fields);
      assert.deepEqual([keys(response), response.has_more], [names.slice(0, count), count < names.length]);
    }
    await kv.commitAll(names.map((name) => ["delete", name]));
  },

  "a range without bounds reaches up to 0xFF": async (kv) => {
    await letters(kv);
    assert.deepEqual(rows(await kv.range(undefined, undefined, FAMILY)), LETTERS.slice(0, 5));
    assert.deepEqual(rows(await kv.range(undefined, bytes(0xff, 0xff), FAMILY)), LETTERS);
  },

  "ends are included and left out as asked": async (kv) => {
    await letters(kv);
    assert.equal(await read(kv, "b", "d"), "b c");
    assert.equal(await read(kv, "b", "d", { begin_or_equal: false, end_or_equal: true }), "c d");
  },

  "a begin offset passes over rows": async (kv) => {
    await letters(kv);
    assert.equal(await read(kv, "a", undefined, { begin_offset: 2 }), "c d e");
    assert.equal(await read(kv, "a", undefined, { begin_offset: -3 }), "a b c d e");
    assert.equal(await read(kv, "a", undefined, { begin_offset: 5 }), "");
  },

  "an end offset moves the end key": async (kv) => {
    await letters(kv);
    assert.equal(await read(kv, "a", "b", { end_offset: 2 }), "a b c");
    assert.equal(await read(kv, "b", "e", { end_offset: -2 }), "b");
    assert.equal(await read(kv, "a", bytes("a", 0xff), { end_offset: 1 }), "a b");
    assert.equal(await read(kv, "a", bytes(0xff), { end_offset: 1, end_or_equal: true }), "a b c d e");
  },

  "an inverted range is empty": async (kv) => {
    await letters(kv);
    for (const response of [
      await kv.range(bytes("c"), bytes("b"), FAMILY),
      await kv.snapshotRange(await kv.version(), bytes("c"), bytes("b"), FAMILY),
    ]) {
      assert.deepEqual([rows(response), response.has_more], [[], false]);
    }
  },

  "a snapshot range takes the same fields": async (kv) => {
    await letters(kv);
    const version = await kv.version();
    await kv.put(bytes("bb"), "x", FAMILY);
    const then = async (begin, end, fields) => {
      const ends = [begin && bytes(begin), end && bytes(end)];
      const response = await kv.snapshotRange(version, ...ends, { ...fields, ...FAMILY });
      return [joined(response), response.has_more];
    };
    assert.deepEqual(await then("b", "d", { begin_or_equal: false, end_or_equal: true }), ["c d", false]);
    assert.deepEqual(await then("a", undefined, { begin_offset: 2 }), ["c d e", false]);
    assert.deepEqual(await then("a", "b", { end_offset: 2 }), ["a b c", false]);
    assert.deepEqual(await then(undefined, undefined, { limit: 2 }), ["a b", true]);
    assert.deepEqual(await then(), ["a b c d e", false]);
  },
};

// For the extensions; no step.
Object.defineProperty(module.exports, "letters", { value: letters, enumerable: false });
