"""report/index.html: one interactive file that needs nothing else, neither network nor neighbours.

What it shows is data (page_data.py, page_curves.py, page_facts.py), how is assets/: a template, a
style and plain scripts, put into the file as they are. Without scripts there are the diagram and
the table by gamma.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from compfast.config.labels import extent, listed
from compfast.config.paths import user_path
from compfast.errors import UsageError
from compfast.report import page_facts, style
from compfast.report.bins import bins_of, remarks, rows
from compfast.report.ongoing import Ongoing
from compfast.report.packing import script_json
from compfast.report.page_answers import PageAnswers, later_answers, page_answers
from compfast.report.page_axes import page_axes
from compfast.report.page_data import page_data
from compfast.report.phase import RunLike, phase_png
from compfast.runs import reading
from compfast.runs.forks import tables_ahead
from compfast.storage import durable

LIBRARIES = ("plotly-cartesian.min.js", "dataTables.min.js")
SCRIPTS = (
    "data.js", "stats.js", "theme.js", "state.js", "focus.js", "map.js", "grid.js", "dots.js",
    "scores.js", "answers.js", "curves.js", "table.js", "main.js",
)  # fmt: skip
_TEMPLATE = "page.html.jinja"
_STYLES = ("dataTables.dataTables.min.css", "page.css")

Say = Callable[[str], None]


def warn(sentence: str) -> None:
    """What is missing from a report, to whoever called from Python."""
    warnings.warn(sentence, stacklevel=3)


def write_report(
    run: RunLike | str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    complain: Say = warn,
) -> list[Path]:
    """Write phase_diagram.png and index.html of a run, or of the run in a folder.

    They go into `folder`, by default the run's own `report`, and replace what is there; their
    paths are returned. Members are asked for their answers to the held-out items, which takes as
    long as an exam; where that fails `complain` is told, by default as a warning, and the page has
    none. Raises UsageError where there is no run, no verdict yet or no matplotlib, StorageError
    where the run cannot be read or the report not be written.
    """
    tables_ahead()
    if isinstance(run, (str, os.PathLike)):
        run = reading.load(run)
    if folder is None:
        if not isinstance(run, reading.Run):
            raise UsageError("write_report needs a folder: what it was given is in none")
        folder = run.path / "report"
    image = phase_png(run)
    folder = user_path(folder)
    durable.make_folder(folder)
    paths = [folder / "phase_diagram.png", folder / "index.html"]
    answers = None if isinstance(run, Ongoing) else page_answers(run)
    if answers is not None and answers.failed:
        complain(f"the page has no single answers: {answers.failed}")
    text = page(run, image, folder, answers)
    for path, content in zip(paths, (image, text.encode()), strict=True):
        durable.replace_file(path, [content])
    return paths


def page(
    run: RunLike,
    image: bytes = b"",
    folder: Path | None = None,
    answers: PageAnswers | None = None,
) -> str:
    """The HTML text; everything that comes from the run is escaped.

    `image` is the phase diagram's PNG for readers without scripts. `folder` is where the page will
    stand, so that it can link to weights and tables; None: it has no links. `answers` are those of
    `page_answers`; None: the page says when they come.
    """
    data, curves = page_data(run, folder)
    bins = bins_of(run.config)
    header, table = rows(run.members, run.config)
    engine = str(run.info.get("engine", ""))
    text: str = _template().render(
        title=f"{style.task_name(run.config)} · {len(run.members)} members",
        signature=signature(),
        task=run.config.task.name,
        caption=style.caption(run.config, run.members, engine),
        status=_status(run),
        axes=_axes(run),
        by="gamma" if bins is None else f"{bins.column}, in bins",
        image=base64.b64encode(image).decode(),
        header=header,
        rows=table,
        remarks=remarks(run.members, run.config),
        changed=page_facts.changed_settings(run.config, run.info.get("command") or []),
        settings=page_facts.all_settings(run.config),
        about=page_facts.about(run.info),
        parents=page_facts.parents(run.config),
        digests=page_facts.digests(run),
        beside=_beside(run, folder),
        data=script_json(data),
        curves=script_json(curves),
        answers=script_json((answers or later_answers(run)).plain()),
        styles=[asset(name) for name in _STYLES],
        scripts=[asset(name) for name in (*LIBRARIES, *SCRIPTS)],
    )
    return text


def _status(run: RunLike) -> str:
    steps = run.config.training.steps
    if not isinstance(run, reading.Run):
        return f"{steps} steps"
    if run.finished:
        return f"finished, {steps} steps"
    return f"in progress: step {run.step} of {steps} when this page was made"


def _axes(run: RunLike) -> list[tuple[str, str]]:
    """What members differ in: name, levels in a line."""
    found = []
    for axis in page_axes(run.members, run.config):
        said = listed(axis.labels)
        if axis.drawn is not None and axis.binned:
            said = f"drawn, {extent(axis.drawn.tolist())}"
        found.append((style.field_name(axis.path), said))
    return found


def _beside(run: RunLike, folder: Path | None) -> list[tuple[str, str]]:
    """(name, relative link) of the files that hold everything that the page thins."""
    if not isinstance(run, reading.Run) or folder is None:
        return []
    home = os.path.relpath(run.path, folder)
    parts = sorted(run.checkpoint.parts) if run.checkpoint is not None else []
    names = ["members.parquet", *(f"metrics/{name}" for name in parts), "config.json"]
    return [(name, f"{home}/{name}") for name in names]


@functools.cache
def signature() -> str:
    """What tells a page of these assets from one of others; it stands in its head."""
    parts = [asset(name) for name in (*_STYLES, *LIBRARIES, *SCRIPTS, _TEMPLATE)]
    return f"compfast {hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}"


@functools.cache
def asset(name: str) -> str:
    """The text of one file of assets/."""
    return resources.files("compfast.report").joinpath("assets", name).read_text("utf-8")


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(asset(_TEMPLATE))
