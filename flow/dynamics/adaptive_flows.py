"""Adaptive optimizers in continuous time: moments that relax, and steps of even length."""

from dataclasses import dataclass
from math import log
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flow._core.checks import not_negative, positive, real
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics


class AdamState(NamedTuple):
    """θ and the moments, by optax's names."""

    theta: PyTree
    mu: PyTree
    nu: PyTree


@own_keywords
@dataclass(frozen=True)
class AdamFlow(Dynamics):
    """Adam in continuous time, t = ηk.

    θ̇ = −m̂/(√v̂ + ε), τ₁ṁ = ∇J − m, τ₂v̇ = ∇J² − v with the relaxation times τᵢ = −η/ln βᵢ, in which
    βᵢ takes what a moment forgets in a step, and m̂ = m/(1 − e^{−t/τ₁}), v̂ = v/(1 − e^{−t/τ₂}), the
    bias correction, as e^{−t/τ} = βᵏ (Kingma and Ba 2015; da Silva and Gazeau 2020 for the
    equations). Defaults, the place of ε and the correction are those of `optax.adam`. At t = 0,
    where moments and corrections vanish, m̂ = ∇J and v̂ = ∇J².

    At a fixed time the distance to `optax.adam` is of order 1 in η with τᵢ fixed, βᵢ = e^{−η/τᵢ}:
    0.98 to 1.00 on the digits network of ``experiments/adaptive.py``. With βᵢ fixed, as practice
    has it, τᵢ shrinks with η, and the flow is another one for each η, which tends to sign descent:
    0.9 at η = 10⁻³, and as τᵢ becomes short 1.5 at 4·10⁻⁶, since discrete and continuous averages
    lag behind by 1/(1 − β) − ½ and −1/ln β steps, which are nearly the same.

    Parameters
    ----------
    objective
        J, with θ₀.
    learning_rate
        η of the run that is modelled; it sets τᵢ.
    b1, b2
        β₁ and β₂ in (0, 1).
    eps
        ε > 0, in units of ∇J.

    Examples
    --------
    >>> import flow, numpy as np
    >>> X, y = flow.datasets.digits(50)
    >>> objective = flow.MLP([64, 4, 10]).objective(X, y)
    >>> dynamics = flow.AdamFlow(objective, learning_rate=1e-3)
    >>> path = flow.integrate(dynamics, t=0.1)
    >>> optimizer, time_step = dynamics.counterpart(1e-3)
    >>> steps = flow.descend(objective, optimizer=optimizer, time_step=time_step, steps=100)
    >>> bool(flow.compare(path, steps).relative_distance[-1] < 0.05)
    True
    """

    autonomous: ClassVar[bool] = False

    objective: Objective
    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self.settle(
            learning_rate=positive("learning_rate", self.learning_rate),
            b1=_decay("b1", self.b1),
            b2=_decay("b2", self.b2),
            eps=positive("eps", self.eps),
        )

    @property
    def label(self) -> str:
        """Return its name, with η."""
        return f"Adam's flow, η = {self.learning_rate:.3g}"

    def initial_state(self) -> PyTree:
        """Return θ₀, and no moments yet."""
        theta = self.objective.unflatten(self.objective.theta)
        zero = jax.tree.map(np.zeros_like, theta)
        return AdamState(theta, zero, zero)

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return the equations above."""
        gradient = self.objective.traced_gradient(state.theta, data)
        times = [-self.learning_rate / log(b) for b in (self.b1, self.b2)]
        start = t == 0.0
        gone = [jnp.where(start, 1.0, -jnp.expm1(-t / time)) for time in times]

        def velocity(g: Any, m: Any, v: Any) -> Any:
            m = jnp.where(start, g, m / gone[0])
            return -m / (_root(jnp.where(start, g * g, v / gone[1])) + self.eps)

        return AdamState(
            jax.tree.map(velocity, gradient, state.mu, state.nu),
            jax.tree.map(lambda g, m: (g - m) / times[0], gradient, state.mu),
            jax.tree.map(lambda g, v: (g * g - v) / times[1], gradient, state.nu),
        )

    def params(self, state: PyTree) -> PyTree:
        """Return θ."""
        return state.theta

    def auxiliary(self, state: PyTree, data: PyTree) -> dict[str, Any]:
        """Return the moments as optax keeps them, without the correction."""
        return {"mu": ravel_pytree(state.mu)[0], "nu": ravel_pytree(state.nu)[0]}

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return `optax.adam`, t = ηk."""
        import optax

        learning_rate = positive("learning_rate", learning_rate)
        return optax.adam(learning_rate, self.b1, self.b2, self.eps), learning_rate


class RMSPropState(NamedTuple):
    """θ and the second moment."""

    theta: PyTree
    nu: PyTree


@own_keywords
@dataclass(frozen=True)
class RMSPropFlow(Dynamics):
    """RMSProp in continuous time, t = ηk.

    θ̇ = −∇J/√(v + ε), τv̇ = ∇J² − v with τ = −η/ln β, as `optax.rmsprop` has it by default: ε inside
    the root, v from zero, no bias correction (Tieleman and Hinton 2012).

    The start is a boundary layer: v = 0, so that θ moves at the speed |∇J|/√ε, and by
    2 ln 2·τ more than at unit speed before v = ∇J², where ε is small. Integrators take many small
    steps there. With β fixed the layer and the first steps of the discrete run scale with η alike,
    and the order is 1. With τ fixed, β = e^{−η/τ}, steps do not resolve 1/√t, and it is ½ until
    η ≪ ετ/∇J². Where ∇J falls below √ε it is gradient descent at the learning rate η/√ε, which
    oscillates for η > 2√ε/λ_max(∇²J), while the flow becomes stiff and does not: from then on no
    order shows before η is smaller. On the digits network of ``experiments/adaptive.py``, where
    that is 10⁻⁵ at ε = 10⁻⁸, the order is 0.85 at η = 4·10⁻⁶, and 0.49 with τ fixed; larger η show
    0.8 to 1.6, and with ``--t 0.1 --steps 100 400 1600 6400 25600`` 0.26 to 2.6. At ε = 10⁻⁴ it is
    1.0.

    Parameters
    ----------
    objective
        J, with θ₀.
    learning_rate
        η of the run that is modelled; it sets τ.
    decay
        β in (0, 1).
    eps
        ε > 0, in units of ∇J².

    Examples
    --------
    With a constant gradient v = g²(1 − e^{−t/τ}):

    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 3.0 * x.sum(), np.zeros(1))
    >>> path = flow.integrate(flow.RMSPropFlow(objective, learning_rate=0.1), t=1.0, rtol=1e-9)
    >>> tau = -0.1 / np.log(0.9)
    >>> np.allclose(path.state["nu"][:, 0], 9 * (1 - np.exp(-path.t / tau)), rtol=1e-6)
    True
    """

    objective: Objective
    learning_rate: float
    decay: float = 0.9
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self.settle(
            learning_rate=positive("learning_rate", self.learning_rate),
            decay=_decay("decay", self.decay),
            eps=positive("eps", self.eps),
        )

    @property
    def label(self) -> str:
        """Return its name, with η."""
        return f"RMSProp's flow, η = {self.learning_rate:.3g}"

    def initial_state(self) -> PyTree:
        """Return θ₀ and v = 0."""
        theta = self.objective.unflatten(self.objective.theta)
        return RMSPropState(theta, jax.tree.map(np.zeros_like, theta))

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return the equations above."""
        gradient = self.objective.traced_gradient(state.theta, data)
        time = -self.learning_rate / log(self.decay)
        return RMSPropState(
            jax.tree.map(
                lambda g, v: -g / jnp.sqrt(jnp.maximum(v, 0.0) + self.eps), gradient, state.nu
            ),
            jax.tree.map(lambda g, v: (g * g - v) / time, gradient, state.nu),
        )

    def params(self, state: PyTree) -> PyTree:
        """Return θ."""
        return state.theta

    def auxiliary(self, state: PyTree, data: PyTree) -> dict[str, Any]:
        """Return the second moment."""
        return {"nu": ravel_pytree(state.nu)[0]}

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return `optax.rmsprop`, t = ηk."""
        import optax

        learning_rate = positive("learning_rate", learning_rate)
        return optax.rmsprop(learning_rate, self.decay, self.eps), learning_rate


@own_keywords
@dataclass(frozen=True)
class SignFlow(Dynamics):
    """θ̇ = −sign ∇J, or smoothed θ̇ = −∇J/√(∇J² + δ²), the model of sign descent, t = ηk.

    Every entry moves at unit speed (Bernstein et al. 2018), so that J falls at ‖∇J‖₁, until its
    derivative is zero, where it stays: the flow slides. The right-hand side jumps there, and
    error-controlled methods, which would stall, are refused: take ``method="Euler"`` with a `step`,
    which is sign descent, or δ > 0. Smoothed, its Jacobian is ∇²J times a negative diagonal matrix,
    whose spectrum is real, so that stabilised methods may be used; sign descent follows it to order
    1 for η < 2δ/λ_max(∇²J), and chatters beyond (``experiments/adaptive.py``).

    Parameters
    ----------
    objective
        J, with θ₀.
    smoothing
        δ ≥ 0, in units of ∇J.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, -2.0]))
    >>> path = flow.integrate(flow.SignFlow(objective), t=0.5, method="Euler", step=0.01)
    >>> path.theta[-1].round(12)
    array([ 0.5, -1.5])
    """

    real_spectrum: ClassVar[bool] = True

    objective: Objective
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        self.settle(smoothing=not_negative("smoothing", self.smoothing))

    @property
    def continuous(self) -> bool:
        """Return where it is smoothed."""
        return self.smoothing > 0

    @property
    def label(self) -> str:
        """Return its name, with its smoothing."""
        return "sign flow" + (f", δ = {self.smoothing:g}" if self.smoothing else "")

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return −sign ∇J, or smoothed."""
        gradient = self.objective.traced_gradient(state, data)
        if self.smoothing == 0:
            return jax.tree.map(lambda g: -jnp.sign(g), gradient)
        return jax.tree.map(lambda g: -g / jnp.sqrt(g * g + self.smoothing**2), gradient)

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return the sign descent θ ← θ − η sign ∇J, t = ηk; smoothed as the flow is."""
        import optax

        learning_rate = positive("learning_rate", learning_rate)
        smooth = self.smoothing

        def update(gradient: PyTree, state: Any, _: Any = None) -> tuple[PyTree, Any]:
            return jax.tree.map(lambda g: g / jnp.sqrt(g * g + smooth**2), gradient), state

        if smooth == 0:
            return optax.sign_sgd(learning_rate), learning_rate
        step = optax.GradientTransformation(lambda _: optax.EmptyState(), update)
        return optax.chain(step, optax.sgd(learning_rate)), learning_rate


def _root(v: Any) -> Any:
    """Return √v, with derivative 0 at v = 0, where a gradient is zero for good: a dark pixel.

    Stages and dense outputs overshoot zero by rounding.
    """
    positive = v > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, v, 1.0)), 0.0)


def _decay(name: str, value: Any) -> float:
    number = real(name, value)
    if not 0.0 < number < 1.0:
        raise ValueError(
            f"{name} must lie strictly between 0 and 1, got {value!r}: the relaxation time "
            f"−η/ln {name} must be positive and finite; without memory take a small {name}, 1e-3"
        )
    return number
