"""Lists and ranges, counts of gammas and seeds, members, groups, shards and presets."""

from __future__ import annotations

import math

import pytest

from compfast.config import Config, Kinds, ModelConfig, settings
from compfast.config.presets import PRESETS
from compfast.ensembles.grid import (
    gamma_axis,
    gammas_and_seeds,
    member_specs,
    parse_range,
    parse_values,
    shard_range,
    sweep_paths,
)
from compfast.ensembles.groups import groups
from compfast.errors import UsageError
from compfast.models.params import parameter_count, parameter_table
from compfast.tasks import preset
from compfast.tasks.anchor import AnchorConfig


def test_values() -> None:
    assert parse_values("--layers", "2", int) == (2,)
    assert parse_values("--layers", "2, 4,3", int) == (2, 4, 3)
    assert parse_values("--layers", "2:8:4", int) == (2, 4, 6, 8)
    assert parse_values("--lr", "1e-3", float) == (1e-3,)
    assert parse_values("--lr", "0.1:0.3:3", float) == (0.1, 0.2, 0.3)
    assert parse_values("--seed", f"0:{2**53 - 1}:2", int) == (0, 2**53 - 1)
    assert all(type(v) is float for v in parse_values("--lr", "1,2", float))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", int), ("x", int), ("1.5", int), ("1,,2", int), ("1:2", int), ("1:2:3:4", int),
        ("1:4:3", int), ("4:1:2", int), ("1:1:2", int), ("1:2:1", int), ("1:2:0", int),
        ("1,1", int), ("nan", float), ("inf", float), ("nan:1:2", float), ("1:2:2.5", float),
        ("9" * 400, int),
    ],
)  # fmt: skip
def test_values_that_are_refused(text: str, kind: type) -> None:
    with pytest.raises(UsageError, match="--flag"):
        parse_values("--flag", text, kind)


def test_range() -> None:
    assert parse_range("--gamma-range", "0.1:1.5") == (0.1, 1.5)
    assert parse_range("--gamma-range", "0.5:0.5") == (0.5, 0.5)
    for text in ("0.1", "0.1:0.2:3", "a:b", "nan:1", "0:inf", "1.5:0.1", ":"):
        with pytest.raises(UsageError, match="--gamma-range"):
            parse_range("--gamma-range", text)


def test_gamma_axis() -> None:
    axis = gamma_axis(0.1, 1.5, 64)
    assert (axis[0], axis[-1], len(set(axis))) == (0.1, 1.5, 64)
    assert all(a == round(a, 12) for a in axis)
    assert gamma_axis(0.1, 0.7, 7) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert gamma_axis(0.5, 0.5, 1) == (0.5,)
    for low, high, n in (
        (0.5, 0.5, 2), (0.1, 0.5, 1), (0.5, 0.1, 3), (math.nan, 1.0, 3), (0.1, math.inf, 3),
        (0.1, 0.5, 0), (0.1, 0.5, -3),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="gamma range"):
            gamma_axis(low, high, n)


@pytest.mark.parametrize(
    ("models", "expected"),
    [(4096, (256, 16)), (512, (32, 16)), (496, (62, 8)), (256, (32, 8)), (128, (16, 8)),
     (124, (31, 4)), (64, (16, 4)), (32, (16, 2)), (16, (16, 1)),
     (31, (31, 1)), (7, (7, 1)), (1, (1, 1))],
)  # fmt: skip
def test_seeds_a_gamma_when_none_are_given(models: int, expected: tuple[int, int]) -> None:
    assert gammas_and_seeds(models) == expected
    assert gammas_and_seeds(3 * models, other=3) == expected


def test_seeds_that_are_given() -> None:
    assert gammas_and_seeds(12, seeds=4) == (3, 4)
    assert gammas_and_seeds(24, other=2, seeds=4) == (3, 4)
    assert gammas_and_seeds(32, single=True) == (1, 32)
    assert gammas_and_seeds(8, other=2, seeds=4, single=True) == (1, 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((130,), "128, 136"),
        ((127,), "124, 128"),
        ((10, 3), "9, 12"),
        ((2, 3), "3 does"),
        ((10, 1, 4), "8, 12"),
        ((9, 1, 4, True), "make 4"),
        ((0,), "models is 0"),
        ((-5,), "models is -5"),
        ((5, 1, 0), "seeds is 0"),
    ],
)
def test_counts_that_do_not_divide(arguments: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        gammas_and_seeds(*arguments)  # type: ignore[arg-type]


def test_members_are_the_product_last_axis_fastest() -> None:
    config = Config(
        sweep=(("model.layers", (2, 3)), ("init.gamma", (0.1, 0.5)), ("seed", (7, 8, 9)))
    )
    specs = member_specs(config)
    got = [(s.member, s.model.layers, s.init.gamma, s.seed) for s in specs]
    points = [(n, g, s) for n in (2, 3) for g in (0.1, 0.5) for s in (7, 8, 9)]
    assert got == [(i, *point) for i, point in enumerate(points)]
    parameter_table(specs[0].model)  # resolved: none of its fields is None
    assert specs[0].model.vocab_size == 48


def test_every_section_can_be_swept() -> None:
    sweep = (
        ("task.key_modulus", (7, 9)),
        ("optimizer.weight_decay", (0.1, 0.3)),
        ("training.batch_size", (32, 64)),
    )
    specs = member_specs(Config(sweep=sweep))
    assert len(specs) == 8
    assert {s.seed for s in specs} == {0}
    assert len({s.task for s in specs}) == 2
    assert [s.training.batch_size for s in specs[:2]] == [32, 64]


@pytest.mark.parametrize("path", ["training.steps", "training.eval_every"])
def test_paths_that_members_cannot_differ_in(path: str) -> None:
    with pytest.raises(
        UsageError, match=r"allowed: seed, init_seed, data_seed, task\.anchors"
    ) as caught:
        member_specs(Config(sweep=((path, (1, 2)),)))
    assert path in str(caught.value)
    assert path not in sweep_paths(Kinds())


@pytest.mark.parametrize("path", ["model.nothing", "lr", "run.threads"])
def test_a_config_refuses_to_sweep_over_what_is_no_field(path: str) -> None:
    with pytest.raises(UsageError, match=path):
        Config(sweep=((path, (1, 2)),))


def test_a_section_refuses_a_swept_value() -> None:
    with pytest.raises(UsageError, match="layers is 0"):
        member_specs(Config(sweep=(("model.layers", (2, 0)),)))
    with pytest.raises(UsageError, match="vocab_size is 32"):
        member_specs(Config(model=ModelConfig(vocab_size=32)))
    with pytest.raises(UsageError, match=r"name is 'other'; it must be one of affine, anchor"):
        Config(task=AnchorConfig(name="other"))


def test_groups_hold_what_one_engine_can_stack() -> None:
    stacked = (
        ("init.gamma", (0.1, 0.5)), ("init.gamma_qk", (0.3, 0.7)),
        ("init.bias", ("zero", "uniform")),
        ("optimizer.lr", (1e-3, 2e-3)), ("optimizer.weight_decay", (0.1, 0.3)),
        ("optimizer.clip", (0.0, 1.0)), ("seed", (0, 1)),
    )  # fmt: skip
    assert len(groups(member_specs(Config(sweep=stacked)))) == 1
    for axis in (
        ("model.layers", (2, 3)),
        ("model.activation", ("relu", "gelu")),
        ("task.key_modulus", (7, 9)),
        ("optimizer.beta2", (0.99, 0.999)),
        ("optimizer.warmup", (0.0, 0.1)),
        ("training.batch_size", (64, 128)),
    ):
        specs = member_specs(Config(sweep=(("seed", (0, 1, 2)), axis)))
        found = groups(specs)
        assert [[s.member for s in group] for group in found] == [[0, 2, 4], [1, 3, 5]], axis


def test_shards_cover_the_members_once() -> None:
    for members in (0, 1, 7, 512):
        for n in (1, 2, 3, 8):
            parts = [shard_range(members, i, n) for i in range(n)]
            assert [m for part in parts for m in part] == list(range(members))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(UsageError, match="shard 2/2"):
        shard_range(4, 2, 2)


def test_presets_are_configs() -> None:
    assert settings.from_dict(preset("tiny")) == Config()
    for name in PRESETS:
        (spec,) = member_specs(settings.from_dict(preset(name)))
        assert parameter_count(spec.model) > 0
    preset("paper")["model"]["layers"] = 9
    assert preset("paper")["model"]["layers"] == 2
    with pytest.raises(UsageError, match="tiny, replica, paper"):
        preset("huge")


def test_the_papers_numbers() -> None:
    (spec,) = member_specs(settings.from_dict(preset("paper")))
    d, ff, vocab = 400, 1200, 201
    layer = 3 * d * 200 + 200 * d + 2 * d * ff + 4 * d
    assert parameter_count(spec.model) == (vocab + 20) * d + 2 * layer + vocab * d + vocab
    assert spec.training.steps == 210 * (15 * 50_625 // 2048)
    assert spec.optimizer.warmup * spec.training.steps == pytest.approx(3700)
