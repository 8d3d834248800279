"""A meter with budgets for what a run spends, and a recorder of the rows that it keeps."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from flow._core.checks import choice, positive, positive_integer
from flow._core.costs import units
from flow._core.endings import BudgetSpent, ObserverFailed
from flow._core.pytrees import read_only
from flow._problem.objective import Objective, Tally
from flow.observe import Observer, as_observer, projection

# What most often makes a gradient that is not finite of a loss that is.
TWO_BRANCHES = (
    "A where(x > 0, log(x), 0) has the derivatives of both its branches, 0 · ∞ at 0: make the "
    "argument safe first, log(where(x > 0, x, 1)); sqrt and norm have none at 0: sqrt(x² + ε), or "
    "start elsewhere"
)
# A loss beyond this has run away: soon after, ‖∇J‖² overflows, and before J does.
_AWAY = 1e15
KEEPS = ["theta", "projection", "last"]


class Meter:
    """Counts what a run spends, and ends it at its budgets. One rule holds for every door.

    A gradient is one unit, with the value of J that comes with it; a Hessian-vector product two,
    and so each column of a Jacobian; a value of J alone a third (`flow._core.costs.units`).

    - The motion: steps and rejected attempts, Jacobians, looks at the spectrum and trials of
      "auto", all that an optimizer asks of its `value_fn`. It is what `Trajectory.units` and the
      rows of `Trajectory.work` count.
    - Saving, apart from it: J and ∇J at saved times, θ there where that takes evaluations (dense
      output, side steps), J at the ends of steps where the method has not evaluated it, as BDF and
      LSODA have not.
    - Observers have counts of their own, and so have the runs that `flow.compare`, `flow.audit`,
      `flow.action` and `flow.order_study` make, in the `units` of what they return.

    What is evaluated beside a run is no part of it: to compile, to check arguments, to know the
    problem by, to choose a step or learning rate by the sharpness.
    """

    def __init__(self, max_gradients: Any, max_steps: Any, max_seconds: Any) -> None:
        self.gradients = self.hvps = self.values = 0
        self.save_gradients = self.save_hvps = 0  # of these, for saving
        self._most = (
            np.inf if max_gradients is None else positive_integer("max_gradients", max_gradients)
        )
        self._max_steps = np.inf if max_steps is None else positive_integer("max_steps", max_steps)
        self._max_seconds = np.inf if max_seconds is None else positive("max_seconds", max_seconds)
        if self._max_seconds < np.inf and jax.process_count() > 1:
            raise ValueError(
                f"max_seconds={max_seconds} would end {jax.process_count()} processes at different "
                "steps, as their clocks differ; give max_gradients or max_steps"
            )
        self._deadline = np.inf
        self.limited = min(self._most, self._max_steps, self._max_seconds) < np.inf

    def start(self) -> None:
        """Let the seconds run."""
        self._deadline = time.perf_counter() + self._max_seconds

    def spend(self, gradients: int, hvps: int = 0) -> None:
        """Count, or raise `BudgetSpent` if this would go beyond a budget."""
        if units(gradients, hvps) > self.left:
            self.exhausted()
        self.check_seconds()
        self.gradients += gradients
        self.hvps += hvps

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Book what is spent within as the cost of saving, and not of the motion."""
        gradients, hvps = self.gradients, self.hvps
        try:
            yield
        finally:
            self.save_gradients += self.gradients - gradients
            self.save_hvps += self.hvps - hvps

    @property
    def units(self) -> float:
        """Return what was spent."""
        return units(self.gradients, self.hvps, self.values)

    @property
    def motion(self) -> tuple[int, int]:
        """Return the gradients and products that the motion took, saves left out."""
        return self.gradients - self.save_gradients, self.hvps - self.save_hvps

    @property
    def spent(self) -> list[int]:
        """Return all its counts, for a checkpoint; set, they go on from there."""
        return [self.gradients, self.hvps, self.values, self.save_gradients, self.save_hvps]

    @spent.setter
    def spent(self, counts: list[int]) -> None:
        self.gradients, self.hvps, self.values, self.save_gradients, self.save_hvps = counts

    @property
    def left(self) -> float:
        """Return units that may still be spent."""
        return self._most - self.units

    @property
    def max_steps(self) -> float:
        """Return steps that may be taken in all."""
        return self._max_steps

    def exhausted(self) -> None:
        """Raise `BudgetSpent` for what would go beyond `left`."""
        raise BudgetSpent(f"{self._most:,} gradients (max_gradients)")

    def check_seconds(self) -> None:
        """Raise `BudgetSpent` after the deadline."""
        if time.perf_counter() > self._deadline:
            raise BudgetSpent(f"{self._max_seconds:g} seconds (max_seconds)")

    def check_steps(self, steps: int) -> None:
        """Raise `BudgetSpent` if another step would be one too many."""
        if steps >= self._max_steps:
            raise BudgetSpent(f"{self._max_steps:,} steps (max_steps)")

    def lift(self) -> None:
        """Lift the budgets, for what is left to do once a run has ended."""
        self._most = self._max_steps = self._deadline = np.inf


class Recorder:
    """Rows of a trajectory: t, θ, J, ‖∇J‖, auxiliary state and observables.

    Parameters
    ----------
    objective
        Handed to observers as a view with a tally of its own, so that what they spend is known.
    observe
        Name -> function of (objective, params), or an `Observer`.
    keep
        "theta" in every row, or of the last alone: "projection" and "last".
    most
        If given, keep at most twice so many rows: every other one is dropped whenever there are
        more, for runs whose end is not known.
    stands
        Whether t may stand still from row to row, which are then told apart by their steps.
    """

    def __init__(
        self,
        objective: Objective,
        observe: Any,
        most: int | None = None,
        keep: str = "theta",
        *,
        stands: bool = False,
    ) -> None:
        self._stands = stands
        self._keeps_theta = choice("keep", keep, KEEPS) == "theta"
        self._last: np.ndarray | None = None
        self._objective = objective.counted()
        if not (observe is None or isinstance(observe, Mapping)):
            raise TypeError(f"observe must be a mapping, {{name: function}}, got {observe!r}")
        self._observers = {name: as_observer(f) for name, f in (observe or {}).items()}
        if keep == "projection" and "projection" in self._observers:
            raise ValueError(
                'observe["projection"] is the name of what keep="projection" records; give yours '
                "another"
            )
        if keep == "projection":
            self._observers = {"projection": projection()} | self._observers
        for name, observer in self._observers.items():
            if not (callable(observer) or isinstance(observer, Observer)):
                raise TypeError(
                    f"observe[{name!r}] must be a function of (objective, params) or a "
                    f"flow.observe.Observer, got {observer!r}"
                )
            if name in {"t", "theta", "loss", "gradient_norm"}:
                raise ValueError(f"observe[{name!r}]: every run records {name} already; rename it")
            if not isinstance(name, str) or not name or "/" in name:
                raise ValueError(f"observe[{name!r}]: a file can't hold this name; rename it")
        self._states: dict[str, Any] = {}
        self._most, self._stride, self._offered, self._added = most, 1, 0, 0
        self.rows: list[dict[str, Any]] = []

    @property
    def spent(self) -> dict[str, int]:
        """Return what observers spent, as `Trajectory.stats` has it."""
        return {f"observer_{kind}": count for kind, count in asdict(self._objective.tally).items()}

    @property
    def stride(self) -> int:
        """Return a thinned recorder keeps one row in so many."""
        return self._stride

    def wants(self) -> bool:
        """Return whether a thinned recorder keeps the next row that is offered."""
        self._offered += 1
        return (self._offered - 1) % self._stride == 0

    def add(
        self,
        t: float,
        theta: np.ndarray,
        loss: float,
        gradient_norm: float,
        state: Mapping[str, np.ndarray],
        work: Mapping[str, float],
        *,
        observe: bool = True,
    ) -> dict[str, Any]:
        """Observe and keep one row; return it. Unobserved, its observables are NaN."""
        if observe:
            params = read_only(self._objective.unflatten(theta)) if self._observers else None
            run = {"t": t, **read_only(dict(state))}
            observed = {name: self._observe(name, params, run) for name in self._observers}
        else:
            known = self.rows[0]["observed"] if self.rows else {}
            observed = {k: np.full_like(known.get(k, np.nan), np.nan) for k in self._observers}
        row = {
            "t": t,
            "theta": (theta := np.array(theta)),
            "loss": float(loss),
            "gradient_norm": float(gradient_norm),
            "state": dict(state),
            "observed": observed,
            "work": dict(work),
        }
        if self.rows and not self._at(row) > self._at(self.rows[-1]):
            return row
        self._last = theta
        kept = row if self._keeps_theta else {k: v for k, v in row.items() if k != "theta"}
        self.rows.append(kept | {"serial": self._added})
        self._added += 1
        if self._most is not None and len(self.rows) > 2 * self._most:
            self.rows = self.rows[::2]
            self._stride *= 2
        return row

    def _at(self, row: Mapping[str, Any]) -> float:
        """Return what grows from row to row."""
        return row["work"]["steps"] if self._stands else row["t"]

    def state(self) -> dict[str, Any]:
        """Return what it carries beside its rows, for a checkpoint."""
        return {
            "thinning": [self._stride, self._offered, self._added],
            "observers": self._states,
            "last": None if self._keeps_theta else self._last,
            "spent": asdict(self._objective.tally),
        }

    def restore(self, state: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
        """Go on from such a state, with the rows that there were."""
        self._stride, self._offered, self._added = state["thinning"]
        self._states, self.rows = dict(state["observers"]), list(rows)
        self._last = state["last"]
        self._objective.tally = Tally(**state["spent"])

    def columns(self) -> dict[str, Any]:
        """Return rows as arrays, the first axis being the saved times."""
        rows = self.rows

        def stacked(group: str) -> dict[str, np.ndarray]:
            return {
                name: np.array([row[group][name] for row in rows], np.float64)
                for name in rows[0][group]
            }

        theta = [row["theta"] for row in rows] if self._keeps_theta else [self._last]
        flat = ("t", "loss", "gradient_norm")
        columns = {k: np.array([row[k] for row in rows]) for k in flat}
        return (
            columns
            | {"theta": np.array(theta)}
            | {group: stacked(group) for group in ("state", "observed", "work")}
        )

    def _observe(self, name: str, params: Any, run: Mapping[str, Any]) -> np.ndarray:
        try:
            array = np.asarray(self._call(name, params, run))
            if array.dtype.kind not in "fiub":
                raise TypeError(f"it must return a number or an array of numbers, got {array!r}")
            if self.rows and array.shape != (first := self.rows[0]["observed"][name].shape):
                raise ValueError(f"it returned shape {array.shape}, but {first} at first")
        except Exception as error:
            error.add_note(f"from observe[{name!r}]")
            if run["t"] == 0:
                raise
            raise ObserverFailed(
                f"observe[{name!r}] raised {type(error).__name__}: {error}"
            ) from error
        return array.astype(np.float64)

    def _call(self, name: str, params: Any, run: Mapping[str, Any]) -> Any:
        observer = self._observers[name]
        if not isinstance(observer, Observer):
            return observer(self._objective, params)
        if name not in self._states:
            self._states[name] = observer.init(self._objective, params)
        told = (run,) if observer.reads_run else ()
        value, self._states[name] = observer.update(
            self._objective, params, self._states[name], *told
        )
        return value


def check_start(objective: Objective, loss: float, gradient_norm: float) -> None:
    """Refuse to start where J or ∇J is not finite."""
    if np.all(np.isfinite([loss, gradient_norm])):
        return
    met = f"at the initial parameters the loss is {loss} and its gradient's norm {gradient_norm}"
    if np.isfinite(loss) and (where := objective.where_not_finite()):
        raise ValueError(f"{met}: {where}. {TWO_BRANCHES}")
    raise ValueError(f"{met}; start where both are finite")


def ran_away(loss: float) -> bool:
    """Return whether a run has diverged by its J, whatever of J and ∇J was the first to overflow.

    >>> ran_away(1e300), ran_away(np.inf), ran_away(0.3)
    (True, True, False)
    """
    return not abs(loss) < _AWAY


def flat_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as stop conditions see it, read-only: observables beside t, loss and so on."""
    record = {k: row[k] for k in ("t", "theta", "loss", "gradient_norm")}
    return read_only(record | {"gradients": row["work"]["gradients"]} | row["observed"])
