"""Mean over rows of log sum exp(z) - z[target], one loss a member."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compfast.ops.shared import Sizes, call, check_indices, check_native, check_shape, is_native


def cross_entropy(logits: Tensor, targets: Tensor, *, impl: str = "native") -> Tensor:
    """logits [M, N, V], targets [M, N] (int32 or int64, below V) -> loss [M].

    Raises UsageError.
    """
    sizes: Sizes = {}
    check_shape("cross_entropy", "logits", logits, "M N V", sizes)
    check_shape("cross_entropy", "targets", targets, "M N", sizes)
    check_indices("cross_entropy", targets=targets)
    targets = targets.long()
    if not is_native(impl):
        chosen = logits.gather(-1, targets[..., None])[..., 0]
        return (logits.logsumexp(-1) - chosen).mean(-1)
    check_native("cross_entropy", torch.float32, logits=logits)
    check_native("cross_entropy", torch.int64, targets=targets)
    loss: Tensor = _cross_entropy(logits, targets)[0]
    return loss


@torch.library.custom_op("compfast::cross_entropy", mutates_args=(), device_types="cpu")
def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss [M] and its gradient [M, N, V]: the exponentials are at hand."""
    logits, targets = logits.contiguous(), targets.contiguous()
    loss, d_logits = _outputs(logits)
    threads = torch.get_num_threads()
    call("cross_entropy", *logits.shape, threads, logits, targets, loss, d_logits)
    return loss, d_logits


@_cross_entropy.register_fake
def _(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return _outputs(logits)


def _outputs(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape[0]), logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor, None]:
    (d_logits,) = ctx.saved_tensors
    return d_logits * d_loss[:, None, None], None


_cross_entropy.register_autograd(_backward, setup_context=_save)
