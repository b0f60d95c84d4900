// Scenario, legacy part: versionstamps, what is refused, faults, and the cluster.
"use strict";

const assert = require("node:assert/strict");
const { bytes, failed, same, stamp, succeeded } = require("./kv");

const ROOM = Buffer.alloc(10);
const CONFLICTS_CLIENT_SIDE = "Conflict detection handled client-side in FoundationDB model";

function assertStampAfter(version, text) {
  assert.equal(text.length, ROOM.length);
  assert.ok(text.readBigUInt64BE() > BigInt(version));
  assert.equal(text.readUInt16BE(8), 0);
}

module.exports = {
  "a versionstamped key gets its stamp": async (kv, key) => {
    const version = await kv.version();
    const response = await kv.call("setVersionstampedKey", { key_prefix: bytes(key, ROOM), value: bytes("x") });
    const generated = succeeded(response).generated_key;
    same(generated.subarray(0, key.length), key);
    assertStampAfter(version, generated.subarray(key.length));
    same(await kv.get(generated), "x");
  },

  "a versionstamped value gets its stamp": async (kv, key) => {
    const version = await kv.version();
    const response = await kv.call("setVersionstampedValue", { key, value_prefix: bytes("at ", ROOM) });
    const generated = succeeded(response).generated_value;
    same(generated.subarray(0, 3), "at ");
    assertStampAfter(version, generated.subarray(3));
    same(await kv.get(key), generated);
  },

  "a buffer that does not end in zeros is stored as it is": async (kv, key) => {
    const buffer = bytes("no stamp!!");
    const stored = bytes(key, buffer);
    const ofKey = await kv.call("setVersionstampedKey", { key_prefix: stored, value: bytes("x") });
    same(succeeded(ofKey).generated_key, stored);
    same(await kv.get(stored), "x");
    const ofValue = await kv.call("setVersionstampedValue", { key, value_prefix: buffer });
    same(succeeded(ofValue).generated_value, buffer);
    same(await kv.get(key), buffer);
  },

  "a buffer without room for a stamp is an error": async (kv, key) => {
    const short = Buffer.alloc(9);
    for (const response of [
      await kv.call("setVersionstampedKey", { key_prefix: short, value: bytes("x") }),
      await kv.call("setVersionstampedValue", { key, value_prefix: short }),
      await kv.commit([["SET_VERSIONSTAMPED_KEY", short, "x"]]),
      await kv.commit([["SET_VERSIONSTAMPED_VALUE", key, short]]),
    ]) {
      failed(response, "", "INVALID_OPERATION");
    }
  },

  "stamped operations of a commit carry its version and are counted": async (kv, key) => {
    const version = await kv.commitAll([
      ["SET_VERSIONSTAMPED_KEY", bytes(key, "k", Buffer.alloc(10, 0xff)), "x"],
      ["set_versionstamped_value", bytes(key, "v"), bytes("at ", ROOM)],
    ]);
    same(await kv.get(bytes(key, "k", stamp(version, 0))), "x");
    same(await kv.get(bytes(key, "v")), bytes("at ", stamp(version, 1)));
  },

  "calls of the stateful protocol are refused politely": async (kv, key) => {
    const committed = await kv.call("getCommittedVersion");
    for (const [response, text] of [
      [await kv.call("addReadConflict", { key }), CONFLICTS_CLIENT_SIDE],
      [await kv.call("addReadConflictRange", { start_key: key, end_key: bytes(key, 0xff) }), CONFLICTS_CLIENT_SIDE],
      [await kv.call("setReadVersion", { version: 7 }), "Read version managed client-side in FoundationDB model"],
      [committed, "Committed version managed client-side in FoundationDB model"],
    ]) {
      assert.deepEqual([response.success, response.error], [false, text]);
    }
    assert.equal(Number(committed.version), 0);
  },

  "an injected fault hits commits until it is cleared": async (kv, key) => {
    const one = kv.one();
    const fault = { fault_type: "TIMEOUT", target_operation: "commit" };
    const inject = async (probability) => succeeded(await one.call("setFaultInjection", { ...fault, probability }));
    await inject(1.0);
    try {
      failed(await one.commit([["set", key, "1"]]), "", "TIMEOUT");
    } finally {
      await inject(0.0);
    }
    await one.commitAll([["set", key, "2"]]);
    same(await one.get(key), "2");
  },

  "cluster health counts its nodes": async (kv) => {
    const health = succeeded(await kv.call("getClusterHealth")).cluster_health;
    assert.deepEqual([health.total_nodes_count, health.healthy_nodes_count], [kv.nodes, kv.nodes]);
    assert.deepEqual(health.nodes.map((node) => node.status), Array(kv.nodes).fill("healthy"));
    assert.deepEqual([health.cluster_status, health.leader.is_leader], ["healthy", true]);
    assert.ok(Number(health.current_term) >= 0);
  },

  "database statistics count commits": async (kv, key) => {
    const one = kv.one();
    const committed = async () =>
      Number(succeeded(await one.call("getDatabaseStats")).database_stats.committed_transactions);
    const before = await committed();
    await one.put(key);
    assert.ok((await committed()) > before);
  },

  "node information is given and an unknown node is an error": async (kv) => {
    assert.equal(succeeded(await kv.call("getNodeInfo", { node_id: 0 })).node_info.node_id, 0);
    failed(await kv.call("getNodeInfo", { node_id: 77 }), "Node 77 not found");
  },
};
