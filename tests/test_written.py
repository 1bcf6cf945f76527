"""Values as people write them on a command line."""

from __future__ import annotations

from typing import Any

import pytest

from compfast.cli.written import parse_set, read
from compfast.config import Kinds
from compfast.ensembles.grid import parse_values
from compfast.errors import UsageError

ONE, MANY = False, True


@pytest.mark.edge("`--set optimizer.lr=.001`, `1.`, `1e-3,1e-2`, `model.causal=False`", "as meant")
@pytest.mark.parametrize(
    ("text", "path", "value", "many"),
    [
        ("model.layers=3", "model.layers", 3, ONE),
        ("model.layers=1e1", "model.layers", 10, ONE),
        ("model.layers=2-6", "model.layers", [2, 3, 4, 5, 6], MANY),
        ("model.layers=2:6:3", "model.layers", [2, 4, 6], MANY),
        ("model.layers=[2, 3]", "model.layers", [2, 3], MANY),
        ("model.layers=[2]", "model.layers", [2], MANY),
        ("optimizer.lr = 1e-3", "optimizer.lr", 1e-3, ONE),
        ("optimizer.lr=.001", "optimizer.lr", 1e-3, ONE),
        ("optimizer.lr=1.", "optimizer.lr", 1.0, ONE),
        ("optimizer.lr=[1e-3,.01]", "optimizer.lr", [1e-3, 1e-2], MANY),
        ("optimizer.lr=1e-3,1e-2", "optimizer.lr", [1e-3, 1e-2], MANY),
        ("optimizer.lr=1e-3:4e-3:4", "optimizer.lr", [1e-3, 2e-3, 3e-3, 4e-3], MANY),
        ("optimizer.lr=fast", "optimizer.lr", "fast", ONE),
        ("model.norm=post", "model.norm", "post", ONE),
        ('model.norm="post"', "model.norm", "post", ONE),
        ("model.norm=pre,post", "model.norm", ["pre", "post"], MANY),
        ("model.causal=false", "model.causal", False, ONE),
        ("model.causal=False", "model.causal", False, ONE),
        ("model.causal=True,FALSE", "model.causal", [True, False], MANY),
        ("model.causal=1", "model.causal", "1", ONE),
        ("model.d_k=none, 16", "model.d_k", ["none", 16], MANY),
        ("task.anchors=1,2,3", "task.anchors", [1, 2, 3], ONE),
        ("task.unseen=[[3, 4], [4, 3]]", "task.unseen", [[3, 4], [4, 3]], ONE),
        ("task.unseen=[[[4, 3]], [[3, 3]]]", "task.unseen", [[(4, 3)], [(3, 3)]], MANY),
        ("task.overridden=[]", "task.overridden", [], ONE),
    ],
)
def test_set_says_what_it_means(text: str, path: str, value: Any, many: bool) -> None:
    found = parse_set(text, Kinds())
    assert found == (path, value, many)
    assert type(found[1]) is type(value)


@pytest.mark.parametrize(
    "text", ["model.layers", "layers=3", "=3", "model.=3", "model.layers=", "model.layer=3"]
)
def test_set_refuses_what_names_no_field(text: str) -> None:
    with pytest.raises(UsageError):
        parse_set(text, Kinds())


@pytest.mark.parametrize("text", ["6-2", "2-3-4", "2:6:4", "1.5", "two", "inf", "nan", "1e400"])
def test_numbers_of_no_form_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--layers"):
        parse_values("--layers", text, int)


def test_a_range_of_no_form_is_refused_with_its_name() -> None:
    with pytest.raises(UsageError, match="--threads"):
        read("run.threads", "3:2:1", Kinds(), "--threads")
