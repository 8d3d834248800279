"""Adam, RMSProp and sign descent in continuous time: closed forms, scipy's own run, orders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pandas as pd
import pytest
import scipy.integrate
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import flow

TIGHT = {"rtol": 1e-10, "atol": 1e-13, "progress": False}
ENGINES = [{}, {"engine": "jax", "method": "Dopri8"}]
# Of both signs, three orders of magnitude apart, and one that never moves.
G = np.array([3.0, -0.02, 0.0])
EXPERIMENT = Path(__file__).parent.parent / "experiments" / "adaptive.py"


def constant(g: np.ndarray = G) -> flow.Objective:
    """J = g·θ, whose gradient is g everywhere."""
    return flow.Objective(lambda x, g: x @ g[0], np.ones(len(g)), data=np.array([g]))


@pytest.fixture(scope="module")
def quadratic() -> flow.Objective:
    """J = ½xᵀHx, H not diagonal."""
    return flow.exact.quadratic(H, X0).objective


H = np.array([[2.0, 0.5], [0.5, 1.0]])
X0 = np.array([1.0, -2.0])


def gap(dynamics: flow.Dynamics, eta: float, t: float) -> float:
    """‖θ_discrete − θ_flow‖ at t."""
    optimizer, time_step = dynamics.counterpart(eta)
    path = flow.integrate(dynamics, t, save=[t], **TIGHT)
    run = flow.descend(
        dynamics.objective,
        optimizer=optimizer,
        time_step=time_step,
        steps=round(t / time_step),
        save=2,
        progress=False,
    )
    return float(np.linalg.norm(path.theta[-1] - run.theta[-1]))


def order(make: Any, etas: list[float], t: float) -> np.ndarray:
    """Local slopes of the gap, from one η to the next."""
    gaps = [gap(make(eta), eta, t) for eta in etas]
    return np.diff(np.log(gaps)) / np.diff(np.log(etas))


# ---- Closed forms


@pytest.mark.parametrize("options", ENGINES)
@pytest.mark.quick
def test_adam_with_a_constant_gradient(options: dict):
    """Assert m̂ = g, v̂ = g², so that θ moves at g/(|g| + ε), and m = g(1 − e^{−t/τ})."""
    eta, b1, b2, eps = 0.05, 0.8, 0.95, 1e-3
    dynamics = flow.AdamFlow(constant(), eta, b1, b2, eps)
    path = flow.integrate(dynamics, 2.0, save=9, **TIGHT, **options)
    t = path.t[:, None]
    np.testing.assert_allclose(path.theta, 1 - t * G / (np.abs(G) + eps), rtol=0, atol=1e-9)
    m = G * (1 - b1 ** (t / eta))
    v = G**2 * (1 - b2 ** (t / eta))
    np.testing.assert_allclose(path.state["mu"], m, rtol=0, atol=2e-8)
    np.testing.assert_allclose(path.state["nu"], v, rtol=0, atol=2e-8)


@pytest.mark.parametrize("options", ENGINES)
def test_rmsprop_with_a_constant_gradient(options: dict):
    """Assert θ = θ₀ − (2gτ/c)[artanh(u/c) − artanh(√ε/c)], u² = v + ε, c² = g² + ε."""
    eta, decay, eps = 0.05, 0.8, 1e-4
    dynamics = flow.RMSPropFlow(constant(), eta, decay, eps)
    path = flow.integrate(dynamics, 1.5, save=9, **TIGHT, **options)
    tau, c = -eta / np.log(decay), np.sqrt(G**2 + eps)
    v = G**2 * (1 - np.exp(-path.t / tau))[:, None]
    np.testing.assert_allclose(path.state["nu"], v, rtol=0, atol=2e-8)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = 2 * G * tau / c * (np.arctanh(np.sqrt(v + eps) / c) - np.arctanh(np.sqrt(eps) / c))
    expected = 1 - np.where(G == 0, 0.0, moved)
    np.testing.assert_allclose(path.theta, expected, rtol=0, atol=1e-8)


@settings(max_examples=5, deadline=None)
@given(
    decay=st.floats(0.3, 0.95),
    eta=st.floats(0.005, 0.05),
    g=st.floats(0.1, 10.0) | st.floats(-10.0, -0.1),
)
@pytest.mark.quick
def test_boundary_layer_of_rmsprop(decay: float, eta: float, g: float):
    """Assert that v = 0 at the start takes θ further than unit speed by 2 ln 2·τ."""
    tau = -eta / np.log(decay)
    dynamics = flow.RMSPropFlow(constant(np.array([g])), eta, decay, eps=1e-14)
    path = flow.integrate(dynamics, 40 * tau, save=2, **TIGHT)
    further = (1.0 - path.theta[-1, 0]) * np.sign(g) - 40 * tau
    assert further == pytest.approx(2 * np.log(2) * tau, rel=1e-5)


def test_rmsprop_below_epsilon_is_preconditioned_gradient_flow():
    """Assert θ₀e^{−λt/√ε} where |∇J| ≪ √ε, and descent stable up to η = 2√ε/λ only."""
    lam, eps, x0 = 3.0, 1e-2, 1e-7
    objective = flow.Objective(lambda x: 0.5 * lam * x @ x, np.array([x0]))
    path = flow.integrate(
        flow.RMSPropFlow(objective, 0.01, eps=eps), 0.2, save=9, rtol=1e-10, atol=1e-20
    )
    rate = lam / np.sqrt(eps)
    np.testing.assert_allclose(path.theta[:, 0], x0 * np.exp(-rate * path.t), rtol=1e-8)
    for share in (0.99, 1.01):
        eta = share * 2 / rate
        optimizer, time_step = flow.RMSPropFlow(objective, eta, eps=eps).counterpart(eta)
        run = flow.descend(objective, optimizer=optimizer, time_step=time_step, steps=200, save=2)
        assert abs(run.theta[-1, 0]) == pytest.approx(x0 * abs(1 - 2 * share) ** 200, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"engine": "jax", "method": "TSRKC3"}])
@pytest.mark.quick
def test_smoothed_sign_flow(options: dict):
    """Assert that u − δ artanh(δ/u) + t stays the same on J = ½x², u = √(x² + δ²)."""
    delta = 0.1
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, -0.3]))
    settings = {"rtol": 1e-9, "atol": 1e-12, "progress": False}
    path = flow.integrate(flow.SignFlow(objective, delta), 0.8, save=9, **settings, **options)
    u = np.sqrt(path.theta**2 + delta**2)
    clock = u - delta * np.arctanh(delta / u) + path.t[:, None]
    np.testing.assert_allclose(clock, np.broadcast_to(clock[0], clock.shape), rtol=0, atol=2e-7)
    assert np.all(np.sign(path.theta) == np.sign(path.theta[0]))


@pytest.mark.parametrize("engine", ["scipy", "jax"])
def test_sign_flow_slides(engine: str):
    """Assert unit speed to zero and rest there within a step, and that Euler is optax.sign_sgd."""
    x0, step = np.array([1.0, -0.35, 0.0]), 0.01
    objective = flow.Objective(lambda x: 0.5 * x @ x, x0)
    dynamics = flow.SignFlow(objective)
    path = flow.integrate(
        dynamics, 1.5, method="Euler", step=step, engine=engine, save=151, progress=False
    )
    expected = np.sign(x0) * np.maximum(np.abs(x0) - path.t[:, None], 0)
    np.testing.assert_allclose(path.theta, expected, rtol=0, atol=1.001 * step)
    optimizer, time_step = dynamics.counterpart(step)
    run = flow.descend(
        objective, optimizer=optimizer, time_step=time_step, steps=30, save=31, progress=False
    )
    np.testing.assert_allclose(path.theta[:31], run.theta, rtol=0, atol=1e-14)


# ---- Independent integration


def adam_by_hand(t: float, y: np.ndarray, tau1: float, tau2: float, eps: float) -> np.ndarray:
    """In the corrected moments: d(m/c)/dt = (g − m̂)/(τc), with c = 1 − e^{−t/τ}."""
    x, m, v = y.reshape(3, -1)
    g = H @ x
    rates = [1 / (tau * -np.expm1(-t / tau)) for tau in (tau1, tau2)]
    return np.concatenate([-m / (np.sqrt(v) + eps), (g - m) * rates[0], (g**2 - v) * rates[1]])


@pytest.mark.parametrize("options", [{}, {"method": "Radau"}])
def test_adam_against_scipy(quadratic: flow.Objective, options: dict):
    """Assert θ of a run of scipy's in the corrected moments m̂ and v̂, from m̂ = g, v̂ = g²."""
    eta, b1, b2, eps = 0.05, 0.9, 0.99, 1e-4
    taus = [-eta / np.log(b) for b in (b1, b2)]
    start, end, g = 1e-9, 1.2, H @ X0
    found = scipy.integrate.solve_ivp(
        adam_by_hand,
        (start, end),
        np.concatenate([X0 - start * np.sign(g), g, g**2]),
        "LSODA",
        rtol=1e-10,
        atol=1e-12,
        args=(*taus, eps),
    )
    tolerance = {"rtol": 1e-9, "atol": 1e-11, "progress": False}
    path = flow.integrate(
        flow.AdamFlow(quadratic, eta, b1, b2, eps), end, save=2, **tolerance, **options
    )
    np.testing.assert_allclose(path.theta[-1], found.y[:2, -1], rtol=0, atol=2e-7)
    m = found.y[2:4, -1] * -np.expm1(-end / taus[0])
    np.testing.assert_allclose(path.state["mu"][-1], m, rtol=0, atol=2e-7)


@pytest.mark.parametrize("options", [{}, {"method": "Radau"}])
def test_rmsprop_against_scipy(quadratic: flow.Objective, options: dict):
    """Assert θ and v of a run of scipy's in √v, τ d√v/dt = (g² − v)/2√v, past the first step."""
    eta, decay, eps = 0.05, 0.9, 1e-3
    tau, end = -eta / np.log(decay), 0.7

    def by_hand(_: float, y: np.ndarray) -> np.ndarray:
        x, root = y.reshape(2, -1)
        g = H @ x
        return np.concatenate([-g / np.hypot(root, eps**0.5), (g**2 / root - root) / (2 * tau)])

    start, g = 1e-12, H @ X0
    found = scipy.integrate.solve_ivp(
        by_hand,
        (start, end),
        np.concatenate([X0, np.abs(g) * np.sqrt(start / tau)]),
        "LSODA",
        rtol=1e-10,
        atol=1e-12,
    )
    tolerance = {"rtol": 1e-9, "atol": 1e-11, "progress": False}
    path = flow.integrate(
        flow.RMSPropFlow(quadratic, eta, decay, eps), end, save=2, **tolerance, **options
    )
    np.testing.assert_allclose(path.theta[-1], found.y[:2, -1], rtol=0, atol=2e-7)
    np.testing.assert_allclose(path.state["nu"][-1], found.y[2:, -1] ** 2, rtol=0, atol=2e-7)


# ---- Discrete limits


def test_order_of_adam(quadratic: flow.Objective):
    """Assert order 1 with τ fixed; with β fixed, before any sign changes, nearly 2 at small τ."""
    etas = [0.0025, 0.00125]
    fixed_tau = order(
        lambda eta: flow.AdamFlow(quadratic, eta, np.exp(-eta / 0.1), np.exp(-eta / 0.4)), etas, 0.5
    )
    np.testing.assert_allclose(fixed_tau, 1, atol=0.05)
    study = flow.order_study(
        flow.AdamFlow(quadratic, 0.01, 0.5, 0.5), 0.5, [0.005, 0.0025], progress=False
    )
    assert study.slope == pytest.approx(2, abs=0.1)


def test_order_of_rmsprop():
    """Assert θ_flow − θ_discrete of a constant gradient: ∝ η with β fixed, ∝ √η with τ fixed.

    With β fixed it is η(Σ(1/√(1 − βᵏ) − 1) + 2 ln 2/ln β), without ε; with τ fixed the sum over
    1/√t leaves −ζ(½)√(ητ) behind.
    """
    objective, k, decay = constant(np.array([2.0])), np.arange(1, 2000), 0.9
    etas = [0.01, 0.005]
    gaps = [gap(flow.RMSPropFlow(objective, eta, decay, 1e-14), eta, 2.0) for eta in etas]
    excess = np.sum(1 / np.sqrt(1 - decay**k) - 1) + 2 * np.log(2) / np.log(decay)
    np.testing.assert_allclose(gaps, abs(excess) * np.array(etas), rtol=1e-4)

    tau, etas, zeta = 0.1, [1e-3, 2.5e-4], -1.4603545088
    gaps = [
        gap(flow.RMSPropFlow(objective, eta, np.exp(-eta / tau), 1e-14), eta, 2.0) for eta in etas
    ]
    np.testing.assert_allclose(gaps, -zeta * np.sqrt(np.array(etas) * tau), rtol=0.05)


def test_moments_approach_those_of_optax(quadratic: flow.Objective):
    """Assert that the moments have optax's names, and that the distance halves with η."""
    far = []
    for steps in (100, 200):
        eta = 0.5 / steps
        dynamics = flow.AdamFlow(quadratic, eta, np.exp(-eta / 0.1), np.exp(-eta / 0.4))
        path = flow.integrate(dynamics, 0.5, save=2, **TIGHT)
        run = flow.descend(
            quadratic,
            optimizer=dynamics.counterpart(eta)[0],
            time_step=eta,
            steps=steps,
            save=2,
            progress=False,
        )
        assert path.state.keys() == run.state.keys() == {"mu", "nu"}
        far.append([np.linalg.norm(path.state[k][-1] - run.state[k][-1]) for k in ("mu", "nu")])
    np.testing.assert_allclose(np.divide(*far), 2, atol=0.1)
    norms = [np.linalg.norm(run.state[k][-1]) for k in ("mu", "nu")]
    assert np.all(far[-1] < 0.02 * np.array(norms))


@pytest.mark.parametrize("kind", ["adam", "rmsprop", "sign"])
@pytest.mark.quick
def test_counterparts_are_those_of_optax(quadratic: flow.Objective, kind: str):
    """Assert the steps of optax's own optimizers with their defaults, at another learning rate."""
    dynamics, optimizer = {
        "adam": (flow.AdamFlow(quadratic, 1.0), optax.adam(0.1)),
        "rmsprop": (flow.RMSPropFlow(quadratic, 1.0), optax.rmsprop(0.1)),
        "sign": (flow.SignFlow(quadratic), optax.sign_sgd(0.1)),
    }[kind]
    made, time_step = dynamics.at_learning_rate(0.1).counterpart(0.1)
    assert time_step == 0.1
    run, own = (
        flow.descend(quadratic, optimizer=o, time_step=0.1, steps=20, save=21, progress=False)
        for o in (made, optimizer)
    )
    np.testing.assert_array_equal(run.theta, own.theta)


# ---- The rest of the package


@pytest.mark.parametrize("method", ["Radau", "LSODA"])
def test_gradients_that_are_zero_for_good(method: str):
    """Assert that their entries stay, by methods with the exact Jacobian too, where √v has none."""
    objective = flow.Objective(lambda x: 0.5 * (x[0] - 0.3 * x[1]) ** 2 + 0.0 * x[2], np.ones(3))
    for dynamics in (flow.AdamFlow(objective, 0.01), flow.RMSPropFlow(objective, 0.01)):
        path = flow.integrate(dynamics, 0.2, method=method, save=2, progress=False)
        assert path.result == "reached t = 0.2"
        assert path.theta[-1, 2] == 1.0
        assert path.loss[-1] < 0.6 * path.loss[0]


@pytest.mark.parametrize(
    ("make", "options", "moments"),
    [
        (lambda o: flow.AdamFlow(o, 0.05), {}, {"mu", "nu"}),
        (lambda o: flow.RMSPropFlow(o, 0.05), {}, {"nu"}),
        (flow.SignFlow, {"method": "Euler", "step": 0.01}, set()),
        (lambda o: flow.SignFlow(o, 0.1), {"method": "RKC2"}, set()),
    ],
)
def test_save_audit_and_compare(
    quadratic: flow.Objective, tmp_path: Path, make: Any, options: dict, moments: set
):
    """Assert that files give the run back, that audits claim no energy, and an exact comparison."""
    dynamics = make(quadratic)
    path = flow.integrate(dynamics, 0.3, save=7, progress=False, **options)
    path.save(tmp_path / "run.nc")
    loaded = flow.load(tmp_path / "run.nc")
    np.testing.assert_array_equal(loaded.theta, path.theta)
    assert loaded.state.keys() == moments
    for name in moments:
        np.testing.assert_array_equal(loaded.state[name], path.state[name])
    assert np.isnan(flow.audit(path).energy_residual)
    assert flow.audit(path).largest_rise <= 0
    optimizer, time_step = dynamics.counterpart(0.05)
    run = flow.descend(quadratic, optimizer=optimizer, time_step=time_step, steps=6, save=7)
    distance = np.linalg.norm(run.theta - path.theta, axis=1)
    np.testing.assert_allclose(flow.compare(loaded, run).distance, distance, rtol=0, atol=1e-14)


def test_ensemble_of_adam():
    """Assert that each member of an ensemble moves from its own θ₀ with moments of its own."""
    starts = np.array([[1.0, -2.0], [-0.5, 0.7]])
    objective = flow.Objective(lambda x: 0.5 * (x**2).sum(), starts[0])
    dynamics = flow.AdamFlow(objective, 0.05)
    settings = {"save": [0.0, 0.4], "progress": False}
    paths = flow.integrate(dynamics, 0.4, engine="jax", ensemble=starts, **settings)
    for start, member in zip(starts, map(paths.member, range(2)), strict=True):
        alone = flow.integrate(dynamics.starting_at(objective.starting_at(start)), 0.4, **settings)
        np.testing.assert_allclose(member.theta, alone.theta, rtol=0, atol=1e-6)
        np.testing.assert_allclose(member.state["mu"], alone.state["mu"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"engine": "jax"}, {"method": "auto"}, {"method": "Radau"}, {"method": "RKC2"}]
)
def test_jumps_are_refused_by_error_control(quadratic: flow.Objective, options: dict):
    """Assert a refusal with both remedies."""
    with pytest.raises(ValueError, match=r"jumps.*method='Euler' with step=, or smooth it"):
        flow.integrate(flow.SignFlow(quadratic), 1.0, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: flow.AdamFlow(o, 0.0), "learning_rate must be positive and finite, got 0.0"),
        (lambda o: flow.AdamFlow(o, 0.1, b1=1.0), "b1 must lie strictly between 0 and 1, got 1.0"),
        (lambda o: flow.AdamFlow(o, 0.1, b1=0.0), "without memory take a small b1"),
        (lambda o: flow.AdamFlow(o, 0.1, b2=float("nan")), "b2 must lie strictly between"),
        (lambda o: flow.AdamFlow(o, 0.1, eps=0.0), "eps must be positive and finite, got 0.0"),
        (lambda o: flow.RMSPropFlow(o, -1.0), "learning_rate must be positive and finite"),
        (lambda o: flow.RMSPropFlow(o, 0.1, decay=-0.1), "decay must lie strictly between"),
        (lambda o: flow.RMSPropFlow(o, 0.1, eps=-1e-8), "eps must be positive and finite"),
        (lambda o: flow.SignFlow(o, -0.1), "smoothing must be finite and not negative"),
    ],
)
def test_refusals(quadratic: flow.Objective, make: Any, message: str):
    """Assert that constants which make no sense are named with the value met."""
    with pytest.raises(ValueError, match=message):
        make(quadratic)


# ---- The experiment


def test_experiment(run_here):
    """Assert the orders of a small run, its moments, and distances of the runs that are kept."""
    folder = run_here(
        "adaptive",
        *("--examples", "40", "--hidden", "3", "--t", "0.04", "--save", "6"),
        *("--steps", "160", "640", "--eps", "1e-3", "--smoothing", "0.1"),
    )
    orders = pd.read_csv(folder / "orders.csv", index_col="η").iloc[-1]
    assert len(orders) == 7
    for name in ("Adam, τ fixed", "RMSProp ε = 0.001, β fixed", "sign descent, δ = 0.1"):
        assert orders[name] == pytest.approx(1, abs=0.1)
    assert orders["RMSProp, τ fixed"] < 0.8
    gaps = pd.read_csv(folder / "moments.csv", index_col="η")
    for name in ("mu of Adam, τ fixed", "nu of Adam, τ fixed", "nu of RMSProp ε = 0.001, β fixed"):
        assert gaps[name].iloc[-2] / gaps[name].iloc[-1] == pytest.approx(4, rel=0.2)
    distance = pd.read_csv(folder / "distances.csv", index_col="η").iloc[0]
    for i in range(1, 8):
        path, steps = (flow.load(folder / f"{kind}-{i}.nc") for kind in ("flow", "descent"))
        far = np.linalg.norm(path.theta[-1] - steps.theta[-1])
        assert distance.iloc[i - 1] == pytest.approx(far, rel=1e-9)
    with Image.open(folder / "figure.png") as figure:
        assert min(figure.size) > 700


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "100"), "--steps needs two numbers"),
        (("--steps", "100", "50"), "fewest first"),
        (("--steps", "0", "50"), "--steps must be a positive integer"),
        (("--t", "0"), "--t must be positive"),
        (("--smoothing", "0"), "--smoothing must be positive"),
    ],
)
def test_experiment_refuses(refused_here: Callable, arguments: tuple, message: str):
    """Assert a sentence and no folder for what makes no sense."""
    assert message in refused_here("adaptive", *arguments)
