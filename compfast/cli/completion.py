"""`compfast completion SHELL`: a script with which a shell completes commands, flags and paths.

The script comes from shtab, which reads the commands' own parsers: it holds every word, so that
nothing of compfast runs when the key is pressed (argcomplete would start Python and import us
each time). It is of this version: it is made again after an upgrade.
"""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Mapping, Sequence

from compfast.cli.flags import FIELD_FLAGS, Parser
from compfast.cli.outcome import outcome
from compfast.cli.output import deliver
from compfast.config import field_hint, settings
from compfast.config.extras import needed
from compfast.config.plugins import known_tasks
from compfast.errors import UsageError
from compfast.report.style import LOOKS
from compfast.tasks import preset_names

SHELLS = ("bash", "zsh", "fish")
_WHERE = {
    "bash": "~/.local/share/bash-completion/completions/compfast",
    "zsh": "~/.zfunc/_compfast, with fpath+=~/.zfunc before compinit in ~/.zshrc",
    "fish": "~/.config/fish/completions/compfast.fish",
}
_FOLDERS = ("DIR", "RUN", "RUN[@STEP]", "OUT", "PART")  # metavars of what is a folder
_FILES = ("FILE",)

# Command -> its parser, and what it does.
Commands = Mapping[str, tuple[Parser, str]]


def main(argv: Sequence[str] | None, prog: str, commands: Callable[[], Commands]) -> int:
    """Run the command line; `commands` is asked once it is known that they are needed."""

    def body() -> None:
        given = parser(prog).parse_args(argv)
        if given.shell not in SHELLS:
            raise UsageError(f"the shell is {given.shell!r}; it must be one of {', '.join(SHELLS)}")
        deliver(script(given.shell, commands()))

    return outcome(body)


def parser(prog: str) -> Parser:
    flags = Parser(
        prog=prog,
        description="Print the script with which a shell completes what is typed after compfast.",
        epilog="It goes to a file: "
        + "; ".join(f"compfast completion {shell} > {where}" for shell, where in _WHERE.items())
        + ". Made again after an upgrade. Exit codes: 0 printed, 2 wrong usage, 4 storage.",
        allow_abbrev=False,
    )
    flags.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS))
    return flags


def script(shell: str, commands: Commands) -> str:
    """The script for one of SHELLS; raises UsageError without shtab."""
    shtab = needed("shtab", "compfast completion")
    root = Parser(prog="compfast", allow_abbrev=False)
    listed = root.add_subparsers(metavar="COMMAND")
    for name, (own, says) in commands.items():
        for action in own._actions:  # argparse has no other way to them
            _complete(action, shtab)
        listed.add_parser(name, parents=[own], add_help=False, help=says, description=says)
    return str(shtab.complete(root, shell=shell))


def _complete(action: argparse.Action, shtab: typing.Any) -> None:
    """Say what may stand there: words where the field has some, else folders or files."""
    words = _words(action)
    if words:
        action.choices = words
    elif action.metavar in _FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # shtab's own
    elif action.metavar in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _words(action: argparse.Action) -> tuple[str, ...]:
    for flag in action.option_strings:
        if flag == "--task":
            return known_tasks()
        if flag in FIELD_FLAGS:
            hint = field_hint(FIELD_FLAGS[flag], settings.kinds_of({}))
            return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        if flag == "--style":
            return tuple(LOOKS)
        if flag == "--preset":
            return preset_names()
    return SHELLS if action.dest == "shell" else ()
