"""Which combinations of modules are trained, and which are held out: lists and patterns.

A mask [M] says which modules a task has. arXiv 2407.12275 lists its masks; arXiv 2312.15001 has
two rings; arXiv 2507.07207 patterns over all masks of 1 to K modules, as its released code
(compscale/data/utils.py) makes them. Where that draws at random, a permutation keyed by a seed is
taken here, and where it asks for a connected and complete support, the first of two hundred.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from compfast.errors import UsageError
from compfast.streams import philox
from compfast.tasks.base import Int32

Masks = NDArray[np.bool_]

Listed = Literal["connected_plus", "connected", "disconnected"]
Ringed = Literal["ring", "halves"]
Pattern = Literal["random", "equal", "non_compositional", "popular", "unpopular"]
Support = Literal[
    "connected_plus",
    "connected",
    "disconnected",
    "ring",
    "halves",
    "random",
    "equal",
    "non_compositional",
    "popular",
    "unpopular",
]
LISTED, RINGED = get_args(Listed), get_args(Ringed)

MOST_MASKS = 4096
_ATTEMPTS = 200

_CONNECTED = "12 23 34 45 56 16"  # 2407.12275, modules counted from 1
_LISTS = {
    "connected": _CONNECTED,
    "disconnected": "12 23 13 45 56 46",
    "connected_plus": f"{_CONNECTED} 13 24 35 46 15 26",
}


def mask_count(modules: int, active: int) -> int:
    """Masks of 1 to `active` modules."""
    return sum(math.comb(modules, hot) for hot in range(1, active + 1))


def supports(
    support: Support, modules: int, active: int, share: float, seed: int
) -> tuple[Int32, Int32]:
    """Trained and held-out masks, int32 [.., M] of 0 and 1.

    Of a list, what is held out are the other masks of two modules. Of `ring` (one module, or two
    at a distance of 1 or 2) and `halves` (one or two modules of one half) it is what neither has,
    so that both have one exam. Of a pattern it is the rest of the masks of 1 to `active` modules,
    `share` of them where the pattern leaves it open:
    random: any. equal: each module about as often trained as any other. popular: trained is
    what has one of the first modules. unpopular: trained is what the first modules make, and each
    other module once beside them. non_compositional: held out is whatever has the last module.

    Raises UsageError where a side is empty or no trained set of such a size connects all modules.
    """
    every = _masks(modules, range(1, active + 1))
    if support in LISTED:
        trained = _of(_LISTS[support], modules)
        held = ~_among(every, trained) & (every.sum(axis=1) == 2)
        return trained.astype(np.int32), every[held].astype(np.int32)
    if support in RINGED:
        ring, halves = _ring(every), _halves(every)
        return _sides(every, ring if support == "ring" else halves, ~(ring | halves))
    if support == "non_compositional":
        return _sides(every, ~every[:, -1], every[:, -1])
    target = len(every) - math.floor(share * len(every) + 1e-9)  # cut, as the paper's code does
    if not 0 < target < len(every):
        raise UsageError(
            f"task.frac_test {share} of {len(every)} masks trains {target}; at least one must be"
            " trained and one held out"
        )
    choose = {
        "random": _random,
        "equal": _equal,
        "popular": _popular,
        "unpopular": _unpopular,
    }[support]
    for attempt in range(_ATTEMPTS):
        order = philox.feistel(seed, attempt, np.arange(len(every)), len(every))
        chosen = choose(every, target, order)
        if is_complete(every[chosen]) and is_connected(every[chosen]):
            return _sides(every, chosen, ~chosen)
    raise UsageError(
        f"task.support {support!r} with task.frac_test {share} trains {target} of {len(every)}"
        f" masks; in {_ATTEMPTS} tries none of them connected all {modules} modules"
    )


def is_complete(masks: Masks) -> bool:
    """Whether every module is in some mask."""
    return bool(masks.any(axis=0).all())


def is_connected(masks: Masks) -> bool:
    """Whether masks that share modules join all modules of theirs."""
    joined = masks[:1].any(axis=0)
    for _ in range(masks.shape[1]):
        joined = joined | masks[masks[:, joined].any(axis=1)].any(axis=0)
    return bool((joined | ~masks.any(axis=0)).all())


def _masks(modules: int, hot: Iterable[int]) -> Masks:
    """All masks with so many modules, in lexicographic order of the modules."""
    rows = [row for count in hot for row in itertools.combinations(range(modules), count)]
    masks = np.zeros((len(rows), modules), np.bool_)
    for mask, row in zip(masks, rows, strict=True):
        mask[list(row)] = True
    return masks


def _of(listed: str, modules: int) -> Masks:
    masks = np.zeros((len(listed.split()), modules), np.bool_)
    for mask, pair in zip(masks, listed.split(), strict=True):
        mask[[int(module) - 1 for module in pair]] = True
    return masks


def _among(every: Masks, some: Masks) -> NDArray[np.bool_]:
    return np.array([(mask == some).all(axis=1).any() for mask in every])


def _sides(
    every: Masks, trained: NDArray[np.bool_], held: NDArray[np.bool_]
) -> tuple[Int32, Int32]:
    return every[trained].astype(np.int32), every[held].astype(np.int32)


def _ring(every: Masks) -> NDArray[np.bool_]:
    near = sum(np.roll(every, shift, axis=1) for shift in (-2, -1, 1, 2)) > 0
    hot = every.sum(axis=1)
    return np.asarray((hot == 1) | ((hot == 2) & (every & near).any(axis=1)))


def _halves(every: Masks) -> NDArray[np.bool_]:
    half = every.shape[1] // 2
    one_half = ~every[:, :half].any(axis=1) | ~every[:, half:].any(axis=1)
    return np.asarray(one_half & (every.sum(axis=1) <= 2))


def _first(allowed: NDArray[np.bool_], count: int, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The first `count` masks in this order that are allowed."""
    chosen = np.zeros(len(allowed), np.bool_)
    chosen[order[allowed[order]][: max(count, 0)]] = True
    return chosen


def _random(every: Masks, target: int, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    return _first(np.ones(len(every), np.bool_), target, order)


def _equal(every: Masks, target: int, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Again and again the mask whose modules were used least on average, the first of equals."""
    masks = every[order]
    hot = masks.sum(axis=1)
    used, free = np.zeros(every.shape[1], np.int64), np.ones(len(every), np.bool_)
    for _ in range(target):
        mean = np.where(free, (masks * used).sum(axis=1) / hot, np.inf)
        best = int(mean.argmin())
        free[best] = False
        used += masks[best]
    chosen = np.zeros(len(every), np.bool_)
    chosen[order[~free]] = True
    return chosen


def _popular(every: Masks, target: int, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """All masks with one of as many first modules as fit, then others with the next module."""
    has = np.logical_or.accumulate(every, axis=1)  # [.., m]: one of the modules 0..m
    modules = int((has.sum(axis=0) <= target).sum())
    core = has[:, modules - 1] if modules else np.zeros(len(every), np.bool_)
    more = every[:, modules] & ~core
    return np.asarray(core | _first(more, target - int(core.sum()), order))


def _unpopular(every: Masks, target: int, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """What the first modules make, as many as fit, and each other one in a mask beside them; then
    others of these with the first unpopular module."""
    count = every.shape[1]
    inside = [~every[:, core:].any(axis=1) for core in range(count)]
    fitting = [c for c in range(2, count) if inside[c].sum() + count - c <= target]
    core = max(fitting, default=2)
    chosen = inside[core]
    for module in range(core, count):
        others = [m for m in range(core, count) if m != module]
        beside = every[:, module] & every[:, :core].any(axis=1) & ~every[:, others].any(axis=1)
        chosen = chosen | _first(beside, 1, order)
    more = every[:, core] & ~every[:, core + 1 :].any(axis=1) & ~chosen
    return np.asarray(chosen | _first(more, target - int(chosen.sum()), order))
