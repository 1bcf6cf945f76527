"""Where the command line prints. A reader that goes away never costs a training run."""

from __future__ import annotations

import os
import sys


class Output:
    """Lines on standard output, or nothing: when quiet, and once it cannot be written."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    @property
    def terminal(self) -> bool:
        return not self.quiet and sys.stdout.isatty()

    def say(self, line: str = "") -> None:
        if self.quiet:
            return
        try:
            print(printable(line), flush=True)
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: OSError) -> None:
        """Print nothing more; the interpreter's last flush goes nowhere too."""
        self.quiet = True
        complain(f"standard output cannot be written ({error.strerror}); the run goes on silently")
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)


def complain(sentence: str) -> None:
    """One sentence on standard error."""
    print(f"compfast: {printable(' '.join(sentence.split()))}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with what a terminal would obey, or no encoding could write, spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table with right-aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    return ["  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in [header, *rows]]


def duration(seconds: float) -> str:
    """Seconds in words short enough for a progress line: 45 s, 12 min, 3.5 h, 2.0 d."""
    if seconds < 1:
        return "under 1 s"
    for limit, size, unit, digits in (
        (90, 1, "s", 0),
        (5400, 60, "min", 0),
        (172_800, 3600, "h", 1),
    ):
        if seconds < limit:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} d"
