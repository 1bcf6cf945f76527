"""Losses of sequences in plain PyTorch, which every family's module shares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sequence_loss(logits: Tensor, tokens: Tensor, targets: Tensor, positions: str) -> Tensor:
    """Mean cross-entropy of logits [B, T, V] for tokens [B, T] and what follows them, targets [B].

    positions "last": of the last position only, mean over B. "all": position t predicts
    token t + 1 and the last one predicts the target, mean over B x T. "masked": targets [B, T]
    of each position, -1 where nothing is asked; mean over the others of a sequence, then over
    sequences, so that a sequence weighs the same whatever its length. One in which nothing is
    asked adds nothing.
    """
    if positions == "masked":
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-1, reduction="none")
        return (losses.sum(1) / (targets >= 0).sum(1).clamp(min=1)).mean()
    if positions == "last":
        return F.cross_entropy(logits[:, -1], targets)
    following = torch.cat([tokens[:, 1:], targets[:, None]], dim=1)  # [B, T]
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def answers_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of outputs [B, T, V] at the last positions, as many as there are targets.

    Targets float [B, k, V]: squared error, mean over all numbers; ids [B, k]: cross-entropy, mean
    over B x k.
    """
    asked = outputs[:, -targets.shape[1] :]
    if targets.is_floating_point():
        return F.mse_loss(asked, targets)
    return F.cross_entropy(asked.flatten(0, 1), targets.flatten())


def binary_logits(logit: Tensor) -> Tensor:
    """[...] logit of token 1 -> [..., 2], token 0 having 0: their cross-entropy is the logistic
    loss of the one."""
    return torch.stack([torch.zeros_like(logit), logit], dim=-1)
