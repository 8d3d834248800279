"""The compiled engine: the whole loop on the device, in chunks that can be interrupted."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import numpy as np

from flow._core.endings import ENDINGS, BudgetSpent, ObserverFailed
from flow._core.progress import paced
from flow._core.pytrees import ravel
from flow._core.signals import held_back
from flow._run.checkpoint.values import leaves, like
from flow._run.ensemble import named
from flow._run.host import Driver, Point, kernel_of
from flow._run.loop import Many, Report
from flow.dynamics import Dynamics
from flow.dynamics.flattened import FlatDynamics, flatten
from flow.methods.catalogue import Method
from flow.methods.compiled_loop import Found
from flow.methods.kernel import Kernel
from flow.methods.loop_state import BUDGET, FAILED, FINISHED, RUNNING, Limits, Tolerance
from flow.methods.many import padded, shared, way

# Steps of the first chunk, whose pace is not known.
FIRST_CHUNK = 16
# A chunk keeps at most so many numbers of saved states on the device.
CHUNK_NUMBERS = 2**20


@dataclass
class CompiledDriver(Driver):
    """Drives one run in chunks of many steps; its rows, budgets and results are `Driver`'s."""

    engine: ClassVar[str] = "jax"

    members: int = 1  # runs that share the device with this one
    loop: Kernel = field(init=False)
    carry: Any = field(init=False, default=None)

    def _compile(self) -> None:
        self.loop = self.kernel()
        limits = self._limits(0)._replace(evaluations=2.0)
        carry = self.loop.start(self.tolerance(), limits, 0.0, self.flat.initial)
        self.loop.chunk(self.tolerance(), limits, self._due(), carry)

    def _limits(self, steps: float) -> Limits:
        evaluations = 0.0 if self.carry is None else float(self.carry.evaluations)
        return Limits(
            self.t,
            evaluations + self.affordable(),
            min(steps, self.meter.max_steps),
            *self.stops.thresholds,
            self.method.longest,
        )

    def _due(self) -> np.ndarray:
        """Return the next times to save at, padded with inf to a length that is compiled once."""
        if self.times is None:
            return np.full(1, np.inf)
        saved = len(self.recorder.rows)
        # A function of the record may end the run at any saved time: one at a time, then.
        room = CHUNK_NUMBERS // (self.flat.initial.size * self.members)
        room = 1 if self.stops.each_save else max(1, room)
        # A power of two, so that other numbers of times find the same function compiled.
        room = min(room, 1 << (len(self.times) - 1).bit_length())
        due = self.times[saved : saved + room]
        return np.concatenate([due, np.full(room - len(due), np.inf)])

    def _drive(self) -> Generator[Report, None, str]:
        try:
            yield self._report()
            self._start_or_go_on()
            steps = FIRST_CHUNK
            while True:
                self._keep(leaves, self.carry)
                began, before = time.perf_counter(), self.steps
                limits, due = self.request(steps)
                evaluations = self.evaluations
                try:
                    with held_back():  # the chunk uses up the carry, in which the reached state is
                        self.carry, found = self.loop.chunk(
                            self.tolerance(), limits, due, self.carry
                        )
                        moved = self.book(found)
                except KeyboardInterrupt:  # what the chunk has found is kept
                    if (result := self.receive(due, found, moved, evaluations)) is not None:
                        return result
                    raise
                if (result := self.receive(due, found, moved, evaluations)) is not None:
                    return result
                del found  # a vector of θ's size, that the next chunk has no need of
                seconds = time.perf_counter() - began
                yield self._report()
                steps = paced(steps, self.steps - before, seconds)
        except ENDINGS as ending:
            return self.cut_short(ending)

    def _start_or_go_on(self) -> None:
        """Begin the loop, or take up what was kept of it."""
        arguments = self.tolerance(), self._limits(0), 0.0, self.flat.initial
        if self.keeper is None or (kept := self.keeper.resumed) is None:
            self.check_affords_start()
            self.begin(self.loop.start(*arguments))
            return
        if isinstance(kept["carried"], dict):
            raise ValueError(  # noqa: TRY004 - of a file
                f"{self.keeper.folder} was kept by a version that stepped {self.name!r} on the "
                "host, and this one can't go on from there; integrate from the start"
            )
        made = jax.eval_shape(lambda: self.loop.start(*arguments))
        self.carry = like(made, kept["carried"])
        self.restore(kept)
        self.keeper.taken_up(self.meter.units)

    def begin(self, carry: Any) -> None:
        """Take what the loop starts with."""
        self.check_unchanged(carry.measures)
        self.carry = carry
        self.spent_by_kernel(0, carry)
        self.check_spectrum(carry)

    def request(self, steps: float) -> tuple[Limits, np.ndarray]:
        """Return what to ask of the next chunk: its limits, and the times to save at."""
        if not self._behind():
            self.meter.check_steps(self.steps)
        if self.times is None:  # it keeps every so-manieth step, and chunks end there
            stride = self.recorder.stride
            steps = min(steps, stride - self.steps % stride)
        return self._limits(self.steps + steps), self._due()

    @property
    def evaluations(self) -> float:
        """Return how often the right-hand side has been evaluated."""
        return float(self.carry.evaluations)

    def book(self, found: Found) -> bool:
        """Note where a chunk has left the run; whether it has moved."""
        carry = self.carry
        point = Point(float(carry.t), carry.y, carry.measures)
        moved = point.t > self.reached.t
        dissipated = float(carry.dissipated)
        self.reached, self.steps, self.rejected, self.dissipated, self.largest_rise = (
            point,
            round(float(carry.steps)),
            round(float(carry.rejected)),
            None if np.isnan(dissipated) else dissipated,
            max(self.largest_rise, float(carry.rise)),
        )
        self.looks += _looks(found)
        return moved

    def receive(self, due: np.ndarray, found: Found, moved: bool, evaluations: float) -> str | None:
        """Do what else is due after a chunk; return a result if the run ends with it."""
        carry, point = self.carry, self.reached
        self.spent_by_kernel(evaluations, carry)
        with self.meter.saving():
            self.spend_evaluations(round(float(found.between)))
        result = self._save_found(due, found, point, moved)
        if result is not None or self._behind():
            return result
        self.latest = Point(point.t, point.y, carry.attempted)
        loss, norm = np.asarray(carry.measures).tolist()
        self.loss = loss
        status = int(carry.status)
        if status == BUDGET:
            self.meter.exhausted()
        if status == FAILED:
            return self._failed(None)
        if status == FINISHED:
            return f"reached {self._at(point.t)}"
        return self._stopped({"t": point.t, "loss": loss, "gradient_norm": norm}, saved=False)

    def _behind(self) -> bool:
        """Return whether a chunk had no room for all that is due; the next one brings the rest."""
        saved = len(self.recorder.rows)
        due = self.times is not None and saved < len(self.times)
        return due and self.times[saved] <= self.reached.t

    def _save_found(self, due: np.ndarray, found: Found, point: Point, moved: bool) -> str | None:
        """Keep the states that were passed; a result if one of them ends the run."""
        if self.times is None:
            due = moved and self.steps % self.recorder.stride == 0
            return self._save(point) if due else None
        gradients, hvps = self.dynamics.cost
        # J is known where the loop has ended; where a chunk happens to, it must not be cheaper.
        ended = int(self.carry.status) != RUNNING
        if (saved := int(found.saved)) == 0:
            return None
        states, spent = np.asarray(found.states), np.asarray(found.work)
        for t, y, work in zip(due[:saved], states, spent, strict=False):
            at = point if ended and t == point.t else Point(float(t), y)
            end, steps, evaluations = work.tolist()
            at.work = {
                "t": end,
                "steps": steps,
                "gradients": gradients * evaluations,
                "hvps": hvps * evaluations,
            }
            if (result := self._save(at)) is not None:
                if at is not point and self.dissipated is not None:
                    self.dissipated -= float(self.loop.remainder(self.carry, at.t))
                self.reached = at
                return result
        return None


def fetch(tree: Any) -> Any:
    """Return the device's arrays as numpy's."""
    return jax.tree.map(np.asarray, tree)


def _looks(found: Found) -> list[tuple[float, float]]:
    t, eigenvalue = (np.asarray(a)[: int(found.looks)] for a in (found.radius_t, found.eigenvalue))
    return list(zip(t.tolist(), eigenvalue.tolist(), strict=True))


@dataclass
class Member(CompiledDriver):
    """The rows, budgets and result of one member; `EnsembleDriver` takes its steps."""

    # J and ‖∇J‖ by the time of a saved state, where the last chunk evaluated them.
    known: dict[float, np.ndarray] = field(init=False, default_factory=dict)

    def prepare(self, shared: FlatDynamics) -> np.ndarray:
        """Return J and ‖∇J‖ where it starts; the compiled functions are shared by all members."""
        self.flat = replace(shared, initial=ravel(self.dynamics.initial_state())[0])
        return self._first_look()

    def save_start(self) -> None:
        """Save t = 0, if it is asked for."""
        self.result = self._save_up_to(self.reached, None)

    def attempt(self, what: Callable, *arguments: Any) -> Any:
        """Return what it returns, or None where it ends the member instead."""
        try:
            return what(*arguments)
        except (BudgetSpent, ObserverFailed) as ending:
            self.result = self.cut_short(ending)
            return None

    def next_request(self, steps: int) -> tuple[Limits, np.ndarray]:
        """Return its request of the next chunk, if it has not ended."""
        if self.result is None and (request := self.attempt(self.request, steps)) is not None:
            return request
        # No step, and in those that the others take, of h = 0, no stages.
        return Limits(self.reached.t, 0.0, 0.0, -np.inf, -np.inf), self._due() + np.inf

    def take(self, due: np.ndarray, carry: Any, found: Found, measures: np.ndarray) -> None:
        """Take its part of a chunk."""
        self.known = dict(zip(due.tolist(), measures, strict=True))
        evaluations, self.carry = self.evaluations, carry
        result = self.attempt(self.receive, due, found, self.book(found), evaluations)
        self.result = self.result or result

    def _measured(self, point: Point) -> np.ndarray:
        if point.measures is None and point.t in self.known:
            with self.meter.saving():
                self.meter.spend(*self.dynamics.cost)
            point.measures = self.known[point.t]
        return super()._measured(point)


@dataclass
class EnsembleDriver(Many):
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

    @property
    def label(self) -> str:
        """Return what a progress bar calls the runs."""
        return f"{self.method.name}, {len(self.members)} members"

    @property
    def end(self) -> float:
        """Return where their clock ends."""
        return self.members[0].t

    def _set_up(self) -> list[np.ndarray]:
        """Compile, and return J and ‖∇J‖ at each member's start."""
        flat, firsts = flatten(self.dynamics), []
        for i, member in enumerate(self.members):
            with named(i):
                firsts.append(member.prepare(flat))
        self._compile(flat)
        for i, member in enumerate(self.members):
            with named(i):
                member.save_start()
        return firsts

    def _compile(self, flat: FlatDynamics) -> None:
        objective = self.dynamics.objective
        own = objective.compiled(
            ("over", self.dynamics), lambda: way(flat.traced, 0.0, flat.initial, objective.data)
        )
        self.over = shared(own, self.devices)
        self.loop = kernel_of(self.dynamics, flat, self.method, self.over)
        for member in self.members:
            member.loop = self.loop
        limits, due = self._requests(0)
        limits = limits._replace(evaluations=np.full_like(limits.t, 2.0))
        _, found = self.loop.chunk(self._tolerance(), limits, due, self._start(limits))
        self.loop.measured(due, found)

    def _requests(self, steps: int) -> tuple[Limits, np.ndarray]:
        """Return limits and times of all members, those of one a row."""
        limits, due = zip(*(member.next_request(steps) for member in self.members), strict=True)
        return padded(self.over, (_rows(limits), np.stack(due)))

    def _tolerance(self) -> Tolerance:
        return padded(self.over, _rows([member.tolerance() for member in self.members]))

    def _start(self, limits: Limits) -> Any:
        initial = padded(self.over, np.stack([member.flat.initial for member in self.members]))
        return self.loop.start(self._tolerance(), limits, np.zeros(len(initial)), initial)

    def _drive(self) -> Iterator[Report]:
        for member in self._running():
            member.attempt(member.check_affords_start)
        self.carry = self._start(self._requests(0)[0])
        carries = fetch(self.carry)
        for i, member in enumerate(self.members):
            if member.result is None:
                with named(i):
                    member.attempt(member.begin, _of(i, carries))
        steps = FIRST_CHUNK
        while running := self._running():
            slowest = min(running, key=lambda member: member.reached.t)
            yield slowest.reached.t, slowest.loss, slowest.meter.gradients
            began, before = time.perf_counter(), [member.steps for member in running]
            self._advance(steps)
            taken = max(m.steps - n for m, n in zip(running, before, strict=True))
            steps = paced(steps, taken, time.perf_counter() - began)

    def _advance(self, steps: int) -> None:
        """Take one chunk, and do everything that is due after it."""
        limits, due = self._requests(steps)
        if not self._running():
            return
        self.carry, found = self.loop.chunk(self._tolerance(), limits, due, self.carry)
        # At once for all states that were found, or each would take a call of its own.
        measures = np.asarray(self.loop.measured(due, found))
        carries, found = fetch(self.carry), fetch(found)
        for i, member in enumerate(self.members):
            if member.result is None:
                member.take(due[i], _of(i, carries), _of(i, found), measures[i])


def _rows(tuples: Sequence[Any]) -> Any:
    """Return named tuples of numbers as one of arrays, their first axis the member."""
    return type(tuples[0])(*map(np.array, zip(*tuples, strict=True)))


def _of(i: int, tree: Any) -> Any:
    """Return the i-th member's part of what has a leading axis of members."""
    return jax.tree.map(lambda x: x[i], tree)
