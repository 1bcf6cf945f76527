"""`python -m compfast.report RUN`: draw the report of a run, finished or not, again.

With --figures DIR: figures for papers, as files of their own in DIR.

Exit codes: 0 drawn, 2 wrong usage, 3 stopped, 4 storage; of several runs the first that failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from compfast.cli.flags import Parser
from compfast.cli.outcome import outcome
from compfast.cli.output import Output, complain, occupy_descriptors
from compfast.errors import CompfastError, UsageError
from compfast.report import write_figures, write_report


def main(argv: Sequence[str] | None = None, prog: str = "python -m compfast.report") -> int:
    """Run the command line; returns the exit code. A run that fails leaves the others theirs."""

    def body() -> int:
        arguments = parser(prog).parse_args(argv)
        output = Output(arguments.quiet)
        if arguments.figures is not None or arguments.style is not None:
            _figures(arguments, output)
            return 0
        codes = [_draw(run, output) for run in arguments.runs]
        return next((code for code in codes if code), 0)

    return outcome(body, "stopped; what was drawn is whole, and the same command draws the rest")


def parser(prog: str) -> Parser:
    flags = Parser(
        prog=prog,
        description="Draw the report of a run again: report/phase_diagram.png and index.html.",
        epilog="Exit codes: 0 drawn, 2 wrong usage, 3 stopped, 4 storage.",
        allow_abbrev=False,
    )
    flags.add_argument("runs", metavar="RUN", nargs="+", help="a run folder")
    flags.add_argument(
        "--figures", metavar="DIR", help="figures for papers as PNG, SVG and PDF into DIR instead"
    )
    flags.add_argument("--style", metavar="NAME", help="of --figures: plain (default) or paper")
    flags.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return flags


def _draw(run: str, output: Output) -> int:
    try:
        for path in write_report(run, None, complain):
            output.say(str(path))
    except CompfastError as error:
        complain(f"{run}: {error}" if run not in str(error) else str(error))
        return error.exit_code
    return 0


def _figures(arguments: argparse.Namespace, output: Output) -> None:
    """Raises UsageError for --style alone and for several runs; see `write_figures`."""
    if arguments.figures is None:
        raise UsageError("--style says how --figures look; give --figures DIR")
    if len(arguments.runs) > 1:
        raise UsageError(
            f"--figures takes one RUN, whose files fill DIR; {len(arguments.runs)} were given"
        )
    written = write_figures(arguments.runs[0], arguments.figures, arguments.style or "plain")
    for path in written.paths:
        output.say(str(path))
    for sentence in written.left_out:
        output.say(sentence)


if __name__ == "__main__":
    occupy_descriptors()
    sys.exit(main())
