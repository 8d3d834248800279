"""Gradient flows with closed-form solutions, for tests and teaching."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm
from scipy.special import wrightomega

from flow.objective import Objective


@dataclass(frozen=True)
class Exact:
    """A problem and its gradient flow in closed form.

    Attributes
    ----------
    objective
        The loss, with θ₀.
    theta
        t (times,) ↦ the flat parameters (times, n).
    """

    objective: Objective
    theta: Callable[[Any], np.ndarray]


def quadratic(H: np.ndarray, x0: np.ndarray, x_star: np.ndarray | None = None) -> Exact:
    """J = ½(x − x*)ᵀH(x − x*): x(t) = x* + e^{−Ht}(x₀ − x*), H (n, n) symmetric.

    >>> problem = quadratic(np.diag([1.0, 2.0]), np.array([1.0, 1.0]))
    >>> problem.theta([0.0, 1.0])
    array([[1. , 1. ], [0.36787944, 0.13533528]])
    """
    H, x0 = np.asarray(H, float), np.asarray(x0, float)
    target = np.zeros_like(x0) if x_star is None else np.asarray(x_star, float)
    values, vectors = np.linalg.eigh(H)

    def theta(t: Any) -> np.ndarray:
        decay = np.exp(-np.multiply.outer(np.asarray(t, float), values))
        return target + (decay * (vectors.T @ (x0 - target))) @ vectors.T

    def loss(x: Any) -> Any:
        return 0.5 * (x - target) @ H @ (x - target)

    return Exact(Objective(loss, x0), theta)


def least_squares(X: np.ndarray, y: np.ndarray) -> Exact:
    """J = ½‖Xw − y‖²/N from w = 0, X (N, n).

    w(t) has the filter factors (1 − e^{−st})/s on Xᵀy/N, s the eigenvalues of XᵀX/N; it tends to
    the least solution X⁺y.
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    N = len(X)
    values, vectors = np.linalg.eigh(X.T @ X / N)

    def theta(t: Any) -> np.ndarray:
        t = np.asarray(t, float)[..., None]
        s = np.where(np.abs(values) < 1e-12 * values.max(), 0.0, values)
        filters = np.where(s > 0, -np.expm1(-s * t) / np.where(s > 0, s, 1.0), t)
        return (filters * (vectors.T @ (X.T @ y / N))) @ vectors.T

    objective = Objective(
        lambda w, batch: 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2),
        np.zeros(X.shape[1]),
        (X, y),
    )
    return Exact(objective, theta)


def two_layer_scalar(s: float, a0: float) -> Exact:
    """J = ½(s − ab)², a₀ = b₀: u = ab = s e^{2st}/(e^{2st} − 1 + s/u₀) (Saxe et al. 2013)."""

    def theta(t: Any) -> np.ndarray:
        t = np.asarray(t, float)
        u = s / (-np.expm1(-2 * s * t) + s / a0**2 * np.exp(-2 * s * t))
        return np.stack([np.sqrt(u), np.sqrt(u)], axis=-1)

    return Exact(Objective(lambda p: 0.5 * (s - p[0] * p[1]) ** 2, np.array([a0, a0])), theta)


def matrix_factorisation(A: np.ndarray, W0: np.ndarray) -> Exact:
    """J = ¼‖WWᵀ − A‖², A symmetric and invertible; `theta` gives WWᵀ, flat, not W.

    WWᵀ = e^{At}W₀[I + W₀ᵀA⁻¹(e^{2At} − I)W₀]⁻¹W₀ᵀe^{At}, the solution of a Riccati equation: W
    itself is known up to a rotation.
    """
    A, W0 = np.asarray(A, float), np.asarray(W0, float)

    def theta(t: Any) -> np.ndarray:
        products = []
        for time in np.atleast_1d(np.asarray(t, float)):
            E = expm(A * time)
            inner = np.eye(W0.shape[1]) + W0.T @ np.linalg.solve(A, E @ E - np.eye(len(A))) @ W0
            products.append(E @ W0 @ np.linalg.solve(inner, W0.T @ E))
        return np.reshape(products, (len(products), -1))

    return Exact(Objective(lambda W: 0.25 * jnp.sum((W @ W.T - A) ** 2), W0), theta)


def exponential(w0: float) -> Exact:
    """J = e^{−w}: w = log(t + e^{w₀})."""
    return Exact(
        Objective(lambda w: jnp.exp(-w[0]), np.array([w0])),
        lambda t: np.log(np.asarray(t, float)[..., None] + np.exp(w0)),
    )


def logistic(w0: float) -> Exact:
    """J = log(1 + e^{−w}): w = c + t − W(e^{c+t}), c = w₀ + e^{w₀}.

    W is Lambert's function; W(e^x) = ω(x), Wright's, does not overflow.
    """
    c = w0 + np.exp(w0)

    def theta(t: Any) -> np.ndarray:
        x = c + np.asarray(t, float)[..., None]
        # c + t − ω(c + t) = log ω(c + t), without the cancellation.
        return np.log(wrightomega(x))

    return Exact(Objective(lambda w: jnp.logaddexp(0.0, -w[0]), np.array([w0])), theta)
