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


# These only move what is there: a float32 constant that a loss closes over may be sliced.
_MOVES = {
    *("broadcast_in_dim", "concatenate", "copy", "copy_p", "dynamic_slice", "expand_dims"),
    *("gather", "pad", "reshape", "rev", "select_n", "slice", "squeeze", "transpose"),
}


def coarsest_float(closed_jaxpr: Any) -> tuple[Any, str]:
    """Return the least precise float dtype that a jaxpr computes in, and the operation."""
    found = [
        (variable.aval.dtype, equation.primitive.name)
        for equation in _operations(closed_jaxpr.jaxpr)
        for variable in equation.outvars
        if equation.primitive.name not in _MOVES
        and jnp.issubdtype(getattr(variable.aval, "dtype", jnp.bool), jnp.floating)
    ]
    return max(found, key=lambda f: jnp.finfo(f[0]).eps, default=(jnp.dtype("float64"), ""))


def _operations(jaxpr: Any) -> Iterator[Any]:
    """The operations of a jaxpr; of one that calls others (jit, scan), the others'."""
    for equation in jaxpr.eqns:
        parameters = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        )
        inner = [p for p in parameters if hasattr(p, "eqns")]
        if not inner:
            yield equation
        for sub in inner:
            yield from _operations(getattr(sub, "jaxpr", sub))
