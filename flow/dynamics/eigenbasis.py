"""A basis of the top of the Hessian's spectrum, carried along as part of the state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flow._core.pytrees import PyTree
from flow._problem.objective import Objective


class Tracked(NamedTuple):
    """θ, and the basis."""

    theta: PyTree
    U: Any  # (n, k)


def tracked(objective: Objective, k: int) -> tuple[Tracked, np.ndarray]:
    """Return θ₀ and the top k eigenvectors there; and their eigenvalues, largest first."""
    from flow.spectrum import eigenpairs

    theta = objective.unflatten(objective.theta)
    pairs = eigenpairs(objective, theta, k)
    return Tracked(theta, pairs.vectors), pairs.values


def oja(U: Any, HU: Any) -> Any:
    """Return Oja's flow U̇ = (I − UUᵀ)∇²J·U of an orthonormal U (n, k); it turns to ∇²J's top.

    It follows at the rate of the gap λ_k − λ_{k+1}, and is as stiff as the gradient flow.
    """
    return HU - U @ (U.T @ HU)


def orthonormal(U: Any) -> Any:
    """Return an orthonormal basis of the columns of U, near U if it almost is one.

    By Cholesky's factor of UᵀU; a QR factorisation may turn the sign of a column at any time.
    """
    L = jnp.linalg.cholesky(U.T @ U)
    return jax.scipy.linalg.solve_triangular(L, U.T, lower=True).T
