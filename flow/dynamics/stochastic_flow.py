"""Gradient flow with noise: that of mini-batches, and that of a temperature."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flow._core.checks import not_negative, positive, positive_integer
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.minibatches import refuse_mixed
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, gradient_descent


@own_keywords
@dataclass(frozen=True)
class StochasticFlow(Dynamics):
    """dθ = −∇J dt + √η Σ(θ)^{1/2} dW (Itô), the model of stochastic gradient descent.

    Σ = (1/B)·(1/N)Σᵢ(gᵢ − ∇J)(gᵢ − ∇J)ᵀ is the covariance of the gradient of a mini-batch of B
    examples drawn independently with replacement, gᵢ the gradient of example i (Li, Tai, E 2017,
    arXiv 1511.06251; of weak order 1). It is not formed: (BN)^{-1/2} Σᵢ (gᵢ − ∇J)ξᵢ has it, one
    ξᵢ an example, and is one backward pass with the weights ξᵢ − ξ̄. t = ηk.

    Parameters
    ----------
    objective
        J, the mean over the examples of its `data`, with θ₀. What an example adds must not depend
        on the others, as it does under batch normalisation.
    learning_rate
        η of the descent that is modelled.
    batch_size
        B, at most N; ``flow.descend(..., batch_size=B)`` draws so.

    Raises
    ------
    ValueError
        The loss is no mean over examples, of which each adds its own: a sum, or one under batch
        normalisation; or a constant is off.

    Examples
    --------
    >>> import flow, numpy as np
    >>> data = np.random.default_rng(0).standard_normal(100)
    >>> objective = flow.Objective(lambda x, a: 0.5 * ((x - a) ** 2).mean(), np.zeros(1), data)
    >>> sde = flow.StochasticFlow(objective, learning_rate=0.1, batch_size=10)
    >>> paths = flow.integrate(sde, t=5.0, paths=200, save=2)
    >>> stationary = 0.1 * data.var() / 10 / 2  # ησ²/2λ
    >>> bool(abs(paths.theta[:, -1].var() / stationary - 1) < 0.3)
    True
    """

    noise: ClassVar[str] = "multiplicative"
    cost: ClassVar[tuple[int, int]] = (2, 0)

    objective: Objective
    learning_rate: float
    batch_size: int

    def __post_init__(self) -> None:
        rate = positive("learning_rate", self.learning_rate)
        self.settle(learning_rate=rate, batch_size=positive_integer("batch_size", self.batch_size))
        self.objective.arrays("StochasticFlow")
        if self.batch_size > self.examples:
            raise ValueError(
                f"batch_size {self.batch_size} is larger than the {self.examples} examples; take "
                "it no larger"
            )
        refuse_mixed(self.objective, "StochasticFlow")

    @property
    def examples(self) -> int:
        """Return N."""
        return jax.tree.leaves(self.objective.data)[0].shape[0]

    @property
    def label(self) -> str:
        """Return its name, with η and B."""
        return f"stochastic flow, η = {self.learning_rate:.3g}, batches of {self.batch_size}"

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return −∇J."""
        return jax.tree.map(jnp.negative, self.objective.traced_gradient(state, data))

    def diffusion(self, t: Any, state: PyTree, data: PyTree) -> tuple[Callable, tuple[int, ...]]:
        """Return √η (BN)^{-1/2} Σᵢ (gᵢ − ∇J)ξᵢ, and N."""
        scale = (self.learning_rate / (self.batch_size * self.examples)) ** 0.5

        def losses(params: PyTree) -> Any:
            def one(example: PyTree) -> Any:
                batch = jax.tree.map(lambda x: x[None], example)
                return self.objective.traced_value(params, batch)

            return jax.vmap(one)(data)

        pull = jax.vjp(losses, state)[1]
        return lambda xi: pull(scale * (xi - jnp.mean(xi)))[0], (self.examples,)

    counterpart = gradient_descent


@own_keywords
@dataclass(frozen=True)
class LangevinFlow(Dynamics):
    """dθ = −∇J dt + √(2τ) dW, overdamped Langevin motion.

    Its density tends to e^{−J/τ}/Z. The discrete counterpart is noisy gradient descent,
    θ_{k+1} = θ_k − η∇J + √(2τη) ξ_k, which is Euler–Maruyama's method on it, t = ηk.

    Parameters
    ----------
    objective
        J, with θ₀.
    temperature
        τ ≥ 0, in units of J.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 2.0 * x @ x, np.zeros(1))
    >>> paths = flow.integrate(flow.LangevinFlow(objective, 0.5), t=3.0, paths=400, save=2)
    >>> bool(abs(paths.theta[:, -1].var() / (0.5 / 4.0) - 1) < 0.25)  # τ/λ
    True
    """

    noise: ClassVar[str] = "additive"

    objective: Objective
    temperature: float

    def __post_init__(self) -> None:
        self.settle(temperature=not_negative("temperature", self.temperature))

    @property
    def label(self) -> str:
        """Return its name, with its temperature."""
        return f"Langevin flow, τ = {self.temperature:g}"

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return −∇J."""
        return jax.tree.map(jnp.negative, self.objective.traced_gradient(state, data))

    def diffusion(self, t: Any, state: PyTree, data: PyTree) -> tuple[Callable, tuple[int, ...]]:
        """Return √(2τ)ξ, and n."""
        scale = (2.0 * self.temperature) ** 0.5
        return lambda xi: self.objective.tree(scale * xi), (self.objective.size,)

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return gradient descent with noise of variance 2τ/η on the gradient, t = ηk.

        One realisation: optax draws it from a key of its own, not from the seed of `flow.descend`.
        """
        import optax

        learning_rate = positive("learning_rate", learning_rate)
        noise = optax.add_noise(2.0 * self.temperature / learning_rate, 0.0, key=0)
        return optax.chain(noise, optax.sgd(learning_rate)), learning_rate
