"""What visits to a GPU left (scripts/gpu_visit.sh OUT), as one page and as the tables to commit.

    python -m benchmarks.gpu_visit_report OUT [OUT..]    Markdown, also written to OUT/report.md

Beside it goes gpu-<card>-<date>.csv, all rows of benchmarks.gpu, and the same with -card, those of
benchmarks.gpu_card, for benchmarks/results. Of several folders the first gets all of it; what was
measured twice is taken as the last had it. Whatever is there is read; what is missing is said.
Nothing here needs a GPU, torch or triton.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cards import Card, card_of
from benchmarks.gpu_visit_read import Record, Visit, read, write_tables

FASTER = 10.0  # 512 x d 32 against the eager loop over members
SHARE = 0.25  # of the dense bf16 peak at d 128
GAPS = 5
PRECISIONS = ("fp32", "tf32", "bf16")
EAGER = "eager loop over members"
GRAPH, ONE_BY_ONE = "triton, CUDA graph", "triton, launches one by one"
REHEARSED = "interpreter on the CPU"
_RESULT = re.compile(
    r"^(?:\[gw\d+\].*?(?P<early>PASSED|FAILED|ERROR|SKIPPED) (?P<a>tests/\S+)"
    r"|(?P<b>tests/\S+::.+?) (?P<late>PASSED|FAILED|ERROR|SKIPPED)\b)"
)


def page(visit: Visit) -> str:
    """Markdown."""
    card = card_of(visit.device)
    parts = ["# GPU visit", "", *_head(visit, card), "", "## Marks", "", *_marks(visit), ""]
    for title, lines in (
        ("Slices", _slices(visit)),
        ("Tests", _tests(visit)),
        ("Whole steps", _steps(visit, card)),
        (f"The {GAPS} largest gaps", _gaps(visit, card)),
        ("Kernels", _kernels(visit, card)),
        ("Card and memory", _card(visit)),
    ):
        parts += [f"## {title}", "", *(list(lines) or ["Not measured."]), ""]
    return "\n".join(parts)


def _head(visit: Visit, card: Card | None) -> Iterator[str]:
    if not visit.device:
        yield "No figure was left, so the card is not known."
        return
    first = visit.steps[0] if visit.steps else None
    yield f"Device: {visit.device}."
    if visit.device == REHEARSED:
        yield "A rehearsal: no time in it means anything."
    if first:
        yield f"torch {first['torch']}, triton {first['triton']}, commit {first['commit']}."
    if card is None:
        yield "Its peaks are not in benchmarks/cards.py, so no share and no floor is given."
        return
    peaks = ", ".join(f"{p} {card.peak[p] / 1e12:g}" for p in PRECISIONS)
    yield (
        f"Peaks ({card.source}, {card.name}): {peaks} TFLOP/s dense,"
        f" {card.bandwidth / 1e12:g} TB/s."
    )


def _marks(visit: Visit) -> Iterator[str]:
    """The strictest reading: our fastest precision against the loop's fastest."""
    if visit.device == REHEARSED:
        yield "Not measured: this is a rehearsal."
        return
    wide = [r for r in visit.steps if r["d"] == "32" and r["members"] == "512"]
    ours = _fastest(wide, (GRAPH, ONE_BY_ONE))
    loop = _fastest(wide, (EAGER,))
    named = f"512 x d 32 at >= {FASTER:g} times the eager loop over members"
    if ours is None or loop is None:
        yield f"- {named}: **not measured**"
    else:
        times = _ms(loop) / _ms(ours)
        said = "reached" if times >= FASTER else "missed"
        yield (
            f"- {named}: **{said}**, {times:.1f} times ({ours['precision']} {_ms(ours):.3f} ms"
            f" against {loop['precision']} {_ms(loop):.3f} ms)"
        )
    named = f">= {100 * SHARE:g} % of the dense bf16 peak at d 128"
    found = [r for r in visit.steps if r["d"] == "128" and r["precision"] == "bf16"]
    best = _fastest(found, (GRAPH, ONE_BY_ONE))
    if best is None or not float(best["share"]):
        yield f"- {named}: **not measured**"
    else:
        share = float(best["share"])
        said = "reached" if share >= SHARE else "missed"
        yield (
            f"- {named}: **{said}**, {100 * share:.1f} % ({_ms(best):.3f} ms a step,"
            f" heads: {best['heads']})"
        )


def _slices(visit: Visit) -> Iterator[str]:
    yield from _table("slice", "exit", "seconds", "what")
    ended = Counter(row["name"] for row in visit.slices)
    for row in visit.slices:
        words = {"0": "0", "124": "124, out of time"}.get(row["exit"], row["exit"])
        yield f"| {row['name']} | {words} | {row['seconds']} | {row['what']} |"
    for name, begun in Counter(name for name, _ in visit.logs).items():
        if begun > ended[name]:
            yield f"| {name} | cut off | | the visit ended inside it |"


def _tests(visit: Visit) -> Iterator[str]:
    found: dict[str, str] = {}
    for _, log in visit.logs:
        for line in log.splitlines():
            if match := _RESULT.match(line):
                name = (match["a"] or match["b"]).strip()
                found[name] = match["early"] or match["late"]
    if not found:
        return
    counts = {kind: sum(v == kind for v in found.values()) for kind in sorted(set(found.values()))}
    yield ", ".join(f"{count} {kind.lower()}" for kind, count in counts.items()) + "."
    yield ""
    for name, kind in sorted(found.items()):
        if kind != "PASSED":
            yield f"- {kind}: {name}"


def _steps(visit: Visit, card: Card | None) -> Iterator[str]:
    """Every way to train the same members, launches a step, CUDA graphs on and off."""
    rows = [row for row in visit.steps if not row["what"].startswith("kernel ")]
    if not rows:
        return
    yield from _table(
        "d", "heads", "precision", "members", "what", "launches", "ms", "spread %",
        "member-steps/s", "TFLOP/s", "share of peak %", "floor ms",
    )  # fmt: skip
    for row in rows:
        yield (
            f"| {row['d']} | {row['heads']} | {row['precision']} | {row['members']} | {row['what']}"
            f" | {row['launches'] if row['launches'] != '0' else ''} | {_ms(row):.3f}"
            f" | {100 * float(row['spread']):.1f} | {float(row['member_steps']):.0f}"
            f" | {float(row['tflops']):.2f} | {_share(row, card)} | {_milliseconds(row, card)} |"
        )


def _kernels(visit: Visit, card: Card | None) -> Iterator[str]:
    rows = [row for row in visit.steps if row["what"].startswith("kernel ")]
    if not rows:
        return
    yield "TB/s are of the bytes that a kernel must move at least (benchmarks/gpu_counts.py)."
    yield ""
    yield from _table(
        "d", "heads", "precision", "kernel", "ms", "TFLOP/s", "share of peak %", "TB/s",
        "share of bandwidth %", "floor ms",
    )  # fmt: skip
    for row in rows:
        rate = float(row["megabytes"]) / _ms(row) / 1e3
        of = f"{100 * rate * 1e12 / card.bandwidth:.1f}" if card else "?"
        yield (
            f"| {row['d']} | {row['heads']} | {row['precision']}"
            f" | {row['what'].removeprefix('kernel ')} | {_ms(row):.3f}"
            f" | {float(row['tflops']):.2f} | {_share(row, card)} | {rate:.3f}"
            f" | {of} | {_milliseconds(row, card)} |"
        )


def _gaps(visit: Visit, card: Card | None) -> Iterator[str]:
    """Kernels by the share of their own step that lies above their floor."""
    kernels = [row for row in visit.steps if row["what"].startswith("kernel ")]
    if card is None or not kernels:
        return
    totals: dict[tuple[str, ...], float] = {}
    for row in kernels:
        totals[_setting(row)] = totals.get(_setting(row), 0.0) + _ms(row)
    above = sorted(
        ((_ms(row) - _floor(row, card)) / totals[_setting(row)], index)
        for index, row in enumerate(kernels)
    )
    for share, index in above[: -GAPS - 1 : -1]:
        row = kernels[index]
        yield (
            f"1. d {row['d']}, heads {row['heads']}, {row['precision']}, {row['what']}:"
            f" {_ms(row):.3f} ms, floor {_floor(row, card):.3f};"
            f" {100 * share:.0f} % of its step's kernels"
        )


def _card(visit: Visit) -> Iterator[str]:
    if not visit.card:
        return
    yield from _table("what", "d", "precision", "members", "value", "unit")
    for row in visit.card:
        value = float(row["value"])
        said = f"{value:.0f}" if row["unit"] in ("B", "members") else f"{value:.4g}"
        yield (
            f"| {row['what']} | {row['d'] if row['d'] != '0' else ''} | {row['precision']}"
            f" | {row['members'] if row['members'] != '0' else ''} | {said} | {row['unit']} |"
        )
    taken = {_place(row): float(row["value"]) for row in visit.card}
    for (what, *where), value in taken.items():
        model = taken.get((what.replace("taken", "model"), *where))
        if what.endswith(", taken") and model:
            d, precision, members = where
            yield ""
            yield (
                f"{what.partition(',')[0]} of {members} members of d {d} in {precision}:"
                f" {value / model:.3f} of the model."
            )


def _place(row: Record) -> tuple[str, ...]:
    return row["what"], row["d"], row["precision"], row["members"]


def _setting(row: Record) -> tuple[str, ...]:
    return row["d"], row["heads"], row["precision"], row["members"], row["batch"]


def _fastest(rows: list[Record], what: tuple[str, ...]) -> Record | None:
    return min((row for row in rows if row["what"] in what), key=_ms, default=None)


def _ms(row: Record) -> float:
    return float(row["milliseconds"])


def _floor(row: Record, card: Card) -> float:
    moved = float(row["megabytes"]) * 1e6
    return 1e3 * card.floor(float(row["gflop"]) * 1e9, moved, row["precision"])


def _milliseconds(row: Record, card: Card | None) -> str:
    return f"{_floor(row, card):.3f}" if card else "?"


def _share(row: Record, card: Card | None) -> str:
    return f"{100 * float(row['share']):.1f}" if card else "?"


def _table(*names: str) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)


def main(arguments: list[str] | None = None) -> int:
    given = [Path(each) for each in (sys.argv[1:] if arguments is None else arguments)]
    if not given:
        print("usage: python -m benchmarks.gpu_visit_report OUT [OUT..]", file=sys.stderr)
        return 2
    try:
        visit = read(given)
    except FileNotFoundError as error:
        print(f"gpu_visit_report: {error}", file=sys.stderr)
        return 2
    text = page(visit)
    (given[0] / "report.md").write_text(text + "\n")
    print(text)
    for table in write_tables(visit, given[0]):
        print(f"To commit: {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
