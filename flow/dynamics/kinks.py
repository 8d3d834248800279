"""Kinks, where the gradient of a loss jumps: which losses have some, and what is said of them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from flow._core.user_warnings import warn
from flow._problem.objective import Objective

# From so loose a relative tolerance on, error-controlled methods hardly stop at kinks; see
# tests/test_ends.py.
LOOSE = 1e-3
# Points of a line through θ₀, and halvings of what is between two of them; of the last so many, in
# which the bend of what is continuous falls by half in each.
_POINTS, _HALVINGS, _LAST = 9, 18, 5
_LINES = 2


class KinkWarning(UserWarning):
    """A loss with kinks is followed by what stalls at them, or is blind to them."""


def warn_of_kinks(objective: Objective, what: str) -> None:
    """Warn if the objective is known to have kinks; `what` says who takes which derivatives."""
    if not objective.smooth:
        warn(
            f"{what}, which are those between the kinks of this one (ReLU, max pooling): curvature "
            "that comes of crossing them is not seen. Take a smooth activation, "
            "activation=flow.backprop.softplus(beta=200) for ReLU, 'gelu' or 'tanh'.",
            KinkWarning,
        )


def warn_of_stalling(objective: Objective, method: str, rtol: float) -> None:
    """Warn, once of an objective, if an error-controlled method will stall at its kinks."""
    if rtol >= LOOSE or "told" in objective.kinks or not may_have_kinks(objective):
        return
    objective.kinks["told"] = True
    compared = "; ".join(objective.jumping[:3]) if objective.backprop is None else ""
    where = f"; what is compared in it: {compared}" if compared else ""
    warn(
        f"the gradient of this loss jumps (ReLU, abs, max, clipping{where}), and {method!r} takes "
        f"many tiny steps at every kink that it meets at rtol={rtol:g}: minutes, or it does not "
        "arrive. Use method='RK4' or 'Euler' with step= below 2/λ_max, or method='RK45', "
        "rtol=1e-3, or a smooth loss, activation=flow.backprop.softplus(beta=200) for ReLU. This "
        "is said once of an objective; warnings.simplefilter('ignore', flow.KinkWarning) silences "
        "it",
        KinkWarning,
    )


def may_have_kinks(objective: Objective) -> bool:
    """Tell whether the gradient of a loss jumps: flow's networks know, others are looked at.

    Of a gradient in which nothing that depends on θ is compared, counted or rounded, it does not.
    Of another it is tried, on two lines through θ₀: what is continuous, as of ELU, a squared hinge
    or Huber's loss, bends less and less as the line is halved. Kinks that these lines do not meet
    stay unseen.

    >>> import flow, jax.numpy as jnp, numpy as np
    >>> bent = flow.Objective(lambda x: jnp.abs(x).sum(), np.ones(2))
    >>> may_have_kinks(bent), may_have_kinks(flow.Objective(lambda x: x @ x, np.ones(2)))
    (True, False)
    """
    if not objective.smooth or objective.backprop is not None or not objective.jumping:
        return not objective.smooth
    if "met" not in objective.kinks:
        objective.kinks["met"] = _gradient_jumps(objective)
    return objective.kinks["met"]


def _gradient_jumps(objective: Objective) -> bool:
    """Return whether ∇J jumps somewhere on lines through θ₀, as far as θ₀ is long."""
    objective, rng = objective.counted(), np.random.default_rng(0)
    theta = objective.theta
    size = float(np.sqrt(np.mean(theta**2))) or 1.0
    for _ in range(_LINES):
        way = (np.abs(theta) + size) * rng.standard_normal(theta.size)
        if _jumps(
            lambda s, way=way: objective.flat_value_and_gradient(theta + s * way)[1],
            max(1e-9, 100 * objective.resolution),
        ):
            return True
    return False


def _jumps(of: Callable[[float], np.ndarray], floor: float) -> bool:
    """Return whether a function of s in [−1, 1] jumps where its second difference is largest."""

    def bend(*values: Any) -> float:
        found = np.linalg.norm(values[0] - 2.0 * values[1] + values[2])
        return float(found) if np.isfinite(found) else -1.0

    h = 2.0 / (_POINTS - 1)
    s = np.linspace(-1.0, 1.0, _POINTS)
    values = [of(x) for x in s]
    i = 1 + int(np.argmax([bend(*values[i - 1 : i + 2]) for i in range(1, _POINTS - 1)]))
    at, around = float(s[i]), values[i - 1 : i + 2]
    finite = (np.linalg.norm(v) for v in values if np.all(np.isfinite(v)))
    least = floor * max(finite, default=0.0)
    bends = []
    for _ in range(_HALVINGS):
        h /= 2.0
        below, middle, above = around
        five = [below, of(at - h), middle, of(at + h), above]
        k = int(np.argmax([bend(*five[i : i + 3]) for i in range(3)]))
        at, around = at + (k - 1) * h, five[k : k + 3]
        bends.append(bend(*around))
        if bends[-1] <= least:
            return False
    return bends[-1] > 0.5 * bends[-1 - _LAST]
