"""One attempt at a step of a stabilised method, and the control of its length and stages."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flow.methods import spectral_radius as radius
from flow.methods.backend import Backend
from flow.methods.chebyshev import LONGEST_REACH, Plan, last_stage
from flow.methods.interpolation import dissipated
from flow.methods.loop_state import (
    AIM,
    BUDGET,
    SHRINK,
    Limits,
    Problem,
    Tolerance,
    outcome,
    rise,
    rms,
)

# On the spectral radius, which power iteration meets from below.
SAFETY = 1.05
# TSRKC3 is stable while steps grow by 1/0.49 at most.
GROW = 2.0
# A step costs √(hρ): the best division of the error lies between the same for each step and the
# same for each unit of time, so that the tolerance grows with the square root of hρ. The bounds
# keep a loose tolerance from meaning none: ten times, and a tenth of y, at most.
EXPONENT, LOOSEST, SHARE = 0.5, 10.0, 0.1


class Carry(NamedTuple):
    """The state between steps: y, f, both of the step before, and the watch's vector."""

    t: Any
    y: Any
    f: Any
    measures: Any  # J and ‖∇J‖
    attempted: Any  # the same where the last attempt ended
    h: Any  # of the next attempt
    t_old: Any
    y_old: Any
    f_old: Any
    watch: radius.Watch
    evaluations: Any
    steps: Any
    rejected: Any
    accepted: Any  # whether the last attempt was
    dissipated: Any
    rise: Any
    status: Any


def allowance(xp: Any, calibration: Any, z: Any, rtol: Any) -> Any:
    """Return by how much the local error of a step of hρ = z may exceed the tolerance."""
    most = xp.minimum(LOOSEST, SHARE / xp.max(rtol))
    return xp.minimum(calibration * xp.maximum(z, 1.0) ** EXPONENT, most)


def start(
    backend: Backend, problem: Problem, tolerance: Tolerance, limits: Limits, t: Any, y: Any
) -> Carry:
    """Return the first derivative, the radius from nothing, and the length of the first step."""
    xp = backend.xp
    f, measures = problem.derivative(t, y)
    watch = radius.start(backend, y, f)
    watch = radius.refine(
        backend, problem.rhs, watch, t, y, f, tolerance.resolution,
        xp.minimum(radius.COLD, limits.evaluations - 2.0),
    )  # fmt: skip
    spent = watch.spent + 2.0
    watch = watch._replace(due=spent + radius.INTERVAL)
    # As long as Euler's step is no further than y itself, and stable ...
    norm = xp.sqrt(xp.vdot(f, f))
    far = (1.0 + xp.sqrt(xp.vdot(y, y))) / xp.where(norm > 0.0, norm, 1.0)
    h = xp.minimum(far, xp.minimum(limits.t - t, 1.0))
    h = xp.minimum(h, 1.0 / xp.where(watch.radius > 0.0, SAFETY * watch.radius, 1.0 / h))
    # ... its error, by how much it turns the derivative; a hundredth of that is aimed at.
    scale = tolerance.atol + tolerance.rtol * xp.abs(y)
    turn = h * rms(xp, (problem.rhs(t + h, y + h * f) - f) / scale)
    turn = xp.where(xp.isfinite(turn), xp.maximum(turn, 1e-4), 1e6)
    zero = 0.0 * h
    return Carry(
        t + zero, y, f, measures, measures, xp.minimum(limits.t - t, 0.1 * h / xp.sqrt(turn)),
        t + zero, y, f, watch, spent + zero, zero, zero, zero == 0.0, zero, zero,
        xp.asarray(0),
    )  # fmt: skip


def attempt(
    backend: Backend,
    plan: Callable[..., Plan],
    problem: Problem,
    tolerance: Tolerance,
    limits: Limits,
    carry: Carry,
) -> Carry:
    """Attempt one step, after a look at the radius where that is due."""
    xp = backend.xp
    look = (carry.evaluations >= carry.watch.due) | ~carry.accepted
    left = limits.evaluations - carry.evaluations
    watch = radius.refine(
        backend, problem.rhs, carry.watch, carry.t, carry.y, carry.f, tolerance.resolution,
        xp.where(look, xp.minimum(radius.WARM, left), 0.0),
    )  # fmt: skip
    evaluations = carry.evaluations + watch.spent - carry.watch.spent
    watch = watch._replace(due=xp.where(look, evaluations + radius.INTERVAL, watch.due))
    rho = SAFETY * watch.radius
    # Round-off of the stages, which are double whatever the gradient is, grows as s² and is to
    # stay below the tolerance.
    most = xp.minimum(0.03 * xp.min(tolerance.rtol) / np.finfo(float).eps, LONGEST_REACH)
    rest = limits.t - carry.t
    h = xp.minimum(carry.h, most / xp.where(rho > 0.0, rho, most / carry.h))
    h = xp.minimum(xp.minimum(h, limits.longest), rest)
    step = plan(xp, h * rho, (carry.t - carry.t_old) / h)
    carry = carry._replace(watch=watch, evaluations=evaluations, h=h)

    def move(carry: Carry) -> Carry:
        u = last_stage(backend, problem.rhs, step, carry.t, carry.y, carry.f, h)
        y = (1.0 - step.gamma - step.beta) * carry.y + step.gamma * carry.y_old + step.beta * u
        t = xp.where(h >= rest, limits.t, carry.t + h)
        f, measures = problem.derivative(t, y)
        at, at_old, at_new, slope, slope_new = step.error
        error = at * carry.y + at_old * carry.y_old + at_new * y
        error = error + h * (slope * carry.f + slope_new * f)
        scale = tolerance.atol + tolerance.rtol * xp.maximum(xp.abs(carry.y), xp.abs(y))
        size = rms(xp, error / scale) / allowance(xp, step.calibration, h * rho, tolerance.rtol)
        size = xp.where(xp.isfinite(measures[0]), size, xp.inf)
        accepted = size <= 1.0
        factor = AIM * xp.maximum(size, 1e-10) ** (-1.0 / (step.order + 1.0 - EXPONENT))
        factor = xp.where(xp.isfinite(size), xp.clip(factor, SHRINK, GROW), SHRINK)
        factor = xp.where(accepted & ~carry.accepted, xp.minimum(factor, 1.0), factor)
        pick = lambda new, old: xp.where(accepted, new, old)  # noqa: E731
        gain = dissipated(xp, problem.rate, h, carry.y, y, carry.f, f)
        return Carry(
            t=pick(t, carry.t),
            y=pick(y, carry.y),
            f=pick(f, carry.f),
            measures=pick(measures, carry.measures),
            attempted=measures,
            h=h * factor,
            t_old=pick(carry.t, carry.t_old),
            y_old=pick(carry.y, carry.y_old),
            f_old=pick(carry.f, carry.f_old),
            watch=carry.watch,
            evaluations=carry.evaluations + step.s,
            steps=carry.steps + accepted,
            rejected=carry.rejected + ~accepted,
            accepted=accepted,
            dissipated=carry.dissipated + pick(gain, 0.0),
            rise=rise(xp, problem, carry, measures, accepted),
            status=outcome(xp, limits, accepted, t, carry.t, h * factor, measures),
        )

    def spent(carry: Carry) -> Carry:
        return carry._replace(status=xp.asarray(BUDGET))

    return backend.cond(evaluations + step.s <= limits.evaluations, move, spent, carry)
