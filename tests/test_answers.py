"""Single answers to held-out items: counted by difference, of each member by itself."""

from __future__ import annotations

import base64
import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from process_state import process_state
from small_runs import small_config

import compfast
from compfast.analysis import answers
from compfast.config import EvaluationConfig, settings
from compfast.config.plugins import task_class
from compfast.errors import UsageError
from compfast.report import page, write_report
from compfast.report.ongoing import Ongoing
from compfast.report.page_answers import later_answers, packed_answers, page_answers
from compfast.tasks import KnownAnswers, known_answers_of, make_task
from compfast.tasks.known_answers import NO_NUMBER

SWEEP = (("model.layers", (1, 2)), ("seed", (0, 1, 2)))
NONE = pytest.mark.edge(
    "answers of a task whose exam knows none of each item, of a step or an engine not there",
    "one sentence; nothing is computed",
)
COSTS = pytest.mark.edge(
    "single answers that cannot be had when a report is drawn (no engine, another's error)",
    "a warning; the page stands without them and says why",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> compfast.Run:
    """Six members in two groups, with their first and last weights."""
    config = small_config(sweep=SWEEP, run={"snapshots": (0, 46)})
    return compfast.train(config, tmp_path_factory.mktemp("answers") / "run")


def _shares(run: compfast.Run, table: pl.DataFrame, difference: int) -> list[float]:
    own = table.filter(difference=difference).select("member", "count")
    joined = run.members.select("member").join(own, on="member", how="left", maintain_order="left")
    return [count / 24 for count in joined["count"].fill_null(0)]


@pytest.mark.parametrize("engine", [None, pytest.param("eager", marks=pytest.mark.slow)])
def test_counts_are_those_behind_the_scores(run: compfast.Run, engine: str | None) -> None:
    table = answers(run, engine=engine)
    assert table.columns == ["member", "difference", "count"]
    assert table.equals(table.sort("member", "difference"))
    totals = table.group_by("member", maintain_order=True).agg(pl.col("count").sum())
    assert totals.rows() == [(member, 24) for member in range(6)]
    known = known_answers_of(make_task(run.config.task).exam(run.config.evaluation))
    assert known is not None
    assert (known.reference, known.shift("inferential")) == ("inferential", 0)
    symmetric = known.shift("symmetric")
    assert symmetric is not None
    for name, difference in (("inferential", 0), ("symmetric", symmetric)):
        assert _shares(run, table, difference) == pytest.approx(run.members[name].to_list())


def test_a_member_answers_alone_as_among_others(run: compfast.Run) -> None:
    before = process_state()
    table = answers(run)
    assert process_state() == before
    for chosen in ([4], [1, 5], [3, 4, 5]):
        own = answers(run.filter(member=chosen))
        assert own.equals(table.filter(pl.col("member").is_in(chosen)))
    nobody = answers(run.filter(member=99))
    assert nobody.is_empty()
    assert nobody.schema == table.schema


def test_a_snapshot_answers_as_it_stood(run: compfast.Run) -> None:
    assert answers(run, 46).equals(answers(run))
    assert not answers(run, 0).equals(answers(run))


def test_who_diverged_has_no_answers_from_then_on(tmp_path: Path) -> None:
    config = small_config(
        sweep=(("optimizer.lr", (1e-3, 1e30)),), run={"snapshots": (0, 46)}, steps=46
    )
    run = compfast.train(config, tmp_path / "run")
    assert run.members["verdict"][1] == "diverged"
    assert set(answers(run)["member"]) == {0}
    assert set(answers(run, 46)["member"]) == {0}
    assert set(answers(run, 0)["member"]) == {0, 1}
    assert answers(run.filter(member=1)).is_empty()
    shown = page_answers(run)
    assert shown.data is not None
    assert _numbers(shown.data["items"]) == [24, 0]


def test_differences_are_whole_numbers_or_residues() -> None:
    reference = np.array([3, 4, 5, 6], np.int32)
    second = np.array([-1, 2, 3, 4], np.int32)
    plain = KnownAnswers("unseen", {"first": reference, "second": second})
    assert plain.differences([[3, 0, 9, 6]]).tolist() == [[0, -4, 4, 0]]
    assert (plain.shift("first"), plain.shift("second")) == (0, -2)
    ring = KnownAnswers("unseen", {"first": reference}, modulus=5, zero=2)  # tokens 2..6
    assert ring.differences([[4, 2, 2, 2]]).tolist() == [[1, -2, 2, 1]]
    assert ring.differences([1, 7, 5, 6]).tolist() == [NO_NUMBER, NO_NUMBER, 0, 0]
    even = KnownAnswers("unseen", {"first": np.zeros(4, np.int32)}, modulus=4)
    assert even.differences([0, 1, 2, 3]).tolist() == [0, 1, -2, -1]
    mixed = KnownAnswers("unseen", {"first": reference, "other": reference[::-1]})
    assert mixed.shift("other") is None


@pytest.mark.parametrize(
    ("task", "modulus"),
    [("anchor", 0), ("identity", 0), ("affine", 31), ("modular", 31), ("chain_search", 0)],
)
def test_exams_that_read_answers_know_them(task: str, modulus: int) -> None:
    made: Any = make_task(task_class(task).Config())
    exam = made.exam(EvaluationConfig(seen_items=16, unseen_items=32))
    known = known_answers_of(exam)
    assert known is not None
    assert known.modulus == modulus
    assert tuple(known.answers) == exam.candidates[: len(known.answers)]
    rows = exam.splits[known.split]
    right = known.answers[known.reference]
    assert right.shape == (rows.stop - rows.start,)
    assert (right >= 0).all()
    told = np.zeros((1, len(exam.inputs)), np.int64)
    told[:, rows] = right
    assert exam.score(told).candidates[known.reference].tolist() == [1.0]
    assert (known.differences(told[:, rows]) == 0).all()
    if task == "affine":  # both orders differ by one number, modulo the prime
        assert known.shift("symmetric") not in (None, 0)


@NONE
def test_what_has_no_answers_is_said(run: compfast.Run, tmp_path: Path) -> None:
    chain = settings.from_dict(
        {
            "task": {"name": "markov", "seq_len": 8},
            "model": {"layers": 1, "d_model": 8, "loss_positions": "all"},
            "training": {"steps": 2, "batch_size": 2},
            "evaluation": {"unseen_items": 8},
        }
    )
    other = compfast.train(chain, tmp_path / "chain")
    with pytest.raises(UsageError, match="task markov does not say what each solution answers"):
        answers(other)
    for told in (page_answers(other), later_answers(other)):
        assert told.plain() == {"data": None, "said": ""}
    with pytest.raises(UsageError, match="no snapshot of step 7; it has 0, 46"):
        answers(run, 7)
    with pytest.raises(UsageError, match="engine is 'fast'; it must be one of"):
        answers(run, engine="fast")
    gone = compfast.load(run.path)
    gone.info["engine"] = "cuda"
    with pytest.raises(UsageError, match='trained this run, and engine="native" or "eager" answ'):
        answers(gone)


@COSTS
def test_a_page_without_answers_says_so(
    run: compfast.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "phase_png", lambda run: b"")
    whole = write_report(run, tmp_path / "whole")[1].read_text()
    assert '"reference":"inferential"' in whole
    # A report in the middle of training asks nobody; it says when the answers come.
    ongoing = write_report(Ongoing(run, [run.metrics]), tmp_path / "ongoing")[1].read_text()
    assert "asked for at the end of a run" in ongoing
    assert '"data":null' in ongoing

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such\ndevice")

    where = importlib.import_module("compfast.analysis.answers")  # not the function of the name
    monkeypatch.setattr(where, "make_engine", broken)
    said: list[str] = []
    text = write_report(run, tmp_path / "broken", said.append)[1].read_text()
    assert said == ["the page has no single answers: RuntimeError: no such device"]
    assert "could not be had: RuntimeError: no such device." in text
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_report(run, tmp_path / "warned")
    assert [str(each.message) for each in caught] == said


def test_a_page_keeps_the_commonest_where_there_are_too_many() -> None:
    known = KnownAnswers("unseen", {"first": np.zeros(9, np.int32)}, modulus=64)
    rows = [(0, -1, 2), (0, 0, 5), (0, None, 2), (1, 3, 9), (4, 1, 1), (4, 2, 3), (4, 3, 5)]
    table = pl.DataFrame(
        rows, {"member": pl.Int64, "difference": pl.Int64, "count": pl.Int64}, orient="row"
    )
    members = np.array([0, 1, 3, 4])
    whole = packed_answers(table, members, [known] * 4, 10)
    assert (whole["each"], whole["differences"]) == (None, [-1, 0, 1, 2, 3, None])
    assert _numbers(whole["items"]) == [9, 9, 0, 9]
    assert _numbers(whole["first"]) == [0, 3, 4, 4, 7]
    assert whole["kinds"] == [{"first": 0}]
    cut = packed_answers(table, members, [known] * 4, 10, most=5)
    assert (cut["each"], cut["differences"]) == (2, [-1, 0, 2, 3])
    assert _numbers(cut["first"]) == [0, 2, 3, 3, 5]
    assert _numbers(cut["items"]) == [9, 9, 0, 9]  # of which some are nowhere


def _numbers(column: dict[str, str]) -> list[int]:
    kind = {"u1": "<u1", "u2": "<u2", "u4": "<u4"}[column["kind"]]
    return [int(n) for n in np.frombuffer(base64.b64decode(column["bytes"]), kind)]
