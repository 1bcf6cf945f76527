"""The bindings refuse what would lead a kernel astray; nothing given to them ends the process.

What could end it runs in a process of its own. tests/cpp/fuzzed_bindings.py tries far more, under
sanitizers.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_calls import attempt, changed
from command_lines import RANGE, refused
from ensembles import group, start

import compfast
from compfast import _native, doctor
from compfast.config import Config, TrainingConfig
from compfast.engines import make_engine
from compfast.ensembles import room
from compfast.ensembles.grid import member_specs
from compfast.ensembles.schedule import make_tables
from compfast.errors import OutOfMemory, UsageError
from compfast.tasks import make_task
from compfast.tasks.anchor import AnchorConfig

pytestmark = pytest.mark.usefixtures("native_extension")

HERE = Path(__file__).parent
SMALL_SET = ("--set", "task.data=fixed", "--set", "task.fixed_total=1000", "--batch-size", "2048")
SMALLER = "training.batch_size is 2048; the drawn set has 840 sequences"
EDGE = pytest.mark.edge(
    "a drawn set smaller than a batch", "one sentence, exit code 2, before a folder is made"
)
HUGE_EDGE = pytest.mark.edge("a network that no memory holds", "one sentence, exit code 2")


@EDGE
@pytest.mark.parametrize("engine", ["native", "eager"])
@pytest.mark.parametrize(
    "more", [(), ("--dry-run",), ("--quiet",), ("--quiet", "--cluster", "ray")]
)
def test_a_drawn_set_smaller_than_a_batch(
    engine: str,
    more: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nowhere:
        def __init__(self, address: str | None) -> None: ...
        def __enter__(self) -> Nowhere:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("compfast.ensemble.RayCluster", Nowhere)
    out = tmp_path / "run"
    said = refused(capsys, *RANGE, *SMALL_SET, "--engine", engine, "--out", str(out), *more)
    assert SMALLER in said
    assert not list(tmp_path.iterdir())


@EDGE
def test_a_swept_batch_larger_than_the_drawn_set(capsys: pytest.CaptureFixture[str]) -> None:
    line = (*RANGE, "--models", "8", *SMALL_SET[:4], "--set", "training.batch_size=[8,2048]")
    said = refused(capsys, *line)
    assert SMALLER in said


@EDGE
def test_the_roofline_of_a_drawn_set_smaller_than_a_batch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.main(["--roofline", *SMALL_SET]) == 2
    assert SMALLER in capsys.readouterr().err


@EDGE
def test_train_and_engines_refuse_such_a_set(engine: str, tmp_path: Path) -> None:
    config = Config(
        task=AnchorConfig(data="fixed", fixed_total=1000),
        training=TrainingConfig(batch_size=2048),
    )
    with pytest.raises(UsageError, match=SMALLER):
        compfast.train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    specs = group("one_layer")  # made by hand, past the grid
    odd = [dataclasses.replace(spec, task=config.task, training=config.training) for spec in specs]
    with pytest.raises(UsageError, match=SMALLER):
        make_engine(engine, odd, make_tables(odd))


def test_a_batch_of_more_words_than_a_stream_has() -> None:
    task = make_task(AnchorConfig(seq_len=10_000, item_high=24, key_modulus=23))
    task.check_batch(2**20)
    with pytest.raises(UsageError, match="must be at most 1717299"):
        task.check_batch(2**21)


@HUGE_EDGE
@pytest.mark.parametrize("engine", ["native", "eager"])
@pytest.mark.parametrize(
    "settings",
    [
        ("model.d_model=16777216", "model.heads=1"),
        ("model.d_ff=16777216", "model.d_model=16777216"),
        ("model.layers=1024", "model.d_model=65536"),
        ("model.heads=16777216", "model.d_k=16777216", "model.d_v=1"),
        ("training.steps=2147483647",),
    ],
)
def test_what_no_memory_holds_is_one_sentence(
    engine: str, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(room, "memory_limit", lambda: 2**36)
    sets = [word for setting in settings for word in ("--set", setting)]
    said = refused(capsys, *RANGE, *sets, "--engine", engine, "--dry-run")
    assert "out of memory" in said or "it must be" in said or "at most" in said


def test_workers_of_which_memory_holds_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = group("one_layer", (("seed", tuple(range(8))),))
    whole: Any = start("native", specs, threads=8)
    members = 12 * len(specs) * whole.plan.flat.size
    monkeypatch.setattr(room, "memory_limit", lambda: members + 3 * whole.plan.worker_bytes)
    assert start("native", specs, threads=8)._workers == 2
    monkeypatch.setattr(room, "memory_limit", lambda: members + whole.plan.worker_bytes - 1)
    with pytest.raises(OutOfMemory):
        start("native", specs, threads=8)


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = room.memory_limit()
    assert whole is not None
    paths = [tmp_path / "none", tmp_path / "max", tmp_path / "few"]
    paths[1].write_text("max\n")
    paths[2].write_text("4096\n")
    monkeypatch.setattr(room, "_LIMITS", tuple(map(str, paths)))
    assert room.memory_limit() == 4096
    assert not room.has_room(4097)
    assert room.has_room(4096)


def test_tokens_targets_and_members_that_are_not_there(engine: str) -> None:
    made = start(engine, group("one_layer"))
    tokens = np.ones((2, 5), np.int32)
    for wrong, sentence in (
        (tokens + 111, "tokens reach from 112 to 112; they must be in 0..111"),
        (-tokens, "tokens reach from -1"),
        (tokens[:, :4], r"tokens have shape \(2, 4\); \[N, 5\] is needed"),
        (tokens + 0.5, "tokens are float64; whole numbers are needed"),
    ):
        for call in (made.predict, lambda t: made.outputs(t, [0])):
            with pytest.raises(UsageError, match=sentence):
                call(wrong)
        with pytest.raises(UsageError, match=sentence):
            made.gradients(wrong, np.array([1, 2]))
    for targets, sentence in (
        ([1, 112], "targets reach from 1 to 112"),
        ([1], r"targets have shape \(1,\) for 2 sequences"),
    ):
        with pytest.raises(UsageError, match=sentence):
            made.gradients(tokens, np.array(targets))
    for rows in ([3], [0, -1]):
        with pytest.raises(UsageError, match="member is"):
            made.outputs(tokens, rows)
    with pytest.raises(UsageError, match="cannot advance to step -1"):
        made.advance(-1)


PLAN = "group.plan."
BAD_GROUPS: list[tuple[str, Any, str]] = [
    (PLAN + "microbatch", 0, "microbatch is 0; it must be in 1..3"),
    (PLAN + "batch", 0, "batch is 0"),
    (PLAN + "flat_size", 8, "flat_size is 8"),
    (PLAN + "workspace_size", 100, "op 0 of the plan: the output takes"),
    (PLAN + "workspace_size", 2**44, "bad_alloc"),
    (PLAN + "width", 3, "the inputs are vectors"),
    (PLAN + "asked", 2, "rows for the asked positions"),
    (PLAN + "asked", 99, "asked is 99; it must be in"),
    (PLAN + "numbers", 1, "the answers are of its kind"),
    (PLAN + "packed_size", 0, "a packed weight takes"),
    (PLAN + "vocabulary", 2**30, "a parameter takes"),
    (PLAN + "ops.0.kind", 11, "op 0 of the plan: there is no such kind"),
    (PLAN + "ops.0.weight", -1, "a parameter takes .* from -1 on"),
    (PLAN + "ops.0.weight", 2**62, "a parameter takes"),
    (PLAN + "ops.1.saved", 2**40, "what it saves takes"),
    (PLAN + "ops.1.inputs", lambda views: views * 4, "inputs of an op is 4"),
    (PLAN + "ops.1.inputs.0.value", -16, "a value takes"),
    (PLAN + "ops.1.inputs.0.rows", 2, "rows for the asked positions or all"),
    (PLAN + "ops.1.inputs.0.ld", 16, "too narrow"),
    (PLAN + "ops.1.inputs.0.mode", 4, "no such mode"),
    (PLAN + "ops.1.inputs.0.mode", 3, "a gradient has a place, or there is none"),
    (PLAN + "ops.2.d_in", 2**31, "d_in is a int that is not a value of its type"),
    (PLAN + "ops.2.d_in", 1.5, "d_in is a float"),
    (PLAN + "ops", lambda ops: ops[:-1], "the loss must be the last"),
    (PLAN + "segments", [(0, 8, 0)], "multiple of 16"),
    (PLAN + "segments", [(0, 2**40, 0)], "a segment's length"),
    (PLAN + "segments", [(0, 16, 7)], r"a segment's decay is 7; it must be in 0\.\.6"),
    (PLAN + "segments", [(0, 16, -1)], "a segment's decay is -1"),
    ("group.threads", 0, "threads is 0"),
    ("group.threads", 2**31 - 1, "bad_alloc"),
    ("group.stream.group_size", 0.5, "group_size is a float"),
    ("group.stream.group_size", -1, "group_size is -1"),
    ("group.stream.words", 12, "words is 12; it must be in 13"),
    ("group.stream.seq_len", 9, "a key's position is 8|seq_len is 9"),
    ("group.stream.item_count", 0, "item_count is 0"),
    ("group.stream.item_low", 100, "an item is"),
    ("group.stream.pairs", lambda pairs: pairs[:0], "pairs of the stream is 0"),
    ("group.stream.pairs", lambda pairs: pairs[:, :2], r"pairs has shape \[15, 2\]"),
    ("group.stream.pairs", lambda pairs: pairs + 1000, "an anchor is"),
    ("group.stream.combos", lambda combos: combos * 10, "a key"),
    ("group.tables.offset", lambda table: table[:-1], r"offset has shape \[2\]; \[3\]"),
    ("group.tables.decay", lambda table: table[1:], r"decay has shape \[2\]; \[3\]"),
    ("group.tables.decay", lambda table: table > 0, "decay is no contiguous array"),
    ("group.tables.kind", 2, r"kind of the optimizer is 2; it must be in 0\.\.1"),
    ("group.tables.kind", "sgd", "kind is a str"),
    ("group.tables.nesterov", -1, r"nesterov is -1; it must be in 0\.\.1"),
    ("group.tables.momentum", None, "momentum is a NoneType"),
    ("group.arrays.params", lambda array: array[:, :-1].copy(), "params has shape"),
    ("group.arrays.m", lambda array: array.astype(np.float64), "m is no contiguous array"),
    ("group.arrays.seed", lambda array: array[:1], "seed has shape"),
    ("group.arrays.weight_decay", lambda array: array[:, :6].copy(), "weight_decay has shape"),
    ("group.arrays.step", lambda array: array[:0], "members is 0"),
    ("advance.until", 4, "until is 4; it must be in 0..3"),
    ("advance.base", 3, "base is 3"),
    ("advance.base", 1, "loss has shape"),
    ("advance.grad_norm", lambda array: array[:1], "grad_norm has shape"),
    ("group.arrays.step", np.array([0, -1]), "a member's step is -1"),
    ("gradients.inputs", lambda tokens: tokens + 112, "a token is 113"),
    ("gradients.inputs", lambda tokens: tokens[0], "tokens has shape"),
    ("gradients.targets", lambda targets: targets - 1, "a target is -1"),
    ("gradients.targets", lambda targets: targets[1:], "targets has shape"),
    ("outputs.members", np.array([2]), "a member is 2; it must be in 0..1"),
    ("predict.members", np.array([-1]), "a member is -1"),
    ("profile.member", 2, "member is 2"),
    ("profile.steps", 4, "steps is 4; it must be in 1..3"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), BAD_GROUPS)
def test_a_call_with_one_number_wrong(path: str, value: Any, sentence: str) -> None:
    method = path.partition(".")[0].replace("group", "")
    if "member's step" in sentence:
        method = "advance"
    with pytest.raises((ValueError, TypeError, MemoryError), match=sentence):
        attempt(changed(path, value), method or None)


def test_arrays_that_cannot_be_written(tmp_path: Path) -> None:
    """A page of a file mapped for reading: writing to it would end the process."""
    file = tmp_path / "status"
    file.write_bytes(bytes(2))
    mapped = np.memmap(file, np.uint8, "r")
    with pytest.raises(ValueError, match="status cannot be written"):
        attempt(changed("group.arrays.status", mapped))


def test_the_valid_call_is_done() -> None:
    for method in ("advance", "gradients", "outputs", "predict", "profile"):
        attempt(changed("group.threads", 2), method)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: _native.feistel(1, 0, 0, 0), "n is 0"),
        (lambda: _native.feistel(1, 0, 5, 5), "index is 5; it must be below n = 5"),
        (lambda: _native.feistel(1, 0, 2**63, 2**62 + 1), "it must be in 1..2"),
        (lambda: _native.read_bandwidth(2**45, 4096), "bad_alloc"),
        (lambda: _native.read_bandwidth(-1, 1), "bytes is -1"),
        (lambda: _native.fma_peak(-1), "threads is -1"),
    ],
)
def test_small_calls(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises((ValueError, MemoryError), match=sentence):
        call()


def test_a_group_at_work_takes_no_second_call() -> None:
    steps = 20_000
    specs = member_specs(Config(training=TrainingConfig(steps=steps)))
    engine: Any = start("native", specs)
    begun = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            engine.advance(steps, tick=lambda done: begun.set())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    assert begun.wait(120)
    with pytest.raises(ValueError, match="at work"):
        engine.predict(np.ones((1, 9), np.int32))
    while worker.is_alive():
        engine.request_stop()
        time.sleep(0.01)
    worker.join()
    assert not errors
    engine.predict(np.ones((1, 9), np.int32))


def test_nothing_ends_the_process() -> None:
    """A few examples of the fuzzer, with the extension as it is used."""
    done = subprocess.run(
        [sys.executable, "tests/cpp/fuzzed_bindings.py", "--examples", "20"],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"^.*: \d+ calls done, \d+ refused$", done.stdout, re.MULTILINE)) == 3
