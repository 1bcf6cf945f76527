"""The page's data: what it says of any run, whatever its task, its axes and its state."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import MadeRun, WordConfig, made_run, sampled_run, swept_run
from many_members import CurveRun, curve_run
from polars.testing import assert_frame_equal
from small_runs import saved_arrays, small_config

import compfast
from compfast.cli.live import Reports
from compfast.config import settings
from compfast.report import page, page_facts
from compfast.report.ongoing import Ongoing
from compfast.report.packing import packed, script_json
from compfast.report.page_curves import page_curves, thinned
from compfast.report.page_data import NONE_YET, page_data
from compfast.solutions import wilson

ASSETS = Path(page.__file__).parent / "assets"
KINDS = {"u1": "<u1", "u2": "<u2", "u4": "<u4", "f4": "<f4", "f8": "<f8"}


def numbers(column: dict[str, str]) -> Any:
    return np.frombuffer(base64.b64decode(column["bytes"]), KINDS[column["kind"]])


def embedded(text: str, name: str = "data") -> Any:
    """What the page holds in the script element of this id."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_shares_and_axes_are_those_of_the_table() -> None:
    run = made_run([0.1, 0.5, 0.9, 1.3], 5, depths=(2, 3))
    data, curves = page_data(run)
    assert [axis["path"] for axis in data["axes"]] == ["init.gamma", "model.layers", "seed"]
    names = [verdict["name"] for verdict in data["verdicts"]]
    label = [names[v] for v in numbers(data["verdict"])]
    assert label == run.members["verdict"].to_list()
    for verdict in data["verdicts"]:
        assert verdict["count"] == label.count(verdict["name"])
        low, high = wilson(verdict["count"], 40)
        assert (verdict["low"], verdict["high"]) == (low, high)
    gamma, depth, seed = (numbers(axis["level"]) for axis in data["axes"])
    assert [0.1, 0.5, 0.9, 1.3][gamma[7]] == run.members["gamma"][7]
    assert (depth + 2).tolist() == run.members["layers"].to_list()
    assert seed.tolist() == run.members["seed"].to_list()
    assert curves == {"windows": None, "exams": None}  # a run without metrics


def test_no_label_is_told_by_its_colour_alone() -> None:
    data, _ = page_data(curve_run(4, 2, 2, 4, windows=4))
    for one in data["verdicts"]:
        for other in data["verdicts"]:
            if one is not other:
                assert one["symbol"] != other["symbol"]
                assert one["light"] != other["light"]
                assert one["dark"] != other["dark"]
                assert one["pattern"] != other["pattern"]


@pytest.mark.parametrize(
    ("run", "levels"),
    [
        (made_run([0.5], 3), [3]),
        (made_run([0.5], 1), []),
        (made_run([0.5], 3, diverged=True), [3]),
        (swept_run({"optimizer.lr": [1e-3, 1e-2], "seed": [0, 1]}), [2, 2]),
        (swept_run({"model.d_k": ["none", 8, 4], "init.gamma": [0.1, 0.9]}), [2, 3]),
        (sampled_run({"init.gamma": np.linspace(0.1, 1.5, 64).tolist()}, seeds=2), [4, 2]),
        (sampled_run({"model.layers": [1, 2] * 16, "seed": list(range(32))}), [2, 2]),
    ],
    ids=["one gamma", "one member", "all diverged", "no gamma", "derived", "sample", "few drawn"],
)
def test_any_run_has_a_page(run: MadeRun, levels: list[int]) -> None:
    data = embedded(page.page(run))
    assert [len(axis["labels"]) for axis in data["axes"]] == levels
    for axis in data["axes"]:
        place = numbers(axis["level"])
        assert len(place) == len(run.members)
        assert not len(place) or place.max() < len(axis["labels"])


def test_members_that_diverged_have_no_scores_and_say_so() -> None:
    run = made_run([0.5], 3, diverged=True)
    data = embedded(page.page(run))
    assert [v["name"] for v in data["verdicts"] if v["diverged"]] == ["diverged"]
    assert data["scores"] == []


def test_levels_of_a_derived_value_are_found_by_place() -> None:
    run = swept_run({"model.d_k": [8, None], "init.gamma": [0.1, 0.9]})
    (_, width) = page_data(run)[0]["axes"]
    assert width["labels"] == ["none", "8"]
    assert numbers(width["level"]).tolist() == [1, 1, 0, 0]


def test_what_was_drawn_is_binned_and_kept() -> None:
    rates = np.geomspace(1e-4, 1e-2, 64).tolist()
    run = sampled_run({"optimizer.lr": rates, "init.gamma": np.linspace(0.1, 1.5, 64).tolist()})
    gamma, rate = page_data(run)[0]["axes"]
    assert gamma["binned"]
    assert rate["log"]
    np.testing.assert_array_equal(numbers(rate["drawn"]), rates)
    assert numbers(rate["level"]).max() == len(rate["labels"]) - 1


def test_before_the_first_exam_there_is_a_page_without_verdicts() -> None:
    run = made_run([0.3, 0.6], 2)
    nothing = [pl.lit(None, pl.Float64).alias(n) for n in ("seen", "inferential", "symmetric")]
    members = run.members.with_columns(pl.lit(None, pl.String).alias("verdict"), *nothing)
    data = embedded(page.page(dataclasses.replace(run, members=members)))
    assert [verdict["name"] for verdict in data["verdicts"]] == [NONE_YET]
    assert data["scores"] == []


def test_names_from_anybody_end_no_script_and_stay_themselves() -> None:
    bad = "</script><script>alert('\"&\u2028')</script>"
    run = made_run([0.3, 0.6], 2, task=WordConfig(word=bad))
    members = run.members.rename({"symmetric": bad}).with_columns(
        pl.col("verdict").replace("symmetric", bad)
    )
    text = page.page(dataclasses.replace(run, members=members))
    plain = page.page(made_run([0.3, 0.6], 2))
    assert text.lower().count("</script") == plain.lower().count("</script")
    assert bad in [score["name"] for score in embedded(text)["scores"]]
    assert json.loads(script_json({"a": bad, "b": float("nan")})) == {"a": bad, "b": None}


def _curves(run: CurveRun, most: int) -> dict[str, Any]:
    scores = ["seen", "inferential", "symmetric", "other"]
    return page_curves(run.metrics, run.members, scores, most)


def test_curves_hold_every_row_while_they_fit() -> None:
    run = curve_run(4, 1, 1, 4, windows=12)
    found = _curves(run, 10**6)["windows"]
    assert found["every"] == 1
    first, steps = numbers(found["first"]), np.array(found["steps"])
    rows = run.metrics.drop_nulls("loss")
    assert first[-1] == len(rows)
    assert steps[numbers(found["step"])].tolist() == rows["step"].to_list()
    np.testing.assert_allclose(numbers(found["columns"]["loss"]), rows["loss"], rtol=1e-6)
    exams = _curves(run, 10**6)["exams"]
    said = [exams["labels"][v] for v in numbers(exams["verdict"])]
    assert said == run.metrics["verdict"].drop_nulls().to_list()


def test_thinned_curves_keep_every_last_row() -> None:
    run = curve_run(4, 1, 1, 4, windows=40)
    found = _curves(run, 16 * 20)["windows"]
    assert found["every"] == 4
    assert found["rows"] == run.metrics["loss"].drop_nulls().len()
    first, steps = numbers(found["first"]), np.array(found["steps"])[numbers(found["step"])]
    last = run.metrics.drop_nulls("loss").group_by("member", maintain_order=True).last()["step"]
    assert steps[first[1:] - 1].tolist() == last.to_list()
    assert thinned(np.array([3, 0, 2]), 2).tolist() == [0, 2, 4]


def test_metrics_may_lack_columns_and_members() -> None:
    run = curve_run(2, 1, 1, 2, windows=4)
    without = run.metrics.drop("grad_norm", "seen").filter(pl.col("member") != 1)
    found = embedded(page.page(dataclasses.replace(run, metrics=without)), "curves-data")
    assert list(found["windows"]["columns"]) == ["loss"]
    assert "seen" not in found["exams"]["columns"]
    first = numbers(found["windows"]["first"])
    assert first[2] == first[1]
    empty = dataclasses.replace(run, metrics=without.clear())
    assert embedded(page.page(empty), "curves-data") == {"windows": None, "exams": None}


def test_numbers_are_packed_as_they_are() -> None:
    values = [0.1, float("nan"), -1e300]
    assert np.array_equal(numbers(packed(values, "f8")), values, equal_nan=True)
    with pytest.raises(ValueError, match="none of"):
        packed([1], "i8")


def test_what_differs_from_the_preset_is_said() -> None:
    config = settings.from_dict(
        {"optimizer": {"lr": 0.5}, "sweep": {"init.gamma": [0.1, 0.2], "task.unseen": [[[3, 4]]]}}
    )
    name, rows = page_facts.changed_settings(config, [])
    assert name == "tiny"
    assert [row[0] for row in rows] == ["init.gamma", "task.unseen", "optimizer.lr"]
    assert rows[0][1:] == ("2 values: 0.1, 0.2", "0.5")
    assert rows[2][1:] == ("0.5", "0.002")
    named, _ = page_facts.changed_settings(config, ["x", "--preset", "paper"])
    assert named == "paper"


def test_a_run_says_where_its_weights_and_tables_lie(tmp_path: Path) -> None:
    run = compfast.train(small_config(), tmp_path / "run")
    (report,) = {path.parent for path in page.write_report(run)}
    text = (report / "index.html").read_text()
    data = embedded(text)
    assert data["path"] == str(run.path)
    assert all((report / link).is_file() for link in data["weights"])
    links = re.findall(r'<a href="([^"#]+)"', text.partition("</main>")[0])
    assert links
    assert all((report / link).is_file() for link in links)
    digests = page_facts.digests(run)
    checked = dict(digests)["config.json"]
    assert checked == hashlib.sha256((run.path / "config.json").read_bytes()).hexdigest()
    assert all(digest in text for _, digest in digests)
    assert "finished, 46 steps" in text
    windows = embedded(text, "curves-data")["windows"]
    assert windows["rows"] == run.metrics["loss"].drop_nulls().len()


def test_between_checkpoints_the_report_shows_what_was_logged(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    class Look(compfast.Callback):
        def on_start(self, run: compfast.Run, outline: Any) -> None:
            self.run = run
            self.rows: list[pl.DataFrame] = []

        def on_metrics(self, rows: pl.DataFrame) -> None:
            self.rows.append(rows)
            now = Ongoing(self.run, self.rows)
            assert not now.finished
            page.page(now)
            examined = now.members["verdict"].drop_nulls().len()
            seen.append((now.step, now.members["steps"].to_list()[0], examined))
            self.last = now

        def on_end(self, run: compfast.Run) -> None:
            assert_frame_equal(self.last.members, run.members)
            assert_frame_equal(self.last.metrics, run.metrics)

    run = compfast.train(small_config(), tmp_path / "run", [Look()])
    assert [step for step, *_ in seen] == sorted({step for step, *_ in seen})
    assert all(step == done for step, done, _ in seen)
    assert all(examined == len(run.members) for *_, examined in seen)


def test_a_view_has_a_page_of_its_members(tmp_path: Path) -> None:
    run = compfast.train(small_config(), tmp_path / "run")
    data = embedded(page.page(run.filter(member=[1, 2]), b"", tmp_path / "report"))
    assert numbers(data["members"]).tolist() == [1, 2]
    assert data["weights"] is None  # rows count within the view, files do not


def test_reports_while_it_trains_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "phase_png", lambda run: b"")
    steps: list[str] = []

    class Said(compfast.Callback):
        def on_metrics(self, rows: pl.DataFrame) -> None:
            file = tmp_path / "with" / "report" / "index.html"
            found = re.search(r"in progress: step (\d+)", file.read_text() if file.exists() else "")
            steps.append(found[1] if found else "none")

    without = compfast.train(small_config(), tmp_path / "without")
    reported = compfast.train(small_config(), tmp_path / "with", [Reports(10), Said()])
    assert reported.members.equals(without.members)
    assert reported.metrics.equals(without.metrics)
    for name, array in saved_arrays(without).items():
        assert saved_arrays(reported)[name].tobytes() == array.tobytes(), name
    logged = sorted(set(reported.metrics["step"]))
    first = [next(s for s in logged if s >= m) for m in range(10, 46, 10)]
    assert list(dict.fromkeys(steps)) == ["none", *map(str, dict.fromkeys(first))]


def test_files_of_others_are_what_their_makers_published() -> None:
    table = (ASSETS / "README.md").read_text()
    found = re.findall(r"\| (\S+) \| .* `([0-9a-f]{64})` \|", table)
    assert len(found) == 3
    for name, digest in found:
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest
    used = {*page.LIBRARIES, *page.SCRIPTS}
    assert {path.name for path in ASSETS.glob("*.js")} == used | {"live.js"}
    for name in used:
        assert "</script" not in (ASSETS / name).read_text().lower()


def test_the_page_names_no_task() -> None:
    """Candidates are those of the table; our own scripts know none."""
    words = r"inferential|symmetric(?!:)|\banchors\b|markov|\bscan\b"
    for name in page.SCRIPTS:
        assert not re.search(words, (ASSETS / name).read_text()), name
