"""What the files of a run hold: the name, type and shape of every array, from its specs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compfast.config import MemberSpec
from compfast.ensembles.groups import Groups
from compfast.ensembles.schedule import Tables
from compfast.runs import checkpoints
from compfast.runs.checkpoints import Layouts, group_folder
from compfast.storage.tensorfile import Array, Layout
from compfast.tasks import Exam, make_task

_TABLES = ("scale", "offset", "bias_correction1", "bias_correction2", "std")


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
        "scores": ("F64", (m, len(exam.candidates) + 2)),
    }


def table_arrays(tables: Sequence[Tables]) -> dict[str, Array]:
    return {
        f"{group_folder(g)}.{name}": getattr(table, name)
        for g, table in enumerate(tables)
        for name in _TABLES
    }


def group_tables(stored: dict[str, Array], group: int) -> Tables:
    return Tables(*(stored[f"{group_folder(group)}.{name}"] for name in _TABLES))


def table_layout(groups: Groups) -> Layout:
    layout: Layout = {}
    for g, specs in enumerate(groups):
        steps = (specs[0].training.steps,)
        shapes = [steps] * 4 + [(len(specs), len(checkpoints.parameter_layout(specs)))]
        for name, shape in zip(_TABLES, shapes, strict=True):
            layout[f"{group_folder(g)}.{name}"] = ("F64", shape)
    return layout
