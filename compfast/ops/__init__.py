"""The engine's kernels as single PyTorch operations over M members; the member axis is first.

import compfast.ops as ops
y = ops.linear(x, weight, bias, activation="gelu")

impl="native" (the default): the C++ kernels, float32 on the CPU, differentiable once, usable under
torch.compile(fullgraph=True). impl="torch": the same in plain PyTorch, any device and float type.
What is asked for is what runs: where it cannot, UsageError says why.
"""

from compfast.ops.activation import activation
from compfast.ops.adamw import adamw
from compfast.ops.attention import attention
from compfast.ops.cross_entropy import cross_entropy
from compfast.ops.embedding import embedding
from compfast.ops.layer_norm import layer_norm
from compfast.ops.linear import linear
from compfast.ops.mixed_attention import mixed_attention
from compfast.ops.philox import philox
from compfast.ops.sgd import sgd

__all__ = [
    "activation",
    "adamw",
    "attention",
    "cross_entropy",
    "embedding",
    "layer_norm",
    "linear",
    "mixed_attention",
    "philox",
    "sgd",
]
