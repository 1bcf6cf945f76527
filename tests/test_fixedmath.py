"""log and sin/cos against long double, and the promise that no other arithmetic is used."""

from __future__ import annotations

import ast
import inspect
import math
from typing import Any

import numpy as np
import pytest

from compfast.streams import fixedmath, philox

EPS = 2.0**-52
LONG = bool(np.finfo(np.longdouble).eps < 1e-18)


def turns() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Box-Muller arguments: random ones, and the ones next to 0, 1/4, 1/2, 3/4 and 1."""
    near = (np.arange(1000) + 0.5) * 2.0**-32
    random = (philox.words(0, philox.AUX, 0, 0, 0, 100_000).astype(np.float64) + 0.5) * 2.0**-32
    edges = [q + sign * near for q in (0.25, 0.5, 0.75) for sign in (-1, 1)]
    return np.concatenate((random, near, 1.0 - near, *edges))


@pytest.mark.skipif(not LONG, reason="no long double on this machine")
def test_log_is_within_a_few_ulp() -> None:
    u = turns()
    exact = np.log(u.astype(np.longdouble))
    assert float(np.max(np.abs((fixedmath.log(u) - exact) / exact))) < 1.5 * EPS


@pytest.mark.skipif(not LONG, reason="no long double on this machine")
def test_sincos_are_within_a_few_ulp() -> None:
    u = turns()
    quadrant = np.floor(4 * u + 0.5)
    pi = np.longdouble(math.pi) + np.longdouble(1.2246467991473532e-16)
    angle = 2 * pi * (u - quadrant / 4).astype(np.longdouble)
    s, c = np.sin(angle), np.cos(angle)
    turn = quadrant.astype(int) % 4
    for got, exact in zip(
        fixedmath.sincos_turn(u),
        (np.choose(turn, [s, c, -s, -c]), np.choose(turn, [c, -s, -c, s])),
        strict=True,
    ):
        assert float(np.max(np.abs((got - exact) / exact))) < 2 * EPS


def test_plain_values() -> None:
    assert fixedmath.log(np.array([1.0, 0.5, 0.25])).tolist() == [
        0.0,
        -math.log(2),
        -2 * math.log(2),
    ]
    x = np.array([2.0**-33, 0.7, 0.71, 3.0, 1e300])
    assert fixedmath.log(x) == pytest.approx([math.log(v) for v in x], rel=1e-15)
    sine, cosine = fixedmath.sincos_turn(np.array([0.0, 0.125, 0.25, 0.5, 0.75]))
    assert sine == pytest.approx([0, math.sqrt(0.5), 1, 0, -1], abs=1e-15)
    assert cosine == pytest.approx([1, math.sqrt(0.5), 0, -1, 0], abs=1e-15)
    assert sine[2] == cosine[0] == 1.0


def test_a_value_does_not_depend_on_its_place() -> None:
    u = turns()[:257]
    assert [fixedmath.log(u[i : i + 1])[0] for i in range(257)] == fixedmath.log(u).tolist()
    sine = fixedmath.sincos_turn(u)[0]
    assert [fixedmath.sincos_turn(u[i : i + 1])[0][0] for i in range(257)] == sine.tolist()


def test_only_exactly_rounded_operations_are_used() -> None:
    tree = ast.parse(inspect.getsource(fixedmath))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    allowed = {"float64", "int64", "typing", "fromhex", "view", "astype", "asarray", "where"}
    assert used <= allowed | {"full_like", "ascontiguousarray"}
    assert not any(isinstance(node, ast.Pow) for node in ast.walk(tree))
