"""Weights whose length has no say: gradient flow of J(w/‖w‖)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree, as_parameters
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, gradient_descent, squared_speed
from flow.dynamics.select_leaves import by_name, chosen, map_by_name


@own_keywords
@dataclass(frozen=True)
class ScaleFreeFlow(Dynamics):
    """ẇ = −∇J̃(w), J̃(w) = J(w/‖w‖) for each chosen leaf w; other leaves enter J as they are.

    Weight normalisation (Salimans & Kingma 2016) of whole leaves, without its learnt scale. As J̃
    does not change along w, ∇J̃ ⟂ w: the flow keeps ‖w‖ exactly, and w/‖w‖ moves on the sphere by
    the Riemannian gradient flow of J slowed by ‖w‖², which is what an effective learning rate
    η/‖w‖² means. Gradient descent, at t = ηk, adds η²‖∇J̃‖² to ‖w‖² in each step.

    It is the gradient flow of J̃, so that its Jacobian is symmetric and J̃ falls at ‖ẇ‖².

    Parameters
    ----------
    objective
        J, with θ₀. The attribute of that name is J̃, for
        ``flow.descend(dynamics.objective, η, ...)``; it declares each ‖w‖ conserved.
    leaves
        Names of the leaves w, as flow prints them: "params[0]['W']", "[0]['W']" for short, or the
        key where θ is a dict. It may be left out where θ is one array.

    Raises
    ------
    ValueError
        A leaf is unknown, or zero at θ₀.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: (x - 1.0) @ (x - 1.0), np.array([3.0, 0.0, 4.0]))
    >>> path = flow.integrate(flow.ScaleFreeFlow(objective), t=100.0, rtol=1e-10, atol=1e-12)
    >>> np.allclose(path.theta[-1], 5.0 / np.sqrt(3.0), atol=1e-3)
    True
    >>> bool(abs(np.linalg.norm(path.theta, axis=1) - 5.0).max() < 1e-8)
    True
    """

    symmetric_jacobian: ClassVar[bool] = True

    objective: Objective
    leaves: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.settle()
        names = chosen(self.objective.params, self.leaves)
        params = by_name(as_parameters(self.objective.params))
        for name in names:
            if not params[name].any():
                raise ValueError(
                    f"{name} is zero at θ₀, where w/‖w‖ has no direction; leave it out of leaves, "
                    "or start elsewhere, objective.starting_at(params)"
                )
        normalised = partial(_normalised, names)
        lengths = {f"‖w‖ of {name}": partial(_length, name) for name in names}
        object.__setattr__(self, "leaves", names)
        object.__setattr__(self, "objective", self.objective.reparametrised(normalised, lengths))

    @property
    def label(self) -> str:
        """Return what tables and figures call it."""
        return "scale-free flow"

    def starting_at(self, objective: Objective) -> Dynamics:
        """Return the same dynamics from another θ₀, that of `objective`, which is J̃ already."""
        moved = copy.copy(self)
        object.__setattr__(moved, "objective", objective)
        return moved

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return −∇J̃."""
        return jax.tree.map(jnp.negative, self.objective.traced_gradient(state, data))

    def dissipation(self, derivatives: Float[Any, "points n"]) -> Float[Any, "points"]:
        """Return ‖ẇ‖²."""
        return squared_speed(derivatives)

    counterpart = gradient_descent


def _normalised(names: Sequence[str], params: PyTree) -> PyTree:
    return map_by_name(lambda name, w: w / _norm(w) if name in names else w, params)


def _length(name: str, params: PyTree) -> Any:
    return _norm(by_name(params)[name])


def _norm(w: Any) -> Any:
    return jnp.linalg.norm(jnp.ravel(w))
