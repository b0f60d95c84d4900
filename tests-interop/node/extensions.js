// Scenario, extensions: what only clients made from the present interface have.
"use strict";

const assert = require("node:assert/strict");
const { FAMILY, FUTURE, bytes, failed, keys, same, stamp, succeeded } = require("./kv");
const { letters } = require("./ranges");

const names = (key, text) => text.split(" ").map((name) => bytes(key, name));

/** Commits one operation, and compares what the key then holds; null: nothing. */
async function mutate(kv, type, key, operand, expected) {
  await kv.commitAll([[type, key, operand]]);
  same(await kv.get(key), expected);
}

/** A token that nobody has. */
const UNKNOWN_TOKEN = `synodkv_00000000000000ff_${"0".repeat(64)}`;

/** Where nothing is checked, everything succeeds. */
function refused(kv, response) {
  return kv.token === undefined ? succeeded(response) : failed(response, "not valid", "UNAUTHENTICATED");
}

module.exports = {
  "replies of reads carry an error code": async (kv, key) => {
    const read_version = (await kv.version()) + FUTURE;
    for (const [response, code] of [
      [await kv.call("get", { key: bytes("") }), "KEY_EMPTY"],
      [await kv.call("get", { key, column_family: "nowhere" }), "UNKNOWN_COLUMN_FAMILY"],
      [await kv.call("snapshotGet", { key, read_version }), "FUTURE_VERSION"],
      [await kv.call("setVersionstampedKey", { key_prefix: Buffer.alloc(9), value: bytes("x") }), "INVALID_OPERATION"],
    ]) {
      assert.equal(response.error_code, code);
    }
  },

  "a stale read needs no agreement": async (kv, key) => {
    await kv.put(key);
    const stale = { consistency: "stale" };
    // The state that this replica has applied may be older than the write.
    assert.ok(["x", undefined].includes((await kv.get(key, stale))?.toString()));
    assert.ok((await kv.range(key, bytes(key, 0xff), stale)).key_values.length <= 1);
    same(await kv.get(key, { consistency: "linearizable" }), "x");
    failed(await kv.call("get", { key, consistency: "whatever" }), "", "INVALID_OPERATION");
  },

  "a range can be read from its end": async (kv, key) => {
    const all = names(key, "4 3 2 1 0");
    await kv.commitAll(all.map((name) => ["set", name, "x"]));
    for (const [fields, count, hasMore] of [[{}, 5, false], [{ limit: 2 }, 2, true]]) {
      for (const response of [
        await kv.range(key, bytes(key, 0xff), { reverse: true, ...fields }),
        await kv.snapshotRange(await kv.version(), key, bytes(key, 0xff), { reverse: true, ...fields }),
      ]) {
        assert.deepEqual([keys(response), response.has_more], [all.slice(0, count), hasMore]);
      }
    }
  },

  "a range may be cut short by bytes when asked": async (kv, key) => {
    const all = names(key, "0 1 2 3 4");
    await kv.commitAll(all.map((name) => ["set", name, Buffer.alloc(100)]));
    const part = await kv.range(key, bytes(key, 0xff), { target_bytes: 250 });
    const count = part.key_values.length;
    assert.ok(1 <= count && count < 5 && part.has_more);
    assert.deepEqual(keys(part), all.slice(0, count));
    const least = await kv.range(key, bytes(key, 0xff), { target_bytes: 1 });
    assert.deepEqual([keys(least), least.has_more], [all.slice(0, 1), true]);
  },

  "key selectors choose the ends of a range": async (kv) => {
    await letters(kv);
    const selector = ([key, or_equal, offset]) => new kv.types.KeySelector({ key: bytes(key), or_equal, offset });
    const selectors = (begin, end) => ({
      begin_selector: selector(begin),
      ...(end ? { end_selector: selector(end) } : {}),
      ...FAMILY,
    });
    for (const [begin, end, expected] of [
      [["c", false, 1], ["e", false, 1], "c d"],
      [["c", true, 1], undefined, "d e"],
      [["c", true, 0], ["d", true, 1], "c d"],
      [["c", false, 0], undefined, "b c d e"],
      [["b", false, 2], undefined, "c d e"],
      [["bb", true, 0], ["bb", true, 1], "b"],
    ]) {
      assert.equal(keys(await kv.range(undefined, undefined, selectors(begin, end))).join(" "), expected);
    }
    const then = selectors(["c", false, 1], ["e", false, 1]);
    assert.equal(keys(await kv.snapshotRange(await kv.version(), undefined, undefined, then)).join(" "), "c d");
  },

  "a pinned snapshot can be unpinned": async (kv, key) => {
    const one = kv.one();
    await one.put(key, "old");
    const read_version = await one.version();
    const pinned = succeeded(await one.call("pinSnapshot", { read_version, ttl_ms: 30_000 }));
    const ahead = Number(pinned.expires_at_ms) - Date.now();
    assert.ok(25_000 < ahead && ahead < 35_000, `${ahead} ms ahead`);
    await one.put(key, "new");
    same(await one.snapshotGet(key, read_version), "old");
    succeeded(await one.call("unpinSnapshot", { read_version }));
    succeeded(await one.call("unpinSnapshot", { read_version }));
  },

  "a range that was read conflicts with writes inside it": async (kv, key) => {
    const version = await kv.version();
    await kv.put(bytes(key, "b"));
    const commitHavingRead = (begin, end) => {
      const range = new kv.types.KeyRange({ begin_key: bytes(key, begin), end_key: bytes(key, end) });
      return kv.commit([["set", bytes(key, "x"), "1"]], version, [], { read_conflict_ranges: [range] });
    };
    failed(await commitHavingRead("a", "c"), "", "CONFLICT");
    succeeded(await commitHavingRead("c", "d"));
    succeeded(await commitHavingRead("a", "b"));
  },

  "a conflict with a family counts only there": async (kv, key) => {
    const version = await kv.version();
    await kv.put(key, "x", FAMILY);
    const commitHavingRead = (family) => {
      const conflict = new kv.types.KeyRef({ key, ...family });
      return kv.commit([["set", bytes(key, "x"), "1"]], version, [], { read_conflicts: [conflict] });
    };
    succeeded(await commitHavingRead({}));
    failed(await commitHavingRead(FAMILY), "", "CONFLICT");
  },

  "a conflict says what it met and what to do": async (kv, key) => {
    const version = await kv.version();
    await kv.put(bytes(key, "a"));
    const read_conflicts = names(key, "a b").map((name) => new kv.types.KeyRef({ key: name }));
    const response = await kv.commit([["set", bytes(key, "x"), "1"]], version, [], { read_conflicts });
    failed(response, "", "CONFLICT");
    assert.deepEqual(response.conflicting_keys.map((conflict) => conflict.key), names(key, "a"));
    assert.equal(response.retryable, true);
    assert.ok(!response.maybe_committed);
  },

  "a mistake is not to be tried again": async (kv, key) => {
    const response = failed(await kv.commit([["frobnicate", key, "1"]]), "", "INVALID_OPERATION");
    assert.ok(!response.retryable && !response.maybe_committed);
  },

  "a commit tells the keys and values that it made": async (kv, key) => {
    const room = Buffer.alloc(10);
    const operations = [
      ["SET_VERSIONSTAMPED_KEY", bytes(key, "k", room), "x"],
      ["set", key, "y"],
      ["SET_VERSIONSTAMPED_VALUE", bytes(key, "v"), bytes(room, "!"), { stamp_offset: 0 }],
    ];
    const response = succeeded(await kv.commit(operations));
    const version = Number(response.committed_version);
    const [generatedKey, generatedValue] = [bytes(key, "k", stamp(version, 0)), bytes(stamp(version, 1), "!")];
    same(response.versionstamp, stamp(version, 0));
    assert.deepEqual(response.generated_keys, [generatedKey]);
    assert.deepEqual(response.generated_values, [generatedValue]);
    same(await kv.get(generatedKey), "x");
    same(await kv.get(bytes(key, "v")), generatedValue);
  },

  "a reply holds no details that its client may not know": async (kv, key) => {
    const operation = ["SET_VERSIONSTAMPED_KEY", bytes(key, Buffer.alloc(10)), "x"];
    const details = (response) => {
      succeeded(response);
      return [response.versionstamp, response.generated_keys].map((field) => field !== null);
    };
    assert.deepEqual(details(await kv.commit([operation])), [false, false]);
    assert.deepEqual(details(await kv.commit([operation], 0, [], { include_details: true })), [true, true]);
  },

  "clear_range removes its range": async (kv, key) => {
    await kv.commitAll(names(key, "a b c d e").map((name) => ["set", name, "old"]));
    const version = await kv.version();
    await kv.commitAll([
      ["set", bytes(key, "bb"), "1"],
      ["clear_range", bytes(key, "b"), bytes(key, "d")],
      ["set", bytes(key, "c"), "new"],
    ]);
    assert.deepEqual(keys(await kv.range(key, bytes(key, 0xff))), names(key, "a c d e"));
    same(await kv.get(bytes(key, "c")), "new");
    failed(await kv.commit([["set", bytes(key, "x"), "1"]], version, names(key, "b")), "", "CONFLICT");
    assert.deepEqual(keys(await kv.snapshotRange(version, key, bytes(key, 0xff))), names(key, "a b c d e"));
  },

  "add counts": async (kv, key) => {
    await mutate(kv, "add", key, [0x01, 0x00], [0x01, 0x00]);
    await mutate(kv, "add", key, [0xff, 0x00], [0x00, 0x01]);
    await mutate(kv, "add", key, [0xff, 0xfe], [0xff, 0xff]);
    await mutate(kv, "add", key, [0x01, 0x00, 0x00], [0x00, 0x00, 0x01]);
    await mutate(kv, "add", key, [0x05], [0x05]);
  },

  "min and max compare as numbers": async (kv, key) => {
    await kv.put(key, [0x05, 0x00]);
    await mutate(kv, "min", key, [0x03, 0x01], [0x05, 0x00]);
    await mutate(kv, "min", key, [0x02, 0x00], [0x02, 0x00]);
    await mutate(kv, "max", key, [0x00, 0x01], [0x00, 0x01]);
    await mutate(kv, "max", key, [0x01, 0x00], [0x00, 0x01]);
    await mutate(kv, "min", bytes(key, "min"), [0x07], [0x07]);
    await mutate(kv, "max", bytes(key, "max"), [0x07], [0x07]);
  },

  "byte_min and byte_max compare as bytes": async (kv, key) => {
    await kv.put(key, "m");
    await mutate(kv, "byte_min", key, "mm", "m");
    await mutate(kv, "byte_min", key, "b", "b");
    await mutate(kv, "byte_max", key, "a", "b");
    await mutate(kv, "byte_max", key, "z", "z");
    await mutate(kv, "byte_min", bytes(key, "min"), "q", "q");
    await mutate(kv, "byte_max", bytes(key, "max"), "q", "q");
  },

  "bits are combined": async (kv, key) => {
    await kv.put(key, [0x0c]);
    await mutate(kv, "bit_and", key, [0x0a], [0x08]);
    await mutate(kv, "bit_or", key, [0x03], [0x0b]);
    await mutate(kv, "bit_xor", key, [0xff], [0xf4]);
    for (const type of ["bit_and", "bit_or", "bit_xor"]) {
      await mutate(kv, type, bytes(key, type), [0x05], [0x05]);
    }
  },

  "append_if_fits appends": async (kv, key) => {
    await mutate(kv, "append_if_fits", key, "ab", "ab");
    await mutate(kv, "append_if_fits", key, "cd", "abcd");
    await mutate(kv, "append_if_fits", key, Buffer.alloc(99_997), "abcd");
  },

  "compare_and_clear clears what is equal": async (kv, key) => {
    await kv.put(key, "x");
    await mutate(kv, "compare_and_clear", key, "y", "x");
    await mutate(kv, "compare_and_clear", key, "x", null);
  },

  "operations of a commit are executed in their order": async (kv, key) => {
    const other = bytes(key, "b");
    await kv.commitAll([
      ["set", key, [0x01]],
      ["add", key, [0x02]],
      ["set", other, "x"],
      ["compare_and_clear", other, "x"],
      ["add", key, [0x04]],
    ]);
    same(await kv.get(key), [0x07]);
    same(await kv.get(other), null);
  },

  "a repeated commit returns the first result": async (kv, key) => {
    const add = (operand) => kv.commit([["add", key, [operand]]], 0, [], { idempotency_id: bytes(key, "id") });
    const first = Number(succeeded(await add(1)).committed_version);
    assert.equal(Number(succeeded(await add(1)).committed_version), first);
    same(await kv.get(key), [0x01]);
    failed(await add(2), "", "INVALID_OPERATION");
    same(await kv.get(key), [0x01]);
  },

  "a finished idempotency id is forgotten": async (kv, key) => {
    const add = async (operand) => {
      const response = await kv.commit([["add", key, [operand]]], 0, [], { idempotency_id: bytes(key, "id") });
      return Number(succeeded(response).committed_version);
    };
    const first = await add(1);
    const finished = { finished_idempotency_ids: names(key, "id") };
    succeeded(await kv.commit([["set", bytes(key, "x"), "1"]], 0, [], finished));
    assert.ok((await add(2)) > first);
    same(await kv.get(key), [0x03]);
  },

  "authenticate tells the user of the connection": async (kv, key) => {
    const one = kv.one();
    const { user } = succeeded(await one.call("authenticate", { token: kv.token ?? UNKNOWN_TOKEN }));
    assert.equal(user, kv.token === undefined ? null : "client");
    same(await one.get(key), null);
  },

  "a token of nobody takes the identity of a connection away": async (kv, key) => {
    const one = kv.one();
    refused(kv, await one.call("authenticate", { token: UNKNOWN_TOKEN }));
    refused(kv, await one.call("get", { key }));
    succeeded(await one.call("authenticate", { token: kv.token ?? UNKNOWN_TOKEN }));
    same(await one.get(key), null);
  },

  "a token in a request counts for that request": async (kv, key) => {
    const one = kv.one();
    same(await one.get(key, { auth_token: kv.token ?? UNKNOWN_TOKEN }), null);
    refused(kv, await one.call("get", { key, auth_token: UNKNOWN_TOKEN }));
    same(await one.get(key), null);
  },

  "the limits of the server are reported": async (kv) => {
    const { limits } = succeeded(await kv.call("getClusterHealth"));
    const reported = [limits.max_key_bytes, limits.max_value_bytes, limits.max_transaction_bytes];
    assert.deepEqual(reported.map(Number), [10_000, 100_000, 10_000_000]);
    assert.deepEqual([limits.max_conflicts, limits.max_reply_bytes].map(Number), [100_000, 67_108_864]);
  },
};
