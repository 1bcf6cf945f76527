"""One process that trains some members with one peer, told what to do line by line.

Run by `benchmarks.fleet` as `python -m benchmarks.worker '<json>'` with its thread variables
set. Each command is one JSON line on stdin, each answer one JSON line on stdout.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any, TextIO

FALL_BACK = "performance drop"  # in the text of vmap's warning that an op is looped over
_OP = re.compile(r"aten::\w+")


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker trains: members first .. first + members - 1 of the problem."""

    peer: str
    variant: str
    d: int
    batch_size: int
    first: int
    members: int
    threads: int
    cpus: tuple[int, ...]


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    os.sched_setaffinity(0, job.cpus)
    # Libraries may print: their stdout becomes stderr, ours stays clean.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _serve(job, answers, caught)


def _serve(job: Job, answers: TextIO, caught: list[warnings.WarningMessage]) -> None:
    from benchmarks.peers import PEERS, make_peer
    from benchmarks.problem import make_problem

    if "torch" in PEERS[job.peer].packages:
        import torch

        torch.set_num_threads(job.threads)
    problem = make_problem(job.d, job.members, batch_size=job.batch_size, first=job.first)
    peer = make_peer(job.peer, problem, job.variant)
    for line in sys.stdin:
        command, count = json.loads(line)
        answer: dict[str, Any] = {}
        if command == "losses":
            answer["losses"] = peer.losses(count).tolist()
        elif command == "train":
            # The monotonic clock is one for all processes of a machine.
            answer["start"] = time.monotonic()
            peer.train(count)
            answer["end"] = time.monotonic()
        elif command == "describe":
            texts = [str(w.message) for w in caught]
            looped = {op for text in texts if FALL_BACK in text for op in _OP.findall(text)}
            answer["fall_backs"] = sorted(looped)
            answer["matmul"] = peer.matmul()
        elif command == "matmul_rate":
            answer["rate"] = peer.matmul_rate()
        answers.write(json.dumps(answer) + "\n")


def encode(job: Job) -> str:
    return json.dumps(asdict(job))


if __name__ == "__main__":
    main()
