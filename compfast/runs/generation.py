"""Saved members in an engine once more, to say what follows a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import MemberSpec, Prompts
from compfast.engines import make_engine
from compfast.engines.base import Int32, Named, State
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.runs.asking import asked_engine

GENERATING = ("native", "eager", "triton")  # engines that go on from prompts


def as_prompts(
    given: Sequence[Sequence[int]] | NDArray[np.integer[Any]], max_new: int, end: int | None
) -> Prompts:
    """Lists of tokens, or an array [N, P], as prompts; raises UsageError for anything else."""
    if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str):
        raise UsageError(
            f"prompts is {given!r}; they must be lists of tokens or an array [N, P] of them"
        )
    if isinstance(given, np.ndarray):
        width = given.shape[1] if given.ndim == 2 else 0
        whole: Any = given  # of any type: engines check
        return Prompts(whole, np.full(len(given), width, np.int32), max_new, _end(end))
    rows = [_tokens(row, index) for index, row in enumerate(given)]
    if not rows:
        raise UsageError("there is no prompt; at least one is needed")
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens: Any = np.zeros((len(rows), int(lengths.max())), np.int64)  # engines check and convert
    for row, own in zip(tokens, rows, strict=True):
        row[: len(own)] = own
    return Prompts(tokens, lengths, max_new, _end(end))


def chosen_members(given: int | Sequence[int]) -> list[int]:
    """One member or several as a list; raises UsageError for anything else."""
    try:
        several = np.atleast_1d(np.asarray(given))
    except ValueError:  # lists of several lengths
        several = np.empty((0, 0))
    if several.ndim == 1 and not several.size:
        raise UsageError("members is empty; at least one is needed")
    if several.ndim != 1 or not np.issubdtype(several.dtype, np.integer):
        raise UsageError(f"members is {given!r}; it must be a member or several, whole numbers")
    members: list[int] = several.tolist()
    return members


def _end(end: int | None) -> int:
    if end is not None and (not isinstance(end, int | np.integer) or end < 0):
        raise UsageError(f"end is {end!r}; it must be a token, or None")
    return -1 if end is None else int(end)


def _tokens(row: Any, index: int) -> NDArray[np.integer[Any]]:
    try:
        tokens = np.asarray(row)
    except ValueError:  # lists of several lengths
        tokens = np.empty((0, 0))
    if tokens.ndim != 1 or not (tokens.size == 0 or np.issubdtype(tokens.dtype, np.integer)):
        raise UsageError(f"prompt {index} is {row!r}; it must be a list of tokens, whole numbers")
    if not tokens.size:
        raise UsageError(f"prompt {index} is empty; a prompt has at least one token")
    return tokens.astype(np.int64)


def generating_engine(asked: str | None, own: str, device: str) -> tuple[str, str]:
    """The engine, and its device: `asked`, or the run's own; raises UsageError where it cannot."""
    name = own if asked is None else asked
    others = " and ".join(f'engine="{e}"' for e in GENERATING if e != name)
    if name not in (*GENERATING, "auto") and name == own:
        raise UsageError(
            f"engine {name}, which trained this run, does not go on from prompts; {others} do"
        )
    return asked_engine(asked, own, device, f"{others} generate too")


def generate(
    members: Sequence[tuple[int, MemberSpec, Named]], prompts: Prompts, engine: str, device: str
) -> Int32:
    """Told [n, N, max_new] by members (of which group, spec, parameters)."""
    told: dict[int, Int32] = {}
    for group in dict.fromkeys(of for of, _, _ in members):
        rows = [row for row, (of, _, _) in enumerate(members) if of == group]
        specs = [members[row][1] for row in rows]
        made = make_engine(engine, specs, make_tables(specs), device=device)
        weights = [members[row][2] for row in rows]
        made.load(State.fresh({n: np.stack([own[n] for own in weights]) for n in weights[0]}))
        told |= zip(rows, made.generate(prompts, range(len(rows))), strict=True)
    return np.stack([told[row] for row in range(len(members))])
