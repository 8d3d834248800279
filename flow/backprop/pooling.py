"""Max and average pooling over windows of one or two spatial axes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flow.backprop.layer import Shape
from flow.backprop.windows import Windows


@dataclass(frozen=True)
class _Pooling:
    """Windows without parameters; the stride is the window unless given."""

    parametrised: ClassVar[bool] = False

    window: Shape
    stride: Shape | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", self.windows.size)

    @property
    def windows(self) -> Windows:
        """Return where the windows are."""
        return Windows(self.window, self.window if self.stride is None else self.stride)

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return no parameters."""
        return {}

    def output_shape(self, shape: Shape) -> Shape:
        """Return (channels, *positions, N)."""
        return self.windows.output_shape(shape)


@dataclass(frozen=True)
class AveragePooling(_Pooling):
    """The mean over each window, of every channel apart.

    a(p) = (1/K) Σ_k u(ps + k) over the K entries k of the window at position p, s the stride. It
    is linear, and lemma 3 gives ∂J/∂u(q) = (1/K) Σ ∂J/∂a(p) over the windows p that hold q.

    Parameters
    ----------
    window
        (length,) for A (channels, length, N), (height, width) for A (channels, height, width, N).
    stride
        Likewise; the window itself unless given, so that windows tile. Entries at the end that
        fill no window are left out.

    Raises
    ------
    ValueError, TypeError
        A size or a stride is no positive integer.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> pool = AveragePooling((2,))
    >>> a, shape = pool.forward({}, jnp.array([1.0, 3.0, 5.0, 9.0]).reshape(1, 4, 1))
    >>> a.ravel().tolist()
    [2.0, 7.0]
    >>> pool.backward({}, shape, jnp.array([1.0, 10.0]).reshape(1, 2, 1))[0].ravel().tolist()
    [0.5, 0.5, 5.0, 5.0]
    """

    def forward(
        self, params: dict[str, Any], A: Float[Array, "channels *space N"]
    ) -> tuple[Float[Array, "channels *positions N"], Any]:
        """Return the means; the shape of the input is stored."""
        return sum(self.windows.views(A)) / self.windows.count, A.shape

    def backward(
        self, params: dict[str, Any], stored: Any, dA: Float[Array, "channels *positions N"]
    ) -> tuple[Float[Array, "channels *space N"], dict[str, Any]]:
        """Return ∂J/∂u: each entry gets 1/K of ∂J/∂a from every window that holds it."""
        K = self.windows.count
        return self.windows.pull_back([dA / K] * K, stored), {}


@dataclass(frozen=True)
class MaxPooling(_Pooling):
    """The largest entry of each window, of every channel apart.

    a(p) = u(ps + k*), with k* the place of the largest entry in the window at position p, s the
    stride. Near u the place stays the same, so a(p) is one entry of u and ∂J/∂a(p) goes to it
    alone: ∂J/∂u(q) = Σ ∂J/∂a(p) over the windows p whose largest entry is q.

    Where two entries are largest a has a kink and no derivative. The subgradient taken gives all
    to the first in row-major order, as the derivative of JAX's `reduce_window` does; the second
    derivative follows the same choice.

    Parameters
    ----------
    window
        (length,) for A (channels, length, N), (height, width) for A (channels, height, width, N).
    stride
        Likewise; the window itself unless given, so that windows tile. Entries at the end that
        fill no window are left out.

    Raises
    ------
    ValueError, TypeError
        A size or a stride is no positive integer.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> pool = MaxPooling((2,))
    >>> a, stored = pool.forward({}, jnp.array([1.0, 3.0, 5.0, 5.0]).reshape(1, 4, 1))
    >>> a.ravel().tolist()
    [3.0, 5.0]
    >>> pool.backward({}, stored, jnp.array([1.0, 10.0]).reshape(1, 2, 1))[0].ravel().tolist()
    [0.0, 1.0, 10.0, 0.0]
    """

    smooth: ClassVar[bool] = False

    def forward(
        self, params: dict[str, Any], A: Float[Array, "channels *space N"]
    ) -> tuple[Float[Array, "channels *positions N"], Any]:
        """Return the largest entries, and what is stored: their places and the input's shape."""
        first, *others = self.windows.views(A)
        largest, place = first, jnp.zeros(first.shape, jnp.int32)
        for k, view in enumerate(others, 1):
            # A selection, and not jnp.maximum, of which the JVP would make halves at a tie. The
            # second condition lets NaN through.
            larger = (view > largest) | (view != view)  # noqa: PLR0124
            largest, place = jnp.where(larger, view, largest), jnp.where(larger, k, place)
        return largest, (place, A.shape)

    def backward(
        self, params: dict[str, Any], stored: Any, dA: Float[Array, "channels *positions N"]
    ) -> tuple[Float[Array, "channels *space N"], dict[str, Any]]:
        """Return ∂J/∂a goes to the entry that was largest."""
        place, shape = stored
        dviews = (jnp.where(place == k, dA, 0.0) for k in range(self.windows.count))
        return self.windows.pull_back(dviews, shape), {}
