"""The experiment on vanishing gradients at a small size, and the theorem that it leans on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import flow

SMALL = ("--width", "6", "--examples", "20", "--t", "0.5", "--steps", "20")


def autodiff_norms(activation: str, depth: int) -> np.ndarray:
    """Norms of ∂J/∂W_l at θ₀ by `jax.grad` of a forward pass on rows."""
    X, y = flow.datasets.digits(20)
    params = flow.MLP([64, *[6] * (depth - 1), 10], activation, init="xavier").initialise(0)
    g = {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}[activation]

    def loss(params: list) -> jax.Array:
        A = jnp.asarray(X)
        for layer in params[:-1]:
            A = g(A @ layer["W"].T + layer["b"].T)
        F = A @ params[-1]["W"].T + params[-1]["b"].T
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(F), axis=1))

    with jax.enable_x64(True):
        return np.array([np.linalg.norm(layer["W"]) for layer in jax.jit(jax.grad(loss))(params)])


def test_tables_and_figures(run_here: Callable):
    """Assert norms at θ₀ by autodiff, a row a network, audited flows, and two figures."""
    folder = run_here(
        "vanishing_gradients", *SMALL, "--depths", "2", "6", "--activations", "sigmoid", "relu",
        "--inits", "xavier",
    )  # fmt: skip
    index = ["activation", "init", "depth"]
    table = pd.read_csv(folder / "table.csv").set_index(index)
    layers = pd.read_csv(folder / "layers.csv")
    assert list(table.index) == [(a, "xavier", d) for a in ("sigmoid", "relu") for d in (2, 6)]
    for (activation, _, depth), row in table.iterrows():
        of = layers[(layers["activation"] == activation) & (layers["depth"] == depth)]
        expected = autodiff_norms(activation, depth)
        np.testing.assert_allclose(of[of["t"] == 0]["norm"], expected, rtol=1e-12)
        assert row["first layer"] == pytest.approx(expected[0], rel=1e-12)
        end = of[of["t"] == of["t"].max()]["norm"].to_numpy()
        assert row["last layer at t"] == pytest.approx(end[-1], rel=1e-12)
        assert row["loss at t"] < row["loss"]
        # A ReLU network is followed more coarsely.
        assert abs(row["energy residual"]) < (1e-5 if activation == "sigmoid" else 0.05)
    sigmoid, relu = (table.loc[a]["first/last"].to_numpy() for a in ("sigmoid", "relu"))
    assert sigmoid[1] < 1e-2 * sigmoid[0]  # vanishes
    assert relu[1] > 0.1 * relu[0]  # does not, beside its own last layer
    for name in ("layers", "along"):
        with Image.open(folder / f"{name}.png") as figure:
            assert min(figure.size) > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--depths", "3", "0"), "--depths must be a positive integer, got 0"),
        (("--t", "0"), "--t must be positive"),
    ],
)
def test_refusals(refused_here: Callable, arguments: tuple, message: str):
    """Assert a sentence and no folder for what makes no sense."""
    assert message in refused_here("vanishing_gradients", *SMALL, *arguments)


@pytest.mark.quick
def test_layers_of_a_relu_network_share_their_gradient():
    """Assert Euler's theorem: without biases ⟨W_l, ∂J/∂W_l⟩ is the same in every layer."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((7, 5)), rng.standard_normal((7, 2))
    network = flow.MLP([5, 4, 6, 3, 2], "relu", bias=False, init="normal")
    objective = network.objective(X, y)
    gradient = objective.gradient(objective.params)
    products = [np.vdot(p["W"], g["W"]) for p, g in zip(objective.params, gradient, strict=True)]
    np.testing.assert_allclose(products, products[0], rtol=1e-12)
    assert abs(products[0]) > 1
