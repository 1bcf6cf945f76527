"""A run as a repository of the hub: huggingface_hub's own client with its calls replaced."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from unittest import mock

import fault_tools
import polars as pl
import pytest
import safetensors.numpy
from small_runs import small_config

import compfast
from compfast import export
from compfast.errors import StorageError, UsageError
from compfast.runs.reading import Run

huggingface_hub = pytest.importorskip("huggingface_hub")
SWEEP: Any = (("model.layers", (1, 2)), ("seed", (5, 6)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    config = small_config(sweep=SWEEP, run={"snapshots": (0, 30)}, steps=36)
    with fault_tools.fast_disk():
        return compfast.train(config, tmp_path_factory.mktemp("hub") / "run")


@pytest.fixture
def client() -> Any:
    """An HfApi that checks how it is called, and calls nobody."""
    api = mock.create_autospec(huggingface_hub.HfApi, instance=True)
    api.create_repo.return_value = "https://hub/me/run"
    return api


def _commits(client: Any) -> list[dict[str, bytes]]:
    return [
        {op.path_in_repo: op.path_or_fileobj for op in call.args[1]}
        for call in client.create_commit.call_args_list
    ]


def test_steps_are_revisions_with_the_weights_of_that_step(
    run: Run, client: Any, tmp_path: Path
) -> None:
    assert export.hub(run, "me/run", [2], api=client) == "https://hub/me/run"
    client.create_repo.assert_called_once_with("me/run", private=True, exist_ok=False)
    tags = [call.kwargs["tag"] for call in client.create_tag.call_args_list]
    assert tags == ["step-0", "step-30", "step-36"]
    commits = _commits(client)
    for step, files in zip((0, 30, None), commits, strict=True):
        for group, stack in enumerate(run.stack(step=step)):
            found = safetensors.numpy.load(files[f"group-{group:03d}/params.safetensors"])
            assert found.keys() == stack.arrays.keys()
            assert all(found[n].tobytes() == a.tobytes() for n, a in stack.arrays.items())
        assert pl.read_parquet(files["members.parquet"]).equals(run.members)
        last = pl.read_parquet(files["metrics.parquet"])["step"].max()
        assert last == (run.step if step is None else step)
        for name in ("model.safetensors", "config.json", "README.md"):
            path = tmp_path / str(step) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(files[f"member-2/{name}"])
        module = compfast.from_pretrained(tmp_path / str(step))
        own = run.model(2, step).state_dict()
        assert all((tensor == own[n]).all() for n, tensor in module.state_dict().items())
    page = commits[-1]["README.md"].decode()
    assert "# 4 members trained side by side on `anchor`, step 36" in page
    assert "| underfit | 4 | 100.0% |" in page
    assert "- `model.layers`: 2 values, 1 to 2\n- `seed`: 2 values, 5 to 6\n" in page


def test_a_view_is_pushed_alone(run: Run, client: Any) -> None:
    view = run.filter(layers=2, seed=6)
    export.hub(view, "me/one", private=False, overwrite=True, api=client)
    client.create_repo.assert_called_once_with("me/one", private=False, exist_ok=True)
    files = _commits(client)[-1]
    (name,) = (name for name in files if name.startswith("group"))
    assert safetensors.numpy.load(files[name])["embed.token.weight"].shape[0] == 1
    assert pl.read_parquet(files["members.parquet"])["member"].to_list() == [3]


@pytest.mark.edge("a hub that refuses, or that cannot be reached", "one sentence, exit code 4")
def test_what_the_hub_refuses_is_said(run: Run, client: Any) -> None:
    errors: Any = importlib.import_module("huggingface_hub.errors")
    for error in (errors.LocalTokenNotFoundError("no token"), errors.HTTPError("no route")):
        client.create_repo.side_effect = error
        with pytest.raises(StorageError, match="me/run cannot be pushed to: no"):
            export.hub(run, "me/run", api=client)
    client.create_commit.assert_not_called()


def test_odd_names_and_members_are_refused(run: Run, client: Any) -> None:
    for repo in ("run", "a/b/c", "/run"):
        with pytest.raises(UsageError, match='must be "user/name"'):
            export.hub(run, repo, api=client)
    with pytest.raises(UsageError, match="member 9 is not in"):
        export.hub(run, "me/run", [9], api=client)
    client.create_repo.assert_not_called()
