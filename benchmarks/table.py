"""The table on the terminal and the rows of benchmarks/results/throughput.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import machine
from benchmarks.gate import UPDATES
from benchmarks.measure import Outcome, Setting
from benchmarks.peers import PEERS
from compfast.engines.arithmetic import step_flops
from compfast.errors import UsageError
from compfast.models.families import model_plan

BASE = "native"  # what the ratios are against
COLUMNS = (
    *("date", "commit", "cpu", "unset", "d", "layers", "tokens", "batch", "members", "threads"),
    *("rounds", "flops", "peer", "variant", "form", "ms", "ms_low", "ms_high", "model_steps_s"),
    *("gflops", "peak_gflops", "share_of_peak", "native_is_faster", "gate_difference"),
    *("matmul", "matmul_gflops", "fall_backs", "fall_backs_of_slower_forms", "versions"),
)
Row = dict[str, Any]  # COLUMNS -> value


def rows(setting: Setting, outcomes: Sequence[Outcome], peak: float, mkl: str | None) -> list[Row]:
    """One row a peer: numbers rounded, None where not known."""
    model = setting.problem().model
    length = setting.problem().positions
    flops = sum(step_flops(model_plan(model), length, setting.batch_size).values())
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
                "peak_gflops": round(peak, 1),
                "share_of_peak": round(rate / peak, 4),
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
    table = Table(title=title, caption=_caption(found), caption_justify="left")
    numbers = ["ms/model-step", "low to high", "steps/s", "GFLOP/s", "of peak", "native is"]
    table.add_column("peer", overflow="fold")
    table.add_column("form", overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found:
        ratio = row["native_is_faster"]
        table.add_row(
            PEERS[row["peer"]].title + (" (LOOPS)" if row["fall_backs"] else ""),
            f"{row['variant']}, {row['form']}",
            f"{row['ms']:.3f}",
            f"{row['ms_low']:.3f} to {row['ms_high']:.3f}",
            f"{row['model_steps_s']:.0f}",
            f"{row['gflops']:.1f}",
            f"{100 * row['share_of_peak']:.1f} %",
            "" if ratio is None else f"{ratio:.2f}x",
        )
    return table


def refuse_other_columns(path: Path) -> None:
    """Raises UsageError when the file has columns other than COLUMNS."""
    if not _is_new(path):
        with path.open(newline="") as lines:
            if next(csv.reader(lines)) != list(COLUMNS):
                raise UsageError(
                    f"{path} has other columns than this benchmark writes; move it away first"
                )


def append_csv(path: Path, found: Sequence[Row]) -> None:
    """Add rows to the file, with the header if it is new; raises as refuse_other_columns."""
    refuse_other_columns(path)
    fresh = _is_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerows(found)


def _is_new(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _caption(found: Sequence[Row]) -> str:
    first, peak = found[0], found[0]["peak_gflops"]
    gate = max(found, key=lambda row: float(row["gate_difference"]))
    lines = [
        "form: variant, processes x threads; ms: median of"
        f" {first['rounds']} samples taken in turns; native is: as many times faster as fp32",
        f"{first['cpu']}, commit {first['commit']}, {first['date']}",
        f"FMA peak in this run: {peak:.0f} GFLOP/s, in float32 for every row",
        f"operations: GEMM and attention of the pruned step, {first['flops'] / 1e6:.1f} MFLOP",
        f"gate: losses over {UPDATES} updates at most {gate['gate_difference']:.0e} from native's"
        f" ({gate['peer']})",
    ]
    lines += [_matrix_products(row) for row in found]
    for row in found:
        if row["fall_backs"]:
            lines.append(f"{row['peer']}: vmap LOOPS over members in {row['fall_backs']}")
        elif row["fall_backs_of_slower_forms"]:
            lost = row["fall_backs_of_slower_forms"]
            lines.append(f"{row['peer']}: a slower variant made vmap loop in {lost}")
    if first["unset"]:
        lines.append(f"exported here, but unset for every process above: {first['unset']}")
    return "\n".join(lines)


def _matrix_products(row: Row) -> str:
    """What multiplied matrices, and its speed where it is a library's."""
    rate, peak = row["matmul_gflops"], row["peak_gflops"]
    if rate is None:
        return f"{row['peer']}: {row['matmul']}"
    share = f"{100 * rate / peak:.0f} % of peak"
    return f"{row['peer']}: {row['matmul']}; float32 512 x 512 here: {rate:.0f} GFLOP/s, {share}"
