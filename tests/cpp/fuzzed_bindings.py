"""The bindings under hostile numbers: valid calls of which something is changed either run or are
refused with a Python error, and AddressSanitizer and UBSan find nothing.

    LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
        python tests/cpp/fuzzed_bindings.py [build/checks/_native*.so] [--examples N]

Without a file it is compfast's own extension, without sanitizers. The same examples each time,
unless there are more than the usual ones. Any finding ends the process.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzzed_calls
import fuzzed_ops
import sanitized_step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REFUSALS = (ValueError, TypeError, KeyError, MemoryError, OverflowError)
EXAMPLES = 300
SECONDS = 1800  # then something hangs

Attempt = Callable[[], object]


def tried(attempts: Iterator[Attempt], counts: collections.Counter[str]) -> None:
    """Runs what `attempts` gives; anything but a return or a refusal is raised."""
    for attempt in attempts:
        try:
            attempt()
        except REFUSALS as error:
            if not str(error):
                raise
            counts["refused"] += 1
        else:
            counts["done"] += 1


def fuzz(attempts: st.SearchStrategy[Iterator[Attempt]], examples: int, same: bool) -> str:
    """Tries so many examples, the `same` as always or others; says how many calls were done and
    how many refused.
    """
    counts: collections.Counter[str] = collections.Counter()
    chosen = settings(
        max_examples=examples,
        derandomize=same,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(attempts)(lambda each: tried(each, counts)))()
    return f"{counts['done']} calls done, {counts['refused']} refused"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("extension", nargs="?", type=Path)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--only", help="the first letters of a kind: groups, streams, single ops")
    given_ = parser.parse_args()
    faulthandler.dump_traceback_later(SECONDS * max(1, given_.examples // EXAMPLES), exit=True)
    if given_.extension is not None:
        sanitized_step.use_extension(str(given_.extension))
    kinds: dict[str, tuple[st.SearchStrategy[Any], int]] = {
        "groups": (fuzzed_calls.groups(), 3),  # most of what can be wrong is in a plan
        "streams and loops": (fuzzed_calls.small_calls(), 5),
        "single ops": (fuzzed_ops.ops(), 1),
    }
    for name, (attempts, share) in kinds.items():
        if not name.startswith(given_.only or ""):
            continue
        same = given_.examples <= EXAMPLES
        print(f"{name}: {fuzz(attempts, share * given_.examples, same)}", flush=True)


if __name__ == "__main__":
    main()
