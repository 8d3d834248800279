"""The base of every dynamics: pure JAX on pytrees, which knows no solver."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from flow._core.checks import function, instance, positive, users
from flow._core.display import Shown
from flow._core.keywords import own_keywords
from flow._core.pickling import Travels
from flow._core.precision import double_precision, strict_promotion
from flow._core.pytrees import PyTree, as_parameters
from flow._problem.objective import Objective


@own_keywords
class Dynamics(Shown, Travels):
    """A differential equation for a state (a pytree) from which parameters can be read.

    One of your own is its right-hand side, its state at t = 0, and how to read θ off the state:

    >>> import flow, jax, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> def rhs(t, state):  # a flow that remembers: the mean of θ over the last unit of time
    ...     theta, mean = state
    ...     return -objective.traced_gradient(theta, None), theta - mean
    >>> dynamics = flow.Dynamics(rhs, (np.ones(1), np.ones(1)), lambda s: s[0], objective)
    >>> path = flow.integrate(dynamics, t=1.0, rtol=1e-9, atol=1e-12)
    >>> bool(abs(path.theta[-1, 0] - np.exp(-1.0)) < 1e-9)
    True

    The families of flow are frozen dataclasses of an objective and their constants, which override
    the methods below. What a family declares decides which methods `flow.integrate` lets in.

    Parameters
    ----------
    rhs
        ``rhs(t, state) -> d(state)/dt``, traced by JAX.
    state
        At t = 0, a pytree of floating-point arrays.
    params
        ``params(state) -> θ``; the state itself if None.
    objective
        J of θ, whose value and gradient norm are recorded; zero everywhere if None.

    Raises
    ------
    TypeError, ValueError
        The state is no pytree of floating-point arrays, or `rhs` does not return one made like it.

    Attributes
    ----------
    objective
        The loss that is recorded, and whose gradient usually drives.
    symmetric_jacobian
        Whether the Jacobian of `rhs` is symmetric, so that its spectrum is real.
    real_spectrum
        Whether its spectrum is real without being symmetric: a preconditioned gradient.
    autonomous
        Whether `rhs` does not depend on t.
    noise
        None; "additive" where noise is the same everywhere; "multiplicative" where it depends on θ.
    hamiltonian
        Whether the state is (position, velocity) and the acceleration depends on position alone.
    continuous
        Whether `rhs` is continuous, as error control needs.
    clock_power
        The p of time_step ∝ ηᵖ in `counterpart`.
    ascent
        Whether it climbs J: then it is −J that must not rise.
    cost
        Gradients and Hessian-vector products that one `rhs` spends.
    suited_method
        The method where none is asked for; None leaves it to the engine.
    """

    objective: Objective
    symmetric_jacobian: ClassVar[bool] = False
    real_spectrum: ClassVar[bool] = False
    autonomous: ClassVar[bool] = True
    noise: ClassVar[str | None] = None
    hamiltonian: ClassVar[bool] = False
    continuous: ClassVar[bool] = True
    clock_power: ClassVar[float] = 1.0
    ascent: bool = False
    cost: ClassVar[tuple[int, int]] = (1, 0)
    suited_method: ClassVar[str | None] = None

    def __init__(
        self,
        rhs: Callable[[Any, PyTree], PyTree],
        state: PyTree,
        params: Callable[[PyTree], PyTree] | None = None,
        objective: Objective | None = None,
    ) -> None:
        function("rhs", rhs)
        self._rhs, self._state = strict_promotion(rhs), as_parameters(state, "state")
        self._params = (lambda s: s) if params is None else params
        self.autonomous = False  # nobody knows
        _check_rhs(rhs, self._state)
        function("params", self._params)
        with users("params, called with the state"):
            theta = self._params(self._state)
        self.objective = (
            Objective(lambda _: jnp.zeros(()), theta) if objective is None else objective
        )
        self.settle()
        with users("params, called with the state, which is to return θ as the objective has it"):
            self.objective.flatten(theta)

    def settle(self, **constants: Any) -> None:
        """Keep the constants of a family as the plain numbers that they were checked to be.

        Raises
        ------
        TypeError
            What stands for J is no `flow.Objective`.
        """
        instance("objective", self.objective, Objective, "a flow.Objective")
        for name, value in constants.items():
            object.__setattr__(self, name, value)

    @property
    def has_real_spectrum(self) -> bool:
        """Return whether the Jacobian is declared to have real eigenvalues only."""
        return self.symmetric_jacobian or self.real_spectrum

    @property
    def energy_is_loss(self) -> bool:
        """Return whether `energy` is J and nothing else."""
        return type(self).energy is Dynamics.energy

    @property
    def label(self) -> str:
        """Return what tables and figures call it."""
        return type(self).__name__

    @property
    def constants(self) -> dict[str, Any]:
        """Return its numbers by name, kept with a run."""
        values = {f.name: getattr(self, f.name) for f in fields(self)} if is_dataclass(self) else {}
        return {k: v for k, v in values.items() if isinstance(v, bool | int | float | str)}

    def time(self, t: Any) -> Any:
        """Return the flow time that a solver's time stands for."""
        return t

    def slowness(self, t: Any) -> Any:
        """Return dt/d(flow time) at a solver's time: its rates times this are those of the flow."""
        return 1.0

    @property
    def in_flow_time(self) -> "Dynamics":
        """Return itself, on its own clock."""
        return self

    @property
    def conserved(self) -> Mapping[str, Callable[[PyTree], Any]]:
        """Name -> function of the parameters that the exact flow keeps constant.

        That of the objective, which noise, by Itô's second-order term, doesn't keep.
        """
        return {} if self.noise else self.objective.conserved

    def starting_at(self, objective: Objective) -> "Dynamics":
        """Return the same dynamics of the same loss from another θ₀, that of `objective`."""
        if not is_dataclass(self):
            raise ValueError(
                "an ensemble needs a dynamics that starts from its objective's parameters; "
                "flow.Dynamics(rhs, state, ...) has one state"
            )
        return replace(self, objective=objective)

    def at_learning_rate(self, learning_rate: float) -> "Dynamics":
        """Return the same model at another learning rate, where it depends on that."""
        return (
            replace(self, learning_rate=learning_rate) if hasattr(self, "learning_rate") else self
        )

    def initial_state(self) -> PyTree:
        """Return the state at t = 0; θ₀ unless overridden."""
        if type(self) is Dynamics:
            return self._state
        return self.objective.unflatten(self.objective.theta)

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return d(state)/dt, traced by JAX; `data` is the objective's."""
        return self._rhs(t, state)

    def diffusion(self, t: Any, state: PyTree, data: PyTree) -> tuple[Callable, tuple[int, ...]]:
        """Return ξ ↦ Bξ and the shape of ξ, of an SDE d(state) = rhs dt + B dW."""
        raise NotImplementedError(f"{type(self).__name__} has no noise")

    def params(self, state: PyTree) -> PyTree:
        """Return θ from the state; the state itself unless overridden."""
        return self._params(state) if type(self) is Dynamics else state

    def gradient(self, params: PyTree, data: PyTree) -> PyTree:
        """Return ∇J, whose norm is recorded; on a manifold the part that is tangent to it."""
        return self.objective.traced_gradient(params, data)

    def auxiliary(self, state: PyTree, data: PyTree) -> dict[str, Any]:
        """Return what else the state carries: arrays by name, kept in `path.state`."""
        return {}

    def energy(self, state: PyTree, data: PyTree) -> Any:
        """Return what falls at the rate `dissipation`; J unless overridden."""
        return self.objective.traced_value(self.params(state), data)

    def dissipation(
        self,
        derivatives: Float[Any, "points n"],
    ) -> Float[Any, "points"] | None:
        """Return rate at which the energy falls, from flat derivatives d(state)/dt, one a row.

        Of numpy's arrays and of JAX's alike. None where the dynamics has no energy that falls at
        a known rate.
        """
        return None

    def beyond(self, auxiliary: Mapping[str, Any]) -> str | None:
        """Return why the model no longer holds at `auxiliary`, which ends the run; or None."""
        return None

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """Return the optax optimizer that this dynamics models, and its `time_step`."""
        raise NotImplementedError(f"{type(self).__name__} declares no discrete counterpart")


def gradient_descent(_: Dynamics, learning_rate: float) -> tuple[Any, float]:
    """Return gradient descent and its time step, the learning rate: the commonest counterpart."""
    import optax

    learning_rate = positive("learning_rate", learning_rate)
    return optax.sgd(learning_rate), learning_rate


def _check_rhs(rhs: Callable, state: PyTree) -> None:
    """Refuse a right-hand side that is not made like the state: it would be broadcast."""
    with double_precision(), users("rhs, called with t = 0 and the state"):
        found = jax.eval_shape(rhs, 0.0, jax.tree.map(jnp.asarray, state))
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (state, found)]
    if jax.tree.structure(state) != jax.tree.structure(found) or shapes[0] != shapes[1]:
        raise ValueError(
            f"rhs(t, state) must return d(state)/dt, made like the state, of shapes {shapes[0]}; "
            f"got {shapes[1]}"
        )


def squared_speed(derivatives: Float[Any, "points n"]) -> Float[Any, "points"]:
    """Return ‖ẏ‖² of each row."""
    return (derivatives[:, None, :] @ derivatives[:, :, None])[:, 0, 0]
