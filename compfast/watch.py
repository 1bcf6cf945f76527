"""`compfast watch RUN`: the page of a run, live, in a browser on this machine.

Exit codes: 0 stopped by Ctrl-C or a signal, 2 wrong usage, 4 storage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from compfast.cli.flags import Parser
from compfast.cli.outcome import outcome
from compfast.cli.output import Output, complain, occupy_descriptors
from compfast.config.paths import user_path
from compfast.errors import UsageError
from compfast.training import interrupts


def main(argv: Sequence[str] | None = None, prog: str = "python -m compfast.watch") -> int:
    """Run the command line until it is stopped; returns the exit code."""

    def body() -> None:
        arguments = parser(prog).parse_args(argv)
        _serve(arguments.run, _port(arguments.port), Output(arguments.quiet))

    return outcome(body, stopped="", code=0)


def parser(prog: str) -> Parser:
    """The flags of this command."""
    flags = Parser(
        prog=prog,
        description="Serve the page of a run, finished or not, to a browser on this machine. It"
        " follows the run: every checkpoint and every --report-every shows by itself.",
        epilog="Ctrl-C ends it. Exit codes: 0 ended, 2 wrong usage, 4 storage.",
        allow_abbrev=False,
    )
    flags.add_argument("run", metavar="RUN", help="a run folder")
    flags.add_argument("--port", default="0", help="of 127.0.0.1; 0 (default): any that is free")
    flags.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return flags


def _serve(run: str, port: int, output: Output) -> None:
    from compfast.report.serving import server

    made, address = server(user_path(run), port, complain)
    with made:
        output.say(f"{run} is shown at {address} (Ctrl-C ends it)")
        made.serve_forever(poll_interval=0.2)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:6]) < 65536 and len(text) < 6):
        raise UsageError(f"--port is {text!r}; it must be a whole number from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    occupy_descriptors()
    code = main()
    interrupts.ignore()
    sys.exit(code)
