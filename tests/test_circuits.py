"""Circuits against jax.grad of the same formulas, closed forms and counted operations."""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flow
from flow.circuits import (
    Circuit,
    CircuitDomainError,
    cos,
    exp,
    log,
    product_of_sum,
    relu,
    sigmoid,
    sin,
    sqrt,
    tanh,
    tied_weight,
    two_two_two,
    variable,
)

# Independent twins of the package's functions: those of jax.numpy.
UNARY = {
    "tanh": (tanh, jnp.tanh),
    "sin": (sin, jnp.sin),
    "cos": (cos, jnp.cos),
    "sigmoid": (sigmoid, lambda x: 1 / (1 + jnp.exp(-x))),
    "relu": (relu, lambda x: jnp.where(x > 0, x, 0.0)),
    "negative": (lambda x: -x, lambda x: -x),
    "square": (lambda x: x**2, lambda x: x * x),
    # Inside their domains for every x.
    "exp": (lambda x: exp(tanh(x)), lambda x: jnp.exp(jnp.tanh(x))),
    "log": (lambda x: log(1.5 + sin(x)), lambda x: jnp.log(1.5 + jnp.sin(x))),
    "sqrt": (lambda x: sqrt(1.5 + cos(x)), lambda x: jnp.sqrt(1.5 + jnp.cos(x))),
    "cube": (lambda x: sin(x) ** 3, lambda x: jnp.sin(x) ** 3),
}
BINARY = {
    "+": (lambda x, y: x + y,) * 2,
    "-": (lambda x, y: x - y,) * 2,
    "*": (lambda x, y: tanh(x) * y, lambda x, y: jnp.tanh(x) * y),
    "/": (lambda x, y: x / (2.0 + sin(y)), lambda x, y: x / (2.0 + jnp.sin(y))),
    "**": (
        lambda x, y: (1.5 + sin(x)) ** tanh(y),
        lambda x, y: (1.5 + jnp.sin(x)) ** jnp.tanh(y),
    ),
}
NAMES = ("x0", "x1", "x2")


def build(steps: list, leaves: list, side: int):
    """The circuit (side 0) or the JAX formula (side 1) of one list of steps; nodes are shared."""
    nodes = list(leaves)
    for name, i, j in steps:
        x, y = nodes[i % len(nodes)], nodes[j % len(nodes)]
        nodes.append(UNARY[name][side](x) if name in UNARY else BINARY[name][side](x, y))
    total = nodes[-1]
    for node in nodes[len(leaves) : -1]:  # every node is reached, so many feed several
        total = total + 0.1 * node
    return total


STEPS = st.lists(
    st.tuples(
        st.sampled_from([*UNARY, *BINARY]),
        st.integers(0, 7),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=10, deadline=None, database=None)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_random_circuits_against_autodiff(steps: list, seed: int):
    """Assert value, ∇f, ∇²f·v and sizes of random expression graphs against JAX, to 1e-12."""
    rng = np.random.default_rng(seed)
    x, v = rng.uniform(-1.5, 1.5, (2, 3))
    leaves = [variable(name) for name in NAMES]
    circuit = Circuit(build(steps, leaves, 0), inputs=tuple(leaves))
    point, direction = dict(zip(NAMES, x, strict=True)), dict(zip(NAMES, v, strict=True))

    def formula(x: jax.Array) -> jax.Array:
        return jnp.asarray(build(steps, list(x), 1))

    with jax.enable_x64(True):
        value, gradient = formula(jnp.asarray(x)), jax.grad(formula)(jnp.asarray(x))
        hessian = jax.jacfwd(jax.grad(formula))(jnp.asarray(x))
    evaluation, gradient_circuit = circuit.evaluate(point), circuit.gradient()
    product_circuit = gradient_circuit.dot(direction).gradient()
    assert evaluation.value == pytest.approx(float(value), rel=1e-12, abs=1e-13)
    scale = max(1.0, np.abs(gradient).max())
    found = [evaluation.gradient[n] for n in NAMES]
    np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-12 * scale)
    as_circuit = [gradient_circuit.evaluate(point).outputs[n] for n in NAMES]
    np.testing.assert_allclose(as_circuit, gradient, rtol=0, atol=1e-12 * scale)
    scale = max(1.0, np.abs(hessian).max())
    product = [product_circuit.evaluate(point).outputs[n] for n in NAMES]
    np.testing.assert_allclose(product, np.asarray(hessian) @ v, rtol=0, atol=1e-12 * scale)
    assert gradient_circuit.size <= 10 * circuit.size
    assert product_circuit.size <= 10 * (10 * circuit.size + 2 * 3)
    assert evaluation.operations == circuit.size


def network(parameters: int) -> Circuit:
    """Σ tanh(x_i x_{i+1}): 3 operations a parameter, each of which feeds two nodes."""
    x = [variable(f"x{i}") for i in range(parameters)]
    total = tanh(x[-1] * x[0])
    for a, b in pairwise(x):
        total = total + tanh(a * b)
    return Circuit(total)


@pytest.mark.quick
def test_gradient_grows_linearly():
    """Assert counted sizes of f and ∇f, 3l − 1 and 7l from l = 34 to 3,334, and one evaluation."""
    sizes = []
    for l in (34, 334, 3334):
        circuit = network(l)
        gradient = circuit.gradient()
        sizes.append([l, circuit.size, gradient.size])
    l, N, N_gradient = np.array(sizes, float).T
    np.testing.assert_array_equal(N, 3 * l - 1)
    # Of each parameter's share: x·x', tanh, 1 − z², two products by it, and one sum of branches.
    np.testing.assert_array_equal(N_gradient, 7 * l)
    # One evaluation at the largest does that many operations, to the closed form.
    x = {f"x{i}": 0.5 for i in range(3334)}
    evaluation = gradient.evaluate(x)
    assert evaluation.operations == gradient.size
    expected = 2 * 0.5 * (1 - math.tanh(0.25) ** 2)
    np.testing.assert_allclose(list(evaluation.outputs.values()), expected, rtol=1e-14)


@pytest.mark.quick
def test_products_grow_linearly():
    """Assert ∇²f·v's counted size proportional to N, by the theorem applied twice."""
    sizes = []
    for l in (10, 100, 1000):
        gradient = network(l).gradient()
        sizes.append(gradient.dot({f"x{i}": 1.0 for i in range(l)}).gradient().size / l)
    assert max(sizes) / min(sizes) < 1.05
    assert max(sizes) <= 21


def test_powers_at_worst_stay_below_ten():
    """Assert the stated constant on what costs most, x ** y nested with both active."""
    z = x = variable("x")
    y = variable("y")
    for _ in range(100):
        z = z**y
    circuit = Circuit(z, inputs=(x, y))
    assert 8 * circuit.size < circuit.gradient().size <= 10 * circuit.size


@pytest.mark.quick
def test_products_and_sums_stay_below_five():
    """Assert the constant of + − ×: x ← x·x + x·y a hundred times."""
    x, y = variable("x"), variable("y")
    z = x
    for _ in range(100):
        z = z * z - z * y
    circuit = Circuit(z)
    assert circuit.gradient().size <= 5 * circuit.size


def test_deep_circuits_do_not_recurse():
    """Assert values and gradient of a chain of 20,000 additions, far beyond Python's stack."""
    x = variable("x")
    z = x
    for _ in range(20_000):
        z = z + x
    circuit = Circuit(z)
    assert circuit.evaluate({"x": 0.5}).gradient == {"x": 20_001.0}
    assert circuit.gradient().evaluate({"x": 0.5}).outputs == {"x": 20_001.0}


# ---- the shipped circuits


@pytest.mark.quick
def test_product_of_sum():
    """Assert L = c(a + 2b) = 20 and c, 2c, a + 2b with each branch's term in the table."""
    evaluation = product_of_sum().evaluate({"a": 3.0, "b": 1.0, "c": 4.0})
    assert evaluation.value == 20.0
    assert evaluation.gradient == {"a": 4.0, "b": 8.0, "c": 5.0}
    assert (evaluation["d"], evaluation["e"]) == (2.0, 5.0)
    assert (evaluation.derivative("d"), evaluation.derivative("e")) == (4.0, 4.0)
    table = evaluation.table()
    assert table.loc["e", "expression"] == "a + d"
    assert table.loc["b", "branch terms"] == "4·2 (from d)"
    assert str(evaluation) == table.to_string(float_format=lambda x: f"{x:.6g}")


def two_two_two_formula(w: jax.Array) -> jax.Array:
    """The network in matrix form."""
    h = jax.nn.sigmoid(w[:4].reshape(2, 2) @ jnp.array([0.05, 0.1]))
    o = jax.nn.sigmoid(w[4:].reshape(2, 2) @ h)
    return 0.5 * jnp.sum((o - jnp.array([0.01, 0.99])) ** 2)


@pytest.mark.quick
def test_two_two_two():
    """Assert value and ∂L/∂w₁..w₈ against the matrix form; ∂L/∂h₁ is the sum of two terms."""
    w = np.random.default_rng(1).standard_normal(8)
    names = [f"w{i}" for i in range(1, 9)]
    evaluation = two_two_two().evaluate(dict(zip(names, w, strict=True)))
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(two_two_two_formula)(jnp.asarray(w))
    assert evaluation.value == pytest.approx(float(value), rel=1e-14)
    np.testing.assert_allclose([evaluation.gradient[n] for n in names], gradient, rtol=1e-12)
    terms = evaluation.branches("h1")
    assert len(terms) == 2
    assert sum(b.term for b in terms) == pytest.approx(evaluation.derivative("h1"), rel=1e-15)
    assert sorted(b.local_derivative for b in terms) == sorted([w[4], w[6]])
    for b in terms:
        assert b.term == b.child_derivative * b.local_derivative


@pytest.mark.quick
def test_tied_weight():
    """Assert dL/dw = 2wx(w²x − y), the sum of the two layers' terms."""
    evaluation = tied_weight(x=2.0, y=1.0).evaluate({"w": 1.5})
    assert evaluation.gradient["w"] == pytest.approx(2 * 1.5 * 2 * (1.5**2 * 2 - 1), rel=1e-14)
    assert len(evaluation.branches("w")) == 2


def test_objective_is_the_circuit():
    """Assert J, ∇J, ∇²J·v of the objective against the matrix form, and the flow's descent."""
    rng = np.random.default_rng(3)
    w, v = rng.standard_normal((2, 8))
    names = [f"w{i}" for i in range(1, 9)]
    params = dict(zip(names, map(float, w), strict=True))
    objective = two_two_two().objective(params)
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(two_two_two_formula)(jnp.asarray(w))
        product = np.asarray(jax.hessian(two_two_two_formula)(jnp.asarray(w))) @ v
    assert objective.value(params) == pytest.approx(float(value), rel=1e-14)
    np.testing.assert_allclose(objective.flat_value_and_gradient(w)[1], gradient, rtol=1e-12)
    np.testing.assert_allclose(objective.flat_hvp(w, v), product, rtol=1e-11)


@pytest.mark.quick
def test_flow_of_a_circuit():
    """Assert that the tied circuit's gradient flow is u(t) = s/(1 − (1 − s/u₀)e^{−4st}), u = w².

    ẇ = −2w(w² − s) with x = 1, y = s gives u̇ = 4u(s − u), logistic.
    """
    s, w0, t = 2.0, 0.3, 0.8
    path = flow.integrate(tied_weight(1.0, s).objective({"w": w0}), t=t, rtol=1e-11, atol=1e-13)
    u = s / (1 - (1 - s / w0**2) * math.exp(-4 * s * t))
    assert path.theta[-1][0] ** 2 == pytest.approx(u, rel=1e-9)


# ---- kinks


@pytest.mark.quick
def test_slope_of_relu_at_zero_is_zero():
    """Assert relu′(0) = 0 in numbers, in the gradient circuit and in JAX, and no smoothness."""
    x = variable("x")
    circuit = Circuit(relu(x) + x)
    assert circuit.evaluate({"x": 0.0}).gradient == {"x": 1.0}
    assert circuit.gradient().evaluate({"x": 0.0}).outputs == {"x": 1.0}
    objective = circuit.objective({"x": 0.0})
    assert not objective.smooth
    assert objective.flat_value_and_gradient(np.zeros(1))[1] == 1.0
    assert Circuit(x * x).objective({"x": 0.0}).smooth


def test_powers_at_zero():
    """Assert derivatives of x⁰, x¹ and x² at x = 0, and of (−2)³."""
    x = variable("x")
    for n, at, expected in [(0, 0.0, 0.0), (1, 0.0, 1.0), (2, 0.0, 0.0), (3, -2.0, 12.0)]:
        circuit = Circuit({"L": x**n}, inputs=(x,))
        assert circuit.evaluate({"x": at}).gradient["x"] == expected
        assert circuit.gradient().evaluate({"x": at}).outputs["x"] == expected


# ---- bad input


@pytest.mark.quick
def test_undefined_values_name_the_node():
    """Assert that 1/0, log and sqrt of a negative, a root and an overflow name their node."""
    x, y = variable("x"), variable("y")
    d = (x - y).named("d")
    cases = [(1 / d, "1 / d"), (log(-1 + d), "log(#"), (exp(1000.0 + d), "exp(#")]
    cases += [(sqrt(d - 1), "sqrt(#"), ((d - 8) ** (1 / 3), r"#\d \*\* 0.333")]
    for node, text in cases:
        pattern = f"node L = {text}".replace("(", r"\(")
        with pytest.raises(CircuitDomainError, match=pattern + r".* has no finite value at"):
            Circuit(node.named("L")).evaluate({"x": 1.0, "y": 1.0})
        with pytest.raises(CircuitDomainError, match=pattern):
            Circuit(node.named("L")).objective({"x": 1.0, "y": 1.0})


def test_undefined_derivative_names_the_node():
    """Assert that √0 has a value, and that its derivative is refused by name."""
    x = variable("x")
    evaluation = Circuit(sqrt(x).named("root")).evaluate({"x": 0.0})
    assert evaluation.value == 0.0
    with pytest.raises(CircuitDomainError, match=r"root = sqrt\(x\) has no finite derivative"):
        _ = evaluation.gradient


def test_inputs_at_the_door():
    """Assert that missing, unknown, non-finite and non-numeric inputs are told by name."""
    circuit = product_of_sum()
    good = {"a": 1.0, "b": 2.0, "c": 3.0}
    with pytest.raises(ValueError, match="lacks c"):
        circuit.evaluate({"a": 1.0, "b": 2.0})
    with pytest.raises(ValueError, match="unknown q"):
        circuit.evaluate(good | {"q": 1.0})
    for bad in (math.inf, math.nan):
        with pytest.raises(ValueError, match="input 'b' must be finite"):
            circuit.evaluate(good | {"b": bad})
    with pytest.raises(TypeError, match="input 'b' must be a number"):
        circuit.evaluate(good | {"b": "2"})
    with pytest.raises(ValueError, match="no node is named 'z'"):
        circuit.evaluate(good)["z"]
    with pytest.raises(ValueError, match="one output, this one has 3"):
        circuit.gradient().evaluate(good).value  # noqa: B018
    with pytest.raises(ValueError, match="v must have a number for each"):
        circuit.gradient().dot({"a": 1.0})


def test_an_evaluation_keeps_its_own_inputs():
    """Assert that inputs changed after an evaluation change neither it nor its gradient."""
    circuit, inputs = product_of_sum(), {"a": 3.0, "b": 1.0, "c": 4.0}
    evaluation = circuit.evaluate(inputs)
    inputs["c"] = 100.0
    other = circuit.evaluate(inputs)
    assert (evaluation.value, evaluation.gradient["a"]) == (20.0, 4.0)
    assert (other.value, other.gradient["a"]) == (500.0, 100.0)
    with pytest.raises(TypeError):
        evaluation.inputs["c"] = 1.0
    with pytest.raises(AttributeError):
        evaluation.inputs = inputs
    with pytest.raises(AttributeError):
        circuit.inputs[0].name = "z"


def test_names_are_of_one_node():
    """Assert that two nodes of one name are refused, and one object used twice is one input."""
    with pytest.raises(ValueError, match="two different nodes are named 'x'"):
        Circuit(variable("x") * variable("x"))
    x = variable("x")
    assert len(Circuit(x * x).inputs) == 1
    with pytest.raises(ValueError, match="non-empty"):
        variable("")
    with pytest.raises(TypeError, match="a circuit is of scalars"):
        x * np.ones(2)
    assert Circuit(np.float64(2.0) * x).evaluate({"x": 3}).value == 6.0


# ---- the drawing


@pytest.mark.quick
def test_drawing_shows_values_and_derivatives():
    """Assert that every node's value and derivative stand in the axes that are returned."""
    figure, ax = plt.subplots()
    evaluation = product_of_sum().evaluate({"a": 3.0, "b": 1.0, "c": 4.0})
    assert flow.circuits.draw(evaluation, ax=ax) is ax
    shown = {text.get_text() for text in ax.texts}
    assert {"a\n3\n∂ 4", "d = 2 · b\n2\n∂ 4", "e = a + d\n5\n∂ 4", "L = c · e\n20\n∂ 1"} <= shown
    plt.close(figure)
