"""`python -m compfast.doctor`: what was built, what this machine can run, what is missing.

Exit code 0 when the main job can run here, else 1. Imports neither torch nor matplotlib.
With --roofline: how fast one network could be trained here, how fast it is, and where its time
goes. Exit code 2 for wrong usage, 3 after a signal.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util

from compfast.cli.flags import FIELD_FLAGS, HELP, LIST_FLAGS, Parser
from compfast.cli.outcome import outcome
from compfast.cli.output import Output, occupy_descriptors
from compfast.errors import UsageError

_PACKAGES = (
    "compfast", "numpy", "torch", "triton", "polars", "safetensors", "matplotlib", "rich",
)  # fmt: skip
_OLDEST = (3, 10)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem in one sentence; `fatal` ones keep the main job from running."""

    sentence: str
    fatal: bool


# Flags that say which network --roofline is about; the rest have no part in its speed.
_NETWORK = (
    *("--task", "--seq-len", "--layers", "--d-model", "--d-ff", "--heads", "--batch-size"),
    *("--precision", "--threads"),
)


def main(arguments: Sequence[str] = (), prog: str = "python -m compfast.doctor") -> int:
    """Print the findings, or the roofline; returns the exit code."""

    def body() -> int:
        given = _parse(arguments, prog)
        if not given.roofline:
            return _examine()
        from compfast.engines import resolve_engine

        resolve_engine("native")
        from compfast.cli.roofline import report

        report(given)
        return 0

    return outcome(body)


def parser(prog: str) -> Parser:
    flags = Parser(
        prog=prog,
        description="Say what was built and what this machine can run.",
        epilog="Exit codes: 0 the main job can run, 1 it cannot, 2 wrong usage, 3 stopped.",
        allow_abbrev=False,
    )
    flags.add_argument(
        "--roofline", action="store_true", help="peak, floor, time and profile of one network"
    )
    network = flags.add_argument_group("the network of --roofline")
    network.add_argument("--ops", action="store_true", help="the profile op by op")
    network.add_argument("--preset", metavar="NAME", help="tiny (default), replica or paper")
    for flag in _NETWORK:
        network.add_argument(flag, metavar="X", help=HELP[flag])
    network.add_argument("--config", metavar="FILE", help="settings as TOML")
    network.add_argument(
        "--set", metavar="SECTION.FIELD=VALUE", action="append", default=[], help="any setting"
    )
    for flag in (*FIELD_FLAGS, *LIST_FLAGS):
        if flag not in _NETWORK:
            flags.set_defaults(**{flag[2:].replace("-", "_"): None})
    flags.set_defaults(variant=None, shard=None, sample=None, start_from=None, quiet=False)
    return flags


def _parse(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Raises UsageError for what is not known, and for a network without --roofline."""
    given = parser(prog).parse_args(arguments)
    if not given.roofline:
        for name, value in vars(given).items():
            if value:
                raise UsageError(f"--{name.replace('_', '-')} needs --roofline")
    return given


def _examine() -> int:
    problems: list[Finding] = []
    output = Output()
    for title, lines in (
        ("machine", machine()),
        ("packages", packages(problems)),
        ("native extension", extension(problems)),
        ("engines", engines(problems)),
    ):
        output.say(title)
        for line in lines:
            output.say(f"  {line}")
    output.say("problems" if problems else "no problems")
    for problem in problems:
        output.say(f"  {problem.sentence}")
    ready = not any(problem.fatal for problem in problems)
    output.say("the main job can run" if ready else "the main job cannot run")
    return 0 if ready else 1


def machine() -> list[str]:
    """System, processor, cores, memory and CUDA devices."""
    from compfast.engines import cuda_devices
    from compfast.engines.cores import usable_cores
    from compfast.engines.processor import processor

    model, features = processor()
    devices, cores = cuda_devices(), usable_cores()
    return [
        f"system: {platform.system()} {platform.release()} {platform.machine()}",
        f"processor: {model}, {cores.count} of {os.cpu_count()} cores usable ({cores.decided})",
        f"features: {' '.join(features) or 'unknown'}",
        f"memory: {memory()}",
        f"CUDA devices: {devices or 'none'}",
    ]


def packages(problems: list[Finding]) -> list[str]:
    """Versions as installed, without importing anything."""
    lines = [f"python {platform.python_version()}"]
    if sys.version_info < _OLDEST:
        sentence = f"Python {platform.python_version()} is too old; compfast needs 3.10 or newer"
        problems.append(Finding(sentence, True))
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            present = util.find_spec(name) is not None
            lines.append(f"{name} {'without metadata' if present else 'missing'}")
            if not present and name != "triton":
                problems.append(_missing(name))
    return lines


def extension(problems: list[Finding]) -> list[str]:
    """What was compiled, and which instruction set would be used."""
    try:
        from compfast import _native
    except ImportError as error:
        problems.append(
            Finding(
                f"the native extension cannot be loaded ({error}): run pip install -e . with a"
                " C++17 compiler, or use --engine eager",
                True,
            )
        )
        return ["not built"]
    lines = [
        f"build: {_native.build_info()}",
        f"compiled: {' '.join(_native.compiled_isas())}",
        f"this machine runs: {' '.join(_native.supported_isas()) or 'none of them'}",
    ]
    forced = os.environ.get("COMPFAST_ISA")
    try:
        chosen = _native.selected_isa()
    except (ValueError, RuntimeError) as error:
        problems.append(Finding(str(error), True))
        return [*lines, "chosen: none"]
    return [*lines, f"chosen: {chosen}" + (f" (COMPFAST_ISA={forced})" if forced else "")]


def engines(problems: list[Finding]) -> list[str]:
    """Which engine `auto` takes here, and whether the others can be asked for."""
    from compfast.engines import resolve_engine

    lines = []
    for name in ("auto", "native", "eager", "triton", "cuda"):
        try:
            found = resolve_engine(name)
        except UsageError as error:
            lines.append(f"{name}: no, {error}")
            if name == "auto" and not any(problem.fatal for problem in problems):
                problems.append(Finding(str(error), True))
        else:
            lines.append(f"auto: takes {found}" if name == "auto" else f"{name}: yes")
    return lines


def memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE")
        total, free = (size * os.sysconf(f"SC_{n}PHYS_PAGES") for n in ("", "AV"))
    except (OSError, ValueError):
        return "unknown"
    return f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free"


def _missing(name: str) -> Finding:
    if name == "compfast":
        return Finding("compfast is not installed, only found: run pip install -e .", False)
    if name == "torch":
        return Finding(
            "torch is missing: the native engine trains without it, but --engine eager and"
            " Run.model need it (pip install torch)",
            False,
        )
    return Finding(f"{name} is missing: run pip install {name}", True)


if __name__ == "__main__":
    occupy_descriptors()
    sys.exit(main(sys.argv[1:]))
