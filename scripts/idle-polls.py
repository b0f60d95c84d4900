#!/usr/bin/env python3
"""What thousands of polls for changes cost a server while nothing changes.

    scripts/idle-polls.py --synodkv PROGRAM [--polls 10000] [--seconds 60] [--wait-ms 30000]

Starts a standalone server on ports that the system gives out, with an empty directory. Each poll has a connection and a
range of its own, and is sent again as soon as it is answered. Prints the processor time of the server, as a part of one
processor, without any poll and with all of them; then the time from a write that concerns all of them until each has
been told of it. The limit for open files must be above the number of polls
(`ulimit -n`).
"""

import argparse
import os
import resource
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def field(kind, number):
    return struct.pack(">bh", kind, number)


def string(text):
    return struct.pack(">i", len(text)) + text


def call(name, request):
    """A framed message in the binary protocol, with one argument."""
    message = struct.pack(">I", 0x80010001) + string(name) + struct.pack(">i", 1)
    message += field(12, 1) + request + b"\0\0"
    return struct.pack(">i", len(message)) + message


def poll_call(after, begin, end, wait_ms):
    change_range = field(11, 2) + string(begin) + field(11, 3) + string(end) + b"\0"
    ranges = field(15, 2) + struct.pack(">bi", 12, 1) + change_range
    return call(b"pollChanges", field(10, 1) + struct.pack(">q", after) + ranges + field(8, 3) + struct.pack(">i", wait_ms))


class Poll:
    def __init__(self, port, number, wait_ms):
        # The ranges end at the same key, so that a write just before it concerns all of them.
        self.begin, self.wait_ms = b"a/%06d" % number, wait_ms
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.input, self.after, self.answers, self.changes = b"", 1, 0, 0

    def send(self, end):
        self.end = end
        self.socket.sendall(poll_call(self.after, self.begin, end, self.wait_ms))

    def receive(self):
        """Takes what has come; true when an answer is complete."""
        read = self.socket.recv(65536)
        if not read:
            raise SystemExit("the server closed a connection")
        self.input += read
        length = struct.unpack(">i", self.input[:4])[0] if len(self.input) >= 4 else 1 << 30
        if len(self.input) < 4 + length:
            return False
        reply, self.input = self.input[4:4 + length], self.input[4 + length:]
        at = 8 + len(b"pollChanges") + 4
        # The result: field 0, a struct; in it field 1, whether it succeeded, then the list of changes.
        expected = field(12, 0) + field(2, 1) + b"\1"
        if reply[3] != 2 or not reply[at:].startswith(expected):
            raise SystemExit(f"a poll failed: {reply[:300]!r}")
        at += len(expected)
        assert reply[at:at + 3] == field(15, 3), reply[:300]
        self.answers += 1
        self.changes += struct.unpack(">i", reply[at + 4:at + 8])[0]
        if reply[at + 4:at + 8] == b"\0\0\0\0":
            assert reply[at + 8:at + 11] == field(10, 4), reply[:300]
            self.after = struct.unpack(">q", reply[at + 11:at + 19])[0]
        return True


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(selector, seconds, done=lambda poll: False, again=True):
    """Answers come for so long, or until `done` says that of one of them."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            poll = key.data
            if poll.receive():
                if done(poll):
                    return
                if again:
                    poll.send(poll.end)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synodkv", required=True, help="the program")
    parser.add_argument("--polls", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=60, help="for each of the two measurements")
    parser.add_argument("--wait-ms", type=int, default=30_000, help="max_wait_ms of a poll")
    arguments = parser.parse_args()
    needed = arguments.polls + 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(f"the limit for open files is {hard}, and {needed} are needed: raise it (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        thrift, admin = free_port(), free_port()
        environment = dict(os.environ, SYNODKV_SERVER_MAX_CONNECTIONS=str(arguments.polls + 100),
                           SYNODKV_CHANGES_MAX_POLLS=str(arguments.polls + 100))
        command = [arguments.synodkv, "serve", "--mode", "standalone", "--thrift-addr", f"127.0.0.1:{thrift}",
                   "--admin-addr", f"127.0.0.1:{admin}", "--data-dir", f"{folder}/data"]
        log = open(f"{folder}/log", "w")
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            measure(arguments, server.pid, thrift)
        except (SystemExit, OSError):
            sys.stderr.write(Path(f"{folder}/log").read_text()[-3000:])
            raise
        finally:
            server.terminate()
            server.wait()


def measure(arguments, pid, port):
    def cli(*words):
        subprocess.run([arguments.synodkv, *words, "--addr", f"127.0.0.1:{port}"], check=True, stdout=subprocess.DEVNULL)

    def share(seconds, before):
        return 100 * (cpu_seconds(pid) - before) / seconds

    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    cli("set", "first", "1")
    before = cpu_seconds(pid)
    time.sleep(arguments.seconds)
    idle = share(arguments.seconds, before)
    resident = memory_bytes(pid)
    selector = selectors.DefaultSelector()
    polls = [Poll(port, number, arguments.wait_ms) for number in range(arguments.polls)]
    for poll in polls:
        selector.register(poll.socket, selectors.EVENT_READ, poll)
        poll.send(b"a/~")
    # All of them wait, and are spread over the time of a wait as they were sent.
    run(selector, 2)
    answers, before = sum(poll.answers for poll in polls), cpu_seconds(pid)
    run(selector, arguments.seconds)
    busy, answers = share(arguments.seconds, before), sum(poll.answers for poll in polls) - answers
    memory = (memory_bytes(pid) - resident) / arguments.polls
    print(f"without polls: {idle:.2f} % of a processor")
    print(f"{arguments.polls} polls that wait {arguments.wait_ms} ms: {busy:.2f} % of a processor, {answers} of them "
          f"answered in {arguments.seconds} s, {memory / 1024:.1f} KiB of memory each")
    told = set()

    def count(poll):
        if poll.changes:
            told.add(poll)
        return len(told) == arguments.polls

    begun = time.monotonic()
    cli("set", "a/999999", "x")
    run(selector, 60, done=count, again=False)
    print(f"a write that concerns all: {len(told)} polls told of it after {1000 * (time.monotonic() - begun):.0f} ms, the "
          "command included")
    if len(told) != arguments.polls:
        raise SystemExit(f"{arguments.polls - len(told)} polls were not told")


main()
