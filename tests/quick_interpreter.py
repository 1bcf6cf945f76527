"""Triton's interpreter without some of its habits, for tests: a third of the time it takes.

It patches triton.language anew for every call of a device function, although the kernel that
calls it has done so, it checks each integer operation for overflow, and for each tensor it works
out anew what follows from its shape and its dtype.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

_block, _tensor = tl.block_type.__init__, tl.tensor.__init__
_np_dtype, _broadcast = interpreter._get_np_dtype, TritonSemantic.broadcast_impl_value
_patched: set[str] = set()  # modules of triton whose own triton.language is, and stays, patched
_blocks: dict[tuple[int, ...], tuple[Any, int, str]] = {}
_dtypes: dict[str, Any] = {}
_shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    module = function.fn.__module__
    if module.startswith("triton.") and module not in _patched:  # it sees triton.language.core
        interpreter._patch_lang(function.fn)
        _patched.add(module)
    return function.rewrite()(*args, **kwargs)


def _new_block(self: Any, element_ty: Any, shape: Any) -> None:
    key = tuple(s.value if isinstance(s, tl.constexpr) else s for s in shape)
    if key not in _blocks:
        _block(self, element_ty, shape)
        _blocks[key] = self.shape, self.numel, str(self.shape)
    self.element_ty = element_ty
    self.shape, self.numel, shown = _blocks[key]
    self.name = f"<{shown}, {element_ty}>"


def _new_tensor(self: Any, handle: Any, type: Any) -> None:
    key = tuple(type.shape.values) if type.is_block() else ()
    if key not in _shapes:
        _tensor(self, handle, type)
        _shapes[key] = self.numel, self.shape
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.numel, self.shape = _shapes[key]


def _known_np_dtype(dtype: Any) -> Any:
    if dtype.name not in _dtypes:
        _dtypes[dtype.name] = _np_dtype(dtype)
    return _dtypes[dtype.name]


def _known_broadcast(self: Any, lhs: Any, rhs: Any) -> Any:
    if lhs.shape is rhs.shape:  # as two tensors of one shape have it now
        return lhs, rhs
    return _broadcast(self, lhs, rhs)


interpreter.InterpretedFunction.__call__ = _call
interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
interpreter._get_np_dtype = _known_np_dtype
tl.block_type.__init__ = _new_block
tl.tensor.__init__ = _new_tensor
TritonSemantic.broadcast_impl_value = _known_broadcast
