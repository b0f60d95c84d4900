"""The table at the end of a run: client by transport and mode, steps passed and failed."""

from collections import defaultdict
from dataclasses import dataclass

import pytest
from server import MODES


@dataclass
class Count:
    passed: int = 0
    failed: int = 0

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed"


class Results:
    """A pytest plugin that counts steps."""

    def __init__(self):
        # (mode, kind of client): Count
        self._counts = defaultdict(Count)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        parameters = getattr(item, "callspec", None) and item.callspec.params
        if parameters and "program" in parameters and call.when == "call":
            self._count_program(parameters, report, dict(report.user_properties).get("outcome"))
        elif parameters and "client" in parameters and (call.when == "call" or report.failed):
            self._count_step(self._counts[parameters["server"], parameters["client"]], report)
        return report

    def _count_step(self, count, report):
        count.passed += report.passed
        count.failed += report.failed

    def _count_program(self, parameters, report, outcome):
        count = self._counts[parameters["server"], parameters["program"]]
        if outcome is not None:
            count.passed += len(outcome.passed)
            count.failed += len(outcome.failed)
        # It has failed as a whole: it could not be run, or did other steps than the scenario has.
        if report.failed and not count.failed:
            count.failed += 1

    def pytest_terminal_summary(self, terminalreporter):
        modes = [mode for mode in MODES if any(mode == counted for counted, _ in self._counts)]
        kinds = sorted({kind for _, kind in self._counts}, key=str)
        if not kinds:
            return
        table = [["client", *modes]]
        table += [[str(kind), *(str(self._counts.get((mode, kind), "-")) for mode in modes)] for kind in kinds]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        terminalreporter.section("steps of the scenario: client-interface-protocol-transport by mode")
        for row in table:
            terminalreporter.line("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
