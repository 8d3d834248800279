"""Gradient flows with closed-form solutions, for tests and teaching."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import jax.numpy as jnp
import numpy as np

from flow._core.checks import numbers, positive, positive_integer, real
from flow._problem.objective import Objective

# Tolerance of the one solution here that is no formula.
RTOL = 1e-13
# e^{2λh} with λh up to this much loses three digits to cancellation, and no more.
GROWTH = 4.0
# Of e^w, beyond which a loss of it overflows.
LARGEST_EXPONENT = 600.0


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


def _times(t: Any) -> np.ndarray:
    """Return times at which a solution is asked for."""
    times = numbers("t", t)
    if not np.all(np.isfinite(times)):
        raise ValueError(f"t must be finite, got {t!r:.80}")
    if np.any(times < 0):
        raise ValueError(f"t must not be negative, got {times.min():g}; a flow starts at t = 0")
    return times


def quadratic(H: np.ndarray, x0: np.ndarray, x_star: np.ndarray | None = None) -> Exact:
    """Return J = ½(x − x*)ᵀH(x − x*): x(t) = x* + e^{−Ht}(x₀ − x*), H (n, n) symmetric.

    >>> problem = quadratic(np.diag([1.0, 2.0]), np.array([1.0, 1.0]))
    >>> problem.theta([0.0, 1.0])
    array([[1. , 1. ], [0.36787944, 0.13533528]])
    """
    H, x0 = numbers("H", H), numbers("x0", x0)
    target = np.zeros_like(x0) if x_star is None else numbers("x_star", x_star)
    n = x0.size
    if x0.shape != (n,) or H.shape != (n, n) or target.shape != (n,):
        raise ValueError(
            "H must be (n, n), and x0 and x_star (n,) vectors of one n; got shapes "
            f"{H.shape}, {x0.shape} and {target.shape}"
        )
    if not (np.isfinite(H).all() and np.allclose(H, H.T)):
        raise ValueError(f"H must be finite and symmetric, got {H!r:.80}")
    if not (np.isfinite(x0).all() and np.isfinite(target).all()):
        raise ValueError(f"x0 and x_star must be finite, got {x0!r} and {target!r}")
    values, vectors = np.linalg.eigh(H)

    def theta(t: Any) -> np.ndarray:
        with np.errstate(over="ignore"):
            decay = np.exp(-np.multiply.outer(_times(t), values))
        return target + (decay * (vectors.T @ (x0 - target))) @ vectors.T

    def loss(x: Any) -> Any:
        return 0.5 * (x - target) @ H @ (x - target)

    return Exact(Objective(loss, x0), theta)


def least_squares(X: np.ndarray, y: np.ndarray) -> Exact:
    """Return J = ½‖Xw − y‖²/N from w = 0, X (N, n).

    w(t) has the filter factors (1 − e^{−st})/s on Xᵀy/N, s the eigenvalues of XᵀX/N; it tends to
    the least solution X⁺y.
    """
    X, y = numbers("X", X), numbers("y", y)
    if X.ndim != 2 or y.shape != X.shape[:1]:  # noqa: PLR2004
        raise ValueError(f"X must be (N, n) and y (N,), got shapes {X.shape} and {y.shape}")
    N = len(X)
    values, vectors = np.linalg.eigh(X.T @ X / N)

    def theta(t: Any) -> np.ndarray:
        t = _times(t)[..., None]
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
    """Return J = ½(s − ab)², a₀ = b₀, with u = ab = s e^{2st}/(e^{2st} − 1 + s/u₀)."""
    s, a0 = positive("s", s), positive("a0", a0)
    strength = linear_modes([s], [positive("a0²", a0 * a0)])

    def theta(t: Any) -> np.ndarray:
        return np.repeat(np.sqrt(strength(t)), 2, axis=-1)

    return Exact(Objective(lambda p: 0.5 * (s - p[0] * p[1]) ** 2, np.array([a0, a0])), theta)


def linear_modes(s: Any, u0: Any, layers: int = 2) -> Callable[[Any], np.ndarray]:
    """Return strengths u of the modes of a balanced linear network of N layers (Saxe et al. 2013).

    u̇ = N u^{2−2/N}(s − u), every mode by itself. Two layers have the closed form
    u = s e^{2st}/(e^{2st} − 1 + s/u₀); of other numbers only t(u) has one, and u(t) is the solution
    of ȧ = a^{N−1}(s − aᴺ), u = aᴺ, at rtol 1e-13.

    Parameters
    ----------
    s
        Strengths in the target, its singular values (modes,), positive.
    u0
        Strengths at t = 0 (modes,), or one for all, positive.
    layers
        N, at least 1.

    Returns
    -------
    Callable
        t (times,) ↦ u (times, modes); t ≥ 0 is learning rate × steps.

    Raises
    ------
    ValueError, TypeError
        A strength is not positive, there is none, or `layers` is no positive integer.

    Examples
    --------
    >>> linear_modes([1.0, 2.0], 0.01)([0.0, 2.0, 20.0]).round(3).tolist()
    [[0.01, 0.01], [0.355, 1.875], [1.0, 2.0]]
    >>> linear_modes([1.0, 2.0], 0.01, layers=3)([0.0, 2.0, 20.0]).round(3).tolist()
    [[0.01, 0.01], [0.051, 1.068], [1.0, 2.0]]
    """
    s, u0 = np.atleast_1d(numbers("s", s)), np.atleast_1d(numbers("u0", u0))
    for name, strengths in (("s", s), ("u0", u0)):
        if strengths.ndim != 1:
            raise ValueError(f"{name} must be a vector (modes,), got shape {strengths.shape}")
        for x in strengths:
            positive(name, float(x))
    if not s.size or u0.size not in (1, s.size):
        raise ValueError(
            f"s has {s.size} modes and u0 {u0.size}; give at least one, and one u0 for each or all"
        )
    u0 = np.broadcast_to(u0, s.shape)
    N = positive_integer("layers", layers)

    def closed_form(t: Any) -> np.ndarray:
        t = np.minimum(_times(t)[..., None], LARGEST_EXPONENT / s)  # by then it is s
        return s / (-np.expm1(-2 * s * t) + s / u0 * np.exp(-2 * s * t))

    def solution(t: Any) -> np.ndarray:
        from scipy.integrate import solve_ivp

        t = _times(t)
        times, place = np.unique(np.append(t, 0.0), return_inverse=True)
        a = np.empty((len(times), len(s)))
        a[0] = u0 ** (1 / N)
        if len(times) > 1:
            a[1:] = solve_ivp(
                lambda _, a: a ** (N - 1) * (s - a**N),
                (0.0, times[-1]),
                a[0],
                "DOP853",
                times[1:],
                rtol=RTOL,
                atol=RTOL * u0.min() ** (1 / N),
            ).y.T
        return (a[place[:-1]] ** N).reshape(*t.shape, len(s))

    return closed_form if N == 2 else solution  # noqa: PLR2004


def deep_linear(target: np.ndarray, u0: Any, layers: int = 2) -> Exact:
    """Return J = ½‖Σ − W_N⋯W₁‖² of N linear layers that start balanced and aligned with Σ = USVᵀ.

    It is the loss ½ mean ‖y − W_N⋯W₁x‖² on whitened inputs, whose correlation is the identity, but
    for a constant, and Σ the correlation of outputs with inputs. W₁ = u^{1/N}Vᵀ, W_N = U u^{1/N},
    diagonal matrices between; the strengths u move as `linear_modes` (Saxe et al. 2013).

    Parameters
    ----------
    target
        Σ (outputs, inputs). There is one hidden unit for each of its singular values above
        rounding.
    u0
        Strengths of the modes at t = 0, largest singular value first, or one for all.
    layers
        N, at least 1.

    Examples
    --------
    >>> import flow
    >>> problem = deep_linear(np.diag([2.0, 1.0]), u0=0.01, layers=3)
    >>> path = flow.integrate(problem.objective, t=10.0, rtol=1e-10, atol=1e-12)
    >>> bool(np.abs(path.theta - problem.theta(path.t)).max() < 1e-8)
    True
    """
    target = numbers("target", target)
    if target.ndim != 2 or not np.isfinite(target).all():  # noqa: PLR2004
        raise ValueError(f"target must be a finite matrix (outputs, inputs), got {target!r:.80}")
    U, s, Vt = np.linalg.svd(target, full_matrices=False)
    rank = np.linalg.matrix_rank(target)
    U, s, Vt = U[:, :rank], s[:rank], Vt[:rank]
    strengths = linear_modes(s, u0, layers)

    def weights(u: np.ndarray) -> list[dict[str, np.ndarray]]:
        factors = [np.diag(u ** (1 / layers))] * layers
        factors[0] = factors[0] @ Vt
        factors[-1] = U @ factors[-1]
        return [{"W": W} for W in factors]

    def theta(t: Any) -> np.ndarray:
        u = strengths(t)
        rows = [[np.ravel(layer["W"]) for layer in weights(x)] for x in u.reshape(-1, len(s))]
        return np.reshape([np.concatenate(row) for row in rows], (*u.shape[:-1], -1))

    def loss(params: Any) -> Any:
        product = params[0]["W"]
        for layer in params[1:]:
            product = layer["W"] @ product
        return 0.5 * jnp.sum((target - product) ** 2)

    return Exact(Objective(loss, weights(strengths(0.0))), theta)


def balanced_linear(target: np.ndarray, W1: np.ndarray, W2: np.ndarray) -> Exact:
    """Return J = ½‖Σ − W₂W₁‖² from balanced weights, W₂ᵀW₂ = W₁W₁ᵀ; `theta` gives W₂W₁, flat.

    The flow stays balanced, so that Q = (W₁, W₂ᵀ)ᵀ obeys Q̇ = (F − ½QQᵀ)Q with F = (0, Σᵀ; Σ, 0):
    Q/√2 is the matrix of `matrix_factorisation` for A = F, aligned with Σ or not
    (Fukumizu 1998).

    Parameters
    ----------
    target
        Σ (outputs, inputs).
    W1, W2
        At t = 0, (hidden, inputs) and (outputs, hidden).

    Raises
    ------
    ValueError
        W₁ and W₂ are not balanced.

    Examples
    --------
    >>> import flow
    >>> W1 = np.array([[0.3, 0.1], [0.1, -0.2]])
    >>> problem = balanced_linear(np.diag([2.0, 1.0]), W1, W2=W1)
    >>> path = flow.integrate(problem.objective, t=5.0, rtol=1e-10, atol=1e-12, save=[1.0, 5.0])
    >>> found = [p[1]["W"] @ p[0]["W"] for p in map(path.params, range(2))]
    >>> bool(np.abs(np.reshape(found, (2, -1)) - problem.theta(path.t)).max() < 1e-8)
    True
    """
    target, W1, W2 = (numbers(name, x) for name, x in (("target", target), ("W1", W1), ("W2", W2)))
    matrices = target.ndim == W1.ndim == W2.ndim == 2  # noqa: PLR2004
    if not matrices or W2.shape != (len(target), len(W1)) or W1.shape[1:] != target.shape[1:]:
        raise ValueError(
            "target must be (outputs, inputs), W1 (hidden, inputs) and W2 (outputs, hidden), got "
            f"shapes {target.shape}, {W1.shape} and {W2.shape}"
        )
    gap = np.linalg.norm(W2.T @ W2 - W1 @ W1.T)
    if gap > 1e-10 * np.linalg.norm(W1) ** 2:
        raise ValueError(
            f"W1 and W2 must be balanced, W2ᵀW2 = W1W1ᵀ, but differ by {gap:.3g}; from the svd of "
            "a product, U√d and √d Vᵀ are"
        )
    n, m = target.shape
    F = np.block([[np.zeros((m, m)), target.T], [target, np.zeros((n, n))]])
    Q = np.concatenate([W1.T, W2]) / np.sqrt(2.0)

    def theta(t: Any) -> np.ndarray:
        t = _times(t)
        products = [2.0 * _riccati(F, Q, time)[m:, :m] for time in t.ravel()]
        return np.reshape(products, (*t.shape, n * m))

    def loss(params: Any) -> Any:
        return 0.5 * jnp.sum((target - params[1]["W"] @ params[0]["W"]) ** 2)

    return Exact(Objective(loss, [{"W": W1}, {"W": W2}]), theta)


def matrix_factorisation(A: np.ndarray, W0: np.ndarray) -> Exact:
    """Return J = ¼‖WWᵀ − A‖², A symmetric; `theta` gives WWᵀ, flat, not W.

    WWᵀ = e^{At}W₀[I + W₀ᵀA⁻¹(e^{2At} − I)W₀]⁻¹W₀ᵀe^{At}, the solution of a Riccati equation: W
    itself is known up to a rotation.
    """
    A, W0 = numbers("A", A), numbers("W0", W0)
    if W0.ndim != 2 or A.shape != (len(W0), len(W0)) or not np.allclose(A, A.T):  # noqa: PLR2004
        raise ValueError(
            f"A must be symmetric (n, n) and W0 (n, r), got shapes {A.shape} and {W0.shape}"
        )

    def theta(t: Any) -> np.ndarray:
        products = [_riccati(A, W0, time) for time in np.atleast_1d(_times(t))]
        return np.reshape(products, (len(products), -1))

    return Exact(Objective(lambda W: 0.25 * jnp.sum((W @ W.T - A) ** 2), W0), theta)


def _riccati(A: np.ndarray, W0: np.ndarray, t: float) -> np.ndarray:
    """Return WWᵀ of `matrix_factorisation` at one time.

    The formula is taken in parts of t, as e^{2At} at once would leave nothing of the slow modes:
    with the bracket LLᵀ (Cholesky), e^{Ah}WL⁻ᵀ is a W to start the next part from.
    """
    values, vectors = np.linalg.eigh(A)
    parts = max(1, ceil(np.abs(values).max() * t / GROWTH))
    h = t / parts
    growth = np.exp(values * h)[:, None]
    # A⁻¹(e^{2Ah} − I) is regular where A is not: 2h.
    x = np.where(values == 0, 1.0, values)
    filled = np.where(values == 0, 2 * h, np.expm1(2 * x * h) / x)[:, None]
    W = vectors.T @ W0
    for _ in range(parts):
        L = np.linalg.cholesky(np.eye(W.shape[1]) + W.T @ (filled * W))
        W = np.linalg.solve(L, (growth * W).T).T
    W = vectors @ W
    return W @ W.T


def _start(w0: Any) -> float:
    """Return a w₀ of which e^{±w₀} are numbers."""
    w0 = real("w0", w0)
    if not abs(w0) <= LARGEST_EXPONENT:
        raise ValueError(f"w0 must lie within ±{LARGEST_EXPONENT:g}, got {w0!r}")
    return w0


def exponential(w0: float) -> Exact:
    """Return J = e^{−w}: w = log(t + e^{w₀})."""
    w0 = _start(w0)
    return Exact(
        Objective(lambda w: jnp.exp(-w[0]), np.array([w0])),
        lambda t: np.log(_times(t)[..., None] + np.exp(w0)),
    )


def logistic(w0: float) -> Exact:
    """Return J = log(1 + e^{−w}): w = c + t − W(e^{c+t}), c = w₀ + e^{w₀}.

    W is Lambert's function; W(e^x) = ω(x), Wright's, does not overflow.
    """
    w0 = _start(w0)
    c = w0 + np.exp(w0)

    def theta(t: Any) -> np.ndarray:
        from scipy.special import wrightomega

        x = c + _times(t)[..., None]
        # c + t − ω(c + t) = log ω(c + t), without the cancellation.
        return np.log(wrightomega(x))

    return Exact(Objective(lambda w: jnp.logaddexp(0.0, -w[0]), np.array([w0])), theta)
