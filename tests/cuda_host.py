"""The steps of csrc/cuda compiled for the host: every line of them but the launch."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from oracle import Array

from compfast.config import MemberSpec
from compfast.engines.cuda.engine import KINDS
from compfast.engines.decays import weight_decays
from compfast.engines.flat import FlatLayout
from compfast.ensembles.schedule import make_tables
from compfast.models.families import model_plan
from compfast.models.init import initial_parameters
from compfast.tasks import make_task

SOURCE = Path(__file__).parent / "cpp" / "cuda_host.cpp"
NETWORKS = ("tiny", "narrow")  # of csrc/cuda/network.h
# Kernels that cuda_host.cpp has: first each network's on an H100, then tiny's with one sequence a
# microbatch and on an A100.
VARIANTS = {"tiny": 0, "narrow": 1, "tiny-one-sequence": 2, "tiny-a100": 3}
FORWARD, BACKWARD, STRIDED = 0, 1, 2  # order of a piece's items


@functools.cache
def library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "libcuda_host.so"
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
        if platform.machine() == "x86_64":
            flags.append("-march=native")  # fmaf as one instruction: the same bits, sooner
        command = [os.environ.get("CXX", "c++"), *flags, str(SOURCE), "-o", str(file)]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(file))


def flat_layout(spec: MemberSpec) -> FlatLayout:
    plan = model_plan(spec.model, absorb=False)
    return FlatLayout(spec.model, plan, spec.optimizer.decay)


def _at(array: Array) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def shape(network: int) -> dict[str, Any]:
    """One of `_cuda.shapes()`."""
    found = np.zeros(12, np.int32)
    library().cuda_shape(network, _at(found))
    names = ("layers", "positions", "d_model", "heads", "d_ff", "vocabulary", "flat_size")
    numbers = [int(i) for i in found]
    kept80, bytes80, kept90, bytes90 = numbers[8:]
    return {
        **dict(zip(names, numbers[:7], strict=True)),
        "sequences": numbers[7],
        "chips": {
            80: {"kept": kept80, "bytes": bytes80},
            90: {"kept": kept90, "bytes": bytes90},
        },
    }


def places(network: int) -> list[int]:
    """token, position, scale, shift, wh, bh, size; then 14 numbers a layer."""
    found = np.zeros(7 + 2 * 14, np.int32)
    library().cuda_places(network, _at(found))
    return [int(i) for i in found]


def gradient(
    spec: MemberSpec, params: Array, tokens: Array, targets: Array, variant: str
) -> tuple[float, Array]:
    """Mean loss of a batch and the flat gradient [P]."""
    gradients, loss = np.zeros_like(params), np.zeros(1, np.float32)
    library().cuda_gradient(
        VARIANTS[variant],
        FORWARD,
        _at(params),
        len(tokens),
        _at(tokens),
        _at(targets),
        ctypes.c_float(spec.model.norm_eps),
        _at(gradients),
        _at(loss),
    )
    return float(loss[0]), gradients


@dataclass
class Trained:
    """A member after some steps, flat; `tokens` and `targets` are the last batch."""

    params: Array
    m: Array
    v: Array
    gradient: Array
    loss: Array
    norm: Array
    tokens: Array
    targets: Array
    step: int
    status: int


def train(
    spec: MemberSpec, until: int, variant: str, order: int = 0, before: Trained | None = None
) -> Trained:
    """From step 0, or from where `before` stands, to `until`."""
    flat, tables = flat_layout(spec), make_tables([spec])
    if before is None:
        params = np.zeros((1, flat.size), np.float32)
        drawn = initial_parameters(spec, tables.std[0])
        flat.pack({name: value[None] for name, value in drawn.items()}, params)
        arrays = [params[0], *(np.zeros(flat.size, np.float32) for _ in range(3))]
        step = 0
    else:
        arrays = [a.copy() for a in (before.params, before.m, before.v, before.gradient)]
        step = before.step
    batch, length = spec.training.batch_size, make_task(spec.task).length
    tokens = np.zeros((batch, length), np.int32)
    targets = np.zeros(batch, np.int32)
    loss, norm = np.full((2, until - step), np.nan, np.float32)
    status = np.zeros(1, np.uint8)
    stream, options = make_task(spec.task).stream(), spec.optimizer
    assert stream is not None
    pairs, combos = (np.ascontiguousarray(stream[k], np.int32) for k in ("pairs", "combos"))
    corrections = tables.bias_correction1, tables.bias_correction2
    lines = (tables.scale, tables.offset, *corrections, tables.decay)
    columns = np.concatenate([np.full(n, own, np.uint8) for _, n, own in flat.segments])
    form = np.array([KINDS[options.kind], options.nesterov], np.int32)
    run: Any = library().cuda_train
    run.restype = ctypes.c_int64
    real, whole = ctypes.c_double, ctypes.c_int64
    reached = run(
        *(VARIANTS[variant], order, _at(pairs), len(pairs), _at(combos), len(combos)),
        *(stream["item_low"], stream["item_count"], stream["words"], *map(_at, lines)),
        *(_at(columns), _at(form)),
        *map(real, (options.beta1, options.beta2, options.eps, options.momentum)),
        *(ctypes.c_float(spec.model.norm_eps), batch, ctypes.c_uint64(spec.seed)),
        *(_at(weight_decays([spec])), real(options.lr), real(options.clip)),
        *map(_at, arrays),
        *(_at(tokens), _at(targets), whole(step), whole(until)),
        *(_at(loss), _at(norm), _at(status)),
    )
    params, m, v, g = arrays
    return Trained(params, m, v, g, loss, norm, tokens, targets, int(reached), int(status[0]))
