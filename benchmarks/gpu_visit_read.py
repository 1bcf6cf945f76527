"""Reads what visits to a GPU left, cut off or not, and writes their rows as tables to commit."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Record = dict[str, str]

MADE = "gpu-"  # the tables made here
_STEP = (
    "device",
    "what",
    "d",
    "heads",
    "precision",
    "members",
    "batch",
)  # what a row of gpu.py measures
_CARD = ("device", "what", "d", "precision", "members")


@dataclass(frozen=True)
class Visit:
    """All of it: slices in order, rows of benchmarks.gpu and of benchmarks.gpu_card, logs."""

    slices: list[Record]
    steps: list[Record]  # of benchmarks.gpu
    card: list[Record]  # of benchmarks.gpu_card
    logs: list[tuple[str, str]]  # (slice, text), one for each time that it began

    @property
    def device(self) -> str:
        return next((row["device"] for row in [*self.steps, *self.card]), "")


def read(outs: Sequence[Path]) -> Visit:
    """Raises FileNotFoundError where one is no folder. A last line that was cut off is left out."""
    slices: list[Record] = []
    steps: dict[tuple[str, ...], Record] = {}
    card: dict[tuple[str, ...], Record] = {}
    logs: list[tuple[str, str]] = []
    for out in outs:
        if not out.is_dir():
            raise FileNotFoundError(f"there is no folder {out}")
        own = _rows(out / "slices.csv")
        slices += own
        for file in _in_order(out, "csv"):
            if file.name == "slices.csv" or file.name.startswith(MADE):
                continue
            for row in _rows(file):
                if "milliseconds" in row:
                    row.setdefault("heads", "1")  # not a column until there were other networks
                    steps[tuple(row[name] for name in _STEP)] = row
                else:
                    card[tuple(row[name] for name in _CARD)] = row
        names = {row["name"] for row in own}
        for file in _in_order(out, "log"):
            logs.append((_slice(file.stem, names), file.read_text(errors="replace")))
    return Visit(slices, list(steps.values()), list(card.values()), logs)


def write_tables(visit: Visit, folder: Path) -> list[Path]:
    """gpu-<card>-<date>.csv and gpu-<card>-<date>-card.csv, a pair for each device."""
    made = []
    for rows, end in ((visit.steps, ""), (visit.card, "-card")):
        for device in dict.fromkeys(row["device"] for row in rows):
            own = [row for row in rows if row["device"] == device]
            date = min(row["when"] for row in own)[:10]
            made.append(folder / f"{MADE}{_plain(device)}-{date}{end}.csv")
            with made[-1].open("w", newline="") as file:
                writer = csv.DictWriter(file, list(own[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(own)
    return made


def _plain(device: str) -> str:
    """NVIDIA H100 80GB HBM3 -> h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower().removeprefix("nvidia ")).strip("-")


def _in_order(out: Path, end: str) -> Iterator[Path]:
    """NAME before NAME-2, which the slice left when it was done again."""
    yield from sorted(out.glob(f"*.{end}"), key=lambda file: (len(file.stem), file.stem))


def _slice(stem: str, names: set[str]) -> str:
    """NAME of NAME-2, unless there is a slice of that name."""
    first = re.sub(r"-[0-9]+$", "", stem)
    return first if stem not in names and first in names else stem


def _rows(file: Path) -> list[Record]:
    if not file.exists():
        return []
    text = file.read_text(errors="replace")
    whole = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(whole.splitlines())
    return [row for row in rows if None not in row and None not in row.values()]
