"""A run recorded once, which later code must read, go on with and train again, bit for bit.

`python tests/recorded_run.py` writes it anew: tests/data/recorded/run, stopped at step 40 of 60,
and finished-ISA.json, the numbers at its end with each instruction set. It is written anew only
when a bit is meant to change, and the commit says which and why.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import compfast
from compfast import Run, _native
from compfast.config import settings

FOLDER = Path(__file__).parent / "data" / "recorded"
STOPPED_ISA = "generic"  # of the stopped run: every x86-64 machine has it
SETTINGS: dict[str, Any] = {
    "task": {"item_high": 32, "seq_len": 6, "key_modulus": 4, "fixed_total": 2000},
    "model": {"layers": 1, "d_model": 8, "heads": 2},
    "training": {"steps": 60, "batch_size": 8, "log_every": 10, "eval_every": 25},
    "evaluation": {"seen_items": 24, "unseen_items": 24},
    "run": {"engine": "native", "threads": 1, "checkpoint_every": 20},
    "sweep": {
        "init.gamma": [0.2, 1.1],
        "model.norm": ["pre", "post"],
        "task.data": ["fresh", "fixed"],
        "seed": [0, 5],
    },
}


def numbers(run: Run) -> dict[str, Any]:
    """What must come out again: every metric, verdict and score, and digests of the weights."""
    return {
        "members": run.members.select(*_SHOWN).to_dicts(),
        "metrics": run.metrics.sort("member", "step").to_dicts(),
        "weights": [_digest(run, member) for member in range(len(run.members))],
    }


_SHOWN = (
    *("member", "gamma", "seed", "norm", "data", "verdict", "seen", "inferential"),
    *("symmetric", "other", "steps", "group", "row"),
)


def _digest(run: Run, member: int) -> str:
    digest = hashlib.sha256()
    for name, array in run.params(member).items():
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def main() -> None:
    from small_runs import interrupted_at

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    config = settings.from_dict(SETTINGS)
    for isa in _native.supported_isas():
        os.environ["COMPFAST_ISA"] = isa
        with tempfile.TemporaryDirectory() as scratch:
            finished = numbers(compfast.train(config, Path(scratch) / "run"))
        text = json.dumps({"build": _native.build_info(), **finished}, indent=1)
        (FOLDER / f"finished-{isa}.json").write_text(text + "\n")
    os.environ["COMPFAST_ISA"] = STOPPED_ISA
    interrupted_at(FOLDER / "run", config, 40)


if __name__ == "__main__":
    main()
