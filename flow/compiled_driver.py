"""The compiled engine: the whole loop on the device, in chunks that can be interrupted."""

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import numpy as np

from flow.checkpoints.values import leaves, like
from flow.driver import ENDINGS, Driver, Point
from flow.interrupts import held_back
from flow.methods.compiled_loop import Found
from flow.methods.kernel import Kernel
from flow.methods.stepping import BUDGET, FAILED, FINISHED, RUNNING, Limits
from flow.pace import paced
from flow.progress import Progress

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
        """The next times to save at, padded with inf to a length that is compiled once."""
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

    def _drive(self, progress: Progress) -> str:
        try:
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
                progress.update(self.reached.t, self.loss, self.meter.gradients)
                steps = paced(steps, self.steps - before, time.perf_counter() - began)
        except ENDINGS as ending:
            return self._cut_short(ending)

    def _start_or_go_on(self) -> None:
        """What the loop starts with, or what was kept of it."""
        arguments = self.tolerance(), self._limits(0), 0.0, self.flat.initial
        if self.keeper is None or (books := self.keeper.resumed) is None:
            self.check_affords_start()
            self.begin(self.loop.start(*arguments))
            return
        made = jax.eval_shape(lambda: self.loop.start(*arguments))
        self.carry = like(made, books["carried"])
        self.take_up(books)
        self.keeper.taken_up(self.meter.units)

    def begin(self, carry: Any) -> None:
        """Take what the loop starts with."""
        self.check_unchanged(carry.measures)
        self.carry = carry
        self.spent_by_kernel(0, carry)
        self.check_spectrum(carry)

    def request(self, steps: float) -> tuple[Limits, np.ndarray]:
        """What to ask of the next chunk: its limits, and the times to save at."""
        if not self._behind():
            self.meter.check_steps(self.steps)
        if self.times is None:  # it keeps every so-manieth step, and chunks end there
            stride = self.recorder.stride
            steps = min(steps, stride - self.steps % stride)
        return self._limits(self.steps + steps), self._due()

    @property
    def evaluations(self) -> float:
        """Of the right-hand side, so far."""
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
        """What else is due after a chunk that began at so many evaluations; a result if it ends."""
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
        """Whether a chunk had no room for all states that are due; the next one brings them."""
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
    """The device's arrays as numpy's."""
    return jax.tree.map(np.asarray, tree)


def _looks(found: Found) -> list[tuple[float, float]]:
    t, eigenvalue = (np.asarray(a)[: int(found.looks)] for a in (found.radius_t, found.eigenvalue))
    return list(zip(t.tolist(), eigenvalue.tolist(), strict=True))
