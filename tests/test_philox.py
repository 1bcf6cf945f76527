"""The streams: known answers, the committed file that never changes, and plain statistics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compfast.config import Config, InitConfig, ModelConfig
from compfast.ensembles.grid import member_specs
from compfast.models.init import initial_parameters, initial_std
from compfast.streams import philox
from compfast.tasks import make_task
from compfast.tasks.anchor import AnchorConfig

STREAMS = Path(__file__).parent / "data" / "streams.json"
BIG_SEED = 2**53 - 1  # both key words in use

# Random123's known-answer tests for philox4x32-10: counter, key and output words.
KNOWN = (
    "00000000 00000000 00000000 00000000 / 00000000 00000000 / 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff / ffffffff ffffffff / 408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 / a4093822 299f31d0 / d16cfe09 94fdcceb 5001e420 24126ea1",
)


@pytest.mark.parametrize("line", KNOWN)
def test_known_answers(line: str) -> None:
    counter, key, output = ([int(word, 16) for word in part.split()] for part in line.split("/"))
    c0, c1, c2, c3 = counter
    assert philox.philox4x32((c0, c1, c2, c3), (key[0], key[1])).tolist() == output


def observed() -> dict[str, Any]:
    """Small samples of every kind of stream, as tests/data/streams.json holds them."""
    init = InitConfig(gamma=0.8, bias="uniform")
    config = Config(task=AnchorConfig(), model=ModelConfig(), init=init, sweep=(("seed", (5,)),))
    spec = member_specs(config)
    weights = initial_parameters(spec[0], initial_std(spec[0]))
    fresh = make_task(AnchorConfig()).batch(3, 17, 4)
    fixed = make_task(AnchorConfig(data="fixed", fixed_total=3200)).batch(3, 17, 128)
    return {
        "words": {
            f"{seed} {purpose}": philox.words(seed, purpose, 7, 2, 3, 6).tolist()
            for seed in (0, 1, BIG_SEED)
            for purpose in range(6)
        },
        "integers": philox.integers(philox.words(1, philox.TRAIN, 0, 0, 0, 12), 15).tolist(),
        "uniforms": [float(u).hex() for u in philox.uniforms(philox.words(1, 0, 0, 0, 0, 6))],
        "normals": [z.hex() for z in philox.normals(1, philox.INIT, 64, 0, 9).tolist()],
        "feistel": philox.feistel(9, 2, np.arange(21), 21).tolist(),
        "fresh batch": {"tokens": fresh[0].tolist(), "targets": fresh[1].tolist()},
        "fixed batch": {"tokens": fixed[0][:4].tolist(), "targets": fixed[1][:4].tolist()},
        "init": {
            name: [float(x).hex() for x in weights[name].ravel()[:8]]
            for name in ("embed.token.weight", "blocks.1.ffn.down.weight", "head.bias")
        },
    }


def test_streams_never_change() -> None:
    expected = json.loads(STREAMS.read_text())
    got = observed()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == value, name


def test_purposes_are_named_as_in_the_contract() -> None:
    named = (philox.INIT, philox.TRAIN, philox.EVAL, philox.DROPOUT, philox.AUX, philox.DRAWN)
    assert named == (0, 1, 2, 3, 4, 5)


def test_a_word_is_part_of_the_block_at_its_place() -> None:
    all_words = philox.words(BIG_SEED, 1, 3, 4, 0, 23)
    key = (0xFFFFFFFF, 0x1FFFFF)
    for i in range(23):
        assert all_words[i] == philox.philox4x32((i // 4, 3, 1, 4), key)[i % 4]
    for start in range(9):
        for count in range(9):
            part = philox.words(BIG_SEED, 1, 3, 4, start, count)
            assert part.tolist() == all_words[start : start + count].tolist()
    rows = philox.word_rows(BIG_SEED, 1, np.array([9, 3, 3]), 4, 2, 5)
    assert rows[1].tolist() == rows[2].tolist() == all_words[2:7].tolist()


def test_neighbouring_streams_differ() -> None:
    names = [(s, p, t, b) for s in (0, 1, 2**32) for p in (0, 1) for t in (0, 1) for b in (0, 1)]
    streams = {tuple(philox.words(*name, 0, 4).tolist()) for name in names}
    assert len(streams) == len(names)


def test_integers_cover_their_range_evenly() -> None:
    u = np.array([0, 1, 2**32 - 1], dtype=np.uint32)
    assert philox.integers(u, 80).tolist() == [0, 0, 79]
    drawn = philox.integers(philox.words(2, 1, 0, 0, 0, 80_000), 80)
    chi2 = float(((np.bincount(drawn, minlength=80) - 1000.0) ** 2 / 1000.0).sum())
    assert 79 - 4 * math.sqrt(158) < chi2 < 79 + 4 * math.sqrt(158)


def test_uniforms_are_exact_and_inside() -> None:
    u = philox.uniforms(np.array([0, 511, 512, 2**32 - 1], dtype=np.uint32))
    assert u.dtype == np.float32
    assert u.tolist() == [2.0**-24, 2.0**-24, 3 * 2.0**-24, 1 - 2.0**-24]


def test_normals_have_normal_moments() -> None:
    z = philox.normals(4, philox.INIT, 64, 0, 200_000)
    root = math.sqrt(len(z))
    assert abs(z.mean()) < 4 / root
    assert abs((z**2).mean() - 1) < 4 * math.sqrt(2) / root
    assert abs((z**3).mean()) < 4 * math.sqrt(15) / root
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96) / root
    assert abs((z[0::2] * z[1::2]).mean()) < 4 / root * math.sqrt(2)
    assert abs((z < 1).mean() - 0.8413447) < 4 * 0.3654 / root


def test_an_odd_count_drops_the_partner_only() -> None:
    assert (philox.normals(4, 0, 1, 0, 7) == philox.normals(4, 0, 1, 0, 8)[:7]).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 64, 1000, 4097])
def test_feistel_is_a_permutation(n: int) -> None:
    image = philox.feistel(11, 3, np.arange(n), n)
    assert sorted(image.tolist()) == list(range(n))
    one_by_one = [int(philox.feistel(11, 3, np.array([i]), n)[0]) for i in range(min(n, 20))]
    assert one_by_one == image[:20].tolist()


def test_feistel_depends_on_seed_and_epoch_and_mixes() -> None:
    images = [philox.feistel(s, e, np.arange(5000), 5000) for s, e in ((0, 0), (0, 1), (1, 0))]
    for i, a in enumerate(images):
        for b in (np.arange(5000), *images[:i]):
            assert (a == b).sum() < 12  # Poisson with mean 1
            assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(5000)


def test_feistel_of_the_papers_set_stays_inside() -> None:
    image = philox.feistel(1, 209, np.arange(759_000, 759_375), 759_375)
    assert image.min() >= 0
    assert image.max() < 759_375
    assert len(set(image.tolist())) == 375
