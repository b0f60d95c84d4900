// Scenario, legacy part: versions and commits.
"use strict";

const assert = require("node:assert/strict");
const { FAMILY, FUTURE, bytes, failed, rows, same, succeeded } = require("./kv");

module.exports = {
  "a read version covers what was written before": async (kv, key) => {
    const before = await kv.version();
    await kv.put(key);
    assert.ok(1 <= before && before < (await kv.version()));
  },

  "a snapshot does not see later commits": async (kv, key) => {
    await kv.put(key, "old");
    const then = await kv.version();
    await kv.put(key, "new");
    const now = await kv.version();
    for (const method of ["snapshotRead", "snapshotGet"]) {
      const read = async (key, read_version) => {
        const response = await kv.call(method, { key, read_version });
        return [response.found, response.value.toString(), response.error];
      };
      assert.deepEqual(await read(key, then), [true, "old", null]);
      assert.deepEqual(await read(key, now), [true, "new", null]);
      assert.deepEqual(await read(bytes(key, "missing"), then), [false, "", null]);
    }
  },

  "a snapshot still sees what was deleted later": async (kv, key) => {
    await kv.put(key);
    const then = await kv.version();
    await kv.delete(key);
    same(await kv.snapshotGet(key, then), "x");
    same(await kv.snapshotGet(key, await kv.version()), null);
  },

  "a snapshot range does not see later commits": async (kv, key) => {
    await kv.put(bytes(key, "a"), "old");
    const version = await kv.version();
    await kv.put(bytes(key, "a"), "new");
    await kv.put(bytes(key, "b"), "new");
    const response = await kv.snapshotRange(version, key, bytes(key, 0xff));
    assert.deepEqual(rows(response), [[bytes(key, "a"), bytes("old")]]);
    assert.equal(response.has_more, false);
  },

  "a version of the future is an error": async (kv, key) => {
    const read_version = (await kv.version()) + FUTURE;
    for (const response of [
      await kv.call("snapshotRead", { key, read_version }),
      await kv.call("snapshotGet", { key, read_version }),
      await kv.call("snapshotGetRange", { begin_key: key, read_version }),
    ]) {
      failed(response, "newer than", "FUTURE_VERSION");
    }
  },

  "a commit writes all its operations at one version": async (kv, key) => {
    const [a, b, gone] = ["a", "b", "gone"].map((name) => bytes(key, name));
    await kv.put(gone);
    const version = await kv.commitAll([["set", a, "1"], ["SET", b, "2"], ["delete", gone]]);
    assert.ok(version >= 2);
    same(await kv.get(a), "1");
    same(await kv.get(b), "2");
    same(await kv.get(gone), null);
    const then = async (read_version) => (await kv.call("snapshotRead", { key: b, read_version })).value;
    same(await then(version), "2");
    same(await then(version - 1), "");
  },

  "of several operations on one key the last one counts": async (kv, key) => {
    const [a, b] = [bytes(key, "a"), bytes(key, "b")];
    await kv.commitAll([["set", a, "1"], ["delete", a], ["set", a, "2"], ["set", b, "1"], ["delete", b]]);
    same(await kv.get(a), "2");
    same(await kv.get(b), null);
  },

  "a commit whose read key was written meanwhile conflicts": async (kv, key) => {
    await kv.put(key, "1");
    const version = await kv.version();
    await kv.put(key, "2");
    const response = failed(await kv.commit([["set", key, "3"]], version, [key]), "", "CONFLICT");
    assert.equal(response.committed_version, null);
    same(await kv.get(key), "2");
  },

  "a commit whose read key was deleted meanwhile conflicts": async (kv, key) => {
    await kv.put(key, "1");
    const version = await kv.version();
    await kv.delete(key);
    failed(await kv.commit([["set", bytes(key, "x"), "2"]], version, [key]), "", "CONFLICT");
    same(await kv.get(bytes(key, "x")), null);
  },

  "a commit whose read key is unchanged succeeds": async (kv, key) => {
    await kv.put(key, "1");
    succeeded(await kv.commit([["set", key, "2"]], await kv.version(), [key]));
    same(await kv.get(key), "2");
  },

  "a conflict key counts in every family": async (kv, key) => {
    const version = await kv.version();
    await kv.put(key, "1", FAMILY);
    failed(await kv.commit([["set", bytes(key, "x"), "2"]], version, [key]), "", "CONFLICT");
  },

  "without conflict keys the read version is not looked at": async (kv, key) => {
    await kv.put(key, "1");
    succeeded(await kv.commit([["set", key, "2"]], 0));
    succeeded(await kv.commit([["set", key, "3"]], (await kv.version()) + FUTURE));
    same(await kv.get(key), "3");
  },

  "a commit that has read the future is refused": async (kv, key) => {
    const version = (await kv.version()) + FUTURE;
    failed(await kv.commit([["set", key, "1"]], version, [key]), "newer than", "FUTURE_VERSION");
    same(await kv.get(key), null);
  },

  "an unknown operation type is refused as a whole": async (kv, key) => {
    const operations = [["set", key, "1"], ["frobnicate", key, "2"]];
    failed(await kv.commit(operations), "frobnicate", "INVALID_OPERATION");
    same(await kv.get(key), null);
  },

  "a set without value is refused": async (kv, key) => {
    failed(await kv.commit([["set", key]]), "", "INVALID_OPERATION");
  },

  "an empty commit succeeds at its read version": async (kv) => {
    const version = await kv.version();
    assert.equal(Number(succeeded(await kv.commit([], version)).committed_version), version);
  },
};
