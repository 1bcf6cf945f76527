"""Configuration from Python: what is unambiguous is converted, the rest is one sentence."""

from __future__ import annotations

import collections
import dataclasses
import fractions
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import compfast
from compfast.config import (
    Config,
    InitConfig,
    Kinds,
    ModelConfig,
    TrainingConfig,
    names,
    sections,
)
from compfast.config.values import plain
from compfast.ensembles.grid import sweep_paths
from compfast.errors import UsageError
from compfast.tasks.anchor import AnchorConfig

CONVERTED = pytest.mark.edge(
    "NumPy numbers and arrays, ranges, lists, dicts, `steps=30.0` in a config", "taken as meant"
)
REFUSED = pytest.mark.edge(
    "strings for numbers, truth values, sets, objects in a config",
    "one sentence that names the field, nothing on disk",
)


@CONVERTED
@pytest.mark.parametrize(
    "three", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), np.array(3), torch.tensor(3)]
)
def test_whole_numbers_of_every_kind(three: Any) -> None:
    config = ModelConfig(layers=three, d_k=three, norm_eps=three)
    assert (type(config.layers), config.layers) == (int, 3)
    assert (type(config.d_k), config.d_k) == (int, 3)
    assert (type(config.norm_eps), config.norm_eps) == (float, 3.0)
    assert config == ModelConfig(layers=3, d_k=3, norm_eps=3.0)


@CONVERTED
def test_numbers_and_truth_values_of_every_kind() -> None:
    assert InitConfig(gamma=np.float32(0.5)) == InitConfig(gamma=0.5)  # type: ignore[arg-type]
    assert InitConfig(gamma=fractions.Fraction(1, 2)).gamma == 0.5  # type: ignore[arg-type]
    assert type(InitConfig(gamma=np.float64(0.1)).gamma) is float
    causal: Any = np.bool_(False)
    assert ModelConfig(causal=causal).causal is False
    assert TrainingConfig(steps=30.0).steps == 30  # type: ignore[arg-type]


@CONVERTED
def test_lists_of_every_kind() -> None:
    wanted = AnchorConfig(anchors=(1, 2, 3, 4), unseen=((4, 3),))
    for anchors in ([1, 2, 3, 4], range(1, 5), np.arange(1, 5), iter((1, 2, 3, 4))):
        given: Any = {"anchors": anchors, "unseen": [[4, 3]]}
        task = AnchorConfig(**given)
        assert task == wanted
        assert hash(task) == hash(wanted)


@CONVERTED
def test_a_sweep_of_every_kind() -> None:
    wanted = (("init.gamma", (0.1, 0.2, 0.3)), ("seed", (0, 1)))
    gammas = np.array([0.1, 0.2, 0.3])
    for sweep in (
        {"init.gamma": gammas, "seed": range(2)},
        {"init": {"gamma": [0.1, 0.2, 0.3]}, "seed": np.arange(2)},
        [["init.gamma", pl.Series([0.1, 0.2, 0.3])], ["seed", [0.0, 1.0]]],
        iter([("init.gamma", tuple(gammas)), ("seed", (s for s in (0, 1)))]),
    ):
        given: Any = sweep
        assert Config(sweep=given).sweep == wanted
    seeds = Config(sweep={"seed": np.arange(2)}).sweep[0][1]  # type: ignore[arg-type]
    assert [type(seed) for seed in seeds] == [int, int]


@CONVERTED
def test_sections_may_be_mappings(tmp_path: Path) -> None:
    config: Any = {"model": {"layers": np.int64(1), "d_model": 8}, "training": {"steps": 2.0}}
    tiny = Config()
    assert Config(**config) == Config(
        model=dataclasses.replace(tiny.model, layers=1, d_model=8),
        training=dataclasses.replace(tiny.training, steps=2),
    )
    config["training"] |= {"batch_size": 4}
    run = compfast.train(config, out=tmp_path / "run")
    assert run.finished
    assert run.config.training.batch_size == 4


@REFUSED
@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("model", "layers", "3", "model.layers is '3'; it must be a whole number"),
        ("model", "layers", 3.5, "model.layers is 3.5; it must be a whole number"),
        ("model", "layers", True, "model.layers is True; it must be a whole number"),
        ("model", "layers", np.bool_(True), "must be a whole number"),
        ("model", "layers", None, "model.layers is None; it must be a whole number"),
        ("model", "layers", float("nan"), "model.layers is nan; it must be a whole number"),
        ("model", "layers", 2**2000, "model.layers is a number of more than 1023 bits"),
        ("model", "causal", 1, "model.causal is 1; it must be true or false"),
        ("model", "causal", "False", "model.causal is 'False'; it must be true or false"),
        (
            "model",
            "norm",
            "prae",
            "model.norm is 'prae'; it must be one of pre, post, none (did you mean",
        ),
        ("optimizer", "lr", "1e-3", "optimizer.lr is '1e-3'; it must be a number"),
        ("optimizer", "lr", 1j, "optimizer.lr is 1j; it must be a number"),
        ("optimizer", "lr", [1e-3, 1e-2], "optimizer.lr is [0.001, 0.01]; it must be a number"),
        ("task", "anchors", {1, 2}, "task.anchors is {1, 2}; it must be a list whose every entry"),
        ("task", "anchors", "12", "task.anchors is '12'; it must be a list"),
        ("task", "unseen", [(4, 3, 1)], "task.unseen is [(4, 3, 1)]; it must be a list whose"),
        ("task", "unseen", [["a", "b"]], "task.unseen is [['a', 'b']]"),
        ("run", "shard", (0, 1, 2), "run.shard is (0, 1, 2); it must be a list of 2 entries"),
    ],
)
def test_what_is_ambiguous_is_refused(section: str, field: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        sections(Kinds())[section](**{field: value})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@REFUSED
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model": 3}, "[model] is 3; it must be a family's Config or a table"),
        ({"model": {"layer": 3}}, "model.layer is not known (did you mean layers?)"),
        ({"sweep": "seed"}, "sweep is 'seed'; it must be a table"),
        ({"sweep": {"seed": 3}}, "sweep.seed is 3; it must be a list of values"),
        ({"sweep": {"seed": {0, 1}}}, "sweep.seed is {0, 1}; it must be a list of values"),
        ({"sweep": {"seed": ["0"]}}, "sweep.seed is '0'; it must be a whole number"),
        ({"sweep": {"seed": [0, 0.0]}}, "sweep axis seed has equal values"),
        ({"sweep": {"init.gama": [1]}}, "init.gama is not known (did you mean gamma?)"),
        ({"sweep": {3: [1]}}, "sweep is {3: [1]}; it must be a table"),
    ],
)
def test_a_config_that_says_nothing_is_refused(config: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Config(**config)
    assert words in str(caught.value)


class _Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


def test_an_object_that_cannot_be_shown_is_refused_all_the_same() -> None:
    with pytest.raises(UsageError, match="a _Unshowable that cannot be shown"):
        ModelConfig(layers=_Unshowable())  # type: ignore[arg-type]


def test_lists_without_an_end_are_no_value() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UsageError, match=r"task\.anchors"):
        AnchorConfig(anchors=endless)  # type: ignore[arg-type]


FIELDS = [(section, name) for section, kind in sections(Kinds()).items() for name in names(kind)]


def _made(kind: Any, /, **fields: Any) -> Any:
    """What a constructor makes of these, None where it refuses them in one sentence."""
    try:
        return kind(**fields)
    except UsageError as error:
        said = str(error)
    assert "\n" not in said
    assert any(name in said for name in fields)
    return None


@hostile.examples(100)
@given(field=st.sampled_from(FIELDS), value=hostile.values)
def test_any_value_for_any_field(field: tuple[str, str], value: Any) -> None:
    """A section that says the same again when it is made of its own values, or one sentence."""
    section, name = field
    made = _made(sections(Kinds())[section], **{name: value})
    if made is not None:
        assert type(made)(**{field: getattr(made, field) for field in names(made)}) == made


@hostile.examples(50)
@given(
    sweep=hostile.values | st.dictionaries(st.sampled_from(sweep_paths(Kinds())), hostile.values)
)
def test_any_sweep(sweep: Any) -> None:
    made = _made(Config, sweep=sweep)
    assert made is None or Config(sweep=made.sweep) == made


@given(st.integers() | st.floats(allow_nan=False))
def test_plain_changes_no_number(number: float) -> None:
    assert plain(number) == number
    assert type(plain(number)) in (int, float)
    assert plain(np.float64(number) if abs(number) < 2**1000 else number) == float(number) or (
        isinstance(number, int)
    )


def test_plain_keeps_what_it_does_not_know() -> None:
    queue = collections.deque([1])
    assert plain(queue) is queue
