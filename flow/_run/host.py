"""The host engine: scipy's `OdeSolver.step`, its saves, stops, budgets and energy integral."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from scipy.integrate import OdeSolver

from flow._core.endings import ENDINGS, BudgetSpent, ObserverFailed
from flow._core.pytrees import structure_of
from flow._run.checkpoint.keeper import Keeper
from flow._run.checkpoint.solver import carried, restore_solver
from flow._run.loop import Report, Single
from flow._run.recorder import TWO_BRANCHES, Meter, Recorder, check_start, flat_record, ran_away
from flow._run.trajectory import Trajectory, current_versions, problem
from flow.dynamics import Dynamics
from flow.dynamics.flattened import FlatDynamics, flatten
from flow.dynamics.kinks import may_have_kinks
from flow.methods.between import between
from flow.methods.catalogue import Method
from flow.methods.energy_integral import dissipated
from flow.methods.kernel import Kernel, device_kernel
from flow.methods.loop_state import Fixed, Tolerance
from flow.methods.ode_solver import check_spectrum
from flow.methods.step_cap import StepCap
from flow.stop import StopConditions

KINK_REMEDY = (
    "If the loss has kinks (ReLU), error-controlled methods stall at them: follow the flow with "
    "method='RK4' or 'Euler' and step= below 2/λ_max, or smooth it with "
    "activation=flow.backprop.softplus(beta=200)."
)
# At its stability limit an explicit method is rejected about once in five attempts; one that is
# rejected twice as often is held up by something else.
STALLED = 0.4
# What is known of a run beside its state, its rows and its solver.
STATE = ("loss", "steps", "rejected", "dissipated", "largest_rise", "looks")


@dataclass
class Point:
    """A state on the way, with J and ‖∇J‖ where they are known; on the device until asked for."""

    t: float
    y: Any
    measures: Any = None
    work: Any = None  # what had been spent by then, where that is not what is spent by now


def kernel_of(
    dynamics: Dynamics, flat: FlatDynamics, method: Method, over: Callable | None = None
) -> Kernel:
    """Return the method as a compiled loop on a dynamics; `over` many members, if given."""

    def rate(derivatives: Any) -> Any:
        rates = dynamics.dissipation(derivatives)
        return jnp.full(derivatives.shape[0], jnp.nan) if rates is None else rates

    return device_kernel(
        method.name,
        method.stepper,
        lambda key, build: dynamics.objective.compiled((*key, flat.key), build),
        flat.traced,
        rate,
        dynamics.ascent,
        dynamics.objective.data,
        over,
        flat.diffusion,
    )


@dataclass
class Driver(Single):
    """Drives one run; every argument has been checked by `flow.integrate`."""

    engine: ClassVar[str] = "scipy"

    dynamics: Dynamics
    method: Method
    t: float
    settings: dict[str, float]
    times: np.ndarray | None
    stops: StopConditions
    meter: Meter
    recorder: Recorder
    path: int = 0  # of the paths of an SDE, which
    keeper: Keeper | None = None
    flat: FlatDynamics = field(init=False)
    reached: Point = field(init=False)
    latest: Point = field(init=False)  # the last evaluation of the right-hand side
    loss: float = field(init=False)  # the last J that was looked at
    evaluated: list[float] = field(init=False, default_factory=list)
    steps: int = field(init=False, default=0)
    rejected: int | None = field(init=False, default=0)
    dissipated: float | None = field(init=False, default=0.0)
    largest_rise: float = field(init=False, default=0.0)
    cap: StepCap | None = field(init=False, default=None)
    # Where the spectral radius was looked at: t, λ.
    looks: list[tuple[float, float]] = field(init=False, default_factory=list)

    @property
    def name(self) -> str:
        """Return what the user typed as the method."""
        return self.method.name

    @property
    def solver_class(self) -> type[OdeSolver] | None:
        """Return what repeats the run, where its name does not."""
        return self.method.solver

    @property
    def label(self) -> str:
        """Return what a progress bar calls the run."""
        return self.name

    @property
    def end(self) -> float:
        """Return where its clock ends."""
        return self.t

    def _set_up(self) -> tuple[np.ndarray, str | None]:
        """Compile, and return J and ‖∇J‖ at the start, and a result if the run ends there."""
        self.flat = flatten(self.dynamics)
        first = self._first_look()
        self._compile()
        self._begin_keeping(first)
        resumed = self.keeper is not None and self.keeper.resumed is not None
        return first, None if resumed else self._save_up_to(self.reached, None)

    def _report(self) -> Report:
        return self.reached.t, self.loss, self.meter.gradients

    def _begin_keeping(self, first: np.ndarray) -> None:
        """Note in the folder of checkpoints where the run starts, or look whether it does there."""
        if self.keeper is None:
            return
        slope = np.asarray(self.flat.derivative(0.0, self.flat.initial)[0])
        loss, norm = map(float, first)
        start = {"initial": self.flat.initial, "slope": slope, "loss": loss, "gradient_norm": norm}
        self.keeper.begin(start, self.dynamics.objective.resolution)

    def _keep(self, carried: Callable, method: Any) -> None:
        """Write a checkpoint where one is due, with what the method's loop or solver carries."""
        if self.keeper is not None and self.keeper.due(self.meter.units):
            state = self.state() | {"carried": carried(method)}
            self.keeper.keep(state, self.recorder.rows, self.meter.units)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the run beside its rows and what the method carries."""
        point = self.reached
        measures = None if point.measures is None else np.asarray(point.measures)
        return {name: getattr(self, name) for name in STATE} | {
            "method": self.method.name,
            "reached": {"t": point.t, "y": point.y, "measures": measures},
            "spent": self.meter.spent,
            "recorder": self.recorder.state(),
            "cap": None if self.cap is None else self.cap.state(),
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from such a state."""
        for name in STATE:
            setattr(self, name, kept[name])
        self.looks = [tuple(look) for look in kept["looks"]]
        self.reached = self.latest = Point(**kept["reached"])
        self.meter.spent = kept["spent"]
        self.recorder.restore(kept["recorder"], self.keeper.rows)
        if self.cap is not None:
            self.cap.restore(kept["cap"])

    def _choose_again(self, kept: dict[str, Any]) -> None:
        """Choose the method that ran; there is one alone."""

    def _solver_to_go_on(self) -> OdeSolver:
        """Return the solver at the start, or as it was kept."""
        if self.keeper is None or (kept := self.keeper.resumed) is None:
            return self._solver(self.reached)
        self.restore(kept)  # before anything can end the run
        self._choose_again(kept)
        self.meter.gradients = self.meter.hvps = 0  # what a solver begins with is paid for
        solver = self._solver(Point(0.0, self.flat.initial))
        restore_solver(solver, kept["carried"])
        self.restore(kept)
        self.keeper.taken_up(self.meter.units)
        return solver

    def _first_look(self) -> np.ndarray:
        """Return J and ‖∇J‖ where the run starts."""
        self.reached = Point(0.0, self.flat.initial)
        first = self._measured(self.reached)
        check_start(self.dynamics.objective, *first)
        self.loss = float(first[0])
        self.check_unchanged(first)
        return first

    def check_unchanged(self, measures: Any) -> None:
        """Refuse a loss that a function compiled for this run finds to be another at the start."""
        theta = self.flat.params(self.flat.initial)
        self.dynamics.objective.check_unchanged(theta, float(np.asarray(measures)[0]))

    def _compile(self) -> None:
        """Call what the solver will call, so that its seconds are not counted as the run's."""
        if self.method.dense:
            self.flat.compile_jacobian()

    def kernel(self) -> Kernel:
        """Return the method as a compiled loop on this dynamics."""
        return kernel_of(self.dynamics, self.flat, self.method)

    def tolerance(self) -> Tolerance | Fixed:
        """Return what the kernel takes as rtol, atol and unit roundoff, or as the step."""
        if not self.method.adaptive:
            return Fixed(self.settings["step"], self.settings.get("seed", 0), self.path)
        resolution = self.dynamics.objective.resolution
        return Tolerance(self.settings["rtol"], self.settings["atol"], resolution)

    def _drive(self) -> Generator[Report, None, str]:
        try:
            yield self._report()
            solver = self._solver_to_go_on()
            while True:
                self._keep(carried, solver)
                self.meter.check_steps(self.steps)
                message = self._step(solver)
                # LSODA does not fail when it can go no further: it stands still.
                if solver.status == "failed" or solver.t <= self.reached.t:
                    return self._failed(message)
                if (result := self._accept(solver)) is not None:
                    return result
                if solver.status == "finished":
                    return f"reached {self._at(solver.t)}"
                yield self._report()
                solver = self._go_on_with(solver)
        except ENDINGS as ending:
            return self.cut_short(ending)
        except (ValueError, np.linalg.LinAlgError) as error:
            # scipy's linear algebra refuses NaN and inf; anything else is a fault to be seen.
            if np.all(np.isfinite(self.latest.measures)):
                raise
            return self._failed(str(error))

    def cut_short(self, ending: BaseException) -> str:
        """Return the result of a run that one of `ENDINGS` ended."""
        where = self._at(self.reached.t)
        if isinstance(ending, KeyboardInterrupt):
            return f"interrupted at {where}"
        if isinstance(ending, BudgetSpent):
            return f"budget spent at {where}: {ending}{self._why_stalled()}"
        return f"ended at {where}: {ending}"

    def _at(self, t: float) -> str:
        """Return a solver's time as flow time, in words."""
        return f"t = {self.dynamics.time(t):g}"

    def _go_on_with(self, solver: OdeSolver) -> OdeSolver:
        """Return the solver of the next step: the same."""
        return solver

    def _solver(self, start: Point) -> OdeSolver:
        options = self._options()
        solver = self.method.solver(self._rhs, start.t, np.array(start.y), self.t, **options)
        self.cap = None
        if self.method.real_limit is not None and self.dynamics.has_real_spectrum:
            resolution = self.dynamics.objective.resolution
            longest = self.method.longest
            self.cap = StepCap(self.method.real_limit, self._rhs, resolution, longest)
        return solver

    def _options(self) -> dict[str, Any]:
        """Return what the solver is made with beside the problem."""
        options: dict[str, Any] = dict(self.settings)
        takes = signature(self.method.solver.__init__).parameters
        if "jac" in takes:
            options["jac"] = self._jacobian
        if "max_step" in takes and self.method.longest < np.inf:
            options["max_step"] = self.method.longest
        return options

    def check_spectrum(self, carry: Any) -> None:
        """Raise `SpectrumNotReal` where a stabilised method is not for the dynamics.

        One that the dynamics names as suited is: where the Jacobian is far from normal, the power
        iteration that tells has not settled.
        """
        if hasattr(carry, "watch") and self.dynamics.suited_method != self.method.name:
            check_spectrum(self.method.name, carry)

    def affordable(self) -> float:
        """Return evaluations of the right-hand side that the budget allows."""
        gradients, hvps = self.dynamics.cost
        return np.floor(self.meter.left / (gradients + 2 * hvps))

    def check_affords_start(self) -> None:
        """Raise `BudgetSpent` if a kernel's first step, whose length costs two, is beyond it."""
        if self.affordable() < 2:  # noqa: PLR2004
            self.meter.exhausted()

    def spent_by_kernel(self, before: Any, carry: Any) -> None:
        """Count what a kernel spent since `before` evaluations, within what was affordable."""
        self.spend_evaluations(round(float(carry.evaluations) - float(before)))
        self.meter.check_seconds()

    def spend_evaluations(self, evaluations: int) -> None:
        """Count so many, which have been afforded."""
        gradients, hvps = self.dynamics.cost
        self.meter.gradients += gradients * evaluations
        self.meter.hvps += hvps * evaluations

    def _step(self, solver: OdeSolver) -> str | None:
        """Take one accepted step; return the solver's message if there is none."""
        self.evaluated.clear()
        return solver.step()

    def _rhs(self, t: float, y: np.ndarray) -> np.ndarray:
        self.meter.spend(*self.dynamics.cost)
        self.evaluated.append(t)
        derivative, measures = self.flat.derivative(t, y)
        self.latest = Point(t, np.array(y), measures)  # y may change in place
        return np.asarray(derivative)

    def _jacobian(self, t: float, y: np.ndarray) -> np.ndarray:
        """Return ∂ẏ/∂y, one product a column."""
        self.meter.spend(0, self.dynamics.cost[0] * y.size)
        return self.flat.jacobian(t, y)

    def _measured(self, point: Point) -> np.ndarray:
        """Return J and ‖∇J‖ at a point, evaluated if the solver has not."""
        if point.measures is None:
            with self.meter.saving():
                self._rhs(point.t, point.y)
            point.measures = self.latest.measures
        return np.asarray(point.measures)

    def _accept(self, solver: OdeSolver) -> str | None:
        """Do everything that is due after an accepted step; return a result if the run ends."""
        # The last evaluation of most methods is at the state they accept: J there is free. Of BDF
        # and LSODA it is one Newton step before, and a gradient is small beside their Jacobians.
        known = np.array_equal(self.latest.y, solver.y)
        point = Point(solver.t, np.array(solver.y), self.latest.measures if known else None)
        if known or self.method.dense or self.stops.each_step:
            self._measured(point)
        if not np.all(np.isfinite(solver.y if point.measures is None else point.measures)):
            return self._failed("the state became non-finite")
        rejected = self._rejections(solver)
        attempts = None if rejected is None else rejected - self.rejected + 1
        before = self.dissipated
        gain = None if before is None else self._gain(solver)
        # At once, so that an interrupt finds the counts of this step or of the last.
        self.reached, self.steps, self.rejected, self.dissipated = (
            point,
            self.steps + 1,
            rejected,
            None if gain is None else before + gain,
        )
        result = self._save_up_to(point, solver)
        capped = self.cap is not None and result is None and solver.status == "running"
        if capped and (eigenvalue := self.cap.update(solver, attempts)) is not None:
            self.looks.append((point.t, float(eigenvalue)))
        if self.reached is not point and self.dissipated is not None:
            # A saved record within the step ended the run: it ends there.
            self.meter.lift()
            with self.meter.saving():
                end = self.reached.t
                self.dissipated = before + dissipated(solver, self.dynamics.dissipation, end)
        if self.reached.measures is not None:
            loss, norm = self._seen(self.reached)
            record = {"t": self.reached.t, "loss": loss, "gradient_norm": norm}
            result = result or self._stopped(record, saved=False)
        return result

    def _rejections(self, solver: OdeSolver) -> int | None:
        """Return rejected attempts up to and with this step, where the method tells."""
        if self.method.attempts is None:
            return None
        return self.rejected + self.method.attempts(self.evaluated, solver.t_old) - 1

    def _gain(self, solver: OdeSolver) -> float | None:
        """Return ∫ rate dt over the step."""
        return dissipated(solver, self.dynamics.dissipation)

    def _seen(self, point: Point) -> tuple[float, float]:
        """Return J and ‖∇J‖ at the end of the next step, and note J's rise over it."""
        loss, norm = map(float, self._measured(point))
        rise = self.loss - loss if self.dynamics.ascent else loss - self.loss
        self.largest_rise = max(self.largest_rise, rise)
        self.loss = loss
        return loss, norm

    def _save_up_to(self, point: Point, solver: OdeSolver | None) -> str | None:
        """Save what falls into the last step; a result if a saved record ends the run."""
        if self.times is None:
            return self._save(point) if self.recorder.wants() else None
        saved = len(self.recorder.rows)
        due = self.times[saved : np.searchsorted(self.times, point.t, side="right")]
        if due.size == 0:
            return None
        with self.meter.saving():
            within = between(solver) if due[0] < point.t else None
        # A method that does not evaluate J where its steps end tells of rises between saves.
        told = point.measures is not None
        for t in due:
            with self.meter.saving():
                at = point if t == point.t else Point(float(t), within(t))
            if not told:
                self._seen(at)
            if (result := self._save(at)) is not None:
                self.reached = at
                return result
        return None

    def _save(self, point: Point) -> str | None:
        loss, norm = map(float, self._measured(point))
        auxiliary = self.flat.auxiliary(point.y)
        theta, work = self.flat.params(point.y), point.work or self._work()
        row = self.recorder.add(point.t, theta, loss, norm, auxiliary, work)
        if (why := self.dynamics.beyond(auxiliary)) is not None:
            return f"ended at {self._at(point.t)}: {why}"
        return self._stopped(flat_record(row), saved=True)

    def save_end(self) -> None:
        """Keep the last accepted step of a run that ended early or saved as it went."""
        self.meter.lift()
        early = not self.result.startswith("reached")
        rows = self.recorder.rows
        if not (early or self.times is None) or (rows and self.reached.t <= rows[-1]["t"]):
            return
        if self.reached.measures is None:
            self._seen(self.reached)
        try:
            self._save(self.reached)
        except ObserverFailed:
            loss, norm = map(float, self._measured(self.reached))
            y = self.reached.y
            theta, state = self.flat.params(y), self.flat.auxiliary(y)
            self.recorder.add(self.reached.t, theta, loss, norm, state, self._work(), observe=False)

    def _work(self) -> dict[str, float]:
        """Return what has been spent, and the end of the step that it was spent on."""
        gradients, hvps = self.meter.motion
        return {"t": self.reached.t, "steps": self.steps, "gradients": gradients, "hvps": hvps}

    def _stopped(self, record: dict[str, Any], *, saved: bool) -> str | None:
        met = self.stops.holding(record | {"t": self.dynamics.time(record["t"])}, saved=saved)
        return None if met is None else f"stopped at {self._at(record['t'])}: {met}"

    def _failed(self, message: str | None) -> str:
        where = f"ended at {self._at(self.reached.t)}"
        if (why := self.dynamics.beyond(self.flat.auxiliary(self.reached.y))) is not None:
            return f"{where}: {why}"
        if not np.all(np.isfinite(self.latest.measures)):
            loss, norm = np.asarray(self.latest.measures)
            if np.isfinite(loss):
                advice = "" if ran_away(loss) else f". {TWO_BRANCHES}"
                return f"{where}: beyond it ‖∇J‖ = {norm:g} at J = {loss:g}{advice}"
            return (
                f"{where}: beyond it the loss became non-finite (J = {loss:g}, ‖∇J‖ = {norm:g}); "
                f"the last finite loss is {self.loss:.6g}"
            )
        if message is None or message == OdeSolver.TOO_SMALL_STEP:
            message = "the step fell below the spacing of numbers; the flow may end in finite time"
        return f"{where}: {message}{self._why_stalled()}"

    def _why_stalled(self) -> str:
        attempts = self.steps + (self.rejected or 0)
        stalled = attempts > 0 and (self.rejected or 0) > STALLED * attempts
        objective = self.dynamics.objective
        if not self.method.adaptive or (objective.smooth and not stalled):
            return ""
        share = f"; {self.rejected} of {attempts} attempted steps were rejected" if stalled else ""
        return f"{share}. {KINK_REMEDY}" if may_have_kinks(objective) else share

    def _energy(self, y: Any, loss: float) -> float:
        """Return what falls at the rate of dissipation: J, unless the dynamics says otherwise."""
        return loss if self.flat.energy is None else self.flat.energy(y)

    def _own_stats(self) -> dict[str, Any]:
        """Return λ_max as it was met on the way, for methods that watch it."""
        if not self.looks:
            return {}
        t, eigenvalue = map(np.array, zip(*self.looks, strict=True))
        t, slow = self.dynamics.time(t), self.dynamics.slowness(t)
        return {"lambda_max_t": t.tolist(), "lambda_max": (eigenvalue * slow).tolist()}

    def _problem_norm(self, recorded: float) -> float:
        """Return ‖∇J(θ₀)‖, which is not what is recorded of a dynamics on a manifold."""
        if type(self.dynamics.in_flow_time).gradient is Dynamics.gradient:
            return recorded
        objective = self.dynamics.objective.counted()
        return np.linalg.norm(objective.flat_value_and_gradient(objective.theta)[1])

    def trajectory(self, first: np.ndarray, seconds: float, compile_seconds: float) -> Trajectory:
        """Return the run, its seconds to compile and after that beside it."""
        objective = self.dynamics.objective
        last = float(self._measured(self.reached)[0])
        columns = self.recorder.columns()
        columns["t"] = self.dynamics.time(columns["t"])
        columns["work"]["t"] = self.dynamics.time(columns["work"]["t"])
        moved = self.dynamics.in_flow_time
        return Trajectory(
            **columns,
            stats={
                "gradients": self.meter.gradients,
                "hvps": self.meter.hvps,
                "save_gradients": self.meter.save_gradients,
                "save_hvps": self.meter.save_hvps,
                **self.recorder.spent,
                "steps": self.steps,
                "rejected": self.rejected,
                "seconds": seconds,
                "compile_seconds": compile_seconds,
                "engine": self.engine,
                "dissipated": self.dissipated,
                "t_end": float(self.dynamics.time(self.reached.t)),
                "loss_first": float(first[0]),
                "loss_last": last,
                "energy_first": self._energy(self.flat.initial, float(first[0])),
                "energy_last": self._energy(self.reached.y, last),
                "largest_rise": self.largest_rise,
                **self._own_stats(),
            },
            result=self.result,
            config={
                "kind": "flow",
                "label": moved.label,
                "dynamics": type(moved).__name__,
                "ascent": moved.ascent,
                "constants": moved.constants,
                "method": self.name,
                "engine": self.engine,
                "t": float(self.dynamics.time(self.t)),
                "clock": "linear" if moved is self.dynamics else "log",
                **self.settings,
                "problem": problem(objective, first[0], self._problem_norm(first[1])),
            },
            structure=structure_of(objective.params),
            versions=current_versions(),
            dynamics=moved,
            solver=self.solver_class,
            unflatten=objective.unflatten,
        )
