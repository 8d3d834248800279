"""`method="auto"`: a run that changes its integrator on the way, and says when and why."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.integrate import OdeSolver

from flow._core.costs import units
from flow._run.host import Driver, Point
from flow.methods import spectral_radius as radius
from flow.methods.auto import EXPLICIT, LOOSE, STABILISED, Auto
from flow.methods.backend import HOST
from flow.methods.catalogue import MAX_DENSE_PARAMETERS, METHODS, Method
from flow.methods.loop_state import BUDGET, Limits

# Relative curvature of ẏ along itself below which the flow is taken for linear.
LINEAR = 1e-6


@dataclass
class AutoDriver(Driver):
    """Drives one run with the integrator that gets on best."""

    policy: Auto = field(init=False)
    choices: list[dict[str, Any]] = field(init=False, default_factory=list)
    spent: float = field(init=False, default=0.0)  # units, up to the last step
    before: Any = field(init=False, default=None)  # the kernel's carry before the last step

    @property
    def name(self) -> str:
        """Return what the user typed."""
        return "auto"

    @property
    def solver_class(self) -> None:
        """Return None, as no one class repeats the run."""
        return None

    def _compile(self) -> None:
        for name in (self._stabilised, EXPLICIT):
            self.method = self._called(name)
            if self.method.stabilised and self.dynamics.has_real_spectrum:
                kernel, tolerance = self.kernel(), self.tolerance()
                limits = Limits(self.t, 2.0, 0.0, -np.inf, -np.inf)
                carry = kernel.start(tolerance, limits, 0.0, self.flat.initial)
                self.check_unchanged(carry.measures)
                kernel.advance(tolerance, limits, carry)

    @property
    def _stabilised(self) -> str:
        return "RKC2" if self.settings["rtol"] >= LOOSE else "TSRKC3"

    def _called(self, name: str) -> Method:
        """Return the method of that name, with steps no longer than the run's may be."""
        return replace(METHODS[name], longest=self.method.longest)

    def state(self) -> dict[str, Any]:
        """Return the state of any run, and what the policy has learnt."""
        own = {"policy": asdict(self.policy), "choices": self.choices, "units": self.spent}
        return super().state() | own

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from such a state."""
        super().restore(kept)
        self.policy, self.spent = Auto(**kept["policy"]), kept["units"]

    def _choose_again(self, kept: dict[str, Any]) -> None:
        self.method, self.choices = self._called(kept["method"]), list(kept["choices"])

    def _solver(self, start: Point) -> OdeSolver:
        if not self.choices:
            self._use(*self._first(start), start)
        solver, self.before = super()._solver(start), None
        if self.method.stabilised:
            self.spent_by_kernel(0, solver.carry)
            if self.keeper is None or self.keeper.resumed is None:
                self.check_spectrum(solver.carry)
        return solver

    def _options(self) -> dict[str, Any]:
        if not self.method.stabilised:
            return super()._options()
        self.check_affords_start()
        return super()._options() | {
            "kernel": self.kernel(),
            "most": self.affordable(),
            "resolution": self.dynamics.objective.resolution,
        }

    def _step(self, solver: OdeSolver) -> str | None:
        if not self.method.stabilised:
            return super()._step(solver)
        self.before = before = solver.carry
        solver.most = float(before.evaluations) + self.affordable()
        message = solver.step()
        carry = solver.carry
        self.spent_by_kernel(before.evaluations, carry)
        if float(carry.watch.spent) > float(before.watch.spent):
            self.looks.append((float(before.t), float(carry.watch.eigenvalue)))
        self.latest = Point(solver.t, solver.y, carry.attempted)
        if int(carry.status) == BUDGET:
            self.meter.exhausted()
        return message

    def _rejections(self, solver: OdeSolver) -> int | None:
        if not self.method.stabilised:
            return super()._rejections(solver)
        return self.rejected + round(float(solver.carry.rejected) - float(self.before.rejected))

    def _gain(self, solver: OdeSolver) -> float | None:
        if not self.method.stabilised:
            return super()._gain(solver)
        gain = float(solver.carry.dissipated) - float(self.before.dissipated)
        return None if np.isnan(gain) else gain

    def _first(self, start: Point) -> tuple[str, str]:
        size = self.flat.initial.size
        self.policy = Auto(size, self.settings["rtol"], size <= MAX_DENSE_PARAMETERS)
        if not self.dynamics.has_real_spectrum:
            return EXPLICIT, "the dynamics does not declare a real spectrum"
        f, resolution = self._rhs(start.t, start.y), self.dynamics.objective.resolution
        watch = radius.start(HOST, start.y, f)
        watch = radius.refine(HOST, self._rhs, watch, start.t, start.y, f, resolution, radius.COLD)
        self.looks.append((start.t, float(watch.eigenvalue)))
        return self.policy.first(float(watch.radius), self.t, self._is_linear(start, f, watch))

    def _is_linear(self, start: Point, f: np.ndarray, watch: radius.Watch) -> bool:
        """Return whether ẏ at three points along a line is on a line.

        They are a unit apart, or more: near enough to a saddle all is linear.
        """
        if watch.radius == 0.0 or not f.any():
            return False
        far = max(1.0, np.linalg.norm(start.y), np.linalg.norm(f) / watch.radius)
        step = f * (far / np.linalg.norm(f))
        one, two = (self._rhs(start.t, start.y + k * step) for k in (1.0, 2.0))
        return bool(np.linalg.norm(two - 2.0 * one + f) < LINEAR * np.linalg.norm(one - f))

    def _use(self, kind: str, reason: str, at: Point) -> None:
        self.policy.begin(kind)
        self.method = self._called(self._stabilised if kind == STABILISED else kind)
        self.choices.append({"t": at.t, "method": self.method.name, "reason": reason})

    def _go_on_with(self, solver: OdeSolver) -> OdeSolver:
        total = units(*self.meter.motion)
        spent, self.spent = total - self.spent, total
        if not self.dynamics.has_real_spectrum:
            return solver
        change = self.policy.update(spent, solver.t - solver.t_old)
        if change is None:
            return solver
        self._use(*change, self.reached)
        return self._solver(self.reached)

    def _own_stats(self) -> dict[str, Any]:
        return super()._own_stats() | {"choices": self.choices}
