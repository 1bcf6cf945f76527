"""A member as a folder: back with the same bits, a card that says why, nothing lost or guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fault_tools
import pytest
import torch
from safetensors.torch import load_file
from small_runs import small_config

import compfast
from compfast import export
from compfast.errors import StorageError, UsageError
from compfast.runs.reading import Run


@pytest.fixture(autouse=True)
def _fast(fast_disk: None) -> None:
    """Nothing waits for the disk."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    config = small_config(run={"snapshots": (0, 30, 33)}, steps=36)
    with fault_tools.fast_disk():
        return compfast.train(config, tmp_path_factory.mktemp("folder") / "run")


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with fault_tools.fast_disk():
        return export.folder(run, 1, tmp_path_factory.mktemp("member") / "one")


@pytest.fixture
def member(whole: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "one"))


def _change(member: Path, change: Any) -> None:
    told = json.loads((member / "config.json").read_text())
    change(told)
    (member / "config.json").write_text(json.dumps(told))


@pytest.mark.parametrize("step", [None, 33])
def test_a_member_comes_back_bit_for_bit(run: Run, tmp_path: Path, step: int | None) -> None:
    path = export.folder(run, 1, tmp_path / "deep" / "one", step)
    assert sorted(p.name for p in path.parent.iterdir()) == ["one"]
    module = compfast.from_pretrained(path)
    tokens = torch.randint(10, 20, (8, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(tokens), run.model(1, step)(tokens))
    assert not module.training
    weights = load_file(path / "model.safetensors")
    own = run.params(1, step)
    assert weights.keys() == own.keys()
    assert all(weights[name].numpy().tobytes() == own[name].tobytes() for name in own)


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ({"name": "markov"}, {"family": "canonical"}),
        (
            {"name": "hyperteacher", "dim": 3, "hidden": 4, "samples": 5},
            {"family": "bottleneck", "d_model": 8, "heads": 2, "latent": 3, "hidden": 4},
        ),
    ],
)
def test_other_families_come_back(tmp_path: Path, task: Any, model: Any) -> None:
    training = {"steps": 2, "batch_size": 4, "log_every": 2, "eval_every": 2}
    settings = {"task": task, "model": model, "training": training, "run": {"engine": "native"}}
    run = compfast.train(settings, tmp_path / "run")
    module = compfast.from_pretrained(export.folder(run, 0, tmp_path / "one"))
    for name, tensor in module.named_parameters():
        assert tensor.detach().numpy().tobytes() == run.params(0)[name].tobytes()
    assert type(module) is type(run.model(0))


def test_the_card_has_the_verdict_and_its_numbers(run: Run, tmp_path: Path) -> None:
    path = export.folder(run, 1, tmp_path / "one")
    page = (path / "README.md").read_text()
    row = run.members.row(1, named=True)
    assert f"Verdict at step 36: **{row['verdict']}**" in page
    for name in ("seen", "inferential", "symmetric", "other"):
        assert f"| {name} | {row[name]:.4g} |" in page
    assert "below 0.9 of `seen` is underfit" in page
    assert "| d_model | 8 |" in page
    assert f"| torch | {run.info['versions']['torch']} |" in page
    told = json.loads((path / "config.json").read_text())
    assert told["verdict"] == row["verdict"]
    assert told["spec"]["task"]["name"] == "anchor"
    assert told["spec"]["model"]["vocab_size"] is not None


def test_a_snapshot_s_card_has_its_own_exam_or_none(run: Run, tmp_path: Path) -> None:
    pages = [
        (export.folder(run, 1, tmp_path / str(step), step) / "README.md").read_text()
        for step in (30, 33)
    ]
    assert "Verdict at step 30: **" in pages[0]
    assert "Step 33, at which there was no exam" in pages[1]
    assert "## The numbers" not in pages[1]


@pytest.mark.edge(
    "an export into a folder that exists", "refused; replaced only if asked, if a member"
)
def test_a_folder_that_exists_stays(run: Run, member: Path, tmp_path: Path) -> None:
    before = (member / "config.json").read_bytes()
    with pytest.raises(UsageError, match="is not empty; give another folder, or overwrite=True"):
        export.folder(run, 2, member)
    assert (member / "config.json").read_bytes() == before
    assert (
        compfast.from_pretrained(export.folder(run, 2, member, overwrite=True)).compfast["member"]
        == 2
    )
    assert [p.name for p in tmp_path.iterdir()] == ["one"]
    (member / "notes.txt").write_text("mine")
    foreign, file = tmp_path / "foreign", tmp_path / "file"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    file.write_text("")
    for path in (member, foreign, file):
        with pytest.raises(UsageError, match=r"holds something else|is a file"):
            export.folder(run, 2, path, overwrite=True)
    assert (member / "notes.txt").read_text() == "mine"


def test_a_failed_write_leaves_what_was_there(
    run: Run, member: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compfast.storage import durable

    def full(temporary: Path, final: Path) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(durable, "publish_folder", full)
    with pytest.raises(StorageError, match="full"):
        export.folder(run, 2, member, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["one"]
    assert compfast.from_pretrained(member).compfast["member"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.pop("format"), "was not written by compfast.export"),
        (lambda told: told.update(version=2), "is of version 2; this compfast reads version 1"),
        (lambda told: told.pop("spec"), "has no settings of a model"),
        (lambda told: told["spec"]["model"].update(d_model="wide"), "d_model"),
        (lambda told: told["spec"]["model"].update(vocab_size=None), "cannot be used"),
        (lambda told: told["spec"]["model"].update(d_ff=12), "ffn.up.weight is F32"),
        (lambda told: told["spec"]["model"].update(layers=2), "lacks the array blocks.1"),
        (lambda told: told["spec"]["model"].update(odd=2), "odd"),
        (lambda told: told.pop("weights"), "has no digest of the weights"),
    ],
)
def test_a_damaged_config_is_said(member: Path, change: Any, words: str) -> None:
    _change(member, change)
    with pytest.raises((UsageError, StorageError), match=words):
        compfast.from_pretrained(member)


@pytest.mark.edge("an exported member with a flipped bit, or a foreign folder", "one sentence")
def test_damaged_weights_and_foreign_folders_are_said(run: Run, member: Path) -> None:
    weights = bytearray((member / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (member / "model.safetensors").write_bytes(weights)
    with pytest.raises(StorageError, match="is damaged: its SHA-256"):
        compfast.from_pretrained(member)
    (member / "model.safetensors").unlink()
    with pytest.raises(StorageError, match="cannot read"):
        compfast.from_pretrained(member)
    (member / "config.json").write_text("[")
    with pytest.raises(StorageError, match="is not valid JSON"):
        compfast.from_pretrained(member)
    with pytest.raises(UsageError, match=r"is a run; compfast.load reads it"):
        compfast.from_pretrained(run.path)
    with pytest.raises(UsageError, match=r"it has no config.json"):
        compfast.from_pretrained(member / "nowhere")


def test_members_that_are_not_there_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="member 9 is not in"):
        export.folder(run, 9, tmp_path / "nine")
    with pytest.raises(UsageError, match="no snapshot of step 5"):
        export.folder(run, 0, tmp_path / "five", step=5)
    assert not list(tmp_path.iterdir())
