"""The clock s = ln(1 + t): closed forms to astronomical times, and everything else told in t."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.special import wrightomega
from test_physics_experiments import run  # noqa: F401 - a fixture

import flow

integrate = partial(flow.integrate, clock="log", progress=False)
TIGHT = {"rtol": 1e-10, "atol": 1e-13}
# Their direction of largest margin, and its norm (truth 15).
ROWS, MARGIN = np.array([[1.0, 0.2], [0.6, 1.5], [2.0, -0.3]]), np.array([0.94202899, 0.28985507])


@pytest.fixture(scope="module")
def bowl() -> flow.Objective:
    """J = ½(x² + 3y²)."""
    return flow.exact.quadratic(np.diag([1.0, 3.0]), np.array([1.0, -2.0])).objective


# ---- closed forms


@pytest.mark.parametrize(
    "method", [pytest.param("DOP853", marks=pytest.mark.quick), "TSRKC3", "Radau"]
)
def test_losses_on_the_line(method: str):
    """Assert ln(t + e^{w₀}), and c + t − W(e^{c+t}), to t = e⁴⁰ (truth 14)."""
    t = np.expm1(np.linspace(0.0, 40.0, 23))
    c = -2.0 + np.exp(-2.0)
    for problem, expected in (
        (flow.exact.exponential(-1.0), np.log(t + np.exp(-1.0))),
        # z − ω(z) = ln ω(z), without the cancellation.
        (flow.exact.logistic(-2.0), np.log(wrightomega(c + t))),
    ):
        path = integrate(problem.objective, t[-1], method=method, save=t, **TIGHT)
        np.testing.assert_allclose(path.t, t, rtol=1e-13)
        assert np.abs(path.theta[:, 0] - expected).max() < 1e-8 * expected.max()
        np.testing.assert_allclose(problem.theta(t)[:, 0], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
@pytest.mark.quick
def test_weights_turn_to_the_largest_margin(loss: str):
    """Assert direction, ‖w‖/ln t and an angle ∝ 1/ln t by t = e⁶⁰, in 700 gradients (truth 15)."""
    losses = {
        "logistic": lambda w, X: jax.nn.softplus(-(X @ w)).mean(),
        "exponential": lambda w, X: jax.numpy.exp(-(X @ w)).mean(),
    }
    objective = flow.Objective(losses[loss], np.zeros(2), ROWS)
    path = integrate(objective, np.expm1(60.0), save=61, rtol=1e-8, atol=1e-11)
    assert path.units < 500
    s = np.log1p(path.t)
    np.testing.assert_allclose(s, np.arange(61.0), atol=1e-12)
    norms = np.linalg.norm(path.theta, axis=1)
    cosine = path.theta[1:] @ MARGIN / norms[1:] / np.linalg.norm(MARGIN)
    angle = np.arccos(cosine)
    assert np.polyfit(np.log(s[31:]), np.log(angle[30:]), 1)[0] == pytest.approx(-1.0, abs=0.01)
    assert angle[-1] < 0.04
    assert norms[-1] / s[-1] == pytest.approx(np.linalg.norm(MARGIN), rel=0.02)
    # w = ŵ ln t + ρ with ρ of a limit: its increment is ŵ.
    np.testing.assert_allclose((path.theta[-1] - path.theta[30]) / 30, MARGIN, atol=2e-3)


@pytest.mark.parametrize("engine", ["scipy", "jax"])
def test_it_is_the_same_flow(bowl: flow.Objective, engine: str):
    """Assert the closed form, in both engines, of an ensemble too, and from a loaded run."""
    problem = flow.exact.quadratic(np.diag([1.0, 3.0]), bowl.theta)
    times = [0.0, 0.2, 1.0, 3.0]
    settings = {"save": times, "engine": engine, "rtol": 1e-9, "atol": 1e-12}
    method = {"scipy": "DOP853", "jax": "Dopri8"}[engine]
    path = integrate(bowl, 3.0, method=method, **settings)
    np.testing.assert_allclose(path.t, times, rtol=1e-14)
    np.testing.assert_allclose(path.theta, problem.theta(times), atol=1e-8)
    assert path.result == "reached t = 3"
    assert path.config["clock"] == "log"
    assert path.stats["t_end"] == pytest.approx(3.0, rel=1e-14)
    if engine == "jax":
        starts = np.array([[1.0, -2.0], [0.5, 0.5]])
        paths = integrate(bowl, 3.0, method=method, ensemble=starts, **settings)
        np.testing.assert_allclose(paths.theta[0], path.theta, atol=1e-9)
        np.testing.assert_allclose(paths.t[1], times, rtol=1e-14)


# ---- what is told in t


@pytest.mark.quick
def test_saved_times_are_even_in_s(bowl: flow.Objective):
    """Assert that a number of times is spaced evenly in ln(1 + t)."""
    path = integrate(bowl, 100.0, save=11)
    np.testing.assert_allclose(np.log1p(path.t), np.linspace(0, np.log1p(100.0), 11), rtol=1e-13)


def test_stop_functions_are_told_t(bowl: flow.Objective):
    """Assert that conditions see t, on both engines, and that the result says where in t."""
    for engine in ("scipy", "jax"):
        seen = []
        path = integrate(
            bowl, 100.0, save=[0.0, 1.0, 20.0, 50.0], engine=engine, method=None,
            stop=lambda record, seen=seen: seen.append(record["t"]) or record["t"] > 10.0,
        )  # fmt: skip
        np.testing.assert_allclose(seen, [0.0, 1.0, 20.0], rtol=1e-13)
        assert path.t[-1] == pytest.approx(20.0, rel=1e-13)
        assert path.result.startswith("stopped at t = 20: condition")
    path = integrate(bowl, 100.0, stop=flow.stop.loss(0.1))
    assert path.loss[-1] <= 0.1
    assert path.result.startswith(f"stopped at t = {path.t[-1]:g}: loss")


@pytest.mark.parametrize("method", ["DOP853", "TSRKC3"])
def test_lambda_max_is_that_of_the_flow(bowl: flow.Objective, method: str):
    """Assert λ_max = 3 all along in units of 1/t, where the Jacobian in s has 3(1 + t)."""
    stats = integrate(bowl, 1e4, method=method).stats
    t, top = np.array(stats["lambda_max_t"]), np.array(stats["lambda_max"])
    assert t[-1] > 1e3
    np.testing.assert_allclose(top, 3.0, rtol=2e-3)


def test_comparison_matches_rows(bowl: flow.Objective):
    """Assert that times which come back to rounding are matched with their own rows."""
    path = integrate(bowl, 6.0, **TIGHT)
    steps = flow.descend(bowl, 0.06, steps=100, save=101, progress=False)
    comparison = flow.compare(path, steps, progress=False)
    expected = flow.exact.quadratic(np.diag([1.0, 3.0]), bowl.theta).theta(steps.t)
    distance = np.linalg.norm(steps.theta - expected, axis=1)
    np.testing.assert_allclose(comparison.distance, distance, atol=1e-8)
    np.testing.assert_allclose(comparison.t, steps.t, rtol=1e-13)
    assert np.nanmax(comparison.error_bar) < 1e-8
    np.testing.assert_array_less(flow.audit(path, error_bar=True, progress=False).error_bar, 1e-8)


def test_runs_are_saved(bowl: flow.Objective, tmp_path: Path):
    """Assert that a file has the times in t."""
    path = integrate(bowl, 6.0, save=5)
    again = flow.load(path.save(tmp_path / "run.nc"))
    np.testing.assert_array_equal(again.t, path.t)
    assert again.config["clock"] == "log"


def test_gradients_on_a_manifold_are_tangent():
    """Assert that ‖∇J‖ is that of the dynamics in t, on the manifold."""
    C = np.diag([3.0, 2.0, 1.0])
    W = np.linalg.qr(np.arange(6.0).reshape(3, 2) ** 2 + 1.0)[0].T
    objective = flow.Objective(lambda W: -0.5 * ((W @ C) * W).sum(), W)
    dynamics = flow.StiefelFlow(objective)
    log, linear = (
        flow.integrate(dynamics, 2.0, save=[0.0, 2.0], clock=clock, progress=False, **TIGHT)
        for clock in ("log", "linear")
    )
    np.testing.assert_allclose(log.gradient_norm, linear.gradient_norm, rtol=1e-7)
    np.testing.assert_allclose(log.theta, linear.theta, atol=1e-8)


# ---- refusals


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda o: flow.LangevinFlow(o, 1.0), {}, "without noise that are not Hamiltonian"),
        (lambda o: flow.HeavyBall(o, 0.0), {}, "without noise that are not Hamiltonian"),
        (lambda o: o, {"method": "RK4", "step": 0.1}, "by 'RK4'"),
        (lambda o: o, {"method": "Euler", "step": 0.1}, "clock='log' is for error-controlled"),
        (lambda o: o, {"clock": "logarithmic"}, "clock 'logarithmic' is unknown. Did you mean"),
        (lambda o: o, {"save": [0.0, 6.0]}, r"save times must lie in \[0, 5\], got 0 to 6"),
        (lambda o: o, {"save": [-3.0, 1.0]}, r"save times must lie in \[0, 5\], got -3 to 1"),
        (lambda o: o, {"save": [2.0, 1.0]}, "in order"),
    ],
)
def test_refusals(bowl: flow.Objective, make, settings: dict, message: str):
    """Assert a sentence, in units of t, for what has no such clock."""
    with pytest.raises(ValueError, match=message):
        flow.integrate(make(bowl), 5.0, **{"clock": "log"} | settings)


# ---- the experiment


def test_max_margin(run):  # noqa: F811
    """Assert the margin by SVC, slopes −1, norms and the angle of descent on the flow's own."""
    folder = run("max_margin", "--data", "points", "--steps", "3000", "--save", "61")
    table = pd.read_csv(folder / "table.csv", index_col=["data", "loss"])
    assert len(table) == 2
    np.testing.assert_allclose(table["‖ŵ‖"], np.linalg.norm(MARGIN), rtol=1e-6)
    np.testing.assert_allclose(table["slope of ln angle in ln ln t"], -1, atol=0.01)
    np.testing.assert_allclose(table["d‖w‖/d ln t"], table["‖ŵ‖"], rtol=0.002)
    np.testing.assert_allclose(table["angle of GD"], table["angle of the flow there"], rtol=0.02)
    assert np.all(table["gradients"] < 500)
    path = flow.load(folder / "points-logistic-flow.nc")
    assert np.log1p(path.t[-1]) == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--log-t", "5"), "--log-t must be at least 10"),
        (("--data", "mnist"), "--data 'mnist' is unknown"),
        (("--steps", "0"), "--steps must be a positive integer"),
    ],
)
def test_max_margin_refusals(refused_here: Callable, arguments: tuple, message: str):
    """Assert a sentence for what makes no sense."""
    assert message in refused_here("max_margin", *arguments)
