"""Layers that read the same numbers in another shape."""

from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from flow._core.checks import instance, positive_integer
from flow.backprop.layer import Shape


@dataclass(frozen=True)
class Reshape:
    """An example in another shape: (64,) as the image (1, 8, 8), for instance.

    The map is a permutation of coordinates, the identity in row-major order, so its transpose,
    the backward pass, is the reshape back. Examples are the last axis and stay where they are.

    Parameters
    ----------
    shape
        Of one example, (channels, height, width) for an image.

    Raises
    ------
    ValueError, TypeError
        A length is no positive integer.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> A, stored = Reshape((1, 2, 2)).forward({}, jnp.arange(8.0).reshape(4, 2))
    >>> A[0, :, :, 0].tolist()
    [[0.0, 2.0], [4.0, 6.0]]
    """

    parametrised: ClassVar[bool] = False

    shape: Shape

    def __post_init__(self) -> None:
        instance("shape", self.shape, tuple | list, "a tuple of lengths, (1, 8, 8)")
        lengths = enumerate(self.shape)
        shape = tuple(positive_integer(f"shape[{i}]", length) for i, length in lengths)
        object.__setattr__(self, "shape", shape)

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return no parameters."""
        return {}

    def output_shape(self, shape: Shape) -> Shape:
        """Return (*self.shape, N)."""
        if prod(shape[:-1]) != prod(self.shape):
            raise ValueError(f"takes {prod(self.shape)} numbers an example, for {self.shape}")
        return (*self.shape, shape[-1])

    def forward(
        self, params: dict[str, Any], A: Float[Array, "*inputs N"]
    ) -> tuple[Float[Array, "*outputs N"], Any]:
        """Return the shape of the input is stored."""
        return A.reshape(self.output_shape(A.shape)), A.shape

    def backward(
        self, params: dict[str, Any], stored: Any, dA: Float[Array, "*outputs N"]
    ) -> tuple[Float[Array, "*inputs N"], dict[str, Any]]:
        """Return ∂J/∂(input) is ∂J/∂(output) in the input's shape."""
        return dA.reshape(stored), {}


@dataclass(frozen=True)
class Flatten(Reshape):
    """Each example as one column: (channels, height, width, N) becomes (units, N).

    Between convolutions and linear layers; row-major, the width running fastest.

    Examples
    --------
    >>> Flatten().output_shape((4, 3, 3, 20))
    (36, 20)
    """

    shape: Shape = field(init=False, default=())

    def output_shape(self, shape: Shape) -> Shape:
        """Return (units, N)."""
        return (prod(shape[:-1]), shape[-1])
