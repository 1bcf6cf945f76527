"""Every fault that a run is promised to survive, and a table of what was tried and lost.

    python tests/faults.py [--share 0.1] [--only NAME]

A fault is a function (empty folder, random) that lets something happen to a run and then has it
resumed; it fails where a bit differs from the run that was never disturbed, or where what the
user is told is not one sentence. `Missed`: the fault came too late, this try does not count.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import fault_disk
import fault_process
import fault_run
from fault_tools import Missed

Inject = Callable[[Path, Random], None]


@dataclass(frozen=True)
class Fault:
    name: str
    inject: Inject
    tries: int  # in the table
    quick: int  # for every check of a change


@dataclass
class Tally:
    tried: int = 0
    lost: list[str] = field(default_factory=list)


FAULTS = (
    Fault("kill -9 at a random moment", fault_process.kill_at_random, 120, 1),
    Fault("kill -9 inside a checkpoint write", fault_process.kill_in_save, 120, 2),
    Fault("SIGINT twice", fault_process.interrupt_twice, 40, 1),
    Fault("second process on the run folder", fault_process.second_process, 10, 1),
    Fault("address space runs out", fault_process.out_of_memory, 60, 1),
    Fault("power loss: only what was synced", fault_disk.power_loss_strict, 400, 12),
    Fault("power loss: any part of the rest", fault_disk.power_loss_any, 800, 12),
    Fault("power loss while resuming", fault_disk.power_loss_resuming, 400, 8),
    Fault("file torn, cut, flipped, missing", fault_disk.damaged_file, 400, 20),
    Fault("disk full or failing from a write on", fault_disk.full_disk, 300, 8),
    Fault("folder turns read-only", fault_disk.read_only, 20, 2),
    Fault("clock jumps backwards", fault_run.clock_backwards, 20, 2),
    Fault("member not finite at step k", fault_run.diverging_member, 60, 4),
    Fault("exception in a callback", fault_run.failing_callback, 60, 4),
)


def attempt(fault: Fault, tries: int, seed: int = 0) -> Tally:
    """Inject a fault `tries` times, each in a folder of its own."""
    tally, start = Tally(), 0
    while tally.tried < tries:
        assert start < 20 * tries + 20, f"{fault.name} hardly ever comes in time"
        folder = Path(tempfile.mkdtemp(prefix="compfast-fault-"))
        folder.chmod(0o755)  # the read-only fault gives up root's rights
        try:
            fault.inject(folder, Random(f"{seed} {fault.name} {start}"))
        except Missed:
            continue
        except Exception as error:
            tally.lost.append(f"try {start}: {type(error).__name__}: {error}")
        finally:
            start += 1
            shutil.rmtree(folder)
        tally.tried += 1
    return tally


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--share", type=float, default=1.0, help="of the tries of each fault")
    flags.add_argument("--only", default="", help="faults whose name holds this text")
    flags.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = flags.parse_args()
    print(f"seed {given.seed}\n\n| fault | tried | lost | seconds |\n|---|---|---|---|", flush=True)
    lost = 0
    for fault in FAULTS:
        if given.only not in fault.name:
            continue
        begin = time.monotonic()
        tally = attempt(fault, max(1, round(given.share * fault.tries)), given.seed)
        seconds = time.monotonic() - begin
        row = f"| {fault.name} | {tally.tried} | {len(tally.lost)} | {seconds:.0f} |"
        print(row, flush=True)
        for sentence in tally.lost:
            print(f"  {fault.name}: {sentence}", file=sys.stderr)
        lost += len(tally.lost)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
