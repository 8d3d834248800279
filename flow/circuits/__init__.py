"""Differentiable circuits: graphs of scalar operations, by the chain rule and nothing else.

∂L/∂node = Σ over the nodes it feeds of ∂L/∂child · ∂child/∂node. Operations are carried out and
counted in Python; `Circuit.objective` hands circuits of moderate size to JAX.
"""

from typing import Any

from flow.circuits.backward import Branch
from flow.circuits.circuit import Circuit
from flow.circuits.evaluation import CircuitDomainError, Evaluation
from flow.circuits.functions import cos, exp, log, relu, sigmoid, sin, sqrt, step, tanh
from flow.circuits.node import Node, Operation, constant, variable
from flow.circuits.shipped import product_of_sum, tied_weight, two_two_two

__all__ = [
    "Branch",
    "Circuit",
    "CircuitDomainError",
    "Evaluation",
    "Node",
    "Operation",
    "constant",
    "cos",
    "draw",
    "exp",
    "log",
    "product_of_sum",
    "relu",
    "sigmoid",
    "sin",
    "sqrt",
    "step",
    "tanh",
    "tied_weight",
    "two_two_two",
    "variable",
]


def __getattr__(name: str) -> Any:
    """Return `draw`, which waits for its first use, as it needs matplotlib."""
    if name == "draw":
        from flow.plots import circuit

        return circuit
    raise AttributeError(f"module 'flow.circuits' has no attribute {name!r}")
