"""The flags of `python -m compfast.ensemble`; values are text here and read in request.py."""

from __future__ import annotations

import argparse
import difflib
import functools
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from compfast.cli.output import complain, deliver
from compfast.errors import StorageError, UsageError

PROGRAM = "python -m compfast.ensemble"

# A flag that sets one field of the config.
FIELD_FLAGS = {
    "--task": "task.name",
    "--steps": "training.steps",
    "--precision": "training.precision",
    "--eval-every": "training.eval_every",
    "--log-every": "training.log_every",
    "--engine": "run.engine",
    "--device": "run.device",
    "--threads": "run.threads",
    "--checkpoint-every": "run.checkpoint_every",
    "--report-every": "run.report_every",
    "--start-mode": "start.mode",
}
# A flag that takes one value, or a list of values that members differ in.
LIST_FLAGS: dict[str, tuple[str, type[int] | type[float]]] = {
    "--layers": ("model.layers", int),
    "--d-model": ("model.d_model", int),
    "--d-ff": ("model.d_ff", int),
    "--heads": ("model.heads", int),
    "--batch-size": ("training.batch_size", int),
    "--seq-len": ("task.seq_len", int),
    "--lr": ("optimizer.lr", float),
    "--weight-decay": ("optimizer.weight_decay", float),
    "--init-seed": ("init_seed", int),
    "--data-seed": ("data_seed", int),
}
HELP = {
    "--task": "anchor (default), a name, or package.module:Class",
    "--steps": "optimiser steps a member",
    "--precision": "fp32 (default), bf16, or tf32 on a GPU",
    "--eval-every": "steps between two exams",
    "--log-every": "steps a row of metrics",
    "--engine": "auto (default), native, eager, triton or cuda",
    "--device": "auto (default), cpu or cuda",
    "--threads": "worker threads; default: one a core",
    "--checkpoint-every": "steps between two checkpoints",
    "--report-every": "steps between two reports; default 0: at the end",
    "--start-mode": "go_on (default), or restart: the weights alone, from step 0",
    "--layers": "depth",
    "--d-model": "width",
    "--d-ff": "width of the feed-forward layer",
    "--heads": "attention heads",
    "--batch-size": "sequences a step",
    "--seq-len": "tokens a sequence",
    "--lr": "peak learning rate",
    "--weight-decay": "decoupled weight decay",
    "--init-seed": "seeds of the initial weights alone; default: the member's seed",
    "--data-seed": "seeds of the training data alone; default: the member's seed",
}


# A flag that is read in its own way: what it takes (None: nothing), what it is.
_OWN: dict[str, tuple[str | None, str]] = {
    "--models": ("N", "members: gammas x seeds x other lists"),
    "--gamma-range": ("LO:HI", "exponents of the initial std"),
    "--seeds": ("K", "seeds a gamma; default: 16, fewer if few"),
    "--seed": ("S", "the first seed; default: 0"),
    "--preset": ("NAME", "tiny (default), replica, paper, ..."),
    "--set": ("SECTION.FIELD=VALUE", "any setting"),
    "--config": ("FILE", "settings as TOML"),
    "--variant": ("NAME", "a named form of the task, e.g. both-unseen"),
    "--sample": (
        "N",
        "draw N members from LO:HI and log:LO:HI ranges and LISTs, --gamma-range among them,"
        " each with a seed of its own (--seeds K: K seeds each)",
    ),
    "--sample-seed": ("S", "of the drawing; default: 0"),
    "--start-from": (
        "RUN[@STEP]",
        "start from the members of another run, with its settings where none are given",
    ),
    "--out": ("DIR", "default: runs/TASK-UTC-RANDOM"),
    "--resume": ("DIR", "go on with a stopped run"),
    "--snapshots": ("log:N|STEPS", "steps whose weights are kept"),
    "--shard": ("I/N", "train the I-th (from 0) of N member ranges"),
    "--cluster": ("ray[:ADDRESS]", "train on a Ray cluster"),
    "--storage": ("URL", "where a cluster's nodes put their parts"),
    "--dry-run": (None, "print the plan and leave"),
    "--quiet": (None, "print nothing but errors"),
}
# The help, in the order in which people want it: the first group and what is above it are one
# screen of 24 lines.
GROUPS: dict[str, tuple[str, ...]] = {
    "daily use": (
        *("--models", "--gamma-range", "--seeds", "--task", "--preset", "--steps", "--set"),
        *("--out", "--resume", "--dry-run"),
    ),
    "network": ("--layers", "--d-model", "--d-ff", "--heads"),
    "training": (
        *("--lr", "--weight-decay", "--batch-size", "--seq-len", "--precision", "--eval-every"),
        *("--start-from", "--start-mode"),
    ),
    "which members": (
        *("--seed", "--init-seed", "--data-seed", "--sample", "--sample-seed", "--variant"),
        "--config",
    ),
    "machine": ("--engine", "--device", "--threads", "--shard", "--cluster", "--storage"),
    "what is kept and printed": (
        *("--log-every", "--checkpoint-every", "--snapshots", "--report-every", "--quiet"),
    ),
}
_HELP_COLUMN = 30  # where the help of a flag begins, unless the flag is longer


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are a UsageError of one sentence."""

    def print_help(self, file: Any = None) -> None:
        try:
            deliver(self.format_help())
        except StorageError as error:  # nobody's work is lost with it
            complain(str(error))

    def error(self, message: str) -> NoReturn:
        raise UsageError(self._sentence(message))

    def _sentence(self, message: str) -> str:
        if missing := re.match(r"argument (\S+): expected one argument", message):
            flag = missing[1].split("/")[0]
            return f"{flag} needs a value; write {flag}=VALUE for one that begins with a minus"
        if unknown := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
            word = unknown[1].split()[0] if unknown[1].split() else "''"
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(word.split("=")[0], flags, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            return f"{word} is not known{hint}; --help lists the flags"
        return " ".join(message.split())


def parser(prog: str = PROGRAM) -> Parser:
    result = Parser(
        prog=prog,
        usage=f"{prog} [flags]",
        description="Train many small transformers at once and say which solution each learned, as"
        " in: compfast train --models 512 --gamma-range 0.1:1.5",
        epilog="LIST, of values that members differ in, is X, X,Y,Z, A-B, LO:HI:N or log:LO:HI:N."
        " Settings: preset < --config < flags."
        " Exit codes: 0 done, 2 wrong usage, 3 interrupted (--resume goes on), 4 storage, 5 every"
        " member diverged, 1 a bug.",
        formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=_HELP_COLUMN),
        allow_abbrev=False,
        add_help=False,
    )
    for title, flags in GROUPS.items():
        group = result.add_argument_group(title)
        for flag in flags:
            _add(group, flag)
    result.add_argument_group("help").add_argument(
        "-h", "--help", action="help", help="print this and leave"
    )
    return result


def _add(group: argparse._ArgumentGroup, flag: str) -> None:
    takes, says = _OWN.get(flag) or ("LIST" if flag in LIST_FLAGS else "X", HELP[flag])
    if takes is None:
        group.add_argument(flag, action="store_true", help=says)
    elif flag == "--set":
        group.add_argument(flag, metavar=takes, action="append", default=[], help=says)
    else:
        group.add_argument(flag, metavar=takes, help=says)


def parse(argv: Sequence[str] | None, prog: str = PROGRAM) -> argparse.Namespace:
    """The flags as text; raises UsageError."""
    return parser(prog).parse_args(argv)


def text_of(arguments: argparse.Namespace, flag: str) -> str | None:
    """What was given for a flag, None if it was not."""
    value: str | None = getattr(arguments, flag[2:].replace("-", "_"))
    return value
