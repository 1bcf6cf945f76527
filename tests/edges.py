"""The edges of the first hour as a table: what a user's values, machine and process do to a run.

    python tests/edges.py             # runs every case and prints the table of docs/faults.md
    python tests/edges.py -k signal   # some of them; other arguments go to pytest too

A case is a test marked `@pytest.mark.edge(given, outcome)`: two short texts, the row of the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HEADER = ["| given | outcome | held |", "|---|---|---|"]


class Collector:
    """A pytest plugin that keeps a row a case: given, outcome, tests that held of all."""

    def __init__(self) -> None:
        self.marks: dict[str, list[tuple[str, str]]] = {}
        self.held: dict[tuple[str, str], list[bool]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            rows = [
                (given, outcome) for given, outcome in (m.args for m in item.iter_markers("edge"))
            ]
            self.marks[item.nodeid] = rows

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            for row in self.marks.get(report.nodeid, ()):
                self.held.setdefault(row, []).append(report.passed)

    def rows(self) -> list[str]:
        return [
            f"| {given} | {outcome} | {sum(held)} of {len(held)} |"
            for (given, outcome), held in sorted(self.held.items())
        ]


def main(arguments: list[str]) -> int:
    collector = Collector()
    code = pytest.main(["-q", "-m", "edge", str(HERE), *arguments], plugins=[collector])
    print("\n".join([*HEADER, *collector.rows()]))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
