"""A flow as a curve in the space of parameters, for the nearest point on it."""

from functools import cache

import numpy as np

from flow.dynamics import GradientFlow
from flow.trajectory import Trajectory


class Curve:
    """The cubic Hermite curve through the rows of a flow, with its velocities ∓∇J.

    Where J is unknown, the slopes of a cubic spline stand for the velocities; a path of noise has
    none, and is its rows.
    """

    def __init__(self, source: Trajectory) -> None:
        self.t, self.theta = source.t, source.theta
        self.objective = None
        self.pieces = 0 if source.noisy else len(self.t) - 1
        if isinstance(source.dynamics, GradientFlow):
            self.objective = objective = source.dynamics.objective.counted()
            sign = 1.0 if source.dynamics.ascent else -1.0
            self.velocity = cache(
                lambda i: sign * objective.flat_value_and_gradient(self.theta[i])[1]
            )
        elif len(self.t) > 1:
            from scipy.interpolate import CubicSpline

            slopes = CubicSpline(self.t, self.theta)(self.t, 1)
            self.velocity = slopes.__getitem__

    @property
    def gradients(self) -> int:
        """What its velocities have cost."""
        return 0 if self.objective is None else self.objective.tally.gradients

    def distances(self, points: np.ndarray) -> np.ndarray:
        """Least distance of each point (points, n) from the rows and the pieces beside the nearest.

        ‖a − b‖² = ‖a‖² + ‖b‖² − 2ab is one matrix product; its rounding only chooses the row.
        """
        rows, centred = self.theta - self.theta[0], points - self.theta[0]
        squares = np.einsum("ij,ij->i", rows, rows) - 2 * centred @ rows.T
        return np.array(
            [
                self._distance(int(i), point)
                for i, point in zip(squares.argmin(1), points, strict=True)
            ]
        )

    def _distance(self, i: int, point: np.ndarray) -> float:
        best = float(np.sum((self.theta[i] - point) ** 2))
        for a in (i - 1, i):
            if 0 <= a < self.pieces:
                best = min(best, self._least_square(a, point))
        return best**0.5

    def _least_square(self, a: int, point: np.ndarray) -> float:
        """Min over s in [0, 1] of ‖c₀ + c₁s + c₂s² + c₃s³ − point‖², a sextic in s."""
        h = self.t[a + 1] - self.t[a]
        start = self.theta[a] - point
        rise = self.theta[a + 1] - self.theta[a]
        v, w = h * self.velocity(a), h * self.velocity(a + 1)
        c = np.array([start, v, 3 * rise - 2 * v - w, v + w - 2 * rise])
        gram = c @ c.T
        sextic = np.polynomial.Polynomial(
            [np.fliplr(gram).diagonal(3 - degree).sum() for degree in range(7)]
        )
        roots = sextic.deriv().trim().roots()
        inside = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0) & (roots.real < 1)]  # noqa: PLR2004
        return float(
            min((np.sum((c.T @ s ** np.arange(4.0)) ** 2) for s in inside), default=np.inf)
        )
