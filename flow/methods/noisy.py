"""Steps of an SDE, dy = f dt + B dW, as the compiled engine takes them."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from flow.methods.compiled_loop import Stepper
from flow.methods.fixed import Carry, Move, Moved, Step, fixed_stepper
from flow.methods.loop_state import Problem


def euler_maruyama(problem: Problem, step: Step) -> Moved:
    """Step to y + hf + √h·Bξ, Itô's: of weak order 1, of strong order ½, or 1 for a constant B.

    diffrax has it as `Euler`, which would evaluate the drift once more: here f is at hand.
    """
    apply, shape = problem.diffusion(step.t, step.y)
    noise = apply(jnp.sqrt(step.h) * jax.random.normal(step.key, shape, jnp.float64))
    new = step.y + step.h * step.f + noise
    return Moved(new, *problem.derivative(step.t + step.h, new), jnp.nan)


def heun(problem: Problem, step: Step) -> Moved:
    """Return Diffrax's `Heun`, of Stratonovich's calculus; of weak order 2 where B is constant."""
    import diffrax
    import lineax

    solver = diffrax.Heun()
    noise = jax.ShapeDtypeStruct(problem.diffusion(step.t, step.y)[1], jnp.float64)

    def diffusion(t: Any, y: Any, _: Any) -> Any:
        apply = problem.diffusion(t, y)[0]
        return lineax.FunctionLinearOperator(apply, noise, closure_convert=False)

    terms = diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, _: problem.rhs(t, y)),
        diffrax.ControlTerm(diffusion, diffrax.UnsafeBrownianPath(noise, step.key)),
    )
    ends = step.t, step.t + step.h
    state = solver.init(terms, *ends, step.y, None)
    new = solver.step(terms, *ends, step.y, None, state, made_jump=False)[0]
    return Moved(new, *problem.derivative(ends[1], new), jnp.nan)


def noisy_stepper(move: Move, evaluations: int) -> Stepper:
    """Return a stepper of that move; between steps, where no path is known, it has the nearer."""

    def nearer(carry: Carry, t: Any) -> Any:
        return jnp.where(t - carry.t_old < carry.t - t, carry.y_old, carry.y)

    return replace(fixed_stepper(move, evaluations), dense=nearer)
