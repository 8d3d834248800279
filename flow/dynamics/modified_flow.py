"""Flows that follow gradient descent to the next orders in the learning rate."""

from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from flow._core.checks import positive
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, gradient_descent, squared_speed
from flow.dynamics.kinks import warn_of_kinks


@own_keywords
@dataclass(frozen=True)
class ModifiedFlow(Dynamics):
    """The modified flow of gradient descent, of order 2 or 3 in the learning rate η.

    With g = ∇J and H = ∇²J, from the backward error analysis of Euler's method:
    θ̇ = −(g + (η/2)Hg), and to the next order
    θ̇ = −(g + (η/2)Hg + η²(⅓HHg + ¹⁄₁₂∇(gᵀHg with g held fixed))).
    The first is the gradient flow of J + (η/4)‖∇J‖² (Barrett and Dherin 2021, arXiv 2009.11162);
    the second is Rosca et al. 2023, arXiv 2302.01952. Gradient descent stays within ηᵖ of the
    flow of order p, where the gradient flow itself is of order 1; t = ηk.

    Parameters
    ----------
    objective
        J, with θ₀; thrice differentiable for order 3.
    learning_rate
        η of the gradient descent that is modelled.
    order
        2 or 3.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> steps = flow.descend(objective, learning_rate=0.1, steps=10)
    >>> [float(f"{flow.compare(p, steps, progress=False).distance[-1]:.1e}") for p in (
    ...     flow.integrate(objective, t=1.0),
    ...     flow.integrate(flow.ModifiedFlow(objective, 0.1), t=1.0),
    ...     flow.integrate(flow.ModifiedFlow(objective, 0.1, order=3), t=1.0))]
    [0.019, 0.0013, 9.5e-05]
    """

    objective: Objective
    learning_rate: float
    order: int = 2

    def __post_init__(self) -> None:
        whole = isinstance(self.order, Integral) and not isinstance(self.order, bool)
        if not whole or self.order not in (2, 3):
            raise ValueError(
                f"order must be 2 or 3, got {self.order!r}; order 1 is flow.GradientFlow"
            )
        rate = positive("learning_rate", self.learning_rate)
        self.settle(learning_rate=rate, order=int(self.order))
        if self.order == 3:  # noqa: PLR2004
            warn_of_kinks(self.objective, "order 3 takes third derivatives of the loss")

    @property
    def symmetric_jacobian(self) -> bool:
        """Return whether it is a gradient: of order 2 it is, of order 3 not, in general."""
        return self.order == 2  # noqa: PLR2004

    @property
    def cost(self) -> tuple[int, int]:
        """Return hg; and HHg and the derivative of an Hg, which costs about two."""
        return (1, 1) if self.order == 2 else (1, 4)  # noqa: PLR2004

    @property
    def label(self) -> str:
        """Return its name, with its order and η."""
        return f"modified flow of order {self.order}, η = {self.learning_rate:.3g}"

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return the field above."""
        eta = self.learning_rate
        product = partial(self.objective.traced_hvp, data=data)
        g = self.objective.traced_gradient(state, data)
        Hg = product(state, g)
        if self.order == 2:  # noqa: PLR2004
            return jax.tree.map(lambda a, b: -(a + 0.5 * eta * b), g, Hg)
        HHg = product(state, Hg)
        # ∇(gᵀHg) with g held fixed is D³J[g, g], the derivative of θ ↦ H(θ)g along g.
        third = jax.jvp(lambda p: product(p, g), (state,), (g,))[1]
        return jax.tree.map(
            lambda a, b, c, d: -(a + 0.5 * eta * b + eta**2 * (c / 3.0 + d / 12.0)),
            g, Hg, HHg, third,
        )  # fmt: skip

    def energy(self, state: PyTree, data: PyTree) -> Any:
        """Return J + (η/4)‖∇J‖², whose gradient flow that of order 2 is."""
        gradient = ravel_pytree(self.objective.traced_gradient(state, data))[0]
        J = self.objective.traced_value(state, data)
        return J + 0.25 * self.learning_rate * jnp.vdot(gradient, gradient)

    def dissipation(self, derivatives: Float[Any, "points n"]) -> Float[Any, "points"] | None:
        """Return ‖θ̇‖² for order 2."""
        return squared_speed(derivatives) if self.order == 2 else None  # noqa: PLR2004

    counterpart = gradient_descent
