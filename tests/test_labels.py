"""Short texts for values: as many digits as tell neighbours apart, and words for the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import made_run

from compfast.cli.plan import grid_line
from compfast.config import settings
from compfast.config.labels import extent, labels, listed, numbers
from compfast.report import table
from compfast.runs.description import difference

CLOSE = [1.0, 1.00001, 1.00002, 1.00003, 1.001]
edge = pytest.mark.edge(
    "gammas that differ in the fifth digit", "as many digits as tell neighbours apart"
)


@edge
def test_neighbours_get_as_many_digits_as_tell_them_apart() -> None:
    assert numbers(CLOSE) == ["1", "1.00001", "1.00002", "1.00003", "1.001"]
    assert numbers([0.1, 0.123456]) == ["0.1", "0.1235"]
    assert numbers([0.1, 0.123456], least=6) == ["0.1", "0.123456"]
    assert numbers([0.1 + 0.2, 0.3]) == ["0.30000000000000004", "0.29999999999999999"]
    assert numbers([0.5, 0.5]) == ["0.5", "0.5"]
    assert numbers([]) == []


@given(st.lists(st.floats(-1e300, 1e300), unique=True))
def test_different_numbers_have_different_texts(values: list[float]) -> None:
    texts = numbers(values)
    assert len(set(texts)) == len(values)
    near = [float(text) for text in texts]
    np.testing.assert_allclose(near, values, rtol=5.1e-4, atol=1e-320)


def test_words_are_those_of_a_settings_file() -> None:
    assert labels((None, 0.5, 0.25)) == ["none", "0.5", "0.25"]
    assert labels((False, True)) == ["false", "true"]
    assert labels(("pre", "post")) == ["pre", "post"]
    assert labels((((4, 3),), ())) == ["[[4,3]]", "[]"]
    assert labels((2, 16)) == ["2", "16"]


def test_long_lists_lose_their_middle_but_stay_apart() -> None:
    long = [tuple(range(20)), (*range(10), 99, *range(11, 20)), (1,)]
    texts = labels(long)
    assert len(set(texts)) == 3
    assert max(map(len, texts)) <= 32
    assert texts[2].endswith("[1]")


@edge
def test_tables_and_sentences_tell_close_gammas_apart() -> None:
    run = made_run(CLOSE, 2)
    _, rows = table.rows_by_gamma(run.members)
    assert [row[0] for row in rows] == numbers(CLOSE)
    (said,) = table.sentences(run.members, run.config)
    assert "at gamma 1 to 1.00001" in said
    assert "at 1.00003 to 1.001" in said


@edge
def test_plan_and_contradictions_tell_close_values_apart() -> None:
    config, other = (
        settings.from_dict({"sweep": {"optimizer.lr": [0.001, last], "seed": [0]}})
        for last in (0.0010000001, 0.0010000002)
    )
    assert "2 of optimizer.lr (0.001, 0.0010000001)" in grid_line(config)
    said = difference(config, other)
    assert said == "[sweep]: value 2 of optimizer.lr 0.0010000001, not 0.0010000002"


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"seed": [0, 1]}, "[sweep]: init.gamma x seed, not seed"),
        ({"init.gamma": [0.1, 0.2, 0.3], "seed": [0]}, "[sweep]: 2 values of init.gamma, not 3"),
    ],
)
def test_sweeps_that_differ_are_told_apart(sweep: dict[str, list[float]], said: str) -> None:
    stored = settings.from_dict({"sweep": {"init.gamma": [0.1, 0.2], "seed": [0]}})
    assert difference(stored, settings.from_dict({"sweep": sweep})) == said


def test_a_long_list_is_given_by_its_ends() -> None:
    assert listed([0.1 * i for i in range(1, 8)]) == "0.1 to 0.7"
    assert listed([None, 2, 3]) == "none, 2, 3"


def test_an_extent_is_the_distinct_values_or_the_ends_of_many_numbers() -> None:
    assert extent([3, 1, 3, 2]) == "1, 2, 3"
    assert extent(["pre", "post", "pre"]) == "pre, post"
    assert extent([0.3, *(0.1 + i / 1e6 for i in range(9)), 0.25]) == "0.1 to 0.3"


def test_the_plan_says_how_many_points_a_sample_has() -> None:
    sample = {"optimizer.lr": [3e-3, 1e-3], "model.layers": [2, 2]}
    config = settings.from_dict({"sample": sample, "sweep": {"seed": [0, 1, 2]}})
    assert grid_line(config) == (
        "grid: 2 points of optimizer.lr (0.001, 0.003), model.layers (2) x 3 of seed (0, 1, 2)"
        " = 6 members"
    )
