"""The cuda engine: members of one small network, each on a thread block of its own.

Importing this package imports torch, so only `compfast.engines.make_engine` does.
"""

from compfast.engines.cuda.engine import CudaEngine
from compfast.engines.cuda.network import check_network

__all__ = ["CudaEngine", "check_network"]
