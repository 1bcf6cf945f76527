"""Every fault of tests/faults.py: a few tries for each change, all of them with -m slow."""

from __future__ import annotations

import functools

import fault_disk
import fault_process
import pytest
from faults import FAULTS, Fault, attempt
from victim import config

pytestmark = pytest.mark.usefixtures("native_extension")

NAMES = [fault.name for fault in FAULTS]


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_nothing_is_lost(fault: Fault) -> None:
    tally = attempt(fault, fault.quick)
    assert tally.tried == fault.quick
    assert not tally.lost, "\n".join(tally.lost)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_nothing_is_ever_lost(fault: Fault) -> None:
    tally = attempt(fault, fault.tries, seed=1)
    assert tally.tried == fault.tries
    assert not tally.lost, "\n".join(tally.lost)


def test_a_restore_without_moments_is_counted_as_lost() -> None:
    forgetful = Fault("kill, then a restore that forgets", fault_process.kill_and_forget, 3, 3)
    tally = attempt(forgetful, 2)
    assert len(tally.lost) == 2
    assert all("AssertionError" in sentence for sentence in tally.lost)


@pytest.mark.parametrize("pattern", ["checkpoints", "metrics", "*.safetensors", "manifest.json"])
def test_power_loss_without_a_sync_is_counted_as_lost(pattern: str) -> None:
    """Names in a folder, or the bytes of files."""
    careless = functools.partial(fault_disk.power_loss_unsynced, pattern)
    tally = attempt(Fault(f"no sync of {pattern}", careless, 6, 6), 6)
    assert any("checkpoint" in sentence for sentence in tally.lost), tally.lost


def test_the_victim_saves_often_enough() -> None:
    run = config().run
    assert config().training.steps // run.checkpoint_every >= 10
