"""The gradient flow of the canonical model with its best bias, integrated.

arXiv 2406.03072; the loss is chain_theory's `reduced_loss`, and time is learning rate times steps
in the limit of small steps. Every point has its own time and step, so that one that is slow or
stiff costs the others no accuracy. The method is Dormand and Prince's of order 5 with an error
estimate of order 4 (J. Comp. Appl. Math. 6, 1980).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compfast.errors import UsageError
from compfast.tasks import chain_theory as theory
from compfast.tasks.base import Float64
from compfast.tasks.chain_theory import Reals

_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # the new point
)
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

_RELATIVE, _ABSOLUTE = 1e-10, 1e-14  # error allowed a step, of e and of w
_FIRST_STEP = 1e-3
_MOST_STEPS = 20_000
_STILL = 1e-9  # derivative by the gain of a point that has arrived at a global minimum
_AXIS = 1e-14  # e^2, and e^2 w^2, of one that has arrived at e = 0


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """Where the flow from each point is when it has arrived, or when its time is up."""

    e: Float64
    w: Float64
    loss: Float64  # the reduced one
    time: Float64
    settled: NDArray[np.bool_]  # False: still moving


def ends(e: Reals, w: Reals, p: Reals, q: Reals, until: float = 1e9) -> Ends:
    """Follow the flow from points (e, w) to where it ends.

    Not settled are points that move on after `until` or that took 20,000 steps; next to the
    saddle the flow is as slow as one likes. Raises UsageError as chain_theory does, and for a
    time that is not above 0.
    """
    shape, flow = _flow(e, w, p, q)
    _check(np.array([until], np.float64))
    flow.advance(until)
    loss = theory.reduced_loss(flow.points[0], flow.points[1], flow.p, flow.q)
    each = (*flow.points, loss, flow.time)
    at_e, at_w, loss, time = (values.reshape(shape) for values in each)
    return Ends(at_e, at_w, loss, time, flow.settled.reshape(shape))


def paths(e: Reals, w: Reals, p: Reals, q: Reals, times: Reals) -> tuple[Float64, Float64]:
    """e and w along the flow from points (e, w): arrays of the points' shape with an axis more,
    the moments `times`.

    A point that has arrived stays. Raises UsageError as chain_theory does, for times that are not
    above 0 and rising, and where one interval of them takes more than 20,000 steps.
    """
    shape, flow = _flow(e, w, p, q)
    moments = np.atleast_1d(np.asarray(times, np.float64))
    _check(moments)
    found = []
    for moment in moments:
        flow.advance(float(moment))
        late = ~flow.settled & (flow.time < moment)
        if late.any():
            at, w_at = flow.points[:, late][:, 0]
            raise UsageError(
                f"the flow at e {at:.6g}, w {w_at:.6g} takes more than {_MOST_STEPS} steps from one"
                f" of the times to the next, {moment:g}; give less distant ones"
            )
        found.append(flow.points.copy())
    both = np.stack(found, axis=-1).reshape(2, *shape, len(moments))
    return both[0], both[1]


def _check(times: Float64) -> None:
    if times.ndim != 1 or not (np.diff(times, prepend=0.0) > 0).all() or not np.isfinite(times[-1]):
        raise UsageError(
            f"times of a flow are {times.tolist()}; numbers above 0 that rise are needed"
        )


def _flow(e: Reals, w: Reals, p: Reals, q: Reals) -> tuple[tuple[int, ...], _Flow]:
    theory.reduced_gradient(e, w, p, q)  # raises for what cannot be computed
    arrays = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (e, w, p, q)))
    flat = [x.ravel().copy() for x in arrays]
    return arrays[0].shape, _Flow(np.stack(flat[:2]), flat[2], flat[3])


class _Flow:
    """Points [2, N] (rows e and w) of chains p, q [N] on their way."""

    def __init__(self, points: Float64, p: Float64, q: Float64) -> None:
        self.points, self.p, self.q = points, p, q
        self.time = np.zeros(len(p))
        self.step = np.full(len(p), _FIRST_STEP)
        self.settled = self._arrived(np.arange(len(p)))

    def advance(self, until: float) -> None:
        """Bring every point to time `until`, but those that arrive or take too many steps."""
        for _ in range(_MOST_STEPS):
            at = np.flatnonzero(~self.settled & (self.time < until))
            if not len(at):
                return
            left = until - self.time[at]
            step = np.minimum(self.step[at], left)
            new, error = self._tried(at, step)
            with np.errstate(divide="ignore"):
                change = np.clip(0.9 * error**-0.2, 0.2, 5.0)
            good = error <= 1
            # A step cut short by `until` says nothing against the longer one.
            kept = good & (step < self.step[at])
            self.step[at] = np.where(kept, np.maximum(self.step[at], step * change), step * change)
            moved = at[good]
            self.points[:, moved] = new[:, good]
            self.time[moved] = np.where(step == left, until, self.time[at] + step)[good]
            self.settled[moved] = self._arrived(moved)

    def _tried(self, at: NDArray[np.int64], step: Float64) -> tuple[Float64, Float64]:
        """Points after one step, and its error in units of what is allowed."""
        start = self.points[:, at]
        slopes = [self._slope(start, at)]
        point = start
        with np.errstate(over="ignore", invalid="ignore"):
            for stage in _STAGES:
                shift = sum(c * slope for c, slope in zip(stage, slopes, strict=True))
                point = start + step * shift
                slopes.append(self._slope(point, at))
            error = np.abs(step * sum(c * s for c, s in zip(_ERROR, slopes, strict=True)))
            allowed = _ABSOLUTE + _RELATIVE * np.maximum(np.abs(start), np.abs(point))
            worst = (error / allowed).max(axis=0)
        return point, np.where(np.isfinite(worst), worst, np.inf)

    def _slope(self, points: Float64, at: NDArray[np.int64]) -> Float64:
        """Time derivatives of points; nan beyond what chain_theory computes with."""
        within = np.where(np.abs(points) <= theory.LARGEST, points, np.nan)
        known = np.isfinite(within).all(axis=0)
        e, w = np.where(known, within, 0.0)
        by_e, by_w, _ = theory.slopes(e, w, self.p[at], self.q[at])
        slopes: Float64 = np.where(known, -np.stack([by_e, by_w]), np.nan)
        return slopes

    def _arrived(self, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """At a global minimum, or at e = 0 and not on the way from it."""
        e, w = self.points[:, at]
        by_e, _, by_gain = theory.slopes(e, w, self.p[at], self.q[at])
        near = e * e * np.maximum(1, w * w) < _AXIS
        axis = (e == 0) | (near & (e * by_e > 0))
        return np.asarray((np.abs(by_gain) < _STILL) | axis)
