"""Processes of a benchmark: starting them, ending them, and reading what they cost from /proc."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """Ends the program with this text, without a traceback."""


def _die_with_parent():
    """Runs in the child: no server outlives the benchmark, however that ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(command, log, cpu_quota=None, **options):
    """Starts a process whose output goes to the file `log`."""
    if cpu_quota:
        command = cpu_quota.wrap(command)
    with open(log, "ab") as output:
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                preexec_fn=_die_with_parent, **options)


def stop(processes, patience=10):
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count):
    """Ports on which nothing listens now. They are distinct."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def require(program, package):
    if not shutil.which(program):
        raise Failure(f"`{program}` is not installed. On Debian: apt-get install {package}")


def work_folder(parent):
    """A new folder for data directories. The caller removes it."""
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    kind = subprocess.run(["stat", "-f", "-c", "%T", parent], capture_output=True, text=True, check=False).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        raise Failure(f"{parent} is in memory ({kind}), where a synchronisation costs nothing; choose another with --dir")
    return Path(tempfile.mkdtemp(prefix="bench.", dir=parent))


class Cost:
    """What a group of processes has used so far."""

    def __init__(self, pids):
        self.cpu_seconds = sum(_cpu_seconds(pid) for pid in pids)
        self.switches_by_thread = {}
        for pid in pids:
            self.switches_by_thread.update(_switches(pid))

    def since(self, before):
        """(CPU seconds, context switches) between two readings. Switches of threads that ended are missing."""
        switches = sum(count - before.switches_by_thread.get(thread, 0)
                       for thread, count in self.switches_by_thread.items())
        return self.cpu_seconds - before.cpu_seconds, switches


def _cpu_seconds(pid):
    """utime + stime, and those of children that have ended (Redis rewrites its file in one)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2:].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def _switches(pid):
    counts = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            lines = (thread / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        counts[thread.name] = sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return counts


class PerfSyncs:
    """Counts the calls of fsync and fdatasync by `perf stat`: the same for every system."""

    EVENTS = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync"

    def __init__(self, pids):
        self.control_read, self.control_write = os.pipe()
        self.ack_read, self.ack_write = os.pipe()
        command = ["perf", "stat", "-x", ",", "-e", self.EVENTS, "-p", ",".join(map(str, pids)), "-D", "-1",
                   "--control", f"fd:{self.control_read},{self.ack_write}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True,
                                        stderr=subprocess.PIPE, pass_fds=(self.control_read, self.ack_write))
        os.close(self.control_read)
        os.close(self.ack_write)

    @staticmethod
    def check():
        """Raises Failure where perf cannot count."""
        require("perf", "linux-perf")
        command = ["perf", "stat", "-e", PerfSyncs.EVENTS, "true"]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode != 0 or "<not supported>" in tried.stderr or "<not counted>" in tried.stderr:
            raise Failure("--perf: perf cannot count system calls here; it needs root and tracefs:\n" + tried.stderr.strip())

    def begin(self):
        self._tell(b"enable\n")

    def end(self):
        """Stops counting and returns the number of synchronisations."""
        self._tell(b"disable\n")
        self.process.send_signal(signal.SIGINT)
        _, text = self.process.communicate(timeout=30)
        os.close(self.control_write)
        os.close(self.ack_read)
        counts = [line.split(",")[0] for line in text.splitlines() if "sys_enter_f" in line]
        if len(counts) != 2:
            raise Failure(f"perf stat printed no counts:\n{text}")
        return sum(int(count) for count in counts)

    def _tell(self, word):
        os.write(self.control_write, word)
        if not os.read(self.ack_read, 64).startswith(b"ack"):
            raise Failure("perf stat does not answer:\n" + self.process.communicate(timeout=5)[1])
