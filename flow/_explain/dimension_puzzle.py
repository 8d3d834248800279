"""The dimension puzzle: why factors in the order in which they are met do not multiply."""

from collections.abc import Sequence
from dataclasses import dataclass

from flow._core.display import visible
from flow._explain.product import Factor, Product
from flow.backprop import Activation, Chain, Linear
from flow.backprop.layer import Shape
from flow.backprop.symbols import parameter_symbol, shape_text


@dataclass(frozen=True, repr=False)
class DimensionPuzzle:
    """The factors of ∂J/∂W for one example, in the wrong order and in the right ones.

    Attributes
    ----------
    symbol, shape
        W, and its shape.
    met
        Its factors in the order in which the chain rule meets them, last layer first.
    denominator, numerator
        The right orders, with shapes.
    """

    symbol: str
    shape: Shape
    met: Product
    denominator: str
    numerator: str

    @property
    def multiplies(self) -> bool:
        """Return whether the factors multiply as they are met, to the shape of W."""
        return self.verdict.startswith("multiplies to")

    @property
    def verdict(self) -> str:
        """Return which two factors do not multiply, or what they multiply to."""
        try:
            shape = self.met.shape
        except ValueError as misfit:
            return str(misfit)
        if shape == self.shape:
            return f"multiplies to {shape_text(shape)}, the shape of {self.symbol}"
        return (
            f"multiplies, but to {shape_text(shape)}, and {self.symbol} is {shape_text(self.shape)}"
        )

    def __str__(self) -> str:
        shapes = " · ".join(shape_text(f.shape) for f in self.met.factors)
        turned = shape_text(self.shape[::-1])
        return "\n".join(
            [
                f"∂J/∂{self.symbol} of one example",
                f"in the order met  {self.met.text()}",
                f"                  {shapes}",
                f"                  {self.verdict}",
                f"denominator       {self.denominator} = {shape_text(self.shape)}",
                f"numerator         {self.numerator} = {turned}",
            ]
        )

    __repr__ = __str__


def dimension_puzzle(
    chain: Chain, symbols: Sequence[str], shapes: Sequence[Shape], residual: str, l: int
) -> DimensionPuzzle:
    """Return the puzzle of layer l's weights (from 0); from there on all is linear or elementwise.

    In denominator layout ∂J/∂u = (∂z/∂u)(∂J/∂z): factors append on the left, and ∂z/∂u is Wᵀ.
    In numerator layout they append on the right, and ∂z/∂u is W.
    """
    after = chain.layers[l + 1 :]
    if not all(isinstance(layer, Linear | Activation) for layer in after):
        raise ValueError(
            "the puzzle is of linear layers and activations; between this weight and the loss "
            f"there are {[type(layer).__name__ for layer in after]}"
        )
    # Shapes for one example: columns of length 1.
    delta = Factor(residual, (shapes[-1][0], 1))
    met, right, left = [delta], delta.text(), delta.T.text()
    for k in range(len(chain.layers) - 1, l, -1):
        layer, u = chain.layers[k], symbols[k]
        if isinstance(layer, Linear):
            W = Factor(parameter_symbol("W", symbols[k + 1]), (layer.outputs, layer.inputs))
            right, left = f"({W.T.text()} · {right})", f"({left} · {W.text()})"
            met.append(W)
        else:
            slope = Factor(f"{visible(layer.name)}′({u})", (shapes[k][0], 1))
            right, left = f"({right} ⊙ {slope.text()})", f"({left} ⊙ {slope.T.text()})"
            met.append(slope)
    weights = chain.layers[l]
    A = Factor(symbols[l], (weights.inputs, 1))
    return DimensionPuzzle(
        parameter_symbol("W", symbols[l + 1]),
        (weights.outputs, weights.inputs),
        Product((*_merged(met), A.T), "·"),
        f"{right} · {A.T.text()}",
        f"{A.text()} · {left}",
    )


def _merged(met: list[Factor]) -> list[Factor]:
    """Return the residual and the slopes right after it as one column, entry by entry."""
    k = next((k for k, f in enumerate(met) if k and "′(" not in f.symbol), len(met))
    if k == 1:
        return met
    head = Factor(f"({' ⊙ '.join(f.symbol for f in met[:k])})", met[0].shape)
    return [head, *met[k:]]
