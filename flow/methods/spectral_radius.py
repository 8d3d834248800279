"""The spectral radius of a Jacobian, watched along a run by nonlinear power iteration."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flow.methods.backend import Backend

# Change of the radius between two iterations at which it is believed.
CONVERGED = 0.01
# Power iterations at most: from a random vector, and from the vector of the last watch.
COLD, WARM = 50, 12
# Gradients between two watches: sharpening is met early and costs 3 % of the run.
INTERVAL = 30


class Watch(NamedTuple):
    """The dominant eigenvalue, as far as it is known.

    Parameters
    ----------
    vector
        Unit vector (n,), near the dominant eigenvector.
    radius
        ‖∂ẏ/∂y · vector‖, the spectral radius from below.
    eigenvalue
        −vectorᵀ(∂ẏ/∂y)vector: of a gradient flow the sharpness λ_max, or the most negative
        curvature where that is larger in magnitude.
    alignment
        Cosine between the vector of two iterations ago and the vector: 1 on a real eigenvector,
        less where the dominant eigenvalues are a complex pair.
    spent
        Evaluations of the right-hand side, in all.
    due
        Evaluations of the whole run at which to look again.
    """

    vector: Any
    radius: Any
    eigenvalue: Any
    alignment: Any
    spent: Any
    due: Any


def start(backend: Backend, y: Any, f: Any) -> Watch:
    """Return a watch that knows nothing.

    Its vector is half at random, half along ẏ: a gradient lies mostly in the stiff directions,
    but may be orthogonal to the stiffest.
    """
    xp = backend.xp
    chance = xp.asarray(np.random.default_rng(0).standard_normal(y.shape[0]))
    # Of the sign that keeps the two from cancelling, as they would where n = 1.
    along = xp.where(xp.vdot(chance, f) < 0.0, -f, f)
    vector = chance / _norm(xp, chance) + along / xp.maximum(_norm(xp, f), _TINY)
    zero = xp.asarray(0.0)
    return Watch(vector / _norm(xp, vector), zero, zero, zero + 1.0, zero, zero)


def refine(
    backend: Backend,
    rhs: Callable,
    watch: Watch,
    t: Any,
    y: Any,
    f: Any,
    resolution: Any,
    most: Any,
) -> Watch:
    """Return power iterations v ← (f(y + δv) − f(y))/δ until the radius changes by less than 1 %.

    One evaluation each, where an exact product costs two; `most` of them at most, none if it is 0.
    """
    xp = backend.xp
    scale = xp.maximum(_norm(xp, y), xp.minimum(1.0, _norm(xp, f)))
    delta = xp.sqrt(resolution) * xp.where(scale > 0.0, scale, 1.0)

    def going(carry: tuple) -> Any:
        i, change, _, _ = carry
        return (i < most) & ((change > CONVERGED) | (i < 1 + (watch.radius == 0.0)))

    def iterate(carry: tuple) -> tuple:
        i, _, before, watch = carry
        v = watch.vector
        product = (rhs(t, y + delta * v) - f) / delta
        radius = _norm(xp, product)
        radius = xp.where(xp.isfinite(radius), radius, 0.0)
        vector = xp.where(radius > 0.0, product / xp.maximum(radius, _TINY), v)
        change = xp.abs(radius - watch.radius) / xp.maximum(radius, _TINY)
        turned = watch._replace(
            vector=vector,
            radius=radius,
            eigenvalue=-xp.vdot(v, product),
            # An iteration that the budget cut short says nothing.
            alignment=xp.where(
                (change <= CONVERGED) | (i + 1 == COLD), xp.vdot(before, vector), 1.0
            ),
            spent=watch.spent + 1.0,
        )
        return i + 1, xp.where(radius > 0.0, change, 0.0), v, turned

    carry = (xp.asarray(0), xp.asarray(xp.inf), watch.vector, watch)
    return backend.while_loop(going, iterate, carry)[3]


def _norm(xp: Any, x: Any) -> Any:
    return xp.sqrt(xp.vdot(x, x))


_TINY = np.finfo(float).tiny
