"""A dynamics on the clock s = ln(1 + t), for what goes on for ever longer times."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.dynamics.base import Dynamics


@dataclass(frozen=True)
class LogClock(Dynamics):
    """d(state)/ds = (1 + t)·d(state)/dt with t = eˢ − 1.

    On separable data the logistic loss falls as 1/t and the weights grow as ln t: in s they move
    at an even speed, and t = e⁶⁰ is 60 units away. ``flow.integrate(..., clock="log")`` uses it,
    and gives t back.

    Parameters
    ----------
    inner
        The dynamics in t.
    """

    autonomous: ClassVar[bool] = False

    inner: Dynamics

    @property
    def objective(self) -> Objective:
        """Return that of the dynamics in t."""
        return self.inner.objective

    @property
    def symmetric_jacobian(self) -> bool:
        """Return (1 + t) times the other's."""
        return self.inner.symmetric_jacobian

    @property
    def real_spectrum(self) -> bool:
        """Return (1 + t) times the other's."""
        return self.inner.real_spectrum

    @property
    def continuous(self) -> bool:
        """Return what the dynamics in flow time says."""
        return self.inner.continuous

    @property
    def ascent(self) -> bool:
        """Return what the dynamics in flow time says."""
        return self.inner.ascent

    @property
    def cost(self) -> tuple[int, int]:
        """Return what the dynamics in flow time says."""
        return self.inner.cost

    @property
    def energy_is_loss(self) -> bool:
        """Return what the dynamics in flow time says."""
        return self.inner.energy_is_loss

    def time(self, t: Any) -> Any:
        """Return the t of an s."""
        return np.expm1(t)

    def slowness(self, t: Any) -> Any:
        """Return ds/dt."""
        return np.exp(-t)

    @property
    def in_flow_time(self) -> Dynamics:
        """Return the other."""
        return self.inner

    def starting_at(self, objective: Objective) -> "LogClock":
        """Return the other from another θ₀."""
        return LogClock(self.inner.starting_at(objective))

    def beyond(self, auxiliary: Mapping[str, Any]) -> str | None:
        """Return what the dynamics in flow time says."""
        return self.inner.beyond(auxiliary)

    def initial_state(self) -> PyTree:
        """Return that of the dynamics in flow time."""
        return self.inner.initial_state()

    def rhs(self, t: Any, state: PyTree, data: PyTree) -> PyTree:
        """Return (1 + t)·d(state)/dt; the argument is s."""
        moved = self.inner.rhs(jnp.expm1(t), state, data)
        return jax.tree.map(lambda x: jnp.exp(t) * x, moved)

    def params(self, state: PyTree) -> PyTree:
        """Return that of the dynamics in flow time."""
        return self.inner.params(state)

    def gradient(self, params: PyTree, data: PyTree) -> PyTree:
        """Return that of the dynamics in flow time."""
        return self.inner.gradient(params, data)

    def auxiliary(self, state: PyTree, data: PyTree) -> dict[str, Any]:
        """Return that of the dynamics in flow time."""
        return self.inner.auxiliary(state, data)

    def energy(self, state: PyTree, data: PyTree) -> Any:
        """Return that in flow time; its rate of fall would have to know s, and is not given."""
        return self.inner.energy(state, data)
