"""`compfast table RUN`: the full table of a run, a row a gamma, as text or CSV.

Exit codes: 0 printed, 2 wrong usage, 3 stopped, 4 storage.
"""

from __future__ import annotations

from collections.abc import Sequence

from compfast.cli.flags import Parser
from compfast.cli.outcome import outcome
from compfast.cli.output import aligned, deliver, printable
from compfast.report.bins import remarks, rows
from compfast.report.listing import csv_text
from compfast.report.phase import refuse_unjudged
from compfast.runs.forks import tables_ahead
from compfast.runs.reading import load


def main(argv: Sequence[str] | None = None, prog: str = "compfast table") -> int:
    """Run the command line; returns the exit code."""

    def body() -> None:
        given = parser(prog).parse_args(argv)
        deliver(_table(given.run, given.csv))

    return outcome(body)


def parser(prog: str) -> Parser:
    flags = Parser(
        prog=prog,
        description="Print the table of a run, finished or not: members by verdict and mean scores,"
        " a row a gamma (or a bin of a sample) and combination of what else was swept.",
        epilog="Exit codes: 0 printed, 2 wrong usage, 3 stopped, 4 storage.",
        allow_abbrev=False,
    )
    flags.add_argument("run", metavar="RUN", help="a run folder")
    flags.add_argument(
        "--csv", action="store_true", help="as CSV, every level told apart and numbers in full"
    )
    return flags


def _table(folder: str, as_csv: bool) -> str:
    """Raises UsageError where there is no run or no verdict yet, StorageError if unreadable."""
    tables_ahead()
    run = load(folder)
    refuse_unjudged(run)
    if as_csv:
        return csv_text(run.members, run.config)
    lines = [*aligned(*rows(run.members, run.config)), *remarks(run.members, run.config)]
    return "".join(f"{printable(line)}\n" for line in lines)
