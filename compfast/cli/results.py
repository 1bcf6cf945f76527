"""What came out: a screen of its numbers is printed, the report is drawn."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from compfast.cli.output import Output, aligned, complain
from compfast.errors import reason
from compfast.runs.reading import Run

LINES = 20  # printed after a run, whatever was swept
_ROWS = 10  # of bands among them
_PATHS = 4  # of them, at most: the page, two more, and the command for the full table


def show(run: Run, output: Output) -> None:
    """Print the bands of the run, draw its report, print the paths of the page and the rest."""
    from compfast.report import write_report

    wide = shutil.get_terminal_size().columns if output.terminal else None
    for line in summary(run, wide, LINES - _PATHS):
        output.say(line)
    written: list[Path] = []
    with only_the_report(run.path):
        written = write_report(run, run.path / "report", complain)
    for line in _paths(run.path, written):
        output.say(line)


def summary(run: Run, wide: int | None, most: int) -> list[str]:
    """The bands and, as far as `most` lines hold them, the sentences about them.

    `wide`: columns of a terminal; None: lines are as long as what they say.
    """
    from compfast.report.bands import bands
    from compfast.report.bins import bins_of
    from compfast.report.table import band_sentence, second_axes

    found = bands(run.members, run.config, _ROWS)
    if not found.rows:
        return ["no member has a verdict yet"]
    header, *rows = aligned(found.header, found.rows)
    lines = [f"{header}  others" if any(found.others) else header]
    for row, others in zip(rows, found.others, strict=True):
        room = None if wide is None else wide - len(row) - 3
        lines.append(f"{row}  {_listed(others, room)}".rstrip())
    said = list(found.remarks)
    if not second_axes(run.config) and bins_of(run.config) is None:
        sentence = band_sentence(run.members)
        said += [] if sentence is None else [sentence]
    for sentence in said:
        wrapped = [sentence] if wide is None else textwrap.wrap(sentence, wide - 1)
        if len(lines) + len(wrapped) <= most:
            lines += wrapped
    return lines


def _listed(words: Sequence[str], room: int | None) -> str:
    """The words in one line; the last ones give way where there is no room for all."""
    text = ", ".join(words)
    for kept in range(len(words) - 1, -1, -1):
        if room is None or len(text) <= room:
            break
        text = ", ".join((*words[:kept], "..."))
    return text


def _paths(run: Path, written: Sequence[Path]) -> list[str]:
    """The page first; more files than there are lines for go by their folder."""
    pages = [path for path in written if path.name == "index.html"]
    others = [path for path in written if path not in pages]
    lines = [f"page: {path}" for path in pages]
    lines += [f"picture: {path}" for path in others[:1]]
    if len(others) > 1:
        lines[-1:] = [f"pictures and data: {len(others)} more files in {others[0].parent}"]
    return [
        *lines,
        f"members: {run / 'members.parquet'}",
        f"full table: compfast table {shlex.quote(str(run))}",
    ]


@contextlib.contextmanager
def only_the_report(path: Path) -> Iterator[None]:
    """A block that draws a report of the run at `path`; what fails in it is said, not raised.

    Members and verdicts are safe before a report is drawn. Whatever is wrong with the library
    that draws, with its settings or with the disk costs the report and nothing else.
    """
    try:
        yield
    except Exception as error:
        complain(
            f"no report was drawn ({reason(error)}); the run is not harmed,"
            f" and python -m compfast.report {shlex.quote(str(path))} draws it"
        )
