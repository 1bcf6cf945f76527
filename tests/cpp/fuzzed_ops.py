"""Single ops on tensors of exactly their size, of which one thing is changed: an address is
missing, an index is out of range, a size is absurd. What an op cannot know, that an address leads
to fewer numbers than the sizes say, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from fuzzed_calls import _refused
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]
Attempt = Callable[[], object]
ABSURD = (0, -1, -(2**31), -(2**63), 2**46, 2**53, 2**60, 2**62, 2**63 - 1, 2**63, 10**30)
NOT_WHOLE: tuple[Any, ...] = (None, "x", 1.5, float("nan"), [], b"1")


@dataclass
class OpCall:
    """`sizes` come first, in order; `options` may hold what is no size; `optional` may be 0."""

    name: str
    sizes: dict[str, Any]
    options: dict[str, tuple[Any, ...]]  # name -> values that must be refused
    tensors: dict[str, Array]
    indices: str = ""  # the tensor of indices
    optional: tuple[str, ...] = ()


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def calls(m: int, n: int, a: int, b: int, t: int) -> list[OpCall]:
    """Every op over some sizes."""
    threads = {"threads": (0, -1, 2**31, 2**62)}
    kinds = {"activation": (-1, 4, 2**31)}
    linear = {"m": m, "rows": n, "d_in": a, "d_out": b, "activation": a % 4, "bf16": b % 2}
    x, w, y = floats(m, n, a), floats(m, b, a), floats(m, n, b)
    slope = {"slope": floats(m, n, b)}
    norm = {"x": x, "g": floats(m, a)}
    saved = floats(m, n, 2)
    sequences = {"m": m, "s": n, "t": t, "heads": 2, "d_k": a, "d_v": b, "causal": True}
    q, v = floats(m, n, t, 2, a), floats(m, n, t, 2, b)
    p = floats(m, n, 2, t, 16 if t <= 16 else 2)
    queries = 1 + a % t
    mixed = {"m": m, "s": n, "queries": queries, "t": t, "heads": 2, "d_k": a, "d_v": b,
             "causal": True, "weights": n % 3, "path": 3, "eps": 1e-6}  # fmt: skip
    ways = {"weights": (-1, 3, 2**31), "path": (-1, 4, 2**31), "eps": (0.0, -1.0, float("nan"))}
    ask, o = floats(m, n, queries, 2, a), floats(m, n, queries, 2, b)
    asked = {"q": ask, "k": q, "v": v, "bias": floats(m, 2, 2 * t - 1),
             "keep": floats(m, queries, t), "deep": floats(m, 2, b, b)}  # fmt: skip
    tables = {"m": m, "s": n, "t": t, "d": a, "vocabulary": b, "positions": t + 1}
    tokens = np.zeros((m, n, t), np.int64)
    embedded, table, places = floats(m, n, t, a), floats(m, b, a), floats(m, t + 1, a)
    each = {name: np.ones(m) for name in ("lr", "decay", "clip")}
    seeds = np.arange(m, dtype=np.int64)
    ld, stride = b + 1, n * (b + 1)
    return [
        OpCall("linear_forward", linear, threads | kinds,
               {"x": x, "w": w, "b": floats(m, b), "y": y} | slope, optional=("b",)),
        OpCall("linear_backward", linear, threads | kinds,
               {"x": x, "w": w} | slope
               | {"dy": y, "dx": x.copy(), "dw": w.copy(), "db": floats(m, b)}, optional=("db",)),
        OpCall("norm_forward", {"m": m, "rows": n, "d": a, "eps": 1e-5}, threads,
               norm | {"b": floats(m, a), "y": x.copy(), "saved": saved}),
        OpCall("norm_backward", {"m": m, "rows": n, "d": a}, threads,
               norm | {"dy": x.copy(), "saved": saved, "dx": x.copy(), "dg": floats(m, a),
                       "db": floats(m, a)}),
        OpCall("attention_forward", sequences, threads,
               {"q": q, "k": q.copy(), "v": v, "o": v.copy(), "saved": p}),
        OpCall("attention_backward", sequences, threads,
               {"q": q, "k": q.copy(), "v": v, "o": v.copy(), "saved": p, "d_o": v.copy(),
                "dq": q.copy(), "dk": q.copy(), "dv": v.copy()}),
        OpCall("mixed_forward", mixed, threads | ways, asked | {"o": o}, optional=("bias", "keep")),
        OpCall("mixed_backward", mixed, threads | ways,
               asked | {"d_o": o, "dq": ask.copy(), "dk": q.copy(), "dv": v.copy(),
                        "d_bias": asked["bias"].copy(), "d_deep": asked["deep"].copy()},
               optional=("bias", "keep")),
        OpCall("cross_entropy", {"m": m, "rows": n, "vocabulary": b}, threads,
               {"logits": y, "targets": np.zeros((m, n), np.int64), "loss": floats(m),
                "d_logits": y.copy()}, indices="targets"),
        OpCall("activation", {"m": m, "count": n * a, "kind": 1 + a % 3},
               threads | {"kind": (0, -1, 4, 2**31)},
               {"x": x, "y": x.copy(), "slope": x.copy()}),
        OpCall("embed_forward", tables, threads,
               {"tokens": tokens, "table": table, "places": places, "x": embedded},
               indices="tokens"),
        OpCall("embed_backward", tables, threads,
               {"tokens": tokens, "dx": embedded, "d_table": table, "d_places": places},
               indices="tokens"),
        OpCall("adamw", {"m": m, "count": n * a, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}, threads,
               {"g": x, "p": x.copy(), "first": abs(x), "second": abs(x)} | each
               | {"step": np.ones(m, np.int64)}),
        OpCall("sgd", {"m": m, "count": n * a, "momentum": 0.9 * (b % 2), "nesterov": a % 2},
               threads, {"g": x, "p": x.copy(), "buffer": x.copy()} | each),
        OpCall("philox_words", {"m": m, "purpose": 1, "step": 2, "sub": 3, "start": t, "count": n},
               threads | {"start": (-1, 2**34, 2**62)},
               {"seeds": seeds, "words": np.zeros((m, n), np.int64)}),
        OpCall("normals", {"m": m, "rows": n, "columns": b, "stride": stride, "ld": ld, "id": 3},
               threads | {"stride": (0, -1, stride - ld, 2**62), "ld": (0, -1, b - 1, 2**62)},
               {"seeds": seeds, "std": np.ones(m), "weights": floats(m, n, ld)}),
    ]  # fmt: skip


NO_SIZE = ("activation", "bf16", "causal", "weights", "path", "eps", "kind", "beta1", "beta2",
           "momentum", "nesterov", "purpose", "step", "sub", "start", "stride", "ld", "id",
           "threads")  # fmt: skip


@st.composite
def ops(draw: Any) -> Iterator[Attempt]:
    """One op as it should be, then with one thing changed that must be refused."""
    from compfast import _native

    size = st.sampled_from((1, 2, 3, 5, 16, 17, 31))
    call = draw(st.sampled_from(calls(draw(st.integers(1, 3)), *(draw(size) for _ in range(4)))))
    sizes = call.sizes | {"threads": draw(st.integers(1, 3))}
    addresses = {name: tensor.ctypes.data for name, tensor in call.tensors.items()}

    def run(sizes: dict[str, Any], addresses: dict[str, Any]) -> Attempt:
        return lambda: getattr(_native, call.name)(*sizes.values(), *addresses.values())

    def attempts() -> Iterator[Attempt]:
        yield run(sizes, addresses)
        for name in call.optional:
            yield run(sizes, addresses | {name: 0})
        yield _refused(run(*spoiled))
        if call.indices:
            flat = call.tensors[call.indices].reshape(-1)
            flat[place] = bad
            yield _refused(run(sizes, addresses))

    place = draw(st.integers(0, call.tensors[call.indices].size - 1)) if call.indices else 0
    bad = draw(st.sampled_from((-1, sizes.get("vocabulary", 0), 2**31, 2**32, 2**62, -(2**63))))
    spoiled = draw(_spoiled(call, sizes, addresses))
    return attempts()


@st.composite
def _spoiled(
    draw: Any, call: OpCall, sizes: dict[str, Any], addresses: dict[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes and addresses of which one must be refused."""
    needed = [name for name in addresses if name not in call.optional]
    if sizes.get("activation") == 0:
        needed.remove("slope")
    kind = draw(st.sampled_from(("size", "size", "option", "type", "missing", "address")))
    if kind == "size":
        name = draw(st.sampled_from([name for name in call.sizes if name not in NO_SIZE]))
        return sizes | {name: draw(st.sampled_from(ABSURD))}, addresses
    if kind == "option":
        name = draw(st.sampled_from(sorted(call.options)))
        return sizes | {name: draw(st.sampled_from(call.options[name]))}, addresses
    if kind == "type":
        name = draw(st.sampled_from([name for name in sizes if name not in NO_SIZE]))
        return sizes | {name: draw(st.sampled_from(NOT_WHOLE))}, addresses
    name = draw(st.sampled_from(needed))
    if kind == "missing":
        return sizes, addresses | {name: 0}
    wrong: Any = draw(st.sampled_from((addresses[name] + 1, -1, 2**64, None, "x", 1.5)))
    return sizes, addresses | {name: wrong}
