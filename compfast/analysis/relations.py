"""How measures hang together with gamma and with verdicts, with intervals over seeds.

Members of one seed share their draws, so seeds are what is resampled: each of SAMPLES draws takes
whole seeds with replacement, at every gamma alike, and the interval holds the middle 95 % of what
comes out (percentile bootstrap, as `compfast.solutions.band_difference`). Every number comes from
sums by seed, so that a draw costs a product of a few numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.long import KEY
from compfast.errors import UsageError
from compfast.streams import philox

Float64 = NDArray[np.float64]

SAMPLES = 2000
_CONFIDENCE = 0.95
_ENDS = ("low", "high")
_SHUFFLE = 3  # seed of the control's order of verdicts


def by_level(
    table: pl.DataFrame, members: pl.DataFrame, against: Literal["gamma", "verdict"] = "gamma"
) -> pl.DataFrame:
    """Each number of a long table at each gamma, or of each verdict: mean with an interval.

    A row a (number, step, level), sorted by step as they come: `n` members with a value, of
    `seeds` seeds; `mean` with `low` and `high` (null with one seed), `median`, `least`, `most`.
    `members` is the run's members table. Raises UsageError for another `against`.
    """
    if against not in ("gamma", "verdict"):
        raise UsageError(f"against is {against!r}; it must be gamma or verdict")
    keyed = _joined(table, members).drop_nulls(against)
    grouped = keyed.group_by("step", *KEY, against, maintain_order=True)
    value = pl.col("value")
    levels = grouped.agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("code").n_unique().cast(pl.Int64).alias("seeds"),
        value.mean().alias("mean"),
        value.median().alias("median"),
        value.min().alias("least"),
        value.max().alias("most"),
    )
    # A level of one seed has no interval; of points drawn at random that is every gamma.
    several = keyed.join(
        levels.filter(pl.col("seeds") > 1), on=["step", *KEY, against], nulls_equal=True
    )
    parts = [pl.DataFrame(schema={**_keys(), against: keyed.schema[against], **_numbers_of(_ENDS)})]
    for _, own, weights in _numbers(several):
        known, place = np.unique(own[against].to_numpy(), return_inverse=True)
        shape = (len(known), weights.shape[1])
        at = place * shape[1] + own["code"].to_numpy()
        sums = [
            np.bincount(at, column, minlength=shape[0] * shape[1]).reshape(shape).T
            for column in (own["value"].to_numpy(), np.ones(len(own)))
        ]
        with np.errstate(invalid="ignore"):
            draws = (weights @ sums[0])[1:] / (weights @ sums[1])[1:]  # [SAMPLES, levels]
        ends = np.array([_middle(column) for column in draws.T])
        columns = {against: known, "low": ends[:, 0], "high": ends[:, 1]}
        keys = own.select("step", *KEY)[:1].select(pl.all().repeat_by(len(known)).explode())
        parts.append(keys.hstack(pl.DataFrame(columns)).cast(parts[0].schema))
    found = levels.join(
        pl.concat(parts),
        on=["step", *KEY, against],
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    order = ["step", *KEY, against, "n", "seeds", "mean", "low", "high", "median", "least", "most"]
    return found.select(order)


def associations(
    table: pl.DataFrame, members: pl.DataFrame, *, shuffled: bool = False
) -> pl.DataFrame:
    """How far each number of a long table goes with gamma, and tells each verdict from the others.

    A row a (number, step, with): `with` is "gamma", whose `estimate` is Spearman's correlation of
    the number with gamma (ranks are those of all members, also in a draw); or a verdict, whose
    estimate is the area under the curve: the chance that a member with this verdict has the larger
    number than one with another, ties half, 0.5 where the number says nothing. With
    "VERDICT | gamma" only members of the same gamma are compared, so that what gamma alone would
    tell does not count. `low` and `high` are null with one seed; an estimate is null where there is
    nothing to compare. `n` members, `seeds` seeds. With `shuffled` numbers go to other members, of
    the same gamma: the control, in which verdicts within gamma must be told by nothing.
    """
    keyed = _joined(table, members)
    verdicts = keyed["verdict"].drop_nulls().unique().sort().to_list()
    rows = []
    for key, own, weights in _numbers(keyed):
        values, seed = own["value"].to_numpy(), own["code"].to_numpy()
        gamma, verdict = own["gamma"].to_numpy(), own["verdict"].to_numpy()
        if shuffled:
            values = values[_within(gamma)]
        found = [("gamma", _spearman(values, gamma, seed, weights))]
        larger = (np.sign(values[:, None] - values) + 1) / 2  # [n, n], ties half
        same = (gamma[:, None] == gamma).astype(np.float64)
        own_seed = np.eye(weights.shape[1])[seed]  # [n, seeds]
        for label in verdicts:
            it, other = (
                own_seed * (verdict == label)[:, None],
                own_seed * (verdict != label)[:, None],
            )
            whole = np.outer(it.sum(axis=0), other.sum(axis=0))
            inside = it.T @ same @ other
            found.append((label, _area(it.T @ larger @ other, whole, weights)))
            name = f"{label} | gamma"
            found.append((name, _area(it.T @ (larger * same) @ other, inside, weights)))
        seeds = len(np.unique(seed))
        for name, (estimate, low, high) in found:
            interval = (low, high) if seeds > 1 else (None, None)
            rows.append((*key, name, len(values), seeds, estimate, *interval))
    counts: dict[str, type[pl.DataType]] = {"n": pl.Int64, "seeds": pl.Int64}
    schema: dict[str, type[pl.DataType]] = {**_keys(), "with": pl.String}
    schema |= {**counts, **_numbers_of(("estimate", *_ENDS))}
    return pl.DataFrame(rows, schema, orient="row").with_columns(pl.col(pl.Float64).fill_nan(None))


def _joined(table: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    """Rows with a value, beside what members are; `code` numbers their seeds from 0."""
    own = members.select("member", "gamma", "verdict", "seed")
    keyed = table.drop_nulls("value").join(own, on="member", maintain_order="left")
    return keyed.with_columns(pl.col("seed").rank("dense").cast(pl.Int64).sub(1).alias("code"))


def _numbers(keyed: pl.DataFrame) -> Iterator[tuple[tuple[Any, ...], pl.DataFrame, Float64]]:
    """Step and name of each number, its rows, and how often each draw takes each seed."""
    if not len(keyed):
        return
    count = int(keyed["code"].max()) + 1  # type: ignore[arg-type]  # an Int64 column's
    weights = _draws(count)
    names = ["step", *KEY]
    for key, own in keyed.partition_by(names, maintain_order=True, as_dict=True).items():
        yield key, own, weights


def _draws(seeds: int) -> Float64:
    """[SAMPLES + 1, seeds]: each seed once, then the draws."""
    generator = np.random.Generator(np.random.Philox(0))
    drawn = generator.integers(0, seeds, size=(SAMPLES, seeds))
    counts = np.zeros((SAMPLES + 1, seeds))
    counts[0] = 1
    np.add.at(counts[1:], (np.arange(SAMPLES)[:, None], drawn), 1)
    return counts


def _by_seed(seed: NDArray[Any], columns: list[Float64], weights: Float64) -> list[Float64]:
    """Sums of columns [n] in each draw, [SAMPLES + 1] each."""
    seeds = weights.shape[1]
    return [weights @ np.bincount(seed, column, minlength=seeds) for column in columns]


def _middle(draws: Float64) -> tuple[float, float]:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return np.nan, np.nan
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _spearman(
    values: Float64, gamma: Float64, seed: NDArray[Any], weights: Float64
) -> tuple[float, float, float]:
    x, y = _ranks(values), _ranks(gamma)
    n, sx, sy, xx, yy, xy = _by_seed(seed, [np.ones(len(x)), x, y, x * x, y * y, x * y], weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = (xx - sx * sx / n) * (yy - sy * sy / n)
        flat = squares <= 1e-12 * xx * yy
        draws = np.where(flat, np.nan, (xy - sx * sy / n) / np.sqrt(np.where(flat, 1, squares)))
    return float(draws[0]), *_middle(draws[1:])


def _area(above: Float64, pairs: Float64, weights: Float64) -> tuple[float, float, float]:
    """From pairs [seeds, seeds] of members with a verdict and others, counted by their seeds."""
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = ((weights @ above) * weights).sum(axis=1) / ((weights @ pairs) * weights).sum(
            axis=1
        )
    return float(draws[0]), *_middle(draws[1:])


def _ranks(values: Float64) -> Float64:
    """From 0, those of equal values their mean, centred."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = count.cumsum() - (count + 1) / 2
    ranks = middle[place]
    return np.asarray(ranks - ranks.mean(), np.float64)


def _within(gamma: Float64) -> NDArray[np.int64]:
    """An order of the rows that leaves each with its gamma."""
    order = np.arange(len(gamma))
    for level in np.unique(gamma):
        own = np.flatnonzero(gamma == level)
        order[own] = own[philox.feistel(_SHUFFLE, 0, np.arange(len(own)), len(own))]
    return order


def _keys() -> dict[str, type[pl.DataType]]:
    texts = ("measure", "place")
    return {"step": pl.Int64, **{name: pl.String if name in texts else pl.Int64 for name in KEY}}


def _numbers_of(names: Sequence[str]) -> dict[str, type[pl.DataType]]:
    return dict.fromkeys(names, pl.Float64)
