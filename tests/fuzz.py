"""Coverage-guided fuzzing of whatever reads files or flags, with atheris.

    python tests/fuzz.py TARGET [-runs=N] [-max_total_time=SECONDS] [other flags of libFuzzer]

TARGET is tensors, manifest, config, table, toml, flags or written. Anything but a CompfastError
ends it with a traceback and the bytes that made it. Needs `pip install -e '.[fuzz]'`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["compfast"]):
    import hostile
    from small_runs import interrupted_at, small_config

    import compfast
    from compfast import ensemble
    from compfast.cli.written import parse_set
    from compfast.config import Kinds
    from compfast.config.settings import from_dict, load_toml
    from compfast.report.page import page
    from compfast.runs import checkpoints, tables
    from compfast.runs.layouts import run_layouts
    from compfast.storage import durable, tensorfile

Target = Callable[[bytes], None]
MOST_ROWS = 100
# Pieces that blind mutation hardly ever puts together.
WORDS = ("data_offsets", "dtype", "shape", "F32", "I64", "sha256", "bytes", "files", "metrics")


def _tensors(scratch: Path, run: Path) -> tuple[Target, list[bytes]]:
    file = scratch / "a.safetensors"

    def target(data: bytes) -> None:
        file.write_bytes(data)
        for read in (tensorfile.read, lambda path: tensorfile.read_row(path, 1)):
            with contextlib.suppress(compfast.StorageError):
                assert sum(array.nbytes for array in read(file).values()) <= len(data)

    newest = checkpoints.numbered(run / "checkpoints")[-1]
    return target, [path.read_bytes() for path in newest.rglob("*.safetensors")]


def _manifest(scratch: Path, run: Path) -> tuple[Target, list[bytes]]:
    """Sealed again where it is an object, as anybody can do."""
    newest = checkpoints.numbered(run / "checkpoints")[-1]
    layouts = run_layouts(compfast.load(run).groups)

    def target(data: bytes) -> None:
        (newest / "manifest.json").write_bytes(data)
        with contextlib.suppress(ValueError, RecursionError):
            hostile.write_manifest(newest, json.loads(data))
        with contextlib.suppress(compfast.StorageError):
            checkpoints.verify(newest, layouts, run)

    return target, [(newest / "manifest.json").read_bytes()]


def _config(scratch: Path, run: Path) -> tuple[Target, list[bytes]]:
    def target(data: bytes) -> None:
        (run / "config.json").write_bytes(data)
        with contextlib.suppress(compfast.CompfastError):
            loaded = compfast.load(run)
            assert loaded.members.height == 3
            assert loaded.metrics.height
            assert loaded.params(0)
            page(loaded, b"")

    return target, [(run / "config.json").read_bytes()]


def _table(scratch: Path, run: Path) -> tuple[Target, list[bytes]]:
    file = scratch / "a.parquet"

    def target(data: bytes) -> None:
        file.write_bytes(data)
        with contextlib.suppress(compfast.StorageError):
            assert len(tables.read_parquet(file, MOST_ROWS)) <= MOST_ROWS

    return target, [path.read_bytes() for path in run.rglob("*.parquet")]


def _toml(scratch: Path, run: Path) -> tuple[Target, list[bytes]]:
    file = scratch / "a.toml"

    def target(data: bytes) -> None:
        file.write_bytes(data)
        with contextlib.suppress(compfast.UsageError):
            from_dict(load_toml(file))

    seed = b'[model]\nlayers = 2\n[training]\nprecision = "bf16"\n[sweep]\n"seed" = [0, 1]\n'
    return target, [seed]


def _flags(scratch: Path, run: Path) -> tuple[Target, list[bytes]]:
    """--dry-run of lines, one argument each."""

    ensemble.plan = hostile.Unmeasured  # type: ignore[assignment, attr-defined]

    def target(data: bytes) -> None:
        argv = data.decode(errors="surrogateescape").split("\n")
        if any(word.startswith("-h") or "--help".startswith(word) for word in argv):
            return
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = ensemble.main([*argv, "--dry-run"])
        assert code in (0, 2, 4), code
        assert said.getvalue().count("\n") == (code != 0), said.getvalue()

    lines = (
        ("--models=4", "--gamma-range=0.1:1.5"),
        ("--models=8", "--gamma-range=0.1:0.9", "--seeds=2", "--set=model.layers=2", "--lr=1,2"),
        ("--models=8", "--gamma-range=0.1:0.9", "--shard=1/2", "--snapshots=log:3"),
        (
            *("--models=4", "--gamma-range=0.1:0.9", "--batch-size=128"),
            *("--set=task.data=fixed", "--set=task.fixed_total=150"),
        ),
    )
    return target, ["\n".join(line).encode() for line in lines]


def _written(scratch: Path, run: Path) -> tuple[Target, list[bytes]]:
    """--set of anything, then the configuration that it makes."""

    def target(data: bytes) -> None:
        with contextlib.suppress(compfast.UsageError):
            path, value, many = parse_set(data.decode(errors="surrogateescape"), Kinds())
            section, _, name = path.partition(".")
            from_dict({"sweep": {path: value}} if many else {section: {name: value}})

    texts = ("optimizer.lr=1e-3,.01", "model.layers=2-6", "model.causal=False", "run.shard=0,2")
    lists = ("task.unseen=[[4, 3]]", "task.anchors=1,2", "model.d_k=none", "init.gamma=.1:1:9")
    return target, [text.encode() for text in (*texts, *lists)]


TARGETS = {
    "tensors": _tensors,
    "manifest": _manifest,
    "config": _config,
    "table": _table,
    "toml": _toml,
    "flags": _flags,
    "written": _written,
}


def fuzz(base: Path, name: str, flags: list[str]) -> None:
    """Runs until libFuzzer ends this process."""
    durable.sync = lambda descriptor: None  # no disk is to fail here
    interrupted_at(base / "run", small_config(), 20)
    (base / "scratch").mkdir()
    (base / "corpus").mkdir()
    target, seeds = TARGETS[name](base / "scratch", base / "run")
    for i, seed in enumerate(seeds):
        (base / "corpus" / f"{i}").write_bytes(seed)
    (base / "words").write_text("".join(f'"{word}"\n' for word in WORDS))
    own = [str(base / "corpus"), f"-dict={base / 'words'}", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *own, *flags], target)
    atheris.Fuzz()


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1].partition(":")[0] not in TARGETS:
        print(f"give a target: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    name, _, folder = sys.argv[1].partition(":")
    if folder:
        fuzz(Path(folder), name, sys.argv[2:])
    # libFuzzer leaves without cleaning up: a process of its own, whose folder we remove.
    with tempfile.TemporaryDirectory(prefix="compfast-fuzz-") as base:
        command = [sys.executable, sys.argv[0], f"{name}:{base}", *sys.argv[2:]]
        return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main())
