"""Files from somebody who means harm: JSON of any shape, and checkpoints with a valid seal."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from small_runs import interrupted_at, small_config

from compfast.config import Config
from compfast.ensembles.grid import member_count
from compfast.ensembles.groups import member_groups
from compfast.runs import checkpoints
from compfast.storage import durable, tensorfile

SWEEP: Any = (("init.gamma", (0.4, 0.8)), ("seed", (5, 6)))
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 10**18, 10**400, 0.5, -1e308, 1e308)
TEXTS = ("", "none", "../../x", "/etc/passwd", "<script>", "=1+1", "\x1b[2J", "\ud800", "²", "$\\")

scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.sampled_from(TEXTS)
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def stopped_run(path: Path) -> Path:
    """A run of four members with a checkpoint, to be copied and spoilt."""
    interrupted_at(path, small_config(sweep=SWEEP, steps=20, run={"checkpoint_every": 8}), 15)
    return path


@st.composite
def changed(draw: Any, document: Any) -> Any:
    """The document with one or two of its places removed or replaced by anything."""
    result = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        node, places = result, []
        while isinstance(node, dict | list) and node:
            keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
            key = draw(st.sampled_from(keys))
            places.append((node, key))
            node = node[key]
            if draw(st.integers(0, 3)) == 0:
                break
        if not places:
            return draw(values)
        parent, key = places[-1]
        if draw(st.integers(0, 4)) == 0:
            del parent[key]
        else:
            parent[key] = draw(values)
    return result


def as_json(value: Any) -> bytes:
    """JSON as a careless writer makes it, with NaN and infinities."""
    return json.dumps(value).encode()


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Put another file into a checkpoint and seal it again, as anybody can."""
    (folder / name).write_bytes(content)
    manifest = durable.read_json(folder / "manifest.json")
    digest = durable.digest_of(folder / name)
    manifest["files"][name] = {"sha256": digest.sha256, "bytes": digest.bytes}
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Any) -> None:
    """Write a manifest with the seal that belongs to it, where it can have one."""
    if isinstance(manifest, dict):
        manifest.pop("seal", None)
        with suppress(ValueError):  # NaN
            manifest["seal"] = checkpoints._seal(manifest)
    (folder / "manifest.json").write_bytes(as_json(manifest))


def change_array(
    folder: Path, name: str, array: str, change: Callable[[np.ndarray[Any, Any]], None]
) -> None:
    """Change one array of a checkpoint's file in place."""
    arrays = tensorfile.read(folder / name)
    change(arrays[array])
    rewrite(folder, name, b"".join(bytes(c) for c in tensorfile.chunks(arrays)))


class Unmeasured:
    """A plan whose members are made, where they are few, and not timed."""

    def __init__(self, config: Config) -> None:
        if member_count(config) <= 64:
            member_groups(config)

    def line(self, left: float) -> str:
        return "plan"


def examples(quick: int) -> settings:
    """The same few examples each time; test_*_long draws others, and more."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=quick,
        deadline=None,
        derandomize=quick < 1000,
        database=None,
        suppress_health_check=checks,
    )
