"""Circuits to learn from."""

from flow.circuits.circuit import Circuit
from flow.circuits.functions import sigmoid
from flow.circuits.node import variable


def product_of_sum() -> Circuit:
    """Return L = c(a + 2b), by d = 2b, e = a + d, L = c·e.

    >>> product_of_sum().evaluate({"a": 3.0, "b": 1.0, "c": 4.0}).gradient
    {'c': 5.0, 'a': 4.0, 'b': 8.0}
    """
    a, b, c = variable("a"), variable("b"), variable("c")
    d = (2 * b).named("d")
    e = (a + d).named("e")
    return Circuit((c * e).named("L"))


def two_two_two(
    x: tuple[float, float] = (0.05, 0.1), y: tuple[float, float] = (0.01, 0.99)
) -> Circuit:
    """Return the 2-2-2 sigmoid network with weights w1..w8 and squared loss, for one (x, y).

    h₁ = σ(w₁x₁ + w₂x₂), h₂ = σ(w₃x₁ + w₄x₂), o₁ = σ(w₅h₁ + w₆h₂), o₂ = σ(w₇h₁ + w₈h₂),
    L = ½(o₁ − y₁)² + ½(o₂ − y₂)². Each hidden activation feeds both outputs, so ∂L/∂h is a sum
    of two branches.

    >>> evaluation = two_two_two().evaluate({f"w{i}": 0.1 * i for i in range(1, 9)})
    >>> len(evaluation.branches("h1")), round(evaluation.value, 6)
    (2, 0.243693)
    """
    w = [variable(f"w{i}") for i in range(1, 9)]
    h1 = sigmoid(w[0] * x[0] + w[1] * x[1]).named("h1")
    h2 = sigmoid(w[2] * x[0] + w[3] * x[1]).named("h2")
    o1 = sigmoid(w[4] * h1 + w[5] * h2).named("o1")
    o2 = sigmoid(w[6] * h1 + w[7] * h2).named("o2")
    return Circuit((0.5 * (o1 - y[0]) ** 2 + 0.5 * (o2 - y[1]) ** 2).named("L"))


def tied_weight(x: float = 1.0, y: float = 2.0) -> Circuit:
    """Return L = ½(w·w·x − y)²: a linear network of two layers that share the weight w.

    w feeds both layers; the two branches add to dL/dw = 2wx(w²x − y).

    >>> tied_weight(x=1.0, y=4.0).evaluate({"w": 3.0}).gradient
    {'w': 30.0}
    """
    w = variable("w")
    h = (w * x).named("h")
    f = (w * h).named("f")
    return Circuit((0.5 * (f - y) ** 2).named("L"))
