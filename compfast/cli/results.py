"""What came out: its numbers are printed, the report is drawn."""

from __future__ import annotations

import contextlib
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

from compfast.cli.output import Output, aligned, complain
from compfast.errors import CompfastError
from compfast.runs.reading import Run

_LONGEST = 300  # characters of another library's reason


def show(run: Run, output: Output) -> None:
    """Print the table by gamma and its sentences, draw the report, print its paths."""
    from compfast.report import write_report
    from compfast.report.bins import remarks, rows

    lines = aligned(*rows(run.members, run.config))
    for line in [*lines, *remarks(run.members, run.config)]:
        output.say(line)
    with only_the_report(run.path):
        for path in write_report(run, run.path / "report"):
            output.say(str(path))


@contextlib.contextmanager
def only_the_report(path: Path) -> Iterator[None]:
    """A block that draws a report of the run at `path`; what fails in it is said, not raised.

    Members and verdicts are safe before a report is drawn. Whatever is wrong with the library
    that draws, with its settings or with the disk costs the report and nothing else.
    """
    try:
        yield
    except Exception as error:
        own = isinstance(error, CompfastError)
        reason = str(error) if own else f"{type(error).__name__}: {error}"
        complain(
            f"no report was drawn ({textwrap.shorten(reason, _LONGEST)}); the run is not harmed,"
            f" and python -m compfast.report {shlex.quote(str(path))} draws it"
        )
