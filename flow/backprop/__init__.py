"""Layers as forward/backward pairs, the three lemmas, and the backward pass of a chain.

Examples are columns here, as in the derivation: A (units, examples), W (out, in),
Z = W A + b; of images A is (channels, height, width, examples). Every gradient has the shape of its
variable (denominator layout).
"""

from flow.backprop.activations import ACTIVATIONS, Activation, leaky_relu, softplus
from flow.backprop.batch_normalisation import BatchNormalisation
from flow.backprop.chain import Chain
from flow.backprop.convolution import Convolution
from flow.backprop.flatten import Flatten, Reshape
from flow.backprop.layer import Layer
from flow.backprop.lemmas import linear_input, linear_parameters, through_activation
from flow.backprop.linear import Linear
from flow.backprop.losses import LOSSES, Loss
from flow.backprop.pooling import AveragePooling, MaxPooling

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "Activation",
    "AveragePooling",
    "BatchNormalisation",
    "Chain",
    "Convolution",
    "Flatten",
    "Layer",
    "Linear",
    "Loss",
    "MaxPooling",
    "Reshape",
    "leaky_relu",
    "linear_input",
    "linear_parameters",
    "softplus",
    "through_activation",
]
