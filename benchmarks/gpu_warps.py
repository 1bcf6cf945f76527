"""How long each kernel of a step takes with other numbers of warps: what its launcher should ask.

A program of many warps has few registers a thread to give, and a multiprocessor holds few of them;
one of few warps may spill. Which is faster only a GPU says; the registers and spills that it
reports stand in the row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu_counts import counted
from benchmarks.gpu_rows import Setting
from compfast.engines.triton import TritonEngine
from compfast.engines.triton.launch import Launch
from compfast.engines.triton.step import flat_layout
from compfast.ensembles.schedule import make_tables

WARPS = (1, 2, 4, 8)
_TUNED = ("block_", "head.", "attention", "linear.", "embedding.backward", "layer_norm.")
_SHARE = 0.02  # of a step: launches that take less are as good as any

Timed = Callable[[Callable[[], Any]], float]  # a call -> seconds


def variants(setting: Setting, seconds: Timed) -> Iterator[tuple[str, Callable[[], float]]]:
    """(what, milliseconds) of every larger launch of one step, the one that is used first.

    What the launches leave in memory is of no use afterwards.
    """
    specs = setting.specs()
    engine = TritonEngine(specs, make_tables(specs), stacked=len(specs))
    engine.initialise()
    step = engine._step_of(range(len(specs)))
    step.open_window(0, 2**40)
    names = counted(step.launches, specs[0], flat_layout(specs[0]))
    usual = [seconds(launch.run) for launch in step.launches]
    for count, launch, own in zip(names, step.launches, usual, strict=True):
        if not count.name.startswith(_TUNED) or own < _SHARE * sum(usual):
            continue
        yield f"{count.name}, as it is{_used(launch)}", functools.partial(float, 1e3 * own)
        for warps in WARPS:
            for free in (False, True):
                options = {**launch.options, "num_warps": warps}
                if free and options.pop("maxnreg", None) is None:
                    continue  # the same as with it
                other = dataclasses.replace(launch, options=options)
                what = f"{count.name}, {warps} warps{', free' if free else ''}"
                yield f"{what}{_used(other)}", functools.partial(_milliseconds, other, seconds)


def _milliseconds(launch: Launch, seconds: Timed) -> float:
    return 1e3 * seconds(launch.run)


def _used(launch: Launch) -> str:
    """Registers a thread and spills, where a GPU's kernel says so."""
    if not torch.cuda.is_available():
        return ""
    made = launch.kernel[launch.grid](**launch.pointers, **launch.constants, **launch.options)
    made._init_handles()
    return f" ({made.n_regs} registers, {made.n_spills} spills)"
