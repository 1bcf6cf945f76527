"""The triton engine and its kernels: one op a file, its launcher beside it.

Importing this package imports triton, so only `compfast.engines.make_engine` does.
"""

from compfast.engines.triton.engine import TritonEngine

__all__ = ["TritonEngine"]
