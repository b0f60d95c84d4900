"""A limit on the CPU of each server process, by control groups."""

import os
from pathlib import Path

from procs import Failure

PERIOD_US = 100_000
V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")


class CpuQuota:
    """Gives each process that is started through it a control group of its own with `cpus` processors."""

    def __init__(self, cpus):
        if not 0.01 <= cpus <= 1024:
            raise Failure(f"--cpu-quota {cpus}: expected a number of processors such as 0.4")
        self.cpus, self.groups = cpus, []
        self.is_v2 = (V2 / "cgroup.controllers").exists()
        self.root = V2 if self.is_v2 else V1
        if os.geteuid() != 0:
            raise Failure("--cpu-quota needs root, because it makes control groups")
        try:
            self._check()
        except OSError as error:
            raise Failure(f"--cpu-quota: control groups cannot limit the CPU here: {error}") from error

    def _check(self):
        if self.is_v2:
            if "cpu" not in (V2 / "cgroup.controllers").read_text().split():
                raise Failure(f"--cpu-quota: {V2} has no CPU controller (cgroup v2, cgroup.controllers)")
            (V2 / "cgroup.subtree_control").write_text("+cpu")
        elif not (V1 / "cpu.shares").exists():
            raise Failure(f"--cpu-quota: neither cgroup v2 at {V2} nor the CPU controller of v1 at {V1} is mounted")
        self._make()

    def _make(self):
        group = self.root / f"synodkv-bench-{os.getpid()}-{len(self.groups)}"
        group.mkdir()
        self.groups.append(group)
        quota = int(self.cpus * PERIOD_US)
        if self.is_v2:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        return group

    def wrap(self, command):
        """The command that enters a new group first, so that no thread starts outside it."""
        group = self._make()
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', group / "cgroup.procs", *command]

    def remove(self):
        """Removes the groups. Their processes must have ended."""
        for group in self.groups:
            try:
                group.rmdir()
            except OSError as error:
                print(f"warning: {group} remains: {error}")
        self.groups = []
