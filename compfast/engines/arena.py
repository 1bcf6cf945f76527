"""Places in a workspace, by offsets that count floats."""

from __future__ import annotations

from compfast.engines.flat import PAD, pad


class Arena:
    """Hands out aligned stretches of the workspace, reusing what has been given back."""

    def __init__(self) -> None:
        self.size = 0
        self.free: list[tuple[int, int]] = []

    def take(self, floats: int) -> int:
        floats = pad(floats) + PAD  # a whole vector may be read past the last column
        for index, (offset, length) in enumerate(self.free):
            if length >= floats:
                self.free[index] = (offset + floats, length - floats)
                return offset
        self.size += floats
        return self.size - floats

    def give_back(self, offset: int, floats: int) -> None:
        spans = sorted([*self.free, (offset, pad(floats) + PAD)])
        self.free = []
        for start, length in spans:
            if self.free and sum(self.free[-1]) == start:
                self.free[-1] = (self.free[-1][0], self.free[-1][1] + length)
            elif length:
                self.free.append((start, length))
