"""`Circuit`: a graph of scalar operations, its values, its gradient and its objective."""

from collections.abc import Mapping
from functools import cached_property
from math import isfinite
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp

from flow._core.checks import instance, mapping, real
from flow._problem.objective import Objective
from flow.circuits.backward import pull_back
from flow.circuits.evaluation import Evaluation, undefined
from flow.circuits.node import Node, constant


class Circuit:
    """A graph of scalar operations from named inputs to named outputs.

    The cost theorem: a circuit of N operations has its whole gradient in a circuit of at most
    10 N operations, however many inputs it has. Of one operation's share, at worst x ** y with
    two active operands, 1 is itself, 5 are its two derivatives, 2 the products with ∂L/∂z, and
    2 the sums over branches. With + − × alone it is at most 5 N.

    Parameters
    ----------
    outputs
        A node, or name -> node.
    inputs
        Inputs to be asked for beside those that the outputs depend on.

    Attributes
    ----------
    nodes
        In topological order, operands first.
    inputs
        Input nodes, in order of first use.
    size
        N, the number of operations; inputs and constants are none.

    Raises
    ------
    ValueError
        Two different nodes have one name.

    Examples
    --------
    L = c(a + 2b), whose node e = a + d feeds one node and whose b is reached through d:

    >>> from flow.circuits import Circuit, variable
    >>> a, b, c = variable("a"), variable("b"), variable("c")
    >>> d = (2 * b).named("d")
    >>> e = (a + d).named("e")
    >>> circuit = Circuit((c * e).named("L"))
    >>> evaluation = circuit.evaluate({"a": 3.0, "b": 1.0, "c": 4.0})
    >>> evaluation.value, evaluation.gradient
    (20.0, {'c': 5.0, 'a': 4.0, 'b': 8.0})
    >>> print(evaluation)
         expression     value   branch terms  derivative
    node
    c                 4       1·5 (from L)           5
    a                 3       4·1 (from e)           4
    b                 1       4·2 (from d)           8
    d         2 · b   2       4·1 (from e)           4
    e         a + d   5       1·4 (from L)           4
    L         c · e  20                              1
    """

    def __init__(self, outputs: Node | Mapping[str, Node], inputs: tuple[Node, ...] = ()) -> None:
        if isinstance(outputs, Node):
            outputs = {outputs.name or "output": outputs}
        outputs = mapping("outputs", outputs, "{name: node}, or a node")
        if not outputs:
            raise ValueError("outputs is empty, {}; give at least one node")
        instance("inputs", inputs, tuple | list, "a tuple of variables")
        for node in (*inputs, *outputs.values()):
            instance("outputs and inputs", node, Node, "nodes of a circuit")
        self.outputs: Mapping[str, Node] = MappingProxyType(dict(outputs))
        self.nodes = _topological([*inputs, *self.outputs.values()])
        self.inputs = tuple(n for n in self.nodes if n.operation is None and n.constant is None)
        self.size = sum(n.operation is not None for n in self.nodes)
        self._named: dict[str, Node] = {}
        for node in self.nodes:
            if node.name and self._named.setdefault(node.name, node) is not node:
                raise ValueError(
                    f"two different nodes are named {node.name!r}; use one Python object for a "
                    "shared node, and other names for others"
                )

    @property
    def output(self) -> Node:
        """Return the one output."""
        if len(self.outputs) != 1:
            raise ValueError(
                f"this needs a circuit of one output, this one has {len(self.outputs)}; "
                "take one of them, or circuit.dot(v)"
            )
        return next(iter(self.outputs.values()))

    @cached_property
    def labels(self) -> dict[Node, str]:
        """Return node -> its name, its number, or "#" and its place in the topological order."""
        return {
            n: n.name or (n.short() if n.constant is not None else f"#{i}")
            for i, n in enumerate(self.nodes)
        }

    @cached_property
    def active(self) -> set[Node]:
        """Return the nodes that depend on an input."""
        active = set(self.inputs)
        for node in self.nodes:
            if any(x in active for x in node.operands):
                active.add(node)
        return active

    def node(self, label: str) -> Node:
        """Return the node of a name, or of "#3" as in the table."""
        instance("label", label, str, "a node's name")
        if label in self._named:
            return self._named[label]
        place = label.removeprefix("#")
        if label.startswith("#") and place.isdecimal() and int(place) < len(self.nodes):
            return self.nodes[int(place)]
        raise ValueError(f"no node is named {label!r}; there are {', '.join(self._named)}")

    def evaluate(self, inputs: Mapping[str, float]) -> Evaluation:
        """Compute every node's value in Python, operation by operation.

        Raises
        ------
        ValueError
            An input is missing, unknown or not finite.
        CircuitDomainError
            A node has no finite value: division by zero, log of a negative; it is named.
        """
        given = self._inputs(inputs)
        values: dict[Node, float] = {}
        operations = 0
        for node in self.nodes:
            if node.operation is None:
                values[node] = given[node.name] if node.constant is None else node.constant
                continue
            try:
                value = node.operation.value(*[values[x] for x in node.operands])
            except (ArithmeticError, ValueError) as error:
                raise undefined(self, node, values, "value") from error
            if not isfinite(value):
                raise undefined(self, node, values, "value")
            values[node] = value
            operations += 1
        return Evaluation(self, MappingProxyType(given), MappingProxyType(values), operations)

    def gradient(self) -> "Circuit":
        """Return the circuit of ∂L/∂input for every input, by the backward pass over nodes.

        It shares this circuit's nodes and has at most 10 times its operations.

        >>> from flow.circuits import Circuit, variable
        >>> x, y = variable("x"), variable("y")
        >>> gradient = Circuit(x * x * y).gradient()
        >>> gradient.evaluate({"x": 3.0, "y": 5.0}).outputs
        {'x': 30.0, 'y': 9.0}
        >>> hvp = gradient.dot({"x": 1.0, "y": 0.0}).gradient()  # the theorem twice: ∇²f·v
        >>> hvp.evaluate({"x": 3.0, "y": 5.0}).outputs
        {'x': 10.0, 'y': 6.0}
        """
        derivatives, _ = pull_back(self.nodes, self.output, self.active, lambda node: node)
        return Circuit({x.name: _node(derivatives.get(x, 0.0)) for x in self.inputs}, self.inputs)

    def dot(self, v: Mapping[str, float]) -> "Circuit":
        """Return the circuit of Σ v_k · output_k, for fixed numbers v."""
        v = mapping("v", v, "{name: number}")
        if v.keys() != self.outputs.keys():
            raise ValueError(f"v must have a number for each of {list(self.outputs)}, got {v!r}")
        given = {name: real(f"v[{name!r}]", number) for name, number in v.items()}
        if not all(map(isfinite, given.values())):
            raise ValueError(f"v must be finite, got {v!r}")
        total, *terms = [constant(given[name]) * node for name, node in self.outputs.items()]
        for term in terms:
            total = total + term
        return Circuit(total, self.inputs)

    def traced(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs, under `jax.jit`; for circuits of up to some thousand nodes."""
        values: dict[Node, Any] = {}
        for node in self.nodes:
            if node.operation is not None:
                values[node] = node.operation.value(*[values[x] for x in node.operands])
            else:
                values[node] = inputs[node.name] if node.constant is None else node.constant
        # A constant output is a number of the inputs' precision.
        dtype = jnp.result_type(*inputs.values())
        return {name: jnp.asarray(values[node], dtype) for name, node in self.outputs.items()}

    def objective(self, params: Mapping[str, float]) -> Objective:
        """Return the objective J = L of the inputs as parameters, with the gradient circuit as ∇J.

        Parameters
        ----------
        params
            θ₀, name -> value of every input; what is not to be trained is a constant instead.

        Raises
        ------
        ValueError, CircuitDomainError
            As `evaluate`.

        >>> import flow
        >>> from flow.circuits import Circuit, variable
        >>> x = variable("x")
        >>> path = flow.integrate(Circuit(x * x / 2).objective({"x": 1.0}), t=1.0)
        >>> path.theta[-1]  # e⁻¹
        array([0.3679])
        """
        theta = dict(self.evaluate(params).inputs)
        [output] = [name for name, node in self.outputs.items() if node is self.output]
        return Objective(
            lambda p: self.traced(p)[output],
            theta,
            gradient=self.gradient().traced,
            smooth=all(n.operation is None or n.operation.smooth for n in self.nodes),
        )

    def _inputs(self, inputs: Mapping[str, float]) -> dict[str, float]:
        inputs = mapping("inputs", inputs, "{name: number}")
        names = [x.name for x in self.inputs]
        if missing := [n for n in names if n not in inputs]:
            raise ValueError(f"inputs lacks {', '.join(missing)}; the circuit's are {names}")
        if unknown := [n for n in inputs if n not in names]:
            raise ValueError(f"inputs has unknown {', '.join(unknown)}; the circuit's are {names}")
        given = {name: real(f"input {name!r}", inputs[name]) for name in names}
        for name, value in given.items():
            if not isfinite(value):
                raise ValueError(f"input {name!r} must be finite, got {value!r}")
        return given


def _node(derivative: Any) -> Node:
    return derivative if isinstance(derivative, Node) else constant(derivative)


def _topological(roots: list[Node]) -> tuple[Node, ...]:
    """Return operands before their operations, by depth-first search on a stack of its own."""
    order: dict[Node, None] = {}
    for root in roots:
        stack = [(root, iter(root.operands))]
        while stack:
            node, rest = stack[-1]
            below = next((x for x in rest if x not in order), None)
            if below is not None:
                stack.append((below, iter(below.operands)))
            else:
                order.setdefault(node)
                stack.pop()
    return tuple(order)
