"""The rule of each layer's backward pass: its lemma, and the product with every shape."""

from dataclasses import dataclass
from functools import singledispatch
from math import prod
from typing import Any

from flow._core.display import visible
from flow._explain.product import Factor, Product, Rule
from flow.backprop import (
    Activation,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Linear,
    Loss,
    MaxPooling,
    Reshape,
)

# Of flow.backprop.LOSSES; A stands for the outputs.
_RESIDUALS = {
    "mse": "(A − Y)",
    "cross_entropy": "(softmax(A) ⊙ ΣY − Y)",
    "binary_cross_entropy": "(sigmoid(A) − Y)",
    "log_likelihood": "(Y − sigmoid(A))",
}
# N·J likewise, behind its sign.
_VALUES = {
    "mse": "½Σ(A − Y)²",
    "cross_entropy": "Σ Y ⊙ log(softmax(A))",
    "binary_cross_entropy": "Σ(Y ⊙ log(p) + (1 − Y) ⊙ log(1 − p)), p = sigmoid(A)",
    "log_likelihood": "Σ(Y ⊙ log(p) + (1 − Y) ⊙ log(1 − p)), p = sigmoid(A)",
}


@dataclass(frozen=True)
class Step:
    """A layer between two nodes, as the backward pass meets it.

    Attributes
    ----------
    input
        u, the layer's input.
    output
        ∂J/∂(output), shaped like the output.
    params
        The layer's parameters by key.
    """

    input: Factor
    output: Factor
    params: dict[str, Factor]


Rules = tuple[Rule, dict[str, Rule]]


def matrix_product(*factors: Factor) -> tuple[Product]:
    """Return one term, factors multiplied as matrices."""
    return (Product(factors, "·"),)


def entrywise(*factors: Factor) -> tuple[Product]:
    """Return one term, factors multiplied entry by entry."""
    return (Product(factors, "⊙"),)


def of_loss(loss: Loss, outputs: Factor) -> Rule:
    """Return ∂J/∂A_L = (1/N)·residual: the mean over examples, once for the whole pass."""
    text = _RESIDUALS.get(loss.name, "residual(A, Y)").replace("A", outputs.symbol)
    factors = Factor("1/N", ()), Factor(text, outputs.shape)
    return Rule(f"{visible(loss.name)}, batch mean", matrix_product(*factors))


def value_of(loss: Loss, outputs: Factor) -> Rule:
    """Return J, the mean over examples."""
    text = _VALUES.get(loss.name, "loss(A, Y)").replace("A", outputs.symbol)
    sign = "−" if loss.name in {"cross_entropy", "binary_cross_entropy"} else ""
    return Rule(visible(loss.name), matrix_product(Factor(f"{sign}1/N", ()), Factor(text, ())))


@singledispatch
def forward(_layer: Any, u: Factor, _params: dict[str, Factor]) -> Rule:
    """Return the rule of a layer's output; of an unknown layer, its own."""
    return Rule("the layer's own", matrix_product(u), "forward")


@forward.register
def _(layer: Linear, u: Factor, params: dict[str, Factor]) -> Rule:
    scale = [] if layer.factor == 1.0 else [Factor("σ", ())]
    b = matrix_product(params["b"]) if "b" in params else ()
    return Rule("linear", (*matrix_product(*scale, params["W"], u), *b))


@forward.register
def _(layer: Activation, u: Factor, _params: dict[str, Factor]) -> Rule:
    return Rule("elementwise", matrix_product(u), visible(layer.name))


@forward.register
def _(_layer: Convolution, u: Factor, params: dict[str, Factor]) -> Rule:
    b = matrix_product(params["b"]) if "b" in params else ()
    return Rule("convolution", (Product((params["W"], u), "∗"), *b))


@forward.register
def _(_layer: AveragePooling, u: Factor, _params: dict[str, Factor]) -> Rule:
    return Rule("average pooling", matrix_product(u), "mean")


@forward.register
def _(_layer: MaxPooling, u: Factor, _params: dict[str, Factor]) -> Rule:
    return Rule("max pooling", matrix_product(u), "max")


@forward.register
def _(_layer: BatchNormalisation, u: Factor, params: dict[str, Factor]) -> Rule:
    normal = Factor("X̂", u.shape)
    terms = (*entrywise(params["gamma"], normal), *matrix_product(params["beta"]))
    return Rule("batch normalisation", terms)


@forward.register
def _(_layer: Reshape, u: Factor, _params: dict[str, Factor]) -> Rule:
    return Rule("the same numbers", matrix_product(u), "reshape")


@singledispatch
def rules(_layer: Any, step: Step) -> Rules:
    """Return the rules of a layer's input, and of its parameters by key."""
    own = Rule("the layer's own", matrix_product(step.output), "backward")
    return own, dict.fromkeys(step.params, own)


@rules.register
def _(layer: Linear, step: Step) -> Rules:
    dz, u = step.output, step.input
    ones = Factor("1", (u.shape[-1], 1))
    scale = [] if layer.factor == 1.0 else [Factor("σ", ())]
    return Rule("lemma 3", matrix_product(*scale, step.params["W"].T, dz)), {
        "W": Rule("lemma 1", matrix_product(*scale, dz, u.T)),
        "b": Rule("lemma 1, sum over examples", matrix_product(dz, ones)),
    }


@rules.register
def _(layer: Activation, step: Step) -> Rules:
    slope = Factor(f"{visible(layer.name)}′({step.input.symbol})", step.input.shape)
    return Rule("lemma 2", entrywise(step.output, slope)), {}


@rules.register
def _(layer: Convolution, step: Step) -> Rules:
    """Return windows as columns, one for each position and example: then it is a linear layer."""
    columns = prod(step.output.shape[1:])
    dz = Factor(f"[{step.output.symbol}]", (layer.outputs, columns))
    window = layer.inputs * prod(layer.window)
    u = Factor(f"[{step.input.symbol}]", (window, columns))
    W = Factor(f"[{step.params['W'].symbol}]", (layer.outputs, window))
    ones = Factor("1", (columns, 1))
    return Rule("lemma 3, branch sum over windows", matrix_product(W.T, dz), "fold"), {
        "W": Rule("lemma 1, branch sum over positions", matrix_product(dz, u.T), "reshape"),
        "b": Rule("lemma 1, branch sum over positions", matrix_product(dz, ones), "reshape"),
    }


@rules.register
def _(layer: AveragePooling, step: Step) -> Rules:
    share = Factor(f"1/{prod(layer.window)}", ())
    name = "lemma 3, branch sum over windows"
    return Rule(name, matrix_product(share, step.output), "fold"), {}


@rules.register
def _(_layer: MaxPooling, step: Step) -> Rules:
    place = Factor("[largest at k]", step.output.shape)
    return Rule("to the largest of each window", entrywise(place, step.output), "fold"), {}


@rules.register
def _(layer: BatchNormalisation, step: Step) -> Rules:
    dy, gamma, beta = step.output, step.params["gamma"], step.params["beta"]
    normal = Factor("X̂", dy.shape)
    axis = layer.axis % (len(dy.shape) - 1)
    feature = tuple(n if a == axis else 1 for a, n in enumerate(dy.shape))
    spread = f"({dy.symbol} − ∂J/∂{beta.symbol}/m − X̂ ⊙ ∂J/∂{gamma.symbol}/m)"
    through = entrywise(Factor(f"({gamma.symbol}/s)", feature), Factor(spread, dy.shape))
    return Rule("branch sum through mean and variance", through), {
        "gamma": Rule("lemma 1, sum over m entries", entrywise(dy, normal), "Σ"),
        "beta": Rule("lemma 1, sum over m entries", entrywise(dy), "Σ"),
    }


@rules.register
def _(_layer: Reshape, step: Step) -> Rules:
    return Rule("the same numbers", matrix_product(step.output), "reshape"), {}
