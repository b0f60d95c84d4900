// Goes through the scenario of SCENARIO.md with the npm package `thrift` and what the compiler made by js:node,es6. See
// programs.py for how it is called and what it prints.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { parseArgs } = require("node:util");
const thrift = require("thrift");

const { Kv, succeeded } = require("./kv");

const GENERATED = path.join(__dirname, "generated");
const PROTOCOLS = { binary: thrift.TBinaryProtocol, compact: thrift.TCompactProtocol };
const TRANSPORTS = { buffered: thrift.TBufferedTransport, framed: thrift.TFramedTransport };
const LEGACY_PART = ["./single_keys", "./versions_and_commits", "./ranges", "./stamps_and_the_rest"];

// The compiler names its file after the interface file.
const isLegacy = fs.existsSync(path.join(GENERATED, "legacy_types.js"));
const service = require(path.join(GENERATED, "TransactionalKV"));
const types = require(path.join(GENERATED, isLegacy ? "legacy_types" : "kvstore_types"));

function one(choices, name, value) {
  if (!Object.hasOwn(choices, value)) {
    throw new Error(`--${name} ${value}; allowed: ${Object.keys(choices).join(", ")}`);
  }
  return choices[value];
}

function connect(address, options) {
  const [host, port] = address.split(":");
  const create = options.ca === undefined ? thrift.createConnection : thrift.createSSLConnection;
  const connection = create(host, Number(port), options);
  return new Promise((resolve, reject) => {
    connection.once("error", reject);
    connection.once("connect", () => resolve(connection));
  });
}

async function run(steps, kv, prefix) {
  let failures = 0;
  for (const [number, [name, step]] of steps.entries()) {
    const key = Buffer.concat([Buffer.from(prefix), Buffer.from([0x00, 0xff]), Buffer.from(`${number}/`)]);
    try {
      await step(kv, key);
      console.log(`ok ${name}`);
    } catch (error) {
      failures += 1;
      console.log(`FAILED ${name}: ${String(error.stack ?? error).replaceAll("\n", " | ")}`);
    }
  }
  return failures;
}

async function main() {
  const names = ["addresses", "protocol", "transport", "prefix", "nodes", "ca", "token", "cert", "key"];
  const { values } = parseArgs({ options: Object.fromEntries(names.map((name) => [name, { type: "string" }])) });
  const read = (file) => (file === undefined ? undefined : fs.readFileSync(file));
  const options = {
    protocol: one(PROTOCOLS, "protocol", values.protocol),
    transport: one(TRANSPORTS, "transport", values.transport),
    ca: read(values.ca),
    cert: read(values.cert),
    key: read(values.key),
    // Otherwise the library offers TLS 1.2 at most.
    secureProtocol: "TLS_method",
  };
  const connections = await Promise.all(values.addresses.split(",").map((address) => connect(address, options)));
  const clients = connections.map((connection) => thrift.createClient(service, connection));
  if (values.token !== undefined) {
    for (const client of clients) {
      succeeded(await client.authenticate(new types.AuthenticateRequest({ token: values.token })));
    }
  }
  const kv = new Kv(clients, types, Number(values.nodes), values.token);
  const parts = isLegacy ? LEGACY_PART : [...LEGACY_PART, "./extensions"];
  const failures = await run(parts.flatMap((part) => Object.entries(require(part))), kv, values.prefix);
  for (const connection of connections) {
    connection.end();
  }
  process.exitCode = failures === 0 ? 0 : 1;
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 2;
});
