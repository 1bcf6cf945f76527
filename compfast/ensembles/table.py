"""The members table: one row a member, its spec, what it answered and where it stands.

Columns: member, gamma, seed, init_seed, data_seed, the other fields of the spec, verdict, seen, the
candidates, other, steps, group, row. A field goes by its bare name (layers, lr, weight_decay); the
exceptions are `task` (task.name), `optimizer` (optimizer.kind), `total_steps` (training.steps,
since `steps` counts the steps done) and the exam's settings, which carry their section
("evaluation.fitted"). Lists are JSON text.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from compfast.config import SEEDS, MemberSpec

_SECTIONS = ("task", "model", "init", "optimizer", "training", "evaluation")
_RENAMED = {
    "task.name": "task",
    "training.steps": "total_steps",
    "init.gamma": "gamma",
    "optimizer.kind": "optimizer",
}
_FIRST = ("member", "gamma", "seed")


def column_of(path: str) -> str:
    """The column of a spec field, given as in a sweep: "init.gamma", "model.layers", "seed"."""
    section, _, name = path.rpartition(".")
    if section == "evaluation":
        return path
    return _RENAMED.get(path, name)


def spec_columns(specs: Sequence[MemberSpec]) -> pl.DataFrame:
    """The specs as columns, in the order given; a field that is None everywhere is float."""
    rows: list[dict[str, Any]] = []
    for spec in specs:
        row: dict[str, Any] = {"member": spec.member, "gamma": spec.init.gamma}
        row |= {name: getattr(spec, name) for name in SEEDS}
        for section in _SECTIONS:
            part = getattr(spec, section)
            for field in dataclasses.fields(part):
                value = getattr(part, field.name)
                plain = json.dumps(value) if isinstance(value, tuple) else value
                row[column_of(f"{section}.{field.name}")] = plain
        rows.append(row)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    empty = [name for name, dtype in frame.schema.items() if dtype == pl.Null]
    return frame.with_columns(pl.col(empty).cast(pl.Float64)) if empty else frame


def members_table(groups: Sequence[Sequence[MemberSpec]], results: pl.DataFrame) -> pl.DataFrame:
    """Specs joined with `results` (member, verdict, agreements, steps), in member order."""
    specs = [spec for group in groups for spec in group]
    places = pl.DataFrame(
        {
            "member": [spec.member for spec in specs],
            "group": [g for g, group in enumerate(groups) for _ in group],
            "row": [row for group in groups for row in range(len(group))],
        }
    )
    table = spec_columns(specs).join(results, on="member", how="left")
    return table.join(places, on="member", how="left").sort("member")
