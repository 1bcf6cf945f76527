"""What Triton itself says to a launch before it compiles: no GPU is needed.

Compiled ahead of time, a kernel never meets the function that Triton generates for each signature,
which takes the arguments of a launch apart. A parameter that is named as one of that function's
own variables (`params`) reaches it as something else.
"""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from compfast.engines.triton.launch import Launch

_TARGET = GPUTarget("cuda", 90, 32)


def refusal(launch: Launch, types: dict[str, str]) -> str:
    """Why this launch would not do what was compiled ahead, "" if it does.

    `types`: Triton's name of each parameter's type, "constexpr" for constants, as it was compiled.
    """
    kernel, backend = launch.kernel, make_backend(_TARGET)
    # the launch's own tensors may be without storage, which has no address to look at
    pointers = {n: torch.empty(1, dtype=t.dtype) for n, t in launch.pointers.items()}
    given: dict[str, Any] = {**pointers, **launch.constants}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    try:
        bound, found, options = bind(**given, **launch.options)
        backend.parse_options(options)
    except Exception as error:  # whatever it is, a GPU's user would meet it
        return f"{type(error).__name__}: {error}"
    wrong = [name for name, value in bound.items() if value is not given[name]]
    if wrong:
        return f"parameter {wrong[0]} is not what was given"
    there = dict(zip(bound, (each[0] for each in found), strict=True))
    parted = [f"{n} is {there[n]}, compiled as {types[n]}" for n in there if there[n] != types[n]]
    return "; ".join(parted)
