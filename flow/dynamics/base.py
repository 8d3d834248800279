"""What a dynamics is. It is pure JAX on pytrees and knows no solver."""

from typing import Any, ClassVar

from jaxtyping import Float

from flow.objective import Objective
from flow.pytrees import PyTree


class Dynamics:
    """A differential equation for a state (a pytree) from which parameters can be read.

    A family of right-hand sides is a frozen dataclass of its objective and its constants. It
    overrides `rhs`, and the rest where the state is more than θ. What it declares decides which
    methods `flow.integrate` lets in.

    Attributes
    ----------
    objective
        The loss whose gradient drives it.
    symmetric_jacobian
        Whether the Jacobian of `rhs` is symmetric, so that its spectrum is real.
    real_spectrum
        Whether its spectrum is real without being symmetric: a preconditioned gradient.
    autonomous
        Whether `rhs` does not depend on t.
    ascent
        Whether it climbs J: then it is −J that must not rise.
    cost
        Gradients and Hessian-vector products that one `rhs` spends.
    """

    objective: Objective
    symmetric_jacobian: ClassVar[bool] = False
    real_spectrum: ClassVar[bool] = False
    autonomous: ClassVar[bool] = True
    ascent: bool = False
    cost: ClassVar[tuple[int, int]] = (1, 0)

    @property
    def has_real_spectrum(self) -> bool:
        """Whether the Jacobian is declared to have real eigenvalues only."""
        return self.symmetric_jacobian or self.real_spectrum

    def initial_state(self) -> PyTree:
        """The state at t = 0; θ₀ unless overridden."""
        return self.objective.unflatten(self.objective.theta)

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """d(state)/dt, traced by JAX; `data` is the objective's."""
        raise NotImplementedError

    def params(self, state: PyTree) -> PyTree:
        """θ from the state; the state itself unless overridden."""
        return state

    def auxiliary(self, state: PyTree) -> dict[str, PyTree]:
        """What else the state carries, by name: velocities, moments. Kept in `path.state`."""
        return {}

    def dissipation(
        self,
        derivatives: Float[Any, "points n"],
    ) -> Float[Any, "points"] | None:
        """Rate at which the energy falls, from flat derivatives d(state)/dt, one a row.

        Of numpy's arrays and of JAX's alike. None where the dynamics has no energy that falls at
        a known rate.
        """
        return None

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """The optax optimizer that this dynamics models, and its `time_step`."""
        raise NotImplementedError(f"{type(self).__name__} declares no discrete counterpart")
