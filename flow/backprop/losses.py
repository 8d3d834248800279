"""Losses as forward/backward pairs: J and ∂J/∂A_L, which carries the 1/N of the mean."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flow._core.display import Shown
from flow._core.pickling import Travels


@dataclass(frozen=True)
class Loss(Shown, Travels):
    """A loss of outputs A (outputs, N) and targets Y (outputs, N), a mean over the N columns.

    Parameters
    ----------
    name
        What users type.
    summed
        (A, Y) ↦ the loss summed over outputs and examples.
    residual
        (A, Y) ↦ its derivative by A, (outputs, N).
    """

    name: str
    summed: Callable[[Array, Array], Array]
    residual: Callable[[Array, Array], Array]

    def value(self, A: Float[Array, "out N"], Y: Float[Array, "out N"]) -> Float[Array, ""]:
        """Return J = (1/N) Σ over examples."""
        return self.summed(A, Y) / A.shape[1]

    def cotangent(
        self, A: Float[Array, "out N"], Y: Float[Array, "out N"]
    ) -> Float[Array, "out N"]:
        """Return ∂J/∂A = (1/N)·residual."""
        return self.residual(A, Y) / A.shape[1]


_MSE = Loss("mse", lambda A, Y: 0.5 * jnp.sum((A - Y) ** 2), lambda A, Y: A - Y)

# Canonical links: from the logits the residual is (prediction − target), and nothing overflows.
_CROSS_ENTROPY = Loss(
    "cross_entropy",
    lambda A, Y: -jnp.sum(Y * jax.nn.log_softmax(A, axis=0)),
    # ΣY = 1 for one-hot targets; the factor keeps the derivative exact for any other.
    lambda A, Y: jax.nn.softmax(A, axis=0) * jnp.sum(Y, axis=0) - Y,
)
_BINARY_CROSS_ENTROPY = Loss(
    "binary_cross_entropy",
    lambda A, Y: jnp.sum(jnp.logaddexp(A, 0.0) - Y * A),
    lambda A, Y: jax.nn.sigmoid(A) - Y,
)

# The negative of binary cross-entropy, to be maximised: y log p + (1 − y) log(1 − p) at
# p = sigmoid(A), where log p = −log(1 + e^{−A}) and log(1 − p) = −log(1 + e^A).
_LOG_LIKELIHOOD = Loss(
    "log_likelihood",
    lambda A, Y: jnp.sum(Y * A - jnp.logaddexp(A, 0.0)),
    lambda A, Y: Y - jax.nn.sigmoid(A),
)

LOSSES: dict[str, Loss] = {
    loss.name: loss for loss in (_MSE, _CROSS_ENTROPY, _BINARY_CROSS_ENTROPY, _LOG_LIKELIHOOD)
}
