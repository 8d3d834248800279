"""The whole loop on the device: steps, states at the asked times, and the radius as it was met."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpy.polynomial import legendre

from flow.methods import stabilised
from flow.methods.backend import DEVICE
from flow.methods.chebyshev import Plan
from flow.methods.interpolation import hermite
from flow.methods.loop_state import RUNNING, Fixed, Limits, Problem, Tolerance
from flow.methods.packing import Layout, pack, unpack

# Looks at the spectral radius that one chunk has room for.
TRACE = 256
# Exact for a quadratic rate of any dense output here, of degree 7 at most.
_NODES, _WEIGHTS = legendre.leggauss(8)


@dataclass(frozen=True)
class Stepper:
    """A method as the device sees it.

    Parameters
    ----------
    start
        (problem, tolerance, limits, t, y) ↦ what goes from step to step.
    attempt
        (problem, tolerance, limits, carry) ↦ carry after one attempt at a step.
    dense
        (carry, t) ↦ y(t) within the last accepted step.
    between
        (problem, tolerance, carry, due) ↦ t ↦ y(t) at the tolerance, and what that takes in
        evaluations; `due` is whether any such time is. None where the dense output is as good.
    """

    start: Callable
    attempt: Callable
    dense: Callable
    between: Callable | None = None


class Found(NamedTuple):
    """The findings of a chunk beside its last state.

    Parameters
    ----------
    saved, states
        How many of the asked times were passed, and the states there (times, n).
    work
        By then: where the step in progress ended, steps and evaluations (times, 3).
    looks, radius_t, eigenvalue
        How often the radius was looked at, when, and what was found (TRACE,).
    between
        Evaluations that the states took.
    """

    saved: Any
    states: Any
    work: Any
    looks: Any
    radius_t: Any
    eigenvalue: Any
    between: Any


def stabilised_stepper(plan: Callable[..., Plan]) -> Stepper:
    """Return RKC2 or TSRKC3, by the plan of its step."""

    def dense(carry: stabilised.Carry, t: Any) -> Any:
        h = carry.t - carry.t_old
        return hermite((t - carry.t_old) / h, h, carry.y_old, carry.y, carry.f_old, carry.f)

    return Stepper(
        partial(stabilised.start, DEVICE), partial(stabilised.attempt, DEVICE, plan), dense
    )


def advance(
    stepper: Stepper, problem: Problem, numbers: Any, arrays: list, layout: Layout
) -> tuple[Any, list]:
    """Return attempts until the carry's status or `limits.steps` ends the loop.

    Takes and gives (tolerance, limits, carry), packed.
    """

    def going(packed: tuple) -> Any:
        _, limits, carry = unpack(layout, *packed)
        return (carry.status == RUNNING) & (carry.steps < limits.steps)

    def attempt(packed: tuple) -> tuple:
        tolerance, limits, carry = unpack(layout, *packed)
        carry = stepper.attempt(problem, tolerance, limits, carry)
        return pack(jnp, (tolerance, limits, carry))[:2]

    return jax.lax.while_loop(going, attempt, (numbers, arrays))


def chunk(
    stepper: Stepper,
    problem: Problem,
    tolerance: Tolerance | Fixed,
    limits: Limits,
    times: Any,
    carry: Any,
) -> tuple[Any, Found]:
    """Advance, saving the states at `times` (padded with inf), until all are passed."""
    room = times.shape[0]
    found = Found(
        jnp.int64(0),
        jnp.zeros((room, carry.y.shape[0])),
        jnp.zeros((room, 3)),
        jnp.int64(0),
        jnp.zeros(TRACE),
        jnp.zeros(TRACE),
        jnp.zeros(()),
    )

    def save(carry: Any, found: Found) -> Found:
        within = partial(stepper.dense, carry)
        if stepper.between is not None:
            due = (found.saved < room) & (times[found.saved] < carry.t)
            within, spent = stepper.between(problem, tolerance, carry, due)
            found = found._replace(between=found.between + spent)

        def passed(found: Found) -> Any:
            # At its end a step has no need of the interpolant, nor a first look any step.
            return (found.saved < room) & (times[found.saved] <= carry.t)

        def one(found: Found) -> Found:
            k = found.saved
            y = jnp.where(times[k] == carry.t, carry.y, within(times[k]))
            spent = jnp.stack([carry.t, carry.steps, carry.evaluations])
            return found._replace(
                saved=k + 1, states=found.states.at[k].set(y), work=found.work.at[k].set(spent)
            )

        return jax.lax.while_loop(passed, one, found)

    def going(loop: tuple[Any, Found]) -> Any:
        carry, found = loop
        more = (found.saved < room) & (found.looks < TRACE)
        return (carry.status == RUNNING) & (carry.steps < limits.steps) & more

    def body(loop: tuple[Any, Found]) -> tuple[Any, Found]:
        before, found = loop
        # The budget is also for the saved states, and for their measures, one evaluation each.
        saving = found.saved + found.between
        left = limits._replace(evaluations=limits.evaluations - saving)
        carry = stepper.attempt(problem, tolerance, left, before)
        if hasattr(carry, "watch"):
            looked = carry.watch.spent > before.watch.spent
            # An entry that is not kept is overwritten by the next one.
            found = found._replace(
                looks=found.looks + looked,
                radius_t=found.radius_t.at[found.looks].set(before.t),
                eigenvalue=found.eigenvalue.at[found.looks].set(carry.watch.eigenvalue),
            )
        return carry, save(carry, found)

    return jax.lax.while_loop(going, body, (carry, save(carry, found)))


def measured(_: Stepper, problem: Problem, times: Any, found: Found) -> Any:
    """Return J and ‖∇J‖ at the states that a chunk found, (times, 2)."""

    def one(k: Any, measures: Any) -> Any:
        return measures.at[k].set(problem.derivative(times[k], found.states[k])[1])

    return jax.lax.fori_loop(0, found.saved, one, jnp.zeros((times.shape[0], 2)))


def remainder(stepper: Stepper, problem: Problem, carry: Any, t: Any) -> Any:
    """Return ∫ rate(ẏ) dt from t to the last step's end, by Gauss's rule on its dense output."""
    nodes = t + (carry.t - t) * (_NODES + 1.0) / 2.0
    slope = jax.vmap(lambda s: jax.jvp(partial(stepper.dense, carry), (s,), (jnp.ones_like(s),))[1])
    return (carry.t - t) / 2.0 * (_WEIGHTS @ problem.rate(slope(nodes)))
