"""matplotlib as reports use it: the same picture for everybody, and no trace of having drawn it.

A user's settings (matplotlibrc, styles, MPLBACKEND) say how the user's own figures look. A report
takes none of them, needs no backend but the one that fills an array of pixels, and leaves
settings, backend, figures and locale as they were.
"""

from __future__ import annotations

import contextlib
import io
import locale
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from compfast.errors import UsageError
from compfast.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Format -> what its metadata have in the place of the time.
FORMS: dict[str, dict[str, None]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
MARGIN = 0.12  # inches around what is drawn
_BACKEND = "MPLBACKEND"
_DRAWING = threading.Lock()  # settings are global: two that draw would take each other's for theirs


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A figure, and what its caption says."""

    figure: Figure
    said: str

    def captioned(self) -> Figure:
        """The figure with its caption below; ask once."""
        width = self.figure.get_size_inches()[0]
        self.figure.text(
            0.01, -0.015, style.wrapped(self.said, width), va="top", fontsize=7.5, color="#404040"
        )
        return self.figure


@contextlib.contextmanager
def settings(look: style.Look = style.LOOKS["plain"]) -> Iterator[None]:
    """matplotlib's own defaults and the report's style inside, the user's settings afterwards.

    `look` has the last word. Raises UsageError where matplotlib cannot be imported.
    """
    with _DRAWING, np.errstate(all="ignore"):
        matplotlib = _matplotlib()
        defaults = {
            name: matplotlib.rcParamsDefault[name]
            for name in matplotlib.rcParamsDefault
            if not name.startswith("backend")  # rc_context would not put it back
        }
        with matplotlib.rc_context({**defaults, **style.RC, **look.rc}):
            yield


def png(figure: Figure, dpi: int) -> bytes:
    """The picture as a PNG, drawn without a window or a user's backend."""
    return rendered(figure, "png", dpi)


def rendered(figure: Figure, form: str, dpi: int, margin: float = MARGIN) -> bytes:
    """The picture as one of `FORMS`, the same bytes whenever it is drawn.

    `margin`: inches around what is drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(
        buffer, format=form, dpi=dpi, bbox_inches="tight", pad_inches=margin, metadata=FORMS[form]
    )
    return buffer.getvalue()


def _matplotlib() -> ModuleType:
    """The module, which refuses to be imported where MPLBACKEND names what is not there.

    That is what a notebook's shell hands on to a process of an environment without it. So the
    name is hidden during the first import, then taken as matplotlib would have taken it.
    """
    if sys.modules.get("matplotlib") is not None:
        import matplotlib  # waits for a thread that is at it
    else:
        here = locale.setlocale(locale.LC_ALL)
        backend = os.environ.pop(_BACKEND, None)
        try:
            import matplotlib
        except Exception as error:  # also what a matplotlibrc that cannot be read ends in
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(
                f"a report needs the package matplotlib, which cannot be imported ({reason})"
            ) from error
        finally:
            if backend is not None:
                os.environ[_BACKEND] = backend
            if locale.setlocale(locale.LC_ALL) != here:  # as a matplotlibrc may ask for
                locale.setlocale(locale.LC_ALL, here)
        if backend:
            with contextlib.suppress(ValueError):  # a name that no figure can be drawn with
                matplotlib.rcParams["backend"] = backend
    return matplotlib
