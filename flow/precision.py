"""Double precision, scoped to the package's own calls, and the search for less inside a loss."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp


class PrecisionWarning(UserWarning):
    """A loss computes in less than the precision that was asked for."""


def double_precision() -> AbstractContextManager:
    """Scope in which JAX computes in float64, without touching its global setting."""
    return jax.enable_x64(True)


def coarsest_float(closed_jaxpr: Any) -> tuple[Any, str]:
    """Return the least precise float dtype that a jaxpr computes in, and the operation."""
    found = [
        (variable.aval.dtype, equation.primitive.name)
        for equation in _equations(closed_jaxpr.jaxpr)
        for variable in equation.outvars
        if jnp.issubdtype(getattr(variable.aval, "dtype", jnp.bool), jnp.floating)
    ]
    return max(found, key=lambda f: jnp.finfo(f[0]).eps, default=(jnp.dtype("float64"), ""))


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        inner = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        )
        for sub in inner:
            if hasattr(sub, "eqns"):
                yield from _equations(getattr(sub, "jaxpr", sub))
