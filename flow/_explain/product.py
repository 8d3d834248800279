"""Products of matrices written out with the shape of every factor, in both layouts."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import numpy as np

from flow._core.display import latex_text
from flow.backprop.layer import Shape
from flow.backprop.symbols import latex, shape_text


@dataclass(frozen=True)
class Factor:
    """A symbol and its shape; a number, 1/N for instance, has the shape ().

    >>> Factor("W₂", (2, 3)).T
    Factor(symbol='W₂ᵀ', shape=(3, 2))
    """

    symbol: str
    shape: Shape

    @property
    def T(self) -> "Factor":  # noqa: N802
        """Return the transpose; more than two axes are reversed.

        A derivative ∂J/∂z keeps its symbol: which of both shapes it has is what a layout says.
        """
        if self.shape == () or "∂J/∂" in self.symbol:
            symbol = self.symbol
        else:
            symbol = self.symbol[:-1] if self.symbol.endswith("ᵀ") else f"{self.symbol}ᵀ"
        return Factor(symbol, self.shape[::-1])

    def text(self) -> str:
        """Return ``W₂ᵀ(3×2)``."""
        return self.symbol if self.shape == () else f"{self.symbol}({shape_text(self.shape)})"

    def latex(self) -> str:
        """Return the symbol with its shape below."""
        if self.shape == ():
            return latex(self.symbol)
        return rf"\underset{{{latex(shape_text(self.shape))}}}{{{latex(self.symbol)}}}"

    def html(self) -> str:
        """Return the symbol with its shape in a lower grey."""
        if self.shape == ():
            return escape(self.symbol)
        return f'{escape(self.symbol)}<sub style="color:#777">{shape_text(self.shape)}</sub>'


@dataclass(frozen=True)
class Product:
    """Factors joined by one operator: "·", the product of matrices, or "⊙", of their entries.

    >>> wrong = Product((Factor("δ", (2, 1)), Factor("W₂", (2, 3))), "·")
    >>> wrong.shape
    Traceback (most recent call last):
        ...
    ValueError: δ(2×1) · W₂(2×3) does not multiply: 1 column against 2 rows
    """

    factors: tuple[Factor, ...]
    operator: str

    @property
    def shape(self) -> Shape:
        """Return the result's shape.

        Raises
        ------
        ValueError
            The factors do not multiply; the two that do not are named.
        """
        if self.operator == "⊙":
            return np.broadcast_shapes(*[f.shape for f in self.factors])
        total, *rest = [f for f in self.factors if f.shape != ()]
        shape = total.shape
        for left, right in zip([total, *rest], rest, strict=False):
            if shape[-1] != right.shape[0]:
                columns = "1 column" if shape[-1] == 1 else f"{shape[-1]} columns"
                rows = "1 row" if right.shape[0] == 1 else f"{right.shape[0]} rows"
                raise ValueError(
                    f"{left.text()} · {right.text()} does not multiply: {columns} against {rows}"
                )
            shape = (*shape[:-1], *right.shape[1:])
        return shape

    def transposed(self) -> "Product":
        """Return (AB)ᵀ = BᵀAᵀ, (A ⊙ B)ᵀ = Aᵀ ⊙ Bᵀ; numbers stay in front."""
        numbers = [f for f in self.factors if f.shape == ()]
        turned = [f.T for f in self.factors if f.shape != ()]
        return Product(
            (*numbers, *(turned[::-1] if self.operator == "·" else turned)), self.operator
        )

    def text(self) -> str:
        """Return text for a terminal."""
        return f" {self.operator} ".join(f.text() for f in self.factors)


@dataclass(frozen=True)
class Rule:
    """The rule by which a node's gradient is found: a name, and terms that add.

    Attributes
    ----------
    name
        The lemma.
    terms
        Products; more than one where branches add.
    of
        What is done with the sum: "fold" adds every window's share to where it was taken from,
        "reshape" puts it in the variable's shape, "Σ" sums to it; "" is nothing.
    """

    name: str
    terms: tuple[Product, ...]
    of: str = ""

    def transposed(self) -> "Rule":
        """Return the same in the other layout."""
        return Rule(self.name, tuple(t.transposed() for t in self.terms), self.of)

    def text(self) -> str:
        """Return text for a terminal."""
        return self._written(Factor.text, " ")

    def html(self) -> str:
        """Return HTML for a notebook."""
        return self._written(Factor.html, " ", escape(self.of))

    def latex(self) -> str:
        """Return LaTeX for a paper, in mathematics mode."""
        of = rf"\mathrm{{{latex_text(self.of)}}}" if self.of.isascii() else latex(self.of)
        return self._written(Factor.latex, r"\, ", of, latex)

    def _written(
        self,
        factor: Callable[[Factor], str],
        space: str,
        of: str | None = None,
        operator: Callable[[str], str] = str,
    ) -> str:
        terms = [
            f"{space}{operator(t.operator)}{space}".join(map(factor, t.factors)) for t in self.terms
        ]
        total = " + ".join(terms)
        return f"{self.of if of is None else of}({total})" if self.of else total
