"""benchmarks/decoding.py: its gate at a small size, and that the gate can be red."""

from __future__ import annotations

import pytest
import torch

from benchmarks import decoding
from benchmarks.gate import GateError
from compfast.engines.native import NativeEngine

pytestmark = pytest.mark.usefixtures("native_extension")


def test_every_peer_tells_the_best_tokens() -> None:
    torch.set_num_threads(1)
    rows = decoding.measure(decoding.make_decoded(8, 2, 2, 3, 2), 1, 1e-6)
    assert [row["peer"] for row in rows] == ["native", "loop, cache", "engine eager"]
    assert all(row["gate_difference"] <= decoding.TOLERANCE for row in rows)
    assert set(rows[0]) == set(decoding.COLUMNS)


def test_other_tokens_are_not_timed() -> None:
    decoded = decoding.make_decoded(8, 1, 1, 3, 1)
    told = decoded.engine(NativeEngine).generate(decoded.prompts, [0])[0]
    told[1, 4] = (told[1, 4] + 1) % 100
    with pytest.raises(GateError, match=r"native tells tokens .* below the best of float64"):
        decoding.shortfall(decoded, "native", told, decoded.prompts)


def test_wrong_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert decoding.main(["--settings", "big", "--no-csv"]) == 2
    assert "--settings has 'big'; allowed: scan, small" in capsys.readouterr().err
