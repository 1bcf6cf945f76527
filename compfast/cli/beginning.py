"""What a run starts from, in one line: the parent, how its members stand, and who trained them."""

from __future__ import annotations

import numpy as np

from compfast.cluster.part import here
from compfast.config import Config
from compfast.engines.base import DIVERGED, FROZEN
from compfast.ensembles.groups import member_groups
from compfast.runs.parents import find
from compfast.training.inherited import Inheritance


def start_line(config: Config) -> str:
    """Of a resolved config that starts from another run."""
    parent = find(config.start)
    start = Inheritance(parent, config)
    status = np.concatenate([start.standing(specs)[1] for specs in member_groups(config)])
    if start.restart:
        parts = [f"starts at step 0 with the weights of {parent} and zero moments"]
    elif parent.snapshot:
        parts = [f"starts from {parent}, a snapshot: weights only, so that moments begin at zero"]
    else:
        parts = [f"starts from {parent}: weights and moments"]
    for word, code in (("frozen", FROZEN), ("diverged", DIVERGED)):
        count = int((status == code).sum())
        if count:
            parts.append(f"{count} {word} member{'s stay' if count > 1 else ' stays'} so")
    before, own = parent.run.info, here(config)
    if before["engine"] != own.engine or (own.engine == "native" and before["isa"] != own.isa):
        parts.append(
            f"trained until there by the {before['engine']} engine ({before['isa']}), whose bits"
            " are others than this one's"
        )
    return "; ".join(parts)
