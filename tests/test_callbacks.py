"""What may be given as callbacks: none, one, any iterable, objects with some of the hooks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_config

import compfast
from compfast.errors import UsageError
from compfast.training.callbacks import HOOKS, Callback, as_callbacks

USED = pytest.mark.edge(
    "callbacks as a generator, one object, None, an object with some hooks", "every hook is called"
)
REFUSED = pytest.mark.edge("a callback class, a function, a word", "one sentence, nothing on disk")


class Counting(Callback):
    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def on_start(self, run: Any, outline: Any) -> None:
        self.calls["on_start"] += 1

    def on_metrics(self, rows: Any) -> None:
        self.calls["on_metrics"] += 1

    def on_end(self, run: Any) -> None:
        self.calls["on_end"] += 1


class Some:
    """Not a Callback; two hooks of a name that the loop knows."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def on_metrics(self, rows: Any) -> None:
        self.calls["on_metrics"] += 1

    def on_end(self, run: Any) -> None:
        self.calls["on_end"] += 1


def test_every_hook_of_the_class_is_known() -> None:
    assert (
        *("on_start", "on_tick", "on_metrics", "on_verdicts"),
        *("on_parts", "on_note", "on_checkpoint", "on_end"),
    ) == HOOKS


@USED
@pytest.mark.parametrize("form", ["list", "tuple", "generator", "set", "one"])
def test_all_hooks_are_called_in_every_form(tmp_path: Path, form: str) -> None:
    own: list[Any] = [Counting()] if form == "one" else [Counting(), Some()]
    forms: dict[str, Any] = {
        "list": own,
        "tuple": tuple(own),
        "generator": (callback for callback in own),
        "set": set(own),
        "one": own[0],
    }
    compfast.train(small_config(steps=20), tmp_path / "run", callbacks=forms[form])
    metrics = own[0].calls["on_metrics"]
    assert metrics > 1
    assert own[0].calls == {"on_start": 1, "on_metrics": metrics, "on_end": 1}
    for other in own[1:]:
        assert other.calls == {"on_metrics": metrics, "on_end": 1}


@USED
def test_none_is_no_callback(tmp_path: Path) -> None:
    assert compfast.train(small_config(steps=2), tmp_path / "run", callbacks=None).finished
    assert as_callbacks(None) == as_callbacks(()) == ()


@REFUSED
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Counting, "the class Counting; give an object, Counting()"),
        ([Counting], "the class Counting; give an object, Counting()"),
        ([Counting(), print], "has none of the hooks on_start"),
        (lambda rows: None, "has none of the hooks"),
        ("on_end", "holds 'on_end', which has none"),
        (3, "holds 3, which has none"),
    ],
)
def test_what_is_no_callback_is_refused(tmp_path: Path, given: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        compfast.train(small_config(), tmp_path / "run", callbacks=given)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@REFUSED
@pytest.mark.parametrize("config", ["tiny", 3, [("model", {})], object])
def test_what_is_no_config_is_refused(tmp_path: Path, config: Any) -> None:
    with pytest.raises(UsageError, match=r"it must be a compfast\.Config or a mapping"):
        compfast.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
