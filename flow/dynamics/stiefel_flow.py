"""Weights with orthonormal rows: the Riemannian gradient flow on the Stiefel manifold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flow._core.checks import instance, positive
from flow._core.keywords import own_keywords
from flow._core.precision import PrecisionWarning
from flow._core.pytrees import PyTree, as_parameters
from flow._core.user_warnings import warn
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, squared_speed
from flow.dynamics.select_leaves import by_name, chosen, map_by_name

# Of ‖WWᵀ − mI‖/m at θ₀: what is orthogonal in float64 is within the first, in float32 the second.
TOLERANCE, SINGLE = 1e-10, 1e-5


@own_keywords
@dataclass(frozen=True)
class StiefelFlow(Dynamics):
    """Ẇ = −(G − sym(GWᵀ)W/m), G = ∂J/∂W, on WWᵀ = mI; other leaves follow −∇J.

    For W (n, p), n ≤ p: the bracket is the Riemannian gradient, the part of G that is tangent to
    the manifold (Edelman, Arias & Smith 1998, with the metric that it has from the space about
    it; J = −½ tr(WCWᵀ) gives Oja's flow, whose closed form Yan, Helmke & Moore 1994 have). The
    exact flow keeps WWᵀ = mI. Integrators do not: the state is the raw W, and parameters are its
    polar factor √m (WWᵀ)^{−1/2} W, the nearest point of the manifold, at which G is taken as
    well. So the constraint holds to rounding with every method at every time.

    On the manifold the Jacobian is block triangular, −Hessian (symmetric) for tangents and zero
    for normals, so that its spectrum is real and stabilised methods may be used. J falls at the
    rate ‖Ẇ‖² + ‖ḃ‖², b the other leaves; its root is the gradient norm that is recorded.

    Parameters
    ----------
    objective
        J, with θ₀. Each chosen leaf has an m of its own, ‖W‖²/n at θ₀.
    leaves
        Names of the leaves W, as flow prints them: "params[0]['W']", "[0]['W']" for short, or the
        key where θ is a dict. It may be left out where θ is one matrix. With more there is no
        default: every row vector, the output layer of one unit for instance, is on the manifold
        and would be caught unawares.

    Warns
    -----
    PrecisionWarning
        If a leaf was orthogonalised in float32: it starts from the nearest point of the manifold.

    Raises
    ------
    ValueError
        A leaf is unknown, is no matrix, has more rows than columns, or is not on the manifold at
        θ₀; `flow.dynamics.orthogonal` puts it there.

    Examples
    --------
    The flow finds the plane of the two largest eigenvalues:

    >>> import flow, numpy as np
    >>> C = np.diag([4.0, 3.0, 1.0])
    >>> W = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 2)))[0].T
    >>> objective = flow.Objective(lambda W: -0.5 * (W @ C * W).sum(), W)
    >>> path = flow.integrate(flow.StiefelFlow(objective), t=10.0)
    >>> W = path.params(-1)
    >>> bool(abs(W @ W.T - np.eye(2)).max() < 1e-14), bool(abs(W[:, 2]).max() < 1e-6)
    (True, True)

    A hidden layer of a network, from orthogonal weights:

    >>> X, y = flow.datasets.digits(50)
    >>> objective = flow.MLP([64, 8, 10]).objective(X, y)
    >>> dynamics = flow.StiefelFlow(flow.dynamics.orthogonal(objective, "[0]['W']"), "[0]['W']")
    >>> path = flow.integrate(dynamics, t=5.0)
    >>> flow.audit(path).conserved["WWᵀ of params[0]['W']"] < 1e-12
    True
    """

    real_spectrum: ClassVar[bool] = True

    objective: Objective
    leaves: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        leaves = _matrices(self.objective, self.leaves)
        object.__setattr__(self, "leaves", tuple(leaves))
        rounded = {}
        for name, W in leaves.items():
            m = _scale(W)
            off = np.linalg.norm(W @ W.T - m * np.eye(len(W)))
            if TOLERANCE * m < off <= SINGLE * m:
                rounded[name] = off
            elif not off <= TOLERANCE * m or m == 0:
                raise ValueError(
                    f"{name} is not on the Stiefel manifold at θ₀: ‖WWᵀ − mI‖ = {off:.3g} with "
                    f"m = ‖W‖²/n = {m:.3g}; start from flow.dynamics.orthogonal(objective, "
                    f"{list(leaves)})"
                )
        if rounded:
            warn(
                f"{', '.join(rounded)} has rows that are orthogonal as float32 has them, "
                f"‖WWᵀ − mI‖ = {max(rounded.values()):.1e}: the flow starts at the nearest point "
                "of the manifold, dynamics.objective.params; start other runs from there too",
                PrecisionWarning,
            )
            object.__setattr__(self, "objective", orthogonal(self.objective, self.leaves))

    @property
    def label(self) -> str:
        """Return what tables and figures call it."""
        return "Stiefel flow"

    @property
    def scales(self) -> dict[str, float]:
        """Return the m of each of the leaves."""
        return {name: _scale(W) for name, W in _matrices(self.objective, self.leaves).items()}

    @property
    def conserved(self) -> dict[str, Callable[[PyTree], Any]]:
        """Return WWᵀ of each of the leaves; what free gradient flow conserves is lost."""
        return {
            f"WWᵀ of {name}": lambda params, name=name: (W := by_name(params)[name]) @ W.T
            for name in self.leaves
        }

    def starting_at(self, objective: Objective) -> Dynamics:
        """Return the same dynamics from another θ₀ with the same m.

        Raises
        ------
        ValueError
            An m is another: right-hand sides that are compiled once for many θ₀ have one.
        """
        moved = super().starting_at(objective)
        for name, m in self.scales.items():
            if not np.isclose(moved.scales[name], m, rtol=TOLERANCE, atol=0.0):
                raise ValueError(
                    f"{name} has ‖W‖²/n = {moved.scales[name]:.6g}, but m = {m:.6g} where this "
                    "dynamics starts; scale W, or make a flow.StiefelFlow of its own"
                )
        return moved

    def params(self, state: PyTree) -> PyTree:
        """Return the polar factors of the leaves, and the others as they are."""
        scales = self.scales
        return map_by_name(lambda name, W: polar(W, scales[name]) if name in scales else W, state)

    def gradient(self, params: PyTree, data: PyTree) -> PyTree:
        """Return the Riemannian gradient."""
        return riemannian(self.objective.traced_gradient(params, data), params, self.scales)

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Minus the Riemannian gradient at the polar factors."""
        return jax.tree.map(jnp.negative, self.gradient(self.params(state), data))

    def dissipation(self, derivatives: Float[Any, "points n"]) -> Float[Any, "points"]:
        """Return ‖Ẇ‖² + ‖ḃ‖²."""
        return squared_speed(derivatives)

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return Riemannian gradient descent, W ← polar(W − η·Riemannian gradient), at t = ηk.

        Absil, Mahony & Sepulchre 2008, with the polar retraction. Other leaves descend by −η∇J.
        """
        import optax

        learning_rate = positive("learning_rate", learning_rate)
        scales = self.scales

        def update(gradient: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
            if params is None:
                raise ValueError("a retraction needs the point: optimizer.update(g, state, params)")
            moves = jax.tree.map(lambda g: -learning_rate * g, riemannian(gradient, params, scales))

            def retract(name: str, move: Any, W: Any) -> Any:
                return polar(W + move, scales[name]) - W if name in scales else move

            return map_by_name(retract, moves, params), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update), (
            learning_rate
        )


@own_keywords
def orthogonal(objective: Objective, leaves: str | Sequence[str] | None = None) -> Objective:
    """Return the same loss from the nearest θ₀ whose `leaves` have WWᵀ = mI and the norms of now.

    W becomes √m (WWᵀ)^{−1/2} W, m = ‖W‖²/n. Names are those of `flow.StiefelFlow`.

    Raises
    ------
    ValueError
        A leaf is unknown, is no matrix, has more rows than columns, or is of lower rank.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda W: W.sum(), np.array([[3.0, 0.0], [1.0, 1.0]]))
    >>> W = orthogonal(objective).params
    >>> np.allclose(W @ W.T, 5.5 * np.eye(2))
    True
    """
    scales = {}
    for name, W in _matrices(objective, leaves).items():
        if np.linalg.matrix_rank(W) < len(W):
            raise ValueError(
                f"{name} has rank {np.linalg.matrix_rank(W)} with {len(W)} rows: no orthonormal "
                "rows are nearest to it; start from others, objective.starting_at(params)"
            )
        scales[name] = _scale(W)

    def nearest(name: str, W: Any) -> Any:
        if name not in scales:
            return W
        U, _, Vt = np.linalg.svd(W, full_matrices=False)
        return np.sqrt(scales[name]) * U @ Vt

    return objective.starting_at(map_by_name(nearest, as_parameters(objective.params)))


def riemannian(gradient: PyTree, params: PyTree, scales: dict[str, float]) -> PyTree:
    """Return G − sym(GWᵀ)W/m of the leaves that have an m; of the others G."""

    def tangent(name: str, G: Any, W: Any) -> Any:
        if name not in scales:
            return G
        A = G @ W.T
        return G - (A + A.T) @ W / (2.0 * scales[name])

    return map_by_name(tangent, gradient, params)


def polar(W: Any, m: float) -> Any:
    """Return √m (WWᵀ)^{−1/2} W, the point of WWᵀ = mI that is nearest to W (n, p)."""
    return inverse_root(W @ W.T / m) @ W


@jax.custom_jvp
def inverse_root(A: Any) -> Any:
    """Return A^{−1/2} of a symmetric positive matrix (n, n)."""
    values, Q = jnp.linalg.eigh(A)
    return Q / jnp.sqrt(values) @ Q.T


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """Return A^{−1/2} and its push-forward, by divided differences of x^{−1/2} (Daleckii & Krein).

    Derivatives of eigenvectors, which autodiff would take, do not exist where A is near mI.
    """
    (A,), (dA,) = primals, tangents
    values, Q = jnp.linalg.eigh(A)
    roots = jnp.sqrt(values)
    differences = -1.0 / (jnp.outer(roots, roots) * (roots[:, None] + roots))
    return Q / roots @ Q.T, Q @ (differences * (Q.T @ dA @ Q)) @ Q.T


def _scale(W: np.ndarray) -> float:
    """Return m, so that ‖W‖² = nm."""
    return float(np.sum(W**2) / len(W))


def _matrices(objective: Objective, leaves: str | Sequence[str] | None) -> dict[str, np.ndarray]:
    """Return the chosen leaves at θ₀ by name; refuse what can't have orthonormal rows."""
    instance("objective", objective, Objective, "a flow.Objective")
    params = as_parameters(objective.params)
    found = {name: by_name(params)[name] for name in chosen(params, leaves)}
    for name, W in found.items():
        if W.ndim != 2:  # noqa: PLR2004
            raise ValueError(f"{name} must be a matrix (n, p), n ≤ p, got shape {W.shape}")
        if W.shape[0] > W.shape[1]:
            raise ValueError(
                f"{name} has more rows than columns, {W.shape}: they can't be orthonormal; leave "
                "it out of leaves, or make its transpose the parameter"
            )
    return found
