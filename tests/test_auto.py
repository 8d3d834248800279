"""`method="auto"`: what it picks, why, and what that costs."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from runpy import run_path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flow
from flow.methods.auto import Auto

PROBLEMS = run_path(str(Path(__file__).parent.parent / "experiments" / "problems.py"))


def units(path: flow.Trajectory) -> int:
    """What the integration cost, without the saved times' J."""
    return path.stats["gradients"] + 2 * path.stats["hvps"] - path.stats["save_gradients"]


def assert_recorded(path: flow.Trajectory) -> None:
    """Assert that choices are told from θ₀ on, each with its reason."""
    choices = path.stats["choices"]
    assert choices[0]["t"] == 0.0
    assert all(a["t"] < b["t"] for a, b in pairwise(choices))
    assert all(a["method"] != b["method"] for a, b in pairwise(choices))
    assert all(len(choice["reason"]) > 20 for choice in choices)
    assert path.config["method"] == "auto"


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize(
    ("name", "t"), [("small", 100.0), ("chebyshev", 20.0), ("regression", 300.0)]
)
def test_costs_little_more_than_the_best(name: str, t: float, rtol: float):
    """Assert at most 1.3 times the best single choice of no more error, and 60 units."""
    objective, exact = reference(name, t)
    costs, errors = {}, {}
    singles = ["RKC2", "TSRKC3", "Radau" if name == "regression" else "DOP853"]
    for method in [*singles, "auto"]:
        path = flow.integrate(
            objective, t, method=method, rtol=rtol, atol=1e-3 * rtol, save=2, progress=False,
            max_gradients=20_000,
        )  # fmt: skip
        costs[method] = units(path)
        errors[method] = np.linalg.norm(path.theta[-1] - exact) / np.linalg.norm(exact)
        if not path.result.startswith("reached"):
            costs[method] = np.inf
    assert_recorded(path)
    best = min(costs[m] for m in costs if m != "auto" and errors[m] <= max(errors["auto"], rtol))
    assert costs["auto"] <= 1.3 * best + 60
    assert errors["auto"] <= 10 * rtol


@cache
def reference(name: str, t: float) -> tuple[flow.Objective, np.ndarray]:
    """The problem, and θ(t) at a far tighter tolerance."""
    objective, method = PROBLEMS[name](), "Radau" if name == "regression" else "DOP853"
    settings = {"rtol": 1e-9, "atol": 1e-12, "save": 2, "progress": False}
    return objective, flow.integrate(objective, t, method=method, **settings).theta[-1]


def test_large_and_stiff_at_loose_tolerance():
    """Assert that a network of many parameters is RKC2's from the first step to the last."""
    objective = flow.MLP([64, 32, 10]).objective(*flow.datasets.digits(100), seed=0)
    path = flow.integrate(objective, 30.0, method="auto", rtol=1e-3, progress=False)
    assert [c["method"] for c in path.stats["choices"]] == ["RKC2"]
    top = flow.sharpness(objective, objective.params)
    assert path.stats["lambda_max"][0] == pytest.approx(top, rel=0.05)
    assert path.stats["choices"][0]["reason"].startswith("λ_max·t = ")


@pytest.mark.quick
def test_many_linear_dimensions():
    """Assert that a linear flow of 60 dimensions is Radau's, and right, for two Jacobians."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    problem = flow.exact.quadratic(Q @ np.diag(np.geomspace(1e-2, 1e4, 60)) @ Q.T, np.ones(60))
    path = flow.integrate(problem.objective, 100.0, method="auto", rtol=1e-5, progress=False)
    assert [c["method"] for c in path.stats["choices"]] == ["Radau"]
    assert "linear" in path.stats["choices"][0]["reason"]
    np.testing.assert_allclose(path.theta, problem.theta(path.t), atol=1e-4)
    assert path.stats["hvps"] <= 120


def test_a_small_start_is_not_a_linear_flow():
    """Assert that a saddle, about which all is linear, is not taken for a linear flow."""
    X = np.diag([30.0, 10.0, 3.0, 1.0])
    loss = lambda p: 0.5 * jnp.sum((X @ (p["u"] ** 2 - p["v"] ** 2) - X[0]) ** 2)  # noqa: E731
    start = {name: np.full(4, 1e-6) for name in "uv"}
    objective = flow.Objective(loss, start)
    path = flow.integrate(objective, 100.0, method="auto", max_steps=2, progress=False)
    assert path.stats["lambda_max"][0] * 100.0 > 216.0**2 / 60.0  # where Radau is thought of
    assert "linear" not in path.stats["choices"][0]["reason"]


@pytest.mark.quick
def test_too_large_for_jacobians():
    """Assert that beyond dense sizes a linear flow is not Radau's."""
    policy = Auto(5000, 1e-3, dense=False)
    assert policy.first(1e6, 1e6, linear=True)[0] == "stabilised"


@dataclass(frozen=True)
class Oscillator(flow.Dynamics):
    """Heavy ball, θ̈ + γθ̇ = −∇J, with its state (θ, θ̇)."""

    objective: flow.Objective
    friction: float = 0.1

    def initial_state(self) -> Any:
        """At rest."""
        theta = self.objective.unflatten(self.objective.theta)
        return theta, jax.tree.map(np.zeros_like, theta)

    def rhs(self, t: Any, state: Any, data: Any) -> Any:
        """θ̇ and θ̈."""
        theta, velocity = state
        gradient = self.objective.traced_gradient(theta, data)
        return velocity, jax.tree.map(lambda v, g: -self.friction * v - g, velocity, gradient)

    def params(self, state: Any) -> Any:
        """θ."""
        return state[0]


@pytest.fixture(scope="module")
def oscillator() -> Oscillator:
    """Two springs, hardly damped."""
    H = np.array([1.0, 50.0])
    return Oscillator(flow.Objective(lambda x: 0.5 * x @ (H * x), np.ones(2)))


@pytest.mark.parametrize("method", ["RKC2", "TSRKC3", flow.methods.RKC2])
@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.quick
def test_dynamics_that_oscillate_are_refused(oscillator: Oscillator, method: Any, engine: str):
    """Assert that a declaration is enough to keep the stabilised methods out."""
    with pytest.raises(ValueError, match=r"is for a real negative spectrum.*use 'DOP853' here"):
        flow.integrate(oscillator, 1.0, method=method, engine=engine)


def test_dynamics_that_oscillate_take_an_explicit_method(oscillator: Oscillator):
    """Assert that auto follows them by DOP853 and says why, and the compiled default by Dopri8."""
    auto = flow.integrate(oscillator, 3.0, method="auto", rtol=1e-8, save=5, progress=False)
    assert [c["method"] for c in auto.stats["choices"]] == ["DOP853"]
    assert "does not declare a real spectrum" in auto.stats["choices"][0]["reason"]
    H, friction = np.array([1.0, 50.0]), 0.1
    root = np.sqrt(H - friction**2 / 4)
    t = auto.t[:, None]
    exact = np.exp(-friction * t / 2) * (np.cos(root * t) + friction / 2 / root * np.sin(root * t))
    np.testing.assert_allclose(auto.theta, exact, atol=1e-6)
    compiled = flow.integrate(oscillator, 3.0, engine="jax", rtol=1e-8, save=5, progress=False)
    assert compiled.config["method"] == "Dopri8"
    np.testing.assert_allclose(compiled.theta, exact, atol=1e-6)


@dataclass(frozen=True)
class Liar(Oscillator):
    """An oscillator that declares a real spectrum."""

    real_spectrum: ClassVar[bool] = True


@pytest.mark.parametrize("engine", ["scipy", "jax"])
def test_a_false_declaration_is_found_out(oscillator: Oscillator, engine: str):
    """Assert that the spectrum itself is looked at, too."""
    liar = Liar(oscillator.objective)
    with pytest.raises(flow.methods.SpectrumNotReal, match="complex"):
        flow.integrate(liar, 1.0, method="TSRKC3", engine=engine, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "jax", "method": "DOP853"}, "has the methods RKC2.*'Dopri8' is nearest"),
        ({"engine": "jax", "method": "auto"}, "engine='jax' has the methods"),
        ({"engine": "jax", "method": "Radau"}, "engine='jax' has the methods"),
        ({"engine": "scipy", "method": "Tsit5"}, "diffrax's, and runs compiled"),
        ({"engine": "torch"}, "engine 'torch' is unknown"),
        ({"engine": "jax", "step": 0.1}, "step=0.1 goes with methods of fixed steps"),
        ({"method": "TSRKC3", "step": 0.1}, "step=0.1 goes with methods of fixed steps"),
        ({"method": "RKC"}, "Did you mean 'RKC2'"),
    ],
)
@pytest.mark.quick
def test_pairs_that_do_not_go_together(oscillator: Oscillator, arguments: dict, message: str):
    """Assert that the message names the remedy."""
    with pytest.raises(ValueError, match=message):
        flow.integrate(oscillator.objective, 1.0, **arguments)


def test_auto_is_repeated():
    """Assert that auto keeps to budgets, and is audited and compared like any method."""
    objective, exact = reference("small", 100.0)
    path = flow.integrate(objective, 100.0, method="auto", save=3, progress=False)
    assert_recorded(path)
    report = flow.audit(path, error_bar=True, progress=False)
    error = np.linalg.norm(path.theta[-1] - exact)
    assert report.error_bar[-1] == pytest.approx(error, rel=0.5)
    assert abs(report.energy_residual) < 1e-5
    for budget in (1, 2, 3, 20, 100, 400):
        short = flow.integrate(
            objective, 100.0, method="auto", max_gradients=budget, save=3, progress=False
        )
        assert short.result.startswith("budget spent at t = ")
        assert short.stats["gradients"] + 2 * short.stats["hvps"] <= budget
