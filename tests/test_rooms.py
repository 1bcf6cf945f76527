"""Imports run down the list of rooms: a line in the wrong room is said with its file and line."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import compfast

PACKAGE = Path(compfast.__file__).parent

# From the lowest up; rooms that share a line may import each other's files, never in a circle.
ROOMS = (
    ("errors", "_native", "_cuda"),
    ("config",),
    ("streams",),
    ("tasks",),
    ("models",),
    ("ensembles",),
    ("engines", "ops"),
    ("solutions",),
    ("storage",),
    ("runs",),
    ("training",),
    ("report", "analysis", "export"),
    ("cluster",),
    ("cli",),
    (
        "ensemble",
        "doctor",
        "merging",
        "watch",
        "report.__main__",
        "analysis.__main__",
        "__init__",
        "__main__",
    ),
)
# A door up, asked for when it is called: run.probe(...) is analysis.probe(run, ...).
DOORS = {("runs.reading", "analysis")}
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def test_every_file_has_a_room() -> None:
    for name in _files():
        assert _room(name) in FLOOR, f"{name} is in no room of the list"


def test_no_import_runs_up() -> None:
    wrong = [
        f"{source}:{line} imports {target}"
        for source, path in _files().items()
        for target, line in _imports(path)
        if FLOOR[_room(target)] > FLOOR[_room(source)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_in_a_circle() -> None:
    graph = {
        name: {target for target, _ in _imports(path)} - {name} for name, path in _files().items()
    }
    done: set[str] = set()
    for start in graph:
        _walk(start, graph, [], done)


def _walk(name: str, graph: dict[str, set[str]], trail: list[str], done: set[str]) -> None:
    assert name not in trail, f"a circle: {' -> '.join([*trail[trail.index(name) :], name])}"
    if name in done:
        return
    for target in sorted(graph.get(name, ())):
        _walk(target, graph, [*trail, name], done)
    done.add(name)


@functools.cache
def _files() -> dict[str, Path]:
    """Module -> file; a package's own file goes by the package's name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__" or len(parts) == 1)] = path
    return found


def _room(module: str) -> str:
    return module if module in FLOOR else module.partition(".")[0]


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of this package that a file imports when it runs, wherever it says so."""
    known = _files()
    own = next(name for name, file in known.items() if file == path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        top, _, module = node.module.partition(".")
        if top != "compfast" or (own, module) in DOORS:
            continue
        for alias in node.names:
            inner = f"{module}.{alias.name}".lstrip(".")
            if inner in known or inner in FLOOR:
                yield inner, node.lineno
            else:
                yield module or "__init__", node.lineno
