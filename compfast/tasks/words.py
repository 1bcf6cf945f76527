"""The words of a step's sequences: each owns whole blocks of four, one after the other."""

from __future__ import annotations

from compfast.errors import UsageError
from compfast.streams import philox
from compfast.streams.philox import UInt32

_MOST_BLOCKS = 2**32  # of a stream: its counter has 32 bits


def words_of(seed: int, purpose: int, step: int, sub: int, sequences: int, needed: int) -> UInt32:
    """The words of each sequence, [sequences, needed]; without its last block's rest."""
    width = -(-needed // 4) * 4
    words = philox.words(seed, purpose, step, sub, 0, sequences * width)
    row: UInt32 = words.reshape(sequences, width)[:, :needed]
    return row


def check_words(sequences: int, needed: int) -> None:
    """Raise UsageError where so many sequences have more words than a stream."""
    blocks = -(-needed // 4)
    if sequences * blocks > _MOST_BLOCKS:
        raise UsageError(
            f"training.batch_size is {sequences}; a sequence of this task takes {blocks} blocks of"
            f" random words, so it must be at most {_MOST_BLOCKS // blocks}"
        )
