"""Initial weights: Normal(0, (d_in^-gamma)^2) from the init streams, and what stands beside it.

Zhang et al. 2024, arXiv 2405.05409, section 3 (each tensor's own d_in); groups, d_model as
d_in and the 1/sqrt(2L) of residual projections: arXiv 2501.08537. A plain std, constants and
rank one: arXiv 2406.03072 and its code.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compfast.config import InitConfig, MemberSpec, ModelSection
from compfast.errors import UsageError
from compfast.models import rank_one, truncated
from compfast.models.params import Tensor, parameter_table
from compfast.streams import fixedmath, philox

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
_LAWS: dict[str, Any] = {"rank_one": rank_one, "truncated": truncated}


def initial_std(spec: MemberSpec) -> Float64:
    """Standard deviation a tensor of the parameter table, float64 [tensors]; 0 if not of a normal
    law, whole or truncated."""
    table = parameter_table(spec.model)
    return np.array([_std(tensor, spec.init, spec.model) for tensor in table])


def check_init(init: InitConfig, model: ModelSection) -> None:
    """Raise UsageError for initial weights that this resolved model has no tensors for."""
    table = parameter_table(model)
    names = [tensor.name for tensor in table]
    for key, _ in init.constants:
        if not any(_is_called(name, key) for name in names):
            raise UsageError(
                f"init.constants names {key!r}; this model has {', '.join(names[:6])}"
                + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            )
    if init.law == "rank_one" and not any(map(rank_one.rules, table)):
        raise UsageError(
            f"init.law is rank_one, which is of tables and FFN matrices; family {model.family} has"
            " none of them"
        )


def is_gaussian(tensor: Tensor, init: InitConfig) -> bool:
    """Whether its initial values are a std times the normals of its stream."""
    other = _LAWS.get(init.law)
    ruled = other is not None and other.rules(tensor)
    return tensor.init == "normal" and _constant(tensor, init) is None and not ruled


def initial_parameters(spec: MemberSpec, std: Float64) -> dict[str, Float32]:
    """name -> float32 array of the tensor's shape; `std` [tensors] as in `initial_std`.

    Element e (row-major) takes word or normal e of the stream (seed, INIT, tensor id, 0). It is
    computed in float64 and rounded to float32 once: std * z for normal tensors; for biases with
    init.bias = uniform (2 u - 1) / sqrt(fan_in) with a float32 uniform u, which is PyTorch's law.
    init.constants come before that, and another init.law before the normals.
    """
    table = parameter_table(spec.model)
    return {t.name: initial_values(t, spec, float(s)) for t, s in zip(table, std, strict=True)}


def initial_values(tensor: Tensor, spec: MemberSpec, std: float = 0.0) -> Float32:
    """One tensor of `initial_parameters`; `std` counts for normal ones only."""
    stream = (spec.init_seed, philox.INIT, tensor.id, 0)
    constant = _constant(tensor, spec.init)
    if constant is not None:
        flat = np.full(tensor.size, constant, dtype=np.float32)
    elif spec.init.law == "rank_one" and rank_one.rules(tensor):
        flat = rank_one.values(tensor, spec.init_seed, spec.init.rank_one).ravel()
    elif spec.init.law == "truncated" and truncated.rules(tensor):
        flat = (std * truncated.normals(tensor, spec.init_seed)).astype(np.float32)
    elif tensor.init == "normal":
        flat = (std * philox.normals(*stream, tensor.size)).astype(np.float32)
    elif tensor.init == "bias" and spec.init.bias == "uniform":
        u = philox.uniforms(philox.words(*stream, 0, tensor.size)).astype(np.float64)
        flat = ((2.0 * u - 1.0) / math.sqrt(tensor.fan_in)).astype(np.float32)
    else:
        flat = np.full(tensor.size, 1.0 if tensor.init == "one" else 0.0, dtype=np.float32)
    return flat.reshape(tensor.shape)


def _constant(tensor: Tensor, init: InitConfig) -> float | None:
    """The number that the first of init.constants which names the tensor gives it."""
    found = (number for key, number in init.constants if _is_called(tensor.name, key))
    return next(found, None)


def _is_called(name: str, key: str) -> bool:
    return name == key or name.endswith(f".{key}")


def _std(tensor: Tensor, init: InitConfig, model: Any) -> float:
    """`model` has `layers` where a tensor of it is residual, and may have a `d_model`."""
    cut = init.law == "truncated" and truncated.rules(tensor) and _constant(tensor, init) is None
    if not (cut or is_gaussian(tensor, init)):
        return 0.0
    own = tensor.fan_in
    fan_in = getattr(model, "d_model", own) if init.fan_in == "d_model" else own
    std = _power(fan_in, -init.gamma_of(tensor.group)) if init.std is None else init.std
    scaled = init.residual_scale and tensor.residual
    return std / math.sqrt(2.0 * model.layers) if scaled else std


@lru_cache(maxsize=4096)
def _power(base: int, exponent: float) -> float:
    """base ** exponent, correctly rounded in decimal: libm's pow picks code by CPU."""
    with fixedmath.forty_digits():
        return float(Decimal(base) ** Decimal(exponent))
