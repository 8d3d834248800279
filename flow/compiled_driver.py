"""The compiled engine: the whole loop on the device, in chunks that can be interrupted."""

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from flow.driver import Driver, Point
from flow.methods.compiled_loop import Found
from flow.methods.kernel import Kernel
from flow.methods.stabilised_solver import check_spectrum
from flow.methods.stepping import BUDGET, FAILED, FINISHED, Limits
from flow.progress import Progress
from flow.recording import BudgetSpent, ObserverFailed

# A chunk lasts about so long, so that Ctrl-C and the progress bar are answered ...
CHUNK_SECONDS = 0.25
# ... and keeps at most so many numbers of saved states on the device.
CHUNK_NUMBERS = 2**23


@dataclass
class CompiledDriver(Driver):
    """Drives one run in chunks of many steps; its rows, budgets and results are `Driver`'s."""

    engine: ClassVar[str] = "jax"
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
        )

    def _due(self) -> np.ndarray:
        """The next times to save at, padded with inf to a length that is compiled once."""
        if self.times is None:
            return np.full(1, np.inf)
        saved = len(self.recorder.rows)
        # A function of the record may end the run at any saved time: one at a time, then.
        room = 1 if self.stops.each_save else max(1, CHUNK_NUMBERS // self.flat.initial.size)
        room = min(room, len(self.times))
        due = self.times[saved : saved + room]
        return np.concatenate([due, np.full(room - len(due), np.inf)])

    def _drive(self, progress: Progress) -> str:
        try:
            self.check_affords_start()
            self.carry = self.loop.start(self.tolerance(), self._limits(0), 0.0, self.flat.initial)
            self.spent_by_kernel(0, self.carry)
            if hasattr(self.carry, "watch"):
                check_spectrum(self.method.name, self.carry)
            steps = 1
            while True:
                self.meter.check_steps(self.steps)
                began, before = time.perf_counter(), self.steps
                if (result := self._advance(steps)) is not None:
                    return result
                progress.update(self.reached.t, self.loss, self.meter.gradients)
                pace = (time.perf_counter() - began) / max(1, self.steps - before)
                steps = max(1, min(10 * steps, int(CHUNK_SECONDS / pace)))
        except BudgetSpent as budget:
            return f"budget spent at t = {self.reached.t:g}: {budget}{self._why_stalled()}"
        except ObserverFailed as failure:
            return f"ended at t = {self.reached.t:g}: {failure}"
        except KeyboardInterrupt:
            return f"interrupted at t = {self.reached.t:g}"

    def _advance(self, steps: int) -> str | None:
        """One chunk and everything that is due after it; a result if the run ends with it."""
        if self.times is None:  # it keeps every so-manieth step, and chunks end there
            stride = self.recorder.stride
            steps = min(steps, stride - self.steps % stride)
        before, due = self.carry, self._due()
        carry, found = self.loop.chunk(
            self.tolerance(), self._limits(self.steps + steps), due, before
        )
        carry, found = _fetch(carry), _fetch(found)
        self.carry = carry
        point = Point(float(carry.t), carry.y, carry.measures)
        self.latest = Point(point.t, point.y, carry.attempted)
        moved = point.t > self.reached.t
        self.reached, self.steps, self.rejected, self.dissipated, self.largest_rise = (
            point,
            round(float(carry.steps)),
            round(float(carry.rejected)),
            None if np.isnan(carry.dissipated) else float(carry.dissipated),
            max(self.largest_rise, float(carry.rise)),
        )
        self.looks += _looks(found)
        self.spent_by_kernel(before.evaluations, carry)
        result = self._save_found(due, found, point, moved)
        if result is not None:
            return result
        self.loss = float(carry.measures[0])
        status = int(carry.status)
        if status == BUDGET:
            self.meter.exhausted()
        if status == FAILED:
            return self._failed(None)
        if status == FINISHED:
            return f"reached t = {point.t:g}"
        loss, norm = map(float, carry.measures)
        return self._stopped({"t": point.t, "loss": loss, "gradient_norm": norm}, saved=False)

    def _save_found(self, due: np.ndarray, found: Found, point: Point, moved: bool) -> str | None:
        """Keep the states that were passed; a result if one of them ends the run."""
        if self.times is None:
            due = moved and self.steps % self.recorder.stride == 0
            return self._save(point) if due else None
        for t, y in zip(due[: int(found.saved)], found.states, strict=False):
            at = point if t == point.t else Point(float(t), y)
            if (result := self._save(at)) is not None:
                if at is not point and self.dissipated is not None:
                    self.dissipated -= float(self.loop.remainder(self.carry, at.t))
                self.reached = at
                return result
        return None


def _fetch(tree: Any) -> Any:
    """The device's arrays as numpy's."""
    import jax

    return jax.tree.map(np.asarray, tree)


def _looks(found: Found) -> list[tuple[float, float]]:
    n = int(found.looks)
    return list(zip(found.radius_t[:n].tolist(), found.eigenvalue[:n].tolist(), strict=True))
