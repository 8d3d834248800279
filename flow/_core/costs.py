"""Costs in units of a gradient, and counts of what an optimizer asks of its value_fn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, Primitive
from jax.interpreters import ad, batching, mlir

from flow._core.jaxprs import called

# Values alone, gradients, Hessian-vector products.
KINDS = 3
# The identity, on J as an optimizer is told it: it marks an evaluation. Differentiation makes the
# mark of a gradient of that of a value, and of that the mark of a product; `counted` takes it out.
_evaluated = Primitive("evaluated")
_evaluated.def_impl(lambda x, **_: x)
_evaluated.def_abstract_eval(lambda x, **_: x)
mlir.register_lowering(_evaluated, lambda _, x, **__: [x])


def _derivative(primals: Any, tangents: Any, *, order: int, times: int) -> tuple[Any, Any]:
    return _evaluated.bind(*primals, order=order + 1, times=times), tangents[0]


def _batch(values: Any, axes: Any, *, order: int, times: int) -> tuple[Any, Any]:
    times *= values[0].shape[axes[0]]
    return _evaluated.bind(*values, order=order, times=times), axes[0]


ad.primitive_jvps[_evaluated] = _derivative
batching.primitive_batchers[_evaluated] = _batch


def units(gradients: Any, hvps: Any = 0, values: Any = 0) -> Any:
    """Return what was spent in units of a gradient, with the value of J that comes with it.

    A product is two, and a value alone a third: of the three passes that a gradient takes, one
    forward and a backward one of two, it is the first (`experiments/cost_of_gradients.py`).

    >>> units(10, hvps=2, values=3)
    15.0
    """
    return gradients + 2 * hvps + values / 3


def marked(found: Any, order: int = 0) -> Any:
    """Mark a value of J for `counted`, or an array that has its derivative of an order."""
    return _evaluated.bind(found, order=order, times=1)


def counted(function: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what a traced function does, and how often what is marked in it was evaluated.

    The counts are of values alone, gradients and Hessian-vector products, (3,). They are carried
    through the loops and branches of the function's jaxpr, so that they are exact under
    `jax.jit` and of each member apart under `jax.vmap`, and take no call to the host.

    Examples
    --------
    >>> value = lambda x: marked(x * x)
    >>> counted(lambda: jax.lax.fori_loop(0, 3, lambda _, x: x - 0.25 * jax.grad(value)(x), 1.0))
    (Array(0.125, dtype=float32...), Array([0, 3, 0], dtype=int32))
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)()
    none = jnp.zeros(KINDS, int)
    if not _has_marks(closed.jaxpr):
        return function(), none
    found, counts = _run(closed.jaxpr, closed.consts, [], none)
    return jax.tree.unflatten(jax.tree.structure(shapes), found), counts


def _has_marks(jaxpr: Any) -> bool:
    return any(
        equation.primitive is _evaluated or any(map(_has_marks, _inner(equation)))
        for equation in jaxpr.eqns
    )


def _inner(equation: Any) -> list[Any]:
    """Return the jaxprs that an operation calls."""
    return [getattr(x, "jaxpr", x) for x in called(equation)]


def _run(jaxpr: Any, constants: Any, arguments: Any, counts: Any) -> tuple[list[Any], Any]:
    """Evaluate a jaxpr, and add to the counts."""
    known = dict(zip(jaxpr.constvars, constants, strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else known[x]

    for equation in jaxpr.eqns:
        found, counts = _equation(equation, [read(x) for x in equation.invars], counts)
        known |= dict(zip(equation.outvars, found, strict=True))
    return [read(x) for x in jaxpr.outvars], counts


def _equation(equation: Any, values: list[Any], counts: Any) -> tuple[list[Any], Any]:
    primitive, given = equation.primitive, equation.params
    if primitive is _evaluated:
        kind = min(given["order"], KINDS - 1)
        return values, counts.at[kind].add(given["times"])
    inner = _inner(equation)
    through = _LOOPS.get(primitive.name)
    if any(map(_has_marks, inner)) and (through or len(inner) == 1):
        return through(given, values, counts) if through else _call(given, values, counts)
    bound = primitive.get_bind_params(given)  # before JAX 0.10 a pair
    functions, options = bound if isinstance(bound, tuple) else ((), bound)
    found = primitive.bind(*functions, *values, **options)
    return (list(found) if primitive.multiple_results else [found]), counts


def _closed(closed: Any, arguments: Any, counts: Any) -> tuple[list[Any], Any]:
    """Run a jaxpr with its constants, or one that has none."""
    return _run(getattr(closed, "jaxpr", closed), getattr(closed, "consts", ()), arguments, counts)


def _call(given: dict[str, Any], values: list[Any], counts: Any) -> tuple[list[Any], Any]:
    """Inline what jit, checkpoint and functions with derivatives of their own call."""
    closed = next(x for x in given.values() if hasattr(x, "eqns"))
    return _closed(closed, values, counts)


def _while(given: dict[str, Any], values: list[Any], counts: Any) -> tuple[list[Any], Any]:
    first, then = given["cond_nconsts"], given["cond_nconsts"] + given["body_nconsts"]

    # What the condition evaluates is counted where it is evaluated next: before each turn.
    def going(loop: Any) -> Any:
        return _closed(given["cond_jaxpr"], [*values[:first], *loop[0]], loop[1])[0][0]

    def turn(loop: Any) -> Any:
        _, counts = _closed(given["cond_jaxpr"], [*values[:first], *loop[0]], loop[1])
        return _closed(given["body_jaxpr"], [*values[first:then], *loop[0]], counts)

    state, counts = jax.lax.while_loop(going, turn, (values[then:], counts))
    return state, _closed(given["cond_jaxpr"], [*values[:first], *state], counts)[1]


def _branches(given: dict[str, Any], values: list[Any], counts: Any) -> tuple[list[Any], Any]:
    branches = [
        lambda values, counts, one=one: _closed(one, values, counts) for one in given["branches"]
    ]
    return jax.lax.switch(values[0], branches, values[1:], counts)


def _scan(given: dict[str, Any], values: list[Any], counts: Any) -> tuple[list[Any], Any]:
    first, then = given["num_consts"], given["num_consts"] + given["num_carry"]

    def turn(loop: Any, x: Any) -> tuple[Any, Any]:
        found, counts = _closed(given["jaxpr"], [*values[:first], *loop[0], *x], loop[1])
        return (found[: then - first], counts), found[then - first :]

    (state, counts), rows = jax.lax.scan(
        turn, (values[first:then], counts), values[then:],
        length=given["length"], reverse=given["reverse"], unroll=given["unroll"],
    )  # fmt: skip
    return [*state, *rows], counts


_LOOPS = {"while": _while, "cond": _branches, "scan": _scan}
