"""The stages that RKC2 and TSRKC3 share: a Chebyshev recursion along the negative real axis."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flow.methods.backend import Backend

# Room for the coefficients of so many stages, and an hρ that they reach.
MAX_STAGES, LONGEST_REACH = 511, 1e5


class Plan(NamedTuple):
    """One step of a stabilised method, as scalars.

    Parameters
    ----------
    s
        Number of stages, at least 2.
    w0, w1
        Damping and scaling of the Chebyshev argument w₀ + w₁z.
    b1, b2
        b₀ = b₁ and b₂; the others are T″ⱼ(w₀)/T′ⱼ(w₀)².
    gamma, beta
        y₁ = (1 − γ − β)y + γy₋₁ + βu_s; a one-step method has γ = 0, β = 1.
    error
        Coefficients of y, y₋₁, y₁, hf, hf₁ in the estimate of the local error.
    order
        Of the step; the estimate is of order h^(order + 1).
    calibration
        Of the tolerance, such that a run's error comes out near rtol (and not far below it).
    """

    s: Any
    w0: Any
    w1: Any
    b1: Any
    b2: Any
    gamma: Any
    beta: Any
    error: tuple[Any, ...]
    order: Any
    calibration: Any


def derivatives(xp: Any, s: Any, w0: Any) -> tuple[Any, Any, Any]:
    """T′_s, T″_s, T‴_s at w₀ > 1, by Chebyshev's differential equation.

    (1 − x²)T″ − xT′ + s²T = 0, and its derivative.

    >>> import numpy as np
    >>> [round(float(d), 12) + 0.0 for d in derivatives(np, 2, 1.5)]  # T₂ = 2x² − 1
    [6.0, 4.0, 0.0]
    """
    alpha = xp.arccosh(w0)
    square = w0**2 - 1.0
    first = s * xp.sinh(s * alpha) / xp.sqrt(square)
    second = (s**2 * xp.cosh(s * alpha) - w0 * first) / square
    third = ((s**2 - 1.0) * first - 3.0 * w0 * second) / square
    return first, second, third


def last_stage(backend: Backend, rhs: Callable, plan: Plan, t: Any, y: Any, f: Any, h: Any) -> Any:
    """The last stage of a step (Sommeijer, Shampine, Verwer 1998).

    u₁ = y + μ̃₁hf, u_j = (1−μ_j−ν_j)y + μ_j u_{j−1} + ν_j u_{j−2} + μ̃_j hf(u_{j−1}) + γ̃_j hf,
    μ_j = 2b_j w₀/b_{j−1}, ν_j = −b_j/b_{j−2}, μ̃_j = 2b_j w₁/b_{j−1},
    γ̃_j = −(1 − b_{j−1}T_{j−1}(w₀))μ̃_j; returned is u_s.

    The same recursion of times, ṫ = 1, places stage j at t + c_j h. Costs s − 1 evaluations of
    `rhs`, and two vectors beside y and f.
    """
    xp, w0, w1 = backend.xp, plan.w0, plan.w1
    c1 = plan.b1 * w1

    def coefficients(j: Any, carry: tuple) -> tuple:
        (c1, c2, b1, b2, T1, T2, D1, D2, S1, S2), table = carry
        T, D, S = 2 * w0 * T1 - T2, 2 * w0 * D1 - D2 + 2 * T1, 2 * w0 * S1 - S2 + 4 * D1
        b = xp.where(j == 2, plan.b2, S / D**2)  # noqa: PLR2004
        mu, nu, mu_t = 2 * b * w0 / b1, -b / b2, 2 * b * w1 / b1
        gamma_t = -(1 - b1 * T1) * mu_t
        c = mu * c1 + nu * c2 + mu_t + gamma_t
        row = xp.stack([1 - mu - nu, mu, nu, mu_t * h, gamma_t * h, c1])
        return xp.stack([c, c1, b, b1, T, T1, D, D1, S, S1]), backend.put(table, j, row)

    def stage(j: Any, carry: tuple) -> tuple:
        u1, u2 = carry
        of_y, of_u1, of_u2, of_k, of_f, c = table[j]
        k = rhs(t + c * h, u1)
        return of_y * y + of_u1 * u1 + of_u2 * u2 + of_k * k + of_f * f, u1

    # Coefficients first: beside the vectors XLA would compute them anew for every entry, which at
    # n = 2,410 took a fifth as long as the gradient.
    one = w0 / w0
    scalars = xp.stack([c1, 0 * one, plan.b1, plan.b1, w0, one, one, 0 * one, 0 * one, 0 * one])
    end = xp.asarray(plan.s).astype(int) + 1
    table = backend.fori_loop(2, end, coefficients, (scalars, xp.zeros((MAX_STAGES + 1, 6))))[1]
    return backend.fori_loop(2, end, stage, (y + (c1 * h) * f, y))[0]
