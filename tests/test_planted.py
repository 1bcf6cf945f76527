"""Networks made by hand, whose answer is known: the classifier, flow and effects find it."""

from __future__ import annotations

import re
from typing import Any, cast

import numpy as np
import pytest
from ensembles import random_state, start
from planted import KINDS, planted, planted_run, shape

from compfast import analysis
from compfast.analysis import Edge, Patch
from compfast.analysis.flow import EDGES, even_weights, mechanisms
from compfast.analysis.patching import corrupted
from compfast.analysis.positions import other_positions, roles_of
from compfast.config import Config, EvaluationConfig, ModelConfig
from compfast.ensembles.grid import member_specs
from compfast.errors import UsageError
from compfast.models.params import parameter_table
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.solutions import verdicts
from compfast.tasks import make_task
from compfast.tasks.anchor import AnchorConfig

STANDARD = AnchorConfig()
TASKS = {
    "standard": STANDARD,
    "short": AnchorConfig(seq_len=5, key_modulus=3),
    # Pairs that are wrong in one order, in both, and of one anchor twice.
    "wrong": AnchorConfig(
        anchors=(2, 5, 7, 9, 110),
        shifts=(5, 1, -2, -8, 3),
        overridden=((5, 7, -6), (2, 2, 4), (9, 110, 1), (110, 9, 1)),
        unseen=((7, 5),),
    ),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    folder = tmp_path_factory.mktemp("planted") / "run"
    return planted_run(folder, (*KINDS, "drawn", "broken"))


@pytest.mark.parametrize("task", TASKS)
def test_engines_judge_them_as_they_were_made(task: str, engine: str) -> None:
    own = TASKS[task]
    config = Config(task=own, model=shape(own), sweep=(("seed", (0, 1)),))
    specs = member_specs(config)
    state = random_state(specs)
    for row, kind in enumerate(KINDS):
        for name, array in planted(kind, own).items():
            state.params[name][row] = array
    made = start(engine, specs)
    made.load(state)
    exam = make_task(own).exam(EvaluationConfig(seen_items=400, unseen_items=200))
    scores = exam.score(made.predict(exam.inputs))
    assert scores.seen.tolist() == [1, 1]
    assert scores.candidates["inferential"].tolist() == [1, 0]
    assert scores.candidates["symmetric"].tolist() == [0, 1]
    assert verdicts(scores, specs[0].evaluation, np.zeros(2, bool)).tolist() == list(KINDS)


def test_a_run_judges_them_as_they_were_made(run: Run) -> None:
    members = run.members
    assert members["verdict"].to_list() == [*KINDS, "underfit", "diverged"]
    assert members["seen"].to_list()[:2] == [1, 1]
    assert members["inferential"].to_list()[:2] == [1, 0]
    assert members["symmetric"].to_list()[:2] == [0, 1]
    for step in run.snapshots:
        for member, kind in enumerate(KINDS):
            for name, array in planted(kind, STANDARD).items():
                assert np.array_equal(run.params(member, step)[name], array), name


def test_flow_finds_each_mechanism_and_its_layers(run: Run) -> None:
    scores, edges = analysis.information_flow(run)
    copied, merged = scores["copied_then_gathered"], scores["merged_then_keyed"]
    assert copied[0] > 0.999
    assert merged[0] < 1e-6
    assert copied[1] < 1e-6
    assert merged[1] > 0.999
    assert max(copied[2], merged[2]) < 0.1
    for name in scores.columns[1:-1]:
        assert scores[name][3] is None, name  # NaN weights
    for name in ("copied_at", "merged_at"):
        assert scores[name].to_list()[:2] == [0, 0]
    for name in ("gathered_at", "keyed_at"):
        assert scores[name].to_list()[:2] == [1, 1]
    assert set(scores["n"]) == {108}  # of 120, others end with an anchor
    for member, layer, head, name, weight in (
        (0, 0, 0, "anchor1_key", 1),
        (0, 0, 1, "anchor2_key", 1),
        (0, 1, 0, "last_anchor1", 0.5),
        (0, 1, 0, "last_anchor2", 0.5),
        (1, 0, 0, "last_anchor1", 0.5),
        (1, 1, 0, "last_key", 1),
        (1, 0, 0, "last_key", 0),
    ):
        found = edges.filter(member=member, layer=layer, head=head)[name].item()
        assert found == pytest.approx(weight, abs=1e-6)
    assert len(edges) == 4 * 2 * 2
    assert edges.filter(member=3)["last_key"].null_count() == 4


def test_the_control_finds_nothing(run: Run) -> None:
    scores = analysis.information_flow(run, split="seen").scores
    assert scores["copied_then_gathered"][0] > 0.999
    for name in ("copied_then_gathered", "merged_then_keyed"):
        assert scores[f"shuffled_{name}"].drop_nulls().max() < 0.01  # type: ignore[operator]
    for length in (4, 6, 9, 30):
        key = np.arange(200) % (length - 3)
        other = other_positions(key, length)
        some = other >= 0
        assert some.any() == (length >= 7)
        assert (np.abs(other - key)[some] >= 3).all()
        assert other.max() < length - 3
        far = [any(abs(key[0] - place) >= 3 for place in range(length - 3)) for key in key[:, None]]
        assert some.tolist() == far


def test_flow_is_its_definition() -> None:
    """One item, layer and head at a time, on random weights that are far from even."""
    drawn = np.random.default_rng(0)
    weights = drawn.dirichlet(np.full(9, 0.2), size=(200, 3, 2, 9))  # [N, L, H, T, T]
    keys = drawn.integers(0, 6, 200)
    edges = np.empty((200, 3, 2, 5))
    for item, key in enumerate(keys):
        for edge, (query, place) in enumerate(
            ((1, 0), (2, 0), (8 - key, 1), (8 - key, 2), (8 - key, 0))
        ):
            edges[item, :, :, edge] = weights[item, :, :, key + query, key + place]

    def over(weight: float, even: float) -> float:
        return max(0.0, (weight - even) / (1 - even))

    copying, merging = mechanisms(edges, even_weights(keys, 9, True))
    for first in range(3):
        for second in range(3):
            sums = [0.0, 0.0]
            for item, key in enumerate(keys.tolist()):
                a = weights[item].max(axis=1)  # [L, T, T]
                early, late = a[first], a[second]
                one = over(early[key + 1, key], 1 / (key + 2))
                two = over(early[key + 2, key], 1 / (key + 3))
                both = [
                    over(min(1, 2 * (own[8, key + 1] * own[8, key + 2]) ** 0.5), 2 / 9)
                    for own in (early, late)
                ]
                sums[0] += (one * two) ** 0.5 * both[1]
                sums[1] += both[0] * over(late[8, key], 1 / 9)
            expected = np.array(sums) / 200 * (first < second)
            np.testing.assert_allclose([copying[first, second], merging[first, second]], expected)
    assert min(found[np.triu_indices(3, 1)].min() for found in (copying, merging)) > 0
    assert np.allclose(even_weights(keys, 9, False), 1 / 9)


def test_edges_are_means_of_attention(run: Run) -> None:
    exam = exams_of(run.groups)[0]
    (maps,) = analysis.attention_weights(run, exam.inputs[exam.splits["unseen"]])
    key = roles_of(exam)["key"][exam.splits["unseen"]]
    edges = analysis.information_flow(run, items=1000).edges
    own = maps.values[2].astype(float)[key < 6]  # [n, L, H, T, T]
    key, rows = key[key < 6], np.arange((key < 6).sum())
    for name, (query, place) in EDGES.items():
        asks = key + query if query is not None else np.full(len(key), 8)
        expected = own[rows, :, :, asks, key + place].mean(axis=0).ravel()
        np.testing.assert_allclose(edges.filter(member=2)[name], expected, rtol=1e-6)


def test_the_paper_s_probe_sequence_is_a_caller_s_own(run: Run) -> None:
    """Figures of arXiv 2405.05409: key 99 and the pair (4, 3), one sequence."""
    probe = np.array([[35, 63, 99, 4, 3, 38, 42, 36, 62]])
    scores = analysis.information_flow(run, probe, np.array([2]), step=0, members=[0, 1]).scores
    assert scores["copied_then_gathered"].to_list() == pytest.approx([1, 0], abs=1e-6)
    assert scores["merged_then_keyed"].to_list() == pytest.approx([0, 1], abs=1e-6)
    assert scores["n"].to_list() == [1, 1]


DECISIVE = {
    0: {"0 anchor1 key", "0 anchor2 key", "1 last anchor1", "1 last anchor2"},
    1: {"0 last anchor1", "0 last anchor2", "1 last key"},
}


@pytest.mark.parametrize("renormalised", [False, True])
def test_a_cut_of_a_decisive_edge_alone_kills_the_candidate(run: Run, renormalised: bool) -> None:
    places = [("anchor1", "key"), ("anchor2", "key"), ("last", "last")]
    places += [("last", "anchor1"), ("last", "anchor2"), ("last", "key")]
    cuts: dict[str, Any] = {
        f"{layer} {query} {key}": Edge(layer, query, key, renormalised=renormalised)
        for layer in (0, 1)
        for query, key in places
    }
    table = analysis.effects(run, cuts, members=[0, 1])
    # Where the last token is the second anchor, edges of the one are the other's.
    ends = (roles_of(exams_of(run.groups)[0])["anchor2"] == 8)[120:].mean()
    for member, name in enumerate(KINDS):
        for change, score, before in (
            table.filter(member=member).select("change", name, f"before_{name}").iter_rows()
        ):
            assert before == 1
            if change in DECISIVE[member]:
                assert score < 0.05, change
            else:
                assert score >= 1 - ends - 1e-9, change


def test_one_head_holds_the_edge(run: Run) -> None:
    cuts: dict[str, Any] = {f"{h}": Edge(1, "last", "key", head=h) for h in (0, 1)}
    table = analysis.effects(run, cuts, members=[1])
    assert table["symmetric"].to_list() == [0, 1]
    assert table["kept"].to_list() == [0, 1]


def test_patches_tell_what_a_place_carries(run: Run) -> None:
    changes: dict[str, Any] = {
        "nothing": [],
        "keys on anchors": Patch("blocks.0.attention", ["anchor1", "anchor2"], "other_key"),
        "key on the last": Patch("blocks.1.attention", ["last"], "other_key"),
        "bag": Patch("blocks.0.attention", ["last"], "swapped"),
        "second anchor": Patch("blocks.0", ["anchor2"], "swapped"),
        "exceptions": Patch("blocks.0.ffn"),
        "mean": Patch("blocks.1.attention", ["last"], "mean"),
        "neurons": Patch("blocks.0.ffn.down:in", [8]),
        "unused": Patch("blocks.1.ffn"),
    }
    table = analysis.effects(run, changes, members=[0, 1], items=60)
    assert table["change"].to_list() == list(changes) * 2
    found = {
        (m, c): row
        for m, c, *row in table.select(
            "member", "change", "inferential", "symmetric", "kept", "logit_difference"
        ).iter_rows()
    }
    difference = 16  # beta (distance of the answers / 100)^2
    for member, sign in ((0, 1), (1, -1)):
        nothing = found[member, "nothing"]
        assert nothing[:3] == [1 - member, member, 1]
        assert nothing[3] == pytest.approx(sign * difference, abs=0.01)
        assert found[member, "unused"] == nothing
        assert found[member, "mean"][member] < 0.1
        assert found[member, "key on the last"][member] < 0.1
        assert found[member, "bag"][:3] == nothing[:3]  # a sum in either order
    assert found[0, "keys on anchors"][0] < 0.05
    assert found[1, "keys on anchors"][:3] == [0, 1, 1]
    # Without its exception the symmetric network composes, as the inferential one does.
    assert found[1, "exceptions"][:2] == [1, 0]
    assert found[1, "neurons"] == found[1, "exceptions"]
    assert found[0, "exceptions"][0] == 0
    assert found[0, "second anchor"][0] == 0  # 3 where 4's partner is read: another pair
    before = table.filter(member=0, change="mean")
    assert before["before_inferential"].item() == before["before_seen"].item() == 1


def test_other_keys_and_swapped_anchors(run: Run) -> None:
    exam = exams_of(run.groups)[0]
    rows, roles = np.arange(len(exam.inputs)), roles_of(exam)
    lent, swapped = corrupted(exam, "other_key"), corrupted(exam, "swapped")
    differs = lent != exam.inputs
    assert (differs.sum(axis=1) == 1).all()
    assert differs[rows, roles["key"]].all()
    assert sorted(set(lent[rows, roles["key"]])) <= sorted(set(exam.inputs[rows, roles["key"]]))
    for one, two in (("anchor1", "anchor2"), ("anchor2", "anchor1")):
        assert (swapped[rows, roles[one]] == exam.inputs[rows, roles[two]]).all()


@pytest.mark.edge("an analysis at a place that a network lacks", "refused; its places are named")
def test_what_there_is_not_is_refused(run: Run) -> None:
    def flow(*args: Any, **more: Any) -> Any:
        return lambda: analysis.information_flow(run, *args, **more)

    def effects(change: Any, **more: Any) -> Any:
        return lambda: analysis.effects(run, {"it": change}, **more)

    ends = np.array([[35, 63, 42, 38, 42, 36, 50, 4, 3]])
    cases: list[tuple[Any, str]] = [
        (flow(split="test"), "split is 'test'; the exam has seen, unseen"),
        (flow(items=0), "items is 0; it must be at least 1"),
        (flow(ends), "inputs and keys go together"),
        (flow(ends, [7]), "keys are of shape [1] and type int64; each of 1 sequences needs the"),
        (flow(ends, [0.5]), "keys are of shape [1] and type float64"),
        (flow(ends, [6]), "the last token is an anchor in every item"),
        (flow(step=3), "has no snapshot of step 3; it has 0, 1"),
        (flow(members=[4]), "members are [4]; they must be some of the 4 that can be looked at, 0"),
        (effects(Patch("blocks.2")), "there is no place 'blocks.2' in this network; it has embed"),
        (effects(Patch("embed", ["anchor"])), "a position is 'anchor'; it must be key, anchor1, a"),
        (effects(Patch("embed", "key")), "positions are 'key'; they must be a list of"),
        (effects(Patch("embed", [9])), "a position is 9; it must be"),
        (effects(Patch("embed", by=cast(Any, "noise"))), "by is 'noise'; it must be one of zeros"),
        (effects(Edge(2, "last", "key")), "an edge's layer is 2; member 0 has 0 to 1"),
        (effects(Edge(0, "last", "key", 2)), "an edge's head is 2; member 0 has 0 to 1"),
        (effects("embed"), "change 'it' has 'e'; it must be a Patch or an Edge"),
        (effects(Patch("embed"), items=0), "items is 0; it must be at least 1"),
        (lambda: analysis.effects(run, {}), "changes is empty; name at least one change"),
    ]
    for call, said in cases:
        with pytest.raises(UsageError, match=re.escape(said)):
            call()


def test_planted_networks_are_of_one_shape() -> None:
    for task in TASKS.values():
        model = shape(task)
        assert isinstance(model, ModelConfig)
        for kind in KINDS:
            found = {name: array.shape for name, array in planted(kind, task).items()}
            assert found == {tensor.name: tensor.shape for tensor in parameter_table(model)}
