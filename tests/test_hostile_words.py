"""Words from anybody: names on a page or a terminal, and any command line."""

from __future__ import annotations

import html

import polars as pl
import pytest
from hostile import Unmeasured, examples
from hypothesis import given
from hypothesis import strategies as st
from made_runs import made_run

from compfast import ensemble
from compfast.cli.flags import FIELD_FLAGS, LIST_FLAGS
from compfast.cli.output import printable
from compfast.report.page import page

pytestmark = pytest.mark.usefixtures("native_extension")


def test_text_reaches_the_page_escaped() -> None:
    run = made_run((0.3, 0.6), 2)
    bad = '"><script>alert(1)</script>'
    members = run.members.with_columns(verdict=pl.lit(bad))
    run = type(run)(members.rename({"symmetric": bad}), run.config, {"engine": "native"})
    text = page(run, b"")
    assert bad not in text
    assert bad in html.unescape(text)


def test_a_terminal_is_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b[2Jrun\udcff\u202e"
    assert ensemble.main(["--resume", name]) == 2
    said = capsys.readouterr().err
    assert "\\x1b[2Jrun\\udcff\\u202e is not a run folder" in said
    assert printable("Größe: 19 %") == "Größe: 19 %"


WORDS = (
    *(
        "0",
        "-1",
        "1",
        "3",
        "1e400",
        "nan",
        "inf",
        "9" * 30,
        "9" * 5000,
        "0x" + "f" * 5000,
        "1,2",
        "1:2:3",
        "0:1:2",
    ),
    *("0.1:1.5", "1.5:0.1", "2:2", "1:2:1000000000000", ":", ",", "", " ", "none", "/", "1/2"),
    *("2/1", "log:3", "log:99999999999", "model.layers=2", "model.layers=[1,2]", "a.b=1", "="),
    *("seed=1", "init.gamma=nan", "model.x=" + "[" * 5000, "\x00", "\ud800", "ray", "ray:", "x"),
    *(".001", "1.", "1e3", "2-6", "6-2", "1e-3,.01", "[1e-3,.01]", "False", "TRUE,false", "~"),
    *(
        "model.causal=False",
        "optimizer.lr=.001,1.",
        "task.unseen=[[[4,3]],[[3,4]]]",
        "run.shard=1,2",
    ),
    *("task.anchors=(", "task.anchors=" + "(" * 500, "model.norm='post'", "model.d_k=none,4"),
    *("anchor", "fp32", "native", "eager", "triton", "cuda", "tiny", "paper", "both-unseen"),
)
FLAGS = (
    *FIELD_FLAGS,
    *LIST_FLAGS,
    *("--models", "--gamma-range", "--seeds", "--seed", "--variant", "--preset", "--config"),
    *("--set", "--resume", "--snapshots", "--shard", "--unknown", "-x"),
)


def _command_property(capsys: pytest.CaptureFixture[str], words: list[tuple[str, str]]) -> None:
    """--dry-run of anything: a plan, or one sentence and exit code 2 or 4."""
    argv = [part for flag, word in words for part in (f"{flag}={word}",) if flag]
    code = ensemble.main([*argv, "--dry-run"])
    said = capsys.readouterr().err
    assert code in (0, 2, 4), said
    assert said.count("\n") == (0 if code == 0 else 1), said


pairs = st.tuples(st.sampled_from(FLAGS), st.sampled_from(WORDS) | st.text(max_size=6))
START = [("--models", "2"), ("--gamma-range", "0.1:0.9")]
# A drawn set that a batch may or may not be smaller than.
totals = st.sampled_from(("17", "18", "150", "151", "1000", "2147483647"))
batches = st.sampled_from(("1", "15", "16", "128", "840", "841", "16777216"))
drawn = st.tuples(totals, batches).map(
    lambda pair: [
        ("--set", "task.data=fixed"),
        ("--set", f"task.fixed_total={pair[0]}"),
        ("--batch-size", pair[1]),
    ]
)
more = st.lists(pairs, max_size=3)
lines = (
    st.lists(pairs, max_size=4)
    | more.map(lambda others: START + others)
    | st.tuples(drawn, more).map(lambda both: START + both[0] + both[1])
)


@pytest.fixture
def _no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "plan", Unmeasured)


@pytest.mark.usefixtures("_no_measuring")
@examples(120)
@given(words=lines)
def test_command_lines(capsys: pytest.CaptureFixture[str], words: list[tuple[str, str]]) -> None:
    _command_property(capsys, words)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_measuring")
@examples(5000)
@given(words=lines)
def test_command_lines_long(
    capsys: pytest.CaptureFixture[str], words: list[tuple[str, str]]
) -> None:
    _command_property(capsys, words)
