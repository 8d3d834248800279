"""RKC2: order 2, stable along the negative real axis to 0.653(s² − 1)."""

from typing import Any

from flow.methods.chebyshev import Plan, derivatives
from flow.methods.ode_solver import StabilisedSolver

DAMPING = 2.0 / 13.0
REACH = 0.653
CALIBRATION = 0.1


def plan(xp: Any, z: Any, _q: Any = 0.0, s: Any = None) -> Plan:
    """Return the step that is stable to z = hρ (Sommeijer, Shampine, Verwer 1998).

    w₀ = 1 + ε/s², ε = 2/13, w₁ = T′_s/T″_s; with it b₀ = b₁ = b₂. Error estimate
    0.8(y − y₁) + 0.4h(f + f₁). A one-step method: the ratio of the step before to
    this one has no say. `s` forces the number of stages.
    """
    s = xp.maximum(2.0, xp.ceil(xp.sqrt(1.0 + z / REACH))) if s is None else s
    w0 = 1.0 + DAMPING / s**2
    first, second, _ = derivatives(xp, s, w0)
    b = 0.25 / w0**2  # T″₂/T′₂²
    none = 0.0 * s
    error = (0.8 + none, none, none - 0.8, 0.4 + none, 0.4 + none)
    return Plan(
        s, w0, first / second, b, b, none, none + 1.0, error, none + 2.0, none + CALIBRATION
    )


class RKC2(StabilisedSolver):
    """Runge–Kutta–Chebyshev, order 2: s stages reach hρ = 0.653(s² − 1).

    Sommeijer, Shampine, Verwer 1998, J. Comput. Appl. Math. 88:315. The better of the two at
    relative errors of 1e-3 and above.

    >>> import numpy as np, scipy.integrate
    >>> solution = scipy.integrate.solve_ivp(
    ...     lambda t, y: -np.array([1.0, 1000.0]) * y, (0, 1), [1.0, 1.0], method=RKC2, rtol=1e-4
    ... )
    >>> bool(abs(solution.y[0, -1] - np.exp(-1)) < 3e-4), solution.nfev < 1000  # RK45: 2,000
    (True, True)
    """

    plan = staticmethod(plan)
