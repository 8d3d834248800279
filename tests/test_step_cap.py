"""A cap just under the stability limit saves rejections, and costs nothing where it is no use."""

from math import inf

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

import flow
from flow.methods import METHODS, step_cap

EXPLICIT = ["RK23", "RK45", "DOP853"]


def growth(solver: type, z: float) -> float:
    """|R(−z)| of a method, from its own tableau: one forced step on ẏ = −zy."""
    step = solver(lambda t, y: -z * y, 0.0, [1.0], inf, first_step=1.0, rtol=1e300, atol=1e300)
    step.step()
    assert step.t == 1.0
    return abs(step.y[0])


@pytest.mark.parametrize("method", EXPLICIT)
@pytest.mark.quick
def test_limits_are_those_of_the_tableaus(method: str):
    """Assert that |R(−β)| = 1 at the limit that flow knows, less inside and more beyond."""
    solver, limit = METHODS[method].solver, METHODS[method].real_limit
    found = scipy.optimize.brentq(
        lambda z: growth(solver, z) - 1.0, 0.9 * limit, 1.1 * limit, xtol=1e-10
    )
    assert limit == pytest.approx(found, abs=2e-4)
    assert all(growth(solver, z) < 1.0 for z in np.linspace(0.1, 0.99, 12) * limit)


@pytest.fixture(scope="module")
def stiff() -> flow.Objective:
    """A valley that is not quadratic, λ_max = 100."""
    H = np.geomspace(0.01, 100.0, 8)
    return flow.Objective(
        lambda x: 0.5 * x @ (H * x) + 0.25 * (x[:3] ** 4).sum(), np.linspace(0.5, 1.5, 8)
    )


def test_fewer_rejections(stiff: flow.Objective, monkeypatch: pytest.MonkeyPatch):
    """Assert rejections and gradients with the cap and without it, at the same error.

    RK23 and DOP853 do not bounce here.
    """
    options = {"method": "RK45", "rtol": 1e-3, "atol": 1e-6, "save": 2, "progress": False}
    with_cap = flow.integrate(stiff, 40.0, **options)
    monkeypatch.setattr(step_cap, "BOUNCING", inf)
    without = flow.integrate(stiff, 40.0, **options)
    assert "lambda_max" not in without.stats
    assert with_cap.stats["rejected"] <= 0.05 * without.stats["rejected"]
    assert with_cap.stats["gradients"] <= 0.92 * without.stats["gradients"]
    top = flow.sharpness(stiff, with_cap.params(-1))
    assert with_cap.stats["lambda_max"][-1] == pytest.approx(top, rel=0.02)
    np.testing.assert_allclose(with_cap.theta[-1], without.theta[-1], rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("method", EXPLICIT)
@pytest.mark.parametrize(("rtol", "t"), [(1e-3, 10.0), (1e-4, 0.2), (1e-8, 0.2)])
def test_no_cost_where_accuracy_limits(
    stiff: flow.Objective, method: str, rtol: float, t: float, monkeypatch: pytest.MonkeyPatch
):
    """Assert at most 3 % more gradients, also on a short run, where nothing bounces."""
    options = {"method": method, "rtol": rtol, "save": 2, "progress": False}
    with_cap = flow.integrate(stiff, t, **options)
    monkeypatch.setattr(step_cap, "BOUNCING", inf)
    without = flow.integrate(stiff, t, **options)
    assert with_cap.stats["gradients"] <= 1.03 * without.stats["gradients"]


@pytest.mark.filterwarnings("ignore::flow.KinkWarning")
@pytest.mark.parametrize("method", EXPLICIT)
def test_kinks_are_not_capped(method: str, monkeypatch: pytest.MonkeyPatch):
    """Assert that rejections of another cause cost a look at most, one in ten attempts."""
    objective = flow.Objective(lambda x: abs(x[0]) + 0.5 * x[1] ** 2, np.array([0.3, 1.0]))
    options = {"method": method, "max_gradients": 3000, "save": 2, "progress": False}
    with_cap = flow.integrate(objective, 2.0, **options)
    monkeypatch.setattr(step_cap, "BOUNCING", inf)
    without = flow.integrate(objective, 2.0, **options)
    assert with_cap.stats["t_end"] == pytest.approx(without.stats["t_end"], rel=1e-3)


@pytest.mark.parametrize("method", EXPLICIT)
def test_saves_have_no_say(stiff: flow.Objective, method: str):
    """Assert the same steps however many times are saved within each."""
    options = {"method": method, "rtol": 1e-3, "progress": False}
    few, many = (flow.integrate(stiff, 20.0, save=n, **options) for n in (2, 5001))
    for name in ("steps", "rejected"):
        assert few.stats[name] == many.stats[name]
    np.testing.assert_array_equal(few.theta[-1], many.theta[-1])
