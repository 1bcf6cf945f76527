"""Positions of sequences by what stands there, and the values that networks have at them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks import Exam, labels_of

if TYPE_CHECKING:
    from torch import Tensor

Int64 = NDArray[np.int64]
At = str | int

ROLES = ("key", "anchor1", "anchor2", "last")
_OTHERS = 1  # sub of the auxiliary stream that draws other positions


def roles_of(exam: Exam) -> dict[str, Int64]:
    """Where the key, the two anchors behind it and the last token stand, [N] each.

    Of an exam without keys and anchors the last token alone.
    """
    labels, (items, length) = labels_of(exam), exam.inputs.shape[:2]
    last = np.full(items, length - 1)
    if not {"position", "anchor1", "anchor2"} <= set(labels):
        return {"last": last}
    key = labels["position"][:, 0].astype(np.int64)
    return {"key": key, "anchor1": key + 1, "anchor2": key + 2, "last": last}


def key_positions(exam: Exam, task: str) -> Int64:
    """Where the key stands, [N]; UsageError for a task without a key and two anchors."""
    roles = roles_of(exam)
    if "key" not in roles:
        raise UsageError(
            f"task.name is {task}; information flow needs a key and two anchors, which the exam's"
            " labels position, anchor1 and anchor2 tell"
        )
    return roles["key"]


def other_positions(key: Int64, length: int) -> Int64:
    """For each key a place where it and its anchors would be three other tokens, all before the
    last one: the control. -1 where there is none.
    """
    places = np.arange(length - 3)
    apart = np.abs(places - key[:, None]) >= 3  # [N, places]
    count = apart.sum(axis=1)
    words = philox.words(0, philox.AUX, 0, _OTHERS, 0, len(key)).astype(np.uint64)
    turn = (words * count.astype(np.uint64)) >> np.uint64(32)  # below count
    chosen = apart & (apart.cumsum(axis=1) == turn.astype(np.int64)[:, None] + 1)
    return np.where(count > 0, chosen.argmax(axis=1), -1)


def resolved(at: Sequence[At] | None, roles: Mapping[str, Int64], inputs: NDArray[Any]) -> Any:
    """The positions `at`, roles or numbers from 0, of each item: int64 [N, P]; None: all.

    Raises UsageError for one that there is not.
    """
    if at is None:
        return None
    if isinstance(at, str | int) or not len(at):
        raise UsageError(f"positions are {at!r}; they must be a list of {_allowed(roles, inputs)}")
    columns = [_column(one, roles, inputs) for one in at]
    return np.stack(columns, axis=1)


def _column(at: At, roles: Mapping[str, Int64], inputs: NDArray[Any]) -> Int64:
    items, length = inputs.shape[:2]
    if isinstance(at, str) and at in roles:
        return roles[at]
    try:
        place = operator.index(at)  # type: ignore[arg-type]  # of a text it raises TypeError
    except TypeError:
        place = -1
    if not 0 <= place < length:
        raise UsageError(f"a position is {at!r}; it must be {_allowed(roles, inputs)}")
    return np.full(items, place)


def _allowed(roles: Mapping[str, Int64], inputs: NDArray[Any]) -> str:
    return f"{', '.join(roles)} or 0 to {inputs.shape[1] - 1}"


def take(value: Tensor, at: Int64 | None) -> Tensor:
    """Rows [n, .., P, D] of values [n, .., T, D] at positions [n, P]; None: all."""
    return value if at is None else value.take_along_dim(_index(value, at), dim=-2)


def put(value: Tensor, at: Int64 | None, new: Tensor) -> Tensor:
    """Values [n, .., T, D] with `new`, which broadcasts to [n, .., P, D], at positions [n, P]."""
    if at is None:
        return new.expand_as(value).clone()
    index = _index(value, at)
    shape = (*value.shape[:-2], index.shape[-2], value.shape[-1])
    return value.scatter(-2, index.expand(shape), new.expand(shape))


def _index(value: Tensor, at: Int64) -> Tensor:
    """[n, 1, .., P, 1]."""
    import torch

    return torch.from_numpy(at).view(len(at), *(1,) * (value.ndim - 3), -1, 1)
