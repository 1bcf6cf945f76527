"""Members on a device for compfast._cuda: what an engine would allocate, as torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cuda_host import flat_layout

from compfast import _cuda
from compfast.config import MemberSpec
from compfast.init import initial_parameters
from compfast.schedule import make_tables
from compfast.tasks import make_task


@dataclass
class Device:
    """All tensors of a group of members of the kernel's one shape; rows are members."""

    specs: Sequence[MemberSpec]
    device: str
    tensors: dict[str, torch.Tensor]

    def train(self, base: int, until: int) -> None:
        """To step `until`, waiting for the end; loss and grad_norm are [M, until - base]."""
        first, task = self.specs[0], make_task(self.specs[0].task)
        tables, stream = make_tables(self.specs), task.stream_table()
        shared = {
            "pairs": self._put(stream["pairs"], np.int32),
            "combos": self._put(stream["combos"], np.int32),
            "scale": self._put(tables.scale, np.float64),
            "offset": self._put(tables.offset, np.float64),
            "correction1": self._put(tables.bias_correction1, np.float64),
            "correction2": self._put(tables.bias_correction2, np.float64),
        }
        for name in ("loss", "grad_norm"):
            shape = (len(self.specs), until - base)
            self.tensors[name] = torch.full(shape, torch.nan, device=self.device)
        at = {name: tensor.data_ptr() for name, tensor in shared.items()}
        sizes = {name: stream[name] for name in ("item_low", "item_count", "words", "group_size")}
        counts = {"pair_count": len(stream["pairs"]), "combo_count": len(stream["combos"])}
        options = first.optimizer
        cuda = self.device == "cuda"
        _cuda.train(
            {**at, **sizes, **counts},
            {**at, "beta1": options.beta1, "beta2": options.beta2, "eps": options.eps},
            first.training.batch_size,
            first.model.norm_eps,
            {name: tensor.data_ptr() for name, tensor in self.tensors.items()},
            len(self.specs),
            base,
            until,
            torch.cuda.current_stream().cuda_stream if cuda else 0,
        )
        torch.cuda.synchronize()

    def _put(self, array: Any, kind: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, kind)).to(self.device)


def on_device(specs: Sequence[MemberSpec], device: str) -> Device:
    """Members at step 0."""
    flat, tables, count = flat_layout(specs[0]), make_tables(specs), len(specs)
    params = np.zeros((count, flat.size), np.float32)
    for i, spec in enumerate(specs):
        drawn = initial_parameters(spec, tables.std[i])
        flat.pack({name: value[None] for name, value in drawn.items()}, params[i : i + 1])
    batch, length = specs[0].training.batch_size, specs[0].task.seq_len
    tensors = {"params": torch.from_numpy(params).to(device)}
    for name in ("exp_avg", "exp_avg_sq", "gradient"):
        tensors[name] = torch.zeros(params.shape, device=device)
    whole = torch.int32
    tensors["tokens"] = torch.zeros((count, batch, length), dtype=whole, device=device)
    tensors["targets"] = torch.zeros((count, batch), dtype=whole, device=device)
    tensors["seeds"] = torch.tensor([s.seed for s in specs], dtype=torch.int64, device=device)
    for name in ("lr", "weight_decay", "clip"):
        values = [getattr(s.optimizer, name) for s in specs]
        tensors[name] = torch.tensor(values, dtype=torch.float64, device=device)
    tensors["step"] = torch.zeros(count, dtype=torch.int64, device=device)
    tensors["status"] = torch.zeros(count, dtype=torch.uint8, device=device)
    return Device(specs, device, tensors)
