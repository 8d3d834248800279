"""Experiments on weights as a physical system, at a small size: their numbers against theory."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.optimize
from PIL import Image

import flow
from flow._core.precision import double_precision


@pytest.fixture
def run(run_here: Callable) -> Callable:
    """Run an experiment whose figure can be seen."""

    def run(name: str, *arguments: str) -> Path | int:
        folder = run_here(name, *arguments)
        if isinstance(folder, Path):
            with Image.open(folder / "figure.png") as figure:
                assert min(figure.size) > 400
        return folder

    return run


def test_deep_linear(run):
    """Assert modes and Saxe's formula, their half times, balance, and order one of descent."""
    sizes = ("--inputs", "5", "--outputs", "4", "--examples", "20", "--t", "6")
    small = ("--singular-values", "2", "1", "--u0", "0.05", "--learning-rate", "0.02")
    folder = run("deep_linear", *sizes, *small)
    table = pd.read_csv(folder / "table.csv", index_col="network")
    assert list(table.index) == ["2 layers, aligned", "3 layers, aligned", "2 layers, not aligned"]
    assert np.all(table["flow's error in u"] < 1e-9)
    assert np.all(table["flow's drift of balance"] < 1e-11)
    assert np.all(table["GD's error in u"].between(1e-3, 0.1))
    # Only where weights are aligned does descent keep the balance; elsewhere its drift is O(η).
    drift = table["GD's drift of balance"].to_numpy()
    assert np.all(drift[:2] < 1e-13)
    assert 1e-4 < drift[2] < 0.02

    s, u0 = np.array([2.0, 1.0]), 0.05
    path = flow.load(folder / "flow-1.nc")
    product = [p[1]["W"] @ p[0]["W"] for p in map(path.params, range(len(path.t)))]
    growth = np.exp(2 * np.outer(path.t, s))
    found = np.linalg.svd(product)[1]
    np.testing.assert_allclose(found[:, :2], s * growth / (growth - 1 + s / u0), rtol=1e-9)
    np.testing.assert_allclose(found[:, 2:], 0, atol=1e-12)  # modes that the target has not
    modes = pd.read_csv(folder / "modes.csv", index_col=["network", "s"])["flow"]
    expected = np.log(s / u0 - 1) / (2 * s)
    np.testing.assert_allclose(modes["2 layers, aligned"].loc[s], expected, atol=1e-3)


def test_conservation(run):
    """Assert drifts of order one in η as predicted, none for the flow, and one step to rounding."""
    folder = run(
        "conservation",
        *("--examples", "30", "--hidden", "5", "--t", "1", "--halvings", "2"),
        *("--learning-rate", "0.004", "--step", "0.02", "--save", "11"),
    )
    table = pd.read_csv(folder / "table.csv", index_col="network")
    kept, free = table.drop(index="tanh"), table.loc["tanh"]
    assert list(kept.index) == ["linear", "ReLU", "leaky ReLU", "normalised"]
    np.testing.assert_allclose(kept["slope of GD"], 1, atol=0.1)
    np.testing.assert_allclose(kept["GD's drift / η‖∫Q(∇J)dt‖"], 1, atol=0.05)
    assert np.all(kept["error of one step"] < 1e-9)
    assert np.all(kept["flow's drift"] < 0.1 * kept["GD's drift"])
    smooth = kept.loc[["linear", "normalised"]]
    assert np.all(smooth["flow's drift"] < 1e-3 * smooth["GD's drift"])
    assert np.all(smooth["slope of RK4"].between(3.7, 5.3))
    # tanh conserves nothing: a smaller step changes nothing.
    assert free["flow's drift"] > 0.01
    assert free["GD's drift"] == pytest.approx(free["flow's drift"], rel=0.1)
    assert abs(free["slope of GD"]) < 0.1

    drifts = pd.read_csv(folder / "drifts.csv", index_col=["network", "method"])
    path = flow.load(folder / "descent-ReLU.nc")
    balance = [
        np.concatenate(
            [
                (up["W"] ** 2).sum(axis=0) - (low["W"] ** 2).sum(axis=1) - low["b"][:, 0] ** 2
                for low, up in pairwise(params)
            ]
        )
        for params in (path.params(0), path.params(-1))
    ]
    drift = np.linalg.norm(balance[1] - balance[0])
    assert drifts.loc[("ReLU", "GD"), "drift"].iloc[0] == pytest.approx(drift, rel=1e-9)


def test_neural_ode(run):
    """Assert order one in 1/L of all gaps, and loss and gradient by scipy's own integration."""
    folder = run(
        "neural_ode",
        *("--depths", "32", "64", "--hidden", "3", "--examples", "12", "--t", "4"),
        *("--depth-steps", "16", "--save", "3"),
    )
    slopes = pd.read_csv(folder / "slopes.csv", index_col=0)["slope"]
    assert len(slopes) == 5
    np.testing.assert_allclose(slopes, 1, atol=0.1)

    path = flow.load(folder / "flow.nc")
    assert path.loss[-1] < 0.9 * path.loss[0]
    (X, y), shapes = moons(), path.params(-1)

    def loss(theta: np.ndarray) -> float:
        params, place = {}, 0
        for name in ("bias", "first", "last", "readout"):  # as `ravel_pytree` sorts them
            leaves = shapes[name] if isinstance(shapes[name], dict) else {name: shapes[name]}
            params[name] = {}
            for key in sorted(leaves):
                size = np.size(leaves[key])
                params[name][key] = theta[place : place + size].reshape(np.shape(leaves[key]))
                place += size

        def velocity(s: float, x: np.ndarray) -> np.ndarray:
            W, b, V = (
                (1 - s) * params["first"][k] + s * params["last"][k] for k in ("W", "b", "V")
            )
            return (V @ np.tanh(W @ x.reshape(2, -1) + b[:, None])).ravel()

        end = scipy.integrate.solve_ivp(
            velocity, (0, 1), X.T.ravel(), "DOP853", rtol=1e-11, atol=1e-12
        ).y[:, -1]
        z = params["readout"]["readout"] @ end.reshape(2, -1) + params["bias"]["bias"]
        return float(np.mean(np.logaddexp(0, z) - y * z))

    assert loss(path.theta[-1]) == pytest.approx(path.loss[-1], abs=1e-7)
    gradient = scipy.optimize.approx_fprime(path.theta[-1], loss, 1e-6)
    assert np.linalg.norm(gradient) == pytest.approx(path.gradient_norm[-1], rel=1e-4)


@pytest.mark.quick
def test_a_residual_network_is_eulers_method_through_depth(monkeypatch: pytest.MonkeyPatch):
    """Assert outputs whose gap to scipy's integration of the neural ODE halves with the layers."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "experiments")
    import neural_ode

    config = neural_ode.Configuration(hidden=3, examples=12)
    params, (X, _) = neural_ode.start(config), neural_ode.moons(config)
    W, b, V = (params["first"][name] for name in "WbV")  # θ₀ is the same at all depths
    exact = scipy.integrate.solve_ivp(
        lambda s, x: (np.tanh(x.reshape(-1, 2) @ W.T + b) @ V.T).ravel(),
        (0, 1), X.ravel(), "DOP853", rtol=1e-11, atol=1e-12,
    ).y[:, -1].reshape(-1, 2)  # fmt: skip
    with double_precision():
        ends = [neural_ode.through_depth(neural_ode.euler, L, params, X)[0] for L in (64, 128)]
    coarse, fine = (np.linalg.norm(np.asarray(end) - exact) for end in ends)
    assert coarse / fine == pytest.approx(2.0, abs=0.03)


def moons() -> tuple[np.ndarray, np.ndarray]:
    """The data of the small run."""
    from sklearn.datasets import make_moons

    X, y = make_moons(12, noise=0.1, random_state=0)
    return X - X.mean(axis=0), y


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("deep_linear", ("--layers", "1"), "--layers needs at least two layers"),
        ("deep_linear", ("--examples", "32"), "--examples 32 must be more"),
        ("deep_linear", ("--u0", "0"), "--u0 must be positive"),
        ("conservation", ("--halvings", "0"), "--halvings must be a positive integer"),
        ("conservation", ("--learning-rate", "-1"), "--learning-rate must be positive"),
        ("neural_ode", ("--depths", "8"), "--depths needs two numbers of layers"),
        ("neural_ode", ("--depth-steps", "0"), "--depth-steps must be a positive integer"),
    ],
)
def test_refusals(refused_here: Callable, name: str, arguments: tuple, message: str):
    """Assert a sentence and no folder for what makes no sense."""
    assert message in refused_here(name, *arguments)
