"""What a run with noise needs beside a method: a step, a seed, and times on its grid."""

from typing import Any

import numpy as np

from flow.checks import positive, random_seed
from flow.objective import Objective
from flow.progress import silent
from flow.spectrum import sharpness

# Of 1/λ_max: Euler–Maruyama's stationary variance on a quadratic is 1/(1 − hλ/2) too large,
# 1 % here.
SHARE = 0.02


def noise_settings(objective: Objective, step: Any, seed: Any, show: Any) -> dict[str, Any]:
    """The step, 0.02/λ_max(θ₀) unless given, and the seed; `show` what is compiled for it.

    Raises
    ------
    ValueError
        λ_max(θ₀) is not positive and no step is given, or the seed does not fit into 32 bits, the
        room that it travels in.
    """
    seed = random_seed(seed)
    if step is not None:
        return {"step": positive("step", step), "seed": seed}
    with silent(show):
        top = sharpness(objective, objective.params)
    if top <= 0:
        raise ValueError(
            f"the sharpness at the initial parameters is {top:.3g}, by which no step can be "
            "chosen; give step=, in units of t"
        )
    return {"step": SHARE / top, "seed": seed}


def at_steps(times: np.ndarray, step: float, t: float) -> np.ndarray:
    """The times of steps that are nearest to the asked ones; t, where the last one ends, is one.

    >>> at_steps(np.array([0.0, 0.1, 0.26, 1.0]), 0.3, 1.0)
    array([0. , 0.3, 1. ])
    """
    grid = np.rint(times / step) * step
    last = (grid > t - 1e-9 * step) | (t - times < np.abs(times - grid))
    return np.unique(np.where(last, t, grid))
