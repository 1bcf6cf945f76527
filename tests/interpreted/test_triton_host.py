"""Tasks that no kernel draws: their batches come from the host, and train as the oracle does."""

from __future__ import annotations

import numpy as np
import pytest
import quick_interpreter  # noqa: F401

from compfast.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from compfast.engines import make_engine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.tasks.modular import ModularConfig

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_INTERPRET=1")


def test_a_table_trains_as_in_eager() -> None:
    """Two members of one data seed and two others, stopped and gone on with at another step."""
    config = Config(
        task=ModularConfig(modulus=7),
        model=ModelConfig(layers=1, d_model=16),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(steps=4, batch_size=8),
        sweep=(("seed", (0, 1)), ("data_seed", (5, 6))),
    )
    specs = member_specs(config)
    losses = []
    for name in ("eager", "triton"):
        engine = make_engine(name, specs, make_tables(specs), threads=1)
        engine.initialise()
        parts = [engine.advance(1).loss, engine.advance(4).loss]
        losses.append(np.concatenate(parts, axis=1))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
