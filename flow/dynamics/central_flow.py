"""The central flow: the path around which gradient descent oscillates at the edge of stability."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flow._core.checks import positive, positive_integer
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, gradient_descent
from flow.dynamics.complementarity import Solution, solve, vector, weights
from flow.dynamics.eigenbasis import Tracked, oja, orthonormal, tracked
from flow.dynamics.kinks import warn_of_kinks

# Share of 2/η by which θ₀ may lie beyond the edge; the correction brings it back.
BEYOND = 0.01
# Share of a curvature within which a direction beyond the k is taken to have come to them.
FULL = 1e-3
# Of tr X, above which an eigenvalue of X is not zero.
RANK = 1e-6
# Residual of the complementarity problem above which X is not believed.
UNSOLVED = 1e-6


class Edge(NamedTuple):
    """The oscillation at a point."""

    gradient: Any  # ∇J (n,)
    U: Any  # the tracked basis (n, k + 1), orthonormal
    HU: Any
    V: Any  # Ritz vectors of the k largest Ritz values (n, k)
    eigenvalues: Any  # Ritz values, descending (k + 1,)
    G: Any  # third derivatives ∇(vᵢᵀ∇²J vⱼ) in the basis of `vector`, (n, p)
    solution: Solution


@own_keywords
@dataclass(frozen=True)
class CentralFlow(Dynamics):
    """θ̇ = −[∇J + ½∇⟨∇²J, Σ⟩], t = ηk: time-averaged gradient descent, also at the edge.

    Where λ_max meets 2/η gradient descent starts to oscillate along the eigenvectors at the edge,
    with a covariance Σ = VXVᵀ, which adds ½⟨∇²J, Σ⟩ to its mean loss and so pushes curvature down:
    just enough for λ_max to stay (Cohen, Damian, Talwalkar, Kolter and Lee 2024, arXiv 2410.24206).
    X (k, k) solves the complementarity problem X ⪰ 0, M ⪰ 0, ⟨X, M⟩ = 0, where M = α + β[X] + κC:

        α_ij = ⟨∇J, ∇(vᵢᵀ∇²J vⱼ)⟩,  β[X]_ij = ½ Σ ⟨∇(vᵢᵀ∇²J vⱼ), ∇(v_kᵀ∇²J v_l)⟩ X_kl

    so that −(α + β[X]) is the rate of Vᵀ∇²J V, and C = 2/η − Vᵀ∇²J V is its distance to the edge.
    With one direction at the edge, X = 2⟨−∇J, ∇λ⟩/‖∇λ‖² where that is positive.

    κ = 1/η makes M ⪰ 0 say that a curvature may near the edge no faster than (2/η − λ)/η. So the
    right-hand side is continuous: a direction arrives where X becomes positive and leaves where it
    becomes 0, without an event to be located; eigenvalues that a step leaves beyond the edge are
    drawn back at the rate κ; and on the edge, where C = 0, nothing is changed. The price is that a
    direction arrives a time of about η late.

    The basis is tracked as part of the state by Oja's flow, with one guard direction beyond k; the
    run ends, and says so, when that comes to the edge too. Its stiffness is 2/η, so "RKC2" is the
    method unless another is asked for, and rtol = 1e-4 is enough.

    ``path.state`` has "eigenvalues" (k + 1,) at the top of ∇²J, "X" (k, k) and "V" (n, k) of the
    oscillation's covariance VXVᵀ; "mean_loss" J + tr X/η and
    "mean_squared_gradient" ‖∇J‖² + (4/η²) tr X, the averages of gradient descent over its
    oscillation; "critical", how many directions oscillate; and "residual", how well X was found.

    Parameters
    ----------
    objective
        J, with θ₀ at which λ_max is at most 2/η. Third derivatives are taken: it should be smooth.
    learning_rate
        η of the gradient descent that is modelled.
    k
        How many directions may be at the edge, at most n. Each right-hand side costs k + 1
        Hessian-vector products and k(k + 1)/2 third derivatives, of two products each.

    Raises
    ------
    ValueError
        k is larger than n, or (by `integrate`) gradient descent is unstable at θ₀ already.

    Warns
    -----
    KinkWarning
        The objective has kinks, across which third derivatives say nothing.

    Examples
    --------
    Curvature α + x along y grows at the rate 1, up to 2/η = 4. There gradient descent oscillates
    in y with the variance 2, which holds x where it is:

    >>> import flow, numpy as np
    >>> loss = lambda p: -p["x"] + 0.5 * (2.0 + p["x"]) * p["y"] ** 2
    >>> objective = flow.Objective(loss, {"x": np.array(0.0), "y": np.array(0.0)})
    >>> dynamics = flow.CentralFlow(objective, learning_rate=0.5, k=1)
    >>> path = flow.integrate(dynamics, t=9.0, rtol=1e-6)
    >>> float(path.params(-1)["x"].round(4)), path.state["X"][-1].round(4)
    (2.0, array([[2.]]))
    """

    # Nearly: of a projection times −∇²J it is real, and third derivatives add a little to that.
    real_spectrum: ClassVar[bool] = True
    suited_method: ClassVar[str | None] = "RKC2"

    objective: Objective
    learning_rate: float
    k: int = 1

    def __post_init__(self) -> None:
        rate, k = positive("learning_rate", self.learning_rate), positive_integer("k", self.k)
        self.settle(learning_rate=rate, k=k)
        if k > self.objective.size:
            raise ValueError(
                f"k = {self.k} directions, but there are {self.objective.size} parameters; take k "
                "no larger"
            )
        warn_of_kinks(self.objective, "the central flow takes third derivatives of the loss")

    @property
    def cost(self) -> tuple[int, int]:
        """Return a product for each tracked direction, and two for each third derivative."""
        return 1, self._width + self.k * (self.k + 1)

    @property
    def label(self) -> str:
        """Return its name, with k and η."""
        return f"central flow, k = {self.k}, η = {self.learning_rate:.3g}"

    @property
    def _limit(self) -> float:
        """Return the edge."""
        return 2.0 / self.learning_rate

    @property
    def _width(self) -> int:
        """Return how many directions are tracked: one more than k, to see it coming."""
        return min(self.k + 1, self.objective.size)

    def initial_state(self) -> PyTree:
        """Return θ₀ and the top eigenvectors there; refused beyond the edge."""
        state, curvatures = tracked(self.objective, self._width)
        top = curvatures[0]
        if top > (1.0 + BEYOND) * self._limit:
            raise ValueError(
                f"learning_rate={self.learning_rate:g} is unstable at θ₀ already: λ_max = {top:.4g}"
                f" is beyond 2/η = {self._limit:.4g}, and gradient descent jumps away from there; "
                f"take a learning rate below 2/λ_max = {2.0 / top:.3g}, or a θ₀ that it has "
                "settled at"
            )
        return state

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return the field above, and Oja's flow."""
        edge, unravel = self._edge(state, data)
        push = edge.G @ vector(edge.solution.X)
        # Beside k that oscillate a further direction would take turns with them, at every step.
        full = _full(edge.eigenvalues, edge.solution.X, FULL)
        moved = jnp.where(full, jnp.nan, -(edge.gradient + 0.5 * push))
        return Tracked(unravel(moved), oja(edge.U, edge.HU))

    def params(self, state: PyTree) -> PyTree:
        """Return θ."""
        return state.theta

    def auxiliary(self, state: PyTree, data: PyTree) -> dict[str, Any]:
        """Return curvatures, the oscillation, and the averages that it predicts."""
        edge, _ = self._edge(state, data)
        X, eta = edge.solution.X, self.learning_rate
        total = jnp.trace(X)
        return {
            "V": edge.V,
            "X": X,
            "eigenvalues": edge.eigenvalues,
            "critical": _critical(X),
            "residual": edge.solution.residual,
            "mean_loss": self.objective.traced_value(state.theta, data) + total / eta,
            "mean_squared_gradient": edge.gradient @ edge.gradient + 4.0 / eta**2 * total,
        }

    def beyond(self, auxiliary: Mapping[str, np.ndarray]) -> str | None:
        """Return X was not found, or there are more than k directions at the edge."""
        if not auxiliary["residual"] <= UNSOLVED:
            return (
                f"the complementarity problem of k = {self.k} directions was solved to "
                f"{float(auxiliary['residual']):.1e} only: third derivatives along them depend on "
                "one another; take k smaller"
            )
        # Twice as far, as the run can't come nearer than FULL.
        if not _full(auxiliary["eigenvalues"], auxiliary["X"], 2.0 * FULL):
            return None
        return (
            f"all k = {self.k} directions are at the edge 2/η = {self._limit:.4g}, and a further "
            f"one has come to it; take k = {self.k + 1} or more"
        )

    counterpart = gradient_descent

    def _edge(self, state: Tracked, data: PyTree) -> tuple[Edge, Any]:
        objective, eta, k = self.objective, self.learning_rate, self.k
        g, unravel = ravel_pytree(objective.traced_gradient(state.theta, data))

        def product(theta: PyTree, v: Any) -> Any:
            return ravel_pytree(objective.traced_hvp(theta, unravel(v), data))[0]

        def third(u: Any, v: Any) -> Any:
            return jax.jvp(lambda theta: product(theta, u), (state.theta,), (unravel(v),))[1]

        U = orthonormal(state.U)
        HU = jax.vmap(partial(product, state.theta), 1, 1)(U)
        S = U.T @ HU
        eigenvalues, Y = jnp.linalg.eigh((S + S.T) / 2.0)
        eigenvalues, V = eigenvalues[::-1], U @ Y[:, ::-1][:, :k]
        i, j = np.triu_indices(k)
        G = jax.vmap(third, (1, 1), 1)(V[:, i], V[:, j]) * weights(k)
        correction = jnp.diag((2.0 / eta - eigenvalues[:k]) / eta)
        solution = solve(0.5 * G.T @ G, G.T @ g + vector(correction), k)
        return Edge(g, U, HU, V, eigenvalues, G, solution), unravel


def _critical(X: Any) -> Any:
    """Return how many directions oscillate: the rank of X."""
    total = jnp.trace(X)
    return jnp.sum(jnp.linalg.eigvalsh(X) > RANK * total) * (total > 0.0)


def _full(eigenvalues: Any, X: Any, share: float) -> Any:
    """Return whether all k directions oscillate and a further one has come as near to the edge."""
    k = X.shape[0]
    if len(eigenvalues) == k:
        return False
    return (_critical(X) == k) & (eigenvalues[k] > (1.0 - share) * eigenvalues[k - 1])
