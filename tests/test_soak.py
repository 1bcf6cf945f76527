"""The soak in short, and the judgement that it ends with."""

from __future__ import annotations

import pytest
from fault_tools import fast_disk
from soak import FILES, Sample, samples, verdict

pytestmark = pytest.mark.usefixtures("native_extension")


def test_a_few_runs_leave_nothing_behind() -> None:
    with fast_disk():
        found = list(samples(500, seed=3))
    assert found[-1].chunks >= 500
    rest = found[1:]
    assert len({sample.descriptors for sample in rest}) == 1
    assert max(sample.files for sample in found) <= FILES


@pytest.mark.slow
def test_many_runs_leave_nothing_behind() -> None:
    with fast_disk():
        rows, good = verdict(list(samples(20_000, seed=4)))
    assert good, "\n".join(rows)


@pytest.mark.parametrize("name", ["bytes", "descriptors", "threads", "files"])
def test_growth_is_noticed(name: str) -> None:
    flat = [Sample(i, 10**9, 9, 4, 30) for i in range(50)]
    assert verdict(flat)[1]
    for i, sample in enumerate(flat):
        setattr(sample, name, getattr(sample, name) + (10**6 * i if name == "bytes" else i))
    assert not verdict(flat)[1]
