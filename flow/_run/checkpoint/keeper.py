"""When a run's checkpoints are due, and the folder that they lie in."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import jax
import numpy as np

from flow._core.checks import file_path, positive, positive_integer
from flow._core.keywords import own_keywords
from flow._core.user_warnings import warn
from flow._run.checkpoint.file import write
from flow._run.checkpoint.folder import (
    HEADER,
    CheckpointWarning,
    columns,
    discard_unfinished,
    refuse_used,
    rows_file,
    state_file,
    states,
)
from flow._run.checkpoint.lock import take
from flow._run.checkpoint.start import check_start

SECONDS = 60.0
KEPT = 2


@own_keywords
@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is kept, ``checkpoint=flow.Checkpoint("folder", seconds=600)``.

    ``checkpoint="folder"`` is short for one every 60 seconds.

    Parameters
    ----------
    folder
        Of this run alone; it is made if it is not there.
    seconds
        Between two checkpoints; 60 unless anything is given.
    gradients
        Gradient units between two, beside or instead of seconds.

    Raises
    ------
    ValueError, TypeError
        An argument is off.

    Examples
    --------
    >>> import flow, numpy as np, tempfile
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     often = flow.Checkpoint(folder, gradients=20)
    ...     path = flow.integrate(objective, t=5.0, checkpoint=often)
    ...     again = flow.resume(folder, objective)  # after a power cut, say
    >>> np.array_equal(again.theta, path.theta)
    True
    """

    folder: str | os.PathLike
    seconds: float | None = None
    gradients: int | None = None

    def __post_init__(self) -> None:
        if not file_path("checkpoint, a folder,", self.folder).name:
            raise ValueError(f"checkpoint must name a folder, got {self.folder!r}")
        if self.seconds is not None:
            positive("seconds", self.seconds)
        if self.gradients is not None:
            positive_integer("gradients", self.gradients)

    @property
    def interval(self) -> tuple[float, float]:
        """Return seconds and gradient units between two checkpoints."""
        neither = self.seconds is None and self.gradients is None
        seconds = SECONDS if neither else self.seconds
        return seconds or np.inf, self.gradients or np.inf


def keeper(
    checkpoint: Any,
    kind: str,
    mesh: jax.sharding.Mesh | None,
    asked: dict[str, Any],
    again: dict[str, Any],
    observe: Any,
    stops: Any,
) -> "Keeper | None":
    """Return what keeps a run by a user's `checkpoint`, a folder or how often; None if it is None.

    Parameters
    ----------
    kind
        "flow" or "descent".
    mesh
        That of the objective. Of the processes that it spans, which all drive the same run, the
        first writes; without one the run is this process's own.
    asked
        Arguments of the run, which a file can hold.
    again
        What names those that it can't, and that are to be given again.
    observe, stops
        The run's.

    Raises
    ------
    TypeError, FileExistsError, FileNotFoundError
        It is no folder, or holds a run already, or lies in none.
    ValueError
        It is a keeper, of a resumed run, and something is not given again as it was.
    """
    if checkpoint is None:
        return None
    again = again | {
        "observe": list(observe) if isinstance(observe, Mapping) else [],
        "stop": [_name(condition) for condition in (*stops.each_step, *stops.each_save)],
    }
    writes = is_first(mesh)
    if isinstance(checkpoint, Keeper):
        checkpoint.check_given(again)
        checkpoint.writes = writes
        return checkpoint
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    if writes:
        refuse_used(file_path("checkpoint", checkpoint.folder))
    asked = {k: plain(v) for k, v in asked.items()}
    kept = Keeper(checkpoint, {"kind": kind, "asked": asked, "again": again})
    kept.writes = writes
    return kept


@contextmanager
def released(kept: "Keeper | None") -> Iterator[None]:
    """Let the folder go when the run has ended."""
    try:
        yield
    finally:
        if kept is not None:
            kept.release()


def is_first(mesh: jax.sharding.Mesh | None) -> bool:
    """Return whether this process is the first of those that a mesh spans, or a run is its own."""
    here = jax.process_index()
    return here == min([here] if mesh is None else [d.process_index for d in mesh.devices.flat])


def plain(value: Any) -> Any:
    """Return a number as Python's own, numbers as an array."""
    if np.ndim(value):
        return np.asarray(value, np.float64)
    return np.asarray(value).item() if hasattr(value, "dtype") else value


def _name(condition: Any) -> str:
    """Return a stop condition in words, the same in every process, with its numbers."""
    if is_dataclass(condition):
        return repr(condition)
    if isinstance(condition, partial):
        return _name(condition.func)
    return getattr(condition, "__name__", type(condition).__qualname__)


class Keeper:
    """Keeps one run: a header once, new rows and the state whenever they are due.

    A row of θ is written once, however many checkpoints there are; of the states the last two are
    kept, so that there is one whatever happens while the next is written.

    Parameters
    ----------
    checkpoint
        Where and how often.
    facts
        What the run was asked for, plain data: "kind", "asked" and "again" of `keeper`.
    resumed, rows
        A state to go on from, None for a new run; and the rows that were saved by then.

    Attributes
    ----------
    writes
        Whether this process does, of those that drive the run.
    """

    writes = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        facts: dict[str, Any],
        resumed: dict[str, Any] | None = None,
        rows: list[dict[str, Any]] | None = None,
    ) -> None:
        self._lock = None  # where a run goes on, `resume` holds the folder
        self.folder = file_path("checkpoint", checkpoint.folder)
        self.facts, self.resumed, self.rows = facts, resumed, rows or []
        self._run = facts.get("run", uuid4().hex)  # what tells its files from another's
        self._every = checkpoint
        self._seconds, self._gradients = checkpoint.interval
        self._written = 0 if resumed is None else resumed["written"]
        self._segments = [] if resumed is None else list(resumed["segments"])
        self._next_time = self._next_gradients = -np.inf
        self._before = 0.0 if resumed is None else resumed["seconds"]
        self._began = time.perf_counter()

    @property
    def _exists(self) -> bool:
        """Return whether the folder holds the run already."""
        return "start" in self.facts

    def check_given(self, again: dict[str, Any]) -> None:
        """Refuse to go on with other things than the run began with.

        Raises
        ------
        ValueError
            Something is not what it was.
        """
        for name, mine in again.items():
            if mine != (kept := self.facts["again"].get(name)):
                raise ValueError(
                    f"{self.folder} holds a run with {name} {kept!r}, and here it is {mine!r}; "
                    "give flow.resume what the run began with"
                )

    def begin(self, start: dict[str, Any], resolution: float) -> None:
        """Note where the run starts, or that it starts where the one of the folder did.

        Parameters
        ----------
        start
            "initial", the flat state at t = 0, "slope" there, "loss" and "gradient_norm".
        resolution
            Unit roundoff of what is computed.

        Raises
        ------
        ValueError
            It does not start there, or another run holds the folder.
        OSError
            The folder can't be made or written to.
        """
        if self._exists:
            check_start(self.folder, self.facts, start, resolution)
            if self.writes:
                discard_unfinished(self.folder, self._segments, self._written)
        elif self.writes:
            self.folder.mkdir(exist_ok=True)
            self._lock = take(self.folder)
            every = {"seconds": self._every.seconds, "gradients": self._every.gradients}
            known = {"run": self._run, "start": start, "every": every, "resolution": resolution}
            write(self.folder / HEADER, self.facts | known)

    def release(self) -> None:
        """Let another run go on in the folder."""
        if self._lock is not None:
            self._lock.release()

    def due(self, gradients: float) -> bool:
        """Return whether to write, now that so many gradient units are spent."""
        return gradients >= self._next_gradients or time.perf_counter() >= self._next_time

    def taken_up(self, gradients: float) -> None:
        """Note that the run goes on from what was kept; the next is due an interval from there."""
        self.resumed, self.rows = None, []
        self._schedule(gradients)

    @property
    def seconds(self) -> float:
        """Return seconds that the run took before it was resumed."""
        return self._before

    def keep(self, state: dict[str, Any], rows: list[dict[str, Any]], gradients: float) -> None:
        """Write the rows that are new, and the state.

        Raises
        ------
        OSError
            The first could not be written; any later failure is a `CheckpointWarning`, as the run
            itself can go on, and as the earlier files are intact.
        """
        first = self._next_time == -np.inf
        self._schedule(gradients)
        if not self.writes:
            return
        try:
            self._write(state, rows)
        except (OSError, TypeError) as error:  # TypeError: an observer's state is no number now
            if first:
                raise
            warn(
                f"the checkpoint after {gradients:,.0f} gradients could not be written ({error}); "
                f"the run goes on, and the last one in {self.folder} is intact",
                CheckpointWarning,
            )

    def _schedule(self, gradients: float) -> None:
        self._next_time = time.perf_counter() + self._seconds
        self._next_gradients = gradients + self._gradients

    def _write(self, state: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        known = self._segments[-1][1] if self._segments else 0
        new = [row for row in rows if row["serial"] >= known]
        if new:
            segment = [known, new[-1]["serial"] + 1]
            write(rows_file(self.folder, *segment), {"run": self._run} | columns(new))
            self._segments.append(segment)
        seconds = self._before + time.perf_counter() - self._began
        serials = [row["serial"] for row in rows]
        kept = {"run": self._run, "rows": serials, "segments": self._segments}
        number = self._written + 1
        file = state_file(self.folder, number)
        write(file, state | kept | {"written": number, "seconds": seconds})
        self._written = number
        for old in states(self.folder)[KEPT:]:
            old.unlink(missing_ok=True)
