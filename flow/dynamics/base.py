"""What a dynamics is. It is pure JAX on pytrees and knows no solver."""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64

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
    autonomous
        Whether `rhs` does not depend on t.
    ascent
        Whether it climbs J: then it is −J that must not rise.
    cost
        Gradients and Hessian-vector products that one `rhs` spends.
    """

    objective: Objective
    symmetric_jacobian: ClassVar[bool] = False
    autonomous: ClassVar[bool] = True
    ascent: bool = False
    cost: ClassVar[tuple[int, int]] = (1, 0)

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
        derivatives: Float64[np.ndarray, "points n"],
    ) -> Float64[np.ndarray, "points"] | None:
        """Rate at which the energy falls, from flat derivatives d(state)/dt, one a row.

        None where the dynamics has no energy that falls at a known rate.
        """
        return None

    def counterpart(self, learning_rate: float) -> tuple[Any, float]:
        """The optax optimizer that this dynamics models, and its `time_step`."""
        raise NotImplementedError(f"{type(self).__name__} declares no discrete counterpart")
