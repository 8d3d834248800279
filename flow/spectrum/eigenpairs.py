"""Extreme eigenpairs of the Hessian, cold: dense where it is small, by scipy's ARPACK elsewhere."""

from typing import NamedTuple

import numpy as np

from flow._core.checks import choice, instance, positive, positive_integer
from flow._core.display import shown
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.spectrum.hessian import Hessian, hessian

# Up to this size the dense Hessian is exact and takes about as long as ARPACK's host trips.
DENSE_SIZE = 300
# Relative residual where none is asked for, and in units of roundoff what products can deliver.
TOLERANCE, DELIVERED = 1e-8, 10.0
ENDS = ["top", "bottom"]


class EigenvaluesNotConverged(RuntimeError):  # noqa: N818
    """The eigensolver ran out of products; there is no value to be trusted.

    Attributes
    ----------
    residual
        The largest relative residual that was left, infinite where not even a vector was found.
    """

    def __init__(self, message: str, residual: float = np.inf) -> None:
        super().__init__(message)
        self.residual = residual


class Eigenpairs(NamedTuple):
    """Eigenpairs Hu = λu at one end of a spectrum, the outermost first.

    Parameters
    ----------
    values
        λ (k,).
    vectors
        Orthonormal u, in columns (n, k).
    residuals
        ‖Hu − λu‖/‖H‖ (k,): a bound on the error of λ/‖H‖; the error itself is of its square
        where λ is apart from the others.
    products
        Hessian-vector products that were spent.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    products: int

    def __repr__(self) -> str:
        """Return the eigenvalues, vectors by their shape."""
        return shown(self)


def eigenpairs(
    objective: Objective,
    params: PyTree,
    k: int = 1,
    end: str = "top",
    tol: float | None = None,
    preconditioner: PyTree = None,
) -> Eigenpairs:
    """Return the k eigenpairs of ∇²J at one end of its spectrum, checked.

    Up to 300 parameters by the dense Hessian; beyond by Hessian-vector products and ARPACK, asked
    for "LA" or "SA": a large negative eigenvalue is no sharpness. One vector's Krylov space holds
    one direction of a degenerate eigenspace, whose other copies ARPACK meets by rounding, or
    misses; so where k > 1 it is asked again on the complement of what it found, until there is
    nothing further out.

    Parameters
    ----------
    objective, params
        Where to take the Hessian.
    k
        How many, at most objective.size.
    end
        "top" or "bottom".
    tol
        Relative residual; by default 1e-8, and 1e-6 of an objective that computes in single
        precision.
    preconditioner
        Diagonal P of P^{−½}∇²J P^{−½}, flat (n,) or like `params`.

    Raises
    ------
    ValueError
        k is larger than the number of parameters, or P is not positive.
    EigenvaluesNotConverged
        The residual stayed above `tol`; it is named.

    Examples
    --------
    >>> import flow
    >>> H = np.diag([1.0, -9.0, 4.0])
    >>> objective = flow.Objective(lambda x: 0.5 * x @ H @ x, np.ones(3))
    >>> pairs = eigenpairs(objective, objective.params, k=2)
    >>> pairs.values, np.abs(pairs.vectors)
    (array([4., 1.]), array([[0., 1.],
           [0., 0.],
           [1., 0.]]))
    """
    instance("objective", objective, Objective, "a flow.Objective")
    n = objective.size
    if positive_integer("k", k) > n:
        raise ValueError(f"k={k} eigenvalues of a Hessian of size {n}: k is at most {n}")
    choice("end", end, ENDS)
    if tol is None:
        tol = max(TOLERANCE, DELIVERED * objective.resolution)
    positive("tol", tol)
    H = hessian(objective, params, preconditioner)
    # Also where k is most of n, of which ARPACK has no room for a Krylov space.
    if n <= DENSE_SIZE or 2 * k >= n:
        return _dense(H, k, end)
    return _by_products(H, k, end, tol)


@own_keywords
def top_eigenvalues(
    objective: Objective, params: PyTree, k: int = 1, tol: float | None = None
) -> np.ndarray:
    """Return the k largest eigenvalues of ∇²J (k,), largest first; as in `eigenpairs`.

    >>> import flow
    >>> H = np.array([1.0, -9.0, 4.0])
    >>> objective = flow.Objective(lambda x: 0.5 * x @ (H * x), np.ones(3))
    >>> top_eigenvalues(objective, objective.params, k=2)
    array([4., 1.])
    """
    return eigenpairs(objective, params, k, "top", tol).values


@own_keywords
def bottom_eigenvalues(
    objective: Objective, params: PyTree, k: int = 1, tol: float | None = None
) -> np.ndarray:
    """Return the k smallest eigenvalues of ∇²J (k,), smallest first; as in `eigenpairs`.

    >>> import flow
    >>> H = np.array([1.0, -9.0, 4.0])
    >>> objective = flow.Objective(lambda x: 0.5 * x @ (H * x), np.ones(3))
    >>> bottom_eigenvalues(objective, objective.params)
    array([-9.])
    """
    return eigenpairs(objective, params, k, "bottom", tol).values


@own_keywords
def sharpness(objective: Objective, params: PyTree) -> float:
    """Return λ_max(∇²J); gradient descent is stable on a quadratic while it is below 2/η.

    As an observer, ``observe={"sharpness": flow.sharpness}``, it is warm-started: see
    `flow.observe.sharpness`.

    >>> import flow
    >>> objective = flow.Objective(lambda x: 1.5 * x @ x, np.ones(2))
    >>> flow.sharpness(objective, objective.params)
    3.0
    """
    return float(top_eigenvalues(objective, params)[0])


@own_keywords
def preconditioned_sharpness(
    objective: Objective, params: PyTree, preconditioner: PyTree, tol: float | None = None
) -> float:
    """Return λ_max(P^{−½}∇²J P^{−½}), whose limit is that of the optimizer that divides by P.

    P = √v̂ + ε for Adam, which at β₁ = 0.9 is stable below 38/η (Cohen et al. 2022,
    arXiv 2207.14484), and √(v + ε) for `optax.rmsprop`, stable below 2/η; `flow.observe` has it
    along a run. Arguments and errors are those of `eigenpairs`.

    >>> import flow
    >>> objective = flow.Objective(lambda x: 1.5 * x @ x, np.ones(2))
    >>> preconditioned_sharpness(objective, objective.params, np.array([1.0, 0.5]))
    6.0
    """
    if preconditioner is None:
        raise TypeError("preconditioner must be flat or like params, got None; flow.sharpness is "
                        "without")  # fmt: skip
    return float(eigenpairs(objective, params, 1, "top", tol, preconditioner).values[0])


def _dense(H: Hessian, k: int, end: str) -> Eigenpairs:
    matrix = H.dense()
    if not np.all(np.isfinite(matrix)):
        raise EigenvaluesNotConverged(_NOT_FINITE)
    values, vectors = np.linalg.eigh(matrix)
    if end == "top":
        values, vectors = values[::-1], vectors[:, ::-1]
    values, vectors = values[:k], vectors[:, :k]
    norm = np.abs(matrix).sum(axis=1).max() or 1.0
    residuals = np.linalg.norm(matrix @ vectors - vectors * values, axis=0) / norm
    return Eigenpairs(values, vectors, residuals, H.size)


def _by_products(H: Hessian, k: int, end: str, tol: float) -> Eigenpairs:
    before = H.objective.tally.hvps
    sign = 1.0 if end == "top" else -1.0
    V = HV = np.empty((H.size, 0))
    values, wanted, norm = np.empty(0), k, 0.0
    rng = np.random.default_rng(0)
    while wanted:
        found = _arpack(H, sign, wanted, tol, (V, norm), rng.standard_normal(H.size))
        HV = np.column_stack([HV, *(sign * H.product(v) for v in found.T)])
        V = np.column_stack([V, found])
        # Rayleigh–Ritz in all that was found: of the union of two passes and near degeneracy.
        Q, R = np.linalg.qr(V)
        HV = np.linalg.solve(R.T, HV.T).T
        theta, Y = np.linalg.eigh((Q.T @ HV + HV.T @ Q) / 2.0)
        order = np.argsort(theta)[::-1][:k]
        innermost = values[-1] if len(values) else np.inf
        values, V, HV = theta[order], Q @ Y[:, order], HV @ Y[:, order]
        norm = max(norm, np.abs(theta).max())
        # One that was missed would be further out than the innermost; nothing below it is new.
        first = innermost == np.inf
        wanted = int(k > 1 and (first or values[-1] > innermost + tol * norm))
    residuals = np.linalg.norm(HV - V * values, axis=0) / (norm or 1.0)
    # The Ritz estimate that ARPACK stops by, and rounding in the products.
    if not residuals.max() <= 10.0 * tol:
        raise EigenvaluesNotConverged(
            f"the largest relative residual of {k} eigenvalues is {residuals.max():.1e}, not "
            f"{tol:g}; raise tol, or look at whether the loss is smooth here",
            float(residuals.max()),
        )
    return Eigenpairs(sign * values, V, residuals, H.objective.tally.hvps - before)


def _arpack(
    H: Hessian, sign: float, k: int, tol: float, known: tuple[np.ndarray, float], start: np.ndarray
) -> np.ndarray:
    """Return the top k eigenvectors (n, k) of ±H on the complement of what is known."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    V, norm = known

    def product(v: np.ndarray) -> np.ndarray:
        inside = np.ravel(v) - V @ (V.T @ np.ravel(v))
        w = sign * H.product(inside)
        # What is known goes to the other end of the spectrum.
        return w - V @ (V.T @ w) - 2.0 * norm * (V @ (V.T @ np.ravel(v)))

    operator = LinearOperator((H.size, H.size), matvec=product, dtype=np.float64)
    start = start - V @ (V.T @ start)
    if not np.any(product(start)):  # all that is left is zero, in any direction
        rng = np.random.default_rng(1)
        return np.linalg.qr(np.column_stack([V, start, rng.standard_normal((H.size, k - 1))]))[0][
            :, V.shape[1] :
        ]
    try:
        return eigsh(operator, k, which="LA", tol=tol, v0=start)[1]
    except ArpackNoConvergence as error:
        partial = error.eigenvectors
        found = error.eigenvalues
        pairs = zip(partial.T, found, strict=True)
        residual = max((np.linalg.norm(product(v) - w * v) for v, w in pairs), default=np.inf)
        raise EigenvaluesNotConverged(
            f"{len(found)} of {k} eigenvalues of the Hessian converged to {tol:g} (residual of "
            f"those: {residual:.1e}); raise tol, or look at whether the loss is smooth here",
            float(residual) if len(found) == k else np.inf,
        ) from error


_NOT_FINITE = "the Hessian has entries that are not finite; there are no eigenvalues"
