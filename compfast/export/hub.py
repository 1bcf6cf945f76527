"""A run in a repository of the Hugging Face hub: one repository, its steps as revisions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from compfast.config.extras import needed
from compfast.errors import StorageError, UsageError
from compfast.export.card import run_card
from compfast.export.folders import member_files
from compfast.runs.checkpoints import group_folder
from compfast.runs.folder import parquet_bytes
from compfast.runs.reading import Run
from compfast.storage import durable, tensorfile

# Of an earlier push, what this one may not write again: members of other shapes, other members.
_WEIGHTS = re.compile(r"group-\d{3,}/params\.safetensors|member-\d+/[^/]+")
_TAG = re.compile(r"step-\d+")


def hub(
    run: Run,
    repo: str,
    members: Sequence[int] = (),
    private: bool = True,
    overwrite: bool = False,
    api: Any = None,
) -> str:
    """Push a run, or a view of one, to the repository `repo` ("user/name") of the hub; its address.

    Every snapshot is a commit and a tag `step-STEP`, the newest weights are the last ones. A commit
    holds group-GGG/params.safetensors, tensors [M, ...] of the members of a shape in the order of
    `group` and `row` in members.parquet, metrics.parquet, config.json and a card. `members` are
    also put into folders member-N, which `compfast.from_pretrained` reads once they are downloaded.

    `private` unless said otherwise. A repository that exists is written to with `overwrite` only:
    weights, members and tags of steps that are not pushed again go, from the newest commit on.
    `api` is a `huggingface_hub.HfApi` with a token or an endpoint of its own. Raises UsageError for
    members that are not there, before the first checkpoint and without huggingface_hub;
    StorageError where the hub refuses or cannot be reached: what was pushed until then stays.
    """
    library = needed("huggingface_hub", "export.hub")
    errors = needed("huggingface_hub.errors", "export.hub", "huggingface_hub")
    if not isinstance(repo, str) or repo.count("/") != 1 or not all(repo.split("/")):
        raise UsageError(f'repo is {repo!r}; it must be "user/name"')
    if run.checkpoint is None:
        raise UsageError(f"{run.path} has no checkpoint yet, so there is nothing to push")
    for member in members:
        run.params(member)
    client = library.HfApi() if api is None else api
    steps: list[int | None] = [step for step in run.snapshots if step < run.step]
    try:
        told = client.create_repo(repo, private=private, exist_ok=overwrite)
        there = set(client.list_repo_files(repo)) if overwrite else set()
        tags = {ref.name for ref in client.list_repo_refs(repo).tags} if overwrite else set()
        for step in [*steps, None]:
            at = run.step if step is None else step
            files = dict(_files(run, members, step))
            gone = sorted(filter(_WEIGHTS.fullmatch, there - files.keys()))
            operations = [
                *(library.CommitOperationAdd(name, content) for name, content in files.items()),
                *(library.CommitOperationDelete(name) for name in gone),
            ]
            with warnings.catch_warnings():  # tables belong to the weights that they are about
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data")
                client.create_commit(repo, operations, commit_message=f"Step {at}")
            there, tag = set(files), f"step-{at}"
            if tag in tags:
                client.delete_tag(repo, tag=tag)
            client.create_tag(repo, tag=tag)
            tags.discard(tag)
        for tag in sorted(filter(_TAG.fullmatch, tags)):
            client.delete_tag(repo, tag=tag)
    except errors.HFValidationError as error:
        raise UsageError(f"repo is {repo!r}: {error}") from error
    except StorageError:
        raise
    except (errors.HTTPError, OSError) as error:  # of the hub, and of the way there
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError(f"{repo} cannot be pushed to: {why[0]}") from error
    return str(told)


def _files(run: Run, members: Sequence[int], step: int | None) -> Iterator[tuple[str, bytes]]:
    for number, stack in enumerate(run.stack(step=step)):
        name = f"{group_folder(number)}/params.safetensors"
        yield name, b"".join(tensorfile.chunks(stack.arrays))
    until = run.step if step is None else step
    yield "members.parquet", parquet_bytes(run.members)
    yield "metrics.parquet", parquet_bytes(run.metrics.filter(pl.col("step") <= until))
    yield "config.json", durable.json_bytes(run.info)
    yield "README.md", run_card(run, until).encode()
    for member in members:
        for name, content in member_files(run, member, step).items():
            yield f"member-{member}/{name}", content
