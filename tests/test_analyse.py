"""`compfast analyse`: it writes what it says, tells planted networks apart, refuses the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import planted
import polars as pl
import pytest

from compfast import analysis
from compfast.__main__ import main
from compfast.analysis import figures, measures
from compfast.analysis.long import SCHEMA
from compfast.analysis.measures import MEASURES, Measure
from compfast.analysis.place_probes import halves, probe_places
from compfast.errors import StorageError, UsageError
from compfast.runs.reading import Run
from compfast.storage import durable

KINDS = ("inferential", "symmetric", "drawn", "inferential", "symmetric", "drawn")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    return planted.planted_run(tmp_path_factory.mktemp("planted") / "run", KINDS)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A costly measure, added as others would, and what it was called with."""
    calls: list[Any] = []

    def table(run: Run, steps: Any, members: Any) -> pl.DataFrame:
        calls.append((list(steps), list(members)))
        return pl.DataFrame(schema=SCHEMA)

    monkeypatch.setitem(MEASURES, "slow", Measure("takes long", costly=table, related=False))
    return calls


def _read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


@pytest.mark.slow
def test_every_cheap_measure_is_written(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], fast_disk: None
) -> None:
    out = tmp_path / "out"
    assert main(["analyse", str(run.path), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    cheap = [name for name, own in MEASURES.items() if own.table is not None]
    for name in cheap:
        table = _read(out, name)
        assert dict(table.schema) == SCHEMA, name
        assert table["step"].unique().sort().to_list() == [0, 1], name
        assert f"{name}: 12 of 12" in said
        if MEASURES[name].related:
            for more in ("gamma", "verdict", "associations", "transition"):
                assert (out / f"{name}.{more}.parquet").exists()
            for picture in (f"{name}.png", f"{name}.training.png"):
                assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert _read(out, "transitions").columns == ["member", "verdict", "transition", "kept"]
    found = _read(out, "prediction").filter(pl.col("from") == "measures")
    assert found["n"].unique().to_list() == [6]
    assert not list(out.glob(".*.tmp"))


def test_the_planted_networks_are_told_apart_by_flow(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], fast_disk: None
) -> None:
    out = tmp_path / "out"
    assert (
        main(["analyse", str(run.path), "--what", "flow", "--steps", "last", "--out", str(out)])
        == 0
    )
    assert f"files are in {out}" in capsys.readouterr().out
    own = _read(out, "flow").filter(pl.col("index").is_null())
    scores = {
        name: own.filter(measure=name).sort("member")["value"].to_numpy()
        for name in ("copied_then_gathered", "merged_then_keyed")
    }
    copied, merged = scores["copied_then_gathered"], scores["merged_then_keyed"]
    assert (copied[[0, 3]] > 0.99).all()
    assert (merged[[1, 4]] > 0.99).all()
    assert max(copied[[1, 2, 4, 5]].max(), merged[[0, 2, 3, 5]].max()) < 0.5
    said = _read(out, "flow.associations").filter(
        pl.col("with") == "inferential", measure="copied_then_gathered"
    )
    assert said["estimate"].item() == 1
    assert (out / "flow.png").exists()
    assert not (out / "flow.training.png").exists()


def test_probes_find_what_planted_networks_hold(run: Run) -> None:
    """Behind layer 2 of both the last token holds the key; before it only the symmetric one knows
    the anchors. Halves share no item."""
    names = ["embed", "blocks.0", "blocks.1"]
    found = probe_places(run, names, ["key", "anchor1"], members=[0, 1], l2=1e-6)

    def r2(member: int, name: str, label: str, column: str = "r2") -> float:
        own = found.filter(member=member, name=name, label=label)
        return float(np.mean(own[column].to_numpy()))

    for member in (0, 1):
        assert r2(member, "blocks.1", "key") > 0.9
        assert r2(member, "embed", "key") < 0.3
        assert r2(member, "blocks.1", "key", "shuffled_r2") < 0.3
    assert r2(1, "blocks.0", "anchor1") > 0.3 > r2(1, "blocks.0", "anchor1", "shuffled_r2")
    alone = probe_places(run, names, ["key", "anchor1"], members=[1], l2=1e-6)
    assert alone.equals(found.filter(member=1))
    one, other = halves(101)
    assert sorted([*one, *other]) == list(range(101))
    assert abs(len(one) - len(other)) == 1


def test_probes_of_splits_at_positions(run: Run) -> None:
    found = probe_places(
        run,
        ["blocks.0"],
        ["key"],
        at=["key", "last", 0],
        fitted="seen",
        scored="unseen",
        members=[0],
    )
    assert found["at"].to_list() == ["key", "last", "0"]
    by_place = dict(found.select("at", "r2").iter_rows())
    assert by_place["key"] > 0.95 > by_place["last"]
    logistic = probe_places(run, ["blocks.0"], ["anchor1"], "logistic", at=["anchor1"], members=[0])
    assert (logistic["accuracy"] > 0.99).all()
    assert logistic.columns[-4:] == ["f1", "accuracy", "shuffled_f1", "shuffled_accuracy"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": "blocks.0"}, "must be lists"),
        ({"names": ["blocks.7"]}, "no place 'blocks.7'"),
        ({"labels": ["term"]}, "label is 'term'; it must be one of key"),
        ({"fitted": "seen"}, "fitted and scored go together"),
        ({"fitted": "seen", "scored": "seen"}, "share items"),
        ({"items": 1}, "items is 1"),
        ({"kind": "logistic", "labels": ["key"]}, "labels that are true or false"),
    ],
)
def test_probes_that_there_are_not(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        probe_places(run, **{"names": ["blocks.0"], "labels": ["key"], "members": [0], **options})


def test_a_costly_measure_is_named_timed_and_taken_in_parts(
    run: Run,
    added: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fast_disk: None,
) -> None:
    assert "slow" not in measures.chosen_measures(None)
    argv = ["analyse", str(run.path), "--what", "slow", "--steps", "0,1", "--out", str(tmp_path)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert re.search(r"slow takes (about \d|under 1 s)", said)
    assert "slow: 12 of 12" in said
    for step in (0, 1):
        taken = [member for steps, members in added if steps == [step] for member in members]
        assert taken == list(range(6))
    assert len(added) > 2


def test_members_do_not_change_each_other_in_probes(run: Run) -> None:
    whole = measures.probes(run, [1], range(6))
    assert measures.probes(run, [1], [4]).equals(whole.filter(member=4))
    key = whole.filter(measure="r2_key", layer=1).sort("member")["value"].to_numpy()
    assert (key[[0, 1, 3, 4]] > 0.9).all()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--what", "norms,rank"], "the measure is 'rank'; it must be one of norms, distances"),
        (["--what", ""], "the measure is ''"),
        (["--steps", "7"], "steps are [7]; the weights"),
        (["--steps", "x"], "--steps is 'x'; it must be all, first, last or a list such as 0,1"),
        (["--steps", "-1"], "--steps"),
        (["--waht", "norms"], "did you mean --what"),
        ([], "--out is"),
    ],
)
@pytest.mark.edge(
    "compfast analyse: a measure, a step or a flag that there is not, the run as --out",
    "exit 2, one sentence with what there is",
)
def test_wrong_usage_is_one_sentence(
    run: Run, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = argv or ["--out", str(run.path)]
    assert main(["analyse", str(run.path), *given]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (run.path / "analysis").exists()


@pytest.mark.edge(
    "compfast analyse into a folder in which another one writes", "exit 4, nothing is changed"
)
def test_two_do_not_write_into_one_folder(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = durable.Lock(tmp_path)
    argv = ["analyse", str(run.path), "--what", "norms", "--out", str(tmp_path)]
    assert main(argv) == StorageError.exit_code
    assert "is in use by another process" in capsys.readouterr().err
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_run_does_not_allow_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fast_disk: None, native_extension: None
) -> None:
    import compfast

    config = {
        "task": {"name": "markov", "p": 0.2, "q": 0.3, "seq_len": 6},
        "model": {"layers": 1, "d_model": 8, "loss_positions": "all"},
        "training": {"steps": 2, "batch_size": 2, "log_every": 2, "eval_every": 2},
        "run": {"threads": 1, "engine": "native"},
        "sweep": {"seed": [0, 1]},
    }
    run = compfast.train(config, tmp_path / "run")
    chosen = {name: MEASURES[name] for name in ("distances", "condensation", "flow")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "MEASURES", chosen)
        patch.setattr(figures, "by_gamma", lambda *given: b"")
        assert main(["analyse", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "distances is left out:" in said
    assert "flow is left out: task.name is markov" in said
    assert "prediction is left out:" in said
    assert _read(run.path / "analysis", "condensation")["step"].unique().to_list() == [2]
    assert compfast.load(run.path).finished  # the folder is no part of the run
    for name in ("distances", "flow"):
        assert main(["analyse", str(run.path), "--what", name]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_measure_is_cheap_or_costly() -> None:
    with pytest.raises(UsageError, match="either"):
        Measure("neither")
    assert {"analyse", "probe_places", "predict"} <= set(analysis.__all__)


@pytest.mark.slow
def test_the_landscape_s_measures_are_its_functions(run: Run) -> None:
    sharp = MEASURES["sharpness"].costly
    path = MEASURES["path"].costly
    assert sharp is not None
    assert path is not None
    own = analysis.sharpness(run, members=[1])
    found = sharp(run, [0, 1], [1]).filter(step=1)
    assert dict(found.schema) == SCHEMA
    for name in ("eigenvalue1", "trace", "gradient_norm", "loss"):
        assert found.filter(measure=name)["value"].to_list() == own[name].to_list()
    line = analysis.barriers(analysis.loss_line(run, members=[1]))
    assert path(run, [0, 1], [1])["value"].to_list() == line["barrier"].to_list()
    assert path(run, [0], [1]).is_empty()  # there is no line from the initial weights to themselves
