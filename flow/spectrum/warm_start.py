"""Extreme eigenpairs along a path: a block is warm-started from those of the last point.

scipy's eigensolvers visit the host for each product, and ARPACK starts from one vector, however
many are known; JAX's LOBPCG takes three products for each vector in every iteration. So this is a
Davidson iteration without preconditioner (Davidson 1975, J. Comput. Phys. 17:87; Stathopoulos and
Saad 1998), compiled whole: Rayleigh–Ritz in a basis that grows by the residual of the first pair
that has not converged, one product each, and falls back to its Ritz vectors when it is full. From
one vector it is Lanczos' method; from a block it also meets every copy of a degenerate eigenvalue.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flow._core.precision import double_precision
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.spectrum.eigenpairs import Eigenpairs, EigenvaluesNotConverged
from flow.spectrum.hessian import Hessian, traced_product

# Vectors that are tracked beyond the wanted ones; and the relative residual of the first of them,
# so that what overtakes the wanted ones is known before it does.
GUARDS = 2
GUARD_TOLERANCE = 0.01
# Room of the basis beyond the block, as much as ARPACK's.
ROOM = 20
# Products for each wanted pair, beyond which the iteration is given up. A spectrum without an
# outlier, whose first two are 1e-4 of its width apart, can take 500.
MOST = 1000


def start_block(size: int, k: int) -> np.ndarray:
    """Return a block (n, k + guards) that knows nothing."""
    rng = np.random.default_rng(0)
    return np.linalg.qr(rng.standard_normal((size, min(size, k + GUARDS))))[0]


def track(
    H: Hessian, block: np.ndarray, k: int, end: str, tol: float
) -> tuple[Eigenpairs, np.ndarray]:
    """Return the k eigenpairs at one end of H, from a block near them; and the block to go on with.

    A block is Ritz vectors (n, k + guards), outermost first.

    Raises
    ------
    EigenvaluesNotConverged
        The residual stayed above `tol` for 1,000 products a pair; it is named.
    """
    n, width = block.shape
    most = MOST * k
    key = "davidson", k, width
    telling = H.objective.compiling(key, "eigenvalues")
    with double_precision(), H.objective.reading(), telling:
        build = partial(_build, H.objective, k, width, min(n, width + ROOM))
        solve = H.objective.compiled(key, build)
        sign = 1.0 if end == "top" else -1.0
        found = solve(H.theta, block, H.scale, sign, tol, most, H.objective.data)
        values, vectors, residuals, products = map(np.asarray, found)
    H.objective.tally.hvps += int(products)
    if not np.all(residuals <= tol):
        left = float(np.nan_to_num(residuals, nan=np.inf).max())
        raise EigenvaluesNotConverged(
            f"after {int(products)} products the relative residual of {k} eigenvalues is "
            f"{left:.1e}, not {tol:g}; raise tol, or look at whether the loss is smooth here",
            left,
        )
    pairs = Eigenpairs(sign * values, vectors[:, :k].copy(), residuals, int(products))
    return pairs, vectors


class _Basis(NamedTuple):
    Q: Any  # (n, room), orthonormal columns, zeros beyond the first `count`
    HQ: Any
    count: Any
    products: Any
    ritz: Any  # values (room,), descending
    Y: Any  # their coordinates in Q
    residuals: Any  # of the wanted, and of the first guard where there is one


def _build(objective: Objective, k: int, width: int, room: int) -> Callable[..., Any]:
    def solve(
        theta: Any, V: Any, scale: Any, sign: Any, tol: Any, most: Any, data: PyTree
    ) -> tuple[Any, ...]:
        hessian = traced_product(objective, theta, data)
        watched = min(k + 1, width)
        goals = jnp.where(jnp.arange(watched) < k, tol, jnp.maximum(tol, GUARD_TOLERANCE))

        def product(v: Any) -> Any:
            return sign * scale * hessian(scale * v)

        def ritz(Q: Any, HQ: Any, count: Any, products: Any) -> _Basis:
            used = jnp.arange(room) < count
            T = Q.T @ HQ
            # Columns without a vector yet are put below everything.
            low = -jnp.abs(T).sum() - 1.0
            values, Y = jnp.linalg.eigh((T + T.T) / 2.0 + jnp.diag(jnp.where(used, 0.0, low)))
            values, Y = values[::-1], Y[:, ::-1]
            R = HQ @ Y[:, :watched] - (Q @ Y[:, :watched]) * values[:watched]
            norm = jnp.max(jnp.where(used, jnp.abs(values), 0.0))
            residuals = jnp.linalg.norm(R, axis=0) / jnp.where(norm > 0, norm, 1.0)
            return _Basis(Q, HQ, count, products, values, Y, residuals)

        def unconverged(basis: _Basis) -> Any:
            left = ~(jnp.all(basis.residuals <= goals) | jnp.any(jnp.isnan(basis.residuals)))
            return left & (basis.products < most)

        def grow(basis: _Basis) -> _Basis:
            Q, HQ, count = basis.Q, basis.HQ, basis.count
            j = jnp.argmax(basis.residuals > goals)
            y = basis.Y[:, j]
            r = HQ @ y - (Q @ y) * basis.ritz[j]
            full = count == room
            keep = basis.Y * (jnp.arange(room) < width)
            Q, HQ = jax.lax.cond(full, lambda: (Q @ keep, HQ @ keep), lambda: (Q, HQ))
            count = jnp.where(full, width, count)
            for _ in range(2):  # once more, as the residual is small beside what is taken away
                r = r / jnp.linalg.norm(r)
                r = r - Q @ (Q.T @ r)
            r = r / jnp.linalg.norm(r)
            return ritz(
                Q.at[:, count].set(r),
                HQ.at[:, count].set(product(r)),
                count + 1,
                basis.products + 1,
            )

        V = jnp.linalg.qr(V)[0]
        empty = jnp.zeros((theta.size, room))
        # One after the other: so many products side by side take as many times the memory.
        HV = jax.lax.map(product, V.T).T
        basis = ritz(empty.at[:, :width].set(V), empty.at[:, :width].set(HV), width, width)
        if room > width:
            basis = jax.lax.while_loop(unconverged, grow, basis)
        vectors = jnp.linalg.qr(basis.Q @ basis.Y[:, :width])[0]
        return basis.ritz[:k], vectors, basis.residuals[:k], basis.products

    return jax.jit(solve)
