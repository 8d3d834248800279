"""The cubic that meets a step's states and slopes at both ends, and the energy it dissipates."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from scipy.integrate import DenseOutput

# ẏ is quadratic in time and a quadratic rate of it quartic: three nodes are exact.
_NODES, _WEIGHTS = legendre.leggauss(3)
_NODES, _WEIGHTS = (_NODES + 1.0) / 2.0, _WEIGHTS / 2.0


def hermite(x: Any, h: Any, y0: Any, y1: Any, f0: Any, f1: Any) -> Any:
    """Return state at the share x of a step of length h.

    >>> hermite(0.5, 2.0, 0.0, 8.0, 0.0, 12.0)  # t³ at t = 1
    1.0
    """
    a, b = h * f0 - (y1 - y0), h * f1 - (y1 - y0)
    return y0 + x * ((y1 - y0) + (1.0 - x) * ((1.0 - x) * a - x * b))


def slopes(xp: Any, x: Any, h: Any, y0: Any, y1: Any, f0: Any, f1: Any) -> Any:
    """Return ẏ at shares x (points,) of the step: (points, n)."""
    mean = (y1 - y0) / h
    x = xp.asarray(x)[:, None]
    return mean + (1.0 + x * (3.0 * x - 4.0)) * (f0 - mean) + x * (3.0 * x - 2.0) * (f1 - mean)


def dissipated(xp: Any, rate: Callable, h: Any, y0: Any, y1: Any, f0: Any, f1: Any) -> Any:
    """Return ∫ rate(ẏ) dt over the step, exactly for a quadratic rate."""
    return h * (_WEIGHTS @ rate(slopes(xp, _NODES, h, y0, y1, f0, f1)))


class HermiteOutput(DenseOutput):
    """The cubic as scipy's dense output: of order 3."""

    def __init__(self, t_old: float, t: float, *ends: Any) -> None:
        super().__init__(t_old, t)
        self.ends = [np.asarray(end) for end in ends]

    def _call_impl(self, t: Any) -> np.ndarray:
        h = self.t - self.t_old
        ends = self.ends if t.ndim == 0 else [end[:, None] for end in self.ends]
        return hermite((t - self.t_old) / h, h, *ends)
