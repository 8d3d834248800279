"""The small networks that backprop is taught with, each an objective on a small fixed data set."""

import numpy as np

from flow._core.checks import choice, positive_integer
from flow._core.keywords import own_keywords
from flow._problem.objective import Objective
from flow.backprop import ACTIVATIONS, Linear
from flow.networks.mlp import MLP
from flow.networks.network import Network

# Corners of a square, none of them at the kink of a ReLU without bias; and two truth tables.
CORNERS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
XOR, AND = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0])


def two_three_two(hidden: str = "relu") -> Objective:
    """Return 2-3-2: ŷ = σ(W₂ g(W₁x + b₁) + b₂), J = ½ Σ (ŷ − y)², a mean over four examples.

    Backward, in denominator layout: dZ₂ = (ŷ − y) ⊙ ŷ ⊙ (1 − ŷ), and
    ∂J/∂W₁ = ((W₂ᵀ dZ₂) ⊙ g′(Z₁)) A₀ᵀ; in the order in which they are met the factors do not
    multiply. The outputs learn exclusive or, and and. With "sigmoid" g′(Z₁) = A₁ ⊙ (1 − A₁), and
    the flow has no kinks.

    Parameters
    ----------
    hidden
        g, the hidden units' activation: "relu", "sigmoid" or another that `flow.MLP` takes.

    >>> two_three_two().size  # W₁ (3, 2), b₁, W₂ (2, 3), b₂
    17
    >>> two_three_two(hidden="sigmoid").smooth, two_three_two().smooth
    (True, False)
    """
    hidden = choice("hidden", hidden, ACTIVATIONS)
    network = Network([Linear(2, 3), hidden, Linear(3, 2), "sigmoid"])
    return network.objective(CORNERS, np.stack([XOR, AND], axis=1), loss="mse")


def two_layer_relu() -> Objective:
    """Return 1-4-1: h = W₂ ReLU(W₁x + b₁) + b₂, J = ½ (y − h)², a mean over 8 of y = x².

    Each hidden neuron conserves ‖w_in‖² + b² − ‖w_out‖² along the flow.

    >>> list(two_layer_relu().conserved)
    ['neuron balance 1-2']
    """
    x = np.linspace(-1.0, 1.0, 8)[:, None]
    return MLP([1, 4, 1], activation="relu").objective(x, x**2, loss="mse")


def two_two_two() -> Objective:
    """Return 2-2-2, sigmoid and sigmoid, no biases: J = ½ Σ (ŷ − y)², a mean over four examples.

    θ is (w₁, ..., w₈): w₁, w₂ lead to the first hidden unit, w₃, w₄ to the second; w₅, w₆ to the
    first output, w₇, w₈ to the second. Each hidden activation branches to both outputs, and the
    two terms of its derivative add: ∂J/∂a₁ = w₅ ∂J/∂z₁ + w₇ ∂J/∂z₂, one row of W₂ᵀ dZ₂.

    >>> two_two_two().size
    8
    """
    layers = [Linear(2, 2, bias=False), "sigmoid", Linear(2, 2, bias=False), "sigmoid"]
    return Network(layers).objective(CORNERS, np.stack([XOR, AND], axis=1), loss="mse")


def logistic() -> Objective:
    """Return 2-3-1: p = σ(w₂ᵀ σ(W₁x)), no biases, and J the mean log-likelihood, to be maximised.

    J = mean of y log p + (1 − y) log(1 − p), computed from the logits z = w₂ᵀ σ(W₁x) as
    yz − log(1 + eᶻ), which does not overflow; ∂J/∂z = (y − p)/N. The network's outputs are the
    logits. It is climbed: ``flow.GradientFlow(objective, ascent=True)`` and
    ``flow.descend(objective, ..., ascent=True)``.

    >>> import flow
    >>> path = flow.integrate(flow.GradientFlow(logistic(), ascent=True), t=10.0)
    >>> bool(path.loss[0] < path.loss[-1] < 0)
    True
    """
    layers = [Linear(2, 3, bias=False), "sigmoid", Linear(3, 1, bias=False)]
    return Network(layers).objective(CORNERS, AND, loss="log_likelihood")


@own_keywords
def deep(depth: int = 4) -> Objective:
    """Return L layers, ReLU hidden and a sigmoid output, with binary cross-entropy on 32 examples.

    Points of a square, of class 1 outside a disc; hidden layers have 8 units. The sigmoid is part
    of the loss, the canonical link, so that ∂J/∂z_L = (ŷ − y)/N and nothing overflows; the
    network's outputs are the logits. Mini-batches of N columns are drawn by
    ``flow.descend(objective, ..., batch_size=N)``.

    Parameters
    ----------
    depth
        L, at least 1.

    >>> [layer["W"].shape for layer in deep(3).params]
    [(8, 2), (8, 8), (1, 8)]
    """
    depth = positive_integer("depth", depth)
    X = np.random.default_rng(0).uniform(-1.0, 1.0, (32, 2))
    y = (np.linalg.norm(X, axis=1) > 0.75).astype(float)  # noqa: PLR2004
    network = MLP([2] + [8] * (depth - 1) + [1], activation="relu", init="he")
    return network.objective(X, y, loss="binary_cross_entropy")
