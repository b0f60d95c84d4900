// Real servers for the journeys: processes of their own, on ports of this machine.

import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const PATIENCE_MS = 60_000;

/** Ports that nobody uses now. */
async function freePorts(many) {
  const servers = await Promise.all(Array.from({ length: many }, () => new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(0, "127.0.0.1", () => done(server));
  })));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
  return ports;
}

/** Asks until the answer is right. */
export async function until(what, check) {
  const end = Date.now() + PATIENCE_MS;
  let last;
  while (Date.now() < end) {
    try {
      const answer = await check();
      if (answer) return answer;
    } catch (error) {
      last = error;
    }
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`not in time: ${what}${last ? ` (${last.message})` : ""}`);
}

export class Cluster {
  /** `replicas` processes; 0: a standalone server. `settings` are environment variables. */
  static async start(program, { replicas = 0, settings = {} } = {}) {
    const cluster = new Cluster();
    cluster.program = program;
    cluster.settings = settings;
    cluster.folder = await mkdtemp(join(tmpdir(), "synodkv-console-"));
    cluster.processes = new Map();
    const ports = await freePorts(3 * Math.max(1, replicas));
    cluster.servers = Array.from({ length: Math.max(1, replicas) }, (_, id) => {
      const [peer, thrift, admin] = ports.slice(3 * id).map((port) => `127.0.0.1:${port}`);
      return { id, peer, thrift, admin };
    });
    const entry = ({ id, peer, thrift, admin }) => `[[replication.replicas]]\nid = ${id}\npeer = "${peer}"\nthrift = "${thrift}"\nadmin = "${admin}"\n`;
    cluster.isReplicated = replicas > 0;
    await writeFile(join(cluster.folder, "synodkv.toml"), cluster.isReplicated ? cluster.servers.map(entry).join("") : "");
    for (const { id } of cluster.servers) cluster.run(id);
    await cluster.ready().catch(async (error) => { await cluster.close(); throw error; });
    return cluster;
  }

  run(id) {
    const { thrift, admin } = this.servers[id];
    const own = this.isReplicated ? ["--node-id", String(id)] : ["--thrift-addr", thrift, "--admin-addr", admin];
    const flags = ["serve", "--config", join(this.folder, "synodkv.toml"), "--data-dir", join(this.folder, `data-${id}`), "--log-level", "warn"];
    const environment = { ...process.env, SYNODKV_STORAGE_MIN_FREE_MB: "0", ...this.settings };
    const child = spawn(this.program, [...flags, ...own], { env: environment, stdio: ["ignore", "ignore", "pipe"] });
    child.stderr.on("data", (text) => { child.log = `${child.log ?? ""}${text}`.slice(-4000); });
    this.processes.set(id, child);
  }

  async stop(id) {
    const child = this.processes.get(id);
    if (!child) return;
    this.processes.delete(id);
    const ended = child.exitCode !== null ? null : new Promise((done) => child.once("exit", done));
    child.kill("SIGKILL");
    await ended;
  }

  url(id = 0) {
    return `http://${this.servers[id].admin}`;
  }

  async status(id = 0, token = null) {
    const answer = await fetch(`${this.url(id)}/status`, { headers: token ? { authorization: `Bearer ${token}` } : {} });
    return answer.json();
  }

  ready() {
    return until("a server that answers reads", async () => {
      for (const [id, child] of this.processes) {
        if (child.exitCode !== null) throw new Error(`server ${id} ended: ${child.log}`);
        if (!(await fetch(`${this.url(id)}/health/ready`)).ok) return false;
      }
      return true;
    });
  }

  async primary() {
    return until("a primary", async () => {
      const { primary } = await this.status([...this.processes.keys()][0]);
      return primary === null || primary === undefined ? null : { id: primary };
    }).then(({ id }) => id);
  }

  /** Runs a command of the program against this cluster. */
  async command(...words) {
    const servers = this.servers.filter(({ id }) => this.processes.has(id));
    const environment = {
      ...process.env, SYNODKV_ADDR: servers.map(({ thrift }) => thrift).join(","), SYNODKV_ADMIN: servers.map(({ admin }) => admin).join(","),
    };
    const { stdout } = await run(this.program, words, { env: environment });
    return stdout.trim();
  }

  /** Runs a line as a shell would, with this program as `synodkv`. */
  async shell(line) {
    const { stdout } = await run("/bin/sh", ["-c", `synodkv() { "$PROGRAM" "$@"; }; ${line}`], { env: { ...process.env, PROGRAM: this.program } });
    return stdout.trim();
  }

  /** A file in the folder of this cluster; returns its path. */
  async file(name, text) {
    const path = join(this.folder, name);
    await writeFile(path, text);
    return path;
  }

  /** Writes rows in one transaction: an object of keys and values, as text. */
  async write(rows, family = "") {
    const lines = Object.entries(rows).map(([key, value]) => `set ${key} '${value}'${family ? ` --family ${family}` : ""}`);
    return this.command("txn", await this.file("rows.txn", lines.join("\n")));
  }

  async close() {
    for (const id of [...this.processes.keys()]) await this.stop(id);
    await rm(this.folder, { recursive: true, force: true });
  }
}
