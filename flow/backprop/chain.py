"""The backward pass of a chain of layers."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flow.backprop.layer import Layer, Shape
from flow.backprop.losses import Loss


@dataclass(frozen=True)
class Chain:
    """A composition of layers, first to last.

    A layer object that stands in the chain more than once is tied: it has one set of
    parameters, and the gradients of its occurrences are summed, the branch rule for a node
    that feeds several.

    Parameters of the chain are a list with one dict for each distinct layer that has any, in
    order of first appearance.

    >>> import numpy as np, jax.numpy as jnp
    >>> from flow.backprop import ACTIVATIONS, LOSSES, Linear
    >>> tied = Linear(1, 1, bias=False)
    >>> chain = Chain([tied, ACTIVATIONS["identity"], tied])  # f(x) = w²x
    >>> params = [{"W": jnp.array([[3.0]])}]
    >>> J, gradient = chain.value_and_gradient(
    ...     LOSSES["mse"], params, jnp.array([[1.0]]), jnp.array([[4.0]]))
    >>> J.item(), gradient[0]["W"].item()  # ½(w² − 4)² and 2w(w² − 4)
    (12.5, 30.0)
    """

    layers: Sequence[Layer]

    @property
    def slots(self) -> list[int | None]:
        """Return for each layer where its parameters are in the list; None where it has none."""
        seen: dict[int, int] = {}
        return [
            seen.setdefault(id(layer), len(seen)) if layer.parametrised else None
            for layer in self.layers
        ]

    def initialise(self, rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
        """Draw the parameters layer by layer, tied layers once."""
        distinct = {id(layer): layer for layer in self.layers if layer.parametrised}
        return [layer.initialise(rng) for layer in distinct.values()]

    def output_shape(self, shape: Shape) -> Shape:
        """Return the outputs' shape, from that of the inputs; examples are the last axis.

        Raises
        ------
        ValueError
            The shapes do not chain; the message names both layers and both shapes.
        """
        giver = "the data"
        for l, layer in enumerate(self.layers, 1):
            name = f"layer {l} ({getattr(layer, 'name', type(layer).__name__)})"
            try:
                shape = layer.output_shape(shape)
            except ValueError as misfit:
                raise ValueError(
                    f"{name} {misfit}, but {giver} gives {shape}; the last axis are the examples"
                ) from None
            giver = name
        return shape

    def forward(
        self, params: list[dict[str, Any]], X: Float[Array, "*inputs N"]
    ) -> tuple[Float[Array, "*outputs N"], list[Any]]:
        """Return the outputs A_L and what every layer stored."""
        self.output_shape(X.shape)
        A, stored = X, []
        for layer, slot in zip(self.layers, self.slots, strict=True):
            A, kept = layer.forward({} if slot is None else params[slot], A)
            stored.append(kept)
        return A, stored

    def backward(
        self, params: list[dict[str, Any]], stored: list[Any], dA: Float[Array, "*outputs N"]
    ) -> list[dict[str, Any]]:
        """Pull ∂J/∂A_L back through the layers, last first; return ∂J/∂params."""
        gradient: list[Any] = [None] * len(params)
        for layer, slot, kept in reversed(list(zip(self.layers, self.slots, stored, strict=True))):
            dA, term = layer.backward({} if slot is None else params[slot], kept, dA)
            if slot is not None:
                gradient[slot] = (
                    term
                    if gradient[slot] is None
                    else jax.tree.map(operator.add, gradient[slot], term)
                )
        return gradient

    def value_and_gradient(
        self,
        loss: Loss,
        params: list[dict[str, Any]],
        X: Float[Array, "*inputs N"],
        Y: Float[Array, "out N"],
    ) -> tuple[Float[Array, ""], list[dict[str, Any]]]:
        """Return J and ∂J/∂params in one forward and one backward pass."""
        A, stored = self.forward(params, X)
        return loss.value(A, Y), self.backward(params, stored, loss.cotangent(A, Y))


def columns(X: Any) -> Array:
    """Return rows of data with the examples last."""
    return jnp.moveaxis(jnp.asarray(X, jnp.float64), 0, -1)
