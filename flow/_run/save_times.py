"""When a run saves: times from a number or a vector, and the clock of a discrete run."""

from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from flow._core.checks import choice, numbers, positive_integer


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
        """Return whether steps differ in length."""
        return self.times is not None

    def at(self, k: int) -> float:
        """Return t_k."""
        return float(self.time_step * k if self.times is None else self.times[k])

    @property
    def end(self) -> float:
        """Return the last time."""
        return self.at(self.steps)

    def nearest(self, t: np.ndarray) -> np.ndarray:
        """Return the steps whose times are nearest to the given ones: of t = 0 the start."""
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


SPACINGS = ["linear", "log"]
# Log-spaced saves span so many decades below the run's end, after t = 0.
LOG_DECADES = 5

Save: TypeAlias = Any  # an int, or anything numpy makes a vector of times of


def save_times(save: Save, spacing: str, t: float) -> np.ndarray:
    """Return times (times,) in [0, t] at which to save.

    A number n gives n times from 0 to t, both included: evenly spaced ("linear"), or 0 and then
    evenly spaced in log t over five decades ("log"). Of equal times, as of a descent whose learning
    rate was 0, there is one.

    >>> save_times(3, "linear", 1.0)
    array([0. , 0.5, 1. ])
    >>> save_times([0.25, 0.75], "linear", 1.0)
    array([0.25, 0.75])
    """
    choice("spacing", spacing, SPACINGS)
    if is_number(save):
        n = number_of_times(save)
        if spacing == "linear":
            return np.linspace(0.0, t, n)
        first = max(t * 10.0**-LOG_DECADES, np.nextafter(0.0, 1.0))
        log = np.geomspace(first, t, n - 1) if n > 2 else np.array([t])  # noqa: PLR2004
        log[-1] = t
        return np.unique(np.concatenate([[0.0], log]))
    times, own = numbers("save", save), getattr(save, "dtype", None)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"save must be a number or a vector of times, got shape {times.shape}")
    if not np.all(np.isfinite(times)) or np.any(np.diff(times) < 0):
        raise ValueError("save times must be finite and in order; np.unique(times) sorts them")
    # In single precision t is another number.
    if own is not None and own != np.float64 and jnp.issubdtype(own, jnp.floating):
        off = 2.0 * float(jnp.finfo(own).eps)
        times[-1] = t if np.isclose(times[-1], t, rtol=off, atol=0.0) else times[-1]
    # t itself may be written as steps × learning rate and end a rounding error beyond.
    if times[0] < 0 or times[-1] > t * (1 + 1e-12):
        raise ValueError(
            f"save times must lie in [0, {t:g}], got {times[0]:g} to {times[-1]:g}; "
            "integrate for longer, or leave the others out"
        )
    return np.unique(np.minimum(times, t))


def save_steps(save: Save, spacing: str, clock: Clock) -> np.ndarray:
    """Return steps of a discrete run at which to save.

    Times that fall between two steps are saved at the nearer one; a number that is no less than
    that of the steps saves them all.
    """
    if is_number(save) and number_of_times(save) > clock.steps:
        return np.arange(clock.steps + 1)
    return np.unique(clock.nearest(save_times(save, spacing, clock.end)))


def is_number(save: Save) -> bool:
    """Return whether it is one thing, a number of times; vectors and ragged lists are none."""
    try:
        return np.ndim(save) == 0
    except ValueError:
        return False


def number_of_times(save: Any) -> int:
    """Return `save` as a number of times, at least 2."""
    save = save.item() if isinstance(save, np.ndarray) and save.ndim == 0 else save
    n = positive_integer("save", save, "a number of times (at least 2) or the times themselves")
    if n < 2:  # noqa: PLR2004
        raise ValueError(f"save must be at least 2 times, the first and the last, got {save}")
    return n
