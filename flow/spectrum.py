"""Extreme eigenvalues of the Hessian from Hessian-vector products."""

from typing import Any

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from flow.checks import positive_integer
from flow.objective import Objective

# Below this size the dense Hessian costs no more products than ARPACK's first basis.
DENSE_SIZE = 40


class EigenvaluesNotConverged(RuntimeError):  # noqa: N818
    """The eigensolver ran out of iterations; there is no value to be trusted."""


def top_eigenvalues(objective: Objective, params: Any, k: int = 1, tol: float = 1e-6) -> np.ndarray:
    """The k largest eigenvalues of ∇²J, largest first.

    Largest in value, not in magnitude: ARPACK is asked for "LA", as a negative eigenvalue is
    no sharpness however large.

    Parameters
    ----------
    objective, params
        Where to take the Hessian.
    k
        How many, at most objective.size.
    tol
        Relative accuracy.

    Raises
    ------
    ValueError
        k is larger than the number of parameters.
    EigenvaluesNotConverged
        ARPACK did not converge.

    Examples
    --------
    >>> import flow
    >>> H = np.diag([1.0, -9.0, 4.0])
    >>> objective = flow.Objective(lambda x: 0.5 * x @ H @ x, np.ones(3))
    >>> top_eigenvalues(objective, objective.params, k=2)
    array([4., 1.])
    """
    return top_eigenpairs(objective, params, k, tol)[0]


def top_eigenpairs(
    objective: Objective, params: Any, k: int = 1, tol: float = 1e-6
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues of ∇²J (k,), largest first, and unit eigenvectors (n, k).

    Arguments and errors are those of `top_eigenvalues`.

    >>> import flow
    >>> objective = flow.Objective(lambda x: x[0] ** 2 + 0.5 * x[1] ** 2, np.ones(2))
    >>> values, vectors = top_eigenpairs(objective, objective.params)
    >>> values, np.abs(vectors).round(9)
    (array([2.]), array([[1.],
           [0.]]))
    """
    n, theta = objective.size, objective.flatten(params)
    if positive_integer("k", k) > n:
        raise ValueError(f"k={k} eigenvalues of a Hessian of size {n}: k is at most {n}")
    if n <= DENSE_SIZE or k >= n:
        H = np.array([objective.flat_hvp(theta, e) for e in np.eye(n)])
        values, vectors = np.linalg.eigh((H + H.T) / 2)
        return values[::-1][:k], vectors[:, ::-1][:, :k]
    hessian = LinearOperator(
        (n, n), matvec=lambda v: objective.flat_hvp(theta, np.ravel(v)), dtype=np.float64
    )
    start = np.random.default_rng(0).standard_normal(n)
    try:
        values, vectors = eigsh(hessian, k, which="LA", tol=tol, v0=start)
    except ArpackNoConvergence as error:
        raise EigenvaluesNotConverged(
            f"{len(error.eigenvalues)} of {k} eigenvalues of the Hessian converged to {tol:g}; "
            "raise tol, or look at whether the loss is smooth here"
        ) from error
    return values[::-1], vectors[:, ::-1]


def sharpness(objective: Objective, params: Any) -> float:
    """λ_max(∇²J), the sharpness; gradient descent is stable on a quadratic while it is < 2/η.

    >>> import flow
    >>> objective = flow.Objective(lambda x: 1.5 * x @ x, np.ones(2))
    >>> flow.sharpness(objective, objective.params)
    3.0
    """
    return float(top_eigenvalues(objective, params)[0])
