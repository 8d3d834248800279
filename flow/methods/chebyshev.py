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
    """Return T′_s, T″_s, T‴_s at w₀ > 1, by Chebyshev's differential equation.

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


def coefficients(xp: Any, plan: Plan, h: Any) -> Any:
    """Return row j: what stage j takes of y, u_{j−1}, u_{j−2}, f(u_{j−1}) and f, and c_{j−1}.

    All in closed form, T_j(w₀) = cosh jα and T′_j = j sinh jα/sinh α with α = arccosh w₀, and as
    vectors: by recursion they took a third as long as the gradients of a network of 17 parameters
    (`experiments/compiled_overhead.py`). Stage j is the polynomial a_j + b_jT_j(w₀ + w₁z), so that
    c_j = b_jw₁T′_j(w₀). Rounding in b_j does no harm, since any b_j make consistent stages.
    """
    j, alpha = xp.arange(MAX_STAGES + 1.0), xp.arccosh(plan.w0)
    T, D = xp.cosh(j * alpha), j * xp.sinh(j * alpha) / xp.sinh(alpha)
    second = (j**2 * T - plan.w0 * D) / (plan.w0**2 - 1.0)
    b = xp.where(j > 2.0, second / xp.maximum(D, 1.0) ** 2, xp.where(j == 2.0, plan.b2, plan.b1))  # noqa: PLR2004
    c = b * plan.w1 * D
    before = lambda x, by: xp.concatenate([x[:by], x[:-by]])  # noqa: E731
    b1, b2 = before(b, 1), before(b, 2)
    mu, nu, mu_t = 2.0 * b * plan.w0 / b1, -b / b2, 2.0 * b * plan.w1 / b1
    gamma_t = -(1.0 - b1 * before(T, 1)) * mu_t
    return xp.stack([1.0 - mu - nu, mu, nu, h * mu_t, h * gamma_t, before(c, 1)], axis=1)


def last_stage(backend: Backend, rhs: Callable, plan: Plan, t: Any, y: Any, f: Any, h: Any) -> Any:
    """Return the last stage of a step (Sommeijer, Shampine, Verwer 1998).

    u₁ = y + μ̃₁hf, u_j = (1−μ_j−ν_j)y + μ_j u_{j−1} + ν_j u_{j−2} + μ̃_j hf(u_{j−1}) + γ̃_j hf,
    μ_j = 2b_j w₀/b_{j−1}, ν_j = −b_j/b_{j−2}, μ̃_j = 2b_j w₁/b_{j−1},
    γ̃_j = −(1 − b_{j−1}T_{j−1}(w₀))μ̃_j; returned is u_s.

    The same recursion of times, ṫ = 1, places stage j at t + c_j h. Costs s − 1 evaluations of
    `rhs`, and two vectors beside y and f.
    """
    xp = backend.xp
    table = coefficients(xp, plan, h)

    def stage(j: Any, carry: tuple) -> tuple:
        u1, u2 = carry
        of_y, of_u1, of_u2, of_k, of_f, c = table[j]
        k = rhs(t + c * h, u1)
        return of_y * y + of_u1 * u1 + of_u2 * u2 + of_k * k + of_f * f, u1

    end = xp.asarray(plan.s).astype(int) + 1
    return backend.fori_loop(2, end, stage, (y + (plan.b1 * plan.w1 * h) * f, y))[0]
