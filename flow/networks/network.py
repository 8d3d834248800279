"""A chain of any layers as a network."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flow._core.checks import choice, numbers, random_seed, several
from flow._core.display import cut
from flow._core.keywords import own_keywords
from flow._problem.objective import Objective
from flow.backprop import ACTIVATIONS, LOSSES, Chain, Layer, Loss
from flow.backprop.layer import Shape


@own_keywords
class Network:
    """A chain of layers of `flow.backprop`, first to last, and its objective.

    Users' rows become columns here: the first axis of X, the examples, goes last. X (N, 64) meets
    the layers as (64, N), and X (N, channels, height, width) as (channels, height, width, N), so
    that channels stand where units stand. Rows of pixels, X (N, 64), become images by
    ``Reshape((1, 8, 8))`` as the first layer; images with channels last, (N, height, width,
    channels), by ``np.moveaxis(X, -1, 1)``.

    Parameters
    ----------
    layers
        Of `flow.backprop`, or the name of an activation. A layer object that stands more than
        once is tied: it has one set of parameters.

    Raises
    ------
    TypeError, ValueError
        Something is no layer, or an activation is unknown.

    Examples
    --------
    >>> import flow
    >>> from flow.backprop import AveragePooling, Convolution, Flatten, Linear, Reshape
    >>> X, y = flow.datasets.digits(100)
    >>> network = flow.Network([
    ...     Reshape((1, 8, 8)),
    ...     Convolution(1, 4, (3, 3)),  # (4, 6, 6, N)
    ...     "tanh",
    ...     AveragePooling((2, 2)),  # (4, 3, 3, N)
    ...     Flatten(),
    ...     Linear(36, 10),
    ... ])
    >>> objective = network.objective(X, y, loss="cross_entropy", seed=0)
    >>> [{name: leaf.shape for name, leaf in layer.items()} for layer in objective.params]
    [{'W': (4, 1, 3, 3), 'b': (4, 1, 1, 1)}, {'W': (10, 36), 'b': (10, 1)}]
    """

    def __init__(self, layers: Sequence[Layer | str]) -> None:
        found = [
            ACTIVATIONS[choice(f"layers[{i}]", layer, ACTIVATIONS)]
            if isinstance(layer, str)
            else layer
            for i, layer in enumerate(several("layers", layers, "a list of layers"))
        ]
        for i, layer in enumerate(found):
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"layers[{i}] must be a layer of flow.backprop or the name of an activation, "
                    f"got {layer!r}"
                )
        if not found:
            raise ValueError(f"layers is empty; it needs at least one, got {layers!r}")
        self.chain = Chain(found)

    def __repr__(self) -> str:
        """Return a line a layer, cut."""
        layers = self.chain.layers
        return cut(
            "\n".join([f"{type(self).__name__} of {len(layers)} layers", *map(repr, layers)])
        )

    def initialise(self, seed: int = 0) -> list[dict[str, np.ndarray]]:
        """Draw θ₀ from `numpy.random.default_rng(seed)`, layer by layer: [{"W", "b"}, ...].

        The seed is an integer from 0 to 2³² − 1, here and elsewhere in flow: None, which would draw
        something else each time, is refused.
        """
        return self.chain.initialise(np.random.default_rng(random_seed(seed)))

    def outputs(self, params: list[dict[str, Any]], X: Any) -> Any:
        """Return outputs (examples, outputs) on rows X (examples, ...); traced by JAX."""
        return self.chain.forward(params, jnp.moveaxis(X, 0, -1))[0].T

    @own_keywords
    def objective(
        self,
        X: Any,
        y: Any,
        loss: str | Loss = "mse",
        seed: int = 0,
        dtype: str = "float64",
        device: Any = None,
        batch_chunk: int | None = None,
        mesh: Any = None,
    ) -> Objective:
        """Return the loss on rows X (examples, ...) and y (examples, outputs).

        Parameters
        ----------
        X, y
            Examples are rows; y may be (examples,) where the network has one output.
        loss
            "mse": ½ of the squared error summed over outputs; "cross_entropy": softmax, from
            logits; "binary_cross_entropy": from logits; "log_likelihood": its negative, to be
            maximised (``ascent=True``); or a `flow.backprop.Loss`. Each is a mean over examples.
        seed
            Of the initial weights.
        dtype, device, batch_chunk, mesh
            Precision of the computation, where it is, and how the examples are split, see
            `flow.Objective`.

        Raises
        ------
        ValueError
            Unknown loss; X or y does not fit the network; layers do not fit each other.
        """
        function = loss if isinstance(loss, Loss) else LOSSES[choice("loss", loss, LOSSES)]
        X, y = numbers("X", X, bools=True), numbers("y", y, bools=True)
        y = as_outputs(y, self._output_width(X.shape))

        def gradient(params: Any, batch: tuple[Any, Any]) -> Any:
            X, y = batch
            return self.chain.value_and_gradient(function, params, jnp.moveaxis(X, 0, -1), y.T)[1]

        objective = Objective(
            outputs=self.outputs,
            output_loss=lambda A, y: function.value(A.T, y.T),
            params=self.initialise(seed),
            data=(X, y),
            gradient=gradient,
            conserved=self._conserved(),
            smooth=all(getattr(layer, "smooth", True) for layer in self.chain.layers),
            dtype=dtype,
            device=device,
            batch_chunk=batch_chunk,
            mesh=mesh,
        )
        objective.backprop = self.chain, function
        return objective

    def _output_width(self, shape: Shape) -> int:
        """Return number of outputs on rows of that shape."""
        outputs = self.chain.output_shape((*shape[1:], *shape[:1]))
        if len(outputs) != 2:  # noqa: PLR2004
            raise ValueError(
                f"the last layer gives {outputs}, but a loss needs (outputs, N); end with "
                "Flatten(), or with a Linear after it"
            )
        return outputs[0]

    def _conserved(self) -> dict[str, Callable[[Any], Any]]:
        """Return what the flow keeps constant; nothing is known of a network in general."""
        return {}


def as_outputs(y: np.ndarray, width: int) -> np.ndarray:
    """Return targets as rows (examples, width); refuse any other shape."""
    if y.ndim == 1 and width == 1:
        return y[:, None]
    if y.ndim != 2 or y.shape[1] != width:  # noqa: PLR2004
        raise ValueError(
            f"y must be (examples, {width}) for a network of {width} outputs, got shape "
            f"{y.shape}; classes are one-hot rows, np.eye({width})[y]"
        )
    return y
