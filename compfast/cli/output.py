"""Where the command line prints. No stream that is closed, full or of few letters costs a run."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO, TypeGuard, cast

from compfast.errors import StorageError

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """Lines on standard output, or nothing: when quiet, and once it cannot be written.

    What is standard output when it is made counts; what replaces it later (rich's live display
    does) may itself write here.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._stream = sys.stdout

    @property
    def terminal(self) -> bool:
        return not self.quiet and _open(self._stream) and self._stream.isatty()

    def say(self, line: str = "") -> None:
        self.write(f"{printable(line)}\n")

    # What rich asks of a file; a console over it can neither fail nor meet a letter too many.
    def write(self, text: str) -> int:
        """`text` with its control characters as they are; see `say` for what comes from outside."""
        if not self.quiet:
            reason = _put(self._stream, text)
            if reason is not None:
                self.quiet = True
                complain(f"standard output cannot be written ({reason}); nothing more is printed")
        return len(text)

    def flush(self) -> None:
        """Everything was flushed as it was written."""

    def isatty(self) -> bool:
        return self.terminal

    @property
    def encoding(self) -> str:
        return _encoding(self._stream)

    def console(self, wide: int | None = None) -> Console:
        """A rich console over this output; `wide`: its columns where it is no terminal."""
        from rich.console import Console

        width = None if self.terminal else wide
        return Console(file=cast(TextIO, self), width=width, highlight=False)


def complain(sentence: str) -> None:
    """One sentence on standard error; without one there is nobody to complain to."""
    _put(sys.stderr, f"compfast: {printable(' '.join(sentence.split()))}\n")


def occupy_descriptors() -> None:
    """Put the null device where a standard stream was closed before this process began.

    Else the next file that is opened, maybe one of the run's, becomes "standard output", and
    gets whatever a library prints.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def printable(text: str) -> str:
    """The text with what a terminal would obey, or no encoding could write, spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def deliver(text: str) -> None:
    """Print what a command was asked for, as a whole; control characters stay as they are.

    A reader who has left (`| head`) has what he wants, which is no error. Raises StorageError
    where standard output cannot be written.
    """
    stream = sys.stdout
    if not _open(stream):
        return
    encoding = _encoding(stream)
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        _abandon(stream)
    except OSError as error:
        _abandon(stream)
        reason = error.strerror or type(error).__name__
        raise StorageError(f"standard output cannot be written ({reason})") from error


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


def _put(stream: TextIO | None, text: str) -> str | None:
    """Write and flush, with what the encoding lacks spelt out; why it failed, None if it did not.

    Whoever closed a stream does not want to hear, so that nothing fails there.
    """
    if not _open(stream):
        return None
    encoding = _encoding(stream)
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        _abandon(stream)
        return error.strerror or type(error).__name__
    return None


def _open(stream: TextIO | None) -> TypeGuard[TextIO]:
    return stream is not None and not stream.closed


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _abandon(stream: TextIO) -> None:
    """Let what is still buffered there, and what a library prints later, go nowhere.

    The interpreter's own last flush would fail otherwise, which is exit code 120.
    """
    try:
        descriptor = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # a stream without a descriptor is not the interpreter's
        return
    os.dup2(null, descriptor)
    os.close(null)
