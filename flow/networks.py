"""Networks: a description, parameters drawn from it, and an `Objective` by hand-written backprop.

Users' data are rows. They are transposed here, once, to the columns of `flow.backprop`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flow.backprop import ACTIVATIONS, LOSSES, Activation, Chain, Linear
from flow.backprop.linear import INITIALISATIONS
from flow.checks import choice, positive, positive_integer
from flow.objective import Objective


class MLP:
    """A multi-layer perceptron: linear layers with an activation between, none after the last.

    Z_l = W_l A_{l−1} + b_l, A_l = g(Z_l), outputs Z_L.

    Parameters
    ----------
    sizes
        Units of each layer, inputs first: [64, 32, 10] has one hidden layer.
    activation
        "tanh", "sigmoid", "relu", "softplus", "gelu", "identity", or a
        `flow.backprop.Activation`, ``flow.backprop.softplus(beta=200.0)`` for instance.
    bias
        Whether layers have biases; they start at 0.
    init, gain
        W_ij ~ N(0, gain²·v): "lecun" v = 1/fan_in, "xavier" v = 2/(fan_in + fan_out),
        "he" v = 2/fan_in.

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
    ) -> None:
        self.sizes = [positive_integer(f"sizes[{i}]", n) for i, n in enumerate(sizes)]
        if len(self.sizes) < 2:  # noqa: PLR2004
            raise ValueError(f"sizes needs at least inputs and outputs, got {list(sizes)}")
        if not isinstance(activation, Activation):
            activation = ACTIVATIONS[choice("activation", activation, ACTIVATIONS)]
        choice("init", init, INITIALISATIONS)
        positive("gain", gain)
        self.activation, self.bias = activation, bias
        linear = [
            Linear(m, n, bias, init, gain)
            for m, n in zip(self.sizes[:-1], self.sizes[1:], strict=True)
        ]
        hidden = [layer for pair in linear[:-1] for layer in (pair, activation)]
        self.chain = Chain([*hidden, linear[-1]])

    def initialise(self, seed: int = 0) -> list[dict[str, np.ndarray]]:
        """Draw θ₀ from `numpy.random.default_rng(seed)`, layer by layer: [{"W", "b"}, ...]."""
        return self.chain.initialise(np.random.default_rng(seed))

    def outputs(self, params: list[dict[str, Any]], X: Any) -> Any:
        """Outputs (examples, outputs) on rows X (examples, inputs); traced by JAX."""
        return self.chain.forward(params, X.T)[0].T

    def objective(
        self, X: Any, y: Any, loss: str = "mse", seed: int = 0, dtype: str = "float64"
    ) -> Objective:
        """Return the loss on rows X (examples, inputs) and y (examples, outputs).

        Parameters
        ----------
        X, y
            Examples are rows; y may be (examples,) where the network has one output.
        loss
            "mse": ½ of the squared error summed over outputs; "cross_entropy": softmax, from
            logits; "binary_cross_entropy": from logits. Each is a mean over examples.
        seed
            Of the initial weights.
        dtype
            Precision of the computation, see `flow.Objective`.

        Raises
        ------
        ValueError
            Unknown loss; X or y does not fit the network.
        """
        function = LOSSES[choice("loss", loss, LOSSES)]
        X, y = self._rows("X", X, self.sizes[0]), self._rows("y", y, self.sizes[-1])

        def gradient(params: Any, batch: tuple[Any, Any]) -> Any:
            X, y = batch
            return self.chain.value_and_gradient(function, params, X.T, y.T)[1]

        return Objective(
            outputs=self.outputs,
            output_loss=lambda A, y: function.value(A.T, y.T),
            params=self.initialise(seed),
            data=(X, y),
            gradient=gradient,
            conserved=self._conserved(),
            smooth=self.activation.smooth or len(self.sizes) == 2,  # noqa: PLR2004
            dtype=dtype,
        )

    def _rows(self, name: str, rows: Any, width: int) -> np.ndarray:
        rows = np.asarray(rows, np.float64)
        if rows.ndim == 1 and width == 1 and name == "y":
            rows = rows[:, None]
        if rows.ndim != 2 or rows.shape[1] != width:  # noqa: PLR2004
            side = "inputs" if name == "X" else "outputs"
            one_hot = f"; classes are one-hot rows, np.eye({width})[y]" if name == "y" else ""
            raise ValueError(
                f"{name} must be (examples, {width}) for a network of {width} {side}, "
                f"got shape {rows.shape}{one_hot}"
            )
        return rows

    def _conserved(self) -> dict[str, Callable[[Any], Any]]:
        """What the flow keeps constant between adjacent layers, for any loss.

        Linear layers: W_{l+1}ᵀW_{l+1} − W_lW_lᵀ − b_lb_lᵀ (Du, Hu & Lee 2018); ReLU: its
        diagonal alone, ‖w_out‖² − ‖w_in‖² − b² of each hidden neuron.
        """
        names = {"identity": "balancedness", "relu": "neuron balance"}
        kind = names.get(self.activation.name)
        if kind is None:
            return {}

        def balance(params: Any, l: int) -> Any:
            W, b, W_next = params[l]["W"], params[l].get("b"), params[l + 1]["W"]
            B = W_next.T @ W_next - W @ W.T - (0.0 if b is None else b @ b.T)
            return B if kind == "balancedness" else jnp.diagonal(B)

        return {
            f"{kind} {l + 1}-{l + 2}": lambda params, l=l: balance(params, l)
            for l in range(len(self.sizes) - 2)
        }
