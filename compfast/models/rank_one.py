"""Initial weights of rank one along one vector of signs alpha: `init.law` rank_one.

Makkuva et al., arXiv 2406.03072, and its code (`--init lowrank`): token 1 starts at e alpha and
token 0 at 0, every position at -(e / 2) alpha, the value matrix at 0, ffn.up at w alpha^T and
ffn.down at alpha w^T, with e and the |w_j| = |scale N(0, 1)| and signs at random. UNVERIFIED: the
code names no more, so query, key and output keep the scale that the other fields give them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compfast.models.tensors import Tensor
from compfast.streams import philox

_SUB = 1  # of the init streams, whose sub 0 are the tensors' own
_ALPHA, _E, _W = 0, 1, 2  # steps of those; w has one a layer, from 2 on
_RULED = (
    *("embed.token.weight", "embed.position.weight", "attention.value.weight"),
    *("ffn.up.weight", "ffn.down.weight"),
)


def rules(tensor: Tensor) -> bool:
    """Whether this law gives the tensor its values."""
    return tensor.name.endswith(_RULED)


def values(tensor: Tensor, seed: int, scale: float) -> NDArray[np.float32]:
    """The tensor's initial values, float32 of its shape, of the init stream of `seed`."""
    found = np.zeros(tensor.shape)
    rows, columns = tensor.shape
    e = abs(scale * float(philox.normals(seed, philox.INIT, _E, _SUB, 1)[0]))
    if tensor.name == "embed.token.weight":
        found[1 if rows > 1 else 0] = e * _signs(seed, _ALPHA, columns)
    elif tensor.name == "embed.position.weight":
        found[:] = -e / 2 * _signs(seed, _ALPHA, columns)
    elif tensor.name.endswith("ffn.up.weight"):
        found = np.outer(_w(tensor, seed, scale, rows), _signs(seed, _ALPHA, columns))
    elif tensor.name.endswith("ffn.down.weight"):
        found = np.outer(_signs(seed, _ALPHA, rows), _w(tensor, seed, scale, columns))
    return found.astype(np.float32)


def _signs(seed: int, step: int, count: int) -> NDArray[np.float64]:
    words = philox.words(seed, philox.INIT, step, _SUB, 0, count)
    return np.where(words >> np.uint32(31), 1.0, -1.0)


def _w(tensor: Tensor, seed: int, scale: float, count: int) -> NDArray[np.float64]:
    """w [count] of the tensor's layer; its matrices share it."""
    layer = tensor.id // 64 - 1
    return scale * philox.normals(seed, philox.INIT, _W + layer, _SUB, count)
