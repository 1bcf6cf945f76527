"""Errors as other processes get them: pickled, copied, raised again."""

from __future__ import annotations

import concurrent.futures
import copy
import importlib
import multiprocessing
import pickle
import pkgutil
from collections.abc import Callable, Iterator

import pytest

import compfast
from compfast.engines.roofline import DivergedError
from compfast.errors import CompfastError, OutOfMemory, StorageError

Trip = Callable[[CompfastError], CompfastError]
TRIPS: list[Trip] = [
    copy.copy,
    copy.deepcopy,
    *(
        lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
]


def _kinds(of: type[CompfastError] = CompfastError) -> Iterator[type[CompfastError]]:
    yield of
    for kind in of.__subclasses__():
        yield from _kinds(kind)


# compfast.export.lens_adapter is a part of TransformerLens, which need not be there.
_APART = ("compfast._", "compfast.engines.triton", "compfast.export.lens_adapter")
for _module in pkgutil.walk_packages(compfast.__path__, "compfast."):
    if not _module.name.startswith(_APART):
        importlib.import_module(_module.name)
KINDS = list(_kinds())


def _made(kind: type[CompfastError]) -> CompfastError:
    if kind is OutOfMemory:
        return OutOfMemory()
    return DivergedError(7) if kind is DivergedError else kind("one sentence")


@pytest.mark.edge("an error of compfast is pickled or copied", "the same error comes out")
@pytest.mark.parametrize("kind", KINDS)
def test_every_error_goes_through_pickle_and_copy(kind: type[CompfastError]) -> None:
    error = _made(kind)
    error.where = "here"  # type: ignore[attr-defined]
    for trip in TRIPS:
        other = trip(error)
        assert type(other) is kind
        assert (str(other), other.args, other.exit_code) == (
            str(error),
            error.args,
            error.exit_code,
        )
        assert vars(other) == {"where": "here"}


def test_the_errors_of_every_module_are_among_them() -> None:
    assert {"UsageError", "AllDivergedError", "DivergedError"} <= {k.__name__ for k in KINDS}


def test_an_error_number_is_kept() -> None:
    error = StorageError(28, "no space left")
    other = pickle.loads(pickle.dumps(error))
    assert (str(other), other.errno) == (str(error), 28)


def _fail() -> None:
    raise OutOfMemory


def test_a_worker_process_raises_at_home() -> None:
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool,
        pytest.raises(OutOfMemory, match="out of memory"),
    ):
        pool.submit(_fail).result(timeout=60)
