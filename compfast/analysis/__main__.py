"""`compfast analyse RUN`: what the members of a run are made of, as tables and figures.

Exit codes: 0 written, 2 wrong usage, 3 stopped, 4 storage, 1 a bug.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from compfast.analysis.measures import MEASURES
from compfast.analysis.snapshots import steps_of
from compfast.analysis.writing import Progress, analyse
from compfast.cli.flags import Parser
from compfast.cli.outcome import outcome
from compfast.cli.output import Output, duration, occupy_descriptors, printable
from compfast.errors import UsageError
from compfast.runs.reading import Run, load
from compfast.training import interrupts

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_LINE_SECONDS = 30.0  # a plain line at least this often
_MOST = 2**53  # no step is larger


def main(argv: Sequence[str] | None = None, prog: str = "python -m compfast.analysis") -> int:
    """Run the command line; returns the exit code."""

    def body() -> None:
        given = parser(prog).parse_args(argv)
        _analyse(given, Output(given.quiet))

    return outcome(body, "stopped; what was written is whole, and the same command writes the rest")


def parser(prog: str) -> Parser:
    known = "; ".join(
        f"{name}{' (costly)' if own.costly else ''}: {own.says}" for name, own in MEASURES.items()
    )
    flags = Parser(
        prog=prog,
        description="Measure what the members of a run are made of: tables, relations to gamma and"
        " verdicts, predictions of verdicts, and figures, into RUN/analysis.",
        epilog=f"Measures: {known}. Costly ones are taken only where --what names them."
        " Exit codes: 0 written, 2 wrong usage, 3 stopped, 4 storage, 1 a bug.",
        allow_abbrev=False,
    )
    flags.add_argument("run", metavar="RUN", help="a run folder")
    flags.add_argument(
        "--what", metavar="NAME,...", help="measures; default: all cheap ones that the run allows"
    )
    flags.add_argument(
        "--steps",
        metavar="WHICH",
        help="all (default), first, last, or a list such as 0,100: steps whose weights are kept"
        " (run.snapshots), and the newest",
    )
    flags.add_argument("--out", metavar="DIR", help="default: RUN/analysis")
    flags.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return flags


def _analyse(given: argparse.Namespace, output: Output) -> None:
    run = load(given.run)
    what = None if given.what is None else [name.strip() for name in given.what.split(",")]
    with _shown(output) as progress:
        paths = analyse(run, what, _steps(run, given.steps), given.out, progress)
    for path in paths:
        if path.suffix == ".png":
            output.say(str(path))
    output.say(f"{len(paths)} files are in {paths[0].parent}")


def _steps(run: Run, text: str | None) -> list[int] | None:
    """The steps that --steps names; None: all."""
    if text is None or text.strip() == "all":
        return None
    known = steps_of(run)
    if text.strip() in ("first", "last"):
        return [known[0 if text.strip() == "first" else -1]]
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and int(word) < _MOST for word in words):
        raise UsageError(
            f"--steps is {text!r}; it must be all, first, last or a list such as"
            f" {','.join(map(str, known[:2]))}"
        )
    return [int(word) for word in words]


@contextlib.contextmanager
def _shown(output: Output) -> Iterator[Progress]:
    if output.terminal:
        with _Live(output) as live:
            yield live
    else:
        yield _Lines(output)


class _Lines(Progress):
    """A line a measure, and one a while apart in a long one."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._name, self._done, self._total, self._last = "", 0, 0, 0.0

    def begin(self, name: str, total: int) -> None:
        self._name, self._done, self._total, self._last = name, 0, total, time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if self._done >= self._total or now - self._last >= _LINE_SECONDS:
            self._last = now
            many = f": {self._done} of {self._total}" if self._total > 1 else ""
            self._output.say(f"{self._name}{many}")

    def takes(self, name: str, seconds: float) -> None:
        self._output.say(_sentence(name, seconds))

    def say(self, sentence: str) -> None:
        self._output.say(sentence)


class _Live(Progress):
    """A rich bar; a context manager, so that the terminal comes back whole."""

    def __init__(self, output: Output) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar: Bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f} of {task.total:.0f}"),
            TimeRemainingColumn(),
            console=output.console(),
            redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
        )

    def __enter__(self) -> _Live:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def begin(self, name: str, total: int) -> None:
        self._bar.add_task(printable(name), total=total)

    def advance(self, done: int) -> None:
        self._bar.advance(self._bar.task_ids[-1], done)

    def takes(self, name: str, seconds: float) -> None:
        self.say(_sentence(name, seconds))

    def say(self, sentence: str) -> None:
        self._bar.console.print(printable(sentence), markup=False)


def _sentence(name: str, seconds: float) -> str:
    about = "about " if seconds >= 1 else ""
    return f"{name} takes {about}{duration(seconds)} on this machine"


if __name__ == "__main__":
    occupy_descriptors()
    code = main()
    interrupts.ignore()
    sys.exit(code)
