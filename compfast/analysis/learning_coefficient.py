"""The local learning coefficient of members, estimated by devinterp.

Lau et al., arXiv 2308.12108: n_beta (E L - L(w)), the mean being over weights that stochastic
gradient Langevin dynamics visits around w. The sampler is devinterp's; here its data set is one
row that stands for the whole fixed batch, so that each of its steps has the batch's gradient.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from compfast.analysis.effort import Effort, timed
from compfast.analysis.losses import BatchLoss, finite_or_null, fixed_batch, step_of
from compfast.analysis.stacked import chosen
from compfast.analysis.work import Tick
from compfast.config import MemberSpec
from compfast.errors import UsageError
from compfast.runs.reading import Run

Float64 = NDArray[np.float64]

_TRIED = 8  # steps that are timed
_SCHEMA: dict[str, Any] = {
    "member": pl.Int64,
    "step": pl.Int64,
    "llc": pl.Float64,
    "llc_std": pl.Float64,
    "loss": pl.Float64,
    "n": pl.Int64,
    "n_beta": pl.Float64,
}


def local_learning_coefficient(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    items: int | None = None,
    lr: float = 1e-4,
    localization: float = 100.0,
    n_beta: float | None = None,
    chains: int = 4,
    draws: int = 200,
    burn_in: int = 200,
    progress: Tick | None = None,
) -> pl.DataFrame:
    """devinterp's estimate for each member, of its training loss on a fixed batch of n sequences.

    A row a member: `llc` is n_beta times how far the loss of `draws` steps, after `burn_in`
    others, is above `loss`, mean over `chains`, and `llc_std` the standard deviation over chains
    (null of one). A chain takes steps of size `lr` and is drawn back with strength `localization`;
    `n_beta` None is n / log n. The numbers hang on these three, so compare members at the same
    ones. Null where a chain meets a loss that is not finite. The batch is `sharpness`'s. Chains are
    seeded by the init seed; one member at a time, as devinterp draws from PyTorch's global
    generator, which is left as it was. Raises UsageError for settings, a step or members that
    there are not, and where devinterp 2 is not installed.
    """
    work = _Sampling(run, step, items, lr, localization, n_beta, chains, draws, burn_in)
    work.sampler()
    todo = [spec for specs in chosen(run.groups, members) for spec in specs]

    from compfast.engines.aside import aside

    rows = []
    for done, spec in enumerate(todo, start=1):
        rows.append(aside(functools.partial(work.row, spec)))
        if progress is not None:
            progress(done, len(todo))
    return finite_or_null(pl.DataFrame(rows, schema=_SCHEMA).sort("member"))


def local_learning_coefficient_effort(
    run: Run,
    step: int | None = None,
    members: Sequence[int] | None = None,
    *,
    items: int | None = None,
    lr: float = 1e-4,
    localization: float = 100.0,
    n_beta: float | None = None,
    chains: int = 4,
    draws: int = 200,
    burn_in: int = 200,
) -> Effort:
    """What `local_learning_coefficient` of the same arguments takes, from a few steps of each
    shape. Raises UsageError as it does."""
    work = _Sampling(run, step, items, lr, localization, n_beta, chains, draws, burn_in)
    seconds, steps = 0.0, 0
    for specs in chosen(run.groups, members):
        count = len(specs) * chains * (draws + burn_in)
        seconds += count * timed(work.prepared(specs[0])) / _TRIED
        steps += count
    return Effort("steps of devinterp's sampler", steps, seconds, 1)


@dataclass(frozen=True, slots=True)
class _Sampling:
    run: Run
    step: int | None
    items: int | None
    lr: float
    localization: float
    n_beta: float | None
    chains: int
    draws: int
    burn_in: int

    def __post_init__(self) -> None:
        step_of(self.run, self.step)
        for name, least in (("chains", 1), ("draws", 1), ("burn_in", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name, valid in (
            ("lr", 0 < self.lr < math.inf),
            ("localization", 0 <= self.localization < math.inf),
            ("n_beta", self.n_beta is None or 0 < self.n_beta < math.inf),
        ):
            if not valid:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a positive number")

    def sampler(self) -> Callable[..., Any]:
        """devinterp's `llc`."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its many dependencies
                found: Callable[..., Any] = importlib.import_module("devinterp.slt.llc").llc
        except (ImportError, AttributeError) as error:
            raise UsageError(
                "local_learning_coefficient needs the package devinterp, 2.0 or newer, which cannot"
                f" be used ({error}): pip install 'devinterp>=2'"
            ) from None
        return found

    def row(self, spec: MemberSpec) -> dict[str, Any]:
        loss = self._loss(spec)
        n_beta = self.n_beta or loss.items / max(math.log(loss.items), 1.0)
        steps = self.burn_in + self.draws
        begin, trace = self.sampled(loss, n_beta, spec.init_seed, self.chains, steps)
        each = n_beta * (trace[:, self.burn_in :].mean(axis=1) - begin)
        return {
            "member": spec.member,
            "step": step_of(self.run, self.step),
            "llc": float(each.mean()),
            "llc_std": float(each.std(ddof=1)) if self.chains > 1 else math.nan,
            "loss": begin,
            "n": loss.items,
            "n_beta": n_beta,
        }

    def prepared(self, spec: MemberSpec) -> Callable[[], Callable[[], Any]]:
        """Some steps, for `timed`."""

        def prepare() -> Callable[[], Any]:
            loss = self._loss(spec)
            return lambda: self.sampled(loss, self.n_beta or 1.0, 0, 1, _TRIED)

        return prepare

    def sampled(
        self, loss: BatchLoss, n_beta: float, seed: int, chains: int, steps: int
    ) -> tuple[float, Float64]:
        """The loss at the weights, and where each chain is before each step, [chains, steps].

        Of chains that met a loss that is not finite all is nan.
        """
        import torch

        finite = True

        def of_batch(module: Any, rows: torch.Tensor) -> torch.Tensor:
            nonlocal finite
            value = loss.of(module)
            finite = finite and bool(torch.isfinite(value))
            return value.expand(len(rows), 1)

        llc = self.sampler()
        with _as_it_was(), tempfile.TemporaryDirectory(prefix="compfast-llc-") as folder:
            found = llc(
                loss.module,
                _OneRow(),
                {},
                lr=self.lr,
                n_beta=n_beta,
                loss_fn=of_batch,
                num_chains=chains,
                num_draws=steps,  # its mean has burn-in steps, too: they are taken off here
                num_init_loss_batches=1,
                batch_size=1,
                localization=self.localization,
                init_seed=seed % 2**31,  # NumPy's takes less than 2^32
                device="cpu",
                output_path=Path(folder) / "samples.zarr",
            )
            begin, trace = float(found["init_loss"]), np.array(found["loss_trace"], np.float64)
        return begin, trace if finite else np.full_like(trace, np.nan)

    def _loss(self, spec: MemberSpec) -> BatchLoss:
        weights = self.run.params(spec.member, self.step)
        return BatchLoss(spec, weights, fixed_batch([spec], self.items))


class _OneRow:
    """devinterp's data set: its "input_ids" stand for the whole batch, one token to predict."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        import torch

        return {"input_ids": torch.zeros(2, dtype=torch.int64)}


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """What devinterp sets for the whole process is set back: generators it seeds. Its progress
    bars, and warnings of what `sampled` sees itself, go nowhere."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (that is what it seeds)
    try:
        with (
            torch.random.fork_rng(devices),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)  # noqa: NPY002
