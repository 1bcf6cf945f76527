"""Settings: strict reading, the order of overlays, and one sentence for every mistake."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest

from compfast.config import Config, Kinds, names, sections, settings
from compfast.errors import UsageError
from compfast.tasks.anchor import AnchorConfig


def test_nothing_given_is_the_default_config() -> None:
    assert settings.from_dict({}) == Config()


def test_to_dict_and_back_is_the_same_config() -> None:
    config = settings.from_dict(
        {
            "task": {"unseen": [[3, 4], [4, 3]], "overridden": []},
            "model": {"d_k": 16, "final_norm": True},
            "run": {"shard": [1, 4], "snapshots": [0, 10]},
            "sweep": {"model.layers": [2, 3], "init.gamma": [0.1, 1], "seed": [0, 1]},
        }
    )
    assert settings.from_dict(settings.to_dict(config)) == config
    assert isinstance(config.task, AnchorConfig)
    assert config.task.unseen == ((3, 4), (4, 3))
    assert config.run.shard == (1, 4)
    assert config.sweep == (
        ("model.layers", (2, 3)),
        ("init.gamma", (0.1, 1.0)),
        ("seed", (0, 1)),
    )


def test_sweep_is_also_read_as_pairs() -> None:
    config = settings.from_dict({"sweep": [["init.gamma", [0.5]], ["seed", [3]]]})
    assert config.sweep == (("init.gamma", (0.5,)), ("seed", (3,)))


def test_whole_numbers_serve_as_floats_and_stay_exact_types() -> None:
    config = settings.from_dict({"optimizer": {"lr": 1}, "model": {"d_k": "none"}})
    assert isinstance(config.optimizer.lr, float)
    assert config.model.d_k is None


def test_every_field_reads_its_own_default() -> None:
    for section, kind in sections(Kinds()).items():
        for name in names(kind):
            value = getattr(kind(), name)
            assert settings.convert(f"{section}.{name}", value, Kinds()) == value


def test_every_field_refuses_an_object_of_another_kind() -> None:
    for section, kind in sections(Kinds()).items():
        for name in typing.get_type_hints(kind):
            with pytest.raises(UsageError, match=f"{section}.{name} is"):
                settings.convert(f"{section}.{name}", {"no": "such"}, Kinds())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"modle": {}}, ["[modle] is not known", "did you mean model?", "optimizer"]),
        ({"model": {"layer": 3}}, ["model.layer is not known", "did you mean layers?", "d_ff"]),
        ({"model": 3}, ["[model] is 3", "table"]),
        ({"model": {"layers": 2.5}}, ["model.layers is 2.5", "a whole number"]),
        ({"model": {"layers": True}}, ["model.layers is True", "a whole number"]),
        ({"model": {"d_k": "x"}}, ["model.d_k is 'x'", "a whole number"]),
        ({"optimizer": {"lr": "fast"}}, ["optimizer.lr is 'fast'", "a number"]),
        ({"optimizer": {"lr": False}}, ["optimizer.lr is False", "a number"]),
        ({"model": {"causal": 1}}, ["model.causal is 1", "true or false"]),
        ({"model": {"norm": "prae"}}, ["model.norm is 'prae'", "one of pre, post", "mean pre?"]),
        ({"task": {"name": 3}}, ["task.name is 3", "a string"]),
        ({"task": {"unseen": [[4, 3, 1]]}}, ["task.unseen is [[4, 3, 1]]", "2 entries"]),
        ({"task": {"anchors": 4}}, ["task.anchors is 4", "a list"]),
        ({"run": {"shard": [0, 1, 2]}}, ["run.shard is [0, 1, 2]", "2 entries"]),
        ({"sweep": 3}, ["sweep is 3", "section.field"]),
        ({"sweep": {"init.gamma": 0.5}}, ["sweep.init.gamma is 0.5", "a list of values"]),
        ({"sweep": {"init.gama": [0.5]}}, ["init.gama is not known", "did you mean gamma?"]),
        ({"sweep": {"run.threads": [1]}}, ["sweep.run.threads is not allowed"]),
        ({"sweep": {"seed": [0.5]}}, ["sweep.seed is 0.5", "a whole number"]),
        ({"sweep": {"seed": []}}, ["sweep axis seed is empty"]),
    ],
)
def test_mistakes_are_one_sentence(data: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        settings.from_dict(data)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_later_overlays_win_field_by_field() -> None:
    preset = {"model": {"layers": 2, "d_model": 32}, "optimizer": {"lr": 1e-3}}
    file = {"model": {"layers": 3}}
    flags = {"optimizer": {"lr": 2e-3}}
    merged = settings.apply(settings.apply(preset, file), flags)
    assert merged == {"model": {"layers": 3, "d_model": 32}, "optimizer": {"lr": 2e-3}}
    assert preset == {"model": {"layers": 2, "d_model": 32}, "optimizer": {"lr": 1e-3}}


def test_a_single_value_ends_a_sweep_and_a_sweep_keeps_its_place() -> None:
    base = {"sweep": {"model.layers": [2, 3], "init.gamma": [0.5], "seed": [0]}}
    assert settings.apply(base, {"model": {"layers": 4}})["sweep"] == {
        "init.gamma": [0.5],
        "seed": [0],
    }
    replaced = settings.apply(base, {"sweep": {"model.layers": [5, 6]}})["sweep"]
    assert next(iter(replaced.items())) == ("model.layers", [5, 6])
    assert base["sweep"]["model.layers"] == [2, 3]


def test_toml_files(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[model]\nlayers = 3\n[sweep]\n"init.gamma" = [0.1, 0.2]\n')
    config = settings.from_dict(settings.load_toml(path))
    assert config.model.layers == 3
    assert config.sweep == (("init.gamma", (0.1, 0.2)),)


@pytest.mark.parametrize("content", [b"[model\n", b"\xff\xfe", None])
def test_unreadable_files_are_usage_errors(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"settings file .*a\.toml"):
        settings.load_toml(path)


@pytest.mark.edge(
    "a settings file with a byte-order mark, or `[sweep] init.gamma`", "read as meant"
)
def test_toml_with_a_byte_order_mark_and_a_nested_sweep(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    text = "[model]\nlayers = 3\n[sweep]\ninit.gamma = [0.1, 0.2]\nseed = [4]\n"
    path.write_text(text, encoding="utf-8-sig")
    data = settings.load_toml(path)
    assert data["sweep"] == {"init.gamma": [0.1, 0.2], "seed": [4]}
    config = settings.from_dict(data)
    assert config.sweep == (("init.gamma", (0.1, 0.2)), ("seed", (4,)))
    assert settings.from_dict({"sweep": {"init": {"gamma": [1]}}}).sweep == (
        ("init.gamma", (1.0,)),
    )


def test_toml_that_sweeps_over_a_field_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[sweep]\n"init.gamma" = [0.1]\ninit.gamma = [0.2]\n')
    with pytest.raises(UsageError, match="sweeps over a field twice"):
        settings.load_toml(path)
