"""The streams in C++ are those in NumPy, bit for bit: words, permutations, batches, weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compfast import philox
from compfast.config import Config, InitConfig, TaskConfig
from compfast.grid import member_specs
from compfast.init import initial_parameters, initial_std
from compfast.params import parameter_table
from compfast.tasks import make_task

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
    task = make_task(TaskConfig(seq_len=length, **VARIANTS[variant]))
    for seed in SEEDS:
        for step in STEPS:
            _same_batch(task, seed, step, 1 + (seed + step) % 7)


@pytest.mark.parametrize("length", [3, 9, 20])
@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_of_a_drawn_set(variant: str, length: int) -> None:
    task = make_task(
        TaskConfig(seq_len=length, data="fixed", fixed_total=4000, **VARIANTS[variant])
    )
    for batch in (1, 37, 128):
        last = task.steps_per_epoch(batch) - 1
        for seed in SEEDS:
            for step in (0, last, last + 1, 3 * last + 2):
                _same_batch(task, seed, step, batch)


def test_the_papers_drawn_set() -> None:
    task = make_task(TaskConfig(data="fixed"))
    assert task.total == 759_375
    for step in (0, 369, 370, 77_699):
        _same_batch(task, 3, step, 2048)


def _same_batch(task: Any, seed: int, step: int, batch: int) -> None:
    tokens, targets = native().anchor_batch(task.stream_table(), seed, step, batch)
    want_tokens, want_targets = task.batch(seed, step, batch)
    assert tokens.dtype == want_tokens.dtype == np.int32
    assert np.array_equal(tokens, want_tokens)
    assert np.array_equal(targets, want_targets)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 4099])
def test_normals(count: int) -> None:
    for seed in SEEDS:
        for tensor, std in ((0, 1.0), (197, 0.0371), (2**32 - 1, 1e-6)):
            out = np.full(count, np.nan, np.float32)
            native().fill_normal(seed, tensor, std, out)
            want = std * philox.normals(seed, philox.INIT, tensor, 0, count)
            assert np.array_equal(out, want.astype(np.float32))


def test_normals_of_the_extreme_words() -> None:
    """A long run meets radii and angles of every quadrant; one differing bit would show."""
    out = np.empty(400_000, np.float32)
    native().fill_normal(8, 65, 1.0, out)
    want = philox.normals(8, philox.INIT, 65, 0, out.size).astype(np.float32)
    assert np.array_equal(out.view(np.uint32), want.view(np.uint32))
    assert np.abs(want).max() > 4.5


def test_fill_normal_refuses_what_it_would_have_to_copy() -> None:
    for wrong in (np.empty(8, np.float64), np.empty(16, np.float32)[::2]):
        with pytest.raises(TypeError):
            native().fill_normal(0, 0, 1.0, wrong)


def test_initial_weights_of_a_member() -> None:
    init = InitConfig(gamma=0.8, bias="uniform", residual_scale=True)
    spec = member_specs(Config(init=init, sweep=(("seed", (2**33,)),)))[0]
    std = initial_std(spec)
    ours = initial_parameters(spec, std, normal=native().fill_normal)
    want = initial_parameters(spec, std)
    assert ours.keys() == {tensor.name for tensor in parameter_table(spec.model)}
    for name, value in want.items():
        assert np.array_equal(ours[name], value), name


def test_the_committed_streams() -> None:
    """What tests/test_philox.py draws from NumPy into tests/data/streams.json, from C++."""
    for name, words in STREAMS["words"].items():
        seed, purpose = map(int, name.split())
        blocks = [native().philox((block, 7, purpose, 2), seed) for block in range(3)]
        assert np.concatenate(blocks)[3:9].tolist() == words
    assert [native().feistel(9, 2, i, 21) for i in range(21)] == STREAMS["feistel"]

    out = np.empty(9, np.float32)
    native().fill_normal(1, 64, 1.0, out)
    normals = np.array([float.fromhex(z) for z in STREAMS["normals"]])
    assert out.tolist() == normals.astype(np.float32).tolist()

    for name, config, batch in (
        ("fresh batch", TaskConfig(), 4),
        ("fixed batch", TaskConfig(data="fixed", fixed_total=3200), 128),
    ):
        table = make_task(config).stream_table()
        tokens, targets = native().anchor_batch(table, 3, 17, batch)
        assert tokens[:4].tolist() == STREAMS[name]["tokens"]
        assert targets[:4].tolist() == STREAMS[name]["targets"]

    init = InitConfig(gamma=0.8, bias="uniform")
    spec = member_specs(Config(init=init, sweep=(("seed", (5,)),)))[0]
    weights = initial_parameters(spec, initial_std(spec), normal=native().fill_normal)
    for name, values in STREAMS["init"].items():
        assert [float(x).hex() for x in weights[name].ravel()[:8]] == values
