"""The families can express the hyperteacher exactly: its weights, written by hand, answer it.

Schug et al., arXiv 2407.12275, appendix A: a linear-attention block with M heads, d_q = d_k = 1 and
d_v = h, and one MLP implement the hypernetwork y = a . act(sum_m c_m theta_m x). What is
constructed is that network, not the inference of the code c from examples: the code is shown
(tests/told.py), by the query's token or, for the bottleneck, by another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ensembles import start
from told import ToldConfig, ToldTask

from compfast.config import Config, MemberSpec
from compfast.engines.base import ACTIVE, State
from compfast.ensembles.grid import member_specs
from compfast.models.params import parameter_table
from compfast.streams import philox

Named = dict[str, np.ndarray[Any, np.dtype[np.float32]]]

PLAIN: dict[str, Any] = {
    "layers": 1,
    "attention": "linear",
    "norm": "none",
    "position": "none",
    "causal": False,
    "activation": "gelu",
}


def _spec(task: ToldConfig, model: dict[str, Any]) -> MemberSpec:
    (spec,) = member_specs(Config(task=task, model={**PLAIN, **model}))
    return spec


def _zeros(spec: MemberSpec) -> Named:
    return {t.name: np.zeros(t.shape, np.float32) for t in parameter_table(spec.model)}


def _transformer(task: ToldTask) -> tuple[MemberSpec, Named]:
    """The residual stream is x [d], y, the code [M], and room for W x [h].

    Every head m has the query 1, its bias, and the key c_m, which only the query's token has, so
    that it attends to nothing else; its value is theta_m x. The output projection sums the heads
    into the room; the MLP reads it there, and adds a . gelu(W x) to y, which is 0 at the query.
    """
    teacher, heads = task.teacher, task.modules
    d, h = teacher.config.dim, teacher.config.hidden
    code, room = d + 1, d + 1 + heads
    model = {"d_model": room + h, "heads": heads, "d_k": 1, "d_v": h, "d_ff": h}
    spec = _spec(task.config, model)
    w = _zeros(spec)
    w["embed.input.weight"][: task.width] = np.eye(task.width)
    attention, ffn = "blocks.0.attention", "blocks.0.ffn"
    w[f"{attention}.query.bias"][:] = 1
    for m in range(heads):
        w[f"{attention}.key.weight"][m, code + m] = 1
        w[f"{attention}.value.weight"][m * h : (m + 1) * h, :d] = teacher.theta[m]
        w[f"{attention}.output.weight"][room:, m * h : (m + 1) * h] = np.eye(h)
    w[f"{ffn}.up.weight"][:, room:] = np.eye(h)
    w[f"{ffn}.down.weight"][d] = teacher.readout
    w["head.weight"][0, d] = 1
    return spec, w


def _bottleneck(task: ToldTask) -> tuple[MemberSpec, Named]:
    """The code is what one head adds up over all tokens, only one of which shows it, and the
    generator's columns are the modules. The transformer sees no query.
    """
    teacher, modules = task.teacher, task.modules
    d, h = teacher.config.dim, teacher.config.hidden
    model = {
        "family": "bottleneck",
        "d_model": task.width,
        "heads": 1,
        "d_k": 1,
        "d_v": modules,
        "d_ff": 1,
        "latent": modules,
        "hidden": h,
        "query_width": d,
    }
    spec = _spec(task.config, model)
    w = _zeros(spec)
    w["embed.input.weight"][:] = np.eye(task.width)
    attention = "blocks.0.attention"
    w[f"{attention}.query.bias"][:] = w[f"{attention}.key.bias"][:] = 1
    w[f"{attention}.value.weight"][:, d + 1 :] = np.eye(modules)
    w[f"{attention}.output.weight"][d + 1 :] = np.eye(modules)
    w["code.weight"][:, d + 1 :] = np.eye(modules)
    w["generator.weight"][:] = teacher.theta.reshape(modules, h * d).T
    w["head.weight"][0] = teacher.readout
    return spec, w


def _told(at: int, **sizes: Any) -> ToldTask:
    return ToldTask(ToldConfig(at=at, **sizes))


CASES = {
    "transformer": lambda **sizes: (_told(-1, **sizes), _transformer(_told(-1, **sizes))),
    "bottleneck": lambda **sizes: (_told(2, **sizes), _bottleneck(_told(2, **sizes))),
}
SIZES: list[dict[str, int]] = [{}, {"dim": 16, "hidden": 16, "samples": 20}]  # and the paper's


def _loaded(engine: str, spec: MemberSpec, weights: Named) -> Any:
    params = {name: value[None] for name, value in weights.items()}
    moments = {name: np.zeros_like(value) for name, value in params.items()}
    made = start(engine, [spec])
    step, status = np.zeros(1, np.int64), np.full(1, ACTIVE, np.uint8)
    made.load(State(params, moments, dict(moments), step, status))
    return made


@pytest.mark.parametrize("sizes", SIZES, ids=["small", "paper"])
@pytest.mark.parametrize("family", CASES)
def test_the_constructed_network_answers_exactly(
    engine: str, family: str, sizes: dict[str, int]
) -> None:
    """On trained masks and on those that the task holds out."""
    task, (spec, weights) = CASES[family](**sizes)
    made = _loaded(engine, spec, weights)
    for masks in (task.teacher.trained, task.teacher.held_out):
        vectors, answers = task.drawn(5, philox.EVAL, 0, 200, masks)
        loss, _ = made.gradients(vectors, answers)
        assert np.square(answers).mean() > 1e-2
        assert loss[0] < 1e-6
        said = made.outputs(vectors, [0])
        np.testing.assert_allclose(said[0], answers, atol=1e-5)


@pytest.mark.parametrize("family", CASES)
def test_what_is_not_constructed_answers_wrongly(engine: str, family: str) -> None:
    """Two modules exchanged, or the code shown as it is, not over the norm: the loss is large."""
    task, (spec, weights) = CASES[family]()
    vectors, answers = task.batch(0, 0, 200)
    shown = vectors.copy()
    shown[..., -task.modules :] *= 2
    assert _loaded(engine, spec, weights).gradients(shown, answers)[0][0] > 1e-3
    vectors[..., -2:] = vectors[..., [-1, -2]]
    assert _loaded(engine, spec, weights).gradients(vectors, answers)[0][0] > 1e-3


def test_a_constructed_network_stays_where_it_is(engine: str) -> None:
    """Its gradient is that of rounding errors: it is a minimum of the task."""
    task, (spec, weights) = CASES["bottleneck"]()
    _, gradients = _loaded(engine, spec, weights).gradients(*task.batch(0, 0, 64))
    assert max(np.abs(each).max() for each in gradients.values()) < 1e-5
