"""Initial weights: Normal(0, (d_in^-gamma)^2) from the init streams.

Zhang et al. 2024, arXiv 2405.05409, section 3 (each tensor's own d_in); groups, d_model as
d_in and the 1/sqrt(2L) of residual projections: arXiv 2501.08537.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from compfast.config import InitConfig, MemberSpec, ModelConfig
from compfast.models.params import Tensor, parameter_table
from compfast.streams import fixedmath, philox

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def initial_std(spec: MemberSpec) -> Float64:
    """Standard deviation a tensor of the parameter table, float64 [tensors]; 0 if not normal."""
    table = parameter_table(spec.model)
    return np.array([_std(tensor, spec.init, spec.model) for tensor in table])


def initial_parameters(spec: MemberSpec, std: Float64) -> dict[str, Float32]:
    """name -> float32 array of the tensor's shape; `std` [tensors] as in `initial_std`.

    Element e (row-major) takes word or normal e of the stream (seed, INIT, tensor id, 0). It is
    computed in float64 and rounded to float32 once: std * z for normal tensors; for biases with
    init.bias = uniform (2 u - 1) / sqrt(fan_in) with a float32 uniform u, which is PyTorch's law.
    """
    table = parameter_table(spec.model)
    return {t.name: initial_values(t, spec, float(s)) for t, s in zip(table, std, strict=True)}


def initial_values(tensor: Tensor, spec: MemberSpec, std: float = 0.0) -> Float32:
    """One tensor of `initial_parameters`; `std` counts for normal ones only."""
    stream = (spec.init_seed, philox.INIT, tensor.id, 0)
    if tensor.init == "normal":
        flat = (std * philox.normals(*stream, tensor.size)).astype(np.float32)
    elif tensor.init == "bias" and spec.init.bias == "uniform":
        u = philox.uniforms(philox.words(*stream, 0, tensor.size)).astype(np.float64)
        flat = ((2.0 * u - 1.0) / math.sqrt(tensor.fan_in)).astype(np.float32)
    else:
        flat = np.full(tensor.size, 1.0 if tensor.init == "one" else 0.0, dtype=np.float32)
    return flat.reshape(tensor.shape)


def _std(tensor: Tensor, init: InitConfig, model: ModelConfig) -> float:
    if tensor.init != "normal":
        return 0.0
    fan_in = model.d_model if init.fan_in == "d_model" else tensor.fan_in
    std = _power(fan_in, -init.gamma_of(tensor.group))
    scaled = init.residual_scale and tensor.residual
    return std / math.sqrt(2.0 * model.layers) if scaled else std


@lru_cache(maxsize=4096)
def _power(base: int, exponent: float) -> float:
    """base ** exponent, correctly rounded in decimal: libm's pow picks code by CPU."""
    with fixedmath.forty_digits():
        return float(Decimal(base) ** Decimal(exponent))
