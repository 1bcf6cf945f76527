"""A finished ensemble in trackers of experiments: one run of theirs, whatever its size.

What they get is the same: the settings, `history`'s curves, the table of members, the phase
diagram and, but for TensorBoard, the report's page. They are told once, when all is there: a live
run a member would be thousands.
"""

from __future__ import annotations

import io
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.config.extras import needed
from compfast.config.paths import user_path
from compfast.config.settings import to_dict
from compfast.errors import StorageError, UsageError
from compfast.export.history import history
from compfast.report.page import page
from compfast.report.phase import phase_png
from compfast.runs.reading import Run

_MODES = ("online", "offline")
_ROWS = 1000  # of the members that TensorBoard, which has no tables, shows as text


def wandb(
    run: Run, project: str = "compfast", name: str | None = None, mode: str | None = None
) -> str:
    """Tell Weights & Biases of a run; the folder of its own files.

    `mode` is "online", "offline" or None, what its environment says; `name` is the run folder's
    where it is not given. Raises UsageError without wandb, before there is a verdict and for what
    W&B refuses; StorageError where it cannot be reached.
    """
    if mode not in (None, *_MODES):
        raise UsageError(f"mode is {mode!r}; it must be {' or '.join(_MODES)}, or None")
    library = needed("wandb", "export.wandb")
    image, html = _pictures(run)
    try:
        told = library.init(
            project=project,
            name=name or run.path.name,
            mode=mode,
            config=_settings(run),
            # The process's own output is none of the run's.
            settings=library.Settings(console="off"),
        )
    except library.errors.CommError as error:
        raise StorageError(f"W&B cannot be reached: {_first_line(error)}") from error
    except library.errors.Error as error:
        raise UsageError(f"W&B begins no run: {_first_line(error)}") from error
    try:
        for step, numbers in history(run):
            told.log(numbers, step=step)
        columns, rows = _table(run)
        table = library.Table(columns=columns, data=rows)
        figure = library.Image(_pixels(image), caption="phase diagram")
        report = library.Html(io.StringIO(html), inject=False)  # a link to a style sheet of theirs
        told.log({"members": table, "phase_diagram": figure, "report": report})
    finally:
        told.finish()
    return str(told.dir)


def trackio(run: Run, project: str = "compfast", name: str | None = None, **init: Any) -> str:
    """Tell trackio of a run, on this machine unless `init` says otherwise; the name it goes by.

    `init` are more arguments of `trackio.init` (space_id, server_url, group...). Raises UsageError
    without trackio, and before there is a verdict.
    """
    library = needed("trackio", "export.trackio")
    image, html = _pictures(run)
    quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    told = library.init(
        project=project,
        name=name or run.path.name,
        config=_settings(run),
        **{**quiet, **init},
    )
    try:
        steps = history(run)
        for step, numbers in steps:
            library.log(numbers, step=step)
        columns, rows = _table(run)
        figure = library.Image(_pixels(image), caption="phase diagram")
        report = library.Html(io.StringIO(html), inject=False)
        last = {"members": library.Table(columns=columns, data=rows)}
        last |= {"phase_diagram": figure, "report": report}
        library.log(last, step=steps[-1][0] if steps else 0)
    finally:
        library.finish()
    return str(told.name)


def tensorboard(run: Run, folder: str | PathLike[str]) -> Path:
    """Write a run as TensorBoard's event files into `folder`, new or empty; its path.

    Raises UsageError without tensorboard, for a folder in use, and before there is a verdict;
    StorageError where it cannot be written.
    """
    needed("tensorboard", "export.tensorboard")
    writers = needed("torch.utils.tensorboard", "export.tensorboard", "tensorboard")
    path = user_path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is not a new or an empty folder; give another one")
    image, _ = _pictures(run)
    try:
        with writers.SummaryWriter(str(path)) as writer:
            for step, numbers in history(run):
                for name, value in numbers.items():
                    writer.add_scalar(name, value, step)
            writer.add_image("phase_diagram", _pixels(image), run.step, dataformats="HWC")
            writer.add_text("members", _markdown(run), run.step)
            settings = "\n".join(f"    {line}" for line in _lines(_settings(run)))
            writer.add_text("settings", settings, run.step)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _lines(settings: dict[str, Any]) -> list[str]:
    """Settings a line each, as a settings file has their names."""
    return [f"{path} = {value}" for path, value in settings.items()]


def _settings(run: Run) -> dict[str, Any]:
    """The config by "section.field", and what the run says of itself."""
    flat = {
        f"{section}.{name}": value
        for section, fields in to_dict(run.config).items()
        for name, value in fields.items()
    }
    own = {name: run.info.get(name) for name in ("engine", "isa", "commit", "created")}
    return {**flat, **{f"run.{k}": v for k, v in own.items()}, "run.members": len(run.members)}


def _pictures(run: Run) -> tuple[bytes, str]:
    """The phase diagram as a PNG and the report's page; UsageError before there is a verdict."""
    image = phase_png(run)
    return image, page(run, image)


def _table(run: Run) -> tuple[list[str], list[list[Any]]]:
    return run.members.columns, [list(row) for row in run.members.iter_rows()]


def _pixels(png: bytes) -> NDArray[np.uint8]:
    """[height, width, 3]"""
    from PIL import Image  # comes with matplotlib

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def _markdown(run: Run) -> str:
    """The first members, with what differs between any of them."""
    varied = [c for c in run.members.columns if run.members[c].n_unique() > 1 or c == "member"]
    table = run.members.select(varied).head(_ROWS)
    with pl.Config(
        tbl_formatting="MARKDOWN",
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        fmt_str_lengths=60,
        tbl_width_chars=-1,
    ):
        text = str(table)
    left = len(run.members) - len(table)
    return f"{text}\n\n{left} more members are in the run's members.parquet" if left else text
