"""Command lines that tests give, and what becomes of them."""

from __future__ import annotations

import pytest

from compfast.cli import flags, request
from compfast.config import Config
from compfast.ensemble import main

RANGE = ["--models", "4", "--gamma-range", "0.3:0.7", "--seeds", "2"]


SMALL = [
    *RANGE, "--layers", "1", "--d-model", "8", "--batch-size", "4", "--steps", "12",
    "--log-every", "4", "--eval-every", "6", "--checkpoint-every", "5", "--threads", "1",
    "--set", "evaluation.seen_items=16", "--set", "evaluation.unseen_items=16",
]  # fmt: skip


TRAIN_TIME_LIMIT = 120.0  # seconds; only to end a test that hangs


def config_of(*argv: str) -> Config:
    return request.new_config(flags.parse(argv))


def refused(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """The one sentence that `argv` is refused with."""
    assert main(argv) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("compfast: ")
    assert printed.out == "" or code != 2
    return lines[0].removeprefix("compfast: ")
