"""The Hessian as an operator: D∇²J(θ)D for a diagonal D, by products and dense."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flow._core.checks import instance, numbers
from flow._core.precision import double_precision
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective

# Products that are taken at once where all are wanted.
BATCH = 32


class Hessian(NamedTuple):
    """D∇²J(θ)D of an objective: θ (n,), and the diagonal of D (n,), ones unless preconditioned."""

    objective: Objective
    theta: np.ndarray
    scale: np.ndarray

    @property
    def size(self) -> int:
        """Return number of parameters."""
        return self.theta.size

    def product(self, v: np.ndarray) -> np.ndarray:
        """Return D∇²J·Dv, counted."""
        return self.scale * self.objective.flat_hvp(self.theta, self.scale * np.ravel(v))

    def dense(self) -> np.ndarray:
        """Return the matrix (n, n), by n products, counted; symmetrised, as rounding is not."""
        self.objective.tally.hvps += self.size
        telling = self.objective.compiling("dense Hessian", "∇²J")
        with double_precision(), self.objective.reading(), telling:
            build = partial(_build_dense, self.objective)
            solve = self.objective.compiled("dense Hessian", build)
            H = np.array(solve(self.theta, self.objective.data))
        H = self.scale[:, None] * H * self.scale
        return (H + H.T) / 2.0


def hessian(objective: Objective, params: PyTree, preconditioner: Any = None) -> Hessian:
    """Return ∇²J at `params`, or P^{−½}∇²J P^{−½} of a diagonal P, flat (n,) or like `params`.

    Raises
    ------
    ValueError
        An entry of P is not positive and finite, or a parameter is not finite.
    """
    instance("objective", objective, Objective, "a flow.Objective")
    theta = objective.flatten(params)
    if not np.all(np.isfinite(theta)):
        raise ValueError("params has entries that are not finite; there is no Hessian there")
    if preconditioner is None:
        return Hessian(objective, theta, np.ones(objective.size))
    if isinstance(preconditioner, np.ndarray) and preconditioner.shape == theta.shape:
        P = numbers("preconditioner", preconditioner)
    else:
        try:
            P = objective.flatten(preconditioner)
        except ValueError as error:
            raise ValueError(
                f"preconditioner must be flat ({objective.size},) or like params: {error}"
            ) from None
    if not np.all(np.isfinite(P) & (P > 0)):
        bad = P[~(np.isfinite(P) & (P > 0))][0]
        raise ValueError(
            f"preconditioner must be positive and finite, got an entry {bad}; that of Adam is "
            "√v̂ + ε, which is 0 at step 0 where ε is"
        )
    return Hessian(objective, theta, 1.0 / np.sqrt(P))


def traced_product(objective: Objective, theta: Any, data: PyTree) -> Callable[[Any], Any]:
    """Return the map v ↦ ∇²J(θ)·v of flat vectors, to be called under `jax.jit`."""
    params = objective.tree(theta)
    return lambda v: ravel_pytree(objective.traced_hvp(params, objective.tree(v), data))[0]


def _build_dense(objective: Objective) -> Callable[..., Any]:
    def dense(theta: Any, data: PyTree) -> Any:
        product = traced_product(objective, theta, data)
        return jax.lax.map(product, jnp.eye(theta.size), batch_size=BATCH)

    return jax.jit(dense)
