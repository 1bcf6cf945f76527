"""The networks whose kernels benchmarks/triton_resources.py compiles, and what of each it keeps."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from compfast.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from compfast.config.settings import from_dict
from compfast.engines.triton import attention, attention_bias, masked_cross_entropy
from compfast.engines.triton.launch import Launch, Rows
from compfast.tasks import preset
from compfast.tasks.anchor import AnchorConfig


def _measured(d: int, heads: int, tokens: int = 9) -> Config:
    return Config(
        task=AnchorConfig(seq_len=tokens),
        model=ModelConfig(d_model=d, heads=heads),
        optimizer=OptimizerConfig(),
        training=TrainingConfig(),
    )


# The presets, and networks of the form that benchmarks/ measures. "paper", "t128", "long" and
# "markov-paper", whose attention is tiled (in fp32 from 129 positions), and "markov" run one launch
# an op, the others fused layers.
PRESETS = ("tiny", "replica", "paper")
CHAINS = ("markov", "markov-paper")  # without norms, one logit; norms without shifts, T 1024
# Networks of vectors: steps at the papers' sizes but for the linear kernels, whose tiles of 64
# columns are those of "paper" and "t128"; of the presets that run in minutes, of a bottleneck and
# of networks that no preset is, the kernels that networks of tokens have not.
PAPERS = ("fuzzy-paper", "sraven-paper", "hyperteacher-paper")
SMALL = ("fuzzy", "sraven", "hyperteacher")
BOTTLENECK = "hyperteacher-bottleneck-paper"
DEEP = "deep"  # fuzzy-paper with the last value path and dropped weights
WIDE = "wide"  # the same with heads of 16, whose value path has products of 16 columns
OWN = (
    *("mixed_attention.", "mixed_backward.", "mixed_sums.", "select.", "squared_error."),
    *("dropout.", "generated.", "vectors.", "rows._multiply"),
)


def keeps(shape: str, kernel: str) -> bool:
    """Whether the table has this kernel of this shape."""
    if shape in PAPERS:
        return not kernel.startswith("linear.")
    return kernel.startswith(OWN) or shape not in (*SMALL, BOTTLENECK, DEEP, WIDE)


def _changed(name: str, **model: Any) -> Config:
    config = from_dict(preset(name))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


SHAPES: dict[str, Config] = {
    **{name: from_dict(preset(name)) for name in PRESETS},
    "d64": _measured(64, heads=2),
    "d128": _measured(128, heads=4),
    "t128": _measured(128, heads=2, tokens=128),
    "long": _measured(128, heads=2, tokens=144),
    **{name: from_dict(preset(name)) for name in (*CHAINS, *PAPERS, *SMALL, BOTTLENECK)},
    DEEP: _changed("fuzzy-paper", value_path="deep", attention_dropout=0.1),
    WIDE: _changed("fuzzy-paper", d_k=16, d_v=16, value_activation="relu"),
}
SGD = "d64"  # the shape that is also trained by SGD, which no preset is
BIAS = "bias"  # attention with a relative position bias, which no preset has
MASKED = "masked"  # the loss under a mask, which users' tasks have
ALL = (*SHAPES, BIAS, MASKED)


def extra_launches(shape: str, precision: str) -> list[Launch]:
    """Those of BIAS or MASKED."""
    return masked_launches() if shape == MASKED else bias_launches(precision)


def masked_launches(sequences: int = 128, length: int = 9, vocabulary: int = 110) -> list[Launch]:
    logits = _rows(sequences, length, vocabulary)
    live = torch.empty(1, dtype=torch.int32, device="meta")
    tokens = torch.empty((1, sequences, length), dtype=torch.int32, device="meta")
    loss = torch.empty((1, masked_cross_entropy.programs(logits)), device="meta")
    return [masked_cross_entropy.loss_and_gradient(logits, tokens, tokens, logits, loss, live)]


def bias_launches(precision: str, sequences: int = 128, length: int = 9) -> list[Launch]:
    """Attention and the gradient of its bias, two heads of 32, every query and only the last."""
    live = torch.empty(1, dtype=torch.int32, device="meta")
    bias = torch.empty((1, 2 * (2 * length - 1)), device="meta")
    d_bias = torch.empty((1, 4, 2 * (2 * length - 1)), device="meta")
    how: dict[str, Any] = {"heads": 2, "causal": True, "precision": precision}
    made = []
    for each in (length, 1):
        q, k, v, o = (_rows(sequences, n, 64) for n in (each, length, length, each))
        made.append(attention.forward(q, k, v, o, live, bias=bias, **how))
        made.append(attention.backward(o, q, k, v, q, k, v, live, bias=bias, **how))
        made.append(attention_bias.bias_gradient(o, q, k, v, bias, d_bias, live, **how))
    return made


def _rows(sequences: int, each: int, width: int) -> Rows:
    padded = -(-width // 16) * 16
    return Rows(torch.empty((1, sequences * each, padded), device="meta"), width, each)
