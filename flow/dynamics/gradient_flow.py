"""Gradient flow, θ̇ = −∇J(θ), or uphill, θ̇ = ∇J(θ)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from flow.dynamics.base import Dynamics
from flow.objective import Objective
from flow.pytrees import PyTree


@dataclass(frozen=True)
class GradientFlow(Dynamics):
    """θ̇ = −∇J(θ), the limit of gradient descent as the learning rate η → 0 at t = ηk.

    Its Jacobian −∇²J is symmetric. J falls at the rate ‖∇J‖² = ‖θ̇‖², so that
    J(θ₀) − J(θ_T) = ∫‖∇J‖² dt: the line integral of a gradient depends on its ends alone.

    Parameters
    ----------
    objective
        J, with θ₀.
    ascent
        Climb instead, θ̇ = +∇J, for a log-likelihood that is to be maximised. It is the descent
        of −J, so that J(θ_T) − J(θ₀) = ∫‖∇J‖² dt.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, -2.0]))
    >>> path = flow.integrate(flow.GradientFlow(objective), t=1.0)
    >>> np.allclose(path.theta[-1], np.exp(-1.0) * np.array([1.0, -2.0]), rtol=1e-6)
    True
    """

    symmetric_jacobian: ClassVar[bool] = True

    objective: Objective
    ascent: bool = False

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """−∇J, or ∇J uphill."""
        gradient = self.objective.traced_gradient(state, data)
        return gradient if self.ascent else jax.tree.map(jnp.negative, gradient)

    def dissipation(self, derivatives: Float[Any, "points n"]) -> Float[Any, "points"]:
        """−dJ/dt = ‖θ̇‖², and −‖θ̇‖² uphill."""
        squares = (derivatives[:, None, :] @ derivatives[:, :, None])[:, 0, 0]
        return -squares if self.ascent else squares

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Gradient descent, or ascent, on the clock t = ηk."""
        import optax

        return optax.sgd(-learning_rate if self.ascent else learning_rate), learning_rate
