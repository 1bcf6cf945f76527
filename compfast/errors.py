"""Errors that a user can act on; each carries the exit code of the command line."""

from __future__ import annotations

import textwrap
from typing import Any

_LONGEST = 300  # characters of another library's reason


class CompfastError(Exception):
    """Base of every expected failure; its text is one sentence for the user. Exit code 1.

    Goes through pickle and copy whatever its constructor takes: workers send errors home.
    """

    exit_code = 1

    def __reduce__(self) -> Any:
        return _again, (type(self), self.args), self.__dict__ or None


def reason(error: BaseException) -> str:
    """Why something could not be had, in a line: an own error's sentence, else with its type."""
    own = isinstance(error, CompfastError)
    return textwrap.shorten(str(error) if own else f"{type(error).__name__}: {error}", _LONGEST)


def _again(kind: type[CompfastError], args: tuple[Any, ...]) -> CompfastError:
    """The error without its constructor, which made `args` from what it was given."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class UsageError(CompfastError, ValueError):
    """Something given (a flag, a file, a shape, a value) is not allowed. Exit code 2."""

    exit_code = 2


class OutOfMemory(UsageError):
    """What was asked for does not fit in this machine's memory; a run that had begun can go on."""

    def __init__(self) -> None:
        super().__init__(
            "out of memory: give fewer --threads, or train the members in parts with --shard I/N;"
            " a run that has begun goes on from its last checkpoint with --resume"
        )


class Interrupted(CompfastError):
    """The run was stopped by a signal and can be resumed. Exit code 3."""

    exit_code = 3


class StorageError(CompfastError, OSError):
    """The run folder cannot be read or written. Exit code 4."""

    exit_code = 4


class AllDivergedError(CompfastError):
    """No member of the ensemble stayed finite. Exit code 5."""

    exit_code = 5
