"""Steps of one length as the compiled engine takes them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flow.methods.compiled_loop import Stepper
from flow.methods.interpolation import hermite
from flow.methods.loop_state import BUDGET, FAILED, Fixed, Limits, Problem, outcome, rise


class Carry(NamedTuple):
    """The state that goes from step to step."""

    t: Any
    y: Any
    f: Any
    measures: Any
    attempted: Any
    t_old: Any
    y_old: Any
    f_old: Any
    evaluations: Any
    steps: Any
    rejected: Any
    dissipated: Any
    rise: Any
    status: Any


class Moved(NamedTuple):
    """Where a step leads: y and f there, J and ‖∇J‖ there, and the energy dissipated by it."""

    y: Any
    f: Any
    measures: Any
    gain: Any


class Step(NamedTuple):
    """From t over h; y and f there, and a key of this step's noise."""

    t: Any
    h: Any
    y: Any
    f: Any
    key: Any


Move = Callable[[Problem, Step], Moved]


def euler(problem: Problem, step: Step) -> Moved:
    """Return the end of the line y + hf, order 1."""
    new = step.y + step.h * step.f
    gain = step.h * problem.rate(step.f[None])[0]
    return Moved(new, *problem.derivative(step.t + step.h, new), gain)


def rk4(problem: Problem, step: Step) -> Moved:
    """Return the classical method of order 4."""
    t, h, y, f, _ = step
    f2 = problem.rhs(t + h / 2, y + h / 2 * f)
    f3 = problem.rhs(t + h / 2, y + h / 2 * f2)
    f4 = problem.rhs(t + h, y + h * f3)
    K, weights = jnp.stack([f, f2, f3, f4]), jnp.array([1.0, 2.0, 2.0, 1.0]) / 6.0
    new = y + h * (weights @ K)
    return Moved(new, *problem.derivative(t + h, new), h * (weights @ problem.rate(K)))


def verlet(problem: Problem, step: Step) -> Moved:
    """Return the velocity Verlet, order 2."""
    t, h, y, f, _ = step
    half = y.size // 2
    velocity = y[half:] + h / 2 * f[half:]
    between = jnp.concatenate([y[:half] + h * velocity, velocity])
    slope, measures = problem.derivative(t + h, between)
    velocity = velocity + h / 2 * slope[half:]
    new = jnp.concatenate([between[:half], velocity])
    f_new = jnp.concatenate([velocity, slope[half:]])
    return Moved(new, f_new, measures, h * problem.rate(f[None])[0])


def fixed_stepper(move: Move, evaluations: int, straight: bool = False) -> Stepper:
    """Return a stepper of that move; between steps a cubic, or a `straight` line."""

    def start(problem: Problem, fixed: Fixed, _: Limits, t: Any, y: Any) -> Carry:
        f, measures = problem.derivative(t, y)
        zero = 0.0 * fixed.step
        return Carry(
            t + zero, y, f, measures, measures, t + zero, y, f,
            1.0 + zero, zero, zero, zero, zero, jnp.asarray(0),
        )  # fmt: skip

    def attempt(problem: Problem, fixed: Fixed, limits: Limits, carry: Carry) -> Carry:
        t = (carry.steps + 1.0) * fixed.step
        # Within rounding of the bound the step is the last one: 100 steps of 0.01 are t = 1.
        t = jnp.where(t - limits.t > -1e-9 * fixed.step, limits.t, t)
        h = t - carry.t

        def go(carry: Carry) -> Carry:
            key = jax.random.fold_in(path_key(fixed), carry.steps.astype(jnp.uint32))
            moved = move(problem, Step(carry.t, h, carry.y, carry.f, key))
            accepted = jnp.all(jnp.isfinite(moved.measures))
            pick = lambda new, old: jnp.where(accepted, new, old)  # noqa: E731
            status = outcome(jnp, limits, accepted, t, carry.t, h, moved.measures)
            return Carry(
                t=pick(t, carry.t),
                y=pick(moved.y, carry.y),
                f=pick(moved.f, carry.f),
                measures=pick(moved.measures, carry.measures),
                attempted=moved.measures,
                t_old=pick(carry.t, carry.t_old),
                y_old=pick(carry.y, carry.y_old),
                f_old=pick(carry.f, carry.f_old),
                evaluations=carry.evaluations + evaluations,
                steps=carry.steps + accepted,
                rejected=carry.rejected,
                dissipated=carry.dissipated + pick(moved.gain, 0.0),
                rise=rise(jnp, problem, carry, moved.measures, accepted),
                # A step of a given length that fails has no shorter one to be followed by.
                status=jnp.where(accepted, status, FAILED),
            )

        def spent(carry: Carry) -> Carry:
            return carry._replace(status=jnp.asarray(BUDGET))

        enough = carry.evaluations + evaluations <= limits.evaluations
        return jax.lax.cond(enough, go, spent, carry)

    def dense(carry: Carry, t: Any) -> Any:
        h = carry.t - carry.t_old
        x = (t - carry.t_old) / h
        if straight:
            return carry.y_old + x * (carry.y - carry.y_old)
        return hermite(x, h, carry.y_old, carry.y, carry.f_old, carry.f)

    return Stepper(start, attempt, dense)


def path_key(fixed: Fixed) -> Any:
    """Return the key of one path of one seed."""
    seed, path = fixed.seed.astype(jnp.uint32), fixed.path.astype(jnp.uint32)
    return jax.random.fold_in(jax.random.key(seed), path)
