"""Figures of a run for papers and slides: files of their own, as pixels and as lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compfast.config.paths import user_path
from compfast.report import curves, figure2, phase, plotting, style
from compfast.report.phase import RunLike
from compfast.runs import reading
from compfast.runs.forks import tables_ahead
from compfast.storage import durable

_MARGIN = 0.02  # inches around a figure without a caption
FIGURES: Mapping[str, Callable[[RunLike, style.Look], plotting.Picture | None]] = {
    "phase_diagram": phase.picture,
    "agreement": curves.picture,
    "figure2": figure2.picture,
}
_WITHOUT = {"figure2": "one gamma, and no other axis of numbers, has no agreement against gamma"}


@dataclass(frozen=True, slots=True)
class Written:
    """Files, and a sentence a figure that this run has not."""

    paths: list[Path]
    left_out: list[str]


def write_figures(
    run: RunLike | str | os.PathLike[str], folder: str | os.PathLike[str], look: str = "plain"
) -> Written:
    """Write every figure as PNG, SVG and PDF into `folder`, and captions.txt, over what is there.

    `look` is one of compfast.report.style.LOOKS. The same run gives the same bytes with the same
    matplotlib. Raises UsageError for another look, where there is no run or no verdict yet and
    without matplotlib, StorageError where the run cannot be read or the folder not be written.
    """
    how = style.look(look)
    tables_ahead()
    if isinstance(run, (str, os.PathLike)):
        run = reading.load(run)
    phase.refuse_unjudged(run)
    folder = user_path(folder)
    durable.make_folder(folder)
    written, captions = Written([], []), []
    for name in FIGURES:
        found = _drawn(run, name, how)
        if found is None:
            written.left_out.append(f"no {name}: {_WITHOUT[name]}")
            continue
        contents, said = found
        for form, content in contents.items():
            written.paths.append(folder / f"{name}.{form}")
            durable.replace_file(written.paths[-1], [content])
        captions.append(f"{name}: {said}\n")
    written.paths.append(folder / "captions.txt")
    durable.replace_file(written.paths[-1], ["\n".join(captions).encode()])
    return written


def _drawn(run: RunLike, name: str, look: style.Look) -> tuple[dict[str, bytes], str] | None:
    """A figure in each form, and its caption; None where the run has no such figure."""
    with plotting.settings(look):
        picture = FIGURES[name](run, look)
        if picture is None:
            return None
        figure = picture.captioned() if look.caption else picture.figure
        margin = plotting.MARGIN if look.caption else _MARGIN
        forms = {form: plotting.rendered(figure, form, look.dpi, margin) for form in plotting.FORMS}
        return forms, picture.said
