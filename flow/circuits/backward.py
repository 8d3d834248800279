"""The backward pass of a circuit, over numbers or over nodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flow.circuits.node import Node


@dataclass(frozen=True, eq=False)
class Branch:
    """One term of ∂L/∂node: ``term`` = ∂L/∂child · ∂child/∂node."""

    child: Node
    child_derivative: Any
    local_derivative: Any
    term: Any


def pull_back(
    nodes: Sequence[Node], output: Node, active: set[Node], of: Callable[[Node], Any]
) -> tuple[dict[Node, Any], dict[Node, list[Branch]]]:
    """Return ∂L/∂node = Σ over the node's branches of ∂L/∂child · ∂child/∂node, last node first.

    Chain rule: L depends on a node through the nodes it feeds alone, and the terms add. Each
    branch is visited once: the cost is proportional to the size of the circuit.

    Parameters
    ----------
    nodes
        In topological order, operands first.
    output
        L.
    active
        Nodes that depend on an input; no derivative is taken by others.
    of
        What stands for a node: its value, and the derivatives are numbers; or the node itself,
        and they are nodes of a circuit.

    Returns
    -------
    derivatives, branches
        Of each active node that L depends on.
    """
    derivatives: dict[Node, Any] = {output: 1.0}
    branches: dict[Node, list[Branch]] = {output: []}
    for node in reversed(nodes):
        if node.operation is None or node not in derivatives:
            continue
        adjoint, operands = derivatives[node], [of(x) for x in node.operands]
        for operand, derivative in zip(node.operands, node.operation.derivatives, strict=True):
            if operand not in active:
                continue
            try:
                local = derivative(of(node), *operands)
            except (ArithmeticError, ValueError) as error:
                raise UndefinedDerivativeError(node) from error
            term = _times(adjoint, local)
            branches.setdefault(operand, []).append(Branch(node, adjoint, local, term))
            derivatives[operand] = _plus(derivatives.get(operand, 0.0), term)
    return derivatives, branches


class UndefinedDerivativeError(ArithmeticError):
    """The derivative of `node` by an operand does not exist; told by name at the door."""

    def __init__(self, node: Node) -> None:
        super().__init__(f"the derivative of {node!r} does not exist here")
        self.node = node


# Products with 0 and ±1, and sums with 0, are no operations.


def _times(a: Any, b: Any) -> Any:
    for x, y in ((a, b), (b, a)):
        if isinstance(x, float):
            if x == 0:
                return 0.0
            if x == 1:
                return y
            if x == -1:
                return -y
    return a * b


def _plus(a: Any, b: Any) -> Any:
    if isinstance(a, float) and a == 0:
        return b
    if isinstance(b, float) and b == 0:
        return a
    return a + b
