"""Many initialisations in one call: the members' loops run on the device as one, side by side."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from flow.compiled_driver import FIRST_CHUNK, CompiledDriver, fetch
from flow.driver import Point, kernel_of
from flow.dynamics import Dynamics
from flow.dynamics.flat import FlatDynamics, flatten
from flow.initialisations import named
from flow.members import stacked
from flow.methods.catalogue import Method
from flow.methods.compiled_loop import Found
from flow.methods.kernel import Kernel
from flow.methods.stepping import Limits, Tolerance
from flow.pace import paced
from flow.progress import Progress, compiling, progress_of
from flow.pytrees import ravel
from flow.recording import BudgetSpent, ObserverFailed
from flow.sharing import padded, shared, way
from flow.trajectory import Trajectory


@dataclass
class Member(CompiledDriver):
    """The rows, budgets and result of one member; `EnsembleDriver` takes its steps."""

    ended: str | None = field(init=False, default=None)
    # J and ‖∇J‖ by the time of a saved state, where the last chunk evaluated them.
    known: dict[float, np.ndarray] = field(init=False, default_factory=dict)

    def prepare(self, shared: FlatDynamics) -> np.ndarray:
        """J and ‖∇J‖ where it starts; the compiled functions are shared by all members."""
        self.flat = replace(shared, initial=ravel(self.dynamics.initial_state())[0])
        return self._first_look()

    def save_start(self) -> None:
        """Save t = 0, if it is asked for."""
        self.ended = self._save_up_to(self.reached, None)

    def attempt(self, what: Callable, *arguments: Any) -> Any:
        """What it returns, or None where it ends the member instead."""
        try:
            return what(*arguments)
        except (BudgetSpent, ObserverFailed) as ending:
            self.ended = self._cut_short(ending)
            return None

    def interrupt(self) -> None:
        """End by Ctrl-C."""
        self.ended = self._cut_short(KeyboardInterrupt())

    def wish(self, steps: int) -> tuple[Limits, np.ndarray]:
        """Its request of the next chunk, if it has not ended."""
        if self.ended is None and (wish := self.attempt(self.request, steps)) is not None:
            return wish
        # No step, and in those that the others take, of h = 0, no stages.
        return Limits(self.reached.t, 0.0, 0.0, -np.inf, -np.inf), self._due() + np.inf

    def take(self, due: np.ndarray, carry: Any, found: Found, measures: np.ndarray) -> None:
        """Take its part of a chunk."""
        self.known = dict(zip(due.tolist(), measures, strict=True))
        evaluations, self.carry = self.evaluations, carry
        result = self.attempt(self.receive, due, found, self.book(found), evaluations)
        self.ended = self.ended or result

    def save_end(self) -> None:
        """Keep the last step of a member that ended early or saved as it went."""
        self._save_end(self.ended)

    def finish(self, first: np.ndarray, seconds: float, compile_seconds: float) -> Trajectory:
        """The member's run."""
        return self._trajectory(self.ended, first, seconds, compile_seconds)

    def _measured(self, point: Point) -> np.ndarray:
        if point.measures is None and point.t in self.known:
            with self.meter.saving():
                self.meter.spend(*self.dynamics.cost)
            point.measures = self.known[point.t]
        return super()._measured(point)


@dataclass
class EnsembleDriver:
    """Drives the members of an ensemble by chunks of one loop over all of them.

    Parameters
    ----------
    dynamics
        Whose compiled functions all members share; θ₀ is to enter by `initial_state` alone.
    method
        Of all members.
    members
        One driver for each, with a meter and a recorder of its own.
    devices
        That the members are spread over; None for one.
    """

    dynamics: Dynamics
    method: Method
    members: list[Member]
    devices: tuple[Any, ...] | None = None
    over: Callable = field(init=False)
    loop: Kernel = field(init=False)
    carry: Any = field(init=False)

    def run(self, show: Any) -> Trajectory:
        """Set up, compile, drive, and return what there is, however each member ended."""
        started = time.perf_counter()
        label, firsts = f"{self.method.name}, {len(self.members)} members", []
        with compiling(label, show):
            flat = flatten(self.dynamics)
            for i, member in enumerate(self.members):
                with named(i):
                    firsts.append(member.prepare(flat))
            self._compile(flat)
            for i, member in enumerate(self.members):
                with named(i):
                    member.save_start()
        compile_seconds = time.perf_counter() - started
        for member in self.members:
            member.meter.start()
        with progress_of(self.members[0].t, label, show) as progress:
            try:
                self._drive(progress)
            except KeyboardInterrupt:
                for member in self._running():
                    member.interrupt()
        for member in self.members:
            member.save_end()
        seconds = time.perf_counter() - started - compile_seconds
        return stacked(
            [
                member.finish(first, seconds, compile_seconds)
                for member, first in zip(self.members, firsts, strict=True)
            ]
        )

    def _compile(self, flat: FlatDynamics) -> None:
        objective = self.dynamics.objective
        own = objective.compiled(
            ("over", self.dynamics), lambda: way(flat.traced, 0.0, flat.initial, objective.data)
        )
        self.over = shared(own, self.devices)
        self.loop = kernel_of(self.dynamics, flat, self.method, self.over)
        for member in self.members:
            member.loop = self.loop
        limits, due = self._wishes(0)
        limits = limits._replace(evaluations=np.full_like(limits.t, 2.0))
        _, found = self.loop.chunk(self._tolerance(), limits, due, self._start(limits))
        self.loop.measured(due, found)

    def _running(self) -> list[Member]:
        return [member for member in self.members if member.ended is None]

    def _wishes(self, steps: int) -> tuple[Limits, np.ndarray]:
        """Limits and times of all members, those of one a row."""
        limits, due = zip(*(member.wish(steps) for member in self.members), strict=True)
        return padded(self.over, (_rows(limits), np.stack(due)))

    def _tolerance(self) -> Tolerance:
        return padded(self.over, _rows([member.tolerance() for member in self.members]))

    def _start(self, limits: Limits) -> Any:
        initial = padded(self.over, np.stack([member.flat.initial for member in self.members]))
        return self.loop.start(self._tolerance(), limits, np.zeros(len(initial)), initial)

    def _drive(self, progress: Progress) -> None:
        for member in self._running():
            member.attempt(member.check_affords_start)
        self.carry = self._start(self._wishes(0)[0])
        carries = fetch(self.carry)
        for i, member in enumerate(self.members):
            if member.ended is None:
                with named(i):
                    member.attempt(member.begin, _of(i, carries))
        steps = FIRST_CHUNK
        while running := self._running():
            slowest = min(running, key=lambda member: member.reached.t)
            progress.update(slowest.reached.t, slowest.loss, slowest.meter.gradients)
            began, before = time.perf_counter(), [member.steps for member in running]
            self._advance(steps)
            taken = max(m.steps - n for m, n in zip(running, before, strict=True))
            steps = paced(steps, taken, time.perf_counter() - began)

    def _advance(self, steps: int) -> None:
        """One chunk and everything that is due after it."""
        limits, due = self._wishes(steps)
        if not self._running():
            return
        self.carry, found = self.loop.chunk(self._tolerance(), limits, due, self.carry)
        # At once for all states that were found, or each would take a call of its own.
        measures = np.asarray(self.loop.measured(due, found))
        carries, found = fetch(self.carry), fetch(found)
        for i, member in enumerate(self.members):
            if member.ended is None:
                member.take(due[i], _of(i, carries), _of(i, found), measures[i])


def _rows(tuples: Sequence[Any]) -> Any:
    """Named tuples of numbers as one of arrays, their first axis the member."""
    return type(tuples[0])(*map(np.array, zip(*tuples, strict=True)))


def _of(i: int, tree: Any) -> Any:
    """The i-th member's part of what has a leading axis of members."""
    return jax.tree.map(lambda x: x[i], tree)
