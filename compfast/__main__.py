"""`compfast COMMAND`, also `python -m compfast COMMAND`: the command lines under one name."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from compfast.cli.flags import Parser
from compfast.cli.output import complain, occupy_descriptors
from compfast.errors import UsageError
from compfast.training import interrupts

# Command -> the module that is it, the flag that its first word stands for, what it does.
COMMANDS: dict[str, tuple[str, str | None, str]] = {
    "train": ("ensemble", None, "train an ensemble and say what each member learned"),
    "resume": ("ensemble", "--resume", "go on with the stopped run DIR"),
    "merge": ("merging", None, "join finished shards into one run"),
    "report": ("report.__main__", None, "draw the report of a run again"),
    "watch": ("watch", None, "show the page of a run, live, in a browser on this machine"),
    "analyse": ("analysis.__main__", None, "measure what the members of a run are made of"),
    "table": ("cli.table", None, "print the full table of a run, also as CSV"),
    "completion": ("cli.completion", None, "print the script with which a shell completes"),
    "doctor": ("doctor", None, "say what was built and what this machine can run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code, 2 for one that there is not."""
    given = list(sys.argv[1:] if argv is None else argv)
    flags = Parser(
        prog="compfast",
        usage="compfast COMMAND ...",
        description="Train many small transformers at once and see which solution each learned.",
        epilog="commands:\n"
        + "".join(f"  {name:<12}{says}\n" for name, (*_, says) in COMMANDS.items())
        + "\ncompfast COMMAND --help lists a command's flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    try:
        command = flags.parse_args(given[:1]).command
        if command not in COMMANDS:
            raise UsageError(f"the command is {command!r}; it must be one of {', '.join(COMMANDS)}")
    except UsageError as error:
        complain(str(error))
        return error.exit_code
    module, flag, _ = COMMANDS[command]
    rest = given[1:]
    if flag is not None and rest and not rest[0].startswith("-"):
        rest = [flag, *rest]
    elif flag is not None and "--help" not in rest and "-h" not in rest:
        complain(f"compfast {command} needs the folder of the run first: compfast {command} DIR")
        return UsageError.exit_code
    further = (_parsers,) if command == "completion" else ()
    code: int = importlib.import_module(f"compfast.{module}").main(rest, _prog(command), *further)
    return code


def _prog(command: str) -> str:
    return f"compfast {command} DIR" if COMMANDS[command][1] else f"compfast {command}"


def _parsers() -> dict[str, tuple[Parser, str]]:
    """Every command's parser, with the folder that may stand first, and what it does."""
    found = {}
    for command, (module, flag, says) in COMMANDS.items():
        own: Parser = importlib.import_module(f"compfast.{module}").parser(_prog(command))
        if flag is not None:
            own.add_argument("folder", metavar="DIR", help="the run")
        found[command] = (own, says)
    return found


def script() -> int:
    """What the installed command runs: `main`, and no signal is heeded after its end."""
    occupy_descriptors()
    code = main()
    interrupts.ignore()
    return code


if __name__ == "__main__":
    occupy_descriptors()
    sys.exit(script())
