"""x[b, t] = token_table[tokens[b, t]] + position_table[t] of every member."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compfast.errors import UsageError
from compfast.ops.shared import Sizes, call, check_indices, check_native, check_shape, is_native


def embedding(
    tokens: Tensor, token_table: Tensor, position_table: Tensor, *, impl: str = "native"
) -> Tensor:
    """tokens [M, B, T] (int32 or int64), tables [M, V, D] and [M, P, D], P >= T -> [M, B, T, D].

    Raises UsageError, for a token outside the table too.
    """
    sizes: Sizes = {}
    check_shape("embedding", "tokens", tokens, "M B T", sizes)
    check_shape("embedding", "token_table", token_table, "M V D", sizes)
    check_shape("embedding", "position_table", position_table, "M P D", sizes)
    check_indices("embedding", tokens=tokens)
    if sizes["T"] > sizes["P"]:
        raise UsageError(
            f"embedding: tokens have {sizes['T']} positions; position_table has {sizes['P']}"
        )
    tokens = tokens.long()
    if not is_native(impl):
        members = torch.arange(sizes["M"], device=tokens.device)[:, None, None]
        return token_table[members, tokens] + position_table[:, None, : sizes["T"]]
    tables = {"token_table": token_table, "position_table": position_table}
    check_native("embedding", torch.float32, **tables)
    check_native("embedding", torch.int64, tokens=tokens)
    x: Tensor = _embedding(tokens, token_table, position_table)
    return x


@torch.library.custom_op("compfast::embedding", mutates_args=(), device_types="cpu")
def _embedding(tokens: Tensor, token_table: Tensor, position_table: Tensor) -> Tensor:
    tokens = tokens.contiguous()
    tables = token_table.contiguous(), position_table.contiguous()
    x = token_table.new_empty(*tokens.shape, token_table.shape[2])
    sizes = (*x.shape, token_table.shape[1], position_table.shape[1], torch.get_num_threads())
    call("embed_forward", *sizes, tokens, *tables, x)
    return x


@_embedding.register_fake
def _(tokens: Tensor, token_table: Tensor, position_table: Tensor) -> Tensor:
    return token_table.new_empty(*tokens.shape, token_table.shape[2])


@torch.library.custom_op("compfast::embedding_backward", mutates_args=(), device_types="cpu")
def _embedding_backward(
    tokens: Tensor, dx: Tensor, vocabulary: int, positions: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the two tables."""
    tokens, dx = tokens.contiguous(), dx.contiguous()
    tables = _tables(dx, vocabulary, positions)
    sizes = (*dx.shape, vocabulary, positions, torch.get_num_threads())
    call("embed_backward", *sizes, tokens, dx, *tables)
    return tables


@_embedding_backward.register_fake
def _(tokens: Tensor, dx: Tensor, vocabulary: int, positions: int) -> tuple[Tensor, Tensor]:
    return _tables(dx, vocabulary, positions)


def _tables(dx: Tensor, vocabulary: int, positions: int) -> tuple[Tensor, Tensor]:
    members, width = dx.shape[0], dx.shape[-1]
    # Zero where no sequence reaches a position.
    zeros = dx.new_zeros(members, positions, width)
    return dx.new_empty(members, vocabulary, width), zeros


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, token_table, position_table = inputs
    ctx.save_for_backward(tokens)
    ctx.sizes = token_table.shape[1], position_table.shape[1]


def _backward(ctx: Any, dx: Tensor) -> tuple[None, Tensor, Tensor]:
    (tokens,) = ctx.saved_tensors
    return None, *_embedding_backward(tokens, dx, *ctx.sizes)


_embedding.register_autograd(_backward, setup_context=_save)
