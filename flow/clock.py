"""The clock of a discrete run: t_k, in units of learning rate × steps."""

from dataclasses import dataclass
from math import isfinite

import numpy as np


@dataclass(frozen=True)
class Clock:
    """t_k = time_step × k, or the running sum of the learning rates of a schedule.

    At a learning rate of 0 t stands still.

    Parameters
    ----------
    steps
        How many steps the run has.
    time_step
        Units of t in a step.
    times
        t_0..t_steps of a schedule; None where every step is `time_step` long, so that a run of
        10⁸ steps needs no table.

    >>> Clock(3, 0.5).at(2), Clock(3, 0.5).nearest(np.array([0.6, 9.0])).tolist()
    (1.0, [1, 3])
    """

    steps: int
    time_step: float = 0.0
    times: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not isfinite(self.end):
            raise ValueError(
                f"learning_rate or time_step: {self.steps:,} steps of {self.time_step:g} end at no "
                "finite t; take smaller ones, or fewer"
            )

    @property
    def scheduled(self) -> bool:
        """Whether steps differ in length."""
        return self.times is not None

    def at(self, k: int) -> float:
        """t_k."""
        return float(self.time_step * k if self.times is None else self.times[k])

    @property
    def end(self) -> float:
        """The last time."""
        return self.at(self.steps)

    def nearest(self, t: np.ndarray) -> np.ndarray:
        """The steps whose times are nearest to the given ones: of t = 0 the start."""
        if self.times is None:
            return np.clip(np.rint(t / self.time_step), 0, self.steps).astype(int)
        found = nearest(self.times, t)
        return np.where(self.times[found] == 0.0, 0, found)


def nearest(times: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the places of the times, in order, that are nearest to t; of equal times the last.

    >>> nearest(np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.4, 0.9, 1.6])).tolist()
    [0, 2, 3]
    """
    after = np.clip(np.searchsorted(times, t), min(1, len(times) - 1), len(times) - 1)
    before = np.maximum(after - 1, 0)
    found = np.where(t - times[before] < times[after] - t, before, after)
    return np.searchsorted(times, times[found], side="right") - 1


def last_of_equal(times: np.ndarray) -> np.ndarray:
    """Return the places of the times, in order, that are followed by later ones, or by none.

    >>> last_of_equal(np.array([0.0, 0.0, 1.0])).tolist()
    [1, 2]
    """
    return np.flatnonzero(np.append(np.diff(times) > 0, True))
