"""The one loop: begins a run, advances its engine to the end, and returns what there is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from flow._core.progress import bar_along, compiling, progress_of, redraw_seconds
from flow._core.signals import held_back, tell_if_ignored
from flow._run.checkpoint.keeper import Keeper, released
from flow._run.ensemble import stacked
from flow._run.recorder import Meter
from flow._run.trajectory import Trajectory

# t, J and the gradients spent, after a step or a chunk of steps.
Report = tuple[float, Any, int]


class Engine(Protocol):
    """An engine, which moves a run or the members of an ensemble."""

    @property
    def label(self) -> str:
        """Return what a progress bar calls the run."""

    @property
    def end(self) -> float:
        """Return where t ends."""

    def start(self, show: Any) -> None:
        """Set up, compile, and save t = 0 if that is asked for."""

    def advance(self) -> Iterator[Report]:
        """Report where the run is, first at its start, until it ends or Ctrl-C ends it."""

    def finish(self) -> Trajectory:
        """Save the end, and return the run, however it ended."""


class Single:
    """An engine of one run: when it starts and compiles, how it ends, and its seconds."""

    label: str
    keeper: Keeper | None
    meter: Meter
    started: float
    compile_seconds: float
    first: Any  # J and ‖∇J‖ at the start
    result: str | None = None  # why it ended

    def start(self, show: Any) -> None:
        """Set up, compile, and save t = 0 if that is asked for."""
        self.started = perf_counter()
        with compiling(self.label, show):
            self.first, self.result = self._set_up()
        self.compile_seconds = perf_counter() - self.started
        self.meter.start()

    def advance(self) -> Iterator[Report]:
        """Report where the run is, first at its start, until it ends or Ctrl-C ends it."""
        if self.result is None:
            self.result = yield from self._drive()

    def finish(self) -> Trajectory:
        """Save the end, and return the run, however it ended."""
        self.save_end()
        seconds = perf_counter() - self.started - self.compile_seconds
        if self.keeper is not None:
            seconds += self.keeper.seconds
        return self.trajectory(self.first, seconds, self.compile_seconds)


class Many:
    """An engine of many runs, the members, each with its rows, budgets and result."""

    label: str
    members: list[Any]
    started: float
    compile_seconds: float
    firsts: list[Any]  # J and ‖∇J‖ at the members' starts

    def start(self, show: Any) -> None:
        """Set up, compile, and save t = 0 if that is asked for."""
        self.started = perf_counter()
        with compiling(self.label, show):
            self.firsts = self._set_up()
        self.compile_seconds = perf_counter() - self.started
        for member in self.members:
            member.meter.start()

    def advance(self) -> Iterator[Report]:
        """Report where the slowest is, until all have ended or Ctrl-C ends them."""
        try:
            yield from self._drive()
        except KeyboardInterrupt as interrupt:
            for member in self._running():
                member.result = member.cut_short(interrupt)

    def finish(self) -> Trajectory:
        """Save the ends, and return the runs as one, however each member ended."""
        for member in self.members:
            member.save_end()
        seconds = perf_counter() - self.started - self.compile_seconds
        pairs = zip(self.members, self.firsts, strict=True)
        return stacked([m.trajectory(first, seconds, self.compile_seconds) for m, first in pairs])

    def _running(self) -> list[Any]:
        return [member for member in self.members if member.result is None]


@dataclass
class Prepared:
    """A run that has not begun: its engine, and the scopes in which it computes."""

    engine: Engine
    scopes: Callable[[], AbstractContextManager]


# In place of `progress`: to get the run `Prepared`, for `InTurn`.
LATER = object()


def run(engine: Engine, scopes: Callable[[], AbstractContextManager], show: Any) -> Any:
    """Run an engine to its end within the scopes; of progress=LATER return it prepared instead.

    Ctrl-C ends the run between two reports, wherever it is met.
    """
    if show is LATER:
        return Prepared(engine, scopes)
    with released(getattr(engine, "keeper", None)), scopes():
        engine.start(show)
        with progress_of(engine.end, engine.label, show) as progress:
            reports = engine.advance()
            report = next(reports, None)
            while report is not None:
                try:
                    progress.update(*report)
                except KeyboardInterrupt as interrupt:
                    report = _thrown(reports, interrupt)
                else:
                    report = next(reports, None)
        return engine.finish()


def _thrown(reports: Iterator[Report], interrupt: BaseException) -> Report | None:
    """Let Ctrl-C end an engine that stands at a report."""
    try:
        return reports.throw(interrupt)
    except StopIteration:
        return None


class InTurn:
    """Several runs that go on in turn, from save to save, always the one that is furthest behind.

    So an interrupt leaves all of them at about the same t, and one display tells of all.

    Parameters
    ----------
    runners
        Name ↦ function of `stop` and `progress` that prepares the run.
    end
        Where t ends.
    saw, left
        Called with a run's name and record at each save, and with its name when it has ended.
    """

    def __init__(
        self,
        runners: Mapping[str, Callable[..., Prepared]],
        end: float,
        saw: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
        left: Callable[[str], None] = lambda *_: None,
    ) -> None:
        self._runners, self._end, self._saw, self._left = runners, end, saw, left
        self._at = dict.fromkeys(runners, 0.0)
        self._records: dict[str, Mapping[str, Any]] = {}
        self._runs: dict[str, Prepared] = {}
        self._reports: dict[str, Iterator[Report]] = {}  # of those that have not ended
        self._interrupted = False

    def run(self, *, show: bool) -> dict[str, Trajectory]:
        """Return every run, however it ended; those that Ctrl-C met have what they had."""
        label, redraw = f"{len(self._runners)} runs", 0.0
        with bar_along(self._end, label, show=show) as bar:
            for name in self._runners:
                try:
                    with held_back(), compiling(label, show):
                        self._start(name)
                except KeyboardInterrupt:
                    self._interrupted = True
            while self._reports:
                try:
                    if self._interrupted:
                        self._end_all()
                        break
                    self._advance(min(self._reports, key=self._at.__getitem__))
                    if not bar.disable and perf_counter() > redraw:
                        redraw = perf_counter() + redraw_seconds()
                        self._tell(bar)
                except KeyboardInterrupt:
                    self._interrupted = True
        trajectories = {}
        for name, prepared in self._runs.items():
            with suppress(KeyboardInterrupt), held_back(), prepared.scopes():
                trajectories[name] = prepared.engine.finish()
        return trajectories

    def _start(self, name: str) -> None:
        save = partial(self._save, name)
        self._runs[name] = prepared = self._runners[name](stop=save, progress=LATER)
        with prepared.scopes():
            prepared.engine.start(show=False)
            self._reports[name] = prepared.engine.advance()
            self._next(name)

    def _save(self, name: str, record: Mapping[str, Any]) -> bool:
        self._records[name], self._at[name] = record, record["t"]
        self._saw(name, record)
        return False

    def _advance(self, name: str) -> None:
        """Go on with a run to its next save, or its end."""
        record = self._records.get(name)
        with self._runs[name].scopes():
            while name in self._reports and self._records.get(name) is record:
                self._next(name)

    def _next(self, name: str) -> None:
        if next(self._reports[name], None) is None:
            self._interrupted |= "interrupted" in self._runs[name].engine.result
            self._leave(name)

    def _leave(self, name: str) -> None:
        del self._reports[name]
        self._at[name] = np.inf
        self._left(name)

    def _end_all(self) -> None:
        """End every run where it is."""
        with held_back():
            for name in list(self._reports):
                with self._runs[name].scopes():
                    _thrown(self._reports[name], KeyboardInterrupt())
                self._leave(name)

    def _tell(self, bar: Any) -> None:
        """Show the slowest run's t; the first run's J, and its sharpness if it is observed."""
        tell_if_ignored()
        if (first := self._records.get(next(iter(self._at)))) is None:
            return
        spent = sum(int(record["gradients"]) for record in self._records.values())
        told = {"loss": f"{first['loss']:.3g}"}
        if np.ndim(sharpness := first.get("sharpness", np.zeros(1))) == 0:
            told["sharpness"] = f"{sharpness:.3g}"
        bar.set_postfix(told | {"gradients": f"{spent:,}"}, refresh=False)
        bar.update(max(0.0, min(*self._at.values(), bar.total) - bar.n))
