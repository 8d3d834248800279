"""The common part of every loop of steps: problem, tolerance, and how a loop ends."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

# Of the step that would just be accepted, the share that is tried; and the least.
AIM, SHRINK = 0.8, 0.1

RUNNING, FINISHED, STOPPED, BUDGET, FAILED = range(5)


class Tolerance(NamedTuple):
    """rtol, atol, and the unit roundoff of what is computed."""

    rtol: Any
    atol: Any
    resolution: Any


class Fixed(NamedTuple):
    """The length of every step; and of a path with noise the seed, and its number."""

    step: Any
    seed: Any = 0
    path: Any = 0


class Limits(NamedTuple):
    """Where a loop ends: at t, at a number of evaluations or steps, or at a small J or ‖∇J‖.

    And how long a step of an adaptive method may be.
    """

    t: Any
    evaluations: Any
    steps: Any
    loss: Any
    gradient_norm: Any
    longest: Any = inf


@dataclass(frozen=True)
class Problem:
    """The problem that is integrated.

    Parameters
    ----------
    derivative
        (t, y) ↦ (ẏ, measures), the latter J and ‖∇J‖.
    rate
        Derivatives (points, n) ↦ rates (points,) at which the energy falls.
    uphill
        Whether J is to rise, so that its falls are what is remarkable.
    diffusion
        Of an SDE: (t, y) ↦ (ξ ↦ Bξ, shape of ξ).
    """

    derivative: Callable
    rate: Callable
    uphill: bool = False
    diffusion: Callable | None = None

    def rhs(self, t: Any, y: Any) -> Any:
        """Return ẏ alone; XLA drops what only the measures need."""
        return self.derivative(t, y)[0]


def rise(xp: Any, problem: Problem, carry: Any, measures: Any, accepted: Any) -> Any:
    """Return the largest rise of J over a step, with the one that was just attempted."""
    change = measures[0] - carry.measures[0]
    change = -change if problem.uphill else change
    return xp.maximum(carry.rise, xp.where(accepted, change, 0.0))


def outcome(
    xp: Any, limits: Limits, accepted: Any, t: Any, t_old: Any, h_next: Any, measures: Any
) -> Any:
    """Return the status after an attempt that would end at t and start another of length h_next."""
    small = (measures[0] <= limits.loss) | (measures[1] <= limits.gradient_norm)
    after = xp.where(t >= limits.t, FINISHED, xp.where(small, STOPPED, RUNNING))
    standstill = t_old + 0.1 * h_next <= t_old  # lost in the spacing of numbers
    return xp.where(accepted, after, xp.where(standstill, FAILED, RUNNING))


def rms(xp: Any, x: Any) -> Any:
    """Return root mean square."""
    return xp.sqrt(xp.mean(x * x))
