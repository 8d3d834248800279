"""Natural gradient: steepest descent in the metric of the network's outputs."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flow._core.checks import not_negative, positive
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics

# Of ‖∇J‖, to which conjugate gradients solve: a right-hand side that is smooth to what an
# integrator at rtol 1e-8 asks of it.
SOLVED = 1e-12
# Products in one solve, at most.
MOST = 200


@own_keywords
@dataclass(frozen=True)
class NaturalGradientFlow(Dynamics):
    """θ̇ = −(G + λI)⁻¹∇J with the Gauss–Newton matrix G = (∂f/∂θ)ᵀ (∂²L/∂f²) (∂f/∂θ), t = ηk.

    G is the Fisher matrix where the loss is the likelihood of an exponential family in its natural
    parameters: squared loss, cross-entropy from logits (Amari 1998; Martens 2020). It is applied by
    a push forward and a pull back, and the system solved by conjugate gradients, to 1e-12 of ‖∇J‖
    or within 200 products. On least squares G is ∇²J, and with λ → 0 every direction decays at the
    same rate, θ(t) = θ* + e^{−t}(θ₀ − θ*), the Newton flow. With λ = 0 and a singular G the solve
    stays in the range of G.

    Parameters
    ----------
    objective
        With outputs: of `flow.MLP`, `flow.Network`, or ``flow.Objective(outputs=...)``; the output
        loss is convex in the outputs.
    damping
        λ ≥ 0, in units of G.

    Raises
    ------
    TypeError
        The objective knows its loss only.

    Examples
    --------
    >>> import flow, numpy as np
    >>> X = np.random.default_rng(0).standard_normal((50, 3)) * [1.0, 5.0, 0.2]
    >>> network = flow.MLP([3, 1], activation="identity", bias=False)
    >>> objective = network.objective(X, X @ np.array([1.0, 2.0, 3.0]))
    >>> path = flow.integrate(flow.NaturalGradientFlow(objective, damping=0.0), t=2.0)
    >>> away = objective.theta - [1.0, 2.0, 3.0]
    >>> np.allclose(path.theta[-1] - [1.0, 2.0, 3.0], np.exp(-2.0) * away, rtol=1e-5)
    True
    """

    objective: Objective
    damping: float

    def __post_init__(self) -> None:
        self.settle(damping=not_negative("damping", self.damping))
        self.objective.check_has_output_loss()

    @property
    def cost(self) -> tuple[int, int]:
        """Return a gradient, and the products of a solve that takes all it may."""
        return 1, min(self.objective.size, MOST)

    @property
    def label(self) -> str:
        """Return its name, with its damping."""
        return f"natural gradient flow, λ = {self.damping:g}"

    @property
    def conserved(self) -> dict[str, Any]:
        """Return nothing, as nothing is known."""
        return {}

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return −(G + λI)⁻¹∇J."""
        return jax.tree.map(jnp.negative, natural_gradient(self, state, data))

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return the damped Gauss–Newton step θ ← θ − η(G + λI)⁻¹∇J on all the data, t = ηk."""
        import optax

        eta, data = positive("learning_rate", learning_rate), self.objective.data

        class State(NamedTuple):
            pass

        def update(_: PyTree, state: Any, params: PyTree) -> tuple[PyTree, Any]:
            step = natural_gradient(self, params, data)
            return jax.tree.map(lambda x: -eta * x, step), state

        return optax.GradientTransformation(lambda _: State(), update), eta


def natural_gradient(dynamics: NaturalGradientFlow, params: PyTree, data: PyTree) -> PyTree:
    """Return (G + λI)⁻¹∇J, traced."""
    objective = dynamics.objective

    def curved(at: tuple[PyTree, PyTree], batch: PyTree) -> PyTree:
        (params, v), (X, y) = at, batch
        network = partial(objective.traced_outputs, X=X)
        f, pushed = jax.jvp(network, (params,), (v,))
        slope = jax.grad(lambda f: objective.traced_output_loss(f, y))
        return jax.vjp(network, params)[1](jax.jvp(slope, (f,), (pushed,))[1])[0]

    def product(v: PyTree) -> PyTree:
        Gv = objective.traced_mean(curved, (params, v), data)
        return jax.tree.map(lambda a, b: a + dynamics.damping * b, Gv, v)

    gradient = objective.traced_gradient(params, data)
    return jax.scipy.sparse.linalg.cg(
        product, gradient, tol=SOLVED, maxiter=min(objective.size, MOST)
    )[0]
