"""What the files of a run hold: the name, type and shape of every array, from its specs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compfast.config import MemberSpec
from compfast.ensembles.groups import Groups
from compfast.ensembles.schedule import Tables, decay_table
from compfast.runs import checkpoints
from compfast.runs.checkpoints import Layouts, group_folder
from compfast.storage import tensorfile
from compfast.storage.tensorfile import Array, Layout
from compfast.tasks import Exam, make_task, measures_of

# The tables that members of a group share, [steps] each; beside them there is `std`.
SHARED_TABLES = ("scale", "offset", "bias_correction1", "bias_correction2", "decay")
_TABLES = (*SHARED_TABLES, "std")


def exams_of(groups: Groups) -> list[Exam]:
    """Each group's exam; groups of one task share it."""
    made: dict[Any, Exam] = {}
    exams = []
    for specs in groups:
        key = (specs[0].task, specs[0].evaluation)
        if key not in made:
            made[key] = make_task(specs[0].task).exam(specs[0].evaluation)
        exams.append(made[key])
    return exams


def run_layouts(groups: Groups) -> Layouts:
    """What a checkpoint of these groups holds."""
    layouts: Layouts = {}
    for g, (specs, exam) in enumerate(zip(groups, exams_of(groups), strict=True)):
        layouts |= checkpoints.state_layouts(g, specs)
        layouts[f"{group_folder(g)}/progress.safetensors"] = progress_layout(specs, exam)
    return layouts


def snapshot_layouts(groups: Groups) -> Layouts:
    """What a snapshot of these groups holds."""
    return {
        f"{group_folder(g)}/params.safetensors": checkpoints.parameter_layout(specs)
        for g, specs in enumerate(groups)
    }


def progress_layout(specs: Sequence[MemberSpec], exam: Exam) -> Layout:
    """What `Progress.arrays` gives for these members."""
    m, w = len(specs), specs[0].training.log_every
    return {
        "closed": ("U8", (m,)),
        "loss": ("F32", (m, w)),
        "grad_norm": ("F32", (m, w)),
        "verdict": ("I64", (m,)),
        "stable": ("I64", (m,)),
        "scores": ("F64", (m, len(exam.candidates) + 2 + len(measures_of(exam)))),
    }


def table_arrays(tables: Sequence[Tables]) -> dict[str, Array]:
    return {
        f"{group_folder(g)}.{name}": getattr(table, name)
        for g, table in enumerate(tables)
        for name in _TABLES
    }


def read_tables(path: Path, groups: Groups) -> list[Tables]:
    """Each group's tables from a file of `table_arrays`; StorageError where it holds others.

    A group stored before there were decay windows has none, and no table of them.
    """
    layout, found = _table_layout(groups), tensorfile.read_header(path)
    absent: dict[str, Array] = {}
    for g, specs in enumerate(groups):
        name, first = f"{group_folder(g)}.decay", specs[0]
        if name not in found and not first.optimizer.decay_windows:
            layout.pop(name)
            absent[name] = decay_table(first.optimizer, first.training.steps)
    stored = tensorfile.read(path, layout) | absent
    return [
        Tables(**{name: stored[f"{group_folder(g)}.{name}"] for name in _TABLES})
        for g in range(len(groups))
    ]


def _table_layout(groups: Groups) -> Layout:
    layout: Layout = {}
    for g, specs in enumerate(groups):
        shapes = dict.fromkeys(_TABLES, (specs[0].training.steps,))
        std = (len(specs), len(checkpoints.parameter_layout(specs)))
        for name, shape in {**shapes, "std": std}.items():
            layout[f"{group_folder(g)}.{name}"] = ("F64", shape)
    return layout
