"""What a layer is: a forward map and its hand-written pull-back."""

from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float


@runtime_checkable
class Layer(Protocol):
    """A layer of a chain; `stored` is whatever its backward pass needs of its forward pass."""

    parametrised: ClassVar[bool]

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the layer's parameters; an empty dict where it has none."""
        ...

    def forward(
        self, params: dict[str, Any], A: Float[Array, "in N"]
    ) -> tuple[Float[Array, "out N"], Any]:
        """Return the layer's output and what `backward` will need."""
        ...

    def backward(
        self, params: dict[str, Any], stored: Any, dA: Float[Array, "out N"]
    ) -> tuple[Float[Array, "in N"], dict[str, Any]]:
        """From ∂J/∂(output), return ∂J/∂(input) and ∂J/∂(parameters)."""
        ...
