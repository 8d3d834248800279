"""A circuit's values at given inputs, and its backward pass there."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

from flow._core.display import visible
from flow.circuits.backward import Branch, UndefinedDerivativeError, pull_back
from flow.circuits.node import Node


class CircuitDomainError(ValueError):
    """A node has no finite value or derivative at these inputs: 1/0, log(−1), an overflow."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Values of every node at inputs of its own; other inputs are another evaluation.

    Attributes
    ----------
    circuit
        What was evaluated.
    inputs
        Name -> value, a read-only copy: changing what was passed in changes nothing here.
    values
        Node -> value, read-only.
    operations
        Operations that were carried out, counted as they were.
    """

    circuit: Any
    inputs: Mapping[str, float]
    values: Mapping[Node, float]
    operations: int

    @property
    def outputs(self) -> dict[str, float]:
        """Name -> value of each output."""
        return {name: self.values[node] for name, node in self.circuit.outputs.items()}

    @property
    def value(self) -> float:
        """Return the value of the one output."""
        return self.values[self.circuit.output]

    def __getitem__(self, name: str) -> float:
        """Return the value of a named node, or of "#3" as in the table."""
        return self.values[self.circuit.node(name)]

    @property
    def gradient(self) -> dict[str, float]:
        """Name of each input -> ∂L/∂input; 0 where L does not depend on it."""
        return {x.name: self._backward[0].get(x, 0.0) for x in self.circuit.inputs}

    def derivative(self, name: str) -> float:
        """Return ∂L/∂node, of a named node or of "#3" as in the table."""
        return self._backward[0].get(self.circuit.node(name), 0.0)

    def branches(self, name: str) -> list[Branch]:
        """Return the terms whose sum is ∂L/∂node; none of the output, whose derivative is 1."""
        return self._backward[1].get(self.circuit.node(name), [])

    def table(self) -> Any:
        """Return one row a node, as pandas: expression, value, its branches' terms and sum."""
        import pandas as pd

        labels = self.circuit.labels
        derivatives, branches = self._backward
        rows = []
        for node in self.circuit.nodes:
            if node.constant is not None:
                continue
            terms = [
                f"{b.child_derivative:.4g}·{b.local_derivative:.4g} (from {labels[b.child]})"
                for b in branches.get(node, [])
            ]
            rows.append(
                {
                    "node": labels[node],
                    "expression": node.expression(labels.__getitem__) if node.operation else "",
                    "value": self.values[node],
                    "branch terms": " + ".join(terms),
                    "derivative": derivatives.get(node, 0.0),
                }
            )
        return pd.DataFrame(rows).set_index("node")

    def __str__(self) -> str:
        return visible(self.table().to_string(float_format=lambda x: f"{x:.6g}"), keep="\n")

    __repr__ = __str__

    @cached_property
    def _backward(self) -> tuple[dict[Node, float], dict[Node, list[Branch]]]:
        circuit = self.circuit
        try:
            found = pull_back(
                circuit.nodes, circuit.output, circuit.active, self.values.__getitem__
            )
        except UndefinedDerivativeError as error:
            raise undefined(circuit, error.node, self.values, "derivative") from error
        for node, derivative in found[0].items():
            if not isfinite(derivative):
                raise undefined(circuit, node, self.values, "derivative")
        return found


def undefined(
    circuit: Any, node: Node, values: Mapping[Node, float], what: str
) -> CircuitDomainError:
    """Return the error that names the node, its expression and its operands' values."""
    labels = circuit.labels
    met = ", ".join(f"{labels[x]} = {values[x]:g}" for x in node.operands if x.constant is None)
    return CircuitDomainError(
        f"node {labels[node]} = {node.expression(labels.__getitem__)} has no finite {what}"
        f"{' at ' + met if met else ''}; evaluate the circuit at other inputs"
    )
