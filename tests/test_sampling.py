"""Points drawn at random: the same wherever they are drawn, an axis of an ensemble like others."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_lines import config_of, refused
from small_runs import assert_same_run, interrupted_at, saved_arrays, small_config

import compfast
from compfast.config import Config, Kinds, settings
from compfast.config.plugins import known_tasks
from compfast.ensemble import main
from compfast.ensembles.grid import member_count, member_specs, sweep_paths
from compfast.ensembles.sampling import Range, draw
from compfast.errors import UsageError

CHOICES: dict[str, Any] = {
    "optimizer.lr": "log:1e-4:1e-2",
    "init.gamma": Range(0.1, 1.5),
    "model.layers": [1, 2, 3],
}
EXPECTED: dict[str, Any] = {  # of 3 points, seed 7; no version may draw others
    "optimizer.lr": (0.000748778576929, 0.000219552052937, 0.000228039390135),
    "init.gamma": (0.895508723822, 0.83240448588, 0.869085462089),
    "model.layers": (2, 3, 3),
}
POINTS: Any = {
    "optimizer.lr": (1e-3, 4e-3, 2e-3),
    "init.gamma": (0.3, 0.9, 0.3),
    "seed": (5, 6, 7),
}
ZIPPED = pytest.mark.edge(
    "`Config(sample=...)` whose columns differ in length, or name a swept field or one twice",
    "one sentence with the columns' lengths, or the field",
)
RANGES = pytest.mark.edge(
    "a range without --sample, a range of whole numbers, --sample with nothing to draw from",
    "one sentence that says what to give",
)
RESUMED = pytest.mark.edge(
    "--resume of a sampled run with --sample, --sample-seed or a range",
    "drawn again and compared: the same go on, others are refused by name",
)


def test_what_is_drawn_never_changes() -> None:
    drawn = draw(3, 7, CHOICES)
    assert drawn == EXPECTED
    assert draw(2, 7, CHOICES) == {path: column[:2] for path, column in EXPECTED.items()}
    alone = {"optimizer.lr": Range(1e-4, 1e-2, log=True)}
    assert draw(3, 7, alone)["optimizer.lr"] == EXPECTED["optimizer.lr"]
    assert draw(3, 8, alone)["optimizer.lr"] != EXPECTED["optimizer.lr"]


def test_draws_fill_their_ranges_evenly() -> None:
    drawn = draw(4000, 1, CHOICES)
    for path, ends, map_ in (
        ("optimizer.lr", (1e-4, 1e-2), np.log),
        ("init.gamma", (0.1, 1.5), np.asarray),
    ):
        low, high = map_(np.array(ends))
        place = np.sort((map_(np.array(drawn[path])) - low) / (high - low))
        assert np.abs(place - (np.arange(4000) + 0.5) / 4000).max() < 1.63 / 4000**0.5  # KS, 1 %
    counts = np.bincount(drawn["model.layers"])[1:]
    assert counts.sum() == 4000
    assert (np.abs(counts - 4000 / 3) < 4 * (4000 * 2 / 9) ** 0.5).all()
    one, other = (np.argsort(np.argsort(drawn[path])) for path in ("optimizer.lr", "init.gamma"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 4000**0.5


def test_no_field_shares_its_stream() -> None:
    for task in known_tasks():
        subs = [zlib.crc32(path.encode()) for path in sweep_paths(Kinds(task))]
        assert len(set(subs)) == len(subs)
        assert min(subs) > 64  # the rounds of the permutation, which are streams of AUX too


@pytest.mark.parametrize("choice", ["1:2:3", "2:1", "1:1", "log:0:1", "nan:1", "x", "log:1", []])
def test_what_is_no_choice_is_refused(choice: Any) -> None:
    with pytest.raises(UsageError, match=r"sample\.optimizer\.lr"):
        draw(2, 0, {"optimizer.lr": choice})
    with pytest.raises(UsageError, match="sample is 0"):
        draw(0, 0, {"optimizer.lr": "1:2"})


def test_points_are_zipped_and_outermost() -> None:
    layers: Any = {"model.layers": (1, 2)}
    config = Config(sample=POINTS, sweep=layers)
    assert member_count(config) == 6
    specs = member_specs(config)
    got = [(s.member, s.optimizer.lr, s.init.gamma, s.seed, s.model.layers) for s in specs]
    rows = list(zip(*POINTS.values(), strict=True))
    assert got == [(2 * i + j, *row, n) for i, row in enumerate(rows) for j, n in enumerate((1, 2))]
    assert member_specs(config, range(3, 5)) == specs[3:5]
    assert [s.seed for s in member_specs(Config(sample=POINTS))] == [5, 6, 7]
    shared: Any = {"optimizer.lr": POINTS["optimizer.lr"]}
    assert [s.seed for s in member_specs(Config(sample=shared))] == [0, 0, 0]


def test_a_config_without_a_sample_is_written_as_before() -> None:
    assert "sample" not in settings.to_dict(Config())
    points: Any = {**POINTS, "init.gamma_qk": (None, 0.5, None)}
    config = Config(sample=points)
    written = json.loads(json.dumps(settings.to_dict(config)))
    assert written["sample"]["init.gamma_qk"] == [None, 0.5, None]
    assert settings.from_dict(written) == config


@ZIPPED
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample": {**POINTS, "model.d_k": (8,)}}, "3 of seed, 1 of model.d_k"),
        ({"sample": POINTS, "sweep": {"init.gamma": (0.3,)}}, "sample.init.gamma is not allowed"),
        ({"sample": POINTS, "sweep": {"seed": (0, 1)}}, "sample.seed is not allowed"),
        ({"sample": [("seed", (1,)), ("seed", (2,))]}, "sample.seed is not allowed"),
        ({"sample": {"seed": ()}}, "sample axis seed is empty"),
        ({"sample": {"seed": (-1,)}}, "sample.seed is -1"),
        ({"sample": {"optimizer.lr": "1e-3:1e-2"}}, "must be a list of values"),
        ({"sample": {"optimizer.rate": (1,)}}, "optimizer.rate is not known"),
        ({"sample": {"run.threads": (1,)}}, "sample.run.threads is not allowed"),
        ({"sample": 3}, "sample is 3; it must be a table"),
    ],
)
def test_what_is_no_sample_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Config(**changes)
    assert words in str(caught.value)


def test_a_field_that_members_share_is_refused() -> None:
    steps: Any = {"training.steps": (3, 4)}
    with pytest.raises(UsageError, match=r"sample path 'training\.steps'"):
        member_specs(Config(sample=steps))


LINE = ["--sample", "3", "--sample-seed", "7", "--lr", "log:1e-4:1e-2"]
LINE += ["--gamma-range", "0.1:1.5", "--layers", "1-3"]


def test_the_command_line_draws_from_ranges_and_lists() -> None:
    config = config_of(*LINE)
    assert dict(config.sample) == {**EXPECTED, "seed": (0, 1, 2)}
    assert config.sweep == ()
    more = config_of(*LINE, "--seed", "4", "--heads", "2", "--weight-decay", "1:2")
    assert dict(more.sample)["seed"] == (4, 5, 6)
    assert {path: dict(more.sample)[path] for path in EXPECTED} == EXPECTED
    for extra in (["--seeds", "2"], ["--models", "6"]):
        twice = config_of(*LINE, *extra)
        assert dict(twice.sample) == EXPECTED
        assert twice.sweep == (("seed", (0, 1)),)
        assert member_count(twice) == 6
    assert config_of(*LINE, "--models", "3") == config
    by_set = config_of(*LINE[:4], "--set", "optimizer.lr=log:1e-4:1e-2")
    assert dict(by_set.sample)["optimizer.lr"] == EXPECTED["optimizer.lr"]


def test_a_settings_file_holds_ranges_or_points(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(
        '[sample]\noptimizer.lr = "log:1e-4:1e-2"\n"init.gamma" = "0.1:1.5"\n'
        "[sweep]\nmodel.layers = [1, 2, 3]\n"
    )
    given = ["--config", str(file), "--sample", "3", "--sample-seed", "7"]
    assert dict(config_of(*given).sample) == {**EXPECTED, "seed": (0, 1, 2)}
    assert "optimizer.lr" not in dict(config_of(*given, "--lr", "1e-3").sample)
    assert "model.layers" not in dict(config_of(*given, "--layers", "2").sample)
    with pytest.raises(UsageError, match=r"sample\.optimizer\.lr is 'log.*give --sample N"):
        config_of("--config", str(file))
    file.write_text('[sample]\noptimizer.lr = [1e-3, 4e-3]\n"init.gamma" = [0.3, 0.9]\n')
    points = config_of("--config", str(file), "--seeds", "2")
    assert (points.points, points.sweep) == (2, (("seed", (0, 1)),))
    assert config_of("--config", str(file)).sweep == (("seed", (0,)),)
    with pytest.raises(UsageError, match="holds points"):
        config_of("--config", str(file), "--sample", "3", "--weight-decay", "1:2")
    file.write_text("[sample]\noptimizer.lr = [1e-3, 4e-3]\nseed = [3, 4]\n")
    assert config_of("--config", str(file)).sweep == ()
    with pytest.raises(UsageError, match="points have seeds"):
        config_of("--config", str(file), "--seed", "3")


@RANGES
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--lr", "1e-4:1e-2"], "LO:HI without :N needs --sample"),
        (["--sample-seed", "3", "--seeds", "2"], "--sample-seed needs --sample N"),
        (["--sample", "3"], "--sample is 3, but nothing is given to draw from"),
        (["--sample", "3", "--lr", "1e-3"], "nothing is given to draw from"),
        (["--sample", "0", "--lr", "1:2"], "--sample is 0"),
        (["--sample", "x", "--lr", "1:2"], "--sample is 'x'"),
        ([*LINE, "--sample-seed", "-1"], "--sample-seed is -1"),
        ([*LINE, "--heads", "1:4"], "--heads is '1:4'; whole numbers are drawn from a list"),
        ([*LINE, "--lr", "1:1"], "--lr is '1:1'; a range to draw from needs LO < HI"),
        ([*LINE, "--lr", "log:0:1"], "--lr is 'log:0:1'; a range that is even in log"),
        ([*LINE, "--set", "optimizer.clip=2:1"], "reversed"),
        ([*LINE, "--gamma-range", "0.5"], "--gamma-range is '0.5'"),
        ([*LINE, "--models", "7"], "--models is 7"),
        ([*LINE, "--seed", str(2**53 - 2)], "seeds must be below 2^53"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, *argv)


def _config(**run: Any) -> Config:
    sample: Any = {
        "model.layers": (1, 2, 1, 1),
        "optimizer.lr": (1e-3, 3e-3, 1e-3, 2e-3),
        "init.gamma": (0.3, 0.5, 0.7, 0.4),
    }
    return dataclasses.replace(small_config(sweep=(("seed", (0, 1)),), run=run), sample=sample)


@pytest.mark.usefixtures("fast_disk")
def test_a_member_of_a_sample_is_the_member_alone(tmp_path: Path) -> None:
    """Whole, in shards that are merged, stopped and resumed, and from single configs: one life."""
    whole = compfast.train(_config(), tmp_path / "whole")
    assert whole.config == _config()
    for i in range(2):
        compfast.train(_config(shard=(i, 2)), tmp_path / f"part{i}")
    merged = compfast.merge([tmp_path / f"part{i}" for i in range(2)], tmp_path / "merged")
    assert_same_run(whole, merged)
    stopped = interrupted_at(tmp_path / "stopped", _config(), 20)
    assert_same_run(whole, compfast.train(_config(), stopped.path, resume=True))
    gammas: Any = {"init.gamma": (0.3, 0.5, 0.7, 0.4)}
    other = dataclasses.replace(_config(), sample=gammas)
    with pytest.raises(UsageError, match=r"\[sample\]: model\.layers x .*, not init\.gamma"):
        compfast.train(other, stopped.path, resume=True)
    spec = member_specs(_config())[3]
    alone = compfast.train(
        dataclasses.replace(
            small_config(sweep=(("seed", (spec.seed,)),)),
            model=dataclasses.replace(_config().model, layers=2),
            optimizer=spec.optimizer,
            init=spec.init,
        ),
        tmp_path / "alone",
    )
    for name, array in alone.params(0).items():
        assert array.tobytes() == whole.params(3)[name].tobytes(), name
    assert saved_arrays(whole)


@pytest.mark.usefixtures("fast_disk")
def test_points_are_a_dimension_of_the_dataset(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    run = compfast.train(_config(), tmp_path / "run")
    data = run.to_xarray()
    assert dict(data.sizes) == {"point": 4, "seed": 2}
    assert data["gamma"].dims == ("point",)
    assert data["gamma"].values.tolist() == [0.3, 0.5, 0.7, 0.4]
    assert data["member"].values.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert data["verdict"].dims == ("point", "seed")


SMALL = [
    *["--d-model", "8", "--heads", "1", "--batch-size", "4", "--steps", "12", "--log-every", "4"],
    *["--eval-every", "6", "--threads", "1", "--set", "evaluation.seen_items=16"],
    *["--set", "evaluation.unseen_items=16"],
]


@RESUMED
@pytest.mark.usefixtures("fast_disk")
def test_a_sampled_run_goes_on_under_its_own_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main([*LINE, *SMALL, *out]) == 0
    run = compfast.load(tmp_path / "run")
    assert run.members["gamma"].to_list() == list(EXPECTED["init.gamma"])
    assert run.members["seed"].to_list() == [0, 1, 2]
    capsys.readouterr()
    resume = ["--resume", str(tmp_path / "run")]
    for same in ([], [*LINE, *SMALL], LINE, [*LINE[:4], "--layers", "1-3"], ["--sample", "3"]):
        assert main([*resume, *same]) == 0, same
    capsys.readouterr()
    for other, words in (
        (["--sample", "4"], "--sample 4 contradicts"),
        ([*LINE, "--sample-seed", "8"], "which was started with"),
        ([*LINE, "--lr", "log:1e-4:2e-2"], "--lr log:1e-4:2e-2 contradicts"),
        ([*LINE[:4], "--weight-decay", "1:2"], "no sample of optimizer.weight_decay"),
        (["--gamma-range", "0.1:1.5"], "have to be given too"),
        (["--layers", "1-3"], "--layers 1-3 contradicts"),
        (["--sample", "3", "--sample-seed", "7"], "--sample-seed says nothing without the ranges"),
        (["--seeds", "2"], "a seed a point"),
        (["--seed", "1"], "--seed 1 contradicts"),
        (["--models", "4"], "--models 4 contradicts"),
    ):
        assert words in refused(capsys, *resume, *other)
