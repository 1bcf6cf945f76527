"""Some members of a run: chosen by columns, gone through, stacked; each as it is in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fault_tools
import numpy as np
import polars as pl
import pytest
import torch
from small_runs import small_config

import compfast
from compfast import analysis
from compfast.export import stacked_modules
from compfast.runs.reading import Run

SWEEP: Any = (("model.layers", (1, 2)), ("init.gamma", (0.4, 0.8)), ("seed", (5, 6, 7)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    config = small_config(sweep=SWEEP, run={"snapshots": (0, 33)}, steps=36)
    with fault_tools.fast_disk():
        return compfast.train(config, tmp_path_factory.mktemp("views") / "run")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    settings: dict[str, Any] = {
        "task": {"name": "hyperteacher", "dim": 3, "hidden": 4, "samples": 5},
        "model": {"family": "bottleneck", "d_model": 8, "heads": 2, "latent": 3, "hidden": 4},
        "training": {"steps": 2, "batch_size": 4, "log_every": 2, "eval_every": 2},
        "evaluation": {"seen_items": 12, "unseen_items": 9},
        "run": {"threads": 1, "engine": "native"},
        "sweep": {"model.attention": ["rms_head", "softmax"], "seed": [0, 1]},
    }
    with fault_tools.fast_disk():
        return compfast.train(settings, tmp_path_factory.mktemp("vectors") / "run")


@pytest.mark.parametrize(
    ("columns", "members"),
    [
        ({"gamma": 0.4}, [0, 1, 2, 6, 7, 8]),
        ({"gamma": (0.5, None), "seed": [5, 7]}, [3, 5, 9, 11]),
        ({"seed": (6, 7), "layers": 2}, [7, 8, 10, 11]),
        ({"seed": np.array([6])}, [1, 4, 7, 10]),
        ({"seed": range(7, 9), "gamma": 0.8}, [5, 11]),
        ({"gamma": 0.41}, []),
        ({"seed": []}, []),
        ({"verdict": None}, []),
        ({"verdict": "diverged"}, []),
        ({"verdict": ["underfit", "other", "mixed"], "layers": 1}, [0, 1, 2, 3, 4, 5]),
        ({}, list(range(12))),
    ],
)
def test_a_filter_keeps_the_members_it_names(
    run: Run, columns: dict[str, Any], members: list[int]
) -> None:
    view = run.filter(**columns)
    assert view.members["member"].to_list() == members
    assert view.metrics["member"].unique().to_list() == members
    assert [s.member for specs in view.groups for s in specs] == members
    assert [member for member, _, _ in view.iter()] == members


def test_expressions_and_filters_of_views_narrow_down(run: Run) -> None:
    view = run.filter(pl.col("gamma") > 0.5, pl.col("seed") != 6, layers=2)
    assert view.members["member"].to_list() == [9, 11]
    assert view.filter(seed=7).members["member"].to_list() == [11]
    assert view.filter(seed=6).members.is_empty()
    assert repr(view) == f"View(2 of 12 members of {str(run.path)!r})"
    assert run.filter(pl.lit(False)).stack() == []


def test_members_of_a_view_are_those_of_the_run(run: Run) -> None:
    view = run.filter(layers=2, seed=[5, 7])
    assert len(view.groups) == 1
    for row in view.members.iter_rows(named=True):
        member = row["member"]
        assert view.groups[row["group"]][row["row"]].member == member
        own = run.params(member)
        for name, array in view.params(member).items():
            assert array.tobytes() == own[name].tobytes()
            assert view.stacked(row["group"], name)[row["row"]].tobytes() == own[name].tobytes()
        tokens = torch.zeros(2, 4, dtype=torch.long)
        assert torch.equal(view.model(member, 33)(tokens), run.model(member, 33)(tokens))
        assert np.array_equal(view.generate(member, [[1, 2]], 2), run.generate(member, [[1, 2]], 2))
    assert view.step == run.step
    assert view.finished
    other = [name for name in run.members.columns if name not in ("group", "row")]
    kept = run.members.filter(pl.col("member").is_in([6, 8, 9, 11]))
    assert view.members.select(other).equals(kept.select(other))


def test_analyses_take_a_view(run: Run) -> None:
    view = run.filter(layers=2, gamma=0.8)
    (found,) = analysis.states(view, names=["blocks.1"])
    whole = analysis.states(run, names=["blocks.1"], members=[9, 10, 11])[0]
    assert found.members == (9, 10, 11)
    assert found.values["blocks.1"].tobytes() == whole.values["blocks.1"].tobytes()
    table = analysis.norms(view)
    assert table["member"].unique().sort().to_list() == [9, 10, 11]
    every = analysis.norms(run).filter(pl.col("member") > 8)
    assert table.sort(pl.all()).equals(every.sort(pl.all()))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"gama": 0.4}, "'gama' is not known .did you mean gamma"),
        ({"verdict": "inferental"}, "verdict is 'inferental'; members of this run get"),
        ({"verdict": 1}, "verdict is 1; it must be a text"),
        ({"gamma": "0.4"}, "gamma is '0.4'; it must be a number"),
        ({"gamma": (0.1, 0.2, 0.3)}, r"a pair \(lo, hi\) is a range"),
        ({"verdict": ("mixed", "other")}, "a list .* picks values"),
    ],
)
@pytest.mark.edge(
    "a filter on a column or verdict that there is not", "one sentence, no empty view"
)
def test_what_cannot_be_filtered_is_said(run: Run, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(compfast.UsageError, match=words):
        run.filter(**columns)


def test_odd_expressions_are_said(run: Run) -> None:
    wrong: Any = "gamma > 1"
    for expression in (wrong, pl.col("gamma"), pl.col("nothing") > 1, pl.col("verdict") > 1):
        with pytest.raises(compfast.UsageError):
            run.filter(expression)


def test_a_view_refuses_members_that_it_has_not_and_grids(run: Run) -> None:
    view = run.filter(seed=5)
    for call in (view.params, view.model, lambda m: view.generate(m, [[1]], 1)):
        with pytest.raises(compfast.UsageError, match=r"member 1 is not in this view .* 0, 3, 6"):
            call(1)
    for grid in (view.to_xarray, view.to_datatree):
        with pytest.raises(compfast.UsageError, match="is no full grid"):
            grid()


def test_iter_goes_through_all_steps(run: Run) -> None:
    found = [(m, s) for m, s, _ in run.iter(seed=5, gamma=0.4, step="all")]
    assert found == [(m, s) for m in (0, 6) for s in (0, 33, 36)]
    ((member, step, module),) = run.iter(pl.col("member") == 4, step=33)
    assert (member, step) == (4, 33)
    for name, tensor in module.named_parameters():
        assert tensor.detach().numpy().tobytes() == run.params(4, 33)[name].tobytes()
    with pytest.raises(compfast.UsageError, match="no snapshot of step 2"):
        next(run.iter(step=2))


def test_stack_has_the_tensors_of_each_shape(run: Run) -> None:
    one, two = run.stack(["embed.token.weight", "blocks.1.ffn.up.weight"], step=33)
    assert one.members == tuple(range(6))
    assert list(one.arrays) == ["embed.token.weight"]
    assert two.arrays["blocks.1.ffn.up.weight"].shape[0] == 6
    assert run.filter(member=8).stack()[0].arrays.keys() == run.params(8).keys()
    with pytest.raises(compfast.UsageError, match=r"'embed.token' is not known"):
        run.stack(["embed.token"])
    odd: Any
    for odd in ("embed.token.weight", []):
        with pytest.raises(compfast.UsageError, match="names is"):
            run.stack(odd)


@pytest.mark.parametrize("which", ["run", "vectors"])
def test_stacked_modules_give_what_each_member_gives(
    which: str, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(which)
    exams = analysis.states(run, names=[""])
    for stack, exam in zip(stacked_modules(run), exams, strict=True):
        inputs = torch.from_numpy(exam.inputs)
        inputs = inputs if inputs.is_floating_point() else inputs.long()
        outputs = stack(inputs)
        assert stack.members == exam.members
        torch.testing.assert_close(outputs.detach().numpy(), exam.values[""], rtol=1e-4, atol=1e-5)
        own = stack(inputs.expand(len(stack.members), *inputs.shape), each=True)
        torch.testing.assert_close(own, outputs, rtol=1e-4, atol=1e-5)
        with pytest.raises(compfast.UsageError, match="first axis is that of the"):
            stack(inputs[:1], each=True)


def test_stacked_modules_have_derivatives_by_member(run: Run) -> None:
    (stack,) = stacked_modules(run.filter(layers=1, gamma=0.8), step=33)
    tokens = torch.arange(8).reshape(2, 4)

    def loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return stack.call(params, tokens).square().mean()

    found = torch.vmap(torch.func.grad(loss))(stack.params)
    for row, member in enumerate(stack.members):
        module = run.model(member, 33)
        module(tokens).square().mean().backward()
        for name, tensor in module.named_parameters():
            torch.testing.assert_close(found[name][row], tensor.grad, rtol=1e-4, atol=1e-6)


def test_a_view_of_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    class Look(compfast.Callback):
        def on_start(self, run: Run, outline: Any) -> None:
            view = compfast.load(run.path).filter(seed=1)
            assert view.members["member"].to_list() == [1]
            with pytest.raises(compfast.UsageError, match="no checkpoint yet"):
                list(view.iter())

    with fault_tools.fast_disk():
        compfast.train(small_config(steps=2), tmp_path / "run", [Look()])
