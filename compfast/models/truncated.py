"""Initial weights of a normal law cut at two of its own std: `init.law` truncated.

Flax's default for dense layers, with gamma 0.5 its LeCun normal; its tables of embeddings and of
relative positions are plain normals (arXiv 2406.05816, section on initialisation, and its code).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compfast.models.tensors import Tensor
from compfast.streams import philox

_SUB = 2  # of the init streams: from here on the other candidates of an element
_CANDIDATES = 8  # each falls outside once in 22 times; after the last, one in 5e10 is cut
_CUT = 2.0
_STD = 0.87962566103423978  # of a standard normal cut at 2
_PLAIN = ("embed.token.weight", "embed.position.weight", "attention.relative.weight")


def rules(tensor: Tensor) -> bool:
    """Whether this law gives the tensor its values."""
    return tensor.init == "normal" and not tensor.name.endswith(_PLAIN)


def normals(tensor: Tensor, seed: int) -> NDArray[np.float64]:
    """float64 [size] of std 1: the first candidate within the cut, over the std of such a law.

    Candidate 0 of element e is normal e of the tensor's own stream, the later ones of streams
    beside it, so that an element hangs on no other.
    """
    found = philox.normals(seed, philox.INIT, tensor.id, 0, tensor.size)
    for other in range(1, _CANDIDATES):
        outside = np.abs(found) > _CUT
        if not outside.any():
            break
        again = philox.normals(seed, philox.INIT, tensor.id, _SUB + other - 1, tensor.size)
        found = np.where(outside, again, found)
    cut: NDArray[np.float64] = np.clip(found, -_CUT, _CUT) / _STD
    return cut
