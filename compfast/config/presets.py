"""The anchor task's named starting points: section -> field -> value, laid over compfast.Config().

[Z24] = Zhang et al. 2024, arXiv 2405.05409, and the code its authors released.
"""

from __future__ import annotations

from typing import Any

Preset = dict[str, dict[str, Any]]

# The network of [Z24] in form; the presets below give its sizes.
_PAPER_FORM: dict[str, Any] = {
    "layers": 2,  # [Z24] figures 3 to 5; its grids go from 2 to 6
    "heads": 1,  # [Z24] single-head model
    "norm": "post",  # [Z24] X <- LN(X + Attn(X)), X <- LN(X + FFN(X))
    "final_norm": False,  # [Z24]
    "activation": "relu",  # [Z24]
    "attention_bias": False,  # [Z24] code
    "ffn_bias": False,  # [Z24] code
    "head_bias": True,  # [Z24] code
    "tied_head": False,  # [Z24] code
    "causal": True,  # [Z24]
    "norm_eps": 1e-5,  # [Z24] code: PyTorch's default
    "loss_positions": "last",  # [Z24]
}
_PAPER_INIT: dict[str, Any] = {
    "fan_in": "tensor",  # [Z24] each tensor's own d_in
    "residual_scale": False,  # [Z24] no 1/sqrt(2L)
    "bias": "uniform",  # [Z24] code: the head's bias keeps PyTorch's default
}
_PAPER_ADAMW: dict[str, Any] = {
    "weight_decay": 0.01,  # [Z24]
    "decay": "all",  # [Z24] code: one parameter group
    "clip": 1.0,  # [Z24]
    "beta1": 0.9,  # [Z24] code
    "beta2": 0.999,  # [Z24] code
    "eps": 1e-8,  # [Z24] code
    "schedule": "paper",  # [Z24] code: linear from base_lr, cosine back, stepped a batch
    "warmup": 10 / 210,  # [Z24] 10 of 210 epochs
    "base_lr": 1e-5,  # [Z24]
}

# What compfast.Config is by itself.
_TINY: Preset = {}

# The form of the paper's network at a size for a CPU; sizes, items and length are ours, chosen
# where the paper's order is seen: symmetric at large initial weights, inferential at smaller ones.
_REPLICA: Preset = {
    "task": {"item_high": 60},  # 40 items, fewer than the network has dimensions
    "model": {**_PAPER_FORM, "d_model": 64, "d_k": 32, "d_v": 32, "d_ff": 192},
    "init": _PAPER_INIT,
    "optimizer": {**_PAPER_ADAMW, "lr": 5e-4},
    "training": {"steps": 12_000, "batch_size": 128},
}

_PAPER: Preset = {
    "task": {
        "anchors": (1, 2, 3, 4),  # [Z24] section 3
        "shifts": (5, 1, -2, -8),  # [Z24] section 3
        "item_low": 20,  # [Z24] section 3
        "item_high": 100,  # [Z24] section 3: items 20 to 99
        "seq_len": 9,  # [Z24] section 3
        "overridden": ((3, 4, -6),),  # [Z24] section 3: the non-inferential pair
        "unseen": ((4, 3),),  # [Z24] section 3
        "key_modulus": 7,  # [Z24] text: n - 2; its code has 9 (task.key_modulus = 9)
        "data": "fixed",  # [Z24] drawn once before training
        "fixed_total": 900_000,  # [Z24] over all 32 groups
        "fixed_train_weight": 9,  # [Z24] code: 9 train-side to 1 test-side
    },
    "model": {
        **_PAPER_FORM,
        "vocab_size": 201,  # [Z24] code
        "max_positions": 20,  # [Z24] code
        "d_model": 400,  # [Z24]
        "d_k": 200,  # [Z24]
        "d_v": 200,  # [Z24]
        "d_ff": 1200,  # [Z24]
    },
    "init": _PAPER_INIT,
    "optimizer": {**_PAPER_ADAMW, "lr": 2.5e-4},  # [Z24] code: multiplier 25 on 1e-5
    "training": {
        "steps": 77_700,  # [Z24] 210 epochs of 759,375 // 2,048 = 370 batches
        "batch_size": 2048,  # [Z24]
        "log_every": 370,  # an epoch
        "eval_every": 3_700,  # ten epochs
        "stop_loss": 1e-7,  # [Z24] code
    },
}

PRESETS = {"tiny": _TINY, "replica": _REPLICA, "paper": _PAPER}
