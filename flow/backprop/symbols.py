"""Names of nodes, for terminals and for LaTeX."""

import re

from flow._core.display import LATEX_OWN, visible
from flow.backprop import (
    Activation,
    AveragePooling,
    BatchNormalisation,
    Chain,
    Convolution,
    Linear,
    MaxPooling,
    Reshape,
)
from flow.backprop.layer import Layer, Shape

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_LETTERS = {"gamma": "γ", "beta": "β"}
# Of a layer's output, the first type that fits.
_OUTPUTS = (
    ((Linear, Convolution), "Z"),
    (Activation, "A"),
    (BatchNormalisation, "Ẑ"),
    ((AveragePooling, MaxPooling), "P"),
    (Reshape, "F"),
    (object, "U"),
)
# A place for what LaTeX reads as its own, while a symbol is written.
_HELD = {c: chr(0xE000 + i) for i, c in enumerate(LATEX_OWN)}
_LATEX = {
    "Ẑ": r"\hat{Z}",
    "X̂": r"\hat{X}",
    "γ": r"\gamma ",
    "β": r"\beta ",
    "δ": r"\delta ",
    "Σ": r"\sum ",
    "⊙": r"\odot ",
    "·": r"\cdot ",
    "×": r" \times ",
    "−": "-",
    "ᵀ": r"^{\top}",
    "′": "'",
    "∂": r"\partial ",
}


def node_symbols(chain: Chain) -> list[str]:
    """Return A₀ and the output of every layer; layers with weights of their own open a new number.

    Z is a linear layer's or a convolution's output, A an activation's, Ẑ batch normalisation's,
    P a pooling's, F of a change of shape, U of a layer of one's own; a second one of a number has
    a prime.

    >>> from flow.backprop import ACTIVATIONS
    >>> node_symbols(Chain([Linear(2, 3), ACTIVATIONS["relu"], Linear(3, 2)]))
    ['A₀', 'Z₁', 'A₁', 'Z₂']
    """
    symbols, number = ["A₀"], 0
    for layer in chain.layers:
        letter = _letter(layer)
        number += layer.parametrised and letter != "Ẑ"
        symbol = f"{letter}{subscript(number)}"
        while symbol in symbols:
            symbol += "′"
        symbols.append(symbol)
    return symbols


def _letter(layer: Layer) -> str:
    return next(letter for types, letter in _OUTPUTS if isinstance(layer, types))


def subscript(number: int) -> str:
    """Return 12 as ₁₂."""
    return str(number).translate(_SUBSCRIPTS)


def plain(symbol: str) -> str:
    """Return a symbol as it is typed: W₁ is W1.

    >>> plain("Ẑ₁₂"), plain("γ₁")
    ('Zhat12', 'gamma1')
    """
    for name, letter in (*_LETTERS.items(), ("Zhat", "Ẑ")):
        symbol = symbol.replace(letter, name)
    return symbol.translate(_DIGITS).replace("′", "'")


def parameter_symbol(key: str, output: str) -> str:
    """Return W₁ of the layer whose output is Z₁.

    >>> parameter_symbol("gamma", "Ẑ₁")
    'γ₁'
    """
    return visible(f"{_LETTERS.get(key, key)}{output[1:]}")


def shape_text(shape: Shape) -> str:
    """Return (3, 2) as 3×2."""
    return "×".join(map(str, shape)) or "scalar"


def latex(symbol: str) -> str:
    r"""Return a symbol or a small expression in LaTeX.

    >>> print(latex("∂J/∂W₁₂"), latex("W₂ᵀ"), latex("relu′(Z₁)"))
    \frac{\partial J}{\partial W_{12}} W_{2}^{\top} \mathrm{relu}'(Z_{1})
    """
    symbol = visible(symbol).translate(str.maketrans(_HELD))
    word = f"[A-Za-z{_HELD['_']}]{{2,}}"
    symbol = re.sub(word, lambda m: rf"\mathrm{{{m[0]}}}", symbol)
    named = rf"∂J/∂((?:X̂|\\mathrm\{{{word}\}}|[^\W\d])[₀-₉]*′*)"
    symbol = re.sub(named, r"\\frac{∂J}{∂\1}", symbol)
    symbol = re.sub("[₀-₉]+", lambda m: f"_{{{m[0].translate(_DIGITS)}}}", symbol)
    written = _LATEX | {held: LATEX_OWN[c] for c, held in _HELD.items()}
    for letter, command in written.items():
        symbol = symbol.replace(letter, command)
    return symbol
