"""The table of edges in docs/faults.md names every case that a test holds to, and no other."""

from __future__ import annotations

import ast
from pathlib import Path

from edges import HEADER

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "faults.md"


def marked() -> set[tuple[str, str]]:
    """(given, outcome) of every `edge` mark in the tests."""
    found = set()
    for path in HERE.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.edge":
                given, outcome = (ast.literal_eval(argument) for argument in node.args)
                found.add((given, outcome))
    return found


def listed() -> set[tuple[str, str]]:
    """(given, outcome) of every row of the page's table, each row with all its tests held."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = []
    for line in lines[lines.index(HEADER[0]) + 2 :]:
        if not line.startswith("|"):
            break
        given, outcome, held = (cell.strip() for cell in line.strip("|").split(" | "))
        held_tests, _, all_tests = held.partition(" of ")
        assert held_tests == all_tests != "0", line
        rows.append((given, outcome))
    assert rows == sorted(set(rows))
    return set(rows)


def test_the_page_lists_every_edge() -> None:
    assert listed() == marked()
    assert len(marked()) > 25
