"""Windows that slide over the spatial axes of A (channels, *space, N)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flow._core.checks import positive_integer
from flow.backprop.layer import Shape


@dataclass(frozen=True)
class Windows:
    """Windows of one size at a stride; those that would reach over the end are left out.

    Position p, offset k: the window at p sees A[p·stride + k], along each spatial axis.

    Parameters
    ----------
    size
        Of a window, (length,) or (height, width).
    stride
        Of a step from window to window, likewise.

    Raises
    ------
    ValueError, TypeError
        A size or a stride is no positive integer, or there is not one for each axis.
    """

    size: Shape
    stride: Shape

    def __post_init__(self) -> None:
        for name, field in (("window", "size"), ("stride", "stride")):
            lengths = getattr(self, field)
            if not isinstance(lengths, tuple) or len(lengths) not in {1, 2}:
                raise ValueError(
                    f"{name} must be (length,) or (height, width), for one or two spatial axes, "
                    f"got {lengths!r}"
                )
            whole = (positive_integer(f"{name}[{i}]", n) for i, n in enumerate(lengths))
            object.__setattr__(self, field, tuple(whole))
        if len(self.size) != len(self.stride):
            raise ValueError(f"window {self.size} and stride {self.stride} differ in their axes")

    @property
    def axes(self) -> str:
        """Return what an input's axes are, for messages."""
        return ("(channels, length, N)", "(channels, height, width, N)")[len(self.size) - 1]

    @property
    def count(self) -> int:
        """Return entries in a window."""
        return prod(self.size)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one entry a window; ValueError where no window fits."""
        if len(shape) != len(self.size) + 2:
            raise ValueError(f"takes {self.axes}")
        space = shape[1:-1]
        if any(n < k for n, k in zip(space, self.size, strict=True)):
            raise ValueError(f"takes {self.axes} no smaller than its window {self.size}")
        steps = [(n - k) // s + 1 for n, k, s in zip(space, self.size, self.stride, strict=True)]
        return (shape[0], *steps, shape[-1])

    def views(self, A: Float[Array, "channels *space N"]) -> Iterator[Float[Array, "..."]]:
        """Yield for each offset in a window, row-major, what all the windows see there."""
        shape = self.output_shape(A.shape)
        for offset in product(*map(range, self.size)):
            ends = [
                k + (n - 1) * s + 1
                for k, n, s in zip(offset, shape[1:-1], self.stride, strict=True)
            ]
            yield lax.slice(
                A, (0, *offset, 0), (A.shape[0], *ends, A.shape[-1]), (1, *self.stride, 1)
            )

    def pull_back(self, dviews: Any, shape: Shape) -> Float[Array, "channels *space N"]:
        """Return the transpose of `views`: each entry gets the sum over the windows that saw it.

        Windows that overlap are branches of one node, whose terms add.
        """
        space, positions = shape[1:-1], self.output_shape(shape)[1:-1]
        lengths = list(zip(space, positions, self.stride, strict=True))

        def placed(offset: Shape, dview: Any) -> Any:
            edges = [
                (k, n - k - (m - 1) * s - 1, s - 1)
                for k, (n, m, s) in zip(offset, lengths, strict=True)
            ]
            zero = jnp.zeros((), dview.dtype)
            return lax.pad(dview, zero, [(0, 0, 0), *edges, (0, 0, 0)])

        return sum(map(placed, product(*map(range, self.size)), dviews))
