"""diffrax's explicit Runge–Kutta methods as steps of the compiled loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from flow.methods.compiled_loop import Stepper
from flow.methods.stepping import (
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

GROW = 10.0  # as in scipy
SMALL, FLAT = 1e-5, 1e-15


class Carry(NamedTuple):
    """What goes from step to step."""

    t: Any
    y: Any
    f: Any  # slopes of y and of what goes beside it
    measures: Any
    attempted: Any
    h: Any
    t_old: Any
    dense: Any  # diffrax's own, of the last accepted step
    evaluations: Any
    steps: Any
    rejected: Any
    accepted: Any
    dissipated: Any
    rise: Any
    status: Any


def runge_kutta(make: Callable[[], diffrax.AbstractERK]) -> Stepper:
    """A method of diffrax, with scipy's control of the step.

    diffrax has the tableaus and the dense outputs; the loop is flow's own, since
    `diffrax.diffeqsolve` has no budgets and no way to stop and go on at a saved time. Beside y it
    integrates (J, ‖∇J‖, rate), without a say in the error control: the slopes of the first two
    are the measures at the step's end, and the third is the energy that it dissipated.
    """
    solver = make()
    order = solver.order(None)

    def slope(problem: Problem, t: Any, y: Any) -> tuple[Any, Any]:
        f, measures = problem.derivative(t, y)
        return f, jnp.append(measures, problem.rate(f[None]))

    def step(problem: Problem, t: Any, h: Any, y: Any, f: Any) -> tuple:
        terms = diffrax.ODETerm(lambda t, y, args: slope(problem, t, y[0]))
        state = (jnp.asarray(False), f)  # the first stage is the last of the step before
        y = (y, jnp.zeros(3))
        (y, beside), error, dense, (_, f), _ = solver.step(terms, t, t + h, y, None, state, False)
        return y, f, error[0], beside[2], dense

    def start(problem: Problem, tolerance: Tolerance, limits: Limits, t: Any, y: Any) -> Carry:
        f, beside = slope(problem, t, y)
        measures = beside[:2]
        # Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, section II.4.
        scale = tolerance.atol + tolerance.rtol * jnp.abs(y)
        size, speed = rms(jnp, y / scale), rms(jnp, f / scale)
        h0 = jnp.where((size < SMALL) | (speed < SMALL), 1e-6, 0.01 * size / speed)
        h0 = jnp.minimum(h0, limits.t - t)
        turn = rms(jnp, (problem.rhs(t + h0, y + h0 * f) - f) / scale) / h0
        steep = jnp.maximum(turn, speed)
        h1 = jnp.where(
            steep <= FLAT, jnp.maximum(1e-6, 1e-3 * h0), (0.01 / steep) ** (1.0 / (order + 1))
        )
        zero = 0.0 * h0
        none = jax.eval_shape(lambda: step(problem, t, h0, y, (f, beside))[4])
        return Carry(
            t + zero, y, (f, beside), measures, measures,
            jnp.minimum(jnp.minimum(100.0 * h0, h1), limits.t - t), t + zero,
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), none),
            2.0 + zero, zero, zero, zero == 0.0, zero, zero, jnp.asarray(0),
        )  # fmt: skip

    stages = len(solver.tableau.c)  # beside the first

    def attempt(problem: Problem, tolerance: Tolerance, limits: Limits, carry: Carry) -> Carry:
        rest = limits.t - carry.t
        h = jnp.minimum(carry.h, rest)

        def move(carry: Carry) -> Carry:
            y, f, error, gain, dense = step(problem, carry.t, h, carry.y, carry.f)
            t = jnp.where(h >= rest, limits.t, carry.t + h)
            measures = f[1][:2]
            scale = tolerance.atol + tolerance.rtol * jnp.maximum(jnp.abs(carry.y), jnp.abs(y))
            size = rms(jnp, error / scale)
            size = jnp.where(jnp.isfinite(measures[0]), size, jnp.inf)
            accepted = size < 1.0
            factor = AIM * jnp.maximum(size, 1e-10) ** (-1.0 / order)
            factor = jnp.where(jnp.isfinite(size), jnp.clip(factor, SHRINK, GROW), SHRINK)
            factor = jnp.where(accepted & ~carry.accepted, jnp.minimum(factor, 1.0), factor)
            pick = lambda new, old: jnp.where(accepted, new, old)  # noqa: E731
            return Carry(
                t=pick(t, carry.t),
                y=pick(y, carry.y),
                f=jax.tree.map(pick, f, carry.f),
                measures=pick(measures, carry.measures),
                attempted=measures,
                h=h * factor,
                t_old=pick(carry.t, carry.t_old),
                dense=jax.tree.map(pick, dense, carry.dense),
                evaluations=carry.evaluations + stages,
                steps=carry.steps + accepted,
                rejected=carry.rejected + ~accepted,
                accepted=accepted,
                dissipated=carry.dissipated + pick(gain, 0.0),
                rise=rise(jnp, problem, carry, measures, accepted),
                status=outcome(jnp, limits, accepted, t, carry.t, h * factor, measures),
            )

        def spent(carry: Carry) -> Carry:
            return carry._replace(status=jnp.asarray(BUDGET))

        enough = carry.evaluations + stages <= limits.evaluations
        return jax.lax.cond(enough, move, spent, carry)

    def dense(carry: Carry, t: Any) -> Any:
        within = solver.interpolation_cls(t0=carry.t_old, t1=carry.t, **carry.dense)
        return within.evaluate(t)[0]

    return Stepper(start, attempt, dense)
