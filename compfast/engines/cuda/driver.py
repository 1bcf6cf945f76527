"""What the cuda engine asks of a GPU: memory, the launch, and waiting. Tests have a host's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from compfast.errors import UsageError


class Driver(Protocol):
    """A device and the kernel on it."""

    isa: str  # what the bits of the weights hang on

    def shapes(self) -> Sequence[Mapping[str, Any]]:
        """`_cuda.shapes()`."""

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor on the device; raises MemoryError where it does not fit."""

    def train(
        self,
        network: int,
        stream: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        batch: int,
        epsilon: float,
        members: Mapping[str, Any],
        count: int,
        base: int,
        until: int,
    ) -> None:
        """`_cuda.train` on the device's present stream; asynchronous."""

    def synchronise(self) -> None:
        """Waits for every launch; raises RuntimeError for what went wrong in one."""


class TorchDriver:
    """PyTorch's present CUDA device; raises UsageError where it sees none."""

    def __init__(self) -> None:
        from compfast import _cuda  # here: a host without it may have another driver

        if not torch.cuda.is_available():
            raise UsageError(
                f"engine cuda needs PyTorch to see the GPU, but torch {torch.__version__} sees none"
            )
        self._cuda = _cuda
        self._device = torch.device("cuda", torch.cuda.current_device())
        self.isa = "sm_{}{}".format(*torch.cuda.get_device_capability(self._device))

    def shapes(self) -> Sequence[Mapping[str, Any]]:
        return self._cuda.shapes()

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        try:
            return torch.zeros(shape, dtype=dtype, device=self._device)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error)) from error

    def train(
        self,
        network: int,
        stream: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        batch: int,
        epsilon: float,
        members: Mapping[str, Any],
        count: int,
        base: int,
        until: int,
    ) -> None:
        with torch.cuda.device(self._device):
            queue = torch.cuda.current_stream().cuda_stream
            self._cuda.train(
                network, stream, optimizer, batch, epsilon, members, count, base, until, queue
            )

    def synchronise(self) -> None:
        torch.cuda.synchronize(self._device)


def open_driver() -> Driver:
    """The driver of this process; the engine asks here, so that tests can give it another."""
    return TorchDriver()


def copied(driver: Driver, array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """The array on the device."""
    made = driver.zeros(array.shape, dtype)
    return made.copy_(torch.from_numpy(np.array(array)))  # a copy, which may be written
