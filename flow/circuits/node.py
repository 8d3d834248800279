"""Nodes of a circuit: inputs, constants, and operations on other nodes."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flow._core.checks import instance, real
from flow._core.display import visible


@dataclass(frozen=True, eq=False)
class Operation:
    """A scalar operation z = f(x, ...) and its partial derivatives.

    Parameters
    ----------
    text
        How it is written, with a place for each operand.
    value
        f, of floats or of JAX arrays.
    derivatives
        One function (z, x, ...) ↦ ∂z/∂operand for each operand, written in arithmetic that
        numbers and nodes have in common: of numbers it is a number, of nodes a circuit.
    smooth
        False where f has a kink.
    """

    text: str
    value: Callable[..., Any]
    derivatives: tuple[Callable[..., Any], ...]
    smooth: bool = True


@dataclass(frozen=True, eq=False, repr=False)  # shared when the Python object is shared
class Node:
    """A node: an input (named), a constant (its value), or an operation on other nodes.

    Made by `variable`, by ``+ − * / **`` and unary minus with nodes and numbers, and by the
    functions of `flow.circuits`. Immutable: a node carries no value, an `Evaluation` does.

    >>> from flow.circuits import variable
    >>> a, b = variable("a"), variable("b")
    >>> a + 2 * b, (a / b).named("ratio")
    (a + #, ratio)
    """

    operation: Operation | None = None
    operands: tuple["Node", ...] = ()
    name: str | None = None
    constant: float | None = None

    __array_ufunc__ = None  # numpy's numbers leave arithmetic with nodes to the nodes

    def named(self, name: str) -> "Node":
        """Return the same node under a name of its own; use the returned one from here on."""
        if not name:
            raise ValueError(f"name must be a non-empty string, got {name!r}")
        if self.operation is None:
            raise ValueError(f"only operations are named so; {self!r} is an input or a constant")
        return replace(self, name=name)

    def __repr__(self) -> str:
        return visible(self.name or self.expression(lambda node: node.name or node.short()))

    def short(self) -> str:
        """Return a constant's number; # for an unnamed operation."""
        return "#" if self.constant is None else f"{self.constant:g}"

    def expression(self, label: Callable[["Node"], str]) -> str:
        """Return the operation on its operands' labels."""
        if self.operation is None:
            return self.name or self.short()
        return self.operation.text.format(*map(label, self.operands))

    def __add__(self, other: Any) -> "Node":
        return _binary(ADD, self, other)

    def __radd__(self, other: Any) -> "Node":
        return _binary(ADD, other, self)

    def __sub__(self, other: Any) -> "Node":
        return _binary(SUBTRACT, self, other)

    def __rsub__(self, other: Any) -> "Node":
        return _binary(SUBTRACT, other, self)

    def __mul__(self, other: Any) -> "Node":
        return _binary(MULTIPLY, self, other)

    def __rmul__(self, other: Any) -> "Node":
        return _binary(MULTIPLY, other, self)

    def __truediv__(self, other: Any) -> "Node":
        return _binary(DIVIDE, self, other)

    def __rtruediv__(self, other: Any) -> "Node":
        return _binary(DIVIDE, other, self)

    def __pow__(self, other: Any) -> "Node":
        return _binary(POWER, self, other)

    def __rpow__(self, other: Any) -> "Node":
        return _binary(POWER, other, self)

    def __neg__(self) -> "Node":
        return Node(NEGATE, (self,))


def variable(name: str) -> Node:
    """Return an input of a circuit; used twice, the object is one input (a tied weight)."""
    if not (isinstance(name, str) and name):
        raise ValueError(f"name must be a non-empty string, got {name!r:.80}")
    return Node(name=name)


def constant(value: float) -> Node:
    """Return a number that no derivative is taken by."""
    number = real("a constant of a circuit", value)
    if not isfinite(number):
        raise ValueError(f"a constant of a circuit must be finite, got {value!r}")
    return Node(constant=number)


def apply(operation: Operation, *operands: Any) -> Any:
    """Return the operation's node where an operand is a node, else its value."""
    for x in operands:
        instance("an operand", x, (Node, Real, np.ndarray, jax.Array), "a node or a number")
        if isinstance(x, Real):
            real("an operand", x)
        elif not (isinstance(x, Node) or jnp.issubdtype(x.dtype, jnp.number)):
            raise TypeError(f"an operand must be a number, got {x!r:.80} of dtype {x.dtype}")
    if any(isinstance(x, Node) for x in operands):
        return Node(operation, tuple(x if isinstance(x, Node) else constant(x) for x in operands))
    return operation.value(*operands)


def all_floats(*operands: Any) -> bool:
    """Return whether to compute in Python rather than in JAX."""
    return all(isinstance(x, float) for x in operands)


def _binary(operation: Operation, x: Any, y: Any) -> Any:
    if any(getattr(v, "shape", ()) != () for v in (x, y)):
        raise TypeError(f"a circuit is of scalars, got {x!r} and {y!r}; index the array first")
    return apply(operation, x, y)


def _power(x: Any, y: Any) -> Any:
    if all_floats(x, y):
        return math.pow(x, y)  # unlike **, refuses a root of a negative
    return x ** int(y) if isinstance(y, float) and y.is_integer() else jnp.power(x, y)


def _power_by_base(_: Any, x: Any, y: Any) -> Any:
    """Return ∂(x^y)/∂x = y x^{y−1}, and 0 where y = 0, for x = 0 too."""
    n = y.constant if isinstance(y, Node) else y
    if n is None:
        return y * x ** (y - 1.0)
    return 0.0 if n == 0 else n * apply(POWER, x, n - 1.0)


LOG = Operation(
    "log({})",
    lambda x: math.log(x) if all_floats(x) else jnp.log(x),
    (lambda z, x: 1.0 / x,),
)
ADD = Operation("{} + {}", operator.add, (lambda z, x, y: 1.0, lambda z, x, y: 1.0))
SUBTRACT = Operation("{} − {}", operator.sub, (lambda z, x, y: 1.0, lambda z, x, y: -1.0))
MULTIPLY = Operation("{} · {}", operator.mul, (lambda z, x, y: y, lambda z, x, y: x))
DIVIDE = Operation("{} / {}", operator.truediv, (lambda z, x, y: 1.0 / y, lambda z, x, y: -z / y))
POWER = Operation("{} ** {}", _power, (_power_by_base, lambda z, x, y: z * apply(LOG, x)))
NEGATE = Operation("−{}", operator.neg, (lambda z, x: -1.0,))
