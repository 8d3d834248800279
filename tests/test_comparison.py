"""Comparisons at matched times, orders of convergence, error bars."""

import warnings
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline

import flow
from flow._evidence.nearest import HermitePath


@pytest.fixture(scope="module")
def problem() -> flow.exact.Exact:
    """A quadratic whose flow is known at any time."""
    return flow.exact.quadratic(np.diag([1.0, 6.0]), np.array([2.0, 1.0]))


@pytest.mark.quick
def test_distance_at_times_that_nobody_saved(problem: flow.exact.Exact):
    """Assert the exact distance where linear interpolation between saves would be off by far."""
    path = flow.integrate(problem.objective, 3.0, save=5, rtol=1e-9, atol=1e-12)
    eta = 0.03
    steps = flow.descend(problem.objective, eta, steps=100, save=23)
    comparison = flow.compare(path, steps)
    np.testing.assert_array_equal(comparison.t, steps.t)
    expected = np.linalg.norm(steps.theta - problem.theta(steps.t), axis=1)
    np.testing.assert_allclose(comparison.distance, expected, rtol=1e-6, atol=1e-9)
    line = np.stack([np.interp(steps.t, path.t, x) for x in path.theta.T], axis=1)
    interpolated = np.linalg.norm(steps.theta - line, axis=1)
    assert np.max(np.abs(interpolated - expected)) > 5 * expected.max()

    travelled = np.linalg.norm(problem.theta(steps.t) - problem.theta(0.0), axis=1)
    relative = expected[1:] / travelled[1:]
    np.testing.assert_allclose(comparison.relative_distance[1:], relative, 1e-6)
    assert np.isnan(comparison.relative_distance[0])
    flow_loss = [problem.objective.value(x) for x in problem.theta(steps.t)]
    np.testing.assert_allclose(comparison.loss_gap, steps.loss - flow_loss, rtol=0, atol=1e-8)


@pytest.mark.quick
def test_a_first_step_is_no_parting():
    """Assert when a descent parts along one direction from a flow that is far along another.

    At ηλ = 0.4 the first step is 18 % off what the flow has travelled, and later ones ever less.
    At ηλ = 2.2 the stiff coordinate grows by 1.2 a step.
    """
    H, eta, steps = np.array([0.1, 4.0]), np.array([0.1, 0.55]), np.array([200, 40])
    start = np.array([[10.0, 0.5], [10.0, 1e-3]])
    found, expected = [], []
    for i in range(2):
        objective = flow.Objective(lambda x: 0.5 * x @ (H * x), start[i])
        path = flow.integrate(objective, eta[i] * steps[i], rtol=1e-9, atol=1e-12)
        run = flow.descend(objective, eta[i], steps[i], save=201)
        comparison = flow.compare(path, run, error_bar=False)
        found.append(comparison.first_passage(0.1))
        row = comparison.table()["10 % apart at t"]
        np.testing.assert_array_equal(row, found[-1])
        k = np.arange(steps[i] + 1)
        exact = start[i] * np.exp(-np.outer(eta[i] * k, H))
        distance = np.linalg.norm(start[i] * (1 - eta[i] * H) ** k[:, None] - exact, axis=1)
        travelled = np.linalg.norm(exact - start[i], axis=1)
        expected.append(k[distance > 0.1 * np.maximum(travelled, 1e-300)] * eta[i])
    assert np.isnan(found[0])
    assert expected[0] == pytest.approx([0.1, 0.2])  # the first two steps alone
    # |1.2ᵏ| 10⁻³ > 0.1 · 10 (1 − exp(−0.055 k)) from k = 38 on, when it has travelled 88 %.
    assert found[1] == pytest.approx(38 * 0.55)
    assert expected[1][-3:] == pytest.approx([20.9, 21.45, 22.0])


@pytest.mark.quick
def test_nearest_distance_of_a_run_that_only_lags():
    """Assert that a run that is late on the same curve is at distance 0 from it."""
    # θ̇ = −∇J along a straight line: GD stays on it, and lags or leads.
    objective = flow.Objective(lambda x: 0.25 * (x @ x) ** 2, np.array([1.0, 2.0]))
    path = flow.integrate(objective, 3.0, rtol=1e-10, atol=1e-12)
    comparison = flow.compare(path, flow.descend(objective, 0.02, steps=100))
    assert comparison.distance[1:].min() > 1e-4
    assert comparison.nearest_distance.max() < 1e-12


def test_nearest_distance_on_a_bent_curve(problem: flow.exact.Exact):
    """Assert the least distance from the closed-form curve, found independently."""
    steps = flow.descend(problem.objective, 0.1, steps=20, save=21)
    path = flow.integrate(problem.objective, 2.0, rtol=1e-10, atol=1e-12)
    comparison = flow.compare(path, steps)
    fine = problem.theta(np.linspace(0, 2, 200_001))
    expected = [np.linalg.norm(fine - x, axis=1).min() for x in steps.theta]
    np.testing.assert_allclose(comparison.nearest_distance, expected, rtol=0, atol=2e-4)
    assert np.all(comparison.nearest_distance <= comparison.distance)
    assert comparison.nearest_distance[2] < 0.8 * comparison.distance[2]


@pytest.mark.quick
def test_nearest_of_many_rows():
    """Assert distances from a curve of more rows and dimensions than are looked through at once.

    From points far off the span of its rows too, against the curve drawn finely; in parts.
    """
    rng, t = np.random.default_rng(0), np.linspace(0.0, 1.0, 150)
    theta = np.cos(np.outer(t, rng.uniform(0.0, 6.0, 90))) * rng.standard_normal(90)
    source = SimpleNamespace(t=t, theta=theta, noisy=False, dynamics=None)
    points = theta[rng.integers(150, size=20)] + 0.1 * rng.standard_normal((20, 90))
    fine = CubicSpline(t, theta)(np.linspace(0.0, 1.0, 20_001))
    expected = [np.linalg.norm(point - fine, axis=1).min() for point in points]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flow._run.trajectory.PART", 1000)
        found = HermitePath(source).distances(points)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.all(found < np.linalg.norm(points[:, None] - theta, axis=2).min(axis=1))


@pytest.mark.quick
def test_angle_between_velocities():
    """Assert the angle between what both moved over an interval, small angles included."""
    objective = flow.Objective(lambda x: 0.5 * x @ np.diag([1.0, 3.0]) @ x, np.array([1.0, 1.0]))
    path = flow.integrate(objective, 0.2, rtol=1e-10, atol=1e-12, save=[0.0, 0.1, 0.2])
    angle = flow.compare(path, flow.descend(objective, 0.1, steps=2, save=3)).angle
    euler = np.array([-0.1, -0.3])
    exact = np.array([np.exp(-0.1) - 1, np.exp(-0.3) - 1])
    cosine = euler @ exact / np.linalg.norm(euler) / np.linalg.norm(exact)
    assert np.isnan(angle[0])
    assert angle[1] == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-6)


@pytest.mark.quick
def test_first_passage_and_table(problem: flow.exact.Exact):
    """Assert the first matched time at which a gap is passed, and one row a run in the table."""
    path = flow.integrate(problem.objective, 3.0)
    runs = [flow.descend(problem.objective, eta, steps=round(3 / eta)) for eta in (0.3, 0.01)]
    comparison = flow.compare(path, *runs)
    relative = comparison.relative_distance[0]
    expected = comparison.t[0][np.flatnonzero(relative > 0.1)[0]]
    assert comparison.first_passage(0.1)[0] == expected
    assert np.isnan(comparison.first_passage(10.0)[1])
    table = comparison.table()
    assert list(table.index) == ["GD, η = 0.3", "GD, η = 0.01"]
    assert table["distance"].iloc[1] == comparison.distance[1][-1]
    dataset = comparison.to_xarray()
    assert dataset["distance"].sel(run="GD, η = 0.3").dropna("time").size == len(runs[0].t)
    assert dataset["t"].attrs["units"] == "learning rate × steps"


def test_shared_times_need_no_second_run(problem: flow.exact.Exact):
    """Assert that times that differ by rounding are the same, and the run's own end is compared."""
    eta = 0.1  # 0.1 × 3 is not 0.3
    steps = flow.descend(problem.objective, eta, steps=30, save=31)
    path = flow.integrate(problem.objective, 3.0, save=np.linspace(0, 3, 31))
    comparison = flow.compare(path, steps, error_bar=False)
    np.testing.assert_array_equal(comparison.t, path.t)
    direct = np.linalg.norm(steps.theta - path.theta, axis=1)
    np.testing.assert_array_equal(comparison.distance, direct)
    assert np.all(np.isnan(comparison.error_bar))


def test_a_longer_run_is_compared_up_to_the_end(problem: flow.exact.Exact):
    """Assert that times beyond the reference are left out, and those of a short run suffice."""
    path = flow.integrate(problem.objective, 1.0)
    longer = flow.descend(problem.objective, 0.1, steps=30, save=31)
    assert flow.compare(path, longer).t[-1] == 1.0
    shorter = flow.descend(problem.objective, 0.1, steps=5, save=6)
    assert flow.compare(path, shorter).t[-1] == 0.5


@pytest.mark.quick
def test_error_bar_is_the_error(problem: flow.exact.Exact):
    """Assert that the error bar estimates the true error within a factor of 3."""
    for settings in (
        {"rtol": 1e-4, "atol": 1e-7, "method": "RK45"},
        {"method": "RK4", "step": 0.1},
    ):
        path = flow.integrate(problem.objective, 2.0, save=9, **settings)
        bar = flow.audit(path, error_bar=True).error_bar
        error = np.linalg.norm(path.theta - problem.theta(path.t), axis=1)
        assert bar[0] == 0
        assert 1 / 3 < np.max(bar) / np.max(error) < 3


def test_compare_warns_of_a_careless_reference():
    """Assert a warning where the integrator's error exceeds 5 % of the distance, and none else."""
    problem = flow.exact.two_layer_scalar(1.0, 0.05)
    steps = flow.descend(problem.objective, 1e-3, steps=4000)
    careless = flow.integrate(problem.objective, 4.0, method="RK23", rtol=1e-2, atol=1e-3)
    with pytest.warns(flow.ErrorBarWarning, match="tighter rtol"):
        flow.compare(careless, steps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow.compare(flow.integrate(problem.objective, 4.0), steps)


@pytest.mark.quick
def test_order_of_gradient_descent_is_one():
    """Assert slope 1.00 ± 0.05 of ‖GD − flow‖ against η, on digits."""
    objective = flow.MLP([64, 8, 10]).objective(*flow.datasets.digits(100), seed=0)
    study = flow.order_study(objective, t=3.0)
    assert study.slope == pytest.approx(1.0, abs=0.05)
    assert study.abscissa == "learning rate η"
    np.testing.assert_allclose(study.t / study.learning_rates % 1, 0, atol=1e-9)
    tight = flow.integrate(objective, 3.0, rtol=1e-11, atol=1e-13, save=[3.0])
    descent = flow.descend(
        objective, study.learning_rates[-1], steps=round(3 / study.learning_rates[-1])
    )
    expected = np.linalg.norm(descent.theta[-1] - tight.theta[-1])
    assert study.distance[-1] == pytest.approx(expected, rel=1e-8)


@pytest.mark.quick
@pytest.mark.parametrize("method", ["RK45", "DOP853", "Radau", "Tsit5"])
def test_error_bar_of_few_steps(method: str):
    """Assert half to twice the true error where the first steps know no tolerance."""
    engine = "jax" if method == "Tsit5" else "scipy"
    for exact, t in (
        (flow.exact.two_layer_scalar(3.0, 0.1), 0.1),
        (flow.exact.two_layer_scalar(3.0, 1.0), 0.05),
        (flow.exact.logistic(-2.0), 4.0),
    ):
        path = flow.integrate(
            exact.objective, t, method=method, engine=engine, rtol=1e-2, atol=1e-5, save=5
        )
        bar = flow.audit(path, error_bar=True).error_bar
        error = np.linalg.norm(path.theta - exact.theta(path.t), axis=1)
        for i in (-1, np.argmax(error)):
            assert error[i] < 1e-12 or 0.5 < bar[i] / error[i] < 2.0


@pytest.mark.parametrize(("method", "step"), [("Euler", 5.0), ("RK4", 0.7)])
def test_error_bar_of_a_step_beyond_the_end(problem: flow.exact.Exact, method: str, step: float):
    """Assert a bar of the size of the error where the whole run is one step, cut to its end."""
    path = flow.integrate(problem.objective, 0.4, method=method, step=step, save=2)
    assert path.stats["steps"] == 1
    error = np.linalg.norm(path.theta[-1] - problem.theta(path.t)[-1])
    assert 0.5 < flow.audit(path, error_bar=True).error_bar[-1] / error < 2.0


@pytest.mark.parametrize("method", ["RK45", "BDF", "TSRKC3"])
def test_error_bar_at_the_floor_of_single_precision(method: str):
    """Assert bars of a third to three times the error where no tighter tolerance is allowed."""
    X, y = flow.datasets.digits(20)
    single, double = (
        flow.MLP([4, 3, 10]).objective(X[:, 26:30], y, dtype=dtype)
        for dtype in ("float32", "float64")
    )
    rtol = 100 * single.resolution
    path = flow.integrate(single, 5.0, method=method, rtol=rtol, atol=1e-3 * rtol, save=5)
    exact = flow.integrate(double, 5.0, rtol=1e-11, atol=1e-13, save=5)
    bar = flow.audit(path, error_bar=True).error_bar
    error = np.linalg.norm(path.theta - exact.theta, axis=1)
    assert 1 / 3 < bar.max() / error.max() < 3.0


@pytest.mark.quick
def test_error_bar_is_no_less_than_rounding():
    """Assert a bar beyond 0 where θ moves, and none at θ₀, of a flow that is exact."""
    objective = flow.Objective(lambda x: x.sum(), np.zeros(3))
    path = flow.integrate(objective, 1.0, save=3)
    np.testing.assert_allclose(path.theta[:, 0], -path.t, rtol=1e-14)
    bar = flow.audit(path, error_bar=True).error_bar
    assert bar[0] == 0
    assert np.all(bar[1:] >= objective.resolution * np.linalg.norm(path.theta[1:], axis=1))
    assert np.all(bar[1:] < 1e-14)


def test_error_bars_of_the_study(run_here: Callable):
    """Assert that the study finds no bar below a tenth of the error, and few below half."""
    folder = run_here(
        "error_bars",
        *("--problems", "product of two", "double well", "--methods", "RK45", "DOP853", "BDF"),
        *("--rtols", "1e-2", "1e-5", "--shares", "0.04", "--save", "4"),
    )
    runs = pd.read_csv(folder / "runs.csv")
    assert len(runs) == 12
    for where in ("end", "worst save"):
        known = runs[f"error, {where}"].notna()
        ratio = (runs[f"bar, {where}"] / runs[f"error, {where}"])[known]
        assert len(ratio) > 8
        assert np.all(ratio > 0.5)
        assert np.all(ratio < 3.0)


def test_the_study_refuses_what_it_has_not(refused_here: Callable):
    """Assert a sentence for words that are in no problem's name, and an unknown method."""
    assert "no problem" in refused_here("error_bars", "--problems", "linear regression")
    assert "RK54" in refused_here("error_bars", "--problems", "sine", "--methods", "RK54")
