"""Triton's interpreter without two of its habits, for tests: half of the time it takes.

It patches triton.language anew for every call of a device function, although the kernel that
calls it has done so, and it checks each integer operation for overflow.
"""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter

_patch = interpreter.InterpretedFunction.__call__


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    if function.fn.__module__.startswith("triton."):  # these see triton.language.core
        return _patch(function, *args, **kwargs)
    return function.rewrite()(*args, **kwargs)


interpreter.InterpretedFunction.__call__ = _call
interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
