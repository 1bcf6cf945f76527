"""The page in a browser: clicks, keys, filters, both themes; nothing fetched, no complaint."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from browsers import Sheet, chromium, written
from made_runs import WordConfig, made_run, sampled_run
from many_members import ITEMS, SHIFT, curve_run, told_answers

from compfast.report.page import page
from compfast.solutions import wilson

MINUS = "\N{MINUS SIGN}"
RUN = curve_run(gammas=6, depths=3, rates=2, seeds=4, windows=12)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("page"), page(RUN, answers=told_answers(RUN)))


@pytest.fixture(scope="module")
def opened(browser: Any, address: str) -> Iterator[Sheet]:
    sheet = Sheet(browser, address)
    yield sheet
    sheet.close()
    assert sheet.said == []
    assert sheet.asked == [address]  # the file itself, and nothing else


@pytest.fixture
def sheet(opened: Sheet) -> Sheet:
    """The open page with nothing chosen."""
    opened.tab.evaluate("compfast.choose('')")
    opened.settle()
    return opened


def _cell(sheet: Sheet, x: int, y: int) -> tuple[float, float]:
    """The middle of a cell of the first panel, in pixels of the window."""
    sheet.tab.evaluate("scrollTo(0, 0)")
    where = f"""() => {{ const at = document.getElementById("map"), own = at._fullLayout,
        box = at.getBoundingClientRect();
        return [box.x + own.xaxis._offset + own.xaxis.l2p({x}),
                box.y + own.yaxis._offset + own.yaxis.l2p({y})]; }}"""
    left, top = sheet.tab.evaluate(where)
    return float(left), float(top)


def _members(x: int, y: int) -> list[int]:
    gamma, depth = np.unique(RUN.members["gamma"])[x], [1, 2, 3][y]
    rates = RUN.members["lr"].unique().sort()
    own = RUN.members.filter(gamma=gamma, layers=depth, lr=rates[0])
    return list(own["member"])


def test_the_whole_run_is_shown(sheet: Sheet) -> None:
    assert sheet.text("#picked-text") == "Below: all 144 members."
    counts = dict(RUN.members["verdict"].value_counts().iter_rows())
    chips = sheet.tab.locator(".chip").all_inner_texts()
    for name, count in counts.items():
        assert any(name in chip and str(count) in chip.split() for chip in chips)
    assert "Pooled: seed (0, 1, 2, 3)." in sheet.text("#map-said")
    for chart in ("map", "scores", "spread", "curves"):
        assert sheet.tab.locator(f"#{chart} .main-svg").count() >= 1


def test_a_click_on_a_cell_chooses_its_members(sheet: Sheet) -> None:
    sheet.tab.mouse.click(*_cell(sheet, 2, 1))
    sheet.settle()
    said = sheet.text("#picked-text")
    assert said.startswith("Chosen: 4 members: gamma 0.66, depth (layers) 2, learning rate")
    rows = sheet.tab.locator("#members-table tbody tr").all()
    assert [int(row.get_attribute("data-member")) for row in rows] == _members(2, 1)
    assert sheet.tab.locator("#map .box.pick").is_visible()
    assert "4 members" in sheet.text("#curves-said")
    assert "depth (layers) 2" in sheet.text("#scores-said")


def test_pointing_at_a_cell_gives_intervals(sheet: Sheet) -> None:
    left, top = _cell(sheet, 3, 1)
    sheet.tab.mouse.move(left - 4, top)
    sheet.tab.mouse.move(left, top, steps=3)
    sheet.tab.wait_for_selector("#map .hoverlayer .hovertext")
    told = sheet.tab.locator("#map .hoverlayer").text_content()
    own = RUN.members.filter(RUN.members["member"].is_in(_members(3, 1)))["verdict"]
    name, count = own.value_counts(sort=True).row(0)
    low, high = (round(100 * float(end)) for end in wilson(count, 4))
    assert f"{name} {count} of 4 ({25 * count} %, {low} to {high})" in told
    assert name in sheet.text("#map-read")


def test_a_verdict_and_a_member(sheet: Sheet) -> None:
    sheet.tab.click(".chip[data-verdict=underfit]")
    sheet.settle()
    count = (RUN.members["verdict"] == "underfit").sum()
    assert sheet.text("#picked-text") == f"Chosen: {count} members: underfit."
    assert sheet.tab.get_attribute(".chip[data-verdict=underfit]", "aria-pressed") == "true"
    sheet.tab.click("#members-table tbody tr:nth-child(2) td:first-child")
    sheet.settle()
    member = RUN.members.filter(verdict="underfit")["member"][1]
    assert sheet.text("#picked-text").startswith(f"Chosen: member {member}: underfit; gamma")
    assert sheet.tab.input_value("#choose-member") == str(member)
    sheet.tab.click("#picked-clear")
    sheet.settle()
    assert sheet.text("#picked-text") == "Below: all 144 members."


def test_who_diverged_is_marked(sheet: Sheet) -> None:
    gone = RUN.members.filter(verdict="diverged")["member"].to_list()
    assert gone
    sheet.tab.click(".chip[data-verdict=diverged]")
    sheet.settle()
    traces = "document.getElementById('curves').data.filter(t => t.name === 'diverged here')"
    marks = sheet.tab.evaluate(f"{traces}.map(t => t.text)")
    assert marks[0] == [f"member {member} diverged at step 601" for member in gone]


def test_the_map_by_keyboard(sheet: Sheet) -> None:
    sheet.tab.focus("#map")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        sheet.tab.keyboard.press(key)
    assert sheet.text("#map-read").startswith("gamma 0.38, depth (layers) 2")
    assert sheet.tab.locator("#map .box.focus").is_visible()
    sheet.tab.keyboard.press("Enter")
    sheet.settle()
    assert sheet.text("#picked-text").startswith("Chosen: 4 members: gamma 0.38, depth (layers) 2")
    sheet.tab.keyboard.press("Escape")
    sheet.settle()
    assert sheet.text("#picked-text") == "Below: all 144 members."


def _bars(sheet: Sheet) -> dict[str, dict[int, float]]:
    """Name -> difference -> height of the bars of answers."""
    drawn = "document.getElementById('spread').data.map(t => [t.name, t.x, t.y])"
    return {name: dict(zip(x, y, strict=True)) for name, x, y in sheet.tab.evaluate(drawn)}


def test_answers_by_their_difference(sheet: Sheet) -> None:
    bars = _bars(sheet)
    assert list(bars) == ["inferential (0)", f"symmetric ({MINUS}{-SHIFT})", "other answers"]
    assert list(bars["inferential (0)"]) == [0]
    assert list(bars[f"symmetric ({MINUS}{-SHIFT})"]) == [SHIFT]
    assert sum(sum(own.values()) for own in bars.values()) >= 0.99
    assert 40 not in bars["other answers"]  # one in 512 is cut off, and said
    gone = (RUN.members["verdict"] == "diverged").sum()
    words = sheet.text("#spread-said")
    assert "at step 1200, by their difference to inferential: " in words
    assert re.search(
        rf"0\.\d % are beyond {MINUS}{-SHIFT} to \+\d\. 0\.2 % are no number of the task", words
    )
    assert f"Differences are modulo 97. {gone} have no answers: they diverged." in words
    sheet.tab.mouse.click(*_cell(sheet, 2, 1))
    sheet.settle()
    own = RUN.members.filter(RUN.members["member"].is_in(_members(2, 1)), verdict="inferential")
    sheet.tab.evaluate(f"compfast.choose('member:{own['member'][0]}')")
    sheet.settle()
    height = _bars(sheet)["inferential (0)"][0]
    assert height == pytest.approx(own["inferential"][0], abs=4 / ITEMS + 0.05)
    assert f"0 (inferential) {100 * height:.0f} %" in sheet.text("#spread-said")
    sheet.tab.click("#picked-clear")
    sheet.tab.click(".chip[data-verdict=diverged]")
    sheet.settle()
    assert "None of them has answers: they diverged." in sheet.text("#spread-said")


def test_shares_stay_at_hand_by_keyboard_and_link(sheet: Sheet) -> None:
    assert sheet.text("#spread-title") == "Answers of the chosen members"
    sheet.tab.focus("#choose-spread")
    sheet.tab.keyboard.press("ArrowDown")
    sheet.settle()
    assert sheet.text("#spread-title") == "Scores of the chosen members"
    assert "spread=scores" in sheet.tab.url
    assert list(_bars(sheet)) == ["seen", "inferential", "symmetric", "other"]
    sheet.choose("spread", "answers")
    assert "inferential (0)" in _bars(sheet)


def test_filters_sorting_and_the_download(sheet: Sheet) -> None:
    sheet.tab.fill("input[aria-label='Filter by gamma']", "0.6..1")
    sheet.tab.fill("input[aria-label='Filter by verdict']", "symm")
    sheet.tab.click("#members-table thead th:has-text('symmetric')")
    with sheet.tab.expect_download() as got:
        sheet.tab.click("#download")
    rows = list(csv.DictReader(io.StringIO(Path(got.value.path()).read_text())))
    gamma = RUN.members["gamma"]
    own = RUN.members.filter((gamma >= 0.6) & (gamma <= 1), verdict="symmetric").sort("symmetric")
    assert [float(row["symmetric"]) for row in rows] == own["symmetric"].to_list()
    assert {int(row["member"]) for row in rows} == set(own["member"])
    assert f"of {len(own)} entries" in sheet.text(".dt-info")
    for column in ("gamma", "verdict"):
        sheet.tab.fill(f"input[aria-label='Filter by {column}']", "")


def test_the_line_that_loads_a_member(sheet: Sheet) -> None:
    line = sheet.tab.evaluate("compfast.pythonLine(17)")
    assert line == "import compfast; model = compfast.load(RUN).model(17)"
    sheet.tab.fill("#choose-member", "77")
    sheet.tab.keyboard.press("Enter")
    sheet.settle()
    assert sheet.text("#picked-line") == line.replace("(17)", "(77)")
    row = sheet.tab.locator("#members-table tr.chosen")
    assert row.get_attribute("data-member") == "77"
    assert sheet.tab.locator("#map .box.pick").is_visible()  # where it is on the map
    label = row.locator("button").get_attribute("aria-label")
    assert label == "Copy the Python line that loads member 77"
    sheet.tab.evaluate("""() => { window.held = []; Object.defineProperty(navigator, "clipboard",
        {value: {writeText: async (text) => held.push(text)}}); }""")
    for button in ("#members-table tr.chosen button", "#picked-copy"):
        sheet.tab.click(button)
    assert sheet.tab.evaluate("held") == [sheet.text("#picked-line")] * 2
    assert sheet.text("#picked-text").startswith("Chosen: member 77")
    assert sheet.text("#picked-copy") == "copied"


def test_other_axes_and_a_link_that_keeps_them(sheet: Sheet, browser: Any) -> None:
    sheet.choose("x", "model.layers")
    sheet.choose("y", "")
    sheet.choose("show", "symmetric")
    assert "95 % Wilson interval" in sheet.text("#map-said")
    heights = sheet.tab.evaluate("document.getElementById('map').data[0].y")
    rate = RUN.members["lr"].unique().sort()[0]
    z = sheet.tab.input_value("#choose-z")
    own = RUN.members.filter(lr=rate) if z else RUN.members
    share = [(own.filter(layers=depth)["verdict"] == "symmetric").mean() for depth in (1, 2, 3)]
    assert heights == pytest.approx(share)
    again = Sheet(browser, sheet.tab.url)
    assert again.tab.input_value("#choose-x") == "model.layers"
    assert again.tab.input_value("#choose-show") == "symmetric"
    again.close()
    sheet.choose("show", "")
    sheet.choose("x", "init.gamma")
    sheet.choose("y", "model.layers")


def _axe(sheet: Sheet, **options: Any) -> list[tuple[str, str]]:
    """Rule and impact of what axe-core finds serious."""
    module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    found = module.Axe().run(sheet.tab, options=options).response["violations"]
    return [(v["id"], v["impact"]) for v in found if v["impact"] in ("serious", "critical")]


def _pages(sheet: Sheet) -> int:
    return len(re.findall(rb"/Type /Page\b", sheet.tab.pdf(prefer_css_page_size=True)))


def test_no_serious_finding_of_axe(sheet: Sheet) -> None:
    assert _axe(sheet, resultTypes=["violations"]) == []


def test_dark_is_dark_and_prints_on_white_paper(browser: Any, address: str) -> None:
    sheet = Sheet(browser, address, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert sheet.tab.evaluate(ground) == "rgb(15, 20, 25)"
    ink = "document.querySelector('#map .xtick text').style.fill"
    assert sheet.tab.evaluate(ink) == "rgb(166, 176, 187)"
    paint = "document.querySelector('.chip[data-verdict=symmetric] .swatch').style.background"
    assert sheet.tab.evaluate(paint) == "rgb(238, 188, 76)"
    assert _axe(sheet, runOnly=["color-contrast"]) == []
    assert _pages(sheet) <= 2  # of panels and many sentences
    sheet.tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert sheet.tab.evaluate(ground) == "rgb(255, 255, 255)"
    assert sheet.tab.evaluate(ink) == "rgb(51, 51, 51)"
    sheet.close()
    assert sheet.said == []


HOSTILE = "</script><img src=x onerror=alert(1)>\"'"


def _hostile() -> str:
    run = made_run([0.1, 0.9], 3, task=WordConfig(word=HOSTILE))
    labels = {"symmetric": HOSTILE}
    members = run.members.rename(labels).with_columns(pl.col("verdict").replace(labels))
    return page(type(run)(members, run.config, run.info))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (_hostile, HOSTILE),
        (lambda: page(made_run([0.5], 1)), "all 1 members"),
        (lambda: page(made_run([0.5], 3, diverged=True)), "This run has no scores."),
        (
            lambda: page(sampled_run({"init.gamma": np.linspace(0.1, 1.5, 64).tolist(),
                                      "optimizer.lr": np.geomspace(1e-4, 1e-2, 64).tolist()})),
            "A dot is a member, at its gamma and learning rate.",
        ),
    ],
    ids=["hostile names", "one member", "all diverged", "a sample"],
)  # fmt: skip
def test_other_runs_open(browser: Any, tmp_path: Path, made: Any, words: str) -> None:
    sheet = Sheet(browser, written(tmp_path, made()))
    assert words in sheet.text("main")
    sheet.tab.focus("#map")
    sheet.tab.keyboard.press("ArrowRight")
    sheet.tab.keyboard.press("Enter")
    sheet.settle()
    assert sheet.text("#picked-text").startswith("Chosen: ")
    assert _pages(sheet) == 1
    sheet.close()
    assert sheet.said == []
    assert len(sheet.asked) == 1
