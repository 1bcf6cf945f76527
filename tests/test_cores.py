"""How many threads are started where nobody says: what this process may use, and why so many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import small_config

from compfast.cli.plan import plan
from compfast.engines.cores import Cores, cpu_quota, usable_cores

QUOTA = pytest.mark.edge("a cgroup's CPU quota (v1, v2)", "as many threads as it pays for")
AFFINITY = pytest.mark.edge("`taskset -c 0` on a machine of several cores", "one thread")
SLURM = pytest.mark.edge("SLURM_CPUS_PER_TASK below the number of cores", "as many threads")


@pytest.fixture(autouse=True)
def _eight_free_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


SLICE = "sys/fs/cgroup/system.slice"
V2 = {"proc/self/cgroup": "0::/system.slice/job\n"}
V1 = {"proc/self/cgroup": "9:memory:/m\n4:cpu,cpuacct:/docker/abc\n0::/\n"}
QUOTAS: dict[str, tuple[dict[str, str], float | None]] = {
    "v2": ({**V2, f"{SLICE}/job/cpu.max": "300000 100000\n"}, 3.0),
    "v2 max": ({**V2, f"{SLICE}/job/cpu.max": "max 100000\n"}, None),
    "v2 of a parent": (
        {**V2, f"{SLICE}/job/cpu.max": "max 100000\n", f"{SLICE}/cpu.max": "50000 20000\n"},
        2.5,
    ),
    "v2, the least of all": (
        {**V2, f"{SLICE}/job/cpu.max": "600000 100000", f"{SLICE}/cpu.max": "500000 100000"},
        5.0,
    ),
    "v2, a container's own top": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
        2.0,
    ),
    "v2, outside of the namespace": (
        {"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
        2.0,
    ),
    "hybrid": (
        {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "100000 100000\n"},
        1.0,
    ),
    "v1": (
        {
            **V1,
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        1.5,
    ),
    "v1, a container's own top": (
        {
            **V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        4.0,
    ),
    "v1 without a quota": (
        {
            **V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "v1 without a period": ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n"}, None),
    "no /proc": ({}, None),
    "nonsense": ({**V2, f"{SLICE}/job/cpu.max": "two of them\n"}, None),
    "a period of nothing": ({**V2, f"{SLICE}/job/cpu.max": "100000 0\n"}, None),
    "half a line": ({"proc/self/cgroup": "0\n:\n\n", "sys/fs/cgroup/cpu.max": "1 1"}, 1.0),
}


@QUOTA
@pytest.mark.parametrize("name", QUOTAS)
def test_quotas(name: str, tmp_path: Path) -> None:
    files, quota = QUOTAS[name]
    assert cpu_quota(_write(tmp_path, files)) == quota


@QUOTA
@pytest.mark.parametrize(
    ("spent", "cores"),
    [
        (300_000, Cores(3, "cgroup quota of 3 CPUs")),
        (150_000, Cores(1, "cgroup quota of 1.5 CPUs")),
        (20_000, Cores(1, "cgroup quota of 0.2 CPUs")),
        (900_000, Cores(8, "all cores")),
    ],
)
def test_a_quota_is_rounded_down(spent: int, cores: Cores, tmp_path: Path) -> None:
    files = {**V2, f"{SLICE}/job/cpu.max": f"{spent} 100000"}
    assert usable_cores(_write(tmp_path, files)) == cores


@AFFINITY
def test_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert usable_cores(tmp_path) == Cores(1, "affinity")


def test_a_system_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == Cores(1, "all cores")


@SLURM
@pytest.mark.parametrize(
    ("given", "cores"),
    [
        ("3", Cores(3, "SLURM_CPUS_PER_TASK")),
        ("8", Cores(8, "all cores")),
        ("64", Cores(8, "all cores")),
        ("0", Cores(8, "all cores; SLURM_CPUS_PER_TASK is '0', which is no number of CPUs")),
        ("two", Cores(8, "all cores; SLURM_CPUS_PER_TASK is 'two', which is no number of CPUs")),
    ],
)
def test_slurm(given: str, cores: Cores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("given", ["-1", "9" * 5000, "²", "1.5", "", "\N{BENGALI DIGIT FOUR}"])
def test_a_slurm_variable_that_is_no_number_sets_nothing(
    given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert usable_cores(tmp_path).count == 8


@pytest.mark.parametrize("engine", ["native", "eager"])
@SLURM
def test_the_plan_says_what_decided(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    threads = plan(small_config(engine=engine, run={"threads": None}, steps=3))
    assert "2 threads (SLURM_CPUS_PER_TASK), " in threads.line()
    # A number that was given is not questioned.
    assert " 3 threads, " in plan(small_config(engine=engine, run={"threads": 3})).line()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity masks")
@AFFINITY
def test_a_process_bound_to_one_core_starts_one_thread() -> None:
    code = (
        "import os\n"
        "os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\n"
        "from small_runs import small_config\n"
        "from compfast.runs.reading import member_groups\n"
        "from compfast.engines import make_engine\n"
        "from compfast.ensembles.schedule import make_tables\n"
        "specs = member_groups(small_config())[0]\n"
        "made = [make_engine(n, specs, make_tables(specs)) for n in ('native', 'eager')]\n"
        "print(made[0]._workers, made[1]._threads)\n"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join((str(here), str(here.parent)))
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert answer.stdout.split() == ["1", "1"]
