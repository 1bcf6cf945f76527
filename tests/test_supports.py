"""Trained and held-out masks: the papers' lists, and what each pattern promises."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from compfast.errors import UsageError
from compfast.tasks.supports import Pattern, is_complete, is_connected, mask_count, supports


def _pairs(masks: Any) -> list[str]:
    return ["".join(str(m + 1) for m in np.flatnonzero(row)) for row in masks]


def test_the_lists_of_the_paper() -> None:
    trained, held = supports("connected_plus", 6, 2, 0.25, 0)
    assert (len(trained), _pairs(held)) == (12, ["14", "25", "36"])
    trained, held = supports("connected", 6, 2, 0.25, 0)
    assert sorted(_pairs(trained)) == ["12", "16", "23", "34", "45", "56"]
    assert len(held) == 9
    assert is_connected(trained > 0)
    trained, held = supports("disconnected", 6, 2, 0.25, 0)
    assert sorted(_pairs(trained)) == ["12", "13", "23", "45", "46", "56"]
    assert len(held) == 9
    assert not is_connected(trained > 0)
    assert is_complete(trained > 0)


def test_the_rings_of_the_predecessor() -> None:
    """Of eight modules; both have one held-out set, which neither trains."""
    ring, held = supports("ring", 8, 2, 0.25, 0)
    halves, again = supports("halves", 8, 2, 0.25, 0)
    assert (len(ring), len(halves), len(held)) == (24, 20, 10)
    assert np.array_equal(held, again)
    assert is_connected(ring > 0)
    assert not is_connected(halves > 0)
    assert _pairs(held)[:3] == ["15", "16", "25"]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("support", get_args(Pattern))
def test_a_pattern_splits_all_masks(support: Pattern, share: float) -> None:
    trained, held = supports(support, 8, 3, share, 4)
    assert mask_count(8, 3) == 8 + 28 + 56
    rows = [tuple(row) for row in np.concatenate([trained, held]).tolist()]
    assert len(set(rows)) == len(rows) == 92
    assert all(1 <= sum(row) <= 3 for row in rows)
    used = trained.sum(axis=0)
    if support == "non_compositional":
        assert used[-1] == 0
        assert (held[:, -1] == 1).all()
        return
    assert is_complete(trained > 0)
    assert is_connected(trained > 0)
    if support in ("random", "equal", "popular"):
        assert len(held) == int(share * 92)
    if support == "equal":
        assert np.ptp(used) <= 2
    if support == "popular" and share < 0.9:
        assert held[:, 0].sum() == 0
        assert used[0] > 1.4 * used[-1]
    if support == "unpopular":
        assert used[-1] == (6 if share == 0.25 else 1)  # what 63 masks and its own one leave
        assert len(held) >= int(share * 92)


def test_a_seed_chooses_the_masks() -> None:
    first, second = (supports("random", 8, 3, 0.5, seed)[0] for seed in (0, 1))
    assert (first != second).any()
    assert np.array_equal(first, supports("random", 8, 3, 0.5, 0)[0])


def test_connection() -> None:
    def masks(*rows: str) -> Any:
        return np.array([[m == "1" for m in row] for row in rows])

    assert is_connected(masks("1100", "0110", "0011"))
    assert is_connected(masks("0011", "1100", "0110"))
    assert not is_connected(masks("1100", "0011"))
    assert is_connected(masks("110", "100"))
    assert not is_complete(masks("110", "100"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("random", 4, 1, 0.5, 0), "in 200 tries none of them connected all 4 modules"),
        (("random", 6, 2, 0.99, 0), "trains 1 of 21 masks"),
        (("equal", 6, 2, 0.01, 0), "trains 21; at least one must be trained and one held out"),
    ],
)
def test_a_support_that_is_none_is_refused(fields: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        supports(*fields)
