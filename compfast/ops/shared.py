"""What every op needs: checks of its arguments, and the way into compfast._native."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compfast.errors import UsageError

Sizes = dict[str, int]
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh")  # order of csrc/activation.h


def is_native(impl: str) -> bool:
    """True for "native", False for "torch"; UsageError for anything else."""
    if impl not in ("native", "torch"):
        raise UsageError(f"impl is {impl!r}; it must be 'native' or 'torch'")
    return impl == "native"


def check_shape(op: str, name: str, tensor: Tensor, axes: str, sizes: Sizes) -> None:
    """`tensor` has the axes named in `axes` ("M N D_in"); sizes met before must agree.

    Raises UsageError for another number of axes, an empty axis, or a size that differs.
    """
    names = axes.split()
    given = list(tensor.shape)
    if len(given) != len(names):
        raise UsageError(f"{op}: {name} has shape {given}; it must be [{', '.join(names)}]")
    for axis, size in zip(names, given, strict=True):
        if size == 0:
            raise UsageError(f"{op}: {name} has shape {given}; axis {axis} must not be empty")
        if sizes.setdefault(axis, size) != size:
            raise UsageError(
                f"{op}: {name} has shape {given}; it must be [{', '.join(names)}]"
                f" with {axis} = {sizes[axis]}"
            )


def check_native(op: str, dtype: torch.dtype, **tensors: Tensor | None) -> None:
    """UsageError unless all are CPU tensors of this type (None is a tensor not given)."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.device.type != "cpu" or tensor.dtype != dtype:
            raise UsageError(
                f"{op}: {name} is {_type(tensor.dtype)} on {tensor.device.type}; impl='native'"
                f" needs {_type(dtype)} on cpu"
            )


def check_indices(op: str, **tensors: Tensor) -> None:
    """UsageError unless all are int32 or int64."""
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.int32, torch.int64):
            raise UsageError(f"{op}: {name} is {_type(tensor.dtype)}; it must be int32 or int64")


def check_activation(op: str, activation: str, allowed: tuple[str, ...] = ACTIVATIONS) -> None:
    """UsageError for a name that is not in `allowed`."""
    if activation not in allowed:
        raise UsageError(
            f"{op}: activation is {activation!r}; it must be one of {', '.join(allowed)}"
        )


def column(values: Tensor, params: Tensor) -> Tensor:
    """A member's float64 numbers [M] as [M, 1] in the type of the parameters."""
    return values.to(params.dtype)[:, None]


def call(kernel: str, *arguments: Any) -> None:
    """compfast._native.<kernel>; a tensor passes its address, None passes 0.

    Every tensor must be contiguous. Raises UsageError where the extension is not built, where
    COMPFAST_ISA names what this machine cannot run, and for an index out of range.
    """
    try:
        from compfast import _native
    except ImportError as error:
        raise UsageError(f"impl='native' needs the compiled extension: {error}") from None
    function: Callable[..., None] = getattr(_native, kernel)
    try:
        function(*(_address(argument) for argument in arguments))
    except ValueError as error:
        raise UsageError(f"{kernel}: {error}") from None


def _address(argument: Any) -> Any:
    if argument is None:
        return 0
    return argument.data_ptr() if isinstance(argument, Tensor) else argument


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
