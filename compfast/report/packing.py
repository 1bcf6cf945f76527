"""Columns of numbers as compact JSON: base64 of little-endian arrays, read by assets/data.js."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Packed = dict[str, str]

_KINDS = ("u1", "u2", "u4", "i2", "f4", "f8")  # what data.js has typed arrays for


def packed(values: ArrayLike, kind: str) -> Packed:
    """The values as numbers of this kind ("f4": float32); NaN where a float is missing."""
    if kind not in _KINDS:
        raise ValueError(f"{kind} is none of {', '.join(_KINDS)}")
    array = np.ascontiguousarray(values, np.dtype(f"<{kind}"))
    return {"kind": kind, "bytes": base64.b64encode(array.tobytes()).decode()}


def indices(values: ArrayLike, size: int) -> Packed:
    """Places in a list of `size` entries, in as few bytes as tell them apart."""
    return packed(values, "u1" if size <= 2**8 else "u2" if size <= 2**16 else "u4")


def script_json(value: Any) -> str:
    """JSON that may stand inside of a script element, whatever its texts hold.

    NaN and infinities are no JSON: they become null. Lone surrogates stay escaped.
    """
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
