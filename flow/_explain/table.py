"""`Explanation`: both passes as a table, for terminals, notebooks and papers."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from flow._core.checks import instance
from flow._core.display import latex_text
from flow._explain.dimension_puzzle import DimensionPuzzle, dimension_puzzle
from flow._explain.product import Rule
from flow._problem.leaf_check import TOLERANCE, LeafCheck
from flow.backprop import Chain, Linear
from flow.backprop.layer import Shape
from flow.backprop.symbols import latex, plain, shape_text

# Numbers of a node that are shown, and the columns of a terminal that they may take.
ENTRIES, ROWS, WIDTH = 64, 12, 80
_HEAD = ("node", "forward", "gradient", "rule", "norm", "error")


@dataclass(frozen=True, eq=False)
class Row:
    """A node of the backward pass.

    Attributes
    ----------
    symbol, shape
        The node's name, and its shape, which its gradient has too.
    rule
        The lemma and its product in denominator layout; ``rule.transposed()`` in numerator layout.
    check
        The gradient beside central differences: ``.gradient``, ``.norm``, ``.error``,
        ``.diagnosis``.
    forward
        How the value comes about; None of what is given, a parameter or the inputs.
    """

    symbol: str
    shape: Shape
    rule: Rule
    check: LeafCheck
    forward: Rule | None = None

    @property
    def value(self) -> np.ndarray:
        """Return the node's numbers."""
        return self.check.variable

    @property
    def gradient_shape(self) -> Shape:
        """Return the shape in denominator layout; it is reversed in numerator layout."""
        return self.check.gradient.shape

    def cells(self) -> tuple[str, ...]:
        """Return the symbol, forward shape, gradient's shape, rule, norm, relative error."""
        check = self.check
        error = "below floor" if check.below_floor and not check.error < TOLERANCE else ""
        return (
            self.symbol,
            shape_text(self.shape),
            shape_text(self.gradient_shape),
            self.rule.name,
            f"{check.norm:.4g}",
            error or f"{check.error:.1e}",
        )


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Both passes of a network, as a table; ``explanation["W1"]`` is a row.

    Attributes
    ----------
    rows
        One a node, in the order of the backward pass; J itself, with ∂J/∂J = 1, is not among them.
    loss
        J.
    examples
        N.
    values
        Whether the nodes' numbers are shown.
    """

    rows: Sequence[Row]
    loss: float
    examples: int
    chain: Chain
    symbols: Sequence[str]
    of_loss: Rule
    values: bool = False

    def __getitem__(self, symbol: str) -> Row:
        """Return the row of a node: "W1" or "W₁", "gamma1" or "γ₁", "Zhat1" or "Ẑ₁"."""
        instance("symbol", symbol, str, "a node's name")
        for row in self.rows:
            if plain(row.symbol) == plain(symbol):
                return row
        raise KeyError(f"no node {symbol!r}; there are {', '.join(r.symbol for r in self.rows)}")

    @property
    def passed(self) -> bool:
        """Return whether every gradient agrees with central differences."""
        return all(row.check.passed for row in self.rows)

    @property
    def wrong(self) -> list[Row]:
        """Return the rows that fail; the first is where the backward pass, on its way, went wrong.

        Or of which no entry could be compared, behind units that are dead for instance.
        """
        return [row for row in self.rows if not row.check.passed]

    def dimension_puzzle(self, symbol: str) -> DimensionPuzzle:
        """Return the factors of a weight's gradient in the order found, and in one that multiplies.

        For one example, and linear layers and activations between the weight and the loss.

        Raises
        ------
        KeyError, ValueError
            `symbol` is no node, or not the weights of a linear layer used once, or layers of
            other kinds follow it.

        >>> import flow
        >>> print(flow.explain(flow.networks.two_three_two()).dimension_puzzle("W1"))
        ∂J/∂W₁ of one example
        in the order met  ((A₂ − Y) ⊙ sigmoid′(Z₂))(2×1) · W₂(2×3) · relu′(Z₁)(3×1) · A₀ᵀ(1×2)
                          2×1 · 2×3 · 3×1 · 1×2
                          ((A₂ − Y) ⊙ sigmoid′(Z₂))(2×1) · W₂(2×3) does not multiply: 1 column ...
        denominator       ((W₂ᵀ(3×2) · ((A₂ − Y)(2×1) ⊙ ...)) ⊙ relu′(Z₁)(3×1)) · A₀ᵀ(1×2) = 3×2
        numerator         A₀(2×1) · ((((A₂ − Y)ᵀ(1×2) ⊙ ...) · W₂(2×3)) ⊙ relu′(Z₁)ᵀ(1×3)) = 2×3
        """
        row = self[symbol]
        uses = [
            l
            for l, layer in enumerate(self.chain.layers)
            if isinstance(layer, Linear) and row.symbol == f"W{self.symbols[l + 1][1:]}"
        ]
        tied = [
            layer for layer in self.chain.layers if uses and layer is self.chain.layers[uses[0]]
        ]
        if len(tied) != 1:
            raise ValueError(f"{symbol!r} is not the weights of a linear layer that is used once")
        shapes = [self[s].shape for s in self.symbols]
        residual = self.rows[0].rule.terms[0].factors[-1].symbol
        return dimension_puzzle(self.chain, self.symbols, shapes, residual, uses[0])

    def forward(self) -> list[tuple[str, str, str, Row | None]]:
        """Return symbol, shape, formula and row of each node in forward order; J is last.

        Parameters stand among them, ahead of the first node that they make, where values are shown.
        """
        *_, X = self.rows
        lines, given = [(X.symbol, shape_text(X.shape), "X, an example a column", X)], []
        for row in reversed(self.rows[:-1]):
            if row.forward is None:
                given.insert(0, (row.symbol, shape_text(row.shape), "given", row))
                continue
            lines += given if self.values else []
            lines.append((row.symbol, shape_text(row.shape), row.forward.text(), row))
            given = []
        return [*lines, ("J", "scalar", f"{self.of_loss.text()} = {self.loss:.6g}", None)]

    def _forward_text(self) -> list[str]:
        """Return the forward pass, a line or more a node."""
        found = self.forward()
        wide, long = (max(len(line[i]) for line in found) for i in (0, 1))
        lines = []
        for symbol, shape, text, row in found:
            lines.append(f"{symbol:{wide}} {shape:{long}}  {text}")
            if self.values and row is not None:
                lines.append(_numbers(row.value, wide + 1))
        return lines

    def __str__(self) -> str:
        cells = [_HEAD, ("J", "scalar", "scalar", "∂J/∂J = 1", "1", "")]
        cells += [row.cells() for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(w) if i >= len(_HEAD) - 2 else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        indent = " " * (widths[0] + 2)
        for i, row in enumerate(self.rows):
            lines[i + 2] += (
                f"\n{indent}denominator  {row.rule.text()} = {shape_text(row.shape)}"
                f"\n{indent}numerator    {row.rule.transposed().text()} = "
                f"{shape_text(row.shape[::-1])}"
            )
            if self.values:
                lines[i + 2] += f"\n{_numbers(row.check.gradient, widths[0] + 2)}"
        return "\n".join([*self._forward_text(), "", *lines, *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        columns = (*_HEAD, "denominator layout", "numerator layout", *["value"] * self.values)
        head = "".join(f"<th>{h}</th>" for h in columns)
        one = ("J", "scalar", "scalar", "∂J/∂J = 1", "1", "", "", "", *["1"] * self.values)
        body = [one] + [
            (
                *map(escape, row.cells()),
                row.rule.html(),
                row.rule.transposed().html(),
                *[f"<pre>{_numbers(row.check.gradient)}</pre>"] * self.values,
            )
            for row in self.rows
        ]
        wrong = {escape(row.symbol) for row in self.wrong}
        rows = "".join(
            ('<tr style="color:#b00">' if line[0] in wrong else "<tr>")
            + "".join(f'<td style="text-align:left">{cell}</td>' for cell in line)
            + "</tr>"
            for line in body
        )
        notes = "<br>".join(map(escape, self._notes()))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        forward = escape("\n".join(self._forward_text()))
        return f"<pre>{forward}</pre>{table}<p>{notes}</p>"

    def to_latex(self) -> str:
        """Return the backward pass as a ``tabular`` with a row a node; needs amsmath."""
        head = (
            r"node & shape & rule & denominator layout & numerator layout & norm & error \\ \hline"
        )
        lines = []
        for row in self.rows:
            symbol, shape, _, rule, norm, error = row.cells()
            cells = [
                f"${latex(symbol)}$",
                f"${latex(shape)}$",
                latex_text(rule),
                f"${row.rule.latex()}$",
                f"${row.rule.transposed().latex()}$",
                norm,
                error,
            ]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([r"\begin{tabular}{lllllrr}", head, *lines, r"\end{tabular}"])

    def _notes(self) -> list[str]:
        notes = [f"J = {self.loss:.6g}, a mean over N = {self.examples}"]
        written = " ".join(row.rule.text() for row in self.rows)
        if "fold(" in written:
            notes.append(
                "[·]: windows as columns, k a place in a window;\n"
                "fold: every window's share added to where it was taken from"
            )
        if "X̂" in written:
            notes.append("X̂, s: normalised inputs and √(variance + ε); m: entries a feature")
        k = max(row.check.entries.size for row in self.rows)
        sampled = any(row.check.entries.size < row.check.gradient.size for row in self.rows)
        notes.append(
            "error: against central differences"
            + (f";\nof nodes with more than {k} entries, {k} and a direction" if sampled else "")
        )
        left_out = sum(int((~row.check.resolved).sum()) for row in self.rows)
        if left_out:
            notes.append(f"entries left out, at a kink or where J is not finite nearby: {left_out}")
        if self.passed:
            notes.append(f"every gradient agrees to {TOLERANCE:g}")
        return notes + [f"∂J/∂{row.symbol}: {row.check.diagnosis}" for row in self.wrong]


def _numbers(array: np.ndarray, indent: int = 0) -> str:
    """Return all entries of a small array, else the first and last, axes 1, ... as one."""
    flat = array.reshape(len(array), -1) if array.ndim > 2 else array  # noqa: PLR2004
    text = np.array2string(
        flat + 0.0,  # no −0
        max_line_width=WIDTH - indent,
        threshold=ENTRIES if flat.shape[-1] > 1 else ROWS,
        edgeitems=3,
        formatter={"float_kind": "{:10.4g}".format},
    )
    return textwrap.indent(text, " " * indent)
