"""TSRKC3: order 3 in two steps, stable along the negative real axis."""

from typing import Any

import numpy as np

from flow.methods import rkc2
from flow.methods.chebyshev import Plan, derivatives
from flow.methods.ode_solver import StabilisedSolver

DAMPING = np.arccosh(1.25)
# Below this ratio of the step before to this one the method is not stable; RKC2 takes the step.
SMALLEST_RATIO = 0.49
CALIBRATION = 0.4


def plan(xp: Any, z: Any, q: Any, s: Any = None) -> Plan:
    """Plan the step that is stable to z = hρ after one of qh (Moisa 2025, JCAM 457:116291).

    α = arccosh(1.25)/s, w₀ = cosh α; w₁ is the positive root of T‴w² − (1−q)T″w − qT′ = 0;
    b₀ = b₁ = sinh((s−2)α)/(4 sinh((s−1)α)), b₂ = 15/(64w₀²). With a = (1+q)/(qT′ + w₁T″):
    γ = (aT′−1)/q, β = a/(b_s w₁). Error estimate
    0.6(y/q − y₋₁/(q(1+q)²) − y₁(2+q)/(1+q)² + hf₁/(1+q)).
    Below q = 0.49, and at the first step, where q is 0, it is RKC2's step. `s` forces the number
    of stages.
    """
    single = rkc2.plan(xp, z, s=s)
    two_step = q >= SMALLEST_RATIO
    q = xp.where(two_step, q, 1.0)
    if s is None:
        s = 1.0 + xp.floor(xp.sqrt(4.0 + 1.267 * z * (1.0 - q + xp.sqrt(1.0 + q * (0.4426 + q)))))
    alpha = DAMPING / s
    w0 = xp.cosh(alpha)
    first, second, third = derivatives(xp, s, w0)
    half = (1.0 - q) * second
    # Free of cancellation where the step before was far longer: the last step is what is left.
    w1 = 2.0 * q * first / (xp.sqrt(half**2 + 4.0 * third * q * first) - half)
    b1 = xp.sinh((s - 2.0) * alpha) / (4.0 * xp.sinh((s - 1.0) * alpha))
    b_s = second / first**2
    a = (1.0 + q) / (q * first + w1 * second)
    gamma = (a * first - 1.0) / q
    error = (
        0.6 / q,
        -0.6 / (q * (1.0 + q) ** 2),
        -0.6 * (2.0 + q) / (1.0 + q) ** 2,
        0.0 * q,
        0.6 / (1.0 + q),
    )
    b2 = 15.0 / (64.0 * w0**2)
    none = 0.0 * q
    double = Plan(s, w0, w1, b1, b2, gamma, a / (b_s * w1), error, none + 3.0, none + CALIBRATION)
    pick = lambda a, b: xp.where(two_step, a, b)  # noqa: E731
    return Plan(
        *(
            tuple(map(pick, x, y)) if isinstance(x, tuple) else pick(x, y)
            for x, y in zip(double, single, strict=True)
        )
    )


class TSRKC3(StabilisedSolver):
    """Two-step Runge–Kutta–Chebyshev, order 3.

    Moisa 2025, J. Comput. Appl. Math. 457:116291. The better of the two at relative errors below
    1e-3.

    >>> import numpy as np, scipy.integrate
    >>> solution = scipy.integrate.solve_ivp(
    ...     lambda t, y: -np.array([1.0, 1000.0]) * y, (0, 1), [1.0, 1.0], method=TSRKC3, rtol=1e-4
    ... )
    >>> bool(abs(solution.y[0, -1] - np.exp(-1)) < 3e-4), solution.nfev < 1000  # RK45: 2,000
    (True, True)
    """

    plan = staticmethod(plan)
