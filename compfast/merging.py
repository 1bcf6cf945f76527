"""`python -m compfast.merging OUT PART [PART ...]`: join finished shards into one run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from compfast.cli.flags import Parser
from compfast.cli.outcome import outcome
from compfast.cli.output import Output, occupy_descriptors
from compfast.cli.results import show
from compfast.cluster.merging import merge


def main(argv: Sequence[str] | None = None, prog: str = "python -m compfast.merging") -> int:
    """Run the command line; returns the exit code of `python -m compfast.ensemble`."""

    def body() -> None:
        arguments = parser(prog).parse_args(argv)
        show(merge(arguments.parts, arguments.out), Output(arguments.quiet))

    return outcome(body, "stopped at once; the same command ends the merge")


def parser(prog: str) -> Parser:
    flags = Parser(
        prog=prog,
        description="Join the run folders of all shards (--shard I/N) of a sweep into one.",
        allow_abbrev=False,
    )
    flags.add_argument("out", metavar="OUT", help="the run folder to write: new or empty")
    flags.add_argument("parts", metavar="PART", nargs="+", help="a finished shard's run folder")
    flags.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return flags


if __name__ == "__main__":
    occupy_descriptors()
    sys.exit(main())
