"""Several runs in one process, each in a thread of its own, that get along t together."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from flow._core.progress import Progress, bar_along, compiling, pace
from flow._core.signals import tell_if_ignored
from flow._evidence.streaming_compare import Gaps
from flow._run.trajectory import Trajectory

# Ctrl-C is answered at least so often, in seconds.
ANSWER = 0.2
# A run, by the `stop` and `progress` that it is to take.
Runner = Callable[..., Trajectory]


class Beat(Progress):
    """Shows nothing: it passes on the interrupt, which only the main thread hears of."""

    def __init__(self, interrupted: Callable[[], bool]) -> None:
        super().__init__(1.0, "", show=False)
        self._interrupted = interrupted

    def update(self, t: float, loss: Any, gradients: int) -> None:
        """End the run, at a step where it can be ended."""
        if self._interrupted():
            raise KeyboardInterrupt


class Lockstep:
    """Runs that wait for each other at their saves: none is more than `window` of t ahead.

    So an interrupt leaves all of them at about the same t, and one display tells of all.

    Parameters
    ----------
    window
        Units of t.
    gaps
        Told of every save, if given.
    """

    def __init__(self, window: float, gaps: Gaps | None = None) -> None:
        self._window, self._gaps = window, gaps
        self._changed = threading.Condition()
        self._records: dict[str, Mapping[str, Any]] = {}
        self._at: dict[str, float] = {}
        self._found: dict[str, Trajectory] = {}
        self._error: BaseException | None = None
        self._interrupted = False
        self._started: set[str] = set()
        self._redraw = 0.0

    def run(self, runners: Mapping[str, Runner], t: float, *, show: bool) -> dict[str, Trajectory]:
        """What each runner returned; those that Ctrl-C met have what they had.

        Raises
        ------
        Exception
            What a runner raised; the others are ended.
        """
        threads = [
            threading.Thread(target=self._one, args=item, daemon=True) for item in runners.items()
        ]
        self._at = dict.fromkeys(runners, 0.0)
        label = f"{len(runners)} runs"
        bar = bar_along(t, label, show=show)
        with bar:
            try:
                for thread, name in zip(threads, runners, strict=True):
                    thread.start()
                    # One after the other, so that what they share is compiled once.
                    with compiling(label, show):
                        begun = lambda name=name: name in self._records or self._ended(name)  # noqa: E731
                        self._watch(bar, begun)
                    if self._error is not None:
                        break
                self._watch(bar, lambda: all(self._ended(n) for n in runners if n in self._started))
            finally:  # whatever has happened, no thread is left running
                self._end_all()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error
        return self._found

    def _one(self, name: str, runner: Runner) -> None:
        """The thread of one run."""
        self._started.add(name)
        try:
            self._found[name] = runner(
                stop=lambda record: self._wait(name, record),
                progress=Beat(lambda: self._interrupted),
            )
        except BaseException as error:  # noqa: BLE001 - raised again in the user's thread
            self._error, self._interrupted = self._error or error, True
        with self._changed:
            self._at[name] = np.inf
            if self._gaps is not None:
                self._gaps.leave(name)
            self._changed.notify_all()

    def _wait(self, name: str, record: Mapping[str, Any]) -> bool:
        """At a save: tell where the run is, and wait for those behind. Never stops it."""
        with self._changed:
            self._records[name], self._at[name] = record, record["t"]
            if self._gaps is not None:
                self._gaps.meet(name, record)
            self._changed.notify_all()
            while record["t"] > min(self._at.values()) + self._window and not self._interrupted:
                self._changed.wait()
        return False

    def _ended(self, name: str) -> bool:
        return self._at[name] == np.inf

    def _watch(self, bar: tqdm, done: Callable[[], bool]) -> None:
        """Redraw until it is done; Ctrl-C, which only this thread hears of, is passed on."""
        while True:
            try:
                if done():
                    return
                with self._changed:
                    self._changed.wait(ANSWER)
                self._show(bar)
            except KeyboardInterrupt:
                self._end_all()

    def _end_all(self) -> None:
        """Tell every run to end where it is."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def _show(self, bar: tqdm) -> None:
        """The slowest run's t; the first run's J, and its sharpness if it is observed."""
        first = self._records.get(next(iter(self._at)))
        if bar.disable or first is None or time.perf_counter() < self._redraw:
            return
        self._redraw = time.perf_counter() + pace()
        tell_if_ignored()
        slowest = min(self._at.values())
        spent = sum(int(record["gradients"]) for record in self._records.values())
        told = {"loss": f"{first['loss']:.3g}"}
        if np.ndim(sharpness := first.get("sharpness", np.zeros(1))) == 0:
            told["sharpness"] = f"{sharpness:.3g}"
        bar.set_postfix(told | {"gradients": f"{spent:,}"}, refresh=False)
        bar.update(max(0.0, min(slowest, bar.total) - bar.n))
