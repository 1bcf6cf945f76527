"""What a task decides of a network of blocks: what goes in, and what comes out."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from compfast.config import ModelConfig, Ports
from compfast.errors import UsageError
from compfast.models.families.base import check_masked, check_resolved
from compfast.models.resolved import known

Own = TypeVar("Own", bound=ModelConfig)


def resolved(model: Own, ports: Ports) -> Own:
    """See `compfast.models.families.resolve`."""
    positions = model.max_positions or ports.length
    found = dataclasses.replace(
        model,
        d_k=model.d_k or model.d_model // model.heads,
        d_v=model.d_v or model.d_model // model.heads,
        d_ff=model.d_ff or 2 * model.d_model,
        max_positions=positions,
        buckets=model.buckets or positions,
        final_norm=model.norm == "pre" if model.final_norm is None else model.final_norm,
        **_ends(model, ports),
    )
    check_resolved(known(found.vocab_size), positions, ports)
    return found


def _ends(model: ModelConfig, ports: Ports) -> dict[str, Any]:
    """What goes in and what comes out: the fields that a task decides.

    Raises UsageError for a network that cannot take the task's inputs, or gives other answers.
    """
    own = {"input_width": ports.width, "asked": ports.asked, "loss": ports.loss}
    for name, asked in own.items():
        given = getattr(model, name)
        if given not in (None, asked):
            raise UsageError(f"model.{name} is {given}; this task has {asked}")
    check_masked(model.family, ports, model.loss_positions == "masked")
    if ports.causal and not model.causal:
        raise UsageError(
            "model.causal is false; later inputs of this task hold what is asked for, so that it"
            " needs model.causal = true"
        )
    single, vectors = model.logits == "single", ports.width > 0
    if single and ports.masked:
        raise UsageError(
            "model.logits is single; a loss under a mask needs model.logits = vocabulary"
        )
    if single and (ports.vocabulary != 2 or vectors or model.vocab_size not in (None, 2)):
        raise UsageError(
            f"model.logits is single, for tokens 0 and 1; this task has {ports.vocabulary} and"
            f" model.vocab_size is {model.vocab_size}; model.logits = vocabulary takes any"
        )
    if not vectors:
        own["vocab_size"] = 2 if single else model.vocab_size or -(-ports.vocabulary // 16) * 16
        return {**own, "position": _position(model, "learned")}
    for name, value, allowed in (
        ("position", model.position, ("auto", "relative", "none")),
        ("tied_head", model.tied_head, (False,)),
        ("loss_positions", model.loss_positions, ("last",)),
        ("vocab_size", model.vocab_size, (ports.vocabulary,)),
    ):
        if value is not None and value not in allowed:
            raise UsageError(
                f"model.{name} is {value}; for a task of vectors it must be"
                f" {' or '.join(map(str, allowed))}"
            )
    return {**own, "vocab_size": ports.vocabulary, "position": _position(model, "relative")}


def _position(model: ModelConfig, usual: str) -> str:
    return usual if model.position == "auto" else model.position
