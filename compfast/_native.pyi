"""Raw buffers in, raw buffers out; shapes and meaning are checked in compfast/engines/native.py."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from compfast.engines.base import Float32, Int32, Int64
from compfast.streams.philox import UInt32

def compiled_isas() -> list[str]:
    """Instruction sets in this binary, weakest first."""

def supported_isas() -> list[str]:
    """Those that this machine runs."""

def selected_isa() -> str:
    """The strongest supported, or COMPFAST_ISA; raises ValueError for one that is not there."""

def build_info() -> str:
    """Compiler, its version, build type."""

def philox(counter: tuple[int, int, int, int], seed: int) -> UInt32: ...
def feistel(seed: int, epoch: int, index: int, n: int) -> int: ...
def task_batch(
    stream: Mapping[str, Any], seed: int, step: int, batch: int, member: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Tokens [batch, T] and targets [batch] of one training step.

    A stream is a record of csrc/tasks with its `kind`, as the tasks' `stream` gives it, or "host"
    (compfast/engines/host_batches.py), where `member` counts. Those of vectors ("fuzzy", "sraven",
    "hyperteacher") give float32 [batch, T, width] and the answers that the task's `batch` gives.
    """

# The kernels as single operations (compfast/ops): sizes, then addresses of contiguous tensors,
# members first; 0 is a tensor that is not there. ValueError for an index out of range.
def poison_scratch(on: bool, /) -> None:
    """For tests: padded copies start as NaN."""

def linear_forward(*arguments: int) -> None: ...
def linear_backward(*arguments: int) -> None: ...
def norm_forward(*arguments: float) -> None: ...
def norm_backward(*arguments: int) -> None: ...
def attention_forward(*arguments: int) -> None: ...
def attention_backward(*arguments: int) -> None: ...
def mixed_forward(*arguments: float) -> None: ...
def mixed_backward(*arguments: float) -> None: ...
def cross_entropy(*arguments: int) -> None: ...
def activation(*arguments: int) -> None: ...
def embed_forward(*arguments: int) -> None: ...
def embed_backward(*arguments: int) -> None: ...
def adamw(*arguments: float) -> None: ...
def sgd(*arguments: float) -> None: ...
def philox_words(*arguments: int) -> None: ...
def normals(*arguments: int) -> None: ...

# Ceilings of the instruction set in use, all threads together: the best of a few short rounds.
# ValueError for threads below 1.
def fma_peak(threads: int) -> float:
    """GFLOP/s of float32 multiply-adds in registers."""

def bf16_peak(threads: int) -> float | None:
    """GFLOP/s of bfloat16 pairs summed in float32; None without such an instruction."""

def read_bandwidth(bytes: int, threads: int) -> float:
    """GB/s of reading `bytes` again and again, each thread its own."""

def cache_bytes() -> list[int]:
    """Sizes of the first data cache, the second, the third; 0 where the system does not say."""

class Group:
    """Members of one shape; it keeps and changes the arrays that it is given."""

    def __init__(
        self,
        plan: Mapping[str, Any],
        tables: Mapping[str, Any],
        stream: Mapping[str, Any],
        arrays: Mapping[str, Any],
        threads: int,
        /,
    ) -> None: ...
    def advance(
        self,
        until: int,
        base: int,
        loss: Float32,
        grad_norm: Float32,
        tick: Callable[[int], None] | None,
    ) -> bool:
        """Fills loss and grad_norm [M, until - base]; True when a stop left members behind."""

    def feed(self, stream: Mapping[str, Any]) -> None:
        """Draw from this record from now on; it is kept, and must not be written to meanwhile."""

    def gradients(
        self, inputs: Int32 | Float32, targets: Int32 | Float32
    ) -> tuple[Float32, Float32]:
        """Loss [M] and flat gradients [M, flat_size]."""

    def outputs(self, members: Int64, inputs: Int32 | Float32) -> Float32: ...
    def predict(self, members: Int64, inputs: Int32 | Float32) -> Int32: ...
    def generate(
        self,
        plan: Mapping[str, Any],
        members: Int64,
        tokens: Int32,
        lengths: Int32,
        max_new: int,
        end: int,
        buckets: Int32 | None,
    ) -> Int32:
        """Told [n, N, max_new]; see compfast/engines/decoding.py."""

    def profile(self, member: int, steps: int) -> dict[str, Any]:
        """Seconds (forward and backward [ops], phases, total) and loss and grad_norm [steps] of a
        copy of the member; see compfast/engines/profile.py.
        """

    def request_stop(self) -> None: ...
    def isa(self) -> str: ...
