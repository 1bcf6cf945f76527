"""The streams in C++ are those in NumPy, bit for bit: words, permutations, batches, weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compfast.config import Config, InitConfig, MemberSpec, ModelConfig
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.models.init import initial_parameters, initial_std
from compfast.models.params import parameter_table
from compfast.streams import philox
from compfast.tasks.anchor import AnchorConfig, AnchorTask

pytestmark = pytest.mark.usefixtures("native_extension")

SEEDS = (0, 1, 12345, 2**32 - 1, 2**32, 2**32 + 1, 2**53 - 1)
STEPS = (0, 1, 999, 2**31, 2**32 - 1)
STREAMS = json.loads((Path(__file__).parent / "data" / "streams.json").read_text())


def native() -> Any:
    from compfast import _native

    return _native


def test_philox_blocks() -> None:
    rng = np.random.default_rng(1)
    for seed in SEEDS:
        for words in (*rng.integers(0, 2**32, (50, 4)).tolist(), [0] * 4, [2**32 - 1] * 4):
            want = philox.philox4x32(tuple(words), (seed & 0xFFFFFFFF, seed >> 32))
            assert native().philox(words, seed).tolist() == want.tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 1000, 65537])
def test_feistel_permutations(n: int) -> None:
    index = np.unique(np.linspace(0, n - 1, 50).astype(np.int64))
    for seed in SEEDS:
        for epoch in (0, 7, 2**32 - 1):
            want = philox.feistel(seed, epoch, index, n).tolist()
            assert [native().feistel(seed, epoch, int(i), n) for i in index] == want


def test_feistel_of_huge_sets() -> None:
    for n in (759_375, 2**31 + 11, 2**40 + 5):
        index = np.array([0, 1, n // 2, n - 1])
        want = philox.feistel(2**40 + 3, 5, index, n).tolist()
        assert [native().feistel(2**40 + 3, 5, int(i), n) for i in index] == want


VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "both_unseen": {"overridden": (), "unseen": ((3, 4), (4, 3))},
    "modulus_of_the_code": {"key_modulus": 9},
    "two_anchors": {
        "anchors": (7, 150),
        "shifts": (3, -2),
        "overridden": ((7, 150, 9),),
        "unseen": ((150, 7),),
        "item_low": 31,
        "item_high": 37,
        "key_modulus": 3,
    },
}


@pytest.mark.parametrize("length", [3, 5, 9, 10, 11, 20])
@pytest.mark.parametrize("variant", VARIANTS)
def test_fresh_batches(variant: str, length: int) -> None:
    task = AnchorTask(AnchorConfig(seq_len=length, **VARIANTS[variant]))
    for seed in SEEDS:
        for step in STEPS:
            _same_batch(task, seed, step, 1 + (seed + step) % 7)


@pytest.mark.parametrize("length", [3, 9, 20])
@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_of_a_drawn_set(variant: str, length: int) -> None:
    task = AnchorTask(
        AnchorConfig(seq_len=length, data="fixed", fixed_total=4000, **VARIANTS[variant])
    )
    for batch in (1, 37, 128):
        last = task.steps_per_epoch(batch) - 1
        for seed in SEEDS:
            for step in (0, last, last + 1, 3 * last + 2):
                _same_batch(task, seed, step, batch)


def test_the_papers_drawn_set() -> None:
    task = AnchorTask(AnchorConfig(data="fixed"))
    assert task.total == 759_375
    for step in (0, 369, 370, 77_699):
        _same_batch(task, 3, step, 2048)


def _same_batch(task: Any, seed: int, step: int, batch: int) -> None:
    tokens, targets = native().task_batch(task.stream(), seed, step, batch)
    want_tokens, want_targets = task.batch(seed, step, batch)
    assert tokens.dtype == want_tokens.dtype == np.int32
    assert np.array_equal(tokens, want_tokens)
    assert np.array_equal(targets, want_targets)


def normals(
    seeds: list[int], tensor: int, std: list[float], out: Any, strides: tuple[int, int]
) -> None:
    """Fills out [M, rows, columns]; strides in floats, from member to member and row to row."""
    own, scale = np.array(seeds, np.uint64), np.array(std)
    data = [array.ctypes.data for array in (own, scale, out)]
    native().normals(*out.shape, *strides, tensor, 2, *data)


def drawn(seed: int, tensor: int, std: float, count: int) -> Any:
    out = np.full((1, 1, count), np.nan, np.float32)
    normals([seed], tensor, [std], out, (count, count))
    return out[0, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 4099])
def test_normals(count: int) -> None:
    for seed in SEEDS:
        for tensor, std in ((0, 1.0), (197, 0.0371), (2**32 - 1, 1e-6)):
            want = std * philox.normals(seed, philox.INIT, tensor, 0, count)
            assert np.array_equal(drawn(seed, tensor, std, count), want.astype(np.float32))


def test_normals_of_the_extreme_words() -> None:
    """A long run meets radii and angles of every quadrant; one differing bit would show."""
    want = philox.normals(8, philox.INIT, 65, 0, 400_000).astype(np.float32)
    assert np.array_equal(drawn(8, 65, 1.0, want.size).view(np.uint32), want.view(np.uint32))
    assert np.abs(want).max() > 4.5


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 32])
def test_normals_of_members_whose_rows_stand_apart(columns: int) -> None:
    """Each member has its own seed and scale; nothing between the rows is touched."""
    seeds, std, rows, ld = [3, 2**40, 5], [0.5, 2.0, 0.125], 7, columns + 3
    padded = np.full((3, rows + 1, ld), 9.0, np.float32)
    normals(seeds, 64, std, padded[:, :rows, :columns], ((rows + 1) * ld, ld))
    for m, seed in enumerate(seeds):
        want = std[m] * philox.normals(seed, philox.INIT, 64, 0, rows * columns)
        assert np.array_equal(padded[m, :rows, :columns].ravel(), want.astype(np.float32))
    padded[:, :rows, :columns] = 9.0
    assert (padded == 9.0).all()


def begun(specs: list[MemberSpec]) -> dict[str, Any]:
    """An engine's initial weights: name -> [M, *shape]."""
    from compfast.engines.native import NativeEngine

    engine = NativeEngine(specs, make_tables(specs), threads=2)
    engine.initialise()
    return engine.state().params


def test_initial_weights_of_an_engine() -> None:
    init = InitConfig(gamma=0.8, bias="uniform", residual_scale=True)
    sweep = (("init.gamma", (0.4, 1.1)), ("seed", (3, 2**33)))
    specs = member_specs(Config(init=init, sweep=sweep))
    params = begun(specs)
    assert params.keys() == {tensor.name for tensor in parameter_table(specs[0].model)}
    for i, spec in enumerate(specs):
        for name, value in initial_parameters(spec, initial_std(spec)).items():
            assert np.array_equal(params[name][i], value), name


def test_the_committed_streams() -> None:
    """What tests/test_philox.py draws from NumPy into tests/data/streams.json, from C++."""
    for name, words in STREAMS["words"].items():
        seed, purpose = map(int, name.split())
        blocks = [native().philox((block, 7, purpose, 2), seed) for block in range(3)]
        assert np.concatenate(blocks)[3:9].tolist() == words
    assert [native().feistel(9, 2, i, 21) for i in range(21)] == STREAMS["feistel"]

    committed = np.array([float.fromhex(z) for z in STREAMS["normals"]])
    assert drawn(1, 64, 1.0, 9).tolist() == committed.astype(np.float32).tolist()

    for name, config, batch in (
        ("fresh batch", AnchorConfig(), 4),
        ("fixed batch", AnchorConfig(data="fixed", fixed_total=3200), 128),
    ):
        table = AnchorTask(config).stream()
        tokens, targets = native().task_batch(table, 3, 17, batch)
        assert tokens[:4].tolist() == STREAMS[name]["tokens"]
        assert targets[:4].tolist() == STREAMS[name]["targets"]

    init = InitConfig(gamma=0.8, bias="uniform")
    ensemble = Config(task=AnchorConfig(), model=ModelConfig(), init=init, sweep=(("seed", (5,)),))
    weights = begun(member_specs(ensemble))
    for name, values in STREAMS["init"].items():
        assert [float(x).hex() for x in weights[name].ravel()[:8]] == values
