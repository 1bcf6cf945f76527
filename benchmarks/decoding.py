"""`python -m benchmarks.decoding`: greedy decoding, native beside a loop with a cache and eager.

One thread, CPU time of the process (wall time tells what else ran), all peers in turns in one run.
Every peer's tokens are held against float64 before anything is timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine, turns
from benchmarks.fleet import ROOT
from benchmarks.gate import GateError
from benchmarks.peers.decoding import CachedLoop
from compfast.config import Config, MemberSpec, ModelConfig, Prompts
from compfast.engines.base import Int32
from compfast.engines.eager import EagerEngine
from compfast.engines.native import NativeEngine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import Tables, make_tables
from compfast.models.transformer import Transformer
from compfast.tasks.anchor import AnchorConfig

RESULTS = ROOT / "benchmarks" / "results" / "decoding.csv"
SETTINGS = {"scan": (128, 3, 4, 512), "small": (32, 2, 2, 512)}  # name -> d, layers, heads, prompts
LONGEST, NEW = 10, 48  # of SCAN: a command and SEP, actions and END
GATED = 64  # prompts whose tokens are checked
EAGER_PROMPTS = 16  # it passes over every position again for each token
TOLERANCE = 1e-4  # of the largest logit
COLUMNS = (
    *("date", "commit", "cpu", "load", "d", "layers", "prompts", "members", *turns.COLUMNS),
    *("tokens_s", "versions"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Members at their initial weights, and what they go on from."""

    specs: tuple[MemberSpec, ...]
    tables: Tables
    prompts: Prompts

    def engine(self, of: Callable[..., Any]) -> Any:
        engine = of(self.specs, self.tables, threads=1)
        engine.initialise()
        return engine

    def fewer(self, count: int) -> Prompts:
        tokens, lengths = self.prompts.tokens[:count], self.prompts.lengths[:count]
        return dataclasses.replace(self.prompts, tokens=tokens, lengths=lengths)


def make_decoded(d: int, layers: int, heads: int, prompts: int, members: int) -> Decoded:
    """Raises UsageError for sizes that no network can have."""
    config = Config(
        task=AnchorConfig(seq_len=LONGEST + NEW - 1),
        model=ModelConfig(layers=layers, d_model=d, heads=heads, loss_positions="all"),
        sweep=(("seed", tuple(range(members))),),
    )
    specs, rng = tuple(member_specs(config)), np.random.default_rng(0)
    tokens = rng.integers(0, 100, (prompts, LONGEST), dtype=np.int32)
    lengths = rng.integers(2, LONGEST + 1, prompts, dtype=np.int32)
    return Decoded(specs, make_tables(specs), Prompts(tokens, lengths, NEW))


def shortfall(decoded: Decoded, name: str, told: Int32, prompts: Prompts) -> float:
    """By how much member 0's tokens lie below the best in float64, of the largest logit.

    Raises GateError above TOLERANCE.
    """
    weights = {n: w[0] for n, w in decoded.engine(NativeEngine).state().params.items()}
    module = Transformer.holding(decoded.specs[0].model, weights).double()
    worst = 0.0
    asked = zip(prompts.tokens, prompts.lengths, told, strict=True)
    for tokens, length, own in itertools.islice(asked, GATED):
        whole = torch.from_numpy(np.concatenate([tokens[:length], own]).astype(np.int64))
        with torch.no_grad():
            logits = module(whole[None, :-1])[0, length - 1 :]
        chosen = logits.gather(1, whole[length:, None])[:, 0]
        lacking = (logits.amax(1) - chosen) / logits.abs().amax(1)
        worst = max(worst, float(lacking.max()))
    if not worst <= TOLERANCE:
        raise GateError(
            f"{name} tells tokens {worst:.2g} below the best of float64; at most {TOLERANCE:g} is"
            " allowed, so nothing is timed"
        )
    return worst


def measure(decoded: Decoded, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row a peer, native first; raises GateError before anything is timed."""
    count, everybody = len(decoded.specs), range(len(decoded.specs))
    native, eager = decoded.engine(NativeEngine), decoded.engine(EagerEngine)
    all_prompts, few = decoded.prompts, decoded.fewer(EAGER_PROMPTS)
    params, model = native.state().params, decoded.specs[0].model
    assert isinstance(model, ModelConfig)
    loops = [
        CachedLoop(
            model,
            {n: torch.from_numpy(w[i].copy()) for n, w in params.items()},
            len(all_prompts.tokens),
            LONGEST + NEW - 1,
        )
        for i in everybody
    ]

    def looped() -> list[Int32]:
        return [loop.generate(all_prompts) for loop in loops]

    tell: dict[str, tuple[Callable[[], Any], Prompts]] = {
        "native": (lambda: native.generate(all_prompts, everybody), all_prompts),
        "loop, cache": (looped, all_prompts),
        "engine eager": (lambda: eager.generate(few, everybody), few),
    }
    gates = {n: shortfall(decoded, n, run()[0], asked) for n, (run, asked) in tell.items()}
    runs = {name: _repeated(run) for name, (run, _) in tell.items()}
    times = turns.in_turns(runs, count, rounds, seconds)
    for name, (_, asked) in tell.items():  # as if all had told of all prompts
        share = len(all_prompts.tokens) / len(asked.tokens)
        times[name].cpu[:] = [ms * share for ms in times[name].cpu]
        times[name].wall[:] = [ms * share for ms in times[name].wall]
    about = {
        "d": model.d_model,
        "layers": model.layers,
        "prompts": len(all_prompts.tokens),
        "members": count,
    }
    tokens = len(all_prompts.tokens) * NEW
    return [
        {
            **row,
            "tokens_s": round(1e3 * tokens / row["ms"]),
            "versions": machine.versions(("compfast", "numpy", "torch")),
        }
        for row in turns.rows(times, gates, about)
    ]


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    first = rows[0]
    shown = Table(
        title=title,
        caption=f"CPU time, median of {first['rounds']}; {first['cpu']}, load {first['load']},"
        f" commit {first['commit']}; gate: tokens against float64",
        caption_justify="left",
    )
    for heading in ("peer", "tokens/s", "ms a member", "wall ms", "native is"):
        shown.add_column(heading, justify="left" if heading == "peer" else "right")
    for row in rows:
        shown.add_row(
            row["peer"],
            f"{row['tokens_s']:,}",
            f"{row['ms']:.1f}",
            f"{row['wall_ms']:.1f}",
            f"{row['native_is_faster']:.2f}x",
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: see `turns.command`."""
    parser = argparse.ArgumentParser("python -m benchmarks.decoding", description=__doc__)
    turns.add_flags(parser, SETTINGS, RESULTS)

    def run(given: argparse.Namespace, console: Console) -> None:
        for name in given.settings:
            rows = measure(make_decoded(*SETTINGS[name], given.models), given.rounds, given.seconds)
            first = rows[0]
            size = f"d {first['d']}, {first['layers']} layers, {first['prompts']} prompts"
            console.print(table(f"{size}, {NEW} tokens each, 1 thread", rows))
            if given.csv is not None:
                turns.append(given.csv, COLUMNS, rows)

    return turns.command(parser, arguments, SETTINGS, run)


def _repeated(tell: Callable[[], Any]) -> turns.Run:
    def run(times: int) -> None:
        for _ in range(times):
            tell()

    return run


if __name__ == "__main__":
    sys.exit(main())
