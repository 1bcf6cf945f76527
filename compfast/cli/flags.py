"""The flags of `python -m compfast.ensemble`; values are text here and read in request.py."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from compfast.cli.output import Output
from compfast.errors import UsageError

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
    "--task": "anchor (default), another one's name, or package.module:Class",
    "--steps": "optimiser steps a member",
    "--precision": "fp32 (default), bf16, or tf32 on a GPU",
    "--eval-every": "steps between two exams",
    "--log-every": "steps a row of metrics",
    "--engine": "auto (default), native, eager, triton or cuda",
    "--device": "auto (default), cpu or cuda",
    "--threads": "worker threads; default: one a core",
    "--checkpoint-every": "steps between two checkpoints",
    "--report-every": "steps between two reports; 0 (default): only at the end",
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


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are a UsageError of one sentence."""

    def print_help(self, file: Any = None) -> None:
        output = Output()
        for line in self.format_help().splitlines():
            output.say(line)

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
        description="Train many small transformers at once and say which solution each learned.",
        epilog="LIST is X, X,Y,Z, A-B, LO:HI:N or log:LO:HI:N. Settings: preset < --config < flags."
        " Exit codes: 0 done, 2 wrong usage, 3 interrupted (--resume goes on), 4 storage, 5 every"
        " member diverged, 1 a bug.",
        allow_abbrev=False,
    )
    ensemble = result.add_argument_group("ensemble")
    ensemble.add_argument("--models", metavar="N", help="members: gammas x seeds x other lists")
    ensemble.add_argument("--gamma-range", metavar="LO:HI", help="exponents of the initial std")
    ensemble.add_argument("--seeds", metavar="K", help="seeds a gamma; default: 16, fewer if few")
    ensemble.add_argument("--seed", metavar="S", help="the first seed; default: 0")
    ensemble.add_argument(
        "--sample",
        metavar="N",
        help="draw N members from LO:HI and log:LO:HI ranges and LISTs, --gamma-range among them,"
        " each with a seed of its own (--seeds K: K seeds each)",
    )
    ensemble.add_argument("--sample-seed", metavar="S", help="of the drawing; default: 0")
    ensemble.add_argument(
        "--variant", metavar="NAME", help="a named form of the task, e.g. both-unseen"
    )
    ensemble.add_argument("--preset", metavar="NAME", help="tiny (default), replica, paper, ...")
    ensemble.add_argument(
        "--start-from",
        metavar="RUN[@STEP]",
        help="start from the members of another run, with its settings where none are given",
    )
    for flag in LIST_FLAGS:
        ensemble.add_argument(flag, metavar="LIST", help=HELP[flag])
    for flag in FIELD_FLAGS:
        ensemble.add_argument(flag, metavar="X", help=HELP[flag])
    ensemble.add_argument("--config", metavar="FILE", help="settings as TOML")
    ensemble.add_argument(
        "--set", metavar="SECTION.FIELD=VALUE", action="append", default=[], help="any setting"
    )
    run = result.add_argument_group("run")
    run.add_argument("--out", metavar="DIR", help="default: runs/TASK-UTC-RANDOM")
    run.add_argument("--resume", metavar="DIR", help="go on with a stopped run")
    run.add_argument("--snapshots", metavar="log:N|STEPS", help="steps whose weights are kept")
    run.add_argument("--shard", metavar="I/N", help="train the I-th (from 0) of N member ranges")
    run.add_argument("--cluster", metavar="ray[:ADDRESS]", help="train on a Ray cluster")
    run.add_argument("--storage", metavar="URL", help="where a cluster's nodes put their parts")
    run.add_argument("--dry-run", action="store_true", help="print the plan and leave")
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return result


def parse(argv: Sequence[str] | None, prog: str = PROGRAM) -> argparse.Namespace:
    """The flags as text; raises UsageError."""
    return parser(prog).parse_args(argv)


def text_of(arguments: argparse.Namespace, flag: str) -> str | None:
    """What was given for a flag, None if it was not."""
    value: str | None = getattr(arguments, flag[2:].replace("-", "_"))
    return value
