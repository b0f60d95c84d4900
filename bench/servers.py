"""The systems under test: how to start each on loopback, how to find its leader, and how it counts synchronisations.

A system is started in a folder of its own, with ports of its own, and serves when `start` returns. Settings are the
defaults of each system, except for addresses, directories and what is said beside them.
"""

import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import procs
from procs import Failure

START_PATIENCE = 60
ZOOKEEPER_JAR = Path("/usr/share/java/zookeeper.jar")


class System:
    """One group of server processes."""

    name = "?"
    # The source of `syncs`, for the reader.
    syncs_source = "n/a"

    def __init__(self, folder, cpu_quota=None):
        self.folder, self.cpu_quota = Path(folder), cpu_quota
        self.processes, self.logs = [], []
        # Client addresses, one for each process.
        self.addresses = []

    def start(self):
        self.folder.mkdir(parents=True)
        try:
            self.launch()
            self.wait_until("it serves", self.is_ready)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        procs.stop(self.processes)
        self.processes = []

    def run(self, *command, **options):
        log = self.folder / f"log-{len(self.processes)}"
        self.logs.append(log)
        self.processes.append(procs.start(command, log, self.cpu_quota, **options))

    def pids(self):
        return [process.pid for process in self.processes]

    def wait_until(self, what, condition):
        ends_at = time.monotonic() + START_PATIENCE
        while not condition():
            self.check_alive()
            if time.monotonic() > ends_at:
                raise Failure(f"{self.name}: waited {START_PATIENCE} s until {what}\n{self.log_ends()}")
            time.sleep(0.1)

    def check_alive(self):
        for process in self.processes:
            if process.poll() is not None:
                raise Failure(f"{self.name}: a server ended with status {process.returncode}\n{self.log_ends()}")

    def log_ends(self):
        return "\n".join(f"{log}:\n{log.read_text(errors='replace')[-1500:]}" for log in self.logs)

    # What each system implements.

    def launch(self):
        raise NotImplementedError

    def is_ready(self):
        raise NotImplementedError

    def leader(self):
        """Index of the address that leads; 0 where there is only one."""
        return 0

    def counters(self):
        """Counters that only rise: `syncs`, all processes together, and others of the system's own."""
        return {}

    def targets(self, which):
        return self.addresses if which == "all" else [self.addresses[self.leader()]]


def http_get(url):
    with urllib.request.urlopen(url, timeout=5) as reply:
        return reply.read().decode()


def metric(text, name):
    """The sum of all samples of a metric in Prometheus' text format; `None` if there are none."""
    samples = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.M)
    return sum(map(float, samples)) if samples else None


class Synodkv(System):
    """What the three forms of our server share."""

    syncs_source = "synodkv_fsyncs_total"

    def __init__(self, binary, folder, cpu_quota=None):
        super().__init__(folder, cpu_quota)
        self.binary, self.admin = binary, []

    def serve(self, index, *arguments):
        self.run(self.binary, "serve", "--data-dir", self.folder / f"data-{index}", "--log-level", "warn", *arguments)

    def is_ready(self):
        if not all(re.search(r"^ready", log.read_text(errors="replace"), re.M) for log in self.logs):
            return False
        done = subprocess.run([self.binary, "set", "--addr", ",".join(self.addresses), "first", "write"],
                              capture_output=True, check=False)
        return done.returncode == 0

    def metrics(self):
        return [http_get(f"http://{admin}/metrics") for admin in self.admin]

    def leader(self):
        for index, text in enumerate(self.metrics()):
            if metric(text, "synodkv_is_primary") == 1:
                return index
        return 0

    def counters(self):
        texts = self.metrics()
        counters = {
            "syncs": total(metric(text, "synodkv_fsyncs_total") for text in texts),
            "executed": total(metric(text, "synodkv_requests_executed_total") for text in texts),
            "entries": total(most_values(text) for text in texts),
        }
        return {name: value for name, value in counters.items() if value is not None}


def most_values(text):
    """Values of the log that were applied: the last bucket of the cumulative count, for each replica."""
    buckets = re.findall(r'^synodkv_batch_size_values_total{([^}]*)} (\S+)$', text, re.M)
    largest = {}
    for labels, value in buckets:
        replica = re.search(r'replica="(\d+)"', labels)
        key = replica[1] if replica else ""
        largest[key] = max(largest.get(key, 0), float(value))
    return sum(largest.values()) if largest else None


def total(numbers):
    numbers = list(numbers)
    return None if None in numbers else sum(numbers)


class Cluster(Synodkv):
    name = "synodkv"

    def launch(self):
        ports = procs.free_ports(9)
        lines = ['mode = "replicated"']
        for index in range(3):
            peer, thrift, admin = (f"127.0.0.1:{port}" for port in ports[3 * index:3 * index + 3])
            self.addresses.append(thrift)
            self.admin.append(admin)
            lines += ["[[replication.replicas]]", f"id = {index}", f'peer = "{peer}"', f'thrift = "{thrift}"',
                      f'admin = "{admin}"']
        config = self.folder / "cluster.toml"
        config.write_text("\n".join(lines) + "\n")
        for index in range(3):
            self.serve(index, "--config", config, "--node-id", index)


class SingleProcess(Synodkv):
    """All of the server in one process, which has one address."""

    def launch(self):
        thrift, admin, *peers = (f"127.0.0.1:{port}" for port in procs.free_ports(5))
        self.addresses, self.admin = [thrift], [admin]
        self.serve(0, "--thrift-addr", thrift, "--admin-addr", admin, *self.mode(peers))


class Standalone(SingleProcess):
    name = "standalone"
    syncs_source = "n/a"

    def mode(self, _peers):
        return ["--mode", "standalone"]


class OneProcess(SingleProcess):
    name = "one-process"

    def mode(self, peers):
        config = self.folder / "replicas.toml"
        replicas = (f'[[replication.replicas]]\nid = {index}\npeer = "{peer}"\n' for index, peer in enumerate(peers))
        config.write_text('mode = "replicated"\n' + "".join(replicas))
        return ["--config", config]


class Etcd(System):
    name = "etcd"
    # A commit of its database synchronises twice, but happens only every 100 ms or 10,000 writes.
    syncs_source = "etcd_disk_wal_fsync_duration_seconds_count + 2 × etcd_disk_backend_commit_duration_seconds_count"

    @staticmethod
    def check():
        procs.require("etcd", "etcd-server")

    def launch(self):
        ports = procs.free_ports(6)
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:3]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
        members = ",".join(f"e{index}={peer}" for index, peer in enumerate(peers))
        for index, (address, peer) in enumerate(zip(self.addresses, peers)):
            self.run("etcd", "--name", f"e{index}", "--data-dir", self.folder / f"data-{index}",
                     "--listen-client-urls", f"http://{address}", "--advertise-client-urls", f"http://{address}",
                     "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                     "--initial-cluster", members, "--initial-cluster-state", "new", "--log-level", "warn",
                     # The default of 2 GiB would refuse writes in a long run.
                     "--quota-backend-bytes", 8 << 30)

    def metrics(self):
        return [http_get(f"http://{address}/metrics") for address in self.addresses]

    def is_ready(self):
        try:
            texts = self.metrics()
        except (OSError, urllib.error.URLError):
            return False
        return all(metric(text, "etcd_server_has_leader") == 1 for text in texts)

    def leader(self):
        leads = [metric(text, "etcd_server_is_leader") == 1 for text in self.metrics()]
        return leads.index(True) if True in leads else 0

    def counters(self):
        texts = self.metrics()
        log = total(metric(text, "etcd_disk_wal_fsync_duration_seconds_count") for text in texts)
        database = total(metric(text, "etcd_disk_backend_commit_duration_seconds_count") for text in texts)
        return {} if log is None or database is None else {"syncs": log + 2 * database}


class ZooKeeper(System):
    name = "zookeeper"
    syncs_source = "zk_cnt_fsynctime"

    @staticmethod
    def check():
        procs.require("java", "default-jre-headless zookeeper")
        if not ZOOKEEPER_JAR.exists():
            raise Failure(f"ZooKeeper is not installed ({ZOOKEEPER_JAR}). On Debian: apt-get install zookeeper")

    def launch(self):
        ports = procs.free_ports(9)
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:3]]
        members = "".join(f"server.{index + 1}=127.0.0.1:{ports[3 + index]}:{ports[6 + index]}\n" for index in range(3))
        for index in range(3):
            home = self.folder / f"data-{index}"
            home.mkdir()
            (home / "myid").write_text(f"{index + 1}\n")
            config = home / "zoo.cfg"
            config.write_text(
                f"tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={home}\nclientPort={ports[index]}\n"
                f"clientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\n"
                f"4lw.commands.whitelist=*\n{members}")
            (home / "log4j.properties").write_text(
                "log4j.rootLogger=WARN, OUT\nlog4j.appender.OUT=org.apache.log4j.ConsoleAppender\n"
                "log4j.appender.OUT.layout=org.apache.log4j.PatternLayout\n"
                "log4j.appender.OUT.layout.ConversionPattern=%d %p %m%n\n")
            # The heap that ZooKeeper's own script gives it.
            self.run("java", "-Xmx1000m", "-cp", f"{home}:{ZOOKEEPER_JAR}",
                     "org.apache.zookeeper.server.quorum.QuorumPeerMain", config)

    def four_letters(self, word):
        replies = []
        for address in self.addresses:
            host, port = address.rsplit(":", 1)
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(word.encode())
                replies.append(b"".join(iter(lambda: connection.recv(65536), b"")).decode())
        return replies

    def modes(self):
        return [re.search(r"^zk_server_state\s+(\w+)$", text, re.M) for text in self.four_letters("mntr")]

    def is_ready(self):
        try:
            return all(mode and mode[1] in ("leader", "follower") for mode in self.modes())
        except OSError:
            return False

    def leader(self):
        return next((index for index, mode in enumerate(self.modes()) if mode and mode[1] == "leader"), 0)

    def counters(self):
        counts = [re.search(r"^zk_cnt_fsynctime\s+(\d+)$", text, re.M) for text in self.four_letters("mntr")]
        return {"syncs": sum(int(count[1]) for count in counts)} if all(counts) else {}


class Redis(System):
    name = "redis"

    @staticmethod
    def check():
        procs.require("redis-server", "redis-server")

    def launch(self):
        port = procs.free_ports(1)[0]
        self.addresses = [f"127.0.0.1:{port}"]
        self.run("redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", self.folder, "--daemonize", "no",
                 "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning")

    def is_ready(self):
        host, port = self.addresses[0].rsplit(":", 1)
        try:
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


OURS = {each.name: each for each in (Cluster, Standalone, OneProcess)}
PEERS = {each.name: each for each in (Etcd, ZooKeeper, Redis)}


def make(name, binary, folder, cpu_quota=None):
    if name in OURS:
        return OURS[name](binary, folder, cpu_quota)
    return PEERS[name](folder, cpu_quota)
