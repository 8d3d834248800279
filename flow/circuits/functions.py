"""Elementary functions of nodes, and of numbers: z = f(x) with its slope f′(x)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flow.circuits.node import LOG, Operation, all_floats, apply


def exp(x: Any) -> Any:
    """Return e^x, with slope e^x.

    >>> exp(0.0)
    1.0
    """
    return apply(_EXP, x)


def log(x: Any) -> Any:
    """Return the natural logarithm of x > 0, with slope 1/x."""
    return apply(LOG, x)


def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent z, with slope 1 − z²."""
    return apply(_TANH, x)


def sin(x: Any) -> Any:
    """Return the sine of x in radians, with slope cos x."""
    return apply(_SIN, x)


def cos(x: Any) -> Any:
    """Return the cosine of x in radians, with slope −sin x."""
    return apply(_COS, x)


def sqrt(x: Any) -> Any:
    """Return the square root z of x ≥ 0, with slope 1/(2z), which does not exist at 0."""
    return apply(_SQRT, x)


def sigmoid(x: Any) -> Any:
    """Return logistic function z = 1/(1 + e^{−x}), with slope z(1 − z)."""
    return apply(_SIGMOID, x)


def relu(x: Any) -> Any:
    """Return max(x, 0), with slope `step`; at the kink relu′(0) = 0."""
    return apply(_RELU, x)


def step(x: Any) -> Any:
    """Return 1 where x > 0, else 0, the slope of `relu`; its own slope is taken to be 0.

    >>> step(0.0), step(2.0)
    (0.0, 1.0)
    """
    return apply(_STEP, x)


def _elementary(
    name: str,
    of_float: Callable[[float], float],
    of_array: Callable[[Any], Any],
    slope: Callable[[Any, Any], Any],
    *,
    smooth: bool = True,
) -> Operation:
    return Operation(
        name + "({})", lambda x: of_float(x) if all_floats(x) else of_array(x), (slope,), smooth
    )


def _sigmoid(x: float) -> float:
    e = math.exp(-abs(x))  # never overflows
    return 1.0 / (1.0 + e) if x >= 0 else e / (1.0 + e)


_EXP = _elementary("exp", math.exp, jnp.exp, lambda z, x: z)
_TANH = _elementary("tanh", math.tanh, jnp.tanh, lambda z, x: 1.0 - z * z)
_SIN = _elementary("sin", math.sin, jnp.sin, lambda z, x: cos(x))
_COS = _elementary("cos", math.cos, jnp.cos, lambda z, x: -sin(x))
_SQRT = _elementary("sqrt", math.sqrt, jnp.sqrt, lambda z, x: 0.5 / z)
_SIGMOID = _elementary("sigmoid", _sigmoid, jax.nn.sigmoid, lambda z, x: z * (1.0 - z))
_RELU = _elementary("relu", lambda x: max(x, 0.0), jax.nn.relu, lambda z, x: step(x), smooth=False)
_STEP = _elementary(
    "step",
    lambda x: float(x > 0),
    lambda x: (x > 0).astype(x.dtype),
    lambda z, x: 0.0,
    smooth=False,
)
