"""The principal flow: gradient descent's path, or its envelope, along stiffest directions."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from flow._core.checks import positive, positive_integer
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, gradient_descent
from flow.dynamics.eigenbasis import Tracked, oja, orthonormal, tracked

# Of |1 − ηλ|, whose logarithm has no value where a step lands on the minimum.
FLOOR = 1e-3
# Of |ηλ|, below which log(1 − ηλ)/(ηλ) is a series.
SERIES = 1e-8


@own_keywords
@dataclass(frozen=True)
class PrincipalFlow(Dynamics):
    """θ̇ = Σ c(ηλᵢ) uᵢuᵢᵀ∇J over the top k eigenpairs of ∇²J, the modified flow on the rest.

    c(z) = log|1 − z|/z (Rosca et al. 2023, arXiv 2302.01952): on a quadratic it passes through the
    iterates of gradient descent exactly where z = ηλ < 1; where z > 1, and a step jumps across the
    minimum, it is only the envelope of their oscillation, on the side of θ₀, while every other
    iterate is on the other side: it falls to z = 2 and grows beyond. |1 − z| is floored at 1e-3, as
    gradient descent is at the minimum in one step where z = 1. The rest is −(∇J + (η/2)∇²J∇J). Of
    order 2 in η, t = ηk.

    U (n, k) is tracked as part of the state by Oja's flow U̇ = (I − UUᵀ)∇²J·U, from the eigenvectors
    at θ₀; eigenpairs are those of ∇²J within its span (Rayleigh–Ritz), whatever U is. The span
    follows at a rate of the gap λ_k − λ_{k+1}.

    Parameters
    ----------
    objective
        J, with θ₀.
    learning_rate
        η of the gradient descent that is modelled.
    k
        Number of eigenpairs, at most n.

    Examples
    --------
    >>> import flow, numpy as np
    >>> H = np.array([1.0, 9.0])
    >>> objective = flow.Objective(lambda x: 0.5 * (H * x**2).sum(), np.array([1.0, 1.0]))
    >>> path = flow.integrate(flow.PrincipalFlow(objective, 0.1, k=2), t=0.5, rtol=1e-12)
    >>> steps = flow.descend(objective, learning_rate=0.1, steps=5)
    >>> bool(np.abs(path.theta[-1] - steps.theta[-1]).max() < 1e-9)
    True
    """

    objective: Objective
    learning_rate: float
    k: int

    def __post_init__(self) -> None:
        rate, k = positive("learning_rate", self.learning_rate), positive_integer("k", self.k)
        self.settle(learning_rate=rate, k=k)
        if k > self.objective.size:
            raise ValueError(
                f"k = {self.k} eigenpairs, but there are {self.objective.size} parameters; "
                "take k no larger"
            )

    @property
    def cost(self) -> tuple[int, int]:
        """Return 1, and one product for each column of U and one for ∇²J∇J."""
        return 1, self.k + 1

    @property
    def label(self) -> str:
        """Return its name, with k and η."""
        return f"principal flow, k = {self.k}, η = {self.learning_rate:.3g}"

    def initial_state(self) -> PyTree:
        """Return θ₀ and the top eigenvectors there."""
        return tracked(self.objective, self.k)[0]

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return the field above, and Oja's flow."""
        objective, eta = self.objective, self.learning_rate
        g, unravel = ravel_pytree(objective.traced_gradient(state.theta, data))

        def product(v: Any) -> Any:
            return ravel_pytree(objective.traced_hvp(state.theta, unravel(v), data))[0]

        U = orthonormal(state.U)
        HU = jax.vmap(product, 1, 1)(U)
        eigenvalues, V = jnp.linalg.eigh(U.T @ HU)
        V = U @ V
        # The modified flow, and in the span what is left of c beyond it: so the order is 2 even
        # where U is not yet the eigenvectors.
        z = eta * eigenvalues
        beyond = V @ ((coefficient(z) + 1.0 + z / 2.0) * (V.T @ g))
        moved = beyond - (g + 0.5 * eta * product(g))
        return Tracked(unravel(moved), oja(U, HU))

    def params(self, state: PyTree) -> PyTree:
        """Return θ."""
        return state.theta

    def auxiliary(self, state: PyTree, data: PyTree) -> dict[str, Any]:
        """Return U, orthonormal (n, k)."""
        return {"U": orthonormal(state.U)}

    counterpart = gradient_descent


def coefficient(z: Any) -> Any:
    """Return log|1 − z|/z, −1 at z = 0.

    >>> [round(float(coefficient(jnp.array(z))), 4) for z in (0.0, 0.5, 1.0, 1.5, 2.0)]
    [-1.0, -1.3863, -6.9078, -0.4621, 0.0]
    """
    small = jnp.abs(z) < SERIES
    safe = jnp.where(small, 0.5, z)
    # log1p, as log(1 − z) has an error of eps/z, which a solver at a tight tolerance stalls at.
    below = jnp.log1p(-jnp.minimum(safe, 1.0 - FLOOR))
    beyond = jnp.log(jnp.maximum(safe - 1.0, FLOOR))
    whole = jnp.where(safe < 1.0, below, beyond) / safe
    return jnp.where(small, -(1.0 + z / 2.0), whole)
