"""What a function computes, as JAX has traced it."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

# Of operations that call others, those whose arguments are the others' in the same order.
_IN_ORDER = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2"}


def fingerprint(closed_jaxpr: Any) -> str:
    """Return a digest of the operations and constants of a traced function.

    Functions that compute the same have the same, whoever they are; one that reads what has
    changed since has another.

    >>> import jax.numpy as jnp
    >>> rates = [0.1, 0.2, 0.1]
    >>> of = lambda rate: fingerprint(jax.make_jaxpr(lambda x: rate * jnp.sin(x))(1.0))
    >>> of(rates[0]) == of(rates[1]), of(rates[0]) == of(rates[2])
    (False, True)
    """
    found = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(closed_jaxpr)).encode())
    for constant in _constants(closed_jaxpr):
        array = np.asarray(constant)
        found.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
    return found.hexdigest()


def _constants(closed_jaxpr: Any) -> Iterator[Any]:
    """The constants of a jaxpr, and of those that it calls."""
    for constant in closed_jaxpr.consts:
        keys = jax.dtypes.issubdtype(getattr(constant, "dtype", None), jax.dtypes.prng_key)
        yield jax.random.key_data(constant) if keys else constant
    for equation in closed_jaxpr.jaxpr.eqns:
        for inner in called(equation):
            yield from _constants(inner) if hasattr(inner, "consts") else ()


def called(equation: Any) -> list[Any]:
    """Return the jaxprs that an operation calls, closed where they have constants."""
    parameters = jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    )
    return [p for p in parameters if hasattr(p, "eqns")]


def depending(jaxpr: Any, varying: int) -> Iterator[Any]:
    """Yield the operations on the way from its first inputs, so many, to its outputs.

    Of one that calls others (jit, scan) the others'. What can't be told apart within is on the way.
    """
    live, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    yield from _depending(live, [i < varying for i, is_used in enumerate(used) if is_used])


def _depending(jaxpr: Any, moved: list[bool]) -> Iterator[Any]:
    moving = {v for v, moves in zip(jaxpr.invars, moved, strict=True) if moves}
    for equation in jaxpr.eqns:
        touched = [not hasattr(v, "val") and v in moving for v in equation.invars]
        if not any(touched):
            continue
        moving.update(equation.outvars)
        inner = [getattr(x, "jaxpr", x) for x in called(equation)]
        if not inner:
            yield equation
        for sub in inner:
            same = equation.primitive.name in _IN_ORDER and len(sub.invars) == len(touched)
            yield from _depending(sub, touched if same else [True] * len(sub.invars))


def place(equation: Any) -> str:
    """Return an operation's name, and the line outside of JAX and flow that asked for it."""
    mine = (str(Path(jax.__file__).parent), str(Path(__file__).parent))
    frames = getattr(equation.source_info.traceback, "frames", ())
    asked = (f for f in frames if not f.file_name.startswith(mine))
    line = next((f"{f.file_name}:{f.line_num}" for f in asked), None)
    return equation.primitive.name + ("" if line is None else f", {line}")
