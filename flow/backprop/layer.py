"""The protocol of a layer: a forward map and its hand-written pull-back."""

from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Array, Float

Shape: TypeAlias = tuple[int, ...]


@runtime_checkable
class Layer(Protocol):
    """A layer of a chain; `stored` is whatever its backward pass needs of its forward pass.

    Examples are the last axis of what goes in and of what comes out: (units, N), or for images
    (channels, height, width, N).
    """

    parametrised: ClassVar[bool]

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the layer's parameters; an empty dict where it has none."""
        ...

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output's shape; ValueError "takes ..." where an input does not fit."""
        ...

    def forward(
        self, params: dict[str, Any], A: Float[Array, "*inputs N"]
    ) -> tuple[Float[Array, "*outputs N"], Any]:
        """Return the layer's output and what `backward` will need."""
        ...

    def backward(
        self, params: dict[str, Any], stored: Any, dA: Float[Array, "*outputs N"]
    ) -> tuple[Float[Array, "*inputs N"], dict[str, Any]]:
        """Return ∂J/∂(input) and ∂J/∂(parameters), from ∂J/∂(output)."""
        ...
