"""What this machine would train with, and the digest of a few trained steps, on two lines.

Run as a script, also under an emulated CPU (tests/test_portability.py).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]


def digest(name: str, precision: str) -> str:
    """Of two members' weights and losses after three steps of the architecture `name`."""
    from architectures import ARCHITECTURES

    from compfast.config import Config, ModelConfig, TrainingConfig
    from compfast.engines.native import NativeEngine
    from compfast.ensembles.grid import member_specs
    from compfast.ensembles.schedule import make_tables
    from compfast.tasks.anchor import AnchorConfig

    length, changes = ARCHITECTURES[name]
    config = Config(
        task=AnchorConfig(seq_len=length),
        model=ModelConfig(**changes),
        training=TrainingConfig(steps=3, batch_size=11, precision=precision),  # type: ignore[arg-type]
        sweep=(("seed", (3, 4)),),
    )
    specs = member_specs(config)
    engine = NativeEngine(specs, make_tables(specs), threads=2)
    engine.initialise()
    loss, params = engine.advance(3).loss, engine.state().params
    assert np.isfinite(loss).all()
    found = hashlib.sha256(loss.tobytes())
    for tensor in sorted(params):
        found.update(params[tensor].tobytes())
    return found.hexdigest()


def main() -> None:
    from compfast import _native

    print(_native.selected_isa(), "of", *_native.supported_isas())
    print(digest("own_head_sizes", "fp32"), digest("tied", "bf16"))


if __name__ == "__main__":
    main()
