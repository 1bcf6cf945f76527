"""Valid calls of the bindings with one thing in them changed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

from compfast import _native

sys.path.append(str(Path(__file__).parent / "cpp"))
import fuzzed_calls


def changed(path: str, value: Any, network: str = "own_head_sizes", data: str = "fixed") -> Any:
    """A valid call with one number or array replaced, e.g. "group.plan.ops.0.weight"."""
    call = copy.deepcopy(fuzzed_calls.valid(network, "fp32", data))
    node: Any = call
    *inner, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in inner:
        node = node[key]
    node[last] = value(node[last]) if callable(value) else value
    return call


def attempt(call: dict[str, Any], method: str | None = None) -> Any:
    given = call["group"]
    made = _native.Group(*(given[n] for n in ("plan", "tables", "stream", "arrays", "threads")))
    return getattr(made, method)(**call[method]) if method else made


def stream_of(network: str, data: str) -> dict[str, Any]:
    """The record that such a group draws from."""
    call = copy.deepcopy(fuzzed_calls.valid(network, "fp32", data))
    stream: dict[str, Any] = call["group"]["stream"]
    return stream
