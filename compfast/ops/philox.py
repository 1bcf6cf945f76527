"""Words of the Philox4x32-10 streams of compfast/streams/philox.py, one seed a member."""

from __future__ import annotations

import torch
from torch import Tensor

from compfast.errors import UsageError
from compfast.ops.shared import Sizes, call, check_native, check_shape, is_native

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF


def philox(
    seeds: Tensor,
    purpose: int,
    step: int,
    sub: int = 0,
    start: int = 0,
    count: int = 4,
    *,
    impl: str = "native",
) -> Tensor:
    """Words [start, start + count) of seeds [M] int64 (bits of 64-bit seeds), int64 [M, count].

    Each word is below 2^32; purpose, step and sub are 32-bit. Raises UsageError.
    """
    sizes: Sizes = {}
    check_shape("philox", "seeds", seeds, "M", sizes)
    for name, value in {"purpose": purpose, "step": step, "sub": sub}.items():
        if not 0 <= value <= _MASK:
            raise UsageError(f"philox: {name} is {value}; it must be at least 0 and below 2^32")
    if start < 0 or count < 1 or start + count > 4 << 32:
        raise UsageError(
            f"philox: start is {start} and count is {count}; a stream has words 0 to 2^34 - 1"
            " and count is at least 1"
        )
    if not is_native(impl):
        return _reference(seeds, purpose, step, sub, start, count)
    check_native("philox", torch.int64, seeds=seeds)
    words: Tensor = _philox(seeds, purpose, step, sub, start, count)
    return words


def _reference(seeds: Tensor, purpose: int, step: int, sub: int, start: int, count: int) -> Tensor:
    first, last = start // 4, -(-(start + count) // 4)
    c0 = torch.arange(first, last, device=seeds.device).expand(len(seeds), -1)  # [M, blocks]
    c1, c2, c3 = (torch.full_like(c0, value) for value in (step, purpose, sub))
    k0, k1 = seeds[:, None] & _MASK, (seeds[:, None] >> 32) & _MASK
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(_M0, c0), _product(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    words = torch.stack((c0, c1, c2, c3), dim=-1).flatten(1)
    return words[:, start - 4 * first : start - 4 * first + count]


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower 32 bits of a * b; int64 has no room for 64 unsigned bits at once."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


@torch.library.custom_op("compfast::philox", mutates_args=(), device_types="cpu")
def _philox(seeds: Tensor, purpose: int, step: int, sub: int, start: int, count: int) -> Tensor:
    seeds = seeds.contiguous()
    words = seeds.new_empty(len(seeds), count)
    threads = torch.get_num_threads()
    call("philox_words", len(seeds), purpose, step, sub, start, count, threads, seeds, words)
    return words


@_philox.register_fake
def _(seeds: Tensor, purpose: int, step: int, sub: int, start: int, count: int) -> Tensor:
    return seeds.new_empty(seeds.shape[0], count)
