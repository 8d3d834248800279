"""States within a step of scipy's solvers, as accurate as the step's end."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from scipy.integrate import DOP853, DenseOutput, OdeSolver

from flow.methods.loop_state import rms

# Where in the step DOP853's interpolant u is watched by its defect h(u̇ − F(u)), and by how much
# the defect is at least larger there than the interpolant's largest error in the step: on ẏ = λy
# 8.5 to 10.3 times for all real hλ from −6.4 to −0.9, and from 8 times for complex ones.
WATCHED, AS_LARGE = 0.71, 8.0
_DEGREE = 7


def _derivative() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes x in [−1, 1], and weights: values of the interpolant there ↦ its slope."""
    x = chebyshev.chebpts2(_DEGREE + 1)
    slopes = chebyshev.chebval(2.0 * WATCHED - 1.0, chebyshev.chebder(np.eye(_DEGREE + 1)))
    return x, slopes @ np.linalg.inv(chebyshev.chebvander(x, _DEGREE))


_X, _D = _derivative()


def between(solver: OdeSolver) -> Callable[[float], np.ndarray]:
    """Return t ↦ y(t) within the last step, for times that rise, as accurate as the step's end.

    It is the dense output, but for DOP853's where stability limits the step: that multiplies what
    is stiff by up to 20, and is 20 to 100 times as far off as the steps are. So it is watched, at
    one evaluation, and where its error exceeds the tolerance the states are reached by side steps
    of half the length, from where the step began. Dense outputs of the other methods are as
    accurate as their steps, or within the tolerance.

    Parameters
    ----------
    solver
        After a successful step; of what it goes on with nothing is changed.
    """
    dense = solver.dense_output()
    if not isinstance(solver, DOP853) or not _error(solver, dense) > 1.0:
        return dense
    side = side_solver(solver, solver.t, (solver.t - solver.t_old) / 2.0)

    def by_side_steps(t: float) -> np.ndarray:
        nonlocal dense
        while side.t < t and side.status == "running":
            side.step()
            dense = side.dense_output() if side.status != "failed" else dense
        return dense(t)

    return by_side_steps


def side_solver(solver: DOP853, end: float, step: float) -> DOP853:
    """Return another solver from where the last step began, with steps of that length.

    Steps within one whose error was accepted need no control of their own.
    """
    return DOP853(
        solver.fun, solver.t_old, solver.y_old, end,
        first_step=step, max_step=step, rtol=np.inf, atol=solver.atol,
    )  # fmt: skip


def _error(solver: DOP853, dense: DenseOutput) -> Any:
    """Return the interpolant's largest error in the step, in units of the tolerance."""
    h, t_old = solver.t - solver.t_old, solver.t_old
    y = dense(t_old + h * (_X + 1.0) / 2.0).T
    t = t_old + h * WATCHED
    # Differences from the first point lose no digits to the size of y.
    defect = 2.0 * (_D @ (y - y[0])) - h * solver.fun(t, dense(t))
    scale = solver.atol + solver.rtol * np.maximum(np.abs(solver.y_old), np.abs(solver.y))
    return rms(np, defect / scale) / AS_LARGE
