"""The action: its value by a closed form, and that it is stationary along motions alone."""

import numpy as np
import pytest

import flow

pytestmark = pytest.mark.quick

LAMBDA = np.array([1.0, 4.0])


@pytest.fixture(scope="module")
def oscillator() -> flow.Objective:
    return flow.Objective(lambda x: 0.5 * (LAMBDA * x**2).sum(), np.array([1.0, -0.5]))


def motion(objective: flow.Objective, friction: float) -> flow.Trajectory:
    dynamics = flow.HeavyBall(objective, friction=friction)
    return flow.integrate(dynamics, t=3.0, rtol=1e-11, atol=1e-13, progress=False)


def test_value_of_undamped_oscillators(oscillator: flow.Objective):
    """Assert S = −Σ ω x₀² sin(2ωT)/4, the integral of ½ẋ² − ½ω²x² along x₀ cos ωt."""
    omega, x0 = np.sqrt(LAMBDA), oscillator.theta
    exact = -(omega * x0**2 * np.sin(2 * omega * 3.0) / 4).sum()
    found = flow.action(motion(oscillator, 0.0), progress=False)
    assert found.value == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("friction", [0.0, 0.7])
def test_stationary_along_a_motion(oscillator: flow.Objective, friction: float):
    """Assert that the first variation vanishes, with the factor e^{γt} and no other."""
    path = motion(oscillator, friction)
    assert flow.action(path, perturbations=5, progress=False).stationarity < 1e-9


def test_second_order_along_a_perturbation(oscillator: flow.Objective):
    """Assert that S moves by ε² off the motion, by its definition on explicit paths."""
    t = np.linspace(0.0, 3.0, 200_001)
    path = motion(oscillator, 0.7)
    again = flow.integrate(
        path.dynamics, t=3.0, rtol=1e-11, atol=1e-13, save=t[::100], progress=False
    )
    from scipy.interpolate import CubicHermiteSpline

    v = again.state["velocity"]
    spline = CubicHermiteSpline(again.t, again.theta, v)
    x, xdot = spline(t), spline(t, 1)
    phi = np.sin(np.pi * t / 3.0)[:, None] * np.array([0.6, 0.8])
    phidot = (np.pi / 3.0) * np.cos(np.pi * t / 3.0)[:, None] * np.array([0.6, 0.8])

    def S(epsilon: float) -> float:  # noqa: N802
        y, ydot = x + epsilon * phi, xdot + epsilon * phidot
        L = 0.5 * (ydot**2).sum(axis=1) - 0.5 * (LAMBDA * y**2).sum(axis=1)
        return np.trapezoid(np.exp(0.7 * t) * L, t)

    up, down, at = S(1e-2), S(-1e-2), S(0.0)
    assert abs(up - down) < 1e-4 * abs(up + down - 2 * at)
    assert at == pytest.approx(flow.action(path, progress=False).value, rel=1e-7)


def test_refused(oscillator: flow.Objective, tmp_path):
    """Assert errors for other dynamics, loaded runs and exponents that overflow."""
    with pytest.raises(ValueError, match="gradient flow"):
        flow.action(flow.integrate(oscillator, t=1.0, progress=False))
    path = motion(oscillator, 0.7)
    loaded = flow.load(path.save(tmp_path / "run.nc"))
    with pytest.raises(ValueError, match="loaded from a file"):
        flow.action(loaded)
    stiff = flow.integrate(flow.HeavyBall(oscillator, 100.0), t=10.0, progress=False)
    with pytest.raises(ValueError, match="overflows"):
        flow.action(stiff)
