// The common parts of the steps: connections taken in turn, short calls, and the checks of a success and a failure.
"use strict";

const assert = require("node:assert/strict");

const FUTURE = 1_000_000;
/** The request of a method is named after it, but for these. */
const NAMED_OTHERWISE = { setKey: "Set", deleteKey: "Delete", setFaultInjection: "FaultInjection" };
const FAMILY = { column_family: "interop" };

/** Bytes of a text or of numbers, one after the other. */
function bytes(...parts) {
  return Buffer.concat(parts.map((part) => (typeof part === "number" ? Buffer.from([part]) : Buffer.from(part))));
}

function stamp(version, counter = 0) {
  const buffer = Buffer.alloc(10);
  buffer.writeBigUInt64BE(BigInt(version));
  buffer.writeUInt16BE(counter, 8);
  return buffer;
}

function succeeded(response) {
  assert.notEqual(response.success, false, response.error);
  // An empty text counts as a failure in existing clients: absent is absent.
  assert.equal(response.error, null);
  return response;
}

/** `code` counts where the reply has a field for it: those of a legacy client often have none. */
function failed(response, text, code) {
  assert.ok(!response.success, "it should have failed");
  assert.ok(response.error?.includes(text), `${response.error} should contain ${text}`);
  if (code !== undefined && response.error_code !== undefined) {
    assert.equal(response.error_code, code, response.error);
  }
  return response;
}

const keys = (response) => response.key_values.map((row) => row.key);
const rows = (response) => response.key_values.map((row) => [row.key, row.value]);

/** A connection to each server; every call goes to the next one. */
class Kv {
  /** `token`: that of all clients, or undefined without authentication. */
  constructor(clients, types, nodes, token) {
    this.token = token;
    this.clients = clients;
    this.types = types;
    this.nodes = nodes;
    this.calls = 0;
  }

  next() {
    this.calls += 1;
    return this.clients[this.calls % this.clients.length];
  }

  /** The same by a single one of the connections. */
  one() {
    return new Kv([this.next()], this.types, this.nodes, this.token);
  }

  /** `call("getRange", fields)` */
  call(method, fields = {}) {
    const name = NAMED_OTHERWISE[method] ?? method[0].toUpperCase() + method.slice(1);
    return this.next()[method](new this.types[`${name}Request`](fields));
  }

  async put(key, value = "x", fields = {}) {
    succeeded(await this.call("setKey", { key, value: bytes(value), ...fields }));
  }

  async delete(key) {
    succeeded(await this.call("deleteKey", { key }));
  }

  /** The value, or null where there is none. */
  async get(key, fields = {}) {
    return valueOf(await this.call("get", { key, ...fields }));
  }

  async snapshotGet(key, read_version) {
    return valueOf(await this.call("snapshotGet", { key, read_version }));
  }

  async version() {
    return Number(succeeded(await this.call("getReadVersion")).read_version);
  }

  /** `operations`: [type, key, value, further fields]. */
  commit(operations, read_version = 0, read_conflict_keys = [], fields = {}) {
    operations = operations.map(
      ([type, key, value, more]) =>
        new this.types.Operation({ type, key, ...(value === undefined ? {} : { value: bytes(value) }), ...more }),
    );
    return this.call("atomicCommit", { read_version, operations, read_conflict_keys, ...fields });
  }

  /** Succeeds; gives the committed version. */
  async commitAll(operations) {
    return Number(succeeded(await this.commit(operations)).committed_version);
  }

  async range(begin_key, end_key, fields = {}) {
    return succeeded(await this.call("getRange", { begin_key, end_key, ...fields }));
  }

  async snapshotRange(read_version, begin_key, end_key, fields = {}) {
    return succeeded(await this.call("snapshotGetRange", { read_version, begin_key, end_key, ...fields }));
  }
}

function valueOf(response) {
  succeeded(response);
  if (!response.found) {
    assert.equal(response.value.length, 0);
    return null;
  }
  return response.value;
}

/** Compares a value that was read with text or bytes; null: there is none. */
function same(value, expected) {
  assert.deepEqual(value, expected === null ? null : bytes(expected));
}

module.exports = { FAMILY, FUTURE, Kv, bytes, failed, keys, rows, same, stamp, succeeded };
