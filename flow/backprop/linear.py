"""The linear layer Z = W A + b."""

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from flow._core.checks import choice, flag, positive, positive_integer
from flow.backprop.layer import Shape
from flow.backprop.lemmas import linear_input, linear_parameters

# Variance of an entry of W, before gain², from fan-in m and fan-out n.
INITIALISATIONS = {
    "lecun": lambda m, n: 1.0 / m,
    "xavier": lambda m, n: 2.0 / (m + n),
    "he": lambda m, n: 2.0 / m,
    "normal": lambda m, n: 1.0,
}
PARAMETERISATIONS = ["standard", "ntk"]


@dataclass(frozen=True, eq=False)  # two layers are the same, and tied, when they are one object
class Linear:
    """Z = W A + b with W (outputs, inputs) and b (outputs, 1), broadcast over examples.

    Parameters
    ----------
    inputs, outputs
        Numbers of units, m and n.
    bias
        Whether there is a b; it starts at 0.
    init
        W_ij ~ N(0, gain²·v): "lecun" v = 1/m, "xavier" v = 2/(m + n), "he" v = 2/m,
        "normal" v = 1.
    gain
        Factor on the standard deviation.
    parameterisation
        "standard"; or "ntk", Z = σW A + b with σ = gain·√v and W_ij ~ N(0, 1): the same network at
        θ₀, whose tangent kernel has a limit as the width grows (Jacot, Gabriel, Hongler 2018).

    Raises
    ------
    ValueError, TypeError
        An argument is off; the message names it and the value met.
    """

    parametrised: ClassVar[bool] = True

    inputs: int
    outputs: int
    bias: bool = True
    init: str = "lecun"
    gain: float = 1.0
    parameterisation: str = "standard"

    def __post_init__(self) -> None:
        flag("bias", self.bias)
        for name in ("inputs", "outputs"):
            object.__setattr__(self, name, positive_integer(name, getattr(self, name)))
        choice("init", self.init, INITIALISATIONS)
        object.__setattr__(self, "gain", positive("gain", self.gain))
        choice("parameterisation", self.parameterisation, PARAMETERISATIONS)

    @property
    def deviation(self) -> float:
        """Return σ = gain·√v."""
        return self.gain * sqrt(INITIALISATIONS[self.init](self.inputs, self.outputs))

    @property
    def factor(self) -> float:
        """Return what W is multiplied by: 1, or σ."""
        return self.deviation if self.parameterisation == "ntk" else 1.0

    def output_shape(self, shape: Shape) -> Shape:
        """Return (outputs, N)."""
        if len(shape) != 2 or shape[0] != self.inputs:  # noqa: PLR2004
            raise ValueError(f"takes ({self.inputs}, N)")
        return (self.outputs, shape[1])

    def initialise(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw W, and set b = 0."""
        scale = self.deviation / self.factor
        params = {"W": scale * rng.standard_normal((self.outputs, self.inputs))}
        return params | ({"b": np.zeros((self.outputs, 1))} if self.bias else {})

    def forward(
        self, params: dict[str, Any], A: Float[Array, "in N"]
    ) -> tuple[Float[Array, "out N"], Any]:
        """Return Z = W A + b; A is stored, by its factor."""
        A = A if self.factor == 1.0 else self.factor * A
        Z = params["W"] @ A
        return (Z + params["b"] if self.bias else Z), A

    def backward(
        self, params: dict[str, Any], stored: Any, dA: Float[Array, "out N"]
    ) -> tuple[Float[Array, "in N"], dict[str, Any]]:
        """Return lemma 1 for the parameters, lemma 3 for the input."""
        dW, db = linear_parameters(dA, stored)
        dA = dA if self.factor == 1.0 else self.factor * dA
        return linear_input(params["W"], dA), {"W": dW} | ({"b": db} if self.bias else {})
