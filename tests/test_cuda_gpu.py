"""The persistent step on a GPU: float64's budget, and the same bits whatever runs beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ensembles import group, mixed
from oracle_training import train, training_budget

pytest.importorskip("compfast._cuda", reason="the build found no CUDA compiler")

from cuda_device import Device, on_device
from cuda_host import flat_layout

STEPS = 10
SPECS = mixed(group("default", (("seed", tuple(range(6))),), batch_size=13))


def trained(members: slice, stops: tuple[int, ...] = (STEPS,)) -> Device:
    made, base = on_device(SPECS[members], "cuda"), 0
    for until in stops:
        made.train(base, until)
        base = until
    return made


def bits(device: Device, row: int) -> list[bytes]:
    names = ("params", "exp_avg", "exp_avg_sq")
    return [device.tensors[name][row].cpu().numpy().tobytes() for name in names]


@pytest.mark.gpu
def test_ten_steps() -> None:
    found = trained(slice(0, 2))
    for i, spec in enumerate(SPECS[:2]):
        exact = train(spec, STEPS)
        allowed = training_budget(exact, train(spec, STEPS, torch.float32))
        params = found.tensors["params"][i : i + 1].cpu().numpy()
        for name, value in flat_layout(spec).unpack(params).items():
            error = np.abs(value[0].astype(np.float64) - exact.params[name])
            assert (error <= allowed.params[name]).all(), name
        apart = np.abs(found.tensors["loss"][i].cpu().numpy() - np.array(exact.losses))
        assert apart.max() <= allowed.losses


@pytest.mark.gpu
def test_neighbours_chunks_and_repetition_change_no_bit() -> None:
    among = trained(slice(0, 6))
    for other, row in ((trained(slice(3, 4)), 0), (trained(slice(0, 6), (3, 4, STEPS)), 3)):
        assert bits(among, 3) == bits(other, row)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_a_sentence() -> None:
    with pytest.raises(RuntimeError, match=r"^no CUDA device: "):
        on_device(SPECS, "cpu").train(0, 1)
