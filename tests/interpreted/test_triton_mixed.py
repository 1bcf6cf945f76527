"""Generalised attention's kernels alone: within the budget in every kind, alone = among others.

Cases, float64 and bands are those of tests/test_mixed_attention.py. Buffers arrive full of NaN.
In bf16 mode attention's products are three of tf32, which the interpreter makes exact: the tiles
that would be on tensor cores, to the same budget.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import quick_interpreter  # noqa: F401
import test_mixed_attention as native
import torch
from mixed_cases import PATHS, WEIGHTS, Mixed
from op_cases import Tensors, draw
from torch import Tensor
from triton_op_cases import PARTS, buffer, filled, flat, gradients, inside, live, taken

from compfast.engines.triton import mixed_attention, mixed_backward, mixed_sums
from compfast.engines.triton.launch import Rows
from compfast.engines.triton.mixed_attention import constants_of

# NumPy warns where NaN is computed with.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

KINDS = [
    *itertools.product(WEIGHTS, PATHS, (False,), (False,)),
    ("softmax", "none", True, True),
    ("rms_head", "deep", True, True),
]
SHAPES = {
    "odd": Mixed(t=7, heads=3, d_k=2, d_v=3),
    "a_few_last": Mixed(t=5, heads=2, d_k=3, d_v=2, t_q=2, relative=False),
}
NAMED = {
    "blocks_of_queries": Mixed(t=34, heads=13, d_k=1, d_v=2, causal=True, dropout=True, m=1),
    "blocks_of_deep": Mixed(t=33, heads=16, d_k=1, d_v=2, path="deep", m=1, b=2),
    "last": Mixed("linear", "linear", t=19, t_q=1, heads=4, d_k=16, d_v=16, dropout=True),
    "one_position": Mixed("softmax", "none", t=1, heads=1, d_k=2, d_v=1),
    "many_sequences": Mixed(t=3, heads=2, d_k=1, d_v=2, path="deep", m=1, b=7),
    "past_64": Mixed(t=96, heads=8, d_k=2, d_v=2, m=1, b=1),
}
WIDE = {  # on tensor cores where there are any
    "heads_apart": Mixed("softmax", "none", t=17, heads=3, d_k=18, d_v=40, causal=True),
    "blocks": Mixed("linear", "none", t=70, heads=2, d_k=16, d_v=20, m=1, b=1),
    "wide_keys": Mixed("softmax", "none", t=17, heads=3, d_k=16, d_v=5),
    "wide_values": Mixed("softmax", "none", t=17, heads=3, d_k=5, d_v=16, dropout=True),
    "heads_together": Mixed("rms_head", "none", t=17, heads=2, d_k=16, d_v=17),
    "wide_path": Mixed("rms_head", "relu", t=35, heads=2, d_k=17, d_v=3, m=1, b=1),
    "path": Mixed("softmax", "relu", t=17, heads=3, d_k=2, d_v=18, m=1, dropout=True),
    "path_and_keys": Mixed("rms_head", "linear", t=19, heads=2, d_k=16, d_v=33, causal=True),
}


def cases(every: Sequence[Any], quick: Sequence[Any]) -> list[Any]:
    """All of them, slow but for the quick ones."""
    return [c if c in quick else pytest.param(c, marks=pytest.mark.slow) for c in every]


def run(mixed: Mixed, t: Tensors, dy: Tensor, precision: str = "fp32") -> Tensors:
    """The kernels' output and gradients; every distance has a bucket of its own."""
    m, b, length, heads, _ = t["k"].shape
    each = t["q"].shape[2]

    def rows(value: Tensor, each: int, column: int) -> Rows:
        return filled(value.reshape(m, b * each, -1), each, column=column)

    q, k, v = rows(t["q"], each, 3), rows(t["k"], length, 0), rows(t["v"], length, 7)
    o, do = buffer(m, b * each, v.width, each), rows(dy, each, 1)
    dq, dk, dv = (buffer(m, x.count, x.width, x.each, column=x.column) for x in (q, k, v))
    relative, deep = t.get("relative"), t.get("deep")
    named = {"relative": relative} if relative is not None else {}
    if deep is not None:
        named["deep"] = deep.flatten(1, 2)
    found: Tensors = {}
    tables = {name: flat(tensor) for name, tensor in named.items()}
    # one flat vector of both, as members have it
    sizes = {name: whole.shape[1] for name, (whole, _, _) in tables.items()}
    whole = torch.cat([w for w, _, _ in tables.values()] or [torch.zeros(m, 1)], 1).contiguous()
    views = {name: whole[:, sum(list(sizes.values())[:i]) :] for i, name in enumerate(sizes)}
    partial, downs = gradients(whole, list(views.values()))
    d_views = dict(zip(views, downs, strict=True))
    given = {
        "relative": views.get("relative"),
        "deep": views.get("deep"),
        "buckets": torch.arange(2 * length - 1, dtype=torch.int32) if named else None,
        "keep": _masks(mixed, m, each, length),
    }
    ld = tuple(tables[n][2] if n in tables else 0 for n in ("relative", "deep"))
    how: Any = {"heads": heads, "scores": mixed.weights, "path": mixed.path, "ld": ld}
    how |= {"causal": mixed.causal, "epsilon": mixed.epsilon, "precision": precision}
    sizes_of = constants_of(q, k, v, o, given, **how)
    shapes = {"relative": (heads, 2 * sizes_of["K_ROWS"])}
    shapes["deep"] = heads * sizes_of["D_V"], sizes_of["D_V"]
    sums = {n: torch.full((m, b, *s), torch.nan) if n in named else None for n, s in shapes.items()}
    on = live(m)
    mixed_attention.forward(q, k, v, o, given, on, **how).run()
    mixed_backward.backward(do, q, k, v, dq, dk, dv, sums, given, on, **how).run()
    if relative is not None:
        table, count = d_views["relative"], 2 * length - 1
        own, buckets = sums["relative"], given["buckets"]
        assert own is not None
        assert buckets is not None
        mixed_sums.relative(own, buckets, table, on, count=count, ld=ld[0]).run()
        found["relative"] = taken(partial, views["relative"], relative.shape, ld[0])
    if deep is not None:
        assert sums["deep"] is not None
        mixed_sums.deep(sums["deep"], d_views["deep"], on, ld=ld[1]).run()
        shape = named["deep"].shape
        found["deep"] = taken(partial, views["deep"], shape, ld[1]).reshape(deep.shape)
    found["out"] = inside(o).reshape(dy.shape)
    for name, rows_ in (("q", dq), ("k", dk), ("v", dv)):
        found[name] = inside(rows_).reshape(t[name].shape)
    return found


def _masks(mixed: Mixed, members: int, each: int, length: int) -> Tensor | None:
    """Of the last `each` queries; the others' are never read."""
    given = mixed.keep(members)
    if given is None:
        return None
    keep = torch.full((members, length, length), torch.nan)
    keep[:, length - each :] = given
    return keep.flatten(1)


def check(mixed: Mixed, monkeypatch: pytest.MonkeyPatch, precision: str = "fp32") -> None:
    """Output and every gradient within the budget of the other engine's test."""

    def triton(case: Any, impl: str, inputs: Tensors, dy: Tensor) -> Tensors:
        assert impl == "native"
        return run(mixed, inputs, dy, precision)

    monkeypatch.setattr(native, "evaluate", triton)
    native.check(mixed)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", cases(list(SHAPES), ["odd"]))
def test_every_kind(
    shape: str, kind: tuple[str, str, bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(native.of_kind(SHAPES[shape], kind), monkeypatch)


@pytest.mark.parametrize("name", cases(list(NAMED), ["last", "one_position", "many_sequences"]))
def test_every_tile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(NAMED[name], monkeypatch)


@pytest.mark.parametrize(
    "name", cases(list(WIDE), ["heads_apart", "wide_values", "heads_together", "path"])
)
def test_tiles_of_tensor_cores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(WIDE[name], monkeypatch, "bf16")


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_the_same_heads_column_by_column(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(WIDE[name], monkeypatch)


@pytest.mark.parametrize("path", cases(PATHS, ["none", "deep"]))
def test_alone_and_beside_a_nan_a_member_has_the_same_bits(path: str) -> None:
    mixed = Mixed(t=3, heads=2, d_k=1, d_v=2, b=PARTS + 1, path=path)
    inputs, dy = draw(mixed.case())
    together = run(mixed, inputs, dy)
    first = {name: value[:1] for name, value in inputs.items()}
    for part, alone in run(mixed, first, dy[:1]).items():
        assert torch.equal(alone, together[part][:1]), part
    for value in inputs.values():
        value[1:] = torch.nan
    for part, broken in run(mixed, inputs, dy).items():
        assert torch.equal(broken[:1], together[part][:1]), part
        assert broken[1:].isnan().any(), part
