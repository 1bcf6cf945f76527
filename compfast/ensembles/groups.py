"""Groups: the members of one shape, which one engine trains side by side."""

from __future__ import annotations

from collections.abc import Sequence

from compfast.config import Config, MemberSpec
from compfast.ensembles.grid import member_count, member_specs, shard_range
from compfast.errors import UsageError

Groups = list[list[MemberSpec]]


def member_groups(config: Config) -> Groups:
    """The specs that a config's shard trains, by shape; raises UsageError for an empty shard."""
    members = member_count(config)
    chosen = shard_range(members, *config.run.shard)
    if not len(chosen):
        i, n = config.run.shard
        raise UsageError(f"shard {i}/{n} of {members} members is empty; use fewer shards")
    return groups(member_specs(config, chosen))


def groups(specs: Sequence[MemberSpec]) -> list[list[MemberSpec]]:
    """Members that one engine can stack, in order of first appearance, in member order inside.

    Members of a group may differ in seed, init, learning rate, weight decays and clip only.
    """
    found: dict[tuple[object, ...], list[MemberSpec]] = {}
    for spec in specs:
        key = (spec.task, spec.model, spec.optimizer.shared, spec.training, spec.evaluation)
        found.setdefault(key, []).append(spec)
    return list(found.values())
