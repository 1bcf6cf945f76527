"""The one network that compfast._cuda is compiled for (csrc/cuda/network.h)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compfast.config import MemberSpec
from compfast.errors import UsageError

# Fields that csrc/cuda takes as they come: numbers of the launch, or nothing to the kernel.
FREE = frozenset(
    {
        *("task.anchors", "task.shifts", "task.item_low", "task.item_high", "task.overridden"),
        *("task.unseen", "task.key_modulus", "task.data", "task.fixed_total"),
        *("task.fixed_train_weight", "model.norm_eps"),
        *("optimizer.lr", "optimizer.weight_decay", "optimizer.clip", "optimizer.beta1"),
        *("optimizer.beta2", "optimizer.eps", "optimizer.schedule", "optimizer.warmup"),
        *("optimizer.floor", "optimizer.base_lr"),
        *("training.steps", "training.batch_size", "training.log_every", "training.eval_every"),
        *("training.stop_loss", "training.stop_stable"),
    }
)


def taken(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The value that each other field must have; `shape` is `_cuda.shape()`."""
    return {
        "task.name": "anchor",
        "training.precision": "fp32",
        "model.layers": shape["layers"],
        "model.d_model": shape["d_model"],
        "model.heads": 1,
        "model.d_k": shape["d_model"],
        "model.d_v": shape["d_model"],
        "model.d_ff": shape["d_ff"],
        "model.vocab_size": shape["vocabulary"],
        "model.max_positions": shape["positions"],
        "model.norm": "pre",
        "model.final_norm": True,
        "model.activation": "gelu",
        "model.attention_bias": True,
        "model.ffn_bias": True,
        "model.head_bias": True,
        "model.tied_head": False,
        "model.causal": True,
        "model.loss_positions": "last",
        "task.seq_len": shape["positions"],
        "optimizer.decay": "all",
    }


def check_network(spec: MemberSpec, shape: Mapping[str, Any]) -> None:
    """Raises UsageError, naming the first field that differs, unless the kernel trains `spec`."""
    for path, wanted in taken(shape).items():
        section, _, name = path.partition(".")
        given = getattr(getattr(spec, section), name)
        if given != wanted:
            all_take = given != "tf32"
            raise UsageError(
                f"{path} is {given}; engine cuda is compiled for {wanted} alone, and"
                f" {'engines native, eager and triton take' if all_take else 'engine triton takes'}"
                f" {given}"
            )
