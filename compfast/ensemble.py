"""`python -m compfast.ensemble`: train an ensemble and say what each member learned.

    python -m compfast.ensemble --models 512 --gamma-range 0.1:1.5

Exit codes: 0 done, 2 wrong usage, 3 interrupted and resumable, 4 storage, 5 every member
diverged, 1 a bug.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from compfast.cli.beginning import start_line
from compfast.cli.flags import PROGRAM, parse
from compfast.cli.flags import parser as parser  # what a shell's completion knows of it
from compfast.cli.live import Lines, Live, Reports
from compfast.cli.outcome import outcome
from compfast.cli.output import Output, occupy_descriptors
from compfast.cli.plan import grid_line, plan
from compfast.cli.request import new_config
from compfast.cli.results import show
from compfast.cli.resumption import resumption
from compfast.cluster import remove_parts, sweep
from compfast.cluster.on_ray import RayCluster, cluster_address
from compfast.config import Config
from compfast.config.paths import user_path
from compfast.errors import AllDivergedError, UsageError
from compfast.runs.folder import default_out, refuse_used
from compfast.runs.reading import Run, load
from compfast.training import interrupts
from compfast.training.callbacks import Callback
from compfast.training.runs import train
from compfast.training.start import resolved


def main(argv: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Run the command line; returns the exit code. Bugs are raised."""
    return outcome(lambda: _run(parse(argv, prog)), interrupts.STOPPED_AT_ONCE)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.cluster is None and arguments.storage is not None:
        raise UsageError("--storage is where the parts of a cluster go; it needs --cluster ray")
    address = None if arguments.cluster is None else cluster_address(arguments.cluster)
    if arguments.resume is not None:
        stored, config = resumption(arguments)
        output = Output(config.run.quiet)
        if stored.finished:
            if arguments.cluster is not None:
                remove_parts(stored)
            output.say(f"{stored.path} is finished; nothing to do")
            if not (stored.path / "report" / "index.html").exists():
                show(stored, output)
            return
        out, left = stored.path, 1 - stored.step / config.training.steps
    else:
        config = new_config(arguments)
        output = Output(config.run.quiet)
        out, left = user_path(arguments.out or default_out(config.task.name)), 1.0
        refuse_used(out)
        config = resolved(config)
        if config.start.mode == "go_on" and config.start.step is not None:
            left = 1 - config.start.step / config.training.steps
    # What this machine would need says nothing of a cluster.
    if not config.run.quiet and (arguments.cluster is None or arguments.dry_run):
        output.say(plan(config).line(left))
    if config.start.run is not None and arguments.resume is None and not output.quiet:
        output.say(start_line(config))
    if arguments.dry_run:
        output.say(grid_line(config))
        return
    output.say(f"run folder: {out}")
    resume = arguments.resume is not None
    if arguments.cluster is None:
        _finish(lambda callbacks: train(config, out, callbacks, resume=resume), config, out, output)
        return
    with RayCluster(address) as cluster:
        _finish(
            lambda callbacks: sweep(config, out, cluster, callbacks, resume, arguments.storage),
            config,
            out,
            output,
        )


def _finish(
    trained: Callable[[list[Callback]], Run], config: Config, out: Path, output: Output
) -> None:
    """Train, then show and draw what came out, also when no member stayed finite."""
    diverged: AllDivergedError | None = None
    with _callbacks(config, output) as callbacks:
        try:
            run = trained(callbacks)
        except AllDivergedError as error:
            run, diverged = load(out), error
    show(run, output)
    if diverged is not None:
        raise diverged


@contextlib.contextmanager
def _callbacks(config: Config, output: Output) -> Iterator[list[Callback]]:
    callbacks: list[Callback] = []
    if config.run.report_every:
        callbacks.append(Reports(config.run.report_every))
    if output.terminal:
        with Live(output) as live:
            yield [*callbacks, live]
    elif output.quiet:
        yield callbacks
    else:
        yield [*callbacks, Lines(output)]


if __name__ == "__main__":
    occupy_descriptors()
    code = main()
    interrupts.ignore()
    sys.exit(code)
