"""Networks: a description, parameters drawn from it, and an `Objective` by hand-written backprop.

Users' data are rows. They are transposed here, once, to the columns of `flow.backprop`.
"""

from flow.networks.chebyshev import chebyshev
from flow.networks.mlp import MLP
from flow.networks.named import deep, logistic, two_layer_relu, two_three_two, two_two_two
from flow.networks.network import Network

__all__ = [
    "MLP",
    "Network",
    "chebyshev",
    "deep",
    "logistic",
    "two_layer_relu",
    "two_three_two",
    "two_two_two",
]
