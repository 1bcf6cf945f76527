"""A process to be killed, starved or interrupted: victim.py DIR [flags].

Prints "started" when training begins, and what `--count` found at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from small_runs import small_config

import compfast
from compfast.config import Config, ModelConfig
from compfast.runs import checkpoints
from compfast.runs.folder import RunFolder
from compfast.storage import durable

OPERATIONS = ("open_file", "write", "sync", "rename", "make_folder", "discard")


def config() -> Config:
    """About half a second of training with ten checkpoints."""
    return small_config(
        steps=3000, log_every=200, eval_every=700, run={"checkpoint_every": 300, "snapshots": (50,)}
    )


def large_config() -> Config:
    """Parameters and moments of about 190 MiB, little to compute."""
    seeds = ("seed", tuple(range(96)))
    own = small_config(sweep=(seeds,), steps=4, run={"threads": 4, "checkpoint_every": 2})
    return dataclasses.replace(own, model=ModelConfig(layers=2, d_model=96))


class Bomb:
    """Kills this process at operation `at` of those inside a save, a write half done."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.inside = at, 0, False

    def arm(self) -> None:
        save = RunFolder.save

        def saving(*arguments: Any) -> Any:
            self.inside = True
            try:
                return save(*arguments)
            finally:
                self.inside = False

        mock.patch.object(RunFolder, "save", saving).start()
        for name in OPERATIONS:
            mock.patch.object(durable, name, self._wrapped(name)).start()

    def _wrapped(self, name: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(durable, name)

        def operation(*arguments: Any) -> Any:
            if self.inside:
                self.count += 1
                if self.count == self.at:
                    if name == "write":
                        descriptor, data = arguments
                        original(descriptor, data[: random.randrange(len(data))])
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        return operation


class _Started(compfast.Callback):
    def on_start(self, run: Any, outline: Any) -> None:
        print("started", flush=True)


def forget_moments() -> None:
    """A restore that loses half of the optimiser's state: the harness has to notice."""
    read_state = checkpoints.read_state

    def broken(*arguments: Any) -> Any:
        state = read_state(*arguments)
        for array in state.exp_avg_sq.values():
            array[:] = 0
        return state

    mock.patch.object(checkpoints, "read_state", broken).start()


def starve(extra: int) -> None:
    """Allow this process no more than `extra` bytes of address space beyond what it has.

    A run before it makes the libraries load and take the memory that they keep.
    """
    with tempfile.TemporaryDirectory() as folder:
        compfast.train(small_config(run={"threads": 4}), Path(folder) / "run")
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, most))


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("folder")
    flags.add_argument("--resume", action="store_true")
    flags.add_argument("--large", action="store_true")
    flags.add_argument("--forget-moments", action="store_true")
    flags.add_argument("--die-at", type=int, default=0)
    flags.add_argument("--memory", type=int)
    given = flags.parse_args()
    bomb = Bomb(given.die_at)
    bomb.arm()
    if given.forget_moments:
        forget_moments()
    own = None if given.resume else large_config() if given.large else config()
    if given.memory is not None:
        starve(given.memory)
    compfast.train(own, given.folder, [_Started()], resume=given.resume)
    print(bomb.count)


def outcome() -> tuple[int, str]:
    """Exit code and what the user is told; as in compfast.ensemble."""
    try:
        main()
    except compfast.CompfastError as error:
        return error.exit_code, str(error)
    except KeyboardInterrupt:
        return compfast.Interrupted.exit_code, "stopped at once"
    return 0, ""


if __name__ == "__main__":
    try:
        code, sentence = outcome()
    except KeyboardInterrupt:
        code, sentence = compfast.Interrupted.exit_code, "stopped at once"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sentence:
        print(sentence, file=sys.stderr)
    sys.exit(code)
