"""A multi-layer perceptron."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from flow._core.checks import choice, flag, positive_integer, several
from flow._core.keywords import own_keywords
from flow.backprop import ACTIVATIONS, Activation, Linear
from flow.backprop.layer import Shape
from flow.networks.network import Network


@own_keywords
class MLP(Network):
    """A multi-layer perceptron: linear layers with an activation between, none after the last.

    Z_l = W_l A_{l−1} + b_l, A_l = g(Z_l), outputs Z_L.

    Parameters
    ----------
    sizes
        Units of each layer, inputs first: [64, 32, 10] has one hidden layer.
    activation
        "tanh", "sigmoid", "relu", "leaky_relu", "softplus", "gelu", "identity", or a
        `flow.backprop.Activation`, ``flow.backprop.softplus(beta=200.0)`` for instance.
    bias
        Whether layers have biases; they start at 0.
    init, gain
        W_ij ~ N(0, gain²·v): "lecun" v = 1/fan_in, "xavier" v = 2/(fan_in + fan_out),
        "he" v = 2/fan_in, "normal" v = 1.
    parameterisation
        "ntk": W_ij ~ N(0, 1), multiplied by gain·√v in the forward pass; see
        `flow.backprop.Linear`.

    Examples
    --------
    >>> import flow
    >>> X, y = flow.datasets.digits(300)
    >>> objective = flow.MLP([64, 32, 10], activation="tanh").objective(X, y, loss="mse", seed=0)
    >>> objective.size
    2410
    >>> [{name: leaf.shape for name, leaf in layer.items()} for layer in objective.params]
    [{'W': (32, 64), 'b': (32, 1)}, {'W': (10, 32), 'b': (10, 1)}]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | Activation = "tanh",
        bias: bool = True,
        init: str = "lecun",
        gain: float = 1.0,
        parameterisation: str = "standard",
    ) -> None:
        given = several("sizes", sizes, "a list of numbers of units")
        self.sizes = [positive_integer(f"sizes[{i}]", n) for i, n in enumerate(given)]
        if len(self.sizes) < 2:  # noqa: PLR2004
            raise ValueError(f"sizes needs at least inputs and outputs, got {given}")
        if not isinstance(activation, Activation):
            activation = ACTIVATIONS[choice("activation", activation, ACTIVATIONS)]
        self.activation, self.bias = activation, flag("bias", bias)
        linear = [
            Linear(m, n, self.bias, init, gain, parameterisation)
            for m, n in zip(self.sizes[:-1], self.sizes[1:], strict=True)
        ]
        hidden = [layer for pair in linear[:-1] for layer in (pair, activation)]
        super().__init__([*hidden, linear[-1]])

    def _output_width(self, shape: Shape) -> int:
        if len(shape) != 2 or shape[1] != self.sizes[0]:  # noqa: PLR2004
            raise ValueError(
                f"X must be (examples, {self.sizes[0]}) for a network of {self.sizes[0]} inputs, "
                f"got shape {shape}"
            )
        return self.sizes[-1]

    def _conserved(self) -> dict[str, Callable[[Any], Any]]:
        """Return what the flow keeps constant between adjacent layers, for any loss.

        Linear layers: W_{l+1}ᵀW_{l+1} − W_lW_lᵀ − b_lb_lᵀ (Du, Hu & Lee 2018); any homogeneous
        activation, ReLU and leaky ReLU: its diagonal alone, ‖w_out‖² − ‖w_in‖² − b² of each
        hidden neuron. Along −∇J, θ·∂J/∂θ of what leads in and of what leads out are the same.
        """
        if not self.activation.homogeneous:
            return {}
        linear = self.activation.name == "identity"
        kind = "balancedness" if linear else "neuron balance"

        def balance(params: Any, l: int) -> Any:
            W, b, W_next = params[l]["W"], params[l].get("b"), params[l + 1]["W"]
            B = W_next.T @ W_next - W @ W.T - (0.0 if b is None else b @ b.T)
            return B if linear else jnp.diagonal(B)

        return {
            f"{kind} {l + 1}-{l + 2}": lambda params, l=l: balance(params, l)
            for l in range(len(self.sizes) - 2)
        }
