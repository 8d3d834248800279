"""`check_gradient` names the mistakes that are made in a derivation, and accuses no right one.

The network of the learner is written here in numpy, and shares nothing with flow's own: three
layers, columns, each line that can go wrong with its mistakes beside it.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flow
from flow._problem.gradient_check import _named, mistakes
from flow._problem.leaf_check import LeafCheck
from flow.backprop import Convolution, Flatten, Linear, MaxPooling, Reshape

ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: 1 / (2 + 2 * np.cosh(z))),
    "relu": (lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
    "softplus": (lambda z: np.log1p(np.exp(z)), lambda z: 1 / (1 + np.exp(-z))),
}
LINKS: dict[str, Callable] = {
    "mse": lambda z: z,
    "cross_entropy": lambda z: np.exp(z) / np.exp(z).sum(axis=0),
    "binary_cross_entropy": lambda z: 1 / (1 + np.exp(-z)),
}

# (activation, loss, sizes, examples, seed): square hidden layers, one shape that has none, and one
# in which all lengths are the same.
NETWORKS = [
    ("tanh", "mse", (3, 4, 4, 2), 5, 0),
    ("sigmoid", "cross_entropy", (4, 4, 4, 3), 6, 1),
    ("relu", "mse", (4, 4, 4, 4), 7, 2),
    ("softplus", "binary_cross_entropy", (2, 5, 5, 2), 6, 3),
    ("relu", "cross_entropy", (4, 4, 4, 4), 4, 4),
    ("tanh", "cross_entropy", (2, 3, 4, 3), 5, 5),
]
QUICK = 2

# What was done wrong -> what is said, of networks in which it can be done and is wrong.
MISTAKES: dict[str, tuple[str, Callable[..., bool]]] = {
    "the sign of A − Y": ("sign flipped", lambda **_: True),
    "no 1/N": ("a 1/N is missing", lambda **_: True),
    "1/N twice": ("divided by N twice", lambda **_: True),
    "the 2 of a square": ("^2 times: ", lambda **_: True),
    "a mean over outputs": ("number of outputs", lambda **_: True),
    "no σ′": ("′ forgotten in every layer: ", lambda **_: True),
    "no σ′ in layer 1": ("′ forgotten: ∂J/∂Z₁ = ∂J/∂A₁ ⊙", lambda **_: True),
    "σ′(a) for σ′(z)": (r"′\(A\) for \w+′\(Z\) in every layer", lambda s, **_: s != "relu"),
    "another σ′": (r"(sigmoid|tanh)′(\(Z\))? for \w+′(\(Z\))? in every", lambda **_: True),
    "σ′ at the wrong input": (r"′\(∂J/∂A₁\) for \w+′\(Z₁\)", lambda **_: True),
    "z for a": ("Z for A in every layer: ∂J/∂W = ", lambda **_: True),
    "δ of another layer": ("∂J/∂Z₁ for ∂J/∂Z₂: ∂J/∂W₂", lambda n, **_: n[1] == n[2]),
    "∂J/∂a for δ": ("∂J/∂A₂ for ∂J/∂Z₂: ∂J/∂W₂", lambda **_: True),
    "a of another layer": ("A₂, .*for A₁: ∂J/∂W₂", lambda n, **_: n[1] == n[2]),
    "W of another layer": ("W₁ᵀ for W₂ᵀ: ∂J/∂A₁", lambda n, **_: n[0] == n[1] == n[2]),
    "W for Wᵀ": ("W₂ for W₂ᵀ: ∂J/∂A₁ = W₂ᵀ · ∂J/∂Z₂", lambda n, **_: n[1] == n[2]),
    "dW transposed": ("transposed", lambda **_: True),
    "b: a mean for the sum": ("a mean over examples for their sum in every", lambda **_: True),
    "b: the wrong axis": ("over units", lambda **_: True),
    "b: no sum": ("the first example alone, no sum in every layer", lambda **_: True),
    "b forgotten": ("is zero", lambda **_: True),
    "rows of dW swapped": ("rows in another order", lambda **_: True),
    "another's y": ("rows of y shifted", lambda **_: True),
    "= for +=": ("the last example alone: = for [+]=", lambda **_: True),
    "softmax′ once more": ("′ once more: ∂J/∂Z", lambda loss, **_: loss != "mse"),
    "no softmax": (
        "(softmax|sigmoid) forgotten: ∂J/∂Z = ", lambda loss, **_: loss != "mse"
    ),
    "dW of another layer": (
        r"the gradient of params\[", lambda n, **_: n[0] == n[1] == n[2]
    ),
}  # fmt: skip


def learner(s: str, loss: str, params: list, data: tuple, wrong: str = "") -> list:  # noqa: C901, PLR0912, PLR0915
    """The gradient of a network of three layers by hand, with one mistake."""
    value, slope = ACTIVATIONS[s]
    X, Y = (np.asarray(rows).T for rows in data)
    (W1, b1), (W2, b2), (W3, b3) = ((layer["W"], layer["b"]) for layer in params)
    N = X.shape[1]
    if wrong == "another's y":
        Y = np.roll(Y, 1, axis=1)
    if wrong == "= for +=":
        X, Y = X[:, -1:], Y[:, -1:]
    Z1 = W1 @ X + b1
    A1 = value(Z1)
    Z2 = W2 @ A1 + b2
    A2 = value(Z2)
    Z3 = W3 @ A2 + b3
    P = Z3 if wrong == "no softmax" else LINKS[loss](Z3)

    times = {"the sign of A − Y": -1, "no 1/N": N, "1/N twice": 1 / N, "the 2 of a square": 2}
    times |= {"a mean over outputs": 1 / len(Y), "softmax′ once more": P * (1 - P)}
    d3 = times.get(wrong, 1) * (P - Y) / N
    if wrong == "σ′(a) for σ′(z)":
        s1, s2 = slope(A1), slope(A2)
    elif wrong == "another σ′":
        s1, s2 = (ACTIVATIONS["tanh" if s == "sigmoid" else "sigmoid"][1](Z) for Z in (Z1, Z2))
    else:
        s1, s2 = slope(Z1), slope(Z2)
    if wrong == "no σ′":
        s1, s2 = 1, 1

    dA2 = W3.T @ d3
    d2 = dA2 * s2
    dA1 = {"W for Wᵀ": W2, "W of another layer": W1.T}.get(wrong, W2.T) @ d2
    s1 = {"no σ′ in layer 1": 1, "σ′ at the wrong input": slope(dA1)}.get(wrong, s1)
    d1 = dA1 * s1

    inputs, deltas = [X, A1, A2], [d1, d2, d3]
    if wrong == "z for a":
        inputs = [X, Z1, Z2]
    if wrong == "a of another layer":
        inputs[1] = A2
    deltas[1] = {"δ of another layer": d1, "∂J/∂a for δ": dA2}.get(wrong, d2)
    dW = [d @ A.T for d, A in zip(deltas, inputs, strict=True)]
    db = [d.sum(axis=1, keepdims=True) for d in deltas]
    if wrong == "b: a mean for the sum":
        db = [d.mean(axis=1, keepdims=True) for d in deltas]
    if wrong == "b: the wrong axis":
        db = [d.sum(axis=0)[:, None] if len(d) == N else d.sum() + 0 * d[:, :1] for d in deltas]
    if wrong == "b: no sum":
        db = [d[:, :1] for d in deltas]
    if wrong == "b forgotten":
        db[1] = 0 * db[1]
    if wrong == "dW transposed":
        dW = [G.T.reshape(G.shape) for G in dW]
    if wrong == "rows of dW swapped":
        dW[0] = dW[0][::-1]
    if wrong == "dW of another layer":
        dW[:2] = dW[1::-1]
    return [{"W": W, "b": b} for W, b in zip(dW, db, strict=True)]


@cache
def checked(case: tuple) -> tuple[flow.Objective, Any, list[LeafCheck], Callable]:
    """The objective, weights and biases that are not zero, and the right gradient's check."""
    s, loss, n, N, seed = case
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((N, n[0])), rng.uniform(0.1, 0.9, (N, n[-1]))
    Y = Y / Y.sum(axis=1, keepdims=True) if loss == "cross_entropy" else Y
    objective = flow.MLP(n, s).objective(X, Y, loss=loss)
    params = [
        {"W": rng.standard_normal((j, i)), "b": rng.standard_normal((j, 1))} for i, j in pairwise(n)
    ]

    def gradient(wrong: str) -> Callable:
        return lambda params, data: learner(s, loss, params, data, wrong)

    check = flow.check_gradient(objective, params, gradient=gradient(""))
    assert check.passed, check
    return objective, params, check.leaves, gradient


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.quick] * (i < QUICK)) for i, c in enumerate(NETWORKS)],
    ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}",
)
def test_mistakes_are_named(case: tuple, monkeypatch: pytest.MonkeyPatch):
    """Assert that the wrong leaves fail, and each of them is told the mistake that was made."""
    objective, params, right, gradient = checked(case)
    s, loss, n, _, _ = case
    tried, made = 0, []

    def once(*of: Any) -> Any:
        made.extend([] if made else mistakes(*of))
        return iter(made)

    monkeypatch.setattr(sys.modules["flow._problem.gradient_check"], "mistakes", once)
    for wrong, (said, possible) in MISTAKES.items():
        if not possible(s=s, loss=loss, n=n):
            continue
        tried += 1
        found = jax.tree.leaves(objective.of_numpy(gradient(wrong), params))
        checks = [replace(leaf, gradient=g) for leaf, g in zip(right, found, strict=True)]
        failed = [leaf for leaf in _named(objective, params, checks) if not leaf.passed]
        assert failed, wrong
        for leaf in failed:
            assert re.search(said, leaf.diagnosis), (wrong, leaf.name, leaf.diagnosis)
            assert leaf.diagnosis.count("; or ") <= 2
            assert max(map(len, leaf.diagnosis.split("; or "))) <= 78
    assert tried >= 20


@pytest.mark.quick
def test_what_is_printed_fits_a_terminal():
    """Assert a line a leaf, the mistake on a line of its own, and at most 80 columns."""
    objective, params, _, gradient = checked(NETWORKS[0])
    check = flow.check_gradient(objective, params, gradient=gradient("W for Wᵀ"))
    text = str(check).splitlines()
    assert text[-2:] == [
        "params[0]['W'], params[0]['b']:",
        "  W₂ for W₂ᵀ: ∂J/∂A₁ = W₂ᵀ · ∂J/∂Z₂, lemma 3",
    ]
    assert max(map(len, text)) <= 80
    assert check.worst.name in text[7]
    assert check._repr_html_().count("W₂ for W₂ᵀ") == 2


def test_mistakes_that_coincide_are_both_told():
    """Assert both where N = 2, and what either of two leaves' mistakes is where there are two."""
    X, Y = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[0.3, 1.0], [-0.2, 0.0]])
    objective = flow.MLP([2, 3, 2]).objective(X, Y)
    right = objective.gradient(objective.params)

    def told(wrong: list) -> flow.GradientCheck:
        return flow.check_gradient(objective, gradient=lambda *_: wrong)

    check = told(jax.tree.map(lambda g: 2 * g, right))
    assert check.worst.diagnosis.split("; or ") == [
        "2 times: a 1/N is missing",
        "2 times: the ½ of ½‖A − Y‖² takes the 2 of its derivative",
    ]

    first, last = right
    check = told([first | {"b": -first["b"]}, last | {"b": last["b"] / 2}])
    assert [leaf.diagnosis for leaf in check.leaves] == [
        "", "sign flipped", "", "1/2 of it: divided by N twice"
    ]  # fmt: skip
    both = told(jax.tree.map(lambda g: -2 * g, right))
    assert both.worst.diagnosis.startswith("sign flipped, and 2 times: a 1/N is missing; or sign")


@pytest.mark.quick
def test_mistakes_of_any_loss():
    """Assert a regulariser forgotten, doubled, of the other kind, and entries or leaves swapped."""
    rng = np.random.default_rng(0)
    params = {"V": rng.standard_normal((3, 3)), "W": rng.standard_normal((3, 3))}

    def loss(p: dict) -> Any:
        smooth = jnp.sum(jnp.cos(p["W"]) * p["V"]) + 0.25 * jnp.sum(p["W"] ** 4)
        return smooth + 0.05 * jnp.sum(p["W"] ** 2)

    objective = flow.Objective(loss, params)
    W = params["W"]
    dW = -np.sin(W) * params["V"] + W**3 + 0.1 * W
    said = {
        "c·θ, c = 0.1, is missing: the gradient of a regulariser ½c‖θ‖²": dW - 0.1 * W,
        "c·θ, c = 0.1, is too much: the gradient of a regulariser ½c‖θ‖²": dW + 0.1 * W,
        "c·sign(θ), c = 0.2, is too much: the gradient of a regulariser c‖θ‖₁": dW
        + 0.2 * np.sign(W),
        "rows in another order": dW[[1, 2, 0]],
        "columns in another order": dW[:, [1, 0, 2]],
        "the gradient of params['V']": np.cos(W),
        "no clear pattern": dW + W**2,
    }
    right = flow.check_gradient(objective, gradient=lambda p: {"V": np.cos(W), "W": dW})
    assert right.passed
    for words, wrong in said.items():
        checks = [right.leaves[0], replace(right.leaves[1], gradient=wrong)]
        assert _named(objective, params, checks)[1].diagnosis == words


def test_layers_of_other_kinds():
    """Assert that a network of convolution and pooling, and a tied layer, is told of."""
    layer = Linear(3, 3)
    network = flow.Network(
        [
            Reshape((1, 4)),
            Convolution(1, 1, (2,)),
            "relu",
            MaxPooling((1,)),
            Flatten(),
            layer,
            "tanh",
            layer,
        ]
    )
    rng = np.random.default_rng(1)
    objective = network.objective(rng.standard_normal((5, 4)), rng.standard_normal((5, 3)))
    right = objective.gradient(objective.params)
    check = flow.check_gradient(objective, gradient=lambda *_: jax.tree.map(lambda g: 5 * g, right))
    assert {leaf.diagnosis for leaf in check.leaves} == {"5 times: a 1/N is missing"}
    squared = [replace(leaf, gradient=leaf.gradient**2, mistake="") for leaf in check.leaves]
    said = [leaf.diagnosis for leaf in _named(objective, objective.params, squared)]
    assert said[-2:] == ["no clear pattern"] * 2
