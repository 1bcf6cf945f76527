"""A Ray cluster of two nodes on this machine, told on standard input what to do to itself.

Prints its address, then for each line (kill-worker, kill-node, add-node, add-generic,
remove-generic) what came of it. Ends, and all its processes with it, when standard input is closed.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def training(cluster: Any) -> list[int]:
    """Processes that train a part just now, on nodes of this cluster only."""
    raylets = {
        info.process.pid
        for node in cluster.list_all_nodes()
        for info in node.all_processes.get("raylet", [])
    }
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            title = (folder / "cmdline").read_text()
        except OSError:
            continue  # it ended while we looked
        if parent in raylets and title.startswith("ray::train_task"):
            found.append(int(folder.name))
    return found


def main() -> None:
    clusters: Any = importlib.import_module("ray.cluster_utils")
    cluster = clusters.Cluster(
        initialize_head=True, head_node_args={**_NODE, "include_dashboard": False}
    )
    other, generic = cluster.add_node(**_NODE), None
    print(cluster.address, flush=True)
    try:
        for line in sys.stdin:
            done = 1
            if line.strip() == "kill-worker":
                pids = training(cluster)
                done = min(len(pids), 1)
                if pids:
                    os.kill(random.choice(pids), signal.SIGKILL)
            elif line.strip() == "kill-node":
                cluster.remove_node(other, allow_graceful=False)
            elif line.strip() == "add-node":
                other = cluster.add_node(**_NODE)
            elif line.strip() == "add-generic":  # as a machine whose instructions differ
                generic = cluster.add_node(**_NODE, env_vars={"COMPFAST_ISA": "generic"})
            else:
                cluster.remove_node(generic)
            print(done, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
