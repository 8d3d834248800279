"""Elementwise activations: a = σ(z) and its slope σ′(z)."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, Float

from flow._core.checks import positive, real
from flow._core.display import Shown
from flow._core.pickling import Travels
from flow.backprop.layer import Shape
from flow.backprop.lemmas import through_activation


@dataclass(frozen=True)
class Activation(Shown, Travels):
    """An elementwise layer a = σ(z), whose backward pass is lemma 2.

    Parameters
    ----------
    name
        What messages and figures call it.
    value
        z ↦ σ(z).
    slope
        (z, a) ↦ σ′(z); a = σ(z) is handed over because tanh′ and sigmoid′ are cheapest from it.
    smooth
        False where σ has a kink: error-controlled integrators stall there.
    homogeneous
        Whether σ(cz) = cσ(z) for every c > 0: then each hidden neuron has a conserved quantity.
    """

    parametrised: ClassVar[bool] = False

    name: str
    value: Callable[[Array], Array]
    slope: Callable[[Array, Array], Array]
    smooth: bool = True
    homogeneous: bool = False

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return no parameters."""
        return {}

    def output_shape(self, shape: Shape) -> Shape:
        """Return the input's shape."""
        return shape

    def forward(
        self,
        params: dict[str, Any],
        A: Float[Array, "*units N"],
    ) -> tuple[Float[Array, "*units N"], Any]:
        """Return a = σ(z); z and a are stored."""
        a = self.value(A)
        return a, (A, a)

    def backward(
        self,
        params: dict[str, Any],
        stored: Any,
        dA: Float[Array, "*units N"],
    ) -> tuple[Float[Array, "*units N"], dict[str, Any]]:
        """Return ∂J/∂z = ∂J/∂a ⊙ σ′(z)."""
        return through_activation(dA, self.slope(*stored)), {}


def softplus(beta: float = 1.0) -> Activation:
    """Return σ(z) = log(1 + e^{βz})/β with slope sigmoid(βz); β → ∞ is ReLU without its kink.

    >>> softplus(beta=200.0).value(0.5).item()
    0.5
    """
    beta = positive("softplus: beta", beta)
    return Activation(
        f"softplus(beta={beta:g})",
        lambda z: jnp.logaddexp(beta * z, 0.0) / beta,
        lambda z, a: jax.nn.sigmoid(beta * z),
    )


def leaky_relu(negative: float = 0.01) -> Activation:
    """Return σ(z) = z where z > 0, else `negative`·z (Maas et al. 2013); at 0 its slope is 1.

    >>> leaky_relu(negative=0.1).value(-2.0).item()
    -0.2
    """
    negative = real("leaky_relu: negative", negative)
    if not np.isfinite(negative):
        raise ValueError(f"leaky_relu: negative must be a finite slope, got {negative!r}")
    return Activation(
        f"leaky_relu(negative={negative:g})",
        lambda z: jax.nn.leaky_relu(z, negative),
        lambda z, a: jnp.where(z >= 0, 1.0, negative).astype(z.dtype),
        smooth=False,
        homogeneous=True,
    )


def _normal_cdf(z: Array) -> Array:
    return 0.5 * (1.0 + erf(z / sqrt(2.0)))


_TANH = Activation("tanh", jnp.tanh, lambda z, a: 1.0 - a * a)
_SIGMOID = Activation("sigmoid", jax.nn.sigmoid, lambda z, a: a * (1.0 - a))
# At the kink the subgradient is 0, that of jax.nn.relu; the second derivative (the JVP of this
# pass) takes it from the forward map too, of which jnp.maximum would make ½.
_RELU = Activation(
    "relu",
    jax.nn.relu,
    lambda z, a: (z > 0).astype(z.dtype),
    smooth=False,
    homogeneous=True,
)
# The exact one, zΦ(z), of Hendrycks & Gimpel 2016, not its tanh approximation.
_GELU = Activation(
    "gelu",
    lambda z: z * _normal_cdf(z),
    lambda z, a: _normal_cdf(z) + z * jnp.exp(-0.5 * z * z) / sqrt(2.0 * pi),
)
_IDENTITY = Activation("identity", lambda z: z, lambda z, a: jnp.ones_like(z), homogeneous=True)

ACTIVATIONS: dict[str, Activation] = {
    a.name: a for a in (_TANH, _SIGMOID, _RELU, _GELU, _IDENTITY)
} | {"softplus": softplus(), "leaky_relu": leaky_relu()}
