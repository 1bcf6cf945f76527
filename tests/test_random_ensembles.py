"""What the random ensembles reach: a variant that is never drawn is never checked."""

from __future__ import annotations

from collections import Counter

from hypothesis import Phase, given, settings
from random_ensembles import Course, courses

from compfast.config import ModelConfig
from compfast.config.plugins import known_tasks
from compfast.tasks import make_task

VECTOR = 16  # the widest instruction set's; a multiple of the others'
WHOLE = 16  # keys of a lone query, csrc/attention_sizes.h


def reached(course: Course) -> set[str]:
    """Names of the variants that this course runs through."""
    first = course.specs[0]
    model, length = first.model, make_task(first.task).length
    last = model.loss_positions == "last"
    init = [spec.init for spec in course.specs]
    family = {model.family: True, f"task {first.task.name}": True}
    if not isinstance(model, ModelConfig):
        return {name for name, true in family.items() if true}
    whole = (model.d_k or 0) % VECTOR == (model.d_v or 0) % VECTOR == 0
    facts = {
        "one member": len(course.specs) == 1,
        "lone query": last and whole and length <= WHOLE,
        "lone query, ragged": last and not whole,
        "every query": not last,
        "longer than a block": length > WHOLE,
        "more threads than members": course.threads > len(course.specs),
        "handed on": any(chunk.threads is not None for chunk in course.chunks),
        "broken neighbour": any(chunk.broken for chunk in course.chunks),
        "frozen itself": any(course.probe in chunk.frozen for chunk in course.chunks),
        first.training.precision: True,
        **family,
        "constants": any(each.constants for each in init),
        "std": any(each.std is not None for each in init),
        "rank_one": any(each.law == "rank_one" for each in init),
        "data seed": any(spec.own_data_seed is not None for spec in course.specs),
        f"norm {model.norm}": True,
        f"logits {model.logits}": True,
        f"attention {model.attention}": True,
        f"path {model.value_path}": True,
        f"position {model.position}": True,
        f"norm_bias {model.norm_bias}": True,
        first.optimizer.kind: True,
        model.activation: True,
        f"tied {model.tied_head}": True,
        f"causal {model.causal}": True,
    }
    return {name for name, true in facts.items() if true}


def test_every_variant_is_drawn() -> None:
    found: Counter[str] = Counter()

    @settings(
        max_examples=320, derandomize=True, deadline=None, database=None, phases=(Phase.generate,)
    )
    @given(courses())
    def look(course: Course) -> None:
        found.update(reached(course))

    look()
    expected = {
        *("one member", "lone query", "lone query, ragged", "every query", "longer than a block"),
        *(
            "more threads than members",
            "handed on",
            "broken neighbour",
            "frozen itself",
            "fp32",
            "bf16",
        ),
        *("norm pre", "norm post", "norm none", "relu", "gelu", "gelu_tanh"),
        *("logits vocabulary", "logits single", "attention softmax", "attention none"),
        *("norm_bias True", "norm_bias False", "adamw", "sgd"),
        *("constants", "std", "rank_one", "data seed"),
        *("transformer", "canonical", "bottleneck"),
        *("attention linear", "attention rms_head", "position relative", "position none"),
        *("path none", "path linear", "path relu", "path deep", "position learned"),
        *(f"task {name}" for name in known_tasks()),
        *("tied True", "tied False", "causal True", "causal False"),
    }
    assert found.keys() == expected, expected ^ found.keys()
