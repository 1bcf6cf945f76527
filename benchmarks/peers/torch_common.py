"""What the PyTorch peers share: drawing batches, weights by layer, the speed of its GEMM."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from benchmarks.problem import Problem

_GEMM = 512


class AnchorBatches:
    """Fresh batches drawn by torch, vectorised over any number of sequences."""

    def __init__(self, problem: Problem) -> None:
        self._pairs = torch.from_numpy(problem.task.train_pairs).long()  # [P, 3]
        self._combos = torch.from_numpy(problem.task.train_combos).long()  # [A, 2]
        config = problem.task.config
        self._low, self._high, self._length = config.item_low, config.item_high, config.seq_len
        self._offsets = torch.arange(3)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """tokens int64 [count, T], targets int64 [count]."""
        pair = self._pairs[torch.randint(len(self._pairs), (count,))]
        combo = self._combos[torch.randint(len(self._combos), (count,))]
        tokens = torch.randint(self._low, self._high, (count, self._length))
        key, position = combo[:, :1], combo[:, 1:]
        tokens.scatter_(1, position + self._offsets, torch.cat((key, pair[:, :2]), dim=1))
        return tokens, combo[:, 0] + pair[:, 2]


def own_batch(problem: Problem, step: int) -> tuple[Tensor, Tensor]:
    """compfast's batch as int64 tensors: tokens [M, B, T], targets [M, B]."""
    tokens, targets = problem.batch(step)
    return torch.from_numpy(tokens).long(), torch.from_numpy(targets).long()


def initial_tensors(problem: Problem) -> dict[str, Tensor]:
    """compfast's initial weights, name -> [M, *shape], with Q, K and V joined.

    `blocks.N.attention.query|key|value.X` become `blocks.N.qkv.X` (rows in that order).
    """
    named = {name: torch.from_numpy(value) for name, value in problem.initial().items()}
    joined: dict[str, Tensor] = {}
    for name, value in named.items():
        layer, _, rest = name.partition(".attention.")
        part, _, kind = rest.partition(".")
        if part in ("key", "value"):
            continue
        if part == "query":
            parts = [named[f"{layer}.attention.{p}.{kind}"] for p in ("query", "key", "value")]
            joined[f"{layer}.qkv.{kind}"] = torch.cat(parts, dim=1)
        else:
            joined[f"{layer}.output.{kind}" if part == "output" else name] = value
    return joined


def matmul_description() -> str:
    return f"torch {torch.__version__} CPU GEMM"


def matmul_rate() -> float:
    """GFLOP/s of float32 [512, 512] @ [512, 512], median of 15."""
    a, b = torch.randn(_GEMM, _GEMM), torch.randn(_GEMM, _GEMM)
    times = []
    for _ in range(18):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * _GEMM**3 / statistics.median(times[3:]) / 1e9
