"""A dynamics on the flat vector that solvers move, compiled once for each objective."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float64

from flow._core.jaxprs import fingerprint
from flow._core.precision import double_precision
from flow._core.pytrees import ravel
from flow.dynamics.base import Dynamics

State = Float64[np.ndarray, "n"]


@dataclass(frozen=True)
class FlatDynamics:
    """Jitted functions of the flat state y (n,); to be called in double precision.

    Parameters
    ----------
    initial
        The state at t = 0, flat.
    derivative
        (t, y) ↦ (ẏ, (J, ‖∇J‖)): the measures come free, as `rhs` computes what they need, and
        stay on the device until somebody asks.
    traced
        (t, y, data) ↦ the same, for loops that are compiled themselves.
    diffusion
        Of an SDE, traced: (t, y, data) ↦ (ξ ↦ Bξ flat, shape of ξ).
    jacobian
        (t, y) ↦ ∂ẏ/∂y, (n, n).
    compile_jacobian
        Compiles it, and evaluates nothing.
    params, auxiliary
        y ↦ θ as a flat vector; y ↦ name -> array, what else the state carries.
    energy
        y ↦ what falls at the rate of dissipation; None where that is J.
    key
        What compiled functions are kept by: the dynamics, and of a user's what it computes now.
    """

    initial: State
    derivative: Callable[[float, State], tuple[Any, Any]]
    traced: Callable[[Any, Any, Any], tuple[Any, Any]]
    diffusion: Callable[[Any, Any, Any], tuple[Callable, tuple[int, ...]]] | None
    jacobian: Callable[[float, State], np.ndarray]
    compile_jacobian: Callable[[], Any]
    params: Callable[[State], np.ndarray]
    auxiliary: Callable[[State], dict[str, np.ndarray]]
    energy: Callable[[State], float] | None
    key: Hashable


def flatten(dynamics: Dynamics) -> FlatDynamics:
    """Return the dynamics on its flat vector; compiled functions are kept by the objective."""
    objective, data = dynamics.objective, dynamics.objective.data
    with double_precision():
        initial, unravel = ravel(dynamics.initial_state())
    # Where the state is θ itself, reading θ off it needs no call to the device.
    kind = type(dynamics)
    is_theta = kind is not Dynamics and kind.params is Dynamics.params

    def derivative(t: Any, y: Any, data: Any) -> tuple[Any, Any]:
        state = unravel(y)
        params = dynamics.params(state)
        with objective.evaluated_once(params, data):
            gradient = ravel_pytree(dynamics.gradient(params, data))[0]
            measures = objective.traced_value(params, data), jnp.linalg.norm(gradient)
            return ravel_pytree(dynamics.rhs(t, state, data))[0], jnp.stack(measures)

    def jacobian(t: Any, y: Any, data: Any) -> Any:
        return jax.jacfwd(lambda x: ravel_pytree(dynamics.rhs(t, unravel(x), data))[0])(y)

    def diffusion(t: Any, y: Any, data: Any) -> tuple[Callable, tuple[int, ...]]:
        apply, shape = dynamics.diffusion(t, unravel(y), data)
        return lambda xi: ravel_pytree(apply(xi))[0], shape

    def params(y: Any) -> Any:
        return ravel_pytree(dynamics.params(unravel(y)))[0]

    def auxiliary(y: Any, data: Any) -> Any:
        return dynamics.auxiliary(unravel(y), data)

    def energy(y: Any, data: Any) -> Any:
        return dynamics.energy(unravel(y), data)

    key = _key(dynamics)

    def compiled(function: Callable) -> Callable:
        return objective.compiled((function.__name__, key), lambda: jax.jit(function))

    if dynamics.autonomous:

        def autonomous(y: Any, data: Any) -> tuple[Any, Any]:
            return derivative(0.0, y, data)

        jitted = compiled(autonomous)
        call = lambda t, y: jitted(y, data)  # noqa: E731
    else:
        jitted = compiled(derivative)
        call = lambda t, y: jitted(t, y, data)  # noqa: E731
    bare = kind.auxiliary is Dynamics.auxiliary
    return FlatDynamics(
        initial,
        call,
        derivative,
        diffusion if dynamics.noise else None,
        lambda t, y: np.array(compiled(jacobian)(float(t), y, data)),
        lambda: compiled(jacobian).lower(0.0, initial, data).compile(),
        np.asarray if is_theta else (lambda y: np.array(compiled(params)(y))),
        (lambda y: {})
        if bare
        else (lambda y: {k: np.array(v) for k, v in compiled(auxiliary)(y, data).items()}),
        None if dynamics.energy_is_loss else (lambda y: float(compiled(energy)(y, data))),
        key,
    )


def _key(dynamics: Dynamics) -> Hashable:
    """Return the dynamics; a user's, who may read what changes, with what it computes now."""
    kind = type(dynamics.in_flow_time)
    flows = kind.__module__.partition(".")[0] == __package__.partition(".")[0]
    if flows and kind is not Dynamics:
        return dynamics

    def everything(t: Any, state: Any, data: Any) -> Any:
        found = dynamics.rhs(t, state, data), dynamics.params(state)
        if dynamics.noise:
            apply, shape = dynamics.diffusion(t, state, data)
            found += (apply(jnp.zeros(shape)),)
        return found, dynamics.auxiliary(state, data)

    with double_precision():
        jaxpr = jax.make_jaxpr(everything)(0.0, dynamics.initial_state(), dynamics.objective.data)
    return dynamics, fingerprint(jaxpr)
