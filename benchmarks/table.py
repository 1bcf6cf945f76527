"""The table on the terminal and the rows of benchmarks/results/throughput.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import machine
from benchmarks.measure import Outcome, Setting
from benchmarks.operations import step_flops
from benchmarks.peers import PEERS
from compfast.errors import UsageError

BASE = "native"  # what the ratios are against
Row = dict[str, Any]


def rows(
    setting: Setting, outcomes: Sequence[Outcome], peak: float | None, mkl: str | None
) -> list[Row]:
    """One row a peer, in one set of columns: numbers rounded, None where not known."""
    model = setting.problem().model
    length = setting.problem().positions
    flops = step_flops(model, length, setting.batch_size)
    base = next((o.median for o in outcomes if o.peer == BASE), None)
    shared = {
        "date": machine.now(),
        "commit": machine.commit(),
        "cpu": machine.cpu(),
        "unset": machine.unset_variables(),
        "d": setting.d,
        "layers": model.layers,
        "tokens": length,
        "batch": setting.batch_size,
        "members": setting.members,
        "threads": setting.threads,
        "rounds": setting.rounds,
        "flops": flops,
    }
    found = []
    for o in outcomes:
        rate = flops / o.median / 1e6  # GFLOP/s
        uses_mkl = mkl is not None and "torch" in PEERS[o.peer].packages
        found.append(
            {
                **shared,
                "peer": o.peer,
                "variant": o.variant,
                "form": str(o.form),
                "ms": round(o.median, 5),
                "ms_low": round(min(o.samples), 5),
                "ms_high": round(max(o.samples), 5),
                "model_steps_s": round(1e3 / o.median, 1),
                "gflops": round(rate, 2),
                "peak_gflops": peak and round(peak, 1),
                "share_of_peak": peak and round(rate / peak, 4),
                "native_is_faster": base and round(o.median / base, 3),
                "gate_difference": float(f"{o.difference:.2g}"),
                "matmul": f"{o.matmul}, {mkl}" if uses_mkl else o.matmul,
                "matmul_gflops": o.matmul_rate and round(o.matmul_rate, 1),
                "fall_backs": "; ".join(o.fall_backs),
                "fall_backs_of_slower_forms": "; ".join(o.slower_fall_backs),
                "versions": machine.versions(PEERS[o.peer].packages),
            }
        )
    return found


def terminal_table(found: Sequence[Row]) -> Table:
    """Times are medians with the smallest and largest of all rounds; the rest is as in rows."""
    first = found[0]
    title = (
        f"d {first['d']}, L {first['layers']}, {first['tokens']} tokens, batch {first['batch']},"
        f" {first['members']} models, {first['threads']} threads"
    )
    table = Table(title=title, caption=_caption(first), caption_justify="left")
    measured = first["peak_gflops"] is not None
    headings = ["peer", "form", "ms/model-step", "model-steps/s", "GFLOP/s"]
    headings += ["of peak"] if measured else []
    headings += ["native is", "its float32 GEMM", "notes"]
    for heading in headings:
        number = heading in ("ms/model-step", "model-steps/s", "GFLOP/s", "of peak", "native is")
        table.add_column(heading, justify="right" if number else "left")
    for row in found:
        ratio = row["native_is_faster"]
        cells = [
            PEERS[row["peer"]].title,
            f"{row['variant']}\n{row['form']} (processes x threads)",
            f"{row['ms']:.3f}\n{row['ms_low']:.3f} to {row['ms_high']:.3f}",
            f"{row['model_steps_s']:.0f}",
            f"{row['gflops']:.1f}",
        ]
        cells += [f"{100 * row['share_of_peak']:.1f} %"] if measured else []
        cells += ["" if ratio is None else f"{ratio:.2f}x", _gemm(row), _notes(row)]
        table.add_row(*cells)
    return table


def append_csv(path: Path, found: Sequence[Row]) -> None:
    """Add rows to the file, with the header if it is new.

    Raises UsageError when the file's columns are others.
    """
    columns = list(found[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists() or path.stat().st_size == 0
    if not fresh:
        with path.open(newline="") as lines:
            if next(csv.reader(lines)) != columns:
                raise UsageError(
                    f"{path} has other columns than this benchmark writes; move it away first"
                )
    with path.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, columns)
        if fresh:
            writer.writeheader()
        writer.writerows(found)


def _gemm(row: Row) -> str:
    rate, peak = row["matmul_gflops"], row["peak_gflops"]
    if rate is None:
        return str(row["matmul"])
    share = "" if peak is None else f" ({100 * rate / peak:.0f} % of peak)"
    return f"{row['matmul']}\n512 x 512: {rate:.0f} GFLOP/s{share}"


def _notes(row: Row) -> str:
    notes = [f"gate {row['gate_difference']:.0e}"]
    if row["fall_backs"]:
        notes.append(f"VMAP LOOPS: {row['fall_backs']}")
    elif row["fall_backs_of_slower_forms"]:
        notes.append("a slower variant made vmap loop")
    return "\n".join(notes)


def _caption(row: Row) -> str:
    peak = row["peak_gflops"]
    lines = [
        f"{row['cpu']}, commit {row['commit']}",
        "this build has no FMA loop: no share of peak"
        if peak is None
        else f"FMA peak in this run: {peak:.0f} GFLOP/s",
        f"operations: GEMM and attention of the pruned step, {row['flops'] / 1e6:.1f} MFLOP",
        "gate: largest difference to native's losses over 20 updates",
    ]
    if row["unset"]:
        lines.append(f"exported here, but unset for every process above: {row['unset']}")
    return "\n".join(lines)
