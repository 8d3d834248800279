"""Saves within a step: as accurate as the steps, and without a say in the run."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import flow

H = np.array([1.0, 30.0, 1000.0])


@pytest.fixture(scope="module")
def quartic() -> flow.Objective:
    """J = Σ ½Hᵢxᵢ² + xᵢ⁴/10 from ones: stability limits explicit steps after t ≈ 0.01."""
    return flow.Objective(lambda x: jnp.sum(0.5 * H * x**2 + 0.1 * x**4), np.ones(3))


def exact(t: np.ndarray) -> np.ndarray:
    """Return its flow, a Bernoulli equation in each coordinate: d(x⁻²)/dt = 2Hx⁻² + 4/5."""
    return ((1.0 + 0.4 / H) * np.exp(2.0 * H * t[:, None]) - 0.4 / H) ** -0.5


def worst(path: flow.Trajectory, rtol: float) -> float:
    """Return the largest error of its rows, in units of the tolerance."""
    with np.errstate(over="ignore"):
        expected = exact(path.t)
    error = (path.theta - expected) / (rtol * (1e-3 + np.abs(expected)))
    return np.sqrt(np.mean(error**2, axis=1)).max()


SCIPY = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA", "TSRKC3", "auto")
RUNS = [(m, "scipy", 1e-3) for m in SCIPY]
RUNS += [("DOP853", "scipy", 1e-6), ("Tsit5", "jax", 1e-3), ("Dopri8", "jax", 1e-9)]


@pytest.mark.parametrize(("method", "engine", "rtol"), RUNS)
def test_saves_are_as_accurate_as_steps(
    quartic: flow.Objective, method: str, engine: str, rtol: float
):
    """Assert, against the exact flow, what DOP853's dense output fails by 25 tolerances.

    And that the steps, the end and what the motion cost are the same however often is saved.
    """
    run = partial(
        flow.integrate, quartic, method=method, engine=engine, rtol=rtol, atol=1e-3 * rtol
    )
    few, many = (run(0.2, save=save) for save in (2, 601))
    np.testing.assert_array_equal(many.theta[-1], few.theta[-1])
    same = "steps", "rejected", "largest_rise", "dissipated"
    assert [many.stats[k] for k in same] == [few.stats[k] for k in same]
    assert many.units == few.units
    steps = run(np.inf, save=10_000, max_steps=few.stats["steps"])
    assert worst(many, rtol) < worst(steps, rtol) + 1.0


@pytest.mark.quick
def test_what_saves_cost(quartic: flow.Objective):
    """Assert that a step of DOP853 costs at most 35 evaluations for all saves within, one each."""
    for rtol in (1e-2, 1e-6):
        runs = [
            flow.integrate(quartic, 0.2, rtol=rtol, atol=1e-3 * rtol, save=n) for n in (50, 601)
        ]
        for path in runs:
            assert path.stats["save_gradients"] <= len(path.t) + 35 * path.stats["steps"]
            assert path.stats["gradients"] == path.units + path.stats["save_gradients"]
    # What stability does not limit is not watched in vain: 3 evaluations of the dense output, 1.
    H = np.array([1.0, 3.0])
    soft = flow.Objective(lambda x: 0.5 * (H * x**2).sum(), np.ones(2))
    path = flow.integrate(soft, 3.0, save=101)
    assert path.stats["save_gradients"] <= 100 + 4 * path.stats["steps"]
    np.testing.assert_allclose(path.theta, np.exp(-np.outer(path.t, H)), rtol=0, atol=1e-6)


def test_saves_of_a_network():
    """Assert the default's error at saves, 2.2e-5 by the dense output alone, and no rises."""
    objective = flow.MLP([64, 8, 10]).objective(*flow.datasets.digits(100))
    path = flow.integrate(objective, 20.0, save=101)
    tight = flow.integrate(objective, 20.0, save=101, rtol=1e-10, atol=1e-13)
    error = np.linalg.norm(path.theta - tight.theta, axis=1)
    assert error.max() < 1e-6
    loose = [flow.integrate(objective, 20.0, save=n, rtol=1e-2, atol=1e-5) for n in (2, 50, 601)]
    for run in loose:
        np.testing.assert_array_equal(run.theta[-1], loose[0].theta[-1])
        assert run.stats["steps"] == loose[0].stats["steps"]
        assert run.stats["largest_rise"] == 0.0
    assert np.diff(loose[2].loss).max() < 0.0


def test_a_run_that_ends_within_a_step(quartic: flow.Objective):
    """Assert that a record which ends a run leaves it as a run to that time is."""
    run = partial(flow.integrate, quartic, rtol=1e-2, atol=1e-5)
    path = run(1.0, stop=lambda record: record["t"] > 0.1, save=200)
    again = run(path.t[-1], save=2)
    assert path.stats["t_end"] == path.t[-1] == pytest.approx(0.1, abs=0.01)
    for name in ("dissipated", "loss_last", "largest_rise"):
        assert path.stats[name] == pytest.approx(again.stats[name], rel=1e-4)
    assert path.stats["dissipated"] == pytest.approx(again.stats["dissipated"], rel=1e-13)
    assert path.stats["gradients"] == path.units + path.stats["save_gradients"]
