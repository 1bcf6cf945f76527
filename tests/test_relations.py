"""What measures tell of gamma and verdicts: planted relations are found, permuted ones are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from compfast.analysis import figures
from compfast.analysis.long import joined, part
from compfast.analysis.prediction import broken_line, folds_of, predict, standardised
from compfast.analysis.relations import associations, by_level
from compfast.errors import UsageError

Array = NDArray[Any]
GAMMAS, SEEDS = (0.3, 0.6, 0.9), range(24)


def _members() -> pl.DataFrame:
    """Low gammas are symmetric, high ones inferential; in the middle a coin decides."""
    rng = np.random.default_rng(0)
    rows: list[tuple[Any, ...]] = []
    for gamma in GAMMAS:
        for seed in SEEDS:
            middle = ["symmetric", "inferential"][int(rng.integers(2))]
            verdict = {0.3: "symmetric", 0.9: "inferential"}.get(gamma, middle)
            rows.append((len(rows), gamma, seed, verdict, 1.0, 0.0, 0.0, 0.0))
    names = ["member", "gamma", "seed", "verdict", "seen", "inferential", "symmetric", "other"]
    return pl.DataFrame(rows, names, orient="row")


MEMBERS = _members()
IS_IT = (MEMBERS["verdict"] == "inferential").to_numpy()


def _table(**values: Array) -> pl.DataFrame:
    return _at(0, values)


def _at(step: int, values: dict[str, Array]) -> pl.DataFrame:
    return joined([part(MEMBERS["member"].to_list(), step, None, values)])


def _noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape or len(MEMBERS))


def _row(table: pl.DataFrame, measure: str, other: str) -> dict[str, Any]:
    return table.filter(pl.col("with") == other, measure=measure).row(0, named=True)


def test_means_by_gamma_and_verdict() -> None:
    level = 2 * MEMBERS["gamma"].to_numpy()
    found = by_level(_table(a=level, b=level + _noise(1)), MEMBERS)
    flat = found.filter(measure="a")
    assert flat.select("gamma", "n", "seeds").rows() == [(g, 24, 24) for g in GAMMAS]
    for column in ("mean", "low", "high", "median", "least", "most"):
        np.testing.assert_allclose(flat[column], [0.6, 1.2, 1.8])
    noisy = found.filter(measure="b")
    width = (noisy["high"] - noisy["low"]).to_numpy()
    assert (width > 0.5 * 4 / np.sqrt(24)).all()  # 1.96 standard errors to either side
    assert (width < 1.5 * 4 / np.sqrt(24)).all()
    by_verdict = by_level(_table(a=IS_IT.astype(float)), MEMBERS, "verdict")
    assert by_verdict.sort("verdict")["mean"].to_list() == [1, 0]
    assert by_verdict["n"].sum() == len(MEMBERS)


def test_one_seed_has_no_interval_and_missing_values_no_weight() -> None:
    values = _noise(0)
    values[1:24] = np.nan
    found = by_level(_table(a=values), MEMBERS)
    assert found.row(0, named=True) | {"mean": 0} == {
        **dict.fromkeys(("place", "layer", "index", "low", "high")),
        "step": 0,
        "measure": "a",
        "gamma": 0.3,
        "n": 1,
        "seeds": 1,
        "mean": 0,
        **dict.fromkeys(("median", "least", "most"), values[0]),
    }
    assert found["seeds"].to_list() == [1, 24, 24]


def test_planted_associations_are_found() -> None:
    gamma = MEMBERS["gamma"].to_numpy()
    found = associations(_table(g=gamma**3, v=IS_IT + 0.1 * _noise(2)), MEMBERS)
    assert _row(found, "g", "gamma")["estimate"] == pytest.approx(1)
    assert _row(found, "v", "inferential")["estimate"] == 1
    assert _row(found, "v", "symmetric | gamma")["estimate"] == 0
    # What only goes with gamma tells verdicts, but none among members of one gamma.
    assert _row(found, "g", "inferential")["low"] > 0.6
    assert _row(found, "g", "inferential | gamma")["estimate"] == 0.5
    assert found["n"].unique().to_list() == [len(MEMBERS)]


def test_noise_and_the_control_are_associated_with_nothing() -> None:
    """Of 95 % intervals some nineteen in twenty hold what says nothing."""
    noise = {f"n{i}": _noise(100 + i) for i in range(25)}
    planted = {f"v{i}": IS_IT + 0.1 * _noise(200 + i) for i in range(10)}
    found = associations(_table(**noise), MEMBERS)
    control = associations(_table(**planted), MEMBERS, shuffled=True)
    for table, other, nothing in (
        (found, "gamma", 0),
        (found, "inferential", 0.5),
        (found, "inferential | gamma", 0.5),
    ):
        own = table.filter(pl.col("with") == other)
        assert own.select((pl.col("low") <= nothing) & (pl.col("high") >= nothing))[
            "low"
        ].mean() == pytest.approx(0.95, abs=0.13), other
    own = control.filter(pl.col("with") == "inferential | gamma")
    assert own["estimate"].n_unique() > 1
    assert own["estimate"].is_between(0.2, 0.8).all()


def test_areas_by_hand() -> None:
    """Of the pairs of each gamma, the share in which the one with the verdict has more."""
    values = np.round(_noise(4), 1)
    said = associations(_table(a=values), MEMBERS)
    pairs = [
        (values[i] > values[j]) + 0.5 * (values[i] == values[j])
        for i in np.flatnonzero(IS_IT)
        for j in np.flatnonzero(~IS_IT)
        if MEMBERS["gamma"][int(i)] == MEMBERS["gamma"][int(j)]
    ]
    assert _row(said, "a", "inferential | gamma")["estimate"] == pytest.approx(np.mean(pairs))


def _accuracies(table: pl.DataFrame, **options: Any) -> dict[str, dict[str, Any]]:
    found = predict(table, MEMBERS, **options)
    return {row["from"]: row for row in found.iter_rows(named=True)}


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_verdicts_are_told_from_a_planted_measure(kind: Any) -> None:
    noise = {f"n{i}": _noise(10 + i) for i in range(3)}
    found = _accuracies(_table(v=IS_IT + 0.2 * _noise(5), **noise), kind=kind)
    assert found["measures"]["accuracy"] > 0.95
    assert found["both"]["accuracy"] > 0.95
    assert 0.7 < found["gamma"]["accuracy"] < 0.95  # a coin in the middle
    assert found["both"]["over_low"] > 0
    assert found["gamma"]["over_gamma"] == found["gamma"]["over_high"] == 0
    for row in found.values():
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["shuffled"] < 0.62
        assert (row["n"], row["folds"]) == (72, 10)
    assert found["measures"]["accuracy"] > found["measures"]["shuffled_most"]


def test_noise_tells_nothing_beyond_gamma() -> None:
    found = _accuracies(_table(**{f"n{i}": _noise(20 + i) for i in range(8)}))
    assert found["measures"]["accuracy"] <= found["measures"]["shuffled_most"]
    assert found["both"]["over_low"] <= 0


def test_what_a_seed_shares_is_not_told_across_folds() -> None:
    """A coin a seed is its verdict at every gamma, and each seed has a number of its own: from
    other members of the seed it would be told."""
    seed = MEMBERS["seed"].to_numpy()
    coin = np.array(["symmetric", "inferential"])[np.random.default_rng(7).integers(2, size=24)]
    members = MEMBERS.with_columns(verdict=pl.Series(coin[seed]))
    table = _table(**{f"s{i}": column for i, column in enumerate(np.eye(24)[seed].T)})
    found = predict(table, members).filter(pl.col("from") == "measures").row(0, named=True)
    assert found["accuracy"] < 0.65
    fold = folds_of(seed, 10)
    for number in SEEDS:
        assert len(np.unique(fold[seed == number])) == 1
    assert np.bincount(fold).tolist() == [9] * 4 + [6] * 6


def test_features_are_scaled_by_what_is_fitted_alone() -> None:
    features = _noise(6, 10, 3)
    features[0, 0], features[:, 2] = np.nan, 4.0
    fitted = np.arange(10) < 6
    x = standardised(features, fitted)
    np.testing.assert_allclose(x[fitted].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((x[1:6, 0] ** 2).mean(), 1)
    assert x[0, 0] == 0
    assert not x[:, 2].any()
    features[7:] += 100
    assert (standardised(features, fitted)[fitted] == x[fitted]).all()


def test_gamma_alone_can_tell_any_rule_by_gamma() -> None:
    gammas = np.repeat([0.1, 0.5, 0.2], 2)
    assert broken_line(gammas)[::2].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    many = np.linspace(0, 1, 300)
    np.testing.assert_allclose(broken_line(many).sum(axis=1), 1)
    assert broken_line(many).shape == (300, 32)


@pytest.mark.parametrize(
    ("members", "options", "words"),
    [
        (MEMBERS.filter(seed=0), {}, "2 verdicts and 1 values of seed"),
        (MEMBERS.filter(gamma=0.3), {}, "there are 1 verdicts"),
        (MEMBERS, {"kind": "forest"}, "kind is 'forest'"),
        (MEMBERS, {"l2": 0}, "l2 is 0"),
        (MEMBERS, {"folds": 1}, "folds is 1"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    members: pl.DataFrame, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        predict(_table(a=_noise(0)), members, **options)


def test_against_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="against is 'seed'"):
        by_level(_table(a=_noise(0)), MEMBERS, "seed")  # type: ignore[arg-type]


def test_figures_are_drawn_and_refused() -> None:
    both = pl.concat([_at(step, {"a": _noise(step)}) for step in (0, 10)])
    png = b"\x89PNG"
    assert figures.by_gamma(_table(a=_noise(0)), MEMBERS, ["a"]).startswith(png)
    assert figures.over_training(both, MEMBERS).startswith(png)
    with pytest.raises(UsageError, match="of one step; the table has 2"):
        figures.by_gamma(both, MEMBERS)
    with pytest.raises(UsageError, match="no member has a value"):
        figures.by_gamma(_table(a=np.full(72, np.nan)), MEMBERS)
