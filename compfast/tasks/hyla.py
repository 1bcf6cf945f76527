"""Settings that the tasks of arXiv 2406.05816 share: the released code's, in Flax."""

from __future__ import annotations

from compfast.tasks.base import Settings

NETWORK: Settings = {
    "d_model": 128,
    "d_ff": 256,
    "norm": "pre",
    "norm_eps": 1e-6,
    "activation": "gelu_tanh",  # Flax's default
    "causal": False,
    "position": "relative",
}
HYLA: Settings = {"attention": "rms_head", "value_path": "relu"}
INIT: Settings = {"gamma": 0.5, "law": "truncated"}  # Flax's LeCun normal
OPTIMIZER: Settings = {
    "lr": 1e-3,
    "weight_decay": 0.1,
    "decay": "arrays",
    "clip": 0.0,
    "schedule": "cosine",
    "floor": 0.1,
}
