"""Convolution over one or two spatial axes."""

from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from flow._core.checks import choice, flag, positive, positive_integer
from flow.backprop.layer import Shape
from flow.backprop.lemmas import linear_input
from flow.backprop.linear import INITIALISATIONS
from flow.backprop.windows import Windows


@dataclass(frozen=True, eq=False)  # two layers are the same, and tied, when they are one object
class Convolution:
    """Z(p) = Σ_k W(k) A(ps + k − pad) + b: one linear map at every position, its weights tied.

    A is (inputs, *space, N), Z (outputs, *positions, N), W (outputs, inputs, *window) and b
    (outputs, 1, ..., 1); k runs over the window, s is the stride, and A is zero beyond its edge.
    Channels stand first, where units stand in A (units, N), and examples last: W(k) A(·) is then
    the product of a linear layer at each position. (As elsewhere in the field the kernel is not
    reversed; in signal processing this is a correlation.)

    Backward pass, the lemmas of the linear layer at each position:

    - Lemma 1, and the branch sum of a tied weight over the positions p where it was used,
      ∂J/∂W(k) = Σ_p ∂J/∂Z(p) A(ps + k − pad)ᵀ: the correlation of A with ∂J/∂Z, whose entries
      stand s apart, over examples instead of channels; and ∂J/∂b = Σ_p ∂J/∂Z(p).
    - Lemma 3, with the branch sum of an entry q over the windows that saw it,
      ∂J/∂A(q) = Σ W(k)ᵀ ∂J/∂Z(p) over all p, k with ps + k − pad = q: the transposed convolution.

    Parameters
    ----------
    inputs, outputs
        Numbers of channels.
    window
        Of the kernel, (length,) for A (inputs, length, N), (height, width) for images.
    stride
        Of a step from position to position, likewise; 1 along each axis unless given.
    padding
        Zeros on either side of each spatial axis, likewise; none unless given.
    bias
        Whether there is a b; it starts at 0.
    init, gain
        As for `Linear`, with fan-in inputs × window and fan-out outputs × window.

    Raises
    ------
    ValueError, TypeError
        An argument is off; the message names it and the value met.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> edge = Convolution(1, 1, (2,), bias=False)
    >>> kernel = {"W": jnp.array([[[-1.0, 1.0]]])}
    >>> Z, stored = edge.forward(kernel, jnp.array([0.0, 0.0, 5.0, 5.0]).reshape(1, 4, 1))
    >>> Z.ravel().tolist()
    [0.0, 5.0, 0.0]
    >>> dA, gradient = edge.backward(kernel, stored, jnp.array([0.0, 1.0, 0.0]).reshape(1, 3, 1))
    >>> dA.ravel().tolist(), gradient["W"].ravel().tolist()
    ([0.0, -1.0, 1.0, 0.0], [0.0, 5.0])
    """

    parametrised: ClassVar[bool] = True

    inputs: int
    outputs: int
    window: Shape
    stride: Shape | None = None
    padding: Shape | None = None
    bias: bool = True
    init: str = "lecun"
    gain: float = 1.0

    def __post_init__(self) -> None:
        flag("bias", self.bias)
        for name in ("inputs", "outputs"):
            object.__setattr__(self, name, positive_integer(name, getattr(self, name)))
        object.__setattr__(self, "window", self.windows.size)
        if len(self._pads) != len(self.window) or not all(
            isinstance(n, int | np.integer) and n >= 0 for n in self._pads
        ):
            raise ValueError(
                f"padding must be a whole number, 0 or more, for each axis of the window "
                f"{self.window}, got {self.padding!r}"
            )
        choice("init", self.init, INITIALISATIONS)
        object.__setattr__(self, "gain", positive("gain", self.gain))

    @property
    def windows(self) -> Windows:
        """Return where the kernel is laid, on the padded input."""
        return Windows(self.window, self._ones if self.stride is None else self.stride)

    @property
    def _ones(self) -> Shape:
        return (1,) * np.size(self.window)

    @property
    def _pads(self) -> Shape:
        return (0,) * len(self.window) if self.padding is None else tuple(self.padding)

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw W, and set b = 0."""
        K = prod(self.window)
        variance = INITIALISATIONS[self.init](self.inputs * K, self.outputs * K)
        shape = (self.outputs, self.inputs, *self.window)
        params = {"W": self.gain * sqrt(variance) * rng.standard_normal(shape)}
        b = np.zeros((self.outputs, *self._ones, 1))
        return params | ({"b": b} if self.bias else {})

    def output_shape(self, shape: Shape) -> Shape:
        """Return (outputs, *positions, N)."""
        if len(shape) != len(self.window) + 2 or shape[0] != self.inputs:
            axes = self.windows.axes.replace("channels", f"{self.inputs}")
            raise ValueError(f"takes {axes}")
        space = (n + 2 * pad for n, pad in zip(shape[1:-1], self._pads, strict=True))
        _, *positions, N = self.windows.output_shape((shape[0], *space, shape[-1]))
        return (self.outputs, *positions, N)

    def _padded(self, A: Float[Array, "..."], sign: int = 1) -> Float[Array, "..."]:
        edges = [(0, 0, 0), *((sign * p, sign * p, 0) for p in self._pads), (0, 0, 0)]
        return lax.pad(A, jnp.zeros((), A.dtype), edges)

    def forward(
        self, params: dict[str, Any], A: Float[Array, "channels *space N"]
    ) -> tuple[Float[Array, "outputs *positions N"], Any]:
        """Return Z = W ∗ A + b; the padded A is stored."""
        A, axes = self._padded(A), "HW"[: len(self.window)]
        Z = lax.conv_general_dilated(
            A,
            params["W"],
            self.windows.stride,
            "VALID",
            dimension_numbers=(f"C{axes}N", f"OI{axes}", f"C{axes}N"),
        )
        return (Z + params["b"] if self.bias else Z), A

    def backward(
        self, params: dict[str, Any], stored: Any, dA: Float[Array, "outputs *positions N"]
    ) -> tuple[Float[Array, "channels *space N"], dict[str, Any]]:
        """Return lemma 1 for the parameters, lemma 3 for the input, at every position."""
        gradient = {"W": self._kernel_gradient(stored, dA)}
        if self.bias:
            gradient["b"] = dA.sum(tuple(range(1, dA.ndim)), keepdims=True)
        return self._input_gradient(params["W"], stored.shape, dA), gradient

    def _kernel_gradient(self, A: Float[Array, "..."], dZ: Float[Array, "..."]) -> Any:
        """Return Σ over positions and examples of ∂J/∂Z Aᵀ, at each offset."""
        axes, spatial = "HW"[: len(self.window)], range(1, A.ndim - 1)
        # Entries at the end that no window saw are cut off, or there would be offsets too many.
        seen = [
            (dZ.shape[a] - 1) * self.windows.stride[a - 1] + self.window[a - 1] for a in spatial
        ]
        A = lax.slice(A, (0,) * A.ndim, (A.shape[0], *seen, A.shape[-1]))
        # Examples are summed over, as channels are in the forward pass: they are the feature C of
        # this convolution, and channels its batch N.
        return lax.conv_general_dilated(
            A,
            dZ,
            self._ones,
            "VALID",
            rhs_dilation=self.windows.stride,
            dimension_numbers=(f"N{axes}C", f"O{axes}I", f"CN{axes}"),
        )

    def _input_gradient(self, W: Float[Array, "..."], shape: Shape, dZ: Any) -> Any:
        """Return Wᵀ ∂J/∂Z at each position, added up where each window was taken from."""
        taken = linear_input(W.reshape(self.outputs, -1), dZ.reshape(self.outputs, -1))
        by_offset = taken.reshape(self.inputs, self.windows.count, *dZ.shape[1:]).swapaxes(0, 1)
        return self._padded(self.windows.pull_back(by_offset, shape), -1)
