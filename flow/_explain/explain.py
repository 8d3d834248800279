"""`explain`: the forward and the backward pass of a network as a table."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flow._core.checks import flag
from flow._core.keywords import own_keywords
from flow._core.precision import double_precision
from flow._core.pytrees import to_numpy
from flow._explain.product import Factor
from flow._explain.rules import value_of
from flow._explain.table import Explanation, Row
from flow._explain.walk import moved_loss, walk
from flow._problem.data import whole
from flow._problem.leaf_check import compare_leaves
from flow._problem.objective import Objective
from flow.backprop import Loss
from flow.backprop.chain import columns
from flow.backprop.symbols import node_symbols
from flow.networks import Network

# Entries of a node that are compared with differences.
SAMPLE = 16


@own_keywords
def explain(
    network: Network | Objective,
    params: Any = None,
    X: Any = None,
    y: Any = None,
    loss: str | Loss | None = None,
    *,
    values: bool = False,
) -> Explanation:
    """Show the forward and the backward pass of a network, node by node.

    First how every layer's output comes about, with shapes, up to J. Then one row for the outputs,
    and going back for every W_l, b_l and every layer's input:
    the shape, the rule by which the gradient is found, the product with every factor's shape in
    denominator layout (∂J/∂z has the shape of z; factors append on the left) and in numerator
    layout (its transpose; they append on the right), the norm, and the relative error against
    central differences of J.

    The rule is the one that a layer of its type has; the gradient is what the layer's own
    `backward` returned, and differences judge it. So a mistake in a layer of one's own, or in a
    loss, shows in its row and in those that are computed from it.

    Parameters
    ----------
    network
        A `flow.Network` or `flow.MLP`, or an objective that one of them made.
    params
        Where; θ₀ unless given.
    X, y
        Rows, as for ``network.objective``; an objective brings its own.
    loss
        As for ``network.objective``, "mse" unless given; an objective brings its own.
    values
        Whether the numbers are shown too, of every node and of every gradient: all of them up to
        64, else the first and the last three of an axis, those after the first as one.
        ``explanation["W1"].value`` has them all.

    Returns
    -------
    Explanation
        Prints as a table; a notebook shows it as HTML; ``.to_latex()``; ``["W1"]`` is a row;
        ``.passed``, ``.wrong``; ``.dimension_puzzle("W1")``.

    Raises
    ------
    TypeError
        There are no layers to show: `network` is an objective of an opaque loss. Its gradient can
        be checked leaf by leaf, with `flow.check_gradient`.
    ValueError
        `params`, `X` or `y` does not fit the network, or J is not finite.

    Examples
    --------
    >>> import flow
    >>> print(flow.explain(flow.networks.two_two_two()))
    A₀ 2×4     X, an example a column
    Z₁ 2×4     W₁(2×2) · A₀(2×4)
    A₁ 2×4     sigmoid(Z₁(2×4))
    Z₂ 2×4     W₂(2×2) · A₁(2×4)
    A₂ 2×4     sigmoid(Z₂(2×4))
    J  scalar  1/N · ½Σ(A₂ − Y)² = 0.310754
    <BLANKLINE>
    node  forward  gradient  rule                norm    error
    J     scalar   scalar    ∂J/∂J = 1              1
    A₂    2×4      2×4       mse, batch mean   ...
          denominator  1/N · (A₂ − Y)(2×4) = 2×4
          numerator    1/N · (A₂ − Y)ᵀ(4×2) = 4×2
    Z₂    2×4      2×4       lemma 2          ...
          denominator  ∂J/∂A₂(2×4) ⊙ sigmoid′(Z₂)(2×4) = 2×4
          numerator    ∂J/∂A₂(4×2) ⊙ sigmoid′(Z₂)ᵀ(4×2) = 4×2
    W₂    2×2      2×2       lemma 1          ...
          denominator  ∂J/∂Z₂(2×4) · A₁ᵀ(4×2) = 2×2
          numerator    A₁(2×4) · ∂J/∂Z₂(4×2) = 2×2
    A₁    2×4      2×4       lemma 3          ...
          denominator  W₂ᵀ(2×2) · ∂J/∂Z₂(2×4) = 2×4
          numerator    ∂J/∂Z₂(4×2) · W₂(2×2) = 4×2
    ...
    every gradient agrees to 1e-06
    """
    flag("values", values)
    objective = _objective(network, X, y, loss)
    params = objective.params if params is None else params
    J = objective.value(params)
    if not np.isfinite(J):
        raise ValueError(f"params: the loss is {J} there; explain the network elsewhere")
    chain, function = objective.backprop
    with double_precision():
        columns_of = [columns(whole(rows)) for rows in objective.data]
        params = jax.tree.map(jnp.asarray, to_numpy(params))
        nodes = walk(chain, function, params, *columns_of)
        value = moved_loss(chain, function, params, nodes)
        checks = compare_leaves(
            value,
            [np.zeros_like(n.value) if isinstance(n.place, int) else n.value for n in nodes],
            [node.gradient for node in nodes],
            [f"∂J/∂{node.symbol}" for node in nodes],
            [node.value for node in nodes],
            sample=SAMPLE,
            examples=columns_of[0].shape[-1],
            resolution=float(np.finfo(np.float64).eps),
            data=tuple(columns_of),
        )
    rows = [
        Row(node.symbol, node.value.shape, node.rule, check, node.forward)
        for node, check in zip(nodes, checks, strict=True)
    ]
    of_J = value_of(function, Factor(nodes[0].symbol, nodes[0].value.shape))
    return Explanation(
        rows, J, columns_of[0].shape[-1], chain, node_symbols(chain), of_J, values=bool(values)
    )


def _objective(network: Any, X: Any, y: Any, loss: Any) -> Objective:
    if isinstance(network, Network):
        if X is None or y is None:
            raise TypeError("give X and y: flow.explain(network, params, X, y)")
        return network.objective(X, y, loss="mse" if loss is None else loss)
    if not isinstance(network, Objective):
        raise TypeError(
            f"network must be a flow.Network, a flow.MLP or an objective of one, got {network!r}"
        )
    if network.backprop is None:
        raise TypeError(
            "this objective's loss is a function of its own, whose layers and products cannot be "
            "seen; flow.check_gradient(objective, params) compares its gradient leaf by leaf, and "
            "flow.Network([...]).objective(X, y) has layers to explain"
        )
    if any(given is not None for given in (X, y, loss)):
        raise TypeError("an objective brings its own X, y and loss; give them with a flow.Network")
    return network
