"""A cap on the step of scipy's explicit methods, just under their stability limit."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.integrate import OdeSolver

from flow.methods import spectral_radius as radius
from flow.methods.backend import HOST

# Share of the limit that is used: the radius is met from below, and drifts between two looks.
SHARE = 0.97
# Rejections in a hundred attempts above which a controller bounces off the limit: a look costs 1
# evaluation and a rejected attempt 3 to 12 of them.
BOUNCING = 0.1
# Attempts over which rejections are counted, and evaluations between two looks: doubled, up to the
# longest, while the radius stays within 2 %.
WINDOW, INTERVAL, LONGEST = 60, 150, 1200
_GIVEN = {"limit", "rhs", "resolution", "longest"}


@dataclass
class StepCap:
    """Watches a run's rejections, and caps its steps once they come from the stability limit.

    A step controller knows of the limit β/ρ only by being rejected, about once in five attempts.
    Off until then, and where the rejections have another cause (kinks).

    Parameters
    ----------
    limit
        β, the largest h·ρ on the negative real axis at which the method is stable.
    rhs
        (t, y) ↦ ẏ, counted by the caller.
    resolution
        Unit roundoff of `rhs`.
    longest
        What no step is to exceed anyway.
    """

    limit: float
    rhs: Callable
    resolution: float
    longest: float = np.inf
    watch: radius.Watch | None = None
    on: bool = False
    attempts: int = 0
    rejected: int = 0
    evaluations: int = 0
    interval: int = INTERVAL
    asleep: int = 0  # attempts to let pass

    def state(self) -> dict[str, Any]:
        """Return what it has learnt, for a checkpoint."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _GIVEN}
        return kept | {"watch": None if self.watch is None else list(self.watch)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name, value in state.items():
            setattr(self, name, value)
        self.watch = None if self.watch is None else radius.Watch(*self.watch)

    def update(self, solver: OdeSolver, attempts: int) -> Any:
        """After a step that took so many attempts; the eigenvalue if it was looked at."""
        self.attempts += attempts
        self.rejected += attempts - 1
        self.evaluations += attempts * solver.n_stages
        late = self.evaluations >= self.interval or attempts > 1
        if not (late if self.on else self._bouncing()):
            return None
        self._look(solver)
        h = solver.t - solver.t_old
        if not self.on and h * self.watch.radius < self.limit / 2.0:
            self.asleep = 10 * self.attempts  # something else holds it up
            return self.watch.eigenvalue
        self.on = True
        solver.max_step = min(self.longest, SHARE * self.limit / self.watch.radius)
        return self.watch.eigenvalue

    def _bouncing(self) -> bool:
        if self.attempts < max(WINDOW, self.asleep):
            return False
        bouncing = self.rejected > BOUNCING * self.attempts
        if not bouncing:
            self.attempts = self.rejected = 0
        return bouncing

    def _look(self, solver: OdeSolver) -> None:
        cold = self.watch is None
        watch = radius.start(HOST, solver.y, solver.f) if cold else self.watch
        most = radius.COLD if cold else radius.WARM
        before = watch.radius
        with np.errstate(all="ignore"):
            self.watch = radius.refine(
                HOST, self.rhs, watch, solver.t, solver.y, solver.f, self.resolution, most
            )
        steady = abs(self.watch.radius - before) < 0.02 * before
        self.interval = min(2 * self.interval, LONGEST) if steady else INTERVAL
        self.evaluations = 0
