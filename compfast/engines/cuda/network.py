"""The networks that compfast._cuda is compiled for (csrc/cuda/network.h)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from compfast.config import WEIGHT_DECAYS, MemberSpec
from compfast.errors import UsageError
from compfast.tasks import make_task

LENGTH = "the length of the task's sequences"  # that of a task, not a field

# Fields that csrc/cuda takes as they come: numbers of the launch, or nothing to the kernel.
FREE = frozenset(
    {
        *("model.norm_eps", "model.rms_eps", "model.buckets"),
        *("optimizer.lr", "optimizer.weight_decay", "optimizer.clip", "optimizer.beta1"),
        *("optimizer.beta2", "optimizer.eps", "optimizer.schedule", "optimizer.warmup"),
        *("optimizer.start", "optimizer.points"),
        *("optimizer.floor", "optimizer.base_lr", "optimizer.decay_windows"),
        *("optimizer.kind", "optimizer.momentum", "optimizer.nesterov", "optimizer.decay"),
        *(f"optimizer.{name}" for name in WEIGHT_DECAYS),
        *("training.steps", "training.batch_size", "training.log_every", "training.eval_every"),
        *("training.stop_loss", "training.stop_stable"),
    }
)


# What all of them have. Of a task nothing counts but its length: what else goes into a network and
# is asked of it stands in the model's fields.
COMMON: dict[str, Any] = {
    "model.family": "transformer",
    "training.precision": "fp32",
    "model.norm": "pre",
    "model.norm_bias": True,
    "model.attention": "softmax",
    "model.logits": "vocabulary",
    "model.final_norm": True,
    "model.activation": "gelu",
    "model.attention_bias": True,
    "model.ffn_bias": True,
    "model.head_bias": True,
    "model.tied_head": False,
    "model.causal": True,
    "model.loss_positions": "last",
    "model.input_width": 0,
    "model.asked": 1,
    "model.loss": "cross_entropy",
    "model.position": "learned",
    "model.value_path": "none",
    "model.value_activation": "none",
    "model.attention_dropout": 0.0,
}


def sizes(shape: Mapping[str, Any]) -> dict[str, int]:
    """The value that each remaining field must have for one of `_cuda.shapes()`."""
    head = shape["d_model"] // shape["heads"]
    return {
        "model.layers": shape["layers"],
        "model.d_model": shape["d_model"],
        "model.heads": shape["heads"],
        "model.d_k": head,
        "model.d_v": head,
        "model.d_ff": shape["d_ff"],
        "model.vocab_size": shape["vocabulary"],
        LENGTH: shape["positions"],
        "model.max_positions": shape["positions"],
    }


def find_network(specs: Sequence[MemberSpec], shapes: Sequence[Mapping[str, Any]]) -> int:
    """Which of `_cuda.shapes()` trains the members of one group.

    Raises UsageError where none does, naming the first field that differs; of a size, beside the
    network from which the fewest fields differ.
    """
    for spec, (path, wanted) in itertools.product(specs, COMMON.items()):
        given = _given(spec, path)
        if given != wanted:
            raise UsageError(
                f"{path} is {given}; engine cuda is compiled for {wanted} alone, and"
                f" {_others(path, given)} {given}"
            )
    spec = specs[0]  # of whose size all are
    differing = [
        [path for path, wanted in sizes(shape).items() if _given(spec, path) != wanted]
        for shape in shapes
    ]
    nearest = min(range(len(shapes)), key=lambda i: len(differing[i]))
    if not differing[nearest]:
        return nearest
    path = differing[nearest][0]
    given, wanted = _given(spec, path), sizes(shapes[nearest])[path]
    raise UsageError(
        f"{path} is {given}; the nearest network that engine cuda is compiled for has {wanted}"
        f" ({_described(shapes[nearest])}), and {_others(path, given)} {given}"
    )


def _given(spec: MemberSpec, path: str) -> Any:
    if path == LENGTH:
        return make_task(spec.task).length
    section, _, name = path.partition(".")
    return getattr(getattr(spec, section), name)


def _described(shape: Mapping[str, Any]) -> str:
    s, heads = shape, shape["heads"]
    return (
        f"{s['layers']} layers, d_model {s['d_model']}, {heads} head{'s' if heads > 1 else ''},"
        f" d_ff {s['d_ff']}, vocab_size {s['vocabulary']}, seq_len {s['positions']}"
    )


def _others(path: str, given: Any) -> str:
    if given == "tf32":
        return "engine triton takes"
    if path == "model.family":  # canonical is not triton's (triton/refusals.py)
        return "engines native and eager take"
    return "engines native, eager and triton take"
