"""Second order in time: heavy ball, and Nesterov's method with vanishing friction."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from flow._core.checks import not_negative, positive
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics, squared_speed


class Motion(NamedTuple):
    """Position and velocity."""

    theta: PyTree
    velocity: PyTree


class SecondOrder(Dynamics):
    """θ̈ + c(t)θ̇ + ∇J(θ) = 0 from rest; the state is (θ, θ̇)."""

    clock_power: ClassVar[float] = 0.5

    def acceleration(self, t: Any, gradient: PyTree, velocity: PyTree) -> PyTree:
        """Return θ̈."""
        raise NotImplementedError

    def initial_state(self) -> PyTree:
        """Return θ₀, at rest."""
        theta = self.objective.unflatten(self.objective.theta)
        return Motion(theta, jax.tree.map(np.zeros_like, theta))

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return (θ̇, θ̈)."""
        gradient = self.objective.traced_gradient(state.theta, data)
        return Motion(state.velocity, self.acceleration(t, gradient, state.velocity))

    def params(self, state: PyTree) -> PyTree:
        """Return θ."""
        return state.theta

    def auxiliary(self, state: PyTree, data: PyTree) -> dict[str, Any]:
        """Return θ̇, flat, and the energy."""
        return {
            "velocity": ravel_pytree(state.velocity)[0],
            "energy": self.energy(state, data),
        }

    def energy(self, state: PyTree, data: PyTree) -> Any:
        """Return H = ½‖θ̇‖² + J."""
        velocity = ravel_pytree(state.velocity)[0]
        return 0.5 * jnp.vdot(velocity, velocity) + self.objective.traced_value(state.theta, data)


@own_keywords
@dataclass(frozen=True)
class HeavyBall(SecondOrder):
    """θ̈ + γθ̇ + ∇J(θ) = 0, θ̇(0) = 0, the model of momentum (Polyak 1964).

    H = ½‖θ̇‖² + J falls at the rate γ‖θ̇‖². Without friction the motion is Hamiltonian, H is
    conserved, and ``method="Verlet"`` keeps it near its value for good.

    Momentum v ← βv + ∇J, θ ← θ − ηv with β = 1 − γ√η is its discretisation at t = k√η: with
    u = −√η·v, u ← u − √η(γu + ∇J) and θ ← θ + √η·u. Of order 1 in the step √η, ½ in η. (Beside
    the *plain* flow momentum of a fixed β moves on another clock, t = ηk/(1 − β).)

    Parameters
    ----------
    objective
        J, with θ₀.
    friction
        γ ≥ 0, in units of 1/t.

    Examples
    --------
    A damped oscillator, e^{−γt/2}(cos ωt + (γ/2ω) sin ωt) with ω² = λ − γ²/4:

    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> path = flow.integrate(flow.HeavyBall(objective, friction=2.0), t=3.0, rtol=1e-10)
    >>> np.allclose(path.theta[:, 0], np.exp(-path.t) * (1 + path.t), atol=1e-8)  # ω = 0
    True
    """

    objective: Objective
    friction: float

    def __post_init__(self) -> None:
        self.settle(friction=not_negative("friction", self.friction))

    @property
    def hamiltonian(self) -> bool:
        """Return without friction."""
        return self.friction == 0

    @property
    def label(self) -> str:
        """Return its name, with its friction."""
        return f"heavy ball, γ = {self.friction:g}"

    def acceleration(self, t: Any, gradient: PyTree, velocity: PyTree) -> PyTree:
        """Return −γθ̇ − ∇J."""
        return jax.tree.map(lambda g, v: -self.friction * v - g, gradient, velocity)

    def dissipation(self, derivatives: Float[Any, "points n"]) -> Float[Any, "points"]:
        """Return γ‖θ̇‖²."""
        return self.friction * squared_speed(derivatives[:, : derivatives.shape[1] // 2])

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return momentum with β = 1 − γ√η, on the clock t = k√η."""
        import optax

        learning_rate = positive("learning_rate", learning_rate)
        time_step = learning_rate**0.5
        momentum = 1.0 - self.friction * time_step
        if momentum < 0:
            raise ValueError(
                f"learning_rate {learning_rate:g} makes the momentum 1 − γ√η negative, "
                f"{momentum:.3g}; take one below 1/γ² = {self.friction**-2:.3g}"
            )
        return optax.sgd(learning_rate, momentum=momentum), time_step


@own_keywords
@dataclass(frozen=True)
class Nesterov(SecondOrder):
    """θ̈ + (r/t)θ̇ + ∇J(θ) = 0, θ̇(0) = 0, the model of Nesterov's method.

    Su, Boyd, Candès 2014. On a convex J it has J − J* ≤ 2‖θ₀ − θ*‖²/t² for r ≥ 3. The singular
    start has the limit θ̈(0) = −∇J(θ₀)/(1 + r). The discrete method x_{k+1} = y_k − η∇J(y_k),
    y_{k+1} = x_{k+1} + k/(k + r)·(x_{k+1} − x_k) keeps the clock t = k√η.

    Parameters
    ----------
    objective
        J, with θ₀.
    r
        Friction is r/t; r ≥ 0.

    Examples
    --------
    >>> import flow, numpy as np
    >>> from scipy.special import j1
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> path = flow.integrate(flow.Nesterov(objective), t=5.0, rtol=1e-10, save=[1.0, 5.0])
    >>> np.allclose(path.theta[:, 0], 2 * j1(path.t) / path.t, atol=1e-9)
    True
    """

    autonomous: ClassVar[bool] = False

    objective: Objective
    r: float = 3.0

    def __post_init__(self) -> None:
        self.settle(r=not_negative("r", self.r))

    @property
    def label(self) -> str:
        """Return its name, with r."""
        return f"Nesterov's ODE, r = {self.r:g}"

    def acceleration(self, t: Any, gradient: PyTree, velocity: PyTree) -> PyTree:
        """Return −(r/t)θ̇ − ∇J, and its limit where t = 0."""
        start = t == 0.0
        friction = self.r / jnp.where(start, 1.0, t)
        return jax.tree.map(
            lambda g, v: jnp.where(start, -g / (1.0 + self.r), -friction * v - g),
            gradient,
            velocity,
        )

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return Nesterov's method with momentum k/(k + r), on the clock t = k√η."""
        eta = positive("learning_rate", learning_rate)
        return nesterov(eta, self.r), eta**0.5


@own_keywords
def nesterov(learning_rate: float, r: float = 3.0) -> Any:
    """Return Nesterov's method as an optax optimizer, which moves the y at which ∇J is taken.

    x_{k+1} = y_k − η∇J(y_k), y_{k+1} = x_{k+1} + k/(k + r)·(x_{k+1} − x_k). optax's own Nesterov
    momentum has a fixed β.
    """
    import optax

    class State(NamedTuple):
        count: Any
        x: PyTree

    def init(params: PyTree) -> Any:
        return State(jnp.zeros((), jnp.int32), params)

    def update(gradient: PyTree, state: Any, params: PyTree) -> tuple[PyTree, Any]:
        k = state.count.astype(jax.tree.leaves(params)[0].dtype)
        momentum = k / (k + r) if r else jnp.ones_like(k)
        x = jax.tree.map(lambda y, g: y - learning_rate * g, params, gradient)
        moved = jax.tree.map(lambda new, old: new + momentum * (new - old), x, state.x)
        return jax.tree.map(jnp.subtract, moved, params), State(state.count + 1, x)

    return optax.GradientTransformation(init, update)
