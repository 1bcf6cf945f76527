"""The cuda engine: members of a small network, each on a thread block of its own.

Importing this package imports torch, so only `compfast.engines.make_engine` does.
"""

from compfast.engines.cuda.engine import CudaEngine
from compfast.engines.cuda.network import find_network

__all__ = ["CudaEngine", "find_network"]
