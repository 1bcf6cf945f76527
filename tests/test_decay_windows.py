"""Weight decay that is on inside windows of the training only: its table, bits, and stored runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ensembles import group, mixed, same_bits, start
from small_runs import assert_same_run, interrupted_at, resumed, small_config

import compfast
from compfast.config import Config, OptimizerConfig, settings
from compfast.ensembles.groups import Groups, member_groups
from compfast.ensembles.schedule import decay_table, make_tables
from compfast.errors import StorageError, UsageError
from compfast.runs.layouts import read_tables, table_arrays
from compfast.storage import durable, tensorfile

WINDOWS = ((0.1, 0.25), (0.4, 0.45))  # of 20 steps: 2, 3, 4 and 8


def test_the_table() -> None:
    def steps(*windows: tuple[float, float]) -> list[int]:
        table = decay_table(OptimizerConfig(decay_windows=windows), 20)
        assert table.dtype == np.float64
        assert set(table.tolist()) <= {0.0, 1.0}
        return np.flatnonzero(table).tolist()

    assert steps() == steps((0, 1)) == steps((0, 0.3), (0.3, 1)) == list(range(20))
    assert steps(*WINDOWS) == [2, 3, 4, 8]
    assert steps((0.75, 1)) == [15, 16, 17, 18, 19]


@pytest.mark.edge("decay windows that overlap, turn round, or end late", "one sentence")
@pytest.mark.parametrize(
    "windows",
    [
        ((0.5, 0.5),),
        ((0.6, 0.2),),
        ((-0.1, 0.2),),
        ((0.9, 1.1),),
        ((0.0, 0.5), (0.4, 0.6)),
        ((0.5, 0.6), (0.0, 0.1)),
        ((float("nan"), 0.5),),
        ((0.5, float("nan")),),
    ],
)
def test_windows_that_are_none(windows: Any) -> None:
    said = r"^optimizer\.decay_windows is \[.*\]; it must be a list of \[from, to\] with 0 <= from"
    with pytest.raises(UsageError, match=said):
        OptimizerConfig(decay_windows=windows)


@pytest.mark.edge("a decay window between two steps", "one sentence, before anything is written")
def test_a_window_without_a_step(tmp_path: Path) -> None:
    windows: dict[str, Any] = {"decay_windows": ((0.5, 0.501),)}
    with pytest.raises(UsageError, match=r"has \[0\.5, 0\.501\], which holds none of the 20 steps"):
        make_tables(group("one_layer", optimizer=windows))
    config = dataclasses.replace(small_config(), optimizer=OptimizerConfig(**windows))
    with pytest.raises(UsageError, match="none of the 46 steps"):
        compfast.train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def _members(optimizer: dict[str, Any]) -> Any:
    return mixed(group("one_layer", steps=20, optimizer=optimizer))


def test_a_factor_of_one_and_of_nothing_change_no_bit(engine: str) -> None:
    """All steps inside: as without windows. All outside: as without decay."""
    plain, inside = (
        start(engine, _members({"decay_windows": windows})) for windows in ((), ((0.0, 1.0),))
    )
    outside = start(engine, _members({"decay_windows": ((0.6, 1.0),)}))
    never = start(
        engine,
        [
            dataclasses.replace(
                spec, optimizer=dataclasses.replace(spec.optimizer, weight_decay=0.0)
            )
            for spec in _members({})
        ],
    )
    for made in (plain, inside, outside, never):
        made.advance(7)
    same_bits(plain.state(), inside.state(), range(3), range(3))
    same_bits(outside.state(), never.state(), range(3), range(3))
    with pytest.raises(AssertionError):
        same_bits(plain.state(), never.state(), [0], [0])


def test_a_window_ends_at_its_step(engine: str) -> None:
    """Two windows of three and of one step are what engines with and without decay do in turn."""
    windowed = start(engine, _members({"decay_windows": WINDOWS}))
    windowed.advance(10)
    specs = _members({})
    none = [dataclasses.replace(s.optimizer, weight_decay=0.0) for s in specs]
    without = [dataclasses.replace(s, optimizer=o) for s, o in zip(specs, none, strict=True)]
    made = start(engine, without)
    for until, members in ((2, without), (5, specs), (8, without), (9, specs), (10, without)):
        following = start(engine, members)
        following.load(made.state())
        following.advance(until)
        made = following
    same_bits(windowed.state(), made.state(), range(3), range(3))


def _swept() -> Config:
    windows: list[Any] = [[], [[0, 0.5]], [[0.25, 0.5], [0.75, 1]]]
    return dataclasses.replace(
        small_config(sweep=(("seed", (0, 1)),)),
        sweep={"optimizer.decay_windows": windows, "seed": (0, 1)},  # type: ignore[arg-type]
    )


def test_members_may_differ_in_their_windows(tmp_path: Path) -> None:
    config = _swept()
    assert [len(specs) for specs in member_groups(config)] == [2, 2, 2]
    assert settings.from_dict(settings.to_dict(config)) == config
    run = compfast.train(config, tmp_path / "run")
    assert run.members["decay_windows"].unique(maintain_order=True).to_list() == [
        "[]",
        "[[0.0, 0.5]]",
        "[[0.25, 0.5], [0.75, 1.0]]",
    ]
    stored = tensorfile.read(run.path / "tables.safetensors")
    assert stored["group-001.decay"].tolist() == [1.0] * 23 + [0.0] * 23
    weights = [run.params(member)["head.weight"].tobytes() for member in (0, 2, 4)]
    assert len(set(weights)) == 3


def test_a_stopped_run_goes_on_in_its_windows(tmp_path: Path) -> None:
    whole = compfast.train(_swept(), tmp_path / "whole")
    stopped = interrupted_at(tmp_path / "run", _swept(), 20)
    assert_same_run(whole, resumed(stopped.path))


def test_tables_stored_before_there_were_windows(tmp_path: Path) -> None:
    """Decay was on at every step; where the members have windows the table must be there."""
    path = tmp_path / "tables.safetensors"

    def stored(groups: Groups) -> None:
        arrays = table_arrays([make_tables(specs) for specs in groups])
        arrays = {name: array for name, array in arrays.items() if not name.endswith(".decay")}
        durable.replace_file(path, tensorfile.chunks(arrays))

    plain = member_groups(small_config())
    stored(plain)
    (tables,) = read_tables(path, plain)
    assert tables.decay.tolist() == [1.0] * 46
    swept = member_groups(_swept())
    stored(swept)
    with pytest.raises(StorageError, match=r"lacks the array group-001\.decay"):
        read_tables(path, swept)
