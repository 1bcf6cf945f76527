"""The hyperteacher: its networks against float64, draws in C++ and NumPy, verdicts at the ends."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest

from compfast import _native
from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.solutions import verdicts
from compfast.streams import philox
from compfast.tasks import hyperteacher_net as net
from compfast.tasks.hyperteacher import HyperteacherConfig, HyperteacherTask

SMALL: dict[str, Any] = {"dim": 4, "hidden": 4, "samples": 8}


def _task(**fields: Any) -> HyperteacherTask:
    return HyperteacherTask(HyperteacherConfig(**fields))


@pytest.mark.parametrize("shape", [(16, 16), (16, 8), (5, 16), (1, 4), (3, 1), (1, 1), (33, 64)])
def test_the_operator_norm_is_the_largest_singular_value(shape: tuple[int, int]) -> None:
    w = philox.normals(1, philox.AUX, 0, 0, 40 * shape[0] * shape[1]).reshape(40, *shape)
    exact = np.linalg.norm(w, 2, axis=(1, 2))
    np.testing.assert_allclose(net.operator_norm(w), exact, rtol=1e-9)


def test_the_operator_norm_of_special_matrices() -> None:
    """Equal, repeated, widely spread and only one singular value."""
    size = 8
    w = np.stack(
        [
            np.eye(size),
            np.ones((size, size)),
            np.diag([1, *np.full(size - 1, 1 - 1e-9)]),
            np.diag(10.0 ** -np.arange(size)),
            1e-9 * np.eye(size)[::-1],
        ]
    )
    np.testing.assert_allclose(net.operator_norm(w), [1, size, 1, 1, 1e-9], rtol=1e-9)


def test_the_teacher_follows_its_law() -> None:
    task = _task()
    assert task.theta.shape == (6, 16, 16)
    theta, readout = task.theta * np.sqrt(6), task.readout * 4
    assert max(np.abs(theta).max(), np.abs(readout).max()) <= 2
    assert theta.std() == pytest.approx(0.8796, abs=0.03)
    assert theta.mean() == pytest.approx(0, abs=0.1)
    again = _task(samples=9)
    assert np.array_equal(again.theta, task.theta)
    assert (_task(teacher_seed=1).theta != task.theta).any()
    assert task.theta[0, 0, 0].item().hex() == "-0x1.070c05bc7c5f6p-3"


def test_codes_are_the_papers() -> None:
    """Active entries of a code lie in (0.5, 1] and sum to (K + 1) / 2; the others are 0."""
    masks = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 0]], np.int32)
    words = philox.words(2, philox.AUX, 0, 0, 0, 12).reshape(3, 4)
    z = net.codes(masks, words, discrete=False)
    for mask, code, own in zip(masks, z, words.tolist(), strict=True):
        drawn = [-math.log((w + 0.5) / 2**32) if m else 0 for m, w in zip(mask, own, strict=True)]
        expected = [
            0.5 * (e / sum(drawn) + 1) if m else 0 for m, e in zip(mask, drawn, strict=True)
        ]
        np.testing.assert_allclose(code, expected, rtol=1e-14)
        assert code.sum() == pytest.approx((mask.sum() + 1) / 2)
        assert ((code > 0.5) == (mask == 1)).all()
    assert net.codes(masks, words, discrete=True).tolist() == [
        [0.5, 0.5, 0, 0],
        [0, 1 / 3, 1 / 3, 1 / 3],
        [0, 0, 1, 0],
    ]


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_values_are_those_of_the_definition(activation: str) -> None:
    task = _task(activation=activation)
    masks, z, x = task._drawn(3, philox.TRAIN, 0, 0, 5, task.trained)
    vectors, last = task.batch(3, 0, 5)
    y = np.concatenate([vectors[:, :-1, -1], last[:, :, 0]], axis=1)
    assert np.array_equal(vectors[..., :-1], x)
    assert (vectors[:, -1, -1] == 0).all()
    for b in range(5):
        w = np.einsum("m,mhd->hd", z[b], task.theta)
        w /= np.linalg.norm(w, 2)
        for i in range(64):
            hidden = w @ x[b, i].astype(np.float64)
            if activation == "gelu":
                active = [h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden]
            else:
                inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
                active = [h * 0.5 * (1 + math.tanh(v)) for h, v in zip(hidden, inner, strict=True)]
            assert y[b, i] == pytest.approx(float(task.readout @ np.array(active)), abs=1e-6)
    assert {tuple(row) for row in masks.tolist()} <= {tuple(r) for r in task.trained.tolist()}


def test_inputs_are_uniform_of_variance_one() -> None:
    x = _task().batch(0, 0, 200)[0][..., :-1]
    assert np.abs(x).max() < math.sqrt(3) + 1e-6
    assert x.mean() == pytest.approx(0, abs=0.01)
    assert x.var() == pytest.approx(1, abs=0.01)


VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "gelu_tanh": {"activation": "gelu_tanh", "samples": 9},
    "discrete with an empty token": {"codes": "discrete", "form": "extra", "samples": 7},
    "wide": {"dim": 7, "hidden": 3},
    "tall": {"dim": 3, "hidden": 7, "samples": 5},
    "single": {"dim": 1, "hidden": 1, "samples": 2},
    "pairs": {"dim": 2, "hidden": 2},
    "many modules": {"modules": 9, "active": 3, "support": "equal", "samples": 6},
    "largest": {"dim": 64, "hidden": 64, "samples": 2},
}


@pytest.mark.usefixtures("native_extension")
@pytest.mark.parametrize("name", VARIANTS)
def test_cpp_draws_the_same_bits(name: str) -> None:
    task = _task(**VARIANTS[name])
    for seed, step, size in ((0, 0, 1), (7, 3, 6), (2**53 - 1, 2**31 - 2, 33)):
        vectors, values = task.batch(seed, step, size)
        drawn = _native.task_batch(task.stream(), seed, step, size)
        assert vectors.shape == (size, task.length, task.width)
        assert values.shape == (size, 1, 1)
        for got, want in zip(drawn, (vectors, values), strict=True):
            assert got.dtype == want.dtype == np.float32
            assert got.tobytes() == want.tobytes()


def test_an_empty_token_follows() -> None:
    """The same examples, and one more token of zeros."""
    plain, extra = (_task(**SMALL, form=form) for form in ("vanilla", "extra"))
    assert extra.length == plain.length + 1
    (x, y), (longer, same) = plain.batch(4, 2, 3), extra.batch(4, 2, 3)
    assert np.array_equal(longer[:, :-1], x)
    assert (longer[:, -1] == 0).all()
    assert np.array_equal(y, same)


@pytest.mark.parametrize(
    ("activation", "digest"), [("gelu", "cadd3a5dae0091ce"), ("gelu_tanh", "1af3893a6f0340cb")]
)
def test_what_is_drawn_never_changes(activation: str, digest: str) -> None:
    drawn = b"".join(array.tobytes() for array in _task(activation=activation).batch(3, 17, 4))
    assert hashlib.sha256(drawn).hexdigest()[:16] == digest


def test_a_batch_does_not_depend_on_its_size() -> None:
    task = _task(**SMALL)
    whole = task.batch(5, 2, 12)
    for size in (1, 7):
        for got, want in zip(task.batch(5, 2, size), whole, strict=True):
            assert got.tobytes() == want[:size].tobytes()


def test_verdicts_of_the_solutions() -> None:
    evaluation = EvaluationConfig(seen_items=50, unseen_items=200)
    exam = _task(support="disconnected", samples=16).exam(evaluation)
    said = np.zeros((4, len(exam.inputs)))
    for name in ("seen", "unstructured"):
        said[:, exam.splits[name]] = exam.parts[name].target
    for row, values in zip(said, exam.answers.values(), strict=False):
        row[exam.splits["unseen"]] = values
    said[3] = np.nan
    scores = exam.score(said[..., None, None])
    assert verdicts(scores, evaluation, np.array([False] * 3 + [True])).tolist() == [
        "inferential",
        "nearest",
        "mean",
        "diverged",
    ]
    assert exam.measures == ("seen_r2", "ood_r2", "unstructured_r2")
    assert scores.measures["ood_r2"][:3:2].tolist() == [1, pytest.approx(0, abs=1e-12)]
    assert scores.measures["unstructured_r2"][0] == 1


def test_r2_is_the_papers_by_hand() -> None:
    """1 - MSE(y, prediction) / MSE(y, mean of the context's y), over a split."""
    exam = _task(**SMALL).exam(EvaluationConfig(seen_items=3, unseen_items=6))
    for name, rows in exam.splits.items():
        part = exam.parts[name]
        predicted = np.linspace(-1, 1, len(part.target))
        context = exam.inputs[rows][:, :-1, -1].astype(np.float64)
        above = np.mean((predicted - part.target) ** 2)
        below = np.mean((context.mean(axis=1) - part.target) ** 2)
        assert part.r2(predicted[None])[0] == pytest.approx(1 - above / below, rel=1e-12)


def test_nearest_is_the_best_trained_mask() -> None:
    task = _task(**SMALL)
    exam = task.exam(EvaluationConfig(seen_items=3, unseen_items=6))
    means = np.stack([task.theta[row == 1].sum(axis=0) for row in task.trained])
    means /= np.linalg.norm(means, 2, axis=(1, 2))[:, None, None]
    for i, row in enumerate(exam.inputs[exam.splits["unseen"]].astype(np.float64)):
        hidden = np.einsum("mhd,nd->mnh", means, row[:, :-1])
        active = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        said = active @ task.readout
        best = np.square(said[:, :-1] - row[:-1, -1]).sum(axis=1).argmin()
        assert exam.answers["nearest"][i] == pytest.approx(said[best, -1], abs=1e-6)


def test_every_unstructured_item_has_a_teacher_of_its_own() -> None:
    """No network of the task's modules fits them; the first one's values by hand."""
    task = _task(**SMALL)
    x, y = task._unstructured(7, 130)
    masks, z, _ = task._drawn(7, philox.EVAL, 0, 2, 130, task.trained)
    for item in (0, 129):
        words = philox.words(7, philox.EVAL, 0, 3, 32 * item, 32)
        theta = net.truncated(words).reshape(2, 4, 4)
        w = np.einsum("m,mhd->hd", z[item][masks[item] == 1], theta)
        hidden = x[item] @ (w / np.linalg.norm(w, 2)).T
        active = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        np.testing.assert_allclose(y[item], active @ task.readout, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"samples": 1}, "task.samples is 1; it must be at least 2"),
        ({"hidden": 65}, "task.hidden is 65; it must be at most 64"),
        ({"modules": 8}, "task.support connected_plus lists pairs of 6 modules"),
        ({"support": "ring", "modules": 7}, "needs an even task.modules of at least 6"),
        ({"support": "random", "active": 7}, "task.active is 7; it must be in 1..task.modules, 6"),
        ({"support": "random", "modules": 30, "active": 4}, "masks; at most 4096 are taken"),
        ({"frac_test": 1.0}, "task.frac_test is 1.0"),
    ],
)
def test_teachers_that_are_none_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        HyperteacherConfig(**fields)
