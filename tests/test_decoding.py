"""Greedy decoding: what engines say is what the networks say, alone as among others."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from ensembles import group, member, random_state, start
from greedy_oracle import check_told
from test_masked_loss import LENGTH as MASKED_LENGTH
from test_masked_loss import specs_of as masked_specs

from compfast.config import Config, MemberSpec, Prompts, TrainingConfig
from compfast.engines import make_engine
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.errors import UsageError
from compfast.tasks.markov import MarkovConfig

_RELATIVE = {"position": "relative", "buckets": 5}
# name -> [model] of the masked task: kinds of attention, biases and positions
MASKED: dict[str, dict[str, Any]] = {
    "usual": {},
    "tied_post_relative": {"tied_head": True, "norm": "post", **_RELATIVE},
    "no_position_none": {"norm": "none", "position": "none", "heads": 4, "head_bias": False},
    "linear": {"attention": "linear", "value_path": "none", "heads": 4, **_RELATIVE},
    "rms_relu": {"attention": "rms_head", "value_path": "relu", "heads": 5, "d_k": 3, "d_v": 4},
    "softmax_deep": {"value_path": "deep", "heads": 4, **_RELATIVE},
    "linear_path_dropped": {"value_path": "linear", "attention_dropout": 0.3},
    "bent": {"value_activation": "relu"},
    "wide_odd": {"d_model": 25, "heads": 1, "d_k": 9, "d_v": 7, "d_ff": 33, "max_positions": 41},
}
# Others' plans lack projections of keys and values, or rows: the anchor task's.
ANCHOR = ("one_layer_post", "own_head_sizes", "tied_all_post", "no_attention", "scales_alone")
BINARY: dict[str, dict[str, Any]] = {
    "single": {"d_model": 12, "layers": 1, "logits": "single", "loss_positions": "all"},
    "single_tied_last": {"d_model": 12, "layers": 1, "logits": "single", "tied_head": True},
    "canonical": {"family": "canonical"},
}
CASES = [
    *((kind, name) for kind, names in (("masked", MASKED), ("binary", BINARY)) for name in names),
    *(("anchor", name) for name in ANCHOR),
]


def specs_of(kind: str, name: str, **training: Any) -> list[MemberSpec]:
    if kind == "anchor":
        specs = group(name)
    elif kind == "masked":
        specs = masked_specs(**MASKED[name])
    else:
        config = Config(
            task=MarkovConfig(seq_len=12),
            model=BINARY[name],
            training=TrainingConfig(steps=2, batch_size=4),
            sweep=(("seed", (3, 4, 5)),),
        )
        specs = member_specs(config)
    changed = dataclasses.replace(specs[0].training, **training)
    return [dataclasses.replace(spec, training=changed) for spec in specs]


def prompts_for(
    spec: MemberSpec, count: int, seed: int = 0, *, end: int = -1, new: int | None = None
) -> Prompts:
    """Prompts of every length that leaves room, filled up with what is no token."""
    rng = np.random.default_rng(seed)
    positions = spec.model.max_positions or 0
    told = positions // 2 + 1 if new is None else new
    longest = positions - told + 1
    lengths = rng.integers(1, longest + 1, count)
    tokens = rng.integers(0, spec.model.vocab_size, (count, longest))
    tokens[np.arange(longest) >= lengths[:, None]] = -7
    return Prompts(tokens, lengths, told, end)  # type: ignore[arg-type]  # int64 is taken


def ready(engine: str, specs: list[MemberSpec], threads: int = 1) -> Any:
    made = make_engine(engine, specs, make_tables(specs), threads=threads)
    made.load(random_state(specs))
    return made


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[name for _, name in CASES])
def test_every_token_is_the_best_in_float64(engine: str, kind: str, name: str) -> None:
    specs = specs_of(kind, name)
    state, prompts = random_state(specs), prompts_for(specs[0], 9, end=0)
    told = ready(engine, specs).generate(prompts, [2, 0])
    assert told.dtype == np.int32
    assert told.shape == (2, 9, prompts.max_new)
    for own, row in zip(told, (2, 0), strict=True):
        assert check_told(specs[0].model, member(state.params, row), prompts, own) >= 9


@pytest.mark.parametrize("kind_name", [("masked", "rms_relu"), ("anchor", "own_head_sizes")])
def test_rounded_products(engine: str, kind_name: tuple[str, str]) -> None:
    specs = specs_of(*kind_name, precision="bf16")
    state, prompts = random_state(specs), prompts_for(specs[0], 5)
    told = ready(engine, specs).generate(prompts, [1])
    check_told(specs[0].model, member(state.params, 1), prompts, told[0], budget=0.1)


@pytest.mark.usefixtures("native_extension")
@pytest.mark.parametrize("kind_name", [("masked", "softmax_deep"), ("anchor", "own_head_sizes")])
def test_a_row_hangs_on_its_prompt_and_its_member_alone(kind_name: tuple[str, str]) -> None:
    """1100 prompts are several jobs, and each has more than are under way at once."""
    specs = specs_of(*kind_name)
    prompts = prompts_for(specs[0], 1100, end=3)
    whole = ready("native", specs, threads=2).generate(prompts, [0, 1, 2])
    assert len(np.unique(whole[:, :, 0])) > 1
    order = np.random.default_rng(5).permutation(1100)
    moved = dataclasses.replace(
        prompts, tokens=prompts.tokens[order], lengths=prompts.lengths[order]
    )
    alone = ready("native", specs[1:2])
    alone.load(_row(random_state(specs), 1))
    np.testing.assert_array_equal(alone.generate(moved, [0])[0], whole[1, order])
    for row in (0, 7, 1099):
        one = dataclasses.replace(
            prompts,
            tokens=prompts.tokens[row : row + 1, : prompts.lengths[row]],
            lengths=prompts.lengths[row : row + 1],
        )
        np.testing.assert_array_equal(alone.generate(one, [0])[0, 0], whole[1, row])


def test_a_neighbour_that_is_not_finite(engine: str) -> None:
    specs = specs_of("masked", "rms_relu")
    prompts, state = prompts_for(specs[0], 6), random_state(specs)
    made = ready(engine, specs)
    whole = made.generate(prompts, [0, 1, 2])
    for tensor in state.params.values():
        tensor[1] = np.nan
    made.load(state)
    broken = made.generate(prompts, [1, 0, 1, 2])
    np.testing.assert_array_equal(broken[[1, 3]], whole[[0, 2]])
    vocabulary = specs[0].model.vocab_size or 0
    assert ((broken >= 0) & (broken < vocabulary)).all()


def test_the_end_is_told_and_nothing_after_it(engine: str) -> None:
    specs = specs_of("masked", "usual")
    made, prompts = ready(engine, specs), prompts_for(specs[0], 8)
    free = made.generate(prompts, [0])[0]
    end = int(free[3, 0])
    told = made.generate(dataclasses.replace(prompts, end=end), [0])[0]
    assert told[3].tolist() == [end, *[-1] * (prompts.max_new - 1)]
    after = np.cumsum(free == end, axis=1) - (free == end) > 0
    np.testing.assert_array_equal(told, np.where(after, -1, free))


def test_the_shortest_there_is(engine: str) -> None:
    """One prompt of one token, one told: what `predict` says where that reads as much."""
    specs = specs_of("masked", "usual")
    made, tokens = ready(engine, specs), np.full((1, MASKED_LENGTH), 4, np.int32)
    told = made.generate(Prompts(tokens[:, :1], np.ones(1, np.int32), 1), [0, 1])
    np.testing.assert_array_equal(told[:, 0, 0], made.predict(tokens)[:2, 0, 0])
    full = made.generate(Prompts(tokens, np.array([MASKED_LENGTH], np.int32), 1), [0, 1])
    np.testing.assert_array_equal(full[:, 0, 0], made.predict(tokens)[:2, 0, -1])
    none = Prompts(tokens[:0], np.zeros(0, np.int32), 3)
    assert made.generate(none, [0]).shape == (1, 0, 3)


def test_ties_go_to_the_smaller_token(engine: str) -> None:
    specs = specs_of("masked", "usual")
    made, state = ready(engine, specs), random_state(specs)
    for name in ("head.weight", "head.bias"):
        state.params[name][:] = 0
    state.params["head.bias"][0, [7, 5]] = 1
    made.load(state)
    told = made.generate(prompts_for(specs[0], 3), [0, 1])
    assert (told[0] == 5).all()
    assert (told[1] == 0).all()


T = MASKED_LENGTH
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no_grid": ({"tokens": np.ones(4, np.int32)}, r"prompts have shape \(4,\); \[N, P\] is needed"),
    "numbers": ({"tokens": np.ones((2, 4))}, "prompts are float64; whole numbers are needed"),
    "unknown": (
        {"tokens": np.array([[1, 99, 0, 0], [1, 2, 0, 0]])},
        r"prompts reach from 0 to 99; they must be in 0\.\.31",
    ),
    "lengths": ({"lengths": np.ones(3, np.int32)}, r"shape \(3,\) for 2 prompts; \(2,\) is needed"),
    "nothing": ({"lengths": np.array([0, 2])}, r"reach from 0 to 2; they must be in 1\.\.4"),
    "beyond": ({"lengths": np.array([1, 5])}, r"reach from 1 to 5; they must be in 1\.\.4"),
    "halves": ({"lengths": np.array([1.0, 2.0])}, "are float64; whole numbers are needed"),
    "no_new": ({"max_new": 0}, r"max_new is 0; it must be a whole number in 1\.\."),
    "half_new": ({"max_new": 1.5}, r"max_new is 1\.5; it must be a whole number"),
    "odd_end": ({"end": 32}, r"end is 32; it must be a whole number in -1\.\.31"),
    "long": (
        {"max_new": T},
        rf"a prompt of 2 tokens and {T} after it take {T + 1} positions; this model has {T}",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_prompts_that_no_network_goes_on_from(engine: str, name: str) -> None:
    changed, sentence = WRONG[name]
    good = Prompts(np.ones((2, 4), np.int32), np.full(2, 2, np.int32), 3)
    made = ready(engine, specs_of("masked", "usual"))
    with pytest.raises(UsageError, match=sentence):
        made.generate(dataclasses.replace(good, **changed), [0])
    assert made.generate(good, [0]).shape == (1, 2, 3)


def test_members_that_are_not_there(engine: str) -> None:
    made, specs = ready(engine, specs_of("masked", "usual")), specs_of("masked", "usual")
    with pytest.raises(UsageError, match=r"it must be in 0\.\.2"):
        made.generate(prompts_for(specs[0], 2), [3])


@pytest.mark.edge(
    "decoding with a network that sees what follows", "refused: model.causal is false"
)
def test_networks_that_see_what_follows(engine: str) -> None:
    made = ready(engine, group("not_causal"))
    with pytest.raises(UsageError, match=r"model\.causal is false: this network sees what follows"):
        made.generate(Prompts(np.ones((1, 2), np.int32), np.full(1, 2, np.int32), 1), [0])


def test_networks_of_vectors(engine: str) -> None:
    config = Config(task={"name": "fuzzy", "samples": 5}, model={"d_model": 8})  # type: ignore[arg-type]
    made = start(engine, member_specs(config)[:1])
    with pytest.raises(UsageError, match="this network reads vectors; networks of tokens go on"):
        made.generate(Prompts(np.ones((1, 2), np.int32), np.full(1, 2, np.int32), 1), [0])


def _row(state: Any, row: int) -> Any:
    parts = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    chosen = {
        name: {n: v[row : row + 1] for n, v in part.items()}
        if isinstance(part, dict)
        else part[row : row + 1]
        for name, part in parts.items()
    }
    return type(state)(**chosen)
