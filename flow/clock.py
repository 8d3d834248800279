"""The clock of a discrete run: t_k, in units of learning rate × steps."""

from dataclasses import dataclass
from math import isfinite

import numpy as np


@dataclass(frozen=True)
class Clock:
    """t_k = time_step × k, or the running sum of the learning rates of a schedule.

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

    def at(self, k: int) -> float:
        """t_k."""
        return float(self.time_step * k if self.times is None else self.times[k])

    @property
    def end(self) -> float:
        """The last time."""
        return self.at(self.steps)

    def nearest(self, t: np.ndarray) -> np.ndarray:
        """The steps whose times are nearest to the given ones."""
        if self.times is None:
            return np.clip(np.rint(t / self.time_step), 0, self.steps).astype(int)
        after = np.clip(np.searchsorted(self.times, t), 1, self.steps)
        before_is_nearer = t - self.times[after - 1] < self.times[after] - t
        return np.where(before_is_nearer, after - 1, after)
