"""Distances of runs to a reference as they are met: of neither a trajectory is kept."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Arrays of `StreamingDistances.of`, each (times,).
DISTANCES = ("t", "distance", "relative_distance", "loss_gap")


@dataclass
class _Meeting:
    """One time: who is still to come, and the θ and J of those who wait there."""

    expected: set[str]
    waiting: dict[str, tuple[np.ndarray, float]] = field(default_factory=dict)


class StreamingDistances:
    """‖θ_run(t) − θ_ref(t)‖ and J_run(t) − J_ref(t), computed when the second of the two comes by.

    Who comes first leaves its θ until then, so that of runs in lockstep one or two vectors wait.

    Parameters
    ----------
    reference
        Its name; it comes by at all times.
    start
        θ₀ (n,), from which the distance that the reference has travelled is taken.
    end
        The last time; a run's own may differ from it by rounding.

    Examples
    --------
    >>> distances = StreamingDistances("flow", np.zeros(2), end=1.0)
    >>> distances.expect({"GD": [0.0, 1.0]})
    >>> for name, x, J in (("flow", 1.0, 0.5), ("GD", 1.5, 0.75)):
    ...     distances.meet(name, {"t": 1.0, "theta": np.array([x, 0.0]), "loss": J})
    >>> [float(distances.of("GD")[name][0]) for name in DISTANCES]
    [1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, reference: str, start: np.ndarray, end: float) -> None:
        self._reference, self._start, self._end = reference, start, end
        self._meetings: dict[float, _Meeting] = {}
        self._found: dict[str, list[tuple[float, ...]]] = {}

    def expect(self, times: Mapping[str, Iterable[float]]) -> None:
        """Say when each run will come by."""
        for name, its in times.items():
            self._found[name] = []
            for t in its:
                at = min(float(t), self._end)
                self._meetings.setdefault(at, _Meeting(set())).expected.add(name)

    def meet(self, name: str, record: Mapping[str, Any]) -> None:
        """Take θ and J of a run at one of its times."""
        t = min(float(record["t"]), self._end)
        if (meeting := self._meetings.get(t)) is None:
            return
        mine = (record["theta"], float(record["loss"]))
        if name == self._reference:
            for other in [n for n in meeting.waiting if n in meeting.expected]:
                self._compare(t, other, meeting.waiting.pop(other), mine)
                meeting.expected.discard(other)
            meeting.waiting[name] = mine
        elif name in meeting.expected:
            if self._reference in meeting.waiting:
                self._compare(t, name, mine, meeting.waiting[self._reference])
                meeting.expected.discard(name)
            else:
                meeting.waiting[name] = mine
        if not meeting.expected:
            del self._meetings[t]

    def leave(self, name: str) -> None:
        """Take leave of a run that has ended: nobody waits for it any more."""
        for t, meeting in list(self._meetings.items()):
            if name == self._reference:
                if name not in meeting.waiting:
                    del self._meetings[t]
            elif name not in meeting.waiting:
                meeting.expected.discard(name)
                if not meeting.expected:
                    del self._meetings[t]

    @property
    def open_times(self) -> list[float]:
        """Return times at which somebody is still to come."""
        return sorted(self._meetings)

    @property
    def waiting(self) -> int:
        """Return how many θ are held for a counterpart."""
        return sum(len(meeting.waiting) for meeting in self._meetings.values())

    def of(self, name: str) -> dict[str, np.ndarray]:
        """Return the gaps of a run, at the times at which both came by."""
        rows = np.array(sorted(self._found[name])).reshape(-1, len(DISTANCES))
        return dict(zip(DISTANCES, rows.T, strict=True))

    def _compare(self, t: float, name: str, run: tuple, reference: tuple) -> None:
        distance = np.linalg.norm(run[0] - reference[0])
        travelled = np.linalg.norm(reference[0] - self._start)
        relative = distance / travelled if travelled > 0 else np.nan
        self._found[name].append((t, distance, relative, run[1] - reference[1]))
