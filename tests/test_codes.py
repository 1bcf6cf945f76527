"""Latent codes, probes and similarities of tiny trained members, against plain PyTorch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import fault_tools
import numpy as np
import polars as pl
import pytest
import torch
from examples import example
from numpy.typing import NDArray

import compfast
from compfast import analysis
from compfast.analysis.linear_probes import r2, ridge
from compfast.config import EvaluationConfig
from compfast.errors import UsageError
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.tasks import hyperteacher_net, labels_of, make_task
from compfast.tasks.fuzzy import FuzzyConfig
from compfast.tasks.hyperteacher import HyperteacherConfig, HyperteacherTask
from compfast.tasks.sraven import SravenConfig
from compfast.tasks.sraven_rules import RULES

TASK = {"name": "fuzzy", "variables": 3, "samples": 5, "frac_test": 0.5}
SIZES = {"layers": 2, "d_model": 8, "heads": 2, "position": "relative", "causal": False}


def _trained(path: Path, task: dict[str, Any], model: dict[str, Any], **more: Any) -> Run:
    config = {
        "task": task,
        "model": model,
        "training": {"steps": 4, "batch_size": 4, "log_every": 4, "eval_every": 4},
        "evaluation": {"seen_items": 40, "unseen_items": 24},
        "run": {"threads": 1, "engine": "native", "snapshots": [0, 4]},
        **more,
    }
    with fault_tools.fast_disk():
        return compfast.train(config, path)


@pytest.fixture(scope="module")
def fuzzy(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    """Members 0 to 2 have softmax, rms_head and no attention, and so have 3 to 5."""
    kinds = ["softmax", "rms_head", "none"]
    sweep = {"seed": [0, 1], "model.attention": kinds}
    model = {**SIZES, "value_path": "none"}
    return _trained(tmp_path_factory.mktemp("fuzzy") / "run", TASK, model, sweep=sweep)


@pytest.fixture(scope="module")
def raven(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    task = {"name": "sraven", "features": 2, "symbols": 5}
    model = {**SIZES, "attention": "rms_head", "value_path": "relu"}
    folder = tmp_path_factory.mktemp("raven") / "run"
    return _trained(folder, task, model, sweep={"seed": [0, 1]})


def _weights(run: Run, member: int, inputs: NDArray[Any], step: int | None = None) -> Any:
    """Attention weights of every layer [layers, B, H, T, T], from the modules' own products."""
    model, seen = run.model(member, step), []
    for block in model.blocks:
        own = block.attention._weights

        def noted(scores: Any, own: Any = own) -> Any:
            seen.append(own(scores))
            return seen[-1]

        block.attention._weights = noted
    with torch.no_grad():
        model(torch.from_numpy(inputs))
    return torch.stack(seen).numpy()


def test_codes_are_the_last_query_s_weights(fuzzy: Run, raven: Run) -> None:
    inputs = exams_of(fuzzy.groups)[0].inputs
    found = {m: (c, i) for c in analysis.latent_codes(fuzzy) for i, m in enumerate(c.members)}
    assert sorted(found) == [0, 1, 3, 4]  # those with attention
    for member, (own, row) in found.items():
        weights = _weights(fuzzy, member, inputs)[:, :, :, -1, -1]  # [layers, N, heads]
        np.testing.assert_allclose(own.values[row], weights.transpose(1, 0, 2), rtol=2e-5)
    (early,) = (c for c in analysis.latent_codes(fuzzy, step=0) if 0 in c.members)
    first = _weights(fuzzy, 0, inputs, 0)[:, :, :, -1, -1].transpose(1, 0, 2)
    np.testing.assert_allclose(early.values[0], first, rtol=2e-5)
    grids = exams_of(raven.groups)[0].inputs[:7]
    (own,) = analysis.latent_codes(raven, grids, keys=(4, 2))
    both = _weights(raven, 1, grids)[:, :, :, -1, [-5, -3]]  # [layers, N, heads, keys]
    expected = both.transpose(1, 0, 3, 2).reshape(7, 2, 4)
    np.testing.assert_allclose(own.values[1], expected, rtol=2e-5)


def test_the_stream_is_what_the_next_layer_is_given(fuzzy: Run) -> None:
    inputs = exams_of(fuzzy.groups)[0].inputs[:6]
    (own,) = (c for c in analysis.latent_codes(fuzzy, inputs, what="stream") if 1 in c.members)
    model, x = fuzzy.model(1), torch.from_numpy(inputs)
    with torch.no_grad():
        x = model.embed(x)
        for layer, block in enumerate(model.blocks):
            x = block(x)
            found = own.values[own.members.index(1)][:, layer]
            np.testing.assert_allclose(found, x[:, -1], rtol=1e-5, atol=1e-6)


def test_attention_beside_the_stream_of_networks_of_vectors(fuzzy: Run, raven: Run) -> None:
    """The ratio of arXiv 2406.03072 where inputs are vectors, layer by layer with the modules."""
    for run, members in ((fuzzy, (0, 1, 3, 4)), (raven, (0, 1))):
        inputs = exams_of(run.groups)[0].inputs[:7]
        table = analysis.attention_to_skip(run, inputs).filter(step=4)
        assert table["member"].unique().to_list() == list(members)
        for member in members:
            model, expected = run.model(member, 4), []
            with torch.no_grad():
                x = model.embed(torch.from_numpy(inputs))
                for block in model.blocks:
                    read = x if block.norm1 is None else block.norm1(x)
                    added = block.attention(read)
                    expected.append(float((added.norm(dim=-1) / (x + added).norm(dim=-1)).mean()))
                    x = block(x)
            assert table.filter(member=member)["ratio"].to_list() == pytest.approx(
                expected, rel=1e-5
            )


def test_neither_passes_nor_threads_change_a_code(
    fuzzy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = analysis.latent_codes(fuzzy)
    again = analysis.latent_codes(fuzzy)
    monkeypatch.setattr("compfast.analysis.inputs._ROOM", 2500)  # some sequences at a time
    parts = analysis.latent_codes(fuzzy)
    for one, two, three in zip(whole, again, parts, strict=True):
        assert one.values.tobytes() == two.values.tobytes()
        np.testing.assert_allclose(one.values, three.values, rtol=2e-5)


def test_a_member_s_codes_and_probes_do_not_know_its_neighbours(fuzzy: Run, tmp_path: Path) -> None:
    model = {**SIZES, "value_path": "none", "attention": "rms_head"}
    alone = _trained(tmp_path / "run", TASK, model, sweep={"seed": [1]})
    (own,) = analysis.latent_codes(alone)
    (among,) = (c for c in analysis.latent_codes(fuzzy) if 4 in c.members)
    assert own.values[0].tobytes() == among.values[among.members.index(4)].tobytes()
    tables = analysis.probe(alone), analysis.probe(fuzzy).filter(member=4)
    assert tables[0].drop("member").equals(tables[1].drop("member"))


def test_probes_read_codes_of_trained_items_and_score_the_others(fuzzy: Run) -> None:
    table = fuzzy.probe()
    assert table.columns == ["member", "layer", "place", "r2", "shuffled_r2"]
    assert table.select("member", "layer", "place").rows() == [
        (member, layer, place) for member in (0, 1, 3, 4) for layer in (0, 1) for place in range(8)
    ]
    (own,) = (c for c in analysis.latent_codes(fuzzy) if 3 in c.members)
    terms = labels_of(own.exam)["term"].astype(float)
    x = own.values[own.members.index(3)][:, 1].astype(float)
    weights, intercept = ridge(x[:40], terms[:40], 1.0)
    expected = r2(terms[40:64], x[40:64] @ weights + intercept)
    found = table.filter(member=3, layer=1)["r2"].to_numpy()
    np.testing.assert_allclose(found[:6], expected[:6], atol=1e-12)
    assert table.filter(pl.col("place") >= 6)["r2"].null_count() == 2 * 8  # unknown terms
    whole = fuzzy.probe("term", "logistic", together=True, scaled=True)
    assert whole.columns[3:] == ["f1", "accuracy", "shuffled_f1", "shuffled_accuracy"]
    assert whole["layer"].null_count() == len(whole) == 4 * 8


def test_rules_on_grids_whose_features_keep_their_order(raven: Run) -> None:
    (own,) = analysis.latent_codes(raven, task={"permuted": False})
    (usual,) = analysis.latent_codes(raven)
    assert own.exam.inputs.tobytes() != usual.exam.inputs.tobytes()
    table = analysis.code_similarity(raven, keys=(4, 2), task={"permuted": False})
    assert len(table) == 2 * 2 * len(RULES) ** 2
    assert table.filter(pl.col("place") == pl.col("other"))[
        "similarity"
    ].drop_nulls().to_list() == (pytest.approx([1.0] * 32))
    matrix = table.filter(member=1, layer=0)["similarity"].to_numpy().reshape(8, 8)
    np.testing.assert_array_equal(matrix, matrix.T)


def test_labels_say_what_items_are_made_of() -> None:
    some = EvaluationConfig(seen_items=50, unseen_items=30)
    logic = make_task(FuzzyConfig(variables=3, samples=4, frac_test=0.5))
    exam = logic.exam(some)
    terms = labels_of(exam)["term"]
    assert terms.shape == (110, 8)
    assert (terms.sum(axis=1) == 2).all()
    for split, rows in exam.splits.items():
        own = {"seen": "trained", "unseen": "held_out"}.get(split, split)
        every = {tuple(row) for row in getattr(logic, own).tolist()}
        assert {tuple(np.flatnonzero(row).tolist()) for row in terms[rows]} <= every
    x = exam.inputs[:, :-1, :3]
    chosen = np.array([np.flatnonzero(row) for row in terms], np.int32)
    values = logic.values(x, chosen)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(values, exam.inputs[:, :-1, 3])

    teacher = HyperteacherTask(HyperteacherConfig(samples=4, dim=2, hidden=2))
    mixed = teacher.exam(some)
    z, x = labels_of(mixed)["z"], mixed.inputs[:, :, :2]
    assert np.isnan(z[80:]).all()
    net = hyperteacher_net.mixed(z[:80].astype(float), teacher.theta)
    values = hyperteacher_net.values(net, teacher.readout, x[:80], "gelu")
    np.testing.assert_array_equal(values[:, :-1], mixed.inputs[:80, :-1, 2])
    constant = []  # items whose last query has that rule; where it is the set's last, all have
    for permuted in (True, False):
        raven = make_task(SravenConfig(features=2, permuted=permuted)).exam(some)
        rules = labels_of(raven)["rule"]
        assert (rules.sum(axis=1) == 1).all()
        third = raven.panels[rules[:, 0]]  # type: ignore[attr-defined]
        last = third[:, :, 2, 1]  # symbols of the last query's feature, where its rule is constant
        others = [third[:, :, 0, k] for k in range(2)]  # it is the same in the first column
        constant.append(len(last))
        assert np.logical_or.reduce([(last == one).all(axis=1) for one in others]).all()
    assert constant[0] > constant[1] > 0


def test_the_page_s_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_disk: None, native_extension: None
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example("analysis.md", "analysis.latent_codes(run)"), names)
    assert names["codes"].values.shape == (3, 960 + 2 * 512, 2, 4)
    assert len(names["by_term"]) == 3 * 2 * 16
    assert len(names["all_layers"]) == len(names["stream"]) / 2 == 3 * 16


def test_what_cannot_be_looked_at_is_refused(
    fuzzy: Run, raven: Run, tmp_path: Path, native_extension: None
) -> None:
    cases: list[tuple[Any, str]] = [
        (
            lambda: analysis.latent_codes(fuzzy, what=cast(Any, "heads")),
            "what is 'heads'; it must be codes",
        ),
        (lambda: analysis.latent_codes(fuzzy, keys=(5,)), "keys is (5,); it must be a list of how"),
        (lambda: analysis.latent_codes(fuzzy, keys=()), "keys is (); it must be"),
        (
            lambda: analysis.latent_codes(fuzzy, np.zeros((2, 5, 3))),
            "inputs have shape [2, 5, 3] and type float64; member 0 reads vectors [N, T, 4], T at",
        ),
        (
            lambda: analysis.latent_codes(fuzzy, np.zeros((2, 5, 4)), task={"samples": 5}),
            "inputs and task are both given",
        ),
        (lambda: analysis.latent_codes(fuzzy, task={"rules": 1}), "task has a field 'rules'"),
        (lambda: analysis.latent_codes(fuzzy, task={"samples": 6}), "has other inputs than the"),
        (lambda: analysis.latent_codes(fuzzy, step=3), "no snapshot of step 3; it has 0, 4"),
        (lambda: analysis.probe(fuzzy, "z"), "label is 'z'; it must be one of term"),
        (
            lambda: analysis.probe(fuzzy, kind=cast(Any, "line")),
            "kind is 'line'; it must be ridge or",
        ),
        (lambda: analysis.probe(fuzzy, scored="test"), "'test' is no split of the exam; it has se"),
        (lambda: analysis.probe(fuzzy, l2=0), "l2 is 0; it must be above 0"),
    ]
    for call, said in cases:
        with pytest.raises(UsageError, match=re.escape(said)):
            call()
    chain = {"name": "markov", "p": 0.2, "q": 0.3, "seq_len": 6}
    plain = {"d_model": 8, "loss_positions": "all"}
    run = _trained(tmp_path / "chain", chain, {**plain, "layers": 1})
    with pytest.raises(UsageError, match="has no labels, so a probe has nothing to look for"):
        analysis.probe(run)
    (own,) = analysis.latent_codes(run)  # of tokens too
    assert own.values.shape[2:] == (1, 2)
    without = _trained(tmp_path / "ffn", chain, {**plain, "attention": "none"})
    with pytest.raises(UsageError, match=r"model\.attention is none; there is no attention in"):
        analysis.latent_codes(without)
