"""Errors that a user can act on; each carries the exit code of the command line."""

from __future__ import annotations


class CompfastError(Exception):
    """Base of every expected failure; its text is one sentence for the user."""

    exit_code = 1


class UsageError(CompfastError, ValueError):
    """Something given (a flag, a file, a shape, a value) is not allowed."""

    exit_code = 2


class OutOfMemory(UsageError):
    """What was asked for does not fit in this machine's memory; a run that had begun can go on."""

    def __init__(self) -> None:
        super().__init__(
            "out of memory: give fewer --threads, or train the members in parts with --shard I/N;"
            " a run that has begun goes on from its last checkpoint with --resume"
        )


class Interrupted(CompfastError):
    """The run was stopped by a signal and can be resumed."""

    exit_code = 3


class StorageError(CompfastError, OSError):
    """The run folder cannot be read or written."""

    exit_code = 4


class AllDivergedError(CompfastError):
    """No member of the ensemble stayed finite."""

    exit_code = 5
