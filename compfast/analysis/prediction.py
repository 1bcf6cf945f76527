"""From what members are at an early step, or at init: can their verdicts be told?

Cross-validated over seeds: members of one seed share their draws, so all of a seed, at every gamma,
are in one fold, and each fold is told by a model fitted on the others. Beside the measures stand
what gamma alone tells and what both tell; beside each the same with the verdicts in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.linear_probes import logistic, ridge
from compfast.analysis.long import wide
from compfast.analysis.probes import Kind, check_kind
from compfast.errors import UsageError
from compfast.streams import philox

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

FOLDS = 10
SHUFFLES = 20
_KNOTS = 32  # of the broken line of gamma, at most
_SAMPLES = 2000  # of the bootstrap
_FOLD, _ORDER = 4, 5  # seeds of the permutations of seeds and of verdicts


def predict(
    table: pl.DataFrame,
    members: pl.DataFrame,
    *,
    kind: Kind = "ridge",
    l2: float = 1.0,
    folds: int = FOLDS,
    by: str = "seed",
) -> pl.DataFrame:
    """How many verdicts are told from a long table, at each of its steps.

    A row a (step, from), `from` being `commonest` (the commonest verdict of the other folds),
    `gamma`, `measures` or `both`. A model is one linear regression (or logistic regression) a
    verdict, with weight `l2`, of which the largest has it; features are standardised inside the
    fold, where a missing one is its mean, and divided by the root of how many there are of their
    kind, gamma's or measures'. Gamma's features are a broken line with a knot at each
    gamma (at 32 quantiles where there are more), so that alone it can tell any rule by gamma.
    `accuracy` is the share of members told right, with `low` and `high` from folds resampled with
    replacement (95 %); `over_gamma` the difference to gamma's, `over_low` and `over_high` from the
    same draws; `shuffled` the mean accuracy with verdicts in SHUFFLES other orders,
    `shuffled_most` the largest of these: what is above it was found. `n` members, `folds` folds of
    `by`, seeds by default (give "init_seed" or "data_seed" where those were swept). Raises
    UsageError for fewer than two seeds, two folds or two verdicts, and for a kind or l2 that there
    is not.
    """
    check_kind(kind, l2)
    if folds < 2:
        raise UsageError(f"folds is {folds}; it must be at least 2")
    judged = members.drop_nulls("verdict").sort("member")
    verdicts, seeds = judged["verdict"].unique(), judged[by].unique()
    if len(verdicts) < 2 or len(seeds) < 2:
        raise UsageError(
            f"there are {len(verdicts)} verdicts and {len(seeds)} values of {by}; to tell one from"
            " the other, and seeds apart, at least 2 of each are needed"
        )
    fit, parts = ridge if kind == "ridge" else logistic, []
    for (step,), own in table.partition_by("step", maintain_order=True, as_dict=True).items():
        features = judged.select("member").join(wide(own), on="member", how="left").drop("member")
        numbers = features.to_numpy().astype(np.float64)
        trial = _Trial(judged, numbers, fit, l2, folds, by)
        parts.append(trial.table().insert_column(0, pl.Series("step", [step] * 4, pl.Int64)))
    return pl.concat(parts) if parts else pl.DataFrame(schema={"step": pl.Int64})


class _Trial:
    """The members of one step, cut into folds."""

    def __init__(
        self, members: pl.DataFrame, numbers: Float64, fit: Any, l2: float, folds: int, by: str
    ) -> None:
        labels, self.label = np.unique(members["verdict"].to_numpy(), return_inverse=True)
        self.labels, self.fit, self.l2 = len(labels), fit, l2
        self.fold = folds_of(members[by].to_numpy(), folds)
        gamma = broken_line(members["gamma"].to_numpy())
        self.features: dict[str, list[Float64]] = {
            "commonest": [],
            "gamma": [gamma],
            "measures": [numbers],
            "both": [gamma, numbers],
        }

    def table(self) -> pl.DataFrame:
        n, count = len(self.label), int(self.fold.max()) + 1
        orders = [
            np.arange(n),
            *(philox.feistel(_ORDER, i, np.arange(n), n) for i in range(SHUFFLES)),
        ]
        said = np.stack([self.label[order] for order in orders])  # [1 + SHUFFLES, n]
        right = {name: self._told(x, said) == said for name, x in self.features.items()}
        members = np.bincount(self.fold, minlength=count)
        hits = {
            name: np.bincount(self.fold, own[0], minlength=count) for name, own in right.items()
        }
        generator = np.random.Generator(np.random.Philox(0))
        drawn = generator.integers(0, count, size=(_SAMPLES, count))
        rows = []
        for name, own in right.items():
            over = hits[name] - hits["gamma"]
            accuracy = own.mean(axis=1)
            beside = (over.sum() / n, *_middle(over, members, drawn))
            control = (accuracy[1:].mean(), accuracy[1:].max())
            interval = _middle(hits[name], members, drawn)
            rows.append((name, n, count, accuracy[0], *interval, *beside, *control))
        names = ("accuracy", "low", "high", "over_gamma", "over_low", "over_high")
        numbers = dict.fromkeys((*names, "shuffled", "shuffled_most"), pl.Float64)
        schema = {"from": pl.String, "n": pl.Int64, "folds": pl.Int64, **numbers}
        return pl.DataFrame(rows, schema, orient="row")

    def _told(self, kinds: list[Float64], said: Int64) -> Int64:
        """The verdict of each member, [orders, n], by models that have not seen its fold."""
        told = np.empty_like(said)
        for fold in np.unique(self.fold):
            test = self.fold == fold
            targets = (said[:, ~test, None] == np.arange(self.labels)).astype(np.float64)
            # [orders, n, labels] -> a column an order and label
            columns = targets.transpose(1, 0, 2).reshape(targets.shape[1], -1)
            if kinds:
                # Of each kind the variance is 1 in all, so that many numbers do not drown gamma.
                parts = [standardised(own, ~test) / np.sqrt(own.shape[1]) for own in kinds]
                x = np.concatenate(parts, axis=1)
                if x.shape[1] > (~test).sum():  # the best weights lie in the span of the rows
                    x = x @ np.linalg.svd(x[~test], full_matrices=False)[2].T
                weights, intercept = self.fit(x[~test], columns, self.l2)
                scores = x[test] @ weights + intercept
            else:
                scores = np.tile(columns.mean(axis=0), (int(test.sum()), 1))
            # A verdict that the other folds lack is never told.
            scores = np.where(columns.any(axis=0), scores, -np.inf)
            scores = np.where(columns.all(axis=0), np.inf, scores)
            shape = (len(scores), len(said), self.labels)
            told[:, test] = scores.reshape(shape).argmax(axis=2).T
        return told


def folds_of(seed: NDArray[Any], folds: int) -> Int64:
    """The fold of each member [n]: seeds are dealt in a keyed order, as evenly as they go."""
    known, index = np.unique(seed, return_inverse=True)
    order = philox.feistel(_FOLD, 0, np.arange(len(known)), len(known))
    return np.asarray(order[index] % min(folds, len(known)), np.int64)


def broken_line(gamma: Float64) -> Float64:
    """Features [n, knots] in which any broken line with these knots is linear."""
    knots = np.unique(gamma)
    if len(knots) > _KNOTS:
        knots = np.unique(np.quantile(gamma, np.linspace(0, 1, _KNOTS)))
    eye = np.eye(len(knots))
    return np.stack([np.interp(gamma, knots, row) for row in eye], axis=1)


def standardised(features: Float64, fitted: NDArray[np.bool_]) -> Float64:
    """By mean and spread of the fitted rows; 0 where a value is missing or does not vary there."""
    known = np.isfinite(features)
    own = np.where(known & fitted[:, None], features, 0.0)
    count = np.maximum((known & fitted[:, None]).sum(axis=0), 1)
    mean = own.sum(axis=0) / count
    apart = np.where(known, features - mean, 0.0)
    spread = np.sqrt(np.square(apart[fitted]).sum(axis=0) / count)
    varies = spread > 1e-9 * np.abs(mean)
    return np.asarray(np.where(varies, apart / np.where(varies, spread, 1.0), 0.0))


def _middle(hits: NDArray[Any], members: NDArray[Any], drawn: Int64) -> tuple[float, float]:
    draws = hits[drawn].sum(axis=1) / members[drawn].sum(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
