"""report/index.html: one page that needs nothing else, with the diagram and the table by gamma."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from compfast.config.paths import user_path
from compfast.config.settings import to_dict
from compfast.errors import UsageError
from compfast.report.bins import bins_of, remarks, rows
from compfast.report.phase import RunLike, phase_png
from compfast.report.table import candidates
from compfast.runs import reading
from compfast.runs.forks import tables_ahead
from compfast.solutions import UNDERFIT, wilson
from compfast.storage import durable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: #fff; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { text-align: right; padding: .15rem .6rem; border-bottom: 1px solid #ddd; }
th { position: sticky; top: 0; background: #fff; }
.scroll { overflow-x: auto; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: 12px; }
"""


def write_report(
    run: RunLike | str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Write phase_diagram.png and index.html of a run, or of the run in a folder.

    They go into `folder`, by default the run's own `report`, and replace what is there; their
    paths are returned. Raises UsageError where there is no run, no verdict yet or no matplotlib,
    StorageError where the run cannot be read or the report not be written.
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
    for path, content in zip(paths, (image, page(run, image).encode()), strict=True):
        durable.replace_file(path, [content])
    return paths


def page(run: RunLike, image: bytes) -> str:
    """The HTML text; everything that comes from the run is escaped."""
    names = candidates(run.members)
    said = "".join(f"<p>{html.escape(line)}</p>" for line in remarks(run.members, run.config))
    picture = base64.b64encode(image).decode()
    settings = json.dumps(to_dict(run.config), indent=1)
    title = html.escape(f"compfast: {run.config.task.name}, {len(run.members)} members")
    table = _table(*rows(run.members, run.config))
    bins = bins_of(run.config)
    by = html.escape("gamma" if bins is None else f"{bins.column}, in bins")
    share = "".join(_intervals(run, verdict) for verdict in (UNDERFIT, *names))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f'<img alt="Phase diagram" src="data:image/png;base64,{picture}">{said}'
        f"<h2>All members</h2><ul>{share}</ul>"
        f"<h2>By {by}</h2><div class=scroll>{table}</div>"
        f"<h2>Settings</h2><pre>{html.escape(settings)}</pre></body></html>\n"
    )


def _intervals(run: RunLike, verdict: str) -> str:
    total = len(run.members)
    count = int((run.members["verdict"] == verdict).sum())
    low, high = wilson(count, total)
    text = f"{verdict}: {count} of {total} (95 % Wilson {low:.1%} to {high:.1%})"
    return f"<li>{html.escape(text)}</li>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
