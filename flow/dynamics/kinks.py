"""Kinks: which losses may have some, and a warning where derivatives are taken that they lack."""

from collections.abc import Iterator
from typing import Any

import jax

from flow.jaxprs import called
from flow.objective import Objective
from flow.precision import double_precision
from flow.warn import warn

# What smooth functions are not computed with; but some that are computed with it are smooth.
BENT = {
    *("abs", "argmax", "argmin", "ceil", "clamp", "cond", "cummax", "cummin", "floor", "max"),
    *("min", "reduce_max", "reduce_min", "reduce_window_max", "rem", "round", "select_n", "sign"),
    "sort",
}


class KinkWarning(UserWarning):
    """Higher derivatives of a loss with kinks are taken, which is blind to the kinks."""


def warn_of_kinks(objective: Objective, what: str) -> None:
    """Warn if the objective is known to have kinks; `what` says who takes which derivatives."""
    if not objective.smooth:
        warn(
            f"{what}, which are those between the kinks of this one (ReLU, max pooling): curvature "
            "that comes of crossing them is not seen. Take a smooth activation, "
            "activation=flow.backprop.softplus(beta=200) for ReLU, 'gelu' or 'tanh'.",
            KinkWarning,
        )


def may_have_kinks(objective: Objective) -> bool:
    """Tell whether a loss may have kinks: flow's networks know, other gradients are looked at.

    >>> import flow, jax.numpy as jnp, numpy as np
    >>> bent = flow.Objective(lambda x: jnp.abs(x).sum(), np.ones(2))
    >>> may_have_kinks(bent), may_have_kinks(flow.Objective(lambda x: x @ x, np.ones(2)))
    (True, False)
    """
    if not objective.smooth or objective.backprop is not None:
        return not objective.smooth
    with double_precision():
        theta = objective.unflatten(objective.theta)
        jaxpr = jax.make_jaxpr(objective.traced_gradient)(theta, objective.data)
    return not BENT.isdisjoint(_primitives(jaxpr.jaxpr))


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Names of all that a jaxpr does, and those that it calls (jit, scan)."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in called(equation):
            yield from _primitives(getattr(inner, "jaxpr", inner))
