"""`explain`: gradients of every node, products that mean what they say, mistakes that show."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser

import flow
from flow import networks
from flow._explain import Explanation
from flow.backprop import (
    ACTIVATIONS,
    LOSSES,
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Flatten,
    Linear,
    Loss,
    MaxPooling,
    Reshape,
)
from flow.backprop.symbols import latex

N = 5


def data(inputs: tuple[int, ...], outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of random numbers, and targets that any loss may meet."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, *inputs)), rng.uniform(0.1, 0.9, (N, outputs))


def tied() -> flow.Network:
    """One linear layer that stands twice."""
    layer = Linear(3, 3)
    return flow.Network([Linear(2, 3), "tanh", layer, "sigmoid", layer])


def convolutional() -> flow.Network:
    """Every kind of layer."""
    return flow.Network(
        [
            Reshape((1, 6, 6)),
            Convolution(1, 2, (2, 2), stride=(1, 2), padding=(1, 0)),
            BatchNormalisation(2),
            "tanh",
            AveragePooling((2, 1)),
            MaxPooling((2, 2), stride=(1, 1)),
            Flatten(),
            Linear(8, 3),
        ]
    )


ZOO: dict[str, tuple[Callable, tuple, int, str]] = {
    "mlp": (lambda: flow.MLP([2, 3, 4]), (2,), 4, "mse"),
    "classifier": (lambda: flow.MLP([2, 3], activation="relu"), (2,), 3, "cross_entropy"),
    "tied": (tied, (2,), 3, "binary_cross_entropy"),
    "convolutional": (convolutional, (36,), 3, "cross_entropy"),
}


def explained(name: str) -> Explanation:
    """The table of a network of the zoo."""
    network, inputs, outputs, loss = ZOO[name]
    return flow.explain(network(), None, *data(inputs, outputs), loss=loss)


def node_gradients(name: str) -> dict[str, np.ndarray]:
    """∂J/∂ every node by `jax.grad` of the forward pass alone, with zeros added to activations."""
    make, inputs, outputs, loss = ZOO[name]
    network, (X, y) = make(), data(inputs, outputs)
    params = network.initialise(0)
    symbols = explained(name).symbols

    def value(params: list, taps: list) -> Any:
        A = jnp.moveaxis(X, 0, -1) + taps[0]
        for layer, slot, tap in zip(
            network.chain.layers, network.chain.slots, taps[1:], strict=True
        ):
            A = layer.forward({} if slot is None else params[slot], A)[0] + tap
        return LOSSES[loss].value(A, jnp.asarray(y.T))

    with jax.enable_x64(True):
        shapes = [np.moveaxis(X, 0, -1).shape]
        for layer in network.chain.layers:
            shapes.append(layer.output_shape(shapes[-1]))
        taps = [np.zeros(shape) for shape in shapes]
        by_params, by_taps = jax.jit(jax.grad(value, (0, 1)))(params, taps)
    owners: dict[int, str] = {}
    for symbol, slot in zip(symbols[1:], network.chain.slots, strict=True):
        owners.setdefault(slot, symbol)
    names = {"gamma": "γ", "beta": "β"}
    return dict(zip(symbols, by_taps, strict=True)) | {
        f"{names.get(key, key)}{owners[slot][1:]}": g
        for slot, layer in enumerate(by_params)
        for key, g in layer.items()
    }


@pytest.mark.parametrize("name", ZOO)
def test_every_node_has_the_gradient_of_autodiff(name: str):
    """Assert gradients to 1e-12, forward shapes, and that differences pass them to 1e-7."""
    table, expected = explained(name), node_gradients(name)
    assert {row.symbol for row in table.rows} == set(expected)
    for row in table.rows:
        g = np.asarray(expected[row.symbol])
        assert row.shape == row.gradient_shape == g.shape
        np.testing.assert_allclose(
            row.check.gradient, g, rtol=0, atol=1e-12 * np.abs(g).max() + 1e-15
        )
        assert row.check.error < 1e-7 or row.check.below_floor, row.symbol
    assert table.passed
    assert not table.wrong
    assert str(table).endswith("every gradient agrees to 1e-06")


@pytest.mark.parametrize("name", ZOO)
def test_products_multiply_to_the_variables_shape(name: str):
    """Assert it of every term, and that numerator layout gives the transpose."""
    for row in explained(name).rows:
        for term in row.rule.terms:
            shape = term.shape
            assert term.transposed().shape == shape[::-1]
            assert term.transposed().transposed() == term
            if not row.rule.of:
                assert shape == row.shape
            if row.rule.of == "reshape":
                assert np.prod(shape) == np.prod(row.shape)


def test_products_are_what_they_say():
    """Assert that numbers put for the symbols of 2-3-2 multiply to each gradient, both ways."""
    objective = networks.two_three_two()
    table = flow.explain(objective)
    (first, last), (X, y) = objective.params, map(np.asarray, objective.data)
    Z1 = first["W"] @ X.T + first["b"]
    A1 = np.maximum(Z1, 0)
    Z2 = last["W"] @ A1 + last["b"]
    A2 = 1 / (1 + np.exp(-Z2))
    numbers = {"W₁": first["W"], "W₂": last["W"], "A₀": X.T, "A₁": A1, "(A₂ − Y)": A2 - y.T}
    numbers |= {"relu′(Z₁)": 1.0 * (Z1 > 0), "sigmoid′(Z₂)": A2 * (1 - A2), "1/N": np.array(0.25)}
    numbers |= {"1": np.ones((4, 1))}

    def multiplied(term: Any, transposed: bool) -> np.ndarray:
        total = None
        for factor in term.factors:
            if factor.symbol.startswith("∂J/∂"):
                g = table[factor.symbol.removeprefix("∂J/∂")].check.gradient
                value = g.T if transposed else g
            else:
                value = numbers[factor.symbol.removesuffix("ᵀ")]
                value = value.T if factor.symbol.endswith("ᵀ") else value
            assert value.shape == factor.shape
            matrices = term.operator == "·" and total is not None and total.shape != ()
            total = value if total is None else total @ value if matrices else total * value
        return total

    for row in table.rows:
        [term], [turned] = row.rule.terms, row.rule.transposed().terms
        g = row.check.gradient
        np.testing.assert_allclose(multiplied(term, False), g, rtol=0, atol=1e-15)
        np.testing.assert_allclose(multiplied(turned, True), g.T, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ZOO)
def test_the_forward_pass_is_what_it_says(name: str):
    """Assert each output's value by its layer, shapes of its products, and J at the end."""
    table, (make, inputs, outputs, _) = explained(name), ZOO[name]
    network = make()
    (X, _), params = data(inputs, outputs), network.initialise(0)
    with jax.enable_x64(True):
        A = jnp.moveaxis(jnp.asarray(X), 0, -1)
        np.testing.assert_array_equal(table["A0"].value, A)
        for symbol, layer, slot in zip(
            table.symbols[1:], network.chain.layers, network.chain.slots, strict=True
        ):
            own = {} if slot is None else jax.tree.map(jnp.asarray, params[slot])
            A = layer.forward(own, A)[0]
            row = table[symbol]
            np.testing.assert_array_equal(row.value, A)
            if isinstance(layer, Linear):
                product, b = row.forward.terms
                assert (product.shape, b.shape) == (row.shape, (row.shape[0], 1))
    lines = table.forward()
    assert [line[0] for line in lines] == [*table.symbols, "J"]
    assert lines[-1][2].endswith(f" = {table.loss:.6g}")
    assert str(table).startswith("A₀")


@pytest.mark.quick
def test_the_forward_pass_and_its_values_in_words():
    """Assert the lines of 2-3-2, and its numbers on request, within 80 columns."""
    objective = networks.two_three_two(hidden="sigmoid")
    text = str(flow.explain(objective)).splitlines()
    assert text[:6] == [
        "A₀ 2×4     X, an example a column",
        "Z₁ 3×4     W₁(3×2) · A₀(2×4) + b₁(3×1)",
        "A₁ 3×4     sigmoid(Z₁(3×4))",
        "Z₂ 2×4     W₂(2×3) · A₁(3×4) + b₂(2×1)",
        "A₂ 2×4     sigmoid(Z₂(2×4))",
        f"J  scalar  1/N · ½Σ(A₂ − Y)² = {objective.value(objective.params):.6g}",
    ]
    shown = flow.explain(objective, values=True)
    lines = str(shown).splitlines()
    assert max(map(len, lines)) <= 80
    W1 = objective.params[0]["W"]
    at = lines.index("W₁ 3×2     given")
    numbers = " ".join(lines[at + 1 : at + 4])
    np.testing.assert_allclose(
        [float(x) for x in re.findall(r"-?[\d.]+", numbers)], W1.ravel(), rtol=6e-4
    )
    gradient = objective.gradient(objective.params)[1]["b"]
    at = lines.index("      denominator  ∂J/∂Z₂(2×4) · 1(4×1) = 2×1")
    assert float(lines[at + 2].strip(" []")) == pytest.approx(gradient[0, 0], rel=6e-4)
    html = shown._repr_html_()
    assert html.count("<pre>") == 1 + 9
    assert ET.fromstring(f"<div>{html.replace('<br>', ' ')}</div>").find("pre").text in str(shown)  # noqa: S314
    X, y = data((20,), 3)
    wide = flow.explain(flow.MLP([20, 30, 3]), None, X, y, values=True)
    assert max(map(len, str(wide).splitlines())) <= 80
    assert len(str(wide).splitlines()) < 180
    assert np.array_equal(wide["W1"].value, flow.MLP([20, 30, 3]).initialise(0)[0]["W"])


@pytest.mark.quick
def test_rules_and_symbols_in_the_order_of_the_backward_pass():
    """Assert the names of 2-3-2's nodes, last first, and of their lemmas."""
    assert [(row.symbol, row.rule.name) for row in flow.explain(networks.two_three_two()).rows] == [
        ("A₂", "mse, batch mean"),
        ("Z₂", "lemma 2"),
        ("W₂", "lemma 1"),
        ("b₂", "lemma 1, sum over examples"),
        ("A₁", "lemma 3"),
        ("Z₁", "lemma 2"),
        ("W₁", "lemma 1"),
        ("b₁", "lemma 1, sum over examples"),
        ("A₀", "lemma 3"),
    ]


@pytest.mark.quick
def test_tied_weights_are_a_branch_sum():
    """Assert that both uses stand as terms, and where the sum is complete."""
    table = explained("tied")
    assert [row.symbol for row in table.rows][:5] == ["Z₃", "A₂", "Z₂", "W₂", "b₂"]
    assert table["W2"].rule.name == "branch sum over 2 uses, lemma 1"
    assert table["W2"].rule.text() == "∂J/∂Z₃(3×5) · A₂ᵀ(5×3) + ∂J/∂Z₂(3×5) · A₁ᵀ(5×3)"
    assert table["A2"].rule.text() == "W₂ᵀ(3×3) · ∂J/∂Z₃(3×5)"


# ---- the dimension puzzle


@pytest.mark.quick
def test_the_dimension_puzzle():
    """Assert the shapes of the classic: 2×1 · 2×3 · 3×1 · 1×2 does not multiply."""
    puzzle = flow.explain(networks.two_three_two()).dimension_puzzle("W1")
    assert [f.shape for f in puzzle.met.factors] == [(2, 1), (2, 3), (3, 1), (1, 2)]
    assert not puzzle.multiplies
    assert puzzle.verdict.endswith("W₂(2×3) does not multiply: 1 column against 2 rows")
    assert "2×1 · 2×3 · 3×1 · 1×2" in str(puzzle)
    delta, turned = "((A₂ − Y)(2×1) ⊙ sigmoid′(Z₂)(2×1))", "((A₂ − Y)ᵀ(1×2) ⊙ sigmoid′(Z₂)ᵀ(1×2))"
    assert puzzle.denominator == f"((W₂ᵀ(3×2) · {delta}) ⊙ relu′(Z₁)(3×1)) · A₀ᵀ(1×2)"
    assert puzzle.numerator == f"A₀(2×1) · (({turned} · W₂(2×3)) ⊙ relu′(Z₁)ᵀ(1×3))"


def test_one_output_multiplies_by_accident():
    """Assert that a product that happens to multiply is refused for its shape."""
    X, y = data((2,), 1)
    table = flow.explain(flow.MLP([2, 3, 1]), None, X, y)
    puzzle = table.dimension_puzzle("W₁")
    assert puzzle.verdict == "multiplies, but to 1×2, and W₁ is 3×2"
    assert not puzzle.multiplies
    assert table.dimension_puzzle("W₂").multiplies


def test_the_puzzle_is_of_linear_layers():
    """Assert that other nodes and layers are refused by name."""
    table = explained("convolutional")
    assert table.dimension_puzzle("W2").multiplies
    for symbol in ("W1", "b2"):
        with pytest.raises(ValueError, match=f"'{symbol}' is not the weights of a linear layer"):
            table.dimension_puzzle(symbol)
    with pytest.raises(ValueError, match="'W2' is not the weights of a linear layer that is used"):
        explained("tied").dimension_puzzle("W2")
    network = flow.Network([Linear(2, 3), BatchNormalisation(3)])
    with pytest.raises(ValueError, match=r"there are \['BatchNormalisation'\]"):
        flow.explain(network, None, *data((2,), 3)).dimension_puzzle("W1")


# ---- planted mistakes


class SignFlipped(Linear):
    """∂J/∂W = −∂J/∂Z uᵀ."""

    def backward(self, params: dict, stored: Any, dA: Any) -> Any:
        """Wrong."""
        du, gradient = super().backward(params, stored, dA)
        return du, gradient | {"W": -gradient["W"]}


class Transposed(Linear):
    """∂J/∂W = u (∂J/∂Z)ᵀ, of a square W."""

    def backward(self, params: dict, stored: Any, dA: Any) -> Any:
        """Wrong."""
        du, gradient = super().backward(params, stored, dA)
        return du, gradient | {"W": gradient["W"].T}


class NotTransposed(Linear):
    """∂J/∂u = W ∂J/∂Z, of a square W."""

    def backward(self, params: dict, stored: Any, dA: Any) -> Any:
        """Wrong."""
        _, gradient = super().backward(params, stored, dA)
        return params["W"] @ dA, gradient


class Ragged(Linear):
    """∂J/∂u of one unit."""

    def backward(self, params: dict, stored: Any, dA: Any) -> Any:
        """Wrong."""
        du, gradient = super().backward(params, stored, dA)
        return du[:1], gradient


class Unaveraged(Loss):
    """∂J/∂A without the 1/N of the mean."""

    def cotangent(self, A: Any, Y: Any) -> Any:
        """Wrong."""
        return self.residual(A, Y)


def planted(layer: type, **other: Any) -> Explanation:
    """3-3-3-2, with the mistake in the second layer."""
    network = flow.Network([Linear(3, 3), "tanh", layer(3, 3), "tanh", Linear(3, 2)])
    return flow.explain(network, None, *data((3,), 2), **other)


@pytest.mark.parametrize(
    ("layer", "diagnosis"), [(SignFlipped, "sign flipped"), (Transposed, "transposed")]
)
def test_a_wrong_weight_gradient_shows_in_its_row_alone(layer: type, diagnosis: str):
    """Assert that W₂ alone fails, largely, and the table ends with the name of the mistake."""
    table = planted(layer)
    assert [(row.symbol, row.check.diagnosis) for row in table.wrong] == [("W₂", diagnosis)]
    assert table["W2"].check.error > 0.5
    assert not table.passed
    assert str(table).endswith(f"∂J/∂W₂: {diagnosis}")
    assert table._repr_html_().count("color:#b00") == 1
    assert table["W2"].rule.name == "lemma 1"  # what it should be


@pytest.mark.quick
def test_a_wrong_pull_back_shows_from_there_on():
    """Assert that A₁ and all that is computed from it fail, and nothing before."""
    table = planted(NotTransposed)
    assert [row.symbol for row in table.wrong] == ["A₁", "Z₁", "W₁", "b₁", "A₀"]
    assert min(row.check.error for row in table.wrong) > 0.1


def test_a_missing_mean_shows_in_every_row():
    """Assert that each gradient is N times too large, and said to be."""
    loss = Unaveraged("own", LOSSES["mse"].summed, LOSSES["mse"].residual)
    table = planted(Linear, loss=loss)
    assert table.wrong == list(table.rows)
    for row in table.rows:
        assert row.check.diagnosis == f"{N} times: a 1/N is missing"
        assert row.check.error == pytest.approx(1 - 1 / N, rel=1e-6)
    averaged = Loss("own", LOSSES["mse"].summed, LOSSES["mse"].residual)
    assert planted(Linear, loss=averaged).passed
    assert planted(Linear, loss=averaged).rows[0].rule.text() == "1/N · residual(Z₃, Y)(2×5)"


def test_a_gradient_of_another_shape_is_refused():
    """Assert that the variable and both shapes are named, even where ∇J needs it not."""
    network = flow.Network([Ragged(3, 2), "tanh"])
    with pytest.raises(ValueError, match=re.escape("∂J/∂A₀ has shape (1, 5), but A₀ has (3, 5)")):
        flow.explain(network, None, *data((3,), 2))


class Scale:
    """U = s ⊙ A: a layer that `explain` does not know."""

    parametrised: ClassVar[bool] = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def initialise(self, rng: np.random.Generator) -> dict:
        """A scale for each unit."""
        return {"my_scale": rng.standard_normal((3, 1))}

    def output_shape(self, shape: tuple) -> tuple:
        """The input's."""
        return shape

    def forward(self, params: dict, A: Any) -> Any:
        """A is stored."""
        return params["my_scale"] * A, A

    def backward(self, params: dict, stored: Any, dA: Any) -> Any:
        """Right, but for a factor on the scale's."""
        gradient = {"my_scale": self.factor * (dA * stored).sum(axis=1, keepdims=True)}
        return params["my_scale"] * dA, gradient


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_layer_of_ones_own(factor: float):
    """Assert that its parameters have rows, judged by differences; a wrong factor is named."""
    network = flow.Network([Linear(2, 3), Scale(factor), "tanh", Linear(3, 1)])
    table = flow.explain(network, None, *data((2,), 1))
    row = table["my_scale2"]
    assert row.rule.text() == "backward(∂J/∂U₂(3×5))"
    assert row.check.passed == (factor == 1.0)
    assert [r.symbol for r in table.wrong] == ([] if factor == 1.0 else ["my_scale₂"])
    if factor != 1.0:
        assert row.check.diagnosis == "0.5 times what it should be"
    for cell in re.findall(r"\$(.*?)\$", table.to_latex()):
        MathTextParser("path").parse(f"${cell}$")


# ---- forms


# What HTML, LaTeX or a terminal would obey.
HOSTILE = "<img src=x onerror=alert(1)>\\input{/etc/passwd}%&#$^~_}\x1b[2J\ue000"


class Hostile(Scale):
    """A layer whose parameter has such a name."""

    def initialise(self, rng: np.random.Generator) -> dict:
        """As it was."""
        return {HOSTILE: super().initialise(rng)["my_scale"]}

    def forward(self, params: dict, A: Any) -> Any:
        """As it was."""
        return super().forward({"my_scale": params[HOSTILE]}, A)

    def backward(self, params: dict, stored: Any, dA: Any) -> Any:
        """As it was, and wrong."""
        dA, gradient = super().backward({"my_scale": params[HOSTILE]}, stored, dA)
        return dA, {HOSTILE: gradient["my_scale"]}


def test_names_are_no_markup():
    """Assert that what a parameter, an activation and a loss are called is shown and not obeyed."""
    tanh = replace(ACTIVATIONS["tanh"], name=f"my {HOSTILE}")
    loss = replace(LOSSES["mse"], name=HOSTILE)
    network = flow.Network([Linear(2, 3), Hostile(0.5), tanh, Linear(3, 1), tanh])
    table = flow.explain(network, None, *data((2,), 1), loss=loss)
    text, html, tex = str(table), table._repr_html_(), table.to_latex()
    for told in (text, html, tex, str(table.dimension_puzzle("W3"))):
        assert told.replace("\n", "").isprintable()
    root = ET.fromstring(f"<div>{html.replace('<br>', ' ')}</div>")  # noqa: S314
    assert root.find(".//img") is None
    assert f"{HOSTILE[:-5]}\\x1b[2J\\ue000" in "".join(root.itertext())
    assert html.count("color:#b00") == 1  # the row that is wrong
    assert "\\input" not in tex
    for line in tex.splitlines()[2:-1]:
        assert len(re.findall(r"(?<!\\)&", line)) == 6
        assert not re.search(r"(?<!\\)[%#~]", line)
        bare = re.sub(r"\\[{}$]", "", line)
        assert bare.count("$") == 8 - 2 * (line.split(" & ")[0].count("$") == 0)
        assert bare.count("{") == bare.count("}")


def test_terminal_notebook_and_latex_have_every_row():
    """Assert it, that HTML is well-formed, and that LaTeX's cells are mathematics."""
    table = explained("convolutional")
    text, html, tex = str(table), table._repr_html_(), table.to_latex()
    assert repr(table) == text
    root = ET.fromstring(f"<div>{html.replace('<br>', ' ')}</div>")  # noqa: S314
    assert len(root.findall(".//tbody/tr")) == len(table.rows) + 1
    assert {len(tr) for tr in root.findall(".//tr")} == {8}
    assert text.count("denominator") == text.count("numerator  ") == len(table.rows)
    assert tex.count(r"\\") == len(table.rows) + 1
    for row in table.rows:
        assert f"\n{row.symbol} " in text
        assert f'<td style="text-align:left">{row.symbol}</td>' in html
        assert f"\n${latex(row.symbol)}$ & " in tex
    for cell in re.findall(r"\$(.*?)\$", tex):
        assert cell.isascii()
        MathTextParser("path").parse(f"${cell}$")
    assert "fold: every window's share" in text
    assert "of nodes with more than 16 entries, 16 and a direction" in text


@pytest.mark.quick
def test_the_text_fits_a_terminal():
    """Assert that 2-3-2's table is at most 80 columns wide."""
    assert max(map(len, str(flow.explain(networks.two_three_two())).splitlines())) <= 80


def test_an_objective_and_its_network_are_the_same():
    """Assert equal tables, with X and y or with what the objective brings, at other parameters."""
    X, y = data((2,), 4)
    network = flow.MLP([2, 3, 4])
    objective = network.objective(X, y)
    assert str(flow.explain(objective)) == str(flow.explain(network, None, X, y))
    elsewhere = jax.tree.map(lambda p: p + 1.0, objective.params)
    table = flow.explain(network, elsewhere, X, y)
    assert str(table) == str(flow.explain(objective, elsewhere))
    gradient = objective.gradient(elsewhere)
    np.testing.assert_allclose(table["W2"].check.gradient, gradient[1]["W"], rtol=1e-12)
    assert table.loss == objective.value(elsewhere)


def test_bad_input():
    """Assert errors at the door, which say what can be done instead."""
    opaque = flow.Objective(lambda p: jnp.sum(p**2), np.ones(2))
    with pytest.raises(TypeError, match=r"layers and products cannot be seen; flow.check_gradient"):
        flow.explain(opaque)
    with pytest.raises(TypeError, match="network must be a flow.Network, .* got <function"):
        flow.explain(np.sum)
    network, (X, y) = flow.MLP([2, 3, 4]), data((2,), 4)
    with pytest.raises(TypeError, match="give X and y"):
        flow.explain(network, network.initialise())
    with pytest.raises(TypeError, match="an objective brings its own X, y and loss"):
        flow.explain(network.objective(X, y), None, X, y)
    first, last = network.initialise()
    with pytest.raises(ValueError, match=re.escape("params[1]['W'] has shape (3, 4), but")):
        flow.explain(network, [first, last | {"W": np.ones((3, 4))}], X, y)
    with pytest.raises(ValueError, match="params: the loss is nan there"):
        flow.explain(network, jax.tree.map(lambda p: p * np.nan, network.initialise()), X, y)
    with pytest.raises(ValueError, match="loss 'mes' is unknown. Did you mean 'mse'"):
        flow.explain(network, None, X, y, loss="mes")
    with pytest.raises(KeyError, match="no node 'W9'; there are Z₂, W₂"):
        _ = flow.explain(network, None, X, y)["W9"]


def test_a_float32_objective_is_explained_in_double():
    """Assert that its table is that of the same problem in double precision."""
    X, y = data((2,), 4)
    single = flow.MLP([2, 3, 4]).objective(
        X.astype(np.float32), y.astype(np.float32), dtype="float32"
    )
    assert flow.explain(single).passed
    assert max(row.check.error for row in flow.explain(single).rows) < 1e-7
