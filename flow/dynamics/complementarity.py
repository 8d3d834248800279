"""The semidefinite linear complementarity problem of a few directions at the edge of stability.

Find X ⪰ 0 with M = A + K[X] ⪰ 0 and ⟨X, M⟩ = 0, for symmetric X (k, k) and a positive semidefinite
K: the optimum of ½⟨X, K[X]⟩ + ⟨A, X⟩ over X ⪰ 0. Symmetric matrices are vectors of k(k+1)/2 entries
here, off-diagonal ones times √2, so that inner products are the same.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Of the residual at X = 0; quadratic convergence gets there from far above in one step.
TOLERANCE = 1e-12
MOST = 200
# Of Newton's step, tried where the whole of it leads astray.
SHARES = np.array([0.7, 0.5, 0.3, 0.1, 0.03])


class Solution(NamedTuple):
    """X (k, k), the iterations that it took, and the residual relative to that of X = 0."""

    X: Float[Array, "k k"]
    iterations: Any
    residual: Any


def vector(X: Float[Array, "k k"]) -> Float[Array, "p"]:
    """Return the vector of a symmetric matrix.

    >>> vector(jnp.array([[1.0, 2.0], [2.0, 3.0]])).round(3).tolist()
    [1.0, 2.828..., 3.0]
    """
    i, j = np.triu_indices(X.shape[0])
    return X[i, j] * weights(X.shape[0])


def matrix(x: Float[Array, "p"], k: int) -> Float[Array, "k k"]:
    """Return the symmetric matrix of a vector."""
    i, j = np.triu_indices(k)
    entries = x / weights(k)
    return jnp.zeros((k, k)).at[i, j].set(entries).at[j, i].set(entries)


def weights(k: int) -> np.ndarray:
    """Return 1 on the diagonal and √2 off it, (p,)."""
    i, j = np.triu_indices(k)
    return np.where(i == j, 1.0, np.sqrt(2.0))


def solve(K: Float[Array, "p p"], a: Float[Array, "p"], k: int) -> Solution:
    """Return X of K and A = a, both in the basis of `vector`; one X where it is not unique.

    Semismooth Newton (Qi and Sun 2006; Sun and Sun 2002 for the derivative of Π) on
    F(x) = x − Π(x − s(Kx + a)), Π the projection on X ⪰ 0 and s = 1/tr K. A step that does not
    halve ‖F‖ is shortened; where that does not help, it is x ← Π(x − s(Kx + a)), which can only
    bring x nearer, as s is at most 1/λ_max(K).

    >>> solve(jnp.array([[2.0]]), jnp.array([-3.0]), 1).X.tolist()
    [[1.5]]
    """
    trace = jnp.trace(K)
    s = 1.0 / jnp.where(trace > 0, trace, 1.0)
    p = len(weights(k))
    # A direction that nothing depends on gets the smallest X.
    K = K + 1e-13 * trace * jnp.eye(p)
    unit = jnp.eye(p)

    def state(x: Any) -> tuple[Any, ...]:
        eigenvalues, Q = jnp.linalg.eigh(matrix(x - s * (K @ x + a), k))
        projected = vector((Q * jnp.maximum(eigenvalues, 0.0)) @ Q.T)
        return x, projected, eigenvalues, Q

    def residual(now: tuple[Any, ...]) -> Any:
        return jnp.linalg.norm(now[0] - now[1])

    def newton(now: tuple[Any, ...]) -> Any:
        x, projected, eigenvalues, Q = now
        positive = jnp.maximum(eigenvalues, 0.0)
        rise = positive[:, None] - positive
        run = eigenvalues[:, None] - eigenvalues
        equal = jnp.abs(run) <= 1e-14 * jnp.abs(eigenvalues).max()
        slopes = jnp.where(equal, (eigenvalues > 0)[:, None], rise / jnp.where(equal, 1.0, run))

        def derivative(h: Any) -> Any:
            return vector(Q @ (slopes * (Q.T @ matrix(h, k) @ Q)) @ Q.T)

        D = jax.vmap(derivative, 1, 1)(unit)
        return x - jnp.linalg.solve(unit - D @ (unit - s * K), x - projected)

    start = state(jnp.zeros(p))
    scale = residual(start)

    def going(carry: tuple[Any, Any]) -> Any:
        i, now = carry
        return (i < MOST) & (residual(now) > TOLERANCE * scale)

    def iterate(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        i, now = carry
        target = newton(now)
        ahead = state(target)

        def damped() -> tuple[Any, ...]:
            tried = jax.vmap(lambda share: state(now[0] + share * (target - now[0])))(
                jnp.asarray(SHARES, a.dtype)
            )
            left = jax.vmap(residual)(tried)
            best = jnp.argmin(left)
            nearer = left[best] <= 0.9 * residual(now)
            shorter = jax.tree.map(lambda x: x[best], tried)
            return jax.lax.cond(nearer, lambda: shorter, lambda: state(now[1]))

        now = jax.lax.cond(residual(ahead) <= 0.5 * residual(now), lambda: ahead, damped)
        return i + 1, now

    iterations, now = jax.lax.while_loop(going, iterate, (0, start))
    left = residual(now) / jnp.where(scale > 0, scale, 1.0)
    return Solution(matrix(now[1], k), iterations, left)
