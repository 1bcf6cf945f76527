"""Initial weights: the law by group, the streams, common random numbers across gammas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from compfast.config import Config, InitConfig, MemberSpec, ModelConfig
from compfast.engines.base import Float32
from compfast.ensembles.grid import member_specs
from compfast.models.init import initial_parameters, initial_std
from compfast.models.params import parameter_table
from compfast.streams import philox

PAPER_SHAPE = ModelConfig(d_model=400, d_k=200, d_v=200, d_ff=1200)


def one(model: ModelConfig | None = None, seed: int = 0, **init: Any) -> MemberSpec:
    config = Config(
        model=model or ModelConfig(),
        init=InitConfig(**init),
        sweep=(("seed", (seed,)),),
    )
    return member_specs(config)[0]


def stds(spec: MemberSpec) -> dict[str, float]:
    table = parameter_table(spec.model)
    return {t.name: s for t, s in zip(table, initial_std(spec).tolist(), strict=True)}


def weights(spec: MemberSpec) -> dict[str, Float32]:
    return initial_parameters(spec, initial_std(spec))


def test_fan_ins_of_the_paper() -> None:
    std = stds(one(PAPER_SHAPE, gamma=0.8))
    fan_in = {
        "embed.token.weight": 400,
        "embed.position.weight": 400,
        "blocks.0.attention.query.weight": 400,
        "blocks.0.attention.key.weight": 400,
        "blocks.0.attention.value.weight": 400,
        "blocks.0.attention.output.weight": 200,
        "blocks.1.ffn.up.weight": 400,
        "blocks.1.ffn.down.weight": 1200,
        "head.weight": 400,
    }
    for name, d_in in fan_in.items():
        assert std[name] == pytest.approx(d_in**-0.8, rel=1e-15), name
    rest = {name for name, value in std.items() if value == 0.0}
    assert all(name.endswith("bias") or "norm" in name for name in rest)
    assert len(rest) == len(std) - 3 - 2 * 6


def test_groups_have_their_own_gamma() -> None:
    own: dict[str, Any] = {
        "gamma_embedding": 0.1,
        "gamma_qk": 0.2,
        "gamma_vo": 0.3,
        "gamma_ffn": 0.4,
    }
    std = stds(one(gamma=0.9, **own))
    assert std["embed.position.weight"] == pytest.approx(32**-0.1)
    assert std["blocks.0.attention.key.weight"] == pytest.approx(32**-0.2)
    assert std["blocks.0.attention.output.weight"] == pytest.approx(32**-0.3)
    assert std["blocks.0.ffn.down.weight"] == pytest.approx(64**-0.4)
    assert std["head.weight"] == pytest.approx(32**-0.9)


def test_d_model_as_fan_in_and_residual_scale() -> None:
    plain = stds(one(PAPER_SHAPE, gamma=0.6))
    other = stds(one(PAPER_SHAPE, gamma=0.6, fan_in="d_model", residual_scale=True))
    for name, value in other.items():
        if name.endswith(("attention.output.weight", "ffn.down.weight")):
            assert value == pytest.approx(400**-0.6 / math.sqrt(2 * 2), rel=1e-15)
        else:
            assert value == plain[name]


def test_element_e_is_normal_e_of_the_tensors_stream() -> None:
    spec = one(seed=21, gamma=0.7)
    got = weights(spec)
    for tensor in parameter_table(spec.model):
        value = got[tensor.name]
        assert value.shape == tensor.shape
        assert value.dtype == np.float32
        if tensor.init == "normal":
            z = philox.normals(21, philox.INIT, tensor.id, 0, tensor.size)
            std = stds(spec)[tensor.name]
            expected = [np.float32(std * x) for x in z[:50].tolist()]
            assert value.ravel()[:50].tolist() == expected
        else:
            assert (value == (1.0 if tensor.init == "one" else 0.0)).all()


def test_uniform_biases() -> None:
    spec = one(seed=2, bias="uniform")
    got = weights(spec)
    bias = got["blocks.1.ffn.down.bias"]
    table = {t.name: t for t in parameter_table(spec.model)}
    u = philox.uniforms(philox.words(2, 0, table["blocks.1.ffn.down.bias"].id, 0, 0, 32))
    assert bias.tolist() == [np.float32((2.0 * float(x) - 1.0) / 8.0) for x in u]
    assert np.abs(got["head.bias"]).max() <= 1 / math.sqrt(32)
    assert (got["final_norm.bias"] == 0).all()
    assert (got["final_norm.weight"] == 1).all()


def test_gammas_of_one_seed_share_their_draws() -> None:
    small, large = one(seed=3, gamma=0.3), one(seed=3, gamma=1.1)
    a, b = weights(small), weights(large)
    for tensor in parameter_table(small.model):
        if tensor.init == "normal":
            ratio = stds(small)[tensor.name] / stds(large)[tensor.name]
            np.testing.assert_allclose(a[tensor.name], ratio * b[tensor.name], rtol=3e-7)
    other = weights(one(seed=4, gamma=0.3))
    assert not (a["head.weight"] == other["head.weight"]).any()


def test_a_layer_added_changes_no_other_tensor() -> None:
    two, three = weights(one(seed=5)), weights(one(ModelConfig(layers=3), seed=5))
    assert all((three[name] == value).all() for name, value in two.items())
    assert not (three["blocks.2.ffn.up.weight"] == three["blocks.1.ffn.up.weight"]).any()


def test_the_spread_is_the_std() -> None:
    spec = one(ModelConfig(d_model=128), gamma=0.5)
    value = weights(spec)["blocks.0.ffn.up.weight"]
    assert value.std() == pytest.approx(128**-0.5, rel=4 / math.sqrt(2 * value.size))


def test_a_truncated_law_has_the_std_asked_for() -> None:
    """Cut at two of its own std, tables of embeddings excepted; gamma scales it as it does any."""
    drawn = weights(one(PAPER_SHAPE, gamma=0.5, law="truncated"))
    normal = weights(one(PAPER_SHAPE, gamma=0.5))
    narrow = weights(one(PAPER_SHAPE, gamma=1.0, law="truncated"))
    for name, std in stds(one(PAPER_SHAPE, gamma=0.5)).items():
        if std == 0.0 or name.startswith("embed."):
            assert np.array_equal(drawn[name], normal[name]), name
            continue
        value = drawn[name]
        assert value.std() == pytest.approx(std, rel=0.02), name
        assert np.abs(value).max() <= 2 * std / 0.8796, name
        inside = np.abs(normal[name]) < 1.99 * std
        np.testing.assert_allclose(value[inside] * 0.87962566, normal[name][inside], rtol=1e-6)
        np.testing.assert_allclose(narrow[name] / value, std, rtol=1e-5)
    constants = (("head.weight", 0.25),)
    held = weights(one(law="truncated", constants=constants))["head.weight"]
    assert (held == 0.25).all()


@pytest.mark.usefixtures("native_extension")
def test_engines_start_from_a_truncated_law() -> None:
    from compfast.engines.native import NativeEngine
    from compfast.ensembles.schedule import make_tables

    specs = [one(seed=seed, law="truncated") for seed in (0, 1)]
    engine = NativeEngine(specs, make_tables(specs), threads=1)
    engine.initialise()
    for name, value in engine.state().params.items():
        for member, spec in enumerate(specs):
            assert np.array_equal(value[member], weights(spec)[name]), name
