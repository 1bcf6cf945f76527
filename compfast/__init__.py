"""compfast: trains hundreds of tiny transformers at once and says which solution each learned.

In short:

    import compfast
    run = compfast.train(compfast.Config(), out="runs/first")
    run.members, run.metrics, run.params(0), run.model(0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compfast.cluster.merging import merge
    from compfast.config import Config
    from compfast.errors import (
        AllDivergedError,
        CompfastError,
        Interrupted,
        StorageError,
        UsageError,
    )
    from compfast.export.pretrained import from_pretrained
    from compfast.runs.reading import Run, load
    from compfast.training.callbacks import Callback
    from compfast.training.outside import from_module
    from compfast.training.runs import train

__all__ = [
    "AllDivergedError",
    "Callback",
    "CompfastError",
    "Config",
    "Interrupted",
    "Run",
    "StorageError",
    "UsageError",
    "from_module",
    "from_pretrained",
    "load",
    "merge",
    "train",
]

# Looked up on first use, so that `import compfast` loads neither torch nor the data stack.
_HOMES = {
    "Callback": "training.callbacks",
    "Config": "config",
    "Run": "runs.reading",
    "from_module": "training.outside",
    "from_pretrained": "export.pretrained",
    "load": "runs.reading",
    "merge": "cluster.merging",
    "train": "training.runs",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
