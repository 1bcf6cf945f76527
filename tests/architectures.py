"""The grid of architectures that oracle, plan and engines are compared on."""

from __future__ import annotations

import itertools
from typing import Any

from compfast.config import ModelConfig, Ports
from compfast.models.families import resolve
from compfast.tasks.anchor import AnchorConfig
from compfast.tasks.markov import MarkovConfig

VOCABULARY = 110  # token ids of the composite anchor task: labels reach 109

# name -> (sequence length, what differs from the default ModelConfig)
ARCHITECTURES: dict[str, tuple[int, dict[str, Any]]] = {
    "default": (9, {}),
    "paper_form": (
        9,
        {
            "norm": "post",
            "activation": "relu",
            "attention_bias": False,
            "ffn_bias": False,
            "d_k": 16,
            "d_v": 16,
            "d_ff": 96,
        },
    ),
    "one_layer": (5, {"layers": 1, "d_model": 20}),
    "one_layer_post": (5, {"layers": 1, "d_model": 20, "norm": "post", "head_bias": False}),
    "four_heads": (7, {"heads": 4, "d_model": 36}),
    "own_head_sizes": (11, {"heads": 4, "d_model": 25, "d_k": 5, "d_v": 7, "d_ff": 51}),
    "post_all_positions": (7, {"norm": "post", "d_model": 25, "loss_positions": "all"}),
    "pre_all_positions": (9, {"heads": 4, "d_model": 48, "loss_positions": "all"}),
    "tied": (9, {"d_model": 20, "tied_head": True}),
    "tied_all_post": (
        5,
        {"layers": 3, "norm": "post", "tied_head": True, "loss_positions": "all", "heads": 2},
    ),
    "no_biases": (
        9,
        {"attention_bias": False, "ffn_bias": False, "head_bias": False, "activation": "relu"},
    ),
    "attention_bias_only": (7, {"ffn_bias": False, "activation": "gelu_tanh", "d_model": 48}),
    "ffn_bias_only": (7, {"attention_bias": False, "norm": "post", "activation": "gelu_tanh"}),
    "four_layers": (9, {"layers": 4, "d_model": 36, "d_k": 10, "d_v": 3, "d_ff": 33}),
    "four_layers_post": (11, {"layers": 4, "norm": "post", "d_model": 20, "final_norm": True}),
    "no_final_norm": (9, {"final_norm": False, "d_model": 16}),
    "long": (20, {"d_model": 25, "heads": 1, "d_ff": 37}),
    "blocks_of_queries": (40, {"d_model": 20, "heads": 2, "loss_positions": "all"}),
    "long_heads_all": (20, {"heads": 4, "d_k": 9, "d_v": 6, "loss_positions": "all"}),
    "narrow_heads": (45, {"d_model": 20, "heads": 4, "loss_positions": "all"}),
    "narrow_heads_last": (34, {"d_model": 12, "heads": 4, "d_k": 3, "d_v": 4, "causal": False}),
    "spare_positions": (7, {"max_positions": 12, "d_model": 20}),
    "wide_post": (5, {"norm": "post", "d_model": 72, "heads": 2, "layers": 1}),
    "not_causal": (9, {"causal": False, "heads": 2}),
    "no_norm": (9, {"norm": "none", "heads": 2, "d_model": 20}),
    "no_norm_all_tied": (
        7,
        {"norm": "none", "layers": 1, "d_model": 8, "loss_positions": "all", "tied_head": True},
    ),
    "no_attention": (7, {"attention": "none", "d_model": 20}),
    "no_attention_post_all": (
        5,
        {"attention": "none", "norm": "post", "loss_positions": "all", "layers": 1},
    ),
    "scales_alone": (9, {"norm_bias": False, "d_model": 20, "loss_positions": "all"}),
}

NAMES = tuple(ARCHITECTURES)

# Networks of one logit for binary chains, whatever family: name -> (length, [model])
_SINGLE = {"d_model": 12, "layers": 1, "logits": "single"}
BINARY: dict[str, tuple[int, dict[str, Any]]] = {
    "single_tied": (
        23,
        {
            **_SINGLE,
            "norm": "none",
            "activation": "relu",
            "tied_head": True,
            "loss_positions": "all",
        },
    ),
    "single_untied": (23, {**_SINGLE, "heads": 2, "loss_positions": "all"}),
    "single_tied_last": (
        23,
        {**_SINGLE, "tied_head": True, "attention_bias": False, "norm": "post"},
    ),
    "single_without_bias": (
        23,
        {**_SINGLE, "attention": "none", "head_bias": False, "loss_positions": "all"},
    ),
    "canonical_last": (23, {"family": "canonical", "loss_positions": "last"}),
    "canonical_all": (23, {"family": "canonical", "loss_positions": "all"}),
}


# Networks of vectors: name -> ([task], [model]); fuzzy has numbers at one position, sraven ids at
# four. Every kind of attention and value path, odd T, heads 1 to 16 of size 2, 4 and 16.
_FUZZY = {"name": "fuzzy", "samples": 17}
_RAVEN = {"name": "sraven"}
VECTORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{scores}_{path}": (
        {**_FUZZY, "samples": 17 + 2 * i + 5 * j},
        {
            "d_model": 20,
            # one head's score over its own root mean square is its sign
            "heads": 16 if heads == 1 and scores == "rms_head" else heads,
            "d_k": size,
            "d_v": 5 - size if size < 4 else size,
            "attention": scores,
            "value_path": path,
            "causal": (i + j) % 2 == 0,
            "activation": "gelu_tanh",
        },
    )
    for i, scores in enumerate(("softmax", "linear", "rms_head"))
    for j, (path, heads, size) in enumerate(
        (("none", 8, 2), ("linear", 1, 4), ("relu", 8, 2), ("deep", 4, 4))
    )
} | {
    "rows_softmax": (_RAVEN, {"d_model": 24, "heads": 16, "d_k": 4, "d_v": 4, "causal": False}),
    "rows_plain": (_RAVEN, {"d_model": 20, "heads": 2, "position": "none", "layers": 1}),
    "rows_rms_relu": (
        _RAVEN,
        {
            "d_model": 32,
            "heads": 2,
            "d_k": 16,
            "d_v": 16,
            "attention": "rms_head",
            "value_path": "relu",
            "buckets": 9,
            "norm": "post",
            "causal": False,
        },
    ),
    "no_norm_no_bias": (
        _FUZZY,
        {
            "d_model": 12,
            "heads": 3,
            "norm": "none",
            "attention": "linear",
            "attention_bias": False,
            "ffn_bias": False,
            "head_bias": False,
            "causal": False,
        },
    ),
    "bent_values": (_FUZZY, {"d_model": 20, "heads": 4, "value_activation": "relu"}),
    "bent_values_plain": (
        _FUZZY,
        {"d_model": 20, "heads": 2, "value_activation": "relu", "position": "none"},
    ),
    "bent_values_generated": (
        _FUZZY,
        {"d_model": 20, "heads": 4, "value_activation": "relu", "value_path": "linear"},
    ),
    "no_attention": (_FUZZY, {"d_model": 20, "attention": "none", "position": "none"}),
}


# Bottlenecks: name -> ([task], [model]). Widths of query and hidden layer that are whole vectors
# and that are not, a hidden layer of one unit, codes wider than what they generate.
_TEACHER = {"name": "hyperteacher", "samples": 9, "dim": 5, "hidden": 4}
_NARROW = {"family": "bottleneck", "d_model": 20, "heads": 2}
BOTTLENECKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "usual": (_TEACHER, {**_NARROW, "hidden": 10}),
    "paper": (
        {**_TEACHER, "samples": 12, "dim": 16},
        {"family": "bottleneck", "d_model": 32, "heads": 4, "hidden": 32},
    ),
    "sees_query": (
        _TEACHER,
        {**_NARROW, "hidden": 7, "sees_query": True, "net_activation": "relu", "head_bias": True},
    ),
    "empty_token": (
        {**_TEACHER, "form": "extra"},
        {**_NARROW, "latent": 12, "hidden": 3, "net_activation": "gelu_tanh", "code_bias": False},
    ),
    "empty_token_sees_query": (
        {**_TEACHER, "form": "extra", "dim": 3},
        {**_NARROW, "sees_query": True, "attention": "linear", "norm": "none", "hidden": 16},
    ),
    "one_unit": (
        {**_TEACHER, "dim": 1},
        {**_NARROW, "hidden": 1, "latent": 1, "position": "none", "norm": "post"},
    ),
    "fuzzy": (_FUZZY, {**_NARROW, "hidden": 18, "value_path": "relu", "query_width": 3}),
}


def architecture(name: str) -> tuple[AnchorConfig, ModelConfig]:
    """The task (only its length differs) and the resolved model of one entry."""
    length, changes = ARCHITECTURES[name]
    task = AnchorConfig(seq_len=length)
    return task, resolve(ModelConfig(**changes), Ports(length, VOCABULARY))


def sections_of(name: str, **task: Any) -> dict[str, Any]:
    """[task] and [model] of one entry, also of a binary one; `task` are fields of the anchor's."""
    if name in BINARY:
        length, model = BINARY[name]
        return {"task": MarkovConfig(seq_len=length), "model": model}
    length, changes = ARCHITECTURES[name]
    return {"task": AnchorConfig(seq_len=length, **task), "model": ModelConfig(**changes)}


def every_setting() -> list[ModelConfig]:
    """Resolved models over the product of all switches that add or remove tensors."""
    switches = {
        "layers": (1, 3),
        "norm": ("pre", "post", "none"),
        "norm_bias": (True, False),
        "attention": ("softmax", "none"),
        "final_norm": (None, True),
        "attention_bias": (True, False),
        "ffn_bias": (True, False),
        "head_bias": (True, False),
        "tied_head": (True, False),
    }
    models = []
    for values in itertools.product(*switches.values()):
        settings: dict[str, Any] = dict(zip(switches, values, strict=True))
        model = ModelConfig(d_model=12, heads=3, d_k=4, d_v=5, d_ff=7, **settings)
        models.append(resolve(model, Ports(9, VOCABULARY)))
    return models
