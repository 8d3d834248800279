"""Batch normalisation, with the statistics of the examples at hand."""

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flow._core.checks import positive_integer
from flow.backprop.layer import Shape

# Added to the variance; Ioffe & Szegedy's ε, at the value that has become customary.
EPSILON = 1e-5


@dataclass(frozen=True, eq=False)  # two layers are the same, and tied, when they are one object
class BatchNormalisation:
    """y = γ x̂ + β with x̂ = (u − μ)/s, s = √(v + ε): every feature at mean 0 and variance 1.

    μ and v are the mean and the variance of a feature over its m entries: over all axes but the
    feature's, so over examples, and for images over positions too. They are of the examples at
    hand, in training as in evaluation: no running averages are kept, so that J is a function of θ
    and of the data alone, and its gradient flow is a flow.

    Backward pass. Lemma 1 gives ∂J/∂β = Σ ∂J/∂y and ∂J/∂γ = Σ ∂J/∂y x̂, sums over the m entries.
    Every u_i feeds every x̂_j of its feature, directly and through μ and s. From
    ∂μ/∂u_i = 1/m and ∂v/∂u_i = 2(u_i − μ)/m, hence ∂s/∂u_i = x̂_i/m,

        ∂x̂_j/∂u_i = (δ_ij − 1/m − x̂_i x̂_j/m)/s,

    and the sum over the branches j, of which ∂J/∂x̂_j = γ ∂J/∂y_j, is

        ∂J/∂u_i = (γ/s) (∂J/∂y_i − (1/m) ∂J/∂β − (x̂_i/m) ∂J/∂γ).

    Parameters
    ----------
    features
        Length of the feature axis.
    axis
        The feature axis, of A without its last axis, the examples: 0 is units of (units, N) and
        channels of (channels, height, width, N); −1 is the last one before the examples.

    Raises
    ------
    ValueError, TypeError
        `features` is no positive integer.

    References
    ----------
    Ioffe & Szegedy 2015, Batch Normalization, algorithm 1 and section 3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> norm = BatchNormalisation(1)
    >>> params = {"beta": jnp.array([10.0]), "gamma": jnp.array([2.0])}
    >>> y, stored = norm.forward(params, jnp.array([[1.0, 3.0]]))
    >>> y.round(3).tolist()
    [[8.0, 12.0]]
    """

    parametrised: ClassVar[bool] = True

    features: int
    axis: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", positive_integer("features", self.features))

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return γ = 1 and β = 0, each (features,)."""
        return {"beta": np.zeros(self.features), "gamma": np.ones(self.features)}

    def output_shape(self, shape: Shape) -> Shape:
        """Return the input's shape."""
        ndim = len(shape) - 1
        if not (-ndim <= self.axis < ndim and shape[self._feature_axis(ndim)] == self.features):
            raise ValueError(f"takes {self.features} features on axis {self.axis}")
        if prod(shape) == self.features:
            raise ValueError(
                "takes more than one entry a feature, as the variance of one is zero (give it "
                "more than one example)"
            )
        return shape

    def _feature_axis(self, ndim: int) -> int:
        return self.axis % ndim

    def _feature(self, params: Float[Array, "features"], ndim: int) -> Float[Array, "..."]:
        """Return a vector over features, to be broadcast against A."""
        shape = np.ones(ndim + 1, int)
        shape[self._feature_axis(ndim)] = self.features
        return params.reshape(tuple(shape))

    def _others(self, ndim: int) -> Shape:
        """Return all axes but the feature's."""
        return tuple(a for a in range(ndim + 1) if a != self._feature_axis(ndim))

    def forward(
        self, params: dict[str, Any], A: Float[Array, "*units N"]
    ) -> tuple[Float[Array, "*units N"], Any]:
        """Return Y = γ X̂ + β; X̂ and s are stored."""
        self.output_shape(A.shape)
        others = self._others(A.ndim - 1)
        centred = A - A.mean(others, keepdims=True)
        s = jnp.sqrt(jnp.mean(centred**2, others, keepdims=True) + EPSILON)
        normal = centred / s
        gamma, beta = (self._feature(params[name], A.ndim - 1) for name in ("gamma", "beta"))
        return gamma * normal + beta, (normal, s)

    def backward(
        self, params: dict[str, Any], stored: Any, dA: Float[Array, "*units N"]
    ) -> tuple[Float[Array, "*units N"], dict[str, Any]]:
        """Return ∂J/∂u and the gradients of β and γ, as derived above."""
        normal, s = stored
        others = self._others(dA.ndim - 1)
        dbeta = dA.sum(others, keepdims=True)
        dgamma = (dA * normal).sum(others, keepdims=True)
        m = dA.size // self.features
        gamma = self._feature(params["gamma"], dA.ndim - 1)
        dU = gamma / s * (dA - (dbeta + normal * dgamma) / m)
        return dU, {"beta": dbeta.ravel(), "gamma": dgamma.ravel()}
