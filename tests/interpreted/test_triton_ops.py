"""Each Triton kernel under the interpreter: within the budget, alone = among others.

The cases, their float64 and their bands are those of tests/op_cases.py. Buffers arrive full of
NaN, with columns before and after the op's own.
"""

from __future__ import annotations

import pytest
import quick_interpreter  # noqa: F401
import torch
from op_cases import double, draw, evaluate
from oracle import EPS, assert_within_budget
from torch import Tensor
from triton_op_cases import CASES, KERNELS, Kernel, filled, flat, gradients, linear_kernel, live

from compfast.engines.triton import attention, linear
from compfast.engines.triton.launch import Rows
from compfast.errors import UsageError

# NumPy warns where NaN is computed with.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


# more tiles of what the others do, which three runs of take too long
LARGE = (
    *("attention_tiled", "attention_tiled_last_query", "attention_bias_query_tiles"),
    "linear_many_tiles",
)


@pytest.fixture(params=sorted(KERNELS))
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return KERNELS[request.param]


def test_forward_and_every_gradient(kernel: Kernel) -> None:
    inputs, dy = draw(kernel.case)
    exact = evaluate(kernel.case, "torch", double(inputs), dy.double())
    eager = evaluate(kernel.case, "torch", inputs, dy)
    bands = kernel.case.bands(dy.double(), **double(inputs))
    found = kernel.run(inputs, dy)
    assert bands.keys() == exact.keys() == found.keys()
    for name, got in found.items():
        error = float((eager[name].double() - exact[name]).abs().max())
        band = EPS * bands[name].numpy()
        assert_within_budget(name, got.numpy(), exact[name].numpy(), error, band)


@pytest.mark.parametrize(
    "kernel",
    [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in KERNELS],
    indirect=True,
)
def test_alone_and_beside_a_nan_a_member_has_the_same_bits(kernel: Kernel) -> None:
    inputs, dy = draw(kernel.case)
    together = kernel.run(inputs, dy)
    first = {name: value[:1] for name, value in inputs.items()}
    for name, alone in kernel.run(first, dy[:1]).items():
        assert torch.equal(alone, together[name][:1]), name
    if len(dy) > 1:
        for value in inputs.values():
            value[1:] = torch.nan
        broken = kernel.run(inputs, dy)
        for name, got in broken.items():
            assert torch.equal(got[:1], together[name][:1]), name
        assert broken["out"][1:].isnan().all()


@pytest.mark.parametrize("name", ["linear", "attention_last_query", "embedding", "layer_norm"])
def test_a_member_that_is_not_live_is_left_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triton_op_cases.live", lambda m: torch.zeros(m, dtype=torch.int32))
    inputs, dy = draw(KERNELS[name].case)
    assert KERNELS[name].run(inputs, dy)["out"].isnan().all()


@pytest.mark.parametrize(("precision", "bits"), [("bf16", 16), ("tf32", 13)])
def test_a_precision_rounds_the_operands_of_all_three_products(precision: str, bits: int) -> None:
    """Equal to the bit to the fp32 kernel on operands rounded beforehand."""
    case = CASES["linear_odd"]
    inputs, dy = draw(case)
    inputs = {name: rounded(value, bits) for name, value in inputs.items()}
    inputs["bias"] += 1e-6
    wanted = linear_kernel("none")(inputs, rounded(dy, bits))
    for name, low in (("x", inputs["x"]), ("weight", inputs["weight"])):
        inputs[name] = low * (1 + 2.0 ** -(25 - bits))  # less than half a unit: rounded away
    got = linear_kernel("none", precision=precision)(inputs, dy)
    assert not torch.equal(dy, rounded(dy, bits))
    for name in ("out", "x", "weight"):
        assert torch.equal(got[name], wanted[name]), name


def rounded(x: Tensor, bits: int) -> Tensor:
    """To nearest even without the last `bits`, by float64 arithmetic."""
    mantissa, exponent = torch.frexp(x.double())
    scale = 2.0 ** (24 - bits)
    return torch.ldexp((mantissa * scale).round() / scale, exponent).float()


def test_the_residual_is_added_after_the_activation() -> None:
    inputs, dy = draw(CASES["linear_odd"])
    plain = linear_kernel("gelu")(inputs, dy)["out"]
    assert torch.equal(linear_kernel("gelu", residual=True)(inputs, dy)["out"], plain + 0.5)


def test_two_uses_of_a_weight_add_up() -> None:
    inputs, dy = draw(CASES["linear_odd"])
    x, weight = filled(inputs["x"]), inputs["weight"]
    whole, (w, b), ld = flat(weight, inputs["bias"])
    partial, (dw, db) = gradients(whole, [w, b])
    for add in (False, True):
        linear.weight_gradient(
            filled(dy), x, dw, db, live(len(dy)), ld=ld, add=add, precision="fp32"
        ).run()
        if not add:
            once = partial.clone()
    assert torch.equal(partial, 2 * once)


def test_positions_past_the_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="129 positions; the tile holds 128"):
        attention.group_of(129, False)


def test_a_buffer_past_32_bit_offsets_is_refused() -> None:
    with pytest.raises(UsageError, match="smaller batch or shorter sequences"):
        Rows(torch.empty((1, 2**20, 2**11), device="meta"), 2**11, 1)
    Rows(torch.empty((1, 2**20, 2**11 - 16), device="meta"), 2**11 - 16, 1)
