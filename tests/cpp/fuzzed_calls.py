"""Calls of the engine, of the streams and of the loops, with something in them changed."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

Attempt = Callable[[], object]
Array = np.ndarray[Any, Any]

HUGE = (2**44, 2**46, 2**53, 2**60, 2**62, 2**63 - 1, 2**63, 2**64, 10**30)
WRONG: tuple[Any, ...] = (None, "x", 1.5, float("nan"), True, [], {}, b"1")
# Memory of some GiB is granted, and takes its time: no size near 2^31.
SIZES = ("flat_size", "packed_size", "workspace_size", "microbatch", "batch")
NETWORKS = (
    ("own_head_sizes", "fp32", "fresh"),
    ("own_head_sizes", "bf16", "fixed"),
    ("tied_all_post", "fp32", "fresh"),
    ("long", "bf16", "fresh"),
    ("one_layer_post", "fp32", "fixed"),
    ("one_layer", "fp32", "table"),
    ("one_layer", "fp32", "host"),
    ("one_layer", "fp32", "chain"),
    ("one_layer", "fp32", "masked"),
    ("one_layer", "fp32", "chain_search"),
    ("single_untied", "fp32", "fresh"),
    ("scales_alone", "bf16", "fresh"),
    ("canonical_all", "fp32", "fresh"),
    ("ragged", "fp32", "host"),
    ("ragged", "bf16", "host"),
    ("relative", "fp32", "fresh"),
)


def _sections(network: str, data: Any) -> dict[str, Any]:
    """[task] and [model]: an architecture's, or a network's with biases of distances or whose
    sequences end at their last target."""
    from architectures import sections_of
    from ragged_task import MODEL, RAGGED, RaggedConfig

    from compfast.tasks.scan import ScanConfig

    if network == "ragged":
        return {"task": RaggedConfig(length=18), "model": MODEL | RAGGED["post_relative_tied"]}
    fields = {"data": "fixed" if data == "fixed" else "fresh", "fixed_total": 18}
    sections: dict[str, Any] = sections_of(
        "one_layer" if network == "relative" else network, **fields
    )
    if network == "relative":
        model = {"position": "relative", "value_path": "deep", "heads": 4, "buckets": 3}
        sections["model"] = {**model, "d_model": 20}
    if data == "masked":  # a table with a mask and an order of its rows
        sections["task"] = ScanConfig(grammar="small", held_out="jump")
        sections["model"] = dataclasses.replace(sections["model"], loss_positions="masked")
    return sections


@functools.cache
def valid(network: str, precision: Any, data: Any) -> dict[str, Any]:
    """What the native engine hands to the bindings, and what is asked of the group then."""
    from compfast.config import Config, TrainingConfig
    from compfast.engines import native
    from compfast.engines.decoding import DecodingPlan
    from compfast.ensembles.grid import member_specs
    from compfast.ensembles.schedule import make_tables
    from compfast.tasks import make_task

    config = Config(
        **_sections(network, data),
        training=TrainingConfig(steps=3, batch_size=3, precision=precision),
        sweep=(("seed", (0, 1)),),
    )
    specs = member_specs(config)
    length = make_task(specs[0].task).length
    heard: list[Any] = []

    def group(*arguments: Any) -> Any:
        heard.extend(arguments)
        return SimpleNamespace(isa=lambda: "")

    with mock.patch.object(native, "_native", SimpleNamespace(Group=group)):
        engine = native.NativeEngine(specs, make_tables(specs), threads=2)
    decoding = DecodingPlan(specs[0].model, engine.plan.flat, precision)
    plan, tables, stream, arrays, threads = heard
    asked = make_task(specs[0].task).ports.asked
    targets = np.repeat(np.arange(4, dtype=np.int32)[:, None], asked, axis=1)
    if network == "ragged":
        stream, targets = masked_batches(length), np.full((4, length), -1, np.int32)
        targets[1:, 2::3] = 1
    else:
        stream = other_streams(length).get(data, stream)
    plan = _listed(plan)
    room = np.full((2, 2), np.nan, np.float32)
    return {
        "group": {
            "plan": plan,
            "tables": tables,
            "stream": stream,
            "arrays": arrays,
            "threads": threads,
        },
        "feed": {"stream": copy.deepcopy(stream)},
        "advance": {"until": 2, "base": 0, "loss": room, "grad_norm": room.copy(), "tick": None},
        "gradients": {
            "inputs": np.ones((4, length), np.int32),
            "targets": targets,
        },
        "outputs": {"members": np.array([1, 0]), "inputs": np.ones((4, length), np.int32)},
        "predict": {"members": np.array([1]), "inputs": np.ones((5, length), np.int32)},
        "profile": {"member": 1, "steps": 1},
        "generate": {
            "plan": _listed(decoding.record()),
            "members": np.array([1, 0]),
            "tokens": np.ones((3, 2), np.int32),
            "lengths": np.array([2, 1, 2], np.int32),
            "max_new": length - 2,
            "end": 1,
            "buckets": decoding.buckets(length - 1),
        },
    }


def _listed(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan's segments as lists, which can be changed."""
    return {**plan, "segments": [list(segment) for segment in plan["segments"]]}


def other_streams(length: int) -> dict[str, dict[str, Any]]:
    """A table, chains, and batches of two members at steps 0 to 2, of three sequences each."""
    from compfast.tasks.chain_search import ChainSearchConfig, ChainSearchTask
    from compfast.tasks.markov import MarkovConfig, MarkovTask

    rng = np.random.default_rng(0)
    chain = MarkovTask(MarkovConfig(chain="random", states=3, order=2, seq_len=length))
    even = length % 2 == 0
    search = ChainSearchTask(
        ChainSearchConfig(seq_len=length, chains=1, order=1, named=even, wrong_links=True)
    )
    return {
        "chain": chain.stream(),
        "chain_search": search.stream(),
        "table": {
            "kind": "table",
            "tokens": rng.integers(0, 100, (7, length), dtype=np.int32),
            "targets": rng.integers(0, 100, 7, dtype=np.int32),
            "masked": 0,
            "shuffled": 1,
        },
        "host": {
            "kind": "host",
            "inputs": rng.integers(0, 100, (2, 3, 3, length), dtype=np.int32),
            "targets": rng.integers(0, 100, (2, 3, 3, 1), dtype=np.int32),
            "width": 0,
            "numbers": 0,
            "masked": 0,
            "slots": np.array([1, 0], np.int32),
            "first": 0,
        },
    }


def masked_batches(length: int) -> dict[str, Any]:
    """The same from the host, each position asked for or not."""
    host = other_streams(length)["host"]
    rng = np.random.default_rng(1)
    inputs = rng.integers(0, 20, host["inputs"].shape, dtype=np.int32)
    targets = rng.integers(-20, 20, inputs.shape, dtype=np.int32).clip(-1)
    return {**host, "inputs": inputs, "targets": targets, "masked": 1}


@functools.cache
def vectors() -> list[dict[str, Any]]:
    """Streams of the tasks of vectors."""
    from compfast.tasks.fuzzy import FuzzyConfig, FuzzyTask
    from compfast.tasks.hyperteacher import HyperteacherConfig, HyperteacherTask
    from compfast.tasks.sraven import SravenConfig, SravenTask

    return [
        FuzzyTask(FuzzyConfig(variables=3, samples=5)).stream(),
        SravenTask(SravenConfig(features=2)).stream(),
        HyperteacherTask(HyperteacherConfig(samples=5, dim=3, hidden=4)).stream(),
    ]


def _stream_of(network: str, precision: Any, data: Any) -> dict[str, Any]:
    stream: dict[str, Any] = valid(network, precision, data)["group"]["stream"]
    return stream


def numbers(value: Any, key: object, sizes: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Numbers and other things in the place of a number; `sizes` end the areas of memory."""
    near = (0, -1, 1, value - 1, value + 1, value - 16, value + 16, 2 * value, 7 * value)
    edge = () if key in SIZES else (2**31 - 1, 2**31, 2**32, -(2**31))
    far = st.sampled_from((*edge, *HUGE, -(2**63)))
    ends = [size + rest for size in sizes for rest in (-48, -16, -8, -1, 0, 16)]
    ways = {"near": st.sampled_from(near), "far": far, "wrong": st.sampled_from(WRONG)}
    if isinstance(value, int) and abs(value) > 2 and ends and key not in SIZES:
        ways["end"] = st.sampled_from(ends)
    often = ["near", "end" if "end" in ways else "near", "far"] * 3
    return st.sampled_from([*often, "wrong"]).flatmap(ways.__getitem__)


@st.composite
def arrays(draw: Any, array: Array) -> Any:
    """An array with another value, shape, type or layout, or none at all."""
    kind = draw(st.sampled_from(("value", "value", "shape", "dtype", "layout", "none")))
    if kind == "none":
        return draw(st.sampled_from((None, "x", 3)))
    if kind == "dtype":
        types = ("int8", "int32", "int64", "uint64", "float32", "float64", "bool", "S1", "object")
        chosen = draw(st.sampled_from((*types, array.dtype.newbyteorder().str)))
        with np.errstate(invalid="ignore"):
            return array.astype(chosen)
    if kind == "shape":
        axes = draw(st.sampled_from(("more", "fewer", "longer", "shorter", "empty")))
        if axes == "more":
            return array[None]
        if axes == "fewer":
            return array.reshape(-1) if array.ndim > 1 else array.sum()
        if axes == "empty":
            return array[:0]
        return array[:-1] if axes == "shorter" else np.concatenate((array, array[:1]))
    if kind == "layout":
        layout = draw(st.sampled_from(("fortran", "strided", "locked", "misaligned")))
        if layout == "fortran":
            return np.asfortranarray(array)
        if layout == "strided":
            return np.repeat(array, 2, axis=0)[::2]
        if layout == "misaligned":
            raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
            raw[:] = np.frombuffer(array.tobytes(), np.uint8)
            return raw.view(array.dtype).reshape(array.shape)
        array.flags.writeable = False
        return array
    if array.size:
        values: tuple[Any, ...] = (0, -1, 1, 5, 100, 127, 2**31 - 1, -(2**31), 2**62, -(2**63))
        array = array.copy()
        if array.dtype.kind == "f":
            values = (float("nan"), float("inf"), -1.0, 1e300)
        with np.errstate(over="ignore"):
            array.flat[draw(st.integers(0, array.size - 1))] = np.array(
                draw(st.sampled_from(values))
            ).astype(array.dtype)
    return array


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Where a number, an array or anything else stands: its container and its key there."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        if isinstance(node[key], dict | list):
            yield from places(node[key])
        else:
            yield node, key


def containers(node: Any) -> Iterator[tuple[Any, Any]]:
    """Where a dictionary or a list stands."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        if isinstance(node[key], dict | list):
            yield node, key
            yield from containers(node[key])


@st.composite
def changed(draw: Any, call: Any, plan: bool = False) -> Any:
    """The call with up to three of its places changed or removed; `plan`: mostly in its ops."""
    result = copy.deepcopy(call)
    which = draw(st.sampled_from(("group", "group", "generate"))) if plan else ""
    ops = result[which]["plan"]["ops"] if plan else result
    areas = ("flat_size", "packed_size", "workspace_size")
    sizes = tuple(call[which]["plan"][area] for area in areas) if plan else ()
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 1, 2, 3)))):
        root = ops if draw(st.integers(0, 2)) else result
        if draw(st.integers(0, 30)) == 0:
            found = list(containers(root))
            if not found:
                continue
            node, key = draw(st.sampled_from(found))
            if isinstance(node, dict) and draw(st.booleans()):
                del node[key]
            else:
                node[key] = draw(st.sampled_from((*WRONG, *HUGE)))
            continue
        node, key = draw(st.sampled_from(list(places(root))))
        inner = node[key]
        if isinstance(inner, np.ndarray):
            node[key] = draw(arrays(inner))
        elif isinstance(node, dict) and draw(st.integers(0, 20)) == 0:
            del node[key]
        elif isinstance(inner, int | float):
            node[key] = draw(numbers(inner, key, sizes))
        else:
            node[key] = draw(st.sampled_from((*WRONG, *HUGE)))
    return result


def _group_attempts(call: dict[str, Any]) -> Iterator[Attempt]:
    from compfast import _native

    made: list[Any] = []

    def make() -> None:
        given = call["group"]
        names = ("plan", "tables", "stream", "arrays", "threads")
        made.append(_native.Group(*(given[name] for name in names)))

    yield make
    for name in ("feed", "advance", "gradients", "outputs", "predict", "profile", "generate"):
        if made:
            yield functools.partial(_ask, made[0], call, name)


def _ask(group: Any, call: dict[str, Any], method: str) -> None:
    getattr(group, method)(**call[method])


@st.composite
def groups(draw: Any) -> Iterator[Attempt]:
    """A group is made and everything is asked of it."""
    call = valid(*draw(st.sampled_from(NETWORKS)))
    return _group_attempts(draw(changed(call, plan=True)))


@st.composite
def small_calls(draw: Any) -> Iterator[Attempt]:
    """Batches, permutations, words of streams; loops only where they must be refused."""
    from compfast import _native

    stream = draw(st.sampled_from([*(_stream_of(*network) for network in NETWORKS), *vectors()]))
    calls: dict[str, list[Any]] = {
        "task_batch": [stream, 3, 2, 3, 1],
        "feistel": [3, 2, 30, 37],
        "philox": [[1, 2, 3, 4], 5],
    }
    name = draw(st.sampled_from((*calls, "loops")))
    if name == "loops":
        threads = draw(st.sampled_from((0, -1, -(2**31), 4097, *HUGE, *WRONG[:4])))
        amount = draw(st.sampled_from((0, -1, 15, -(2**63), *HUGE, *WRONG[:4])))
        return iter(
            (
                _refused(lambda: _native.fma_peak(threads)),
                _refused(lambda: _native.bf16_peak(threads)),
                _refused(lambda: _native.read_bandwidth(4096, threads)),
                _refused(lambda: _native.read_bandwidth(amount, 1)),
            )
        )
    arguments = draw(changed(calls[name]))
    return iter((lambda: getattr(_native, name)(*arguments),))


def _refused(attempt: Attempt) -> Attempt:
    def must_not_return() -> None:
        attempt()
        raise AssertionError("what must be refused was done")

    return must_not_return
