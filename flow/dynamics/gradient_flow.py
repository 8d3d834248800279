"""Gradient flow, θ̇ = −∇J(θ), with weight decay, or uphill."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from flow._core.checks import flag, not_negative, positive
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, squared_speed


@own_keywords
@dataclass(frozen=True)
class GradientFlow(Dynamics):
    """θ̇ = −∇J(θ) − wθ, the limit of gradient descent as the learning rate η → 0 at t = ηk.

    Its Jacobian −∇²J − w is symmetric. E = J + (w/2)‖θ‖² falls at the rate ‖θ̇‖², so that
    E(θ₀) − E(θ_T) = ∫‖θ̇‖² dt: the line integral of a gradient depends on its ends alone.

    Parameters
    ----------
    objective
        J, with θ₀.
    weight_decay
        w ≥ 0, as `optax.add_decayed_weights` has it.
    ascent
        Climb instead, θ̇ = +∇J − wθ, for a log-likelihood that is to be maximised. It is the
        descent of −J, so that without decay J(θ_T) − J(θ₀) = ∫‖∇J‖² dt.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, -2.0]))
    >>> path = flow.integrate(flow.GradientFlow(objective, weight_decay=0.5), t=1.0)
    >>> np.allclose(path.theta[-1], np.exp(-1.5) * np.array([1.0, -2.0]), rtol=1e-6)
    True
    """

    symmetric_jacobian: ClassVar[bool] = True

    objective: Objective
    weight_decay: float = 0.0
    ascent: bool = False

    def __post_init__(self) -> None:
        decay = not_negative("weight_decay", self.weight_decay)
        self.settle(weight_decay=decay, ascent=flag("ascent", self.ascent))

    @property
    def energy_is_loss(self) -> bool:
        """Return whether nothing decays."""
        return not self.weight_decay

    @property
    def label(self) -> str:
        """Return gradient flow, and how it differs from the plain one."""
        decay = f", decay {self.weight_decay:g}" if self.weight_decay else ""
        return "gradient flow" + decay + (", ascent" if self.ascent else "")

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return −∇J − wθ, or ∇J − wθ uphill."""
        sign = 1.0 if self.ascent else -1.0
        gradient = self.objective.traced_gradient(state, data)
        if not self.weight_decay:
            return jax.tree.map(lambda g: sign * g, gradient)
        return jax.tree.map(lambda g, p: sign * g - self.weight_decay * p, gradient, state)

    def energy(self, state: PyTree, data: PyTree) -> Any:
        """Return J + (w/2)‖θ‖², uphill J − (w/2)‖θ‖²."""
        theta = ravel_pytree(state)[0]
        sign = -1.0 if self.ascent else 1.0
        J = self.objective.traced_value(state, data)
        return J + sign * 0.5 * self.weight_decay * jnp.vdot(theta, theta)

    def dissipation(self, derivatives: Float[Any, "points n"]) -> Float[Any, "points"]:
        """Return ‖θ̇‖², and −‖θ̇‖² uphill."""
        squares = squared_speed(derivatives)
        return -squares if self.ascent else squares

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return gradient descent, or ascent, on the clock t = ηk."""
        import optax

        learning_rate = positive("learning_rate", learning_rate)
        descent = optax.sgd(-learning_rate if self.ascent else learning_rate)
        if not self.weight_decay:
            return descent, learning_rate
        # Uphill the learning rate is negative, and decay is to stay decay.
        decay = -self.weight_decay if self.ascent else self.weight_decay
        return optax.chain(optax.add_decayed_weights(decay), descent), learning_rate
