"""Jaxprs, the operations that JAX has traced of a function."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from flow._core import PACKAGE

# Of operations that call others, those whose arguments are the others' in the same order.
_IN_ORDER = {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2"}

# What JAX says of a gradient that has no derivative.
_NONE = re.compile(r"\(jvp\) to a custom_vjp|callbacks do not support JVP|[Dd]ifferentiation rule")
_JAX = Path(jax.__file__).parent
# Of operations on real numbers alone, those that jump.
_JUMPING = {"ceil", "floor", "rem", "round", "sign"} | {
    "select_and_gather_add",
    "select_and_scatter_add",
}


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Say in plain words that JAX has no derivative of a gradient, which what is within needs.

    Raises
    ------
    TypeError
        In place of what JAX raises of a `custom_vjp` or a callback.
    """
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        if not _NONE.search(str(error)) or str(error).startswith("this needs"):
            raise
        raise TypeError(
            "this needs ∇²J·v, as the Hessian's spectrum and some methods do, and JAX can't "
            "differentiate the gradient of this loss: jax.custom_jvp in place of jax.custom_vjp "
            "has second derivatives, and a callback none. Without them there are integrate by "
            "DOP853, RK45 or fixed steps, descend, compare, and study(..., learning_rates=[...], "
            "observe={})"
        ) from error


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
    """Yield the constants of a jaxpr, and of those that it calls."""
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


def operations(jaxpr: Any) -> Iterator[Any]:
    """Yield the operations of a jaxpr, and of those that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in called(equation):
            yield from operations(getattr(inner, "jaxpr", inner))


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


def jumping(jaxpr: Any, varying: int) -> Iterator[Any]:
    """Yield the operations of `depending` whose outputs may jump as their inputs move.

    Those that count, round or compare numbers; but what is compared with itself, or with infinity,
    asks whether it is finite, and `jax.nn.logsumexp` compares what is positive with 0.
    """
    for equation in depending(jaxpr, varying):
        name, inputs = equation.primitive.name, equation.invars
        counts = any(map(_inexact, inputs)) and not all(map(_inexact, equation.outvars))
        finite = name == "is_finite" or any(np.all(np.isinf(getattr(v, "val", 0))) for v in inputs)
        jumps = name in _JUMPING or (counts and not finite and len({id(v) for v in inputs}) > 1)
        smooth = any(f.function_name == "logsumexp" and _within(f, _JAX) for f in _frames(equation))
        if jumps and not smooth:
            yield equation


def _inexact(variable: Any) -> bool:
    return jax.numpy.issubdtype(getattr(variable.aval, "dtype", np.bool), np.inexact)


def first_not_finite(closed_jaxpr: Any, arguments: Sequence[Any]) -> str | None:
    """Name the first operation that makes of finite numbers some that are not; None if none does.

    >>> import jax.numpy as jnp
    >>> closed = jax.make_jaxpr(lambda x: x * jnp.log(x))(1.0)
    >>> first_not_finite(closed, [0.0]).split(",")[0], first_not_finite(closed, [1.0])
    ('log', None)
    """
    jaxpr = closed_jaxpr.jaxpr
    made = [v for equation in jaxpr.eqns for v in equation.outvars]
    all_of_it = jaxpr.replace(outvars=made, debug_info=jaxpr.debug_info._replace(result_paths=None))
    values = jax.core.eval_jaxpr(all_of_it, closed_jaxpr.consts, *arguments)
    names = [*jaxpr.constvars, *jaxpr.invars, *made]
    known = dict(zip(names, [*closed_jaxpr.consts, *arguments, *values], strict=True))
    for equation in jaxpr.eqns:
        inputs = [v.val if hasattr(v, "val") else known[v] for v in equation.invars]
        if all(map(_finite, inputs)) and not all(_finite(known[v]) for v in equation.outvars):
            inner = called(equation) if equation.primitive.name in _IN_ORDER else []
            alike = [c for c in inner if hasattr(c, "jaxpr") and len(c.jaxpr.invars) == len(inputs)]
            within = first_not_finite(alike[0], inputs) if alike else None
            return within or place(equation)
    return None


def _finite(value: Any) -> bool:
    inexact = jax.numpy.issubdtype(getattr(value, "dtype", type(value)), np.inexact)
    return not inexact or bool(np.all(np.isfinite(value)))


def place(equation: Any) -> str:
    """Return an operation's name, and the line outside of JAX and flow that asked for it."""
    mine = _JAX, PACKAGE
    asked = (f for f in _frames(equation) if not any(_within(f, folder) for folder in mine))
    line = next((f"{f.file_name}:{f.line_num}" for f in asked), None)
    return equation.primitive.name + ("" if line is None else f", {line}")


def _frames(equation: Any) -> Iterable[Any]:
    """Return the calls that an operation was asked for by, the innermost first."""
    return getattr(equation.source_info.traceback, "frames", ())


def _within(frame: Any, folder: Path) -> bool:
    return frame.file_name.startswith(str(folder))
