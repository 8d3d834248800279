"""diffrax's explicit Runge–Kutta methods as steps of the compiled loop."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from flow.methods.compiled_loop import Stepper
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

GROW = 10.0  # as in scipy
SMALL, FLAT = 1e-5, 1e-15


class Carry(NamedTuple):
    """The state that goes from step to step."""

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


def runge_kutta(
    make: Callable[[], diffrax.AbstractERK], watched: tuple[float, float] | None = None
) -> Stepper:
    """Return a method of diffrax, with scipy's control of the step.

    diffrax has the tableaus and the dense outputs; the loop is flow's own, since
    `diffrax.diffeqsolve` has no budgets and no way to stop and go on at a saved time. Beside y it
    integrates (J, ‖∇J‖, rate), without a say in the error control: the slopes of the first two
    are the measures at the step's end, and the third is the energy that it dissipated.

    Parameters
    ----------
    make
        The method.
    watched
        Where it has a dense output that is less accurate than its step: at which share of a step
        that is watched by its defect, and how large this is there at least beside the largest
        error in the step. States between are then those of two steps of half the length, where
        the error exceeds the tolerance; as `flow.methods.between` on the host.
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
        h = jnp.minimum(jnp.minimum(carry.h, limits.longest), rest)

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

    between = watched and _watched(solver, stages, slope, step, dense, watched)
    return Stepper(start, attempt, dense, between)


def _watched(
    solver: diffrax.AbstractERK,
    stages: int,
    slope: Callable,
    step: Callable,
    dense: Callable,
    watched: tuple[float, float],
) -> Callable:
    """Make `Stepper.between` of a method whose dense output is not to be trusted."""
    share, as_large = watched

    def between(problem: Problem, tolerance: Tolerance, carry: Carry, due: Any) -> tuple:
        t_old, h = carry.t_old, carry.t - carry.t_old
        y_old, half = carry.dense["y0"][0], h / 2.0

        def error() -> Any:
            t = t_old + share * h
            u, du = jax.jvp(partial(dense, carry), (t,), (jnp.ones_like(t),))
            scale = tolerance.atol + tolerance.rtol * jnp.maximum(jnp.abs(y_old), jnp.abs(carry.y))
            return rms(jnp, h * (du - problem.rhs(t, u)) / scale) / as_large

        def halves() -> tuple:
            y, f, _, _, first = step(problem, t_old, half, y_old, slope(problem, t_old, y_old))
            return first, step(problem, t_old + half, half, y, f)[4]

        off = _if(due, error, jnp.zeros(())) > 1.0
        first, then = _if(off, halves, (carry.dense, carry.dense))
        middle = jnp.where(off, t_old + half, carry.t)

        def at(t: Any) -> Any:
            early = t <= middle
            t0, t1 = jnp.where(early, t_old, middle), jnp.where(early, middle, carry.t)
            piece = jax.tree.map(lambda a, b: jnp.where(early, a, b), first, then)
            return solver.interpolation_cls(t0=t0, t1=t1, **piece).evaluate(t)[0]

        return at, due + (2.0 * stages + 1.0) * off

    return between


def _if(holds: Any, make: Callable[[], Any], otherwise: Any) -> Any:
    """Call `make` if that holds, by a loop, as `vmap` would go both ways of a branch."""
    turn = lambda _: (jnp.asarray(False), make())  # noqa: E731
    return jax.lax.while_loop(lambda loop: loop[0], turn, (holds, otherwise))[1]
