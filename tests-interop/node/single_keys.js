// Scenario, legacy part: connection and single keys.
"use strict";

const assert = require("node:assert/strict");
const { FAMILY, bytes, failed, rows, same, succeeded } = require("./kv");

const NOWHERE = { column_family: "nowhere" };

module.exports = {
  "ping echoes message and timestamp": async (kv) => {
    const response = await kv.call("ping", { message: bytes("hello", 0), timestamp: 42 });
    same(response.message, bytes("hello", 0));
    assert.equal(Number(response.timestamp), 42);
    assert.ok(Math.abs(Number(response.server_timestamp) - Date.now() * 1000) < 60_000_000);
  },

  "ping without arguments says pong": async (kv) => {
    const response = await kv.call("ping");
    same(response.message, "pong");
    assert.equal(Number(response.timestamp), 0);
  },

  "a written key is read back": async (kv, key) => {
    await kv.put(key, bytes("value", 0x00, 0xff));
    same(await kv.get(key), bytes("value", 0x00, 0xff));
  },

  "a missing key is no error": async (kv, key) => {
    const response = await kv.call("get", { key });
    assert.deepEqual([response.found, response.value.length, response.error], [false, 0, null]);
  },

  "an empty value is found": async (kv, key) => {
    await kv.put(key, "");
    const response = await kv.call("get", { key });
    assert.deepEqual([response.found, response.value.length, response.error], [true, 0, null]);
  },

  "an empty key is an error": async (kv) => {
    const key = bytes("");
    const read_version = await kv.version();
    for (const response of [
      await kv.call("get", { key }),
      await kv.call("setKey", { key, value: bytes("x") }),
      await kv.call("deleteKey", { key }),
      await kv.call("snapshotRead", { key, read_version }),
      await kv.call("snapshotGet", { key, read_version }),
    ]) {
      failed(response, "key cannot be empty", "KEY_EMPTY");
    }
  },

  "an unknown column family is an error": async (kv, key) => {
    const read_version = await kv.version();
    for (const response of [
      await kv.call("get", { key, ...NOWHERE }),
      await kv.call("setKey", { key, value: bytes("x"), ...NOWHERE }),
      await kv.call("deleteKey", { key, ...NOWHERE }),
      await kv.call("getRange", { begin_key: key, ...NOWHERE }),
      await kv.call("snapshotRead", { key, read_version, ...NOWHERE }),
      await kv.call("snapshotGetRange", { begin_key: key, read_version, ...NOWHERE }),
      await kv.commit([["set", key, "x", NOWHERE]]),
    ]) {
      failed(response, "Column family 'nowhere' not found", "UNKNOWN_COLUMN_FAMILY");
    }
  },

  "a column family has keys of its own": async (kv, key) => {
    await kv.put(key, "other", FAMILY);
    same(await kv.get(key, FAMILY), "other");
    same(await kv.get(key), null);
    same(await kv.get(key, { column_family: "default" }), null);
    await kv.put(key, "d");
    same(await kv.get(key, { column_family: "default" }), "d");
    same(await kv.get(key, FAMILY), "other");
  },

  "a deleted key is gone and deleting it again succeeds": async (kv, key) => {
    await kv.put(key);
    for (let round = 0; round < 2; round += 1) {
      await kv.delete(key);
      same(await kv.get(key), null);
    }
  },

  "a large value passes unharmed": async (kv, key) => {
    const value = Buffer.alloc(99_840, Buffer.from(Array.from({ length: 256 }, (_, number) => number)));
    await kv.put(key, value);
    same(await kv.get(key), value);
    await kv.delete(key);
  },

  "a value above the limit is refused with its code": async (kv, key) => {
    failed(await kv.call("setKey", { key, value: Buffer.alloc(100_001) }), "100000", "VALUE_TOO_LARGE");
    same(await kv.get(key), null);
  },

  "keys are ordered by their bytes": async (kv, key) => {
    const tails = ["", [0], [0, 0], [0, 0xff], "a", [0x7f], [0x80], [0xff], [0xff, 0]];
    const expected = tails.map((tail, number) => [bytes(key, tail), bytes(`${number}`)]);
    await kv.commitAll([...expected].reverse().map(([name, value]) => ["set", name, value]));
    assert.deepEqual(rows(await kv.range(key, bytes(key, 0xff, 0xff))), expected);
  },

  // All at once: this library matches replies to requests by their sequence ids.
  "many requests get each its own reply": async (kv, key) => {
    const one = kv.one();
    const numbers = Array.from({ length: 20 }, (_, number) => number);
    const put = (number) => one.call("setKey", { key: bytes(key, `${number}`), value: bytes(`value ${number}`) });
    (await Promise.all(numbers.map(put))).forEach(succeeded);
    const values = await Promise.all(numbers.map((number) => one.get(bytes(key, `${number}`))));
    assert.deepEqual(values, numbers.map((number) => bytes(`value ${number}`)));
  },
};
