"""A walk back through a chain, keeping what `Chain.backward` passes on."""

from dataclasses import dataclass
from operator import add
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from flow._explain.product import Factor, Rule
from flow._explain.rules import Step, forward, of_loss, rules
from flow.backprop import Chain, Loss
from flow.backprop.symbols import node_symbols, parameter_symbol


@dataclass(frozen=True, eq=False)
class Node:
    """A variable of the forward pass, and ∂J/∂ it from the layers' own backward passes.

    Attributes
    ----------
    symbol
        Its name.
    place
        Where it is: the number of layers before an activation, or (slot, key) of a parameter.
    value, gradient
        Numbers, of one shape.
    rule
        How the gradient comes about.
    forward
        How the value does; None of what is given, a parameter or the inputs.
    """

    symbol: str
    place: int | tuple[int, str]
    value: Float[np.ndarray, "..."]
    gradient: Float[np.ndarray, "..."]
    rule: Rule
    forward: Rule | None = None


def walk(
    chain: Chain,
    loss: Loss,
    params: list[dict[str, Any]],
    X: Float[Array, "*inputs N"],
    Y: Float[Array, "out N"],
) -> list[Node]:
    """Return every node, in the order in which the backward pass finds its gradient.

    Gradients of a tied layer's parameters stand where the last of their terms is known.
    """
    symbols, slots = node_symbols(chain), chain.slots
    values, stored = [X], []
    for layer, slot in zip(chain.layers, slots, strict=True):
        A, kept = layer.forward({} if slot is None else params[slot], values[-1])
        values.append(A)
        stored.append(kept)
    factors = [Factor(s, A.shape) for s, A in zip(symbols, values, strict=True)]
    owners = {slot: symbols[l + 1] for l, slot in reversed(list(enumerate(slots)))}

    def named(l: int) -> dict[str, Factor]:
        own = {} if slots[l] is None else params[slots[l]]
        return {k: Factor(parameter_symbol(k, owners[slots[l]]), p.shape) for k, p in own.items()}

    made = [None, *(forward(layer, factors[l], named(l)) for l, layer in enumerate(chain.layers))]
    gradient = loss.cotangent(values[-1], Y)
    of_output = of_loss(loss, factors[-1])
    nodes = [_node(factors[-1], len(slots), values[-1], gradient, of_output, made[-1])]
    terms: dict[int, list[tuple[dict, dict]]] = {}
    for l, (layer, slot) in reversed(list(enumerate(zip(chain.layers, slots, strict=True)))):
        own = {} if slot is None else params[slot]
        outer = Factor(f"∂J/∂{symbols[l + 1]}", values[l + 1].shape)
        of_input, of_params = rules(layer, Step(factors[l], outer, named(l)))
        gradient, term = layer.backward(own, stored[l], gradient)
        if slot is not None:
            terms.setdefault(slot, []).append((term, of_params))
            if symbols[l + 1] == owners[slot]:
                nodes += [_node(f, (slot, k), own[k], *_sum(terms[slot], k))
                          for k, f in named(l).items()]  # fmt: skip
        nodes.append(_node(factors[l], l, values[l], gradient, of_input, made[l]))
    return nodes


def moved_loss(chain: Chain, loss: Loss, params: list[dict[str, Any]], nodes: list[Node]) -> Any:
    """Return J as a function of every node at once, a list of arrays like `nodes`, and of (X, Y).

    An activation is moved by what is added to it, so that all nodes after it follow; a parameter
    takes the value itself.
    """

    def value(moved: list[Array], data: tuple[Array, Array]) -> Array:
        X, Y = data
        places = dict(zip((node.place for node in nodes), moved, strict=True))
        A = X + places[0]
        for l, (layer, slot) in enumerate(zip(chain.layers, chain.slots, strict=True), 1):
            own = {} if slot is None else {k: places[slot, k] for k in params[slot]}
            A = layer.forward(own, A)[0] + places[l]
        return loss.value(A, Y)

    return value


def _sum(terms: list[tuple[dict, dict]], key: str) -> tuple[Array, Rule]:
    """Return the gradient and the rule of a parameter used once, or more than once."""
    gradient = terms[0][0][key]
    for term, _ in terms[1:]:
        gradient = jax.tree.map(add, gradient, term[key])
    rule = terms[0][1][key]
    if len(terms) > 1:
        products = tuple(p for _, of_params in terms for p in of_params[key].terms)
        rule = Rule(f"branch sum over {len(terms)} uses, {rule.name}", products, rule.of)
    return gradient, rule


def _node(
    factor: Factor, place: Any, value: Any, gradient: Any, rule: Rule, made: Rule | None = None
) -> Node:
    value, gradient = np.asarray(value, np.float64), np.asarray(gradient, np.float64)
    if gradient.shape != value.shape:
        raise ValueError(
            f"∂J/∂{factor.symbol} has shape {gradient.shape}, but {factor.symbol} has "
            f"{value.shape}: a layer's backward pass must return gradients in their variables' "
            "shapes"
        )
    return Node(factor.symbol, place, value, gradient, rule, made)
