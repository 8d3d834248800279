"""The flow of a network that is linear in its parameters: lazy training."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flow._core.checks import instance, numbers
from flow._core.keywords import own_keywords
from flow._core.precision import double_precision
from flow._core.pytrees import PyTree
from flow._problem.data import whole
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, gradient_descent, squared_speed

# Rows of a tangent kernel: beyond, it has 800 MB and its eigendecomposition takes minutes.
LARGEST_KERNEL = 10_000
# Of ½‖f − y‖²/N's derivative (f − y)/N, within which an output loss is taken for it.
MSE = 1e-12


@own_keywords
@dataclass(frozen=True)
class LinearizedFlow(Dynamics):
    """Gradient flow of the network linearised at θ₀, f(θ₀) + ∂f/∂θ·(θ − θ₀), t = ηk.

    Jacot, Gabriel, Hongler 2018; Chizat, Oyallon, Bach 2019; Lee et al. 2019. Its outputs obey
    ḟ = −Θ ∂L/∂f with the tangent kernel Θ = ∂f/∂θ (∂f/∂θ)ᵀ at θ₀, for the squared loss
    f(t) = y + e^{−Θt/N}(f₀ − y). A network is in the lazy regime as far as its own flow stays
    close to this one.

    It moves θ, so that every engine, optimizer and comparison takes it; ∂f/∂θ is applied, never
    formed. `kernel` and `outputs` are the same in function space.

    Parameters
    ----------
    objective
        With outputs: of `flow.MLP`, `flow.Network`, or ``flow.Objective(outputs=...)``. The
        attribute `objective` is that of the linearised network, whose loss is recorded.

    Raises
    ------
    TypeError
        The objective knows its loss only.

    Examples
    --------
    >>> import flow, numpy as np
    >>> X, y = flow.datasets.digits(20)
    >>> objective = flow.MLP([64, 6, 10]).objective(X, y)
    >>> linear = flow.LinearizedFlow(objective)
    >>> path = flow.integrate(linear, t=3.0, rtol=1e-10, atol=1e-12)
    >>> outputs = linear.objective.outputs(path.params(-1))
    >>> np.allclose(outputs, linear.outputs([3.0])[0], atol=1e-8)  # in closed form
    True
    """

    symmetric_jacobian: ClassVar[bool] = True

    objective: Objective

    def __post_init__(self) -> None:
        self.settle()
        self.objective.check_has_output_loss()
        if not hasattr(self.objective, "network"):
            object.__setattr__(self, "objective", _linearised(self.objective))

    @property
    def label(self) -> str:
        """Return where it is linear."""
        return "linearised flow"

    @property
    def conserved(self) -> dict[str, Any]:
        """Return nothing: what the network's own flow conserves is lost."""
        return {}

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return −∇J of the linearised network."""
        return jax.tree.map(jnp.negative, self.objective.traced_gradient(state, data))

    def dissipation(self, derivatives: Float[Any, "points n"]) -> Float[Any, "points"]:
        """Return ‖θ̇‖²."""
        return squared_speed(derivatives)

    counterpart = gradient_descent

    def kernel(self) -> np.ndarray:
        """Return Θ (N·outputs, N·outputs), rows in the order of the outputs' entries.

        Raises
        ------
        ValueError
            It has more than 10,000 rows; the message says what it would take.
        """
        return tangent_kernel(self.objective.network)

    def outputs(self, t: Any) -> np.ndarray:
        """Return the linear network's outputs at times t, (times, examples, ...), by the kernel.

        In closed form for the squared loss; for another one ḟ = −Θ ∂L/∂f is integrated, at rtol
        1e-10.
        """
        times = np.atleast_1d(numbers("t", t))
        if times.ndim != 1 or not np.all(np.isfinite(times) & (times >= 0)):
            raise ValueError(f"t must be finite times, not negative, got {t!r:.80}")
        objective = self.objective
        kernel, y = self.kernel(), whole(objective.arrays("LinearizedFlow.outputs")[1])
        start = objective.outputs(objective.params)
        flat = start.ravel()
        with double_precision():
            slope = jax.jit(
                jax.grad(
                    lambda f: objective.traced_output_loss(f.reshape(start.shape), jnp.asarray(y))
                )
            )
            residual, target = np.array(slope(flat)), y.astype(np.float64).ravel()
            n = len(start)
            elsewhere = np.array(slope(flat + 1.0))
        squared = target.size == flat.size and all(
            np.abs(r - (f - target) / n).max() <= MSE * (1.0 + np.abs(f - target).max())
            for r, f in ((residual, flat), (elsewhere, flat + 1.0))
        )
        if squared:
            rates, U = np.linalg.eigh(kernel / n)
            modes = U.T @ (flat - target)
            found = target + (np.exp(-np.outer(times, rates)) * modes) @ U.T
        else:
            found = _integrated(kernel, slope, flat, times)
        return found.reshape(len(times), *start.shape)


@own_keywords
def tangent_kernel(objective: Objective) -> np.ndarray:
    """Return Θ = ∂f/∂θ (∂f/∂θ)ᵀ at θ₀, (N·outputs, N·outputs), compiled once for all its θ₀.

    Raises
    ------
    TypeError
        The objective knows its loss only.
    ValueError
        It has more than 10,000 rows; the message says what it would take.
    """
    instance("objective", objective, Objective, "a flow.Objective")
    objective.check_has_outputs()

    def f(theta: Any, X: Any) -> Any:
        return jnp.ravel(objective.traced_outputs(objective.tree(theta), X))

    def kernel(theta: Any, X: Any) -> Any:
        pull = jax.vjp(lambda p: f(p, X), theta)[1]
        # Rows of ∂f/∂θ, in blocks of unit vectors that are pulled back together.
        J = jax.lax.map(lambda e: pull(e)[0], jnp.eye(rows), batch_size=64)
        return J @ J.T

    with double_precision():
        X = objective.arrays("the tangent kernel")[0]
        rows = jax.eval_shape(f, objective.theta, X).shape[0]
        if rows > LARGEST_KERNEL:
            raise ValueError(
                f"the tangent kernel of {rows:,} outputs takes {8e-6 * rows**2:,.0f} MB and an "
                f"eigendecomposition of that size; take at most {LARGEST_KERNEL:,} outputs × "
                "examples, or integrate the flow, which never forms it"
            )
        compiled = objective.compiled("tangent kernel", lambda: jax.jit(kernel))
        return np.array(compiled(objective.theta, X))


def _integrated(kernel: np.ndarray, slope: Any, start: np.ndarray, times: np.ndarray) -> np.ndarray:
    from scipy.integrate import solve_ivp

    order = np.argsort(times)
    with double_precision():
        solution = solve_ivp(
            lambda _, f: -kernel @ np.array(slope(f)),
            (0.0, max(times.max(), np.finfo(float).tiny)),
            start,
            method="DOP853",
            t_eval=times[order],
            rtol=1e-10,
            atol=1e-12,
        )
    found = np.empty((len(times), len(start)))
    found[order] = solution.y.T
    return found


def _linearised(objective: Objective) -> Objective:
    """Return the objective of the network that is linear about θ₀, with the same output loss."""
    outputs = partial(_tangent, objective, objective.unflatten(objective.theta))
    made = objective.beside(outputs=outputs, output_loss=objective.traced_output_loss)
    made.network = objective
    return made


def _tangent(objective: Objective, start: PyTree, params: PyTree, X: Any) -> Any:
    """Return f(θ₀, X) + ∂f/∂θ(θ₀, X)·(θ − θ₀)."""
    away = jax.tree.map(lambda p, p0: p - p0.astype(p.dtype), params, start)
    # Made of p, so that on a mesh it is each device's own, as p is.
    at = jax.tree.map(lambda p, p0: jnp.zeros_like(p) + p0.astype(p.dtype), params, start)
    network = lambda p: objective.traced_outputs(p, X)  # noqa: E731
    f, moved = jax.jvp(network, (at,), (away,))
    return f + moved
