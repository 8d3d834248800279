"""The energy integral ∫‖∇J‖² dt over one step, at the order of the method."""

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev, legendre
from scipy.integrate import DOP853, OdeSolver

from flow.methods.between import side_solver

# Dense outputs of scipy's multistep methods are polynomials of degree ≤ 12 (LSODA's Adams).
_DEGREE = 12


def _derivative_at_gauss_nodes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Chebyshev points x, Gauss weights, and D: values at x ↦ slopes at Gauss nodes."""
    x = chebyshev.chebpts2(_DEGREE + 1)
    nodes, w = legendre.leggauss(_DEGREE)
    values = chebyshev.chebvander(x, _DEGREE)
    slopes = chebyshev.chebval(nodes, chebyshev.chebder(np.eye(_DEGREE + 1))).T
    return x, w, slopes @ np.linalg.inv(values)


_X, _W, _D = _derivative_at_gauss_nodes()


def dissipated(
    solver: OdeSolver, rate: Callable[[np.ndarray], np.ndarray | None], end: float | None = None
) -> float | None:
    """Return ∫ rate(ẏ) dt over the solver's last step, or from its start to `end` within it.

    For a Runge–Kutta method it is the quadrature h Σ b_i rate(K_i) of its own stages: exactly
    what one more component ė = rate(ẏ) of the state would have given, without a say in the error
    control. Otherwise the derivative of the dense output is integrated by Gauss's rule, exactly
    if `rate` is quadratic; for Radau, a collocation method, the two are the same. A trapezoid
    over saved times would be wrong by the curvature between them.

    Parameters
    ----------
    solver
        After a successful step.
    rate
        Derivatives (points, n) ↦ rates (points,), or None where the dynamics has none.
    end
        A time within the step; to it the dense output is integrated, of DOP853 a side step.
    """
    if end is not None and isinstance(solver, DOP853):
        side = side_solver(solver, end, end - solver.t_old)
        side.step()
        return dissipated(side, rate)
    h = (solver.t if end is None else end) - solver.t_old
    if end is None and hasattr(solver, "B") and hasattr(solver, "K"):
        rates = rate(solver.K[: len(solver.B)])
        return None if rates is None else float(h * (solver.B @ rates))
    times = solver.t_old + h * (_X + 1.0) / 2.0
    # Differences from the first point lose no digits to the size of y.
    y = solver.dense_output()(times).T
    rates = rate(_D @ (y - y[0]) * (2.0 / h))
    return None if rates is None else float(h / 2.0 * (_W @ rates))
