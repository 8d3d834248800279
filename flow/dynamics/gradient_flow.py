"""Gradient flow, θ̇ = −∇J(θ)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jaxtyping import Float

from flow.dynamics.base import Dynamics
from flow.objective import Objective
from flow.pytrees import PyTree


@dataclass(frozen=True)
class GradientFlow(Dynamics):
    """θ̇ = −∇J(θ), the limit of gradient descent as the learning rate η → 0 at t = ηk.

    Its Jacobian −∇²J is symmetric. J falls at the rate ‖∇J‖² = ‖θ̇‖², so that
    J(θ₀) − J(θ_T) = ∫‖∇J‖² dt: the line integral of a gradient depends on its ends alone.

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

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """−∇J."""
        return jax.tree.map(lambda g: -g, self.objective.traced_gradient(state, data))

    def dissipation(self, derivatives: Float[Any, "points n"]) -> Float[Any, "points"]:
        """−dJ/dt = ‖θ̇‖²."""
        return (derivatives[:, None, :] @ derivatives[:, :, None])[:, 0, 0]

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Gradient descent, on the clock t = ηk."""
        import optax

        return optax.sgd(learning_rate), learning_rate
