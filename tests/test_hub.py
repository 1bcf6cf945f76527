"""A run as a repository of the hub: huggingface_hub's own client, with a hub on this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_tools
import polars as pl
import pytest
import safetensors.numpy
from local_hub import LocalHub, local_hub
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
def hub() -> Iterator[LocalHub]:
    with local_hub() as found:
        yield found


@pytest.fixture
def client(hub: LocalHub) -> Any:
    return huggingface_hub.HfApi(endpoint=hub.endpoint, token="hf_none")


@pytest.fixture
def pulled(hub: LocalHub, tmp_path: Path) -> Callable[..., Path]:
    """A revision of a repository as huggingface_hub brings it."""

    def pull(revision: str, name: str = "me/run") -> Path:
        own = {"endpoint": hub.endpoint, "token": False, "cache_dir": tmp_path / "cache"}
        return Path(huggingface_hub.snapshot_download(name, revision=revision, **own))

    return pull


def test_steps_are_revisions_with_the_weights_of_that_step(
    run: Run, hub: LocalHub, client: Any, pulled: Callable[..., Path]
) -> None:
    assert export.hub(run, "me/run", [2], api=client) == f"{hub.endpoint}/me/run"
    repo = hub.repos["me/run"]
    assert repo.visibility == "private"
    assert repo.tags == {"step-0": 1, "step-30": 2, "step-36": 3}
    assert [message for message, _ in repo.commits] == ["first", "Step 0", "Step 30", "Step 36"]
    for step, tag in ((0, "step-0"), (30, "step-30"), (None, "step-36"), (None, "main")):
        home = pulled(tag)
        for group, stack in enumerate(run.stack(step=step)):
            found = safetensors.numpy.load_file(home / f"group-{group:03d}" / "params.safetensors")
            assert found.keys() == stack.arrays.keys()
            assert all(found[n].tobytes() == a.tobytes() for n, a in stack.arrays.items())
        assert pl.read_parquet(home / "members.parquet").equals(run.members)
        last = pl.read_parquet(home / "metrics.parquet")["step"].max()
        assert last == (run.step if step is None else step)
        module = compfast.from_pretrained(home / "member-2")
        own = run.model(2, step).state_dict()
        assert all((tensor == own[n]).all() for n, tensor in module.state_dict().items())
    page = (home / "README.md").read_text()
    assert "# 4 members trained side by side on `anchor`, step 36" in page
    assert "| underfit | 4 | 100.0% |" in page
    assert "- `model.layers`: 2 values, 1 to 2\n- `seed`: 2 values, 5 to 6\n" in page


def test_a_view_is_pushed_alone(
    run: Run, hub: LocalHub, client: Any, pulled: Callable[..., Path]
) -> None:
    view = run.filter(layers=2, seed=6)
    export.hub(view, "me/one", private=False, api=client)
    assert hub.repos["me/one"].visibility == "public"
    home = pulled("main", "me/one")
    (file,) = home.glob("group*/*")
    assert safetensors.numpy.load_file(file)["embed.token.weight"].shape[0] == 1
    assert pl.read_parquet(home / "members.parquet")["member"].to_list() == [3]


@pytest.mark.edge(
    "a repository of the hub that holds another push",
    "refused; with overwrite nothing of the other is left beside it",
)
def test_a_repository_is_pushed_to_again_with_overwrite_alone(
    run: Run, hub: LocalHub, client: Any, pulled: Callable[..., Path]
) -> None:
    export.hub(run, "me/run", [2], api=client)
    repo = hub.repos["me/run"]
    repo.tags |= {"step-7": 1, "mine": 1}
    repo.commits[-1][1]["notes.txt"] = b"mine"
    before = len(repo.commits)
    with pytest.raises(StorageError, match="me/run cannot be pushed to"):
        export.hub(run, "me/run", api=client)
    assert len(repo.commits) == before
    view = run.filter(layers=2)
    export.hub(view, "me/run", [3], overwrite=True, api=client)
    assert repo.tags == {"mine": 1, "step-0": 4, "step-30": 5, "step-36": 6}
    for tag in ("step-0", "main"):
        home = pulled(tag)
        assert {file.parent.name for file in home.rglob("*.safetensors")} == {
            "group-000",
            "member-3",
        }
        assert pl.read_parquet(home / "members.parquet")["member"].to_list() == [2, 3]
        assert (home / "notes.txt").read_text() == "mine"


@pytest.mark.edge("a hub that refuses, or that cannot be reached", "one sentence, exit code 4")
def test_what_the_hub_refuses_is_said(run: Run, hub: LocalHub, client: Any) -> None:
    for down, commits in (("repos", None), ("commit", 1), ("tag", 2)):
        hub.down = down
        with pytest.raises(StorageError, match=r"me/run cannot be pushed to: .*507"):
            export.hub(run, "me/run", overwrite=True, api=client)
        assert commits is None or len(hub.repos["me/run"].commits) == commits
    with socket.socket() as taken:  # nobody answers there
        taken.bind(("127.0.0.1", 0))
        nobody = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"me/run cannot be pushed to: .*refused"):
            export.hub(run, "me/run", api=nobody)


def test_odd_names_and_members_are_refused(run: Run, hub: LocalHub, client: Any) -> None:
    for name in ("run", "a/b/c", "/run"):
        with pytest.raises(UsageError, match='must be "user/name"'):
            export.hub(run, name, api=client)
    with pytest.raises(UsageError, match=r"repo is 'me/r\.\.un'"):
        export.hub(run, "me/r..un", api=client)
    with pytest.raises(UsageError, match="member 9 is not in"):
        export.hub(run, "me/run", [9], api=client)
    assert not hub.repos
