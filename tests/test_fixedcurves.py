"""tanh, erf and truncated normals against the exact functions, and by which arithmetic."""

from __future__ import annotations

import ast
import inspect
import math

import numpy as np
import pytest

from compfast.streams import fixedcurves


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_a_curve_is_within_a_few_ulp(name: str) -> None:
    x = np.concatenate([np.linspace(-11, 11, 40_001), np.logspace(-30, 0, 1000)])
    x = x[x != 0].astype(np.float32)
    got = getattr(fixedcurves, name)(x)
    exact = np.array([getattr(math, name)(v) for v in x.tolist()])
    assert got.dtype == np.float32
    assert float(np.abs(got / exact - 1).max()) < 5e-7
    assert (getattr(fixedcurves, name)(-x) == -got).all()
    assert getattr(fixedcurves, name)(np.zeros(1, np.float32))[0] == 0


def test_truncated_normals_are_the_laws_quantiles() -> None:
    """F(z) - F(-2) is u of the mass between -2 and 2."""
    u = np.concatenate([(np.arange(4000) + 0.5) / 4000, [2.0**-33, 1 - 2.0**-33, 0.5]])
    z = fixedcurves.truncated_normal(u)
    mass = math.erf(math.sqrt(2))
    found = np.array([0.5 + math.erf(v / math.sqrt(2)) / (2 * mass) for v in z.tolist()])
    np.testing.assert_allclose(found, u, atol=1e-15)
    assert np.abs(z).max() <= 2
    assert z[-1] == 0
    assert z[:4000].std() == pytest.approx(0.87962566, abs=1e-6)


def test_a_value_does_not_depend_on_its_place() -> None:
    x = np.linspace(-5, 5, 257).astype(np.float32)
    u = (np.arange(257) + 0.5) / 257
    for curve, at in ((fixedcurves.tanh, x), (fixedcurves.erf, x)):
        assert [curve(at[i : i + 1])[0] for i in range(257)] == curve(at).tolist()
    whole = fixedcurves.truncated_normal(u).tolist()
    assert [fixedcurves.truncated_normal(u[i : i + 1])[0] for i in range(257)] == whole


def test_only_exactly_rounded_operations_are_used() -> None:
    tree = ast.parse(inspect.getsource(fixedcurves))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used <= {"float32", "float64", "typing", "asarray", "where", "full_like", "full"} | {
        "append"
    }
    assert not any(isinstance(node, ast.Pow) for node in ast.walk(tree))
