"""RKC2 and TSRKC3 in `flow.integrate`, and the compiled engine beside scipy's."""

import re
import signal
from collections.abc import Callable
from functools import cache
from math import inf
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import flow
from experiments import problems
from flow._run import compiled as compiled_driver

QUIET = {"progress": False}
# The loop is compiled for each number of saved times.
SAVE = 12


@pytest.fixture(scope="module")
def small() -> flow.Objective:
    """A network of 86 parameters."""
    X, y = flow.datasets.digits(60)
    return flow.MLP([8, 4, 10]).objective(X[:, 24:32], y, seed=0)


def units(path: flow.Trajectory) -> int:
    """What the integration cost, without the saved times' J."""
    return path.stats["gradients"] + 2 * path.stats["hvps"] - path.stats["save_gradients"]


def compiled(objective: flow.Objective, t: float, method: str, **options: object) -> object:
    """A run of the compiled engine."""
    return flow.integrate(objective, t, method=method, engine="jax", **QUIET | options)


# ---- closed forms


@cache
def closed_forms() -> dict[str, tuple[flow.exact.Exact, float]]:
    """Problems and their times."""
    rng = np.random.default_rng(2)
    Q = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    H = Q @ np.diag(np.geomspace(1e-2, 1e3, 8)) @ Q.T
    A = np.diag([2.0, 1.0, -1.0]) + 0.1
    return {
        "quadratic": (flow.exact.quadratic(H, rng.standard_normal(8), np.ones(8)), 10.0),
        "two layers": (flow.exact.two_layer_scalar(3.0, 0.1), 2.5),
        "factorisation": (
            flow.exact.matrix_factorisation(A, 0.3 * rng.standard_normal((3, 2))),
            4.0,
        ),
        "logistic": (flow.exact.logistic(-2.0), 50.0),
    }


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("quadratic", "RKC2"),
        ("two layers", "TSRKC3"),
        ("factorisation", "TSRKC3"),
        ("logistic", "TSRKC3"),
    ],
)
@pytest.mark.quick
def test_closed_forms(name: str, method: str):
    """Assert that the error is at most ten times rtol at every saved time."""
    problem, t = closed_forms()[name]
    for rtol in (1e-2, 1e-4, 1e-6):
        path = compiled(problem.objective, t, method, rtol=rtol, atol=1e-3 * rtol, save=SAVE)
        assert path.result == f"reached t = {t:g}"
        theta, exact = path.theta, problem.theta(path.t)
        if name == "factorisation":
            W = theta.reshape(-1, 3, 2)
            theta = (W @ W.transpose(0, 2, 1)).reshape(len(W), -1)
        error = np.linalg.norm(theta - exact, axis=1) / np.linalg.norm(exact, axis=1).max()
        assert error.max() < 10 * rtol


# ---- the two engines


def test_our_methods_run_compiled(small: flow.Objective):
    """Assert that they do whatever engine is asked for, with the steps that scipy takes."""
    options = {"rtol": 1e-4, "atol": 1e-7, "save": SAVE, "method": "TSRKC3"} | QUIET
    path = flow.integrate(small, 40.0, **options)
    for engine in ("scipy", "jax"):
        asked = flow.integrate(small, 40.0, engine=engine, **options)
        assert asked.stats["engine"] == asked.config["engine"] == "jax"
        np.testing.assert_array_equal(asked.theta, path.theta)
    host = solve_ivp(
        lambda _, theta: -small.flat_value_and_gradient(theta)[1],
        (0.0, 40.0),
        small.theta,
        method=flow.methods.TSRKC3,
        t_eval=path.t,
        rtol=1e-4,
        atol=1e-7,
    )
    np.testing.assert_allclose(path.theta, host.y.T, rtol=1e-8)
    assert flow.integrate(small, 1.0, save=2, **QUIET).stats["engine"] == "scipy"
    assert abs(flow.audit(path).energy_residual) < 1e-3


@pytest.mark.parametrize(("method", "peer"), [("Tsit5", "RK45"), ("Dopri8", "DOP853")])
def test_runge_kutta_beside_scipys(small: flow.Objective, method: str, peer: str):
    """Assert the same states and kinds of books, at a similar cost."""
    options = {"rtol": 1e-7, "atol": 1e-10, "save": SAVE} | QUIET
    host = flow.integrate(small, 40.0, method=peer, **options)
    device = compiled(small, 40.0, method, **options)
    assert host.result == device.result
    np.testing.assert_allclose(device.theta, host.theta, rtol=1e-4, atol=1e-6)
    assert set(device.stats) == set(host.stats) - {"lambda_max", "lambda_max_t"}
    assert device.stats["gradients"] < 1.5 * host.stats["gradients"]
    assert abs(flow.audit(device).energy_residual) < 1e-6
    assert device.stats["dissipated"] == pytest.approx(host.stats["dissipated"], rel=1e-6)
    assert device.stats["largest_rise"] <= 1e-12


@pytest.mark.parametrize("method", ["TSRKC3", "Dopri8"])
@pytest.mark.quick
def test_every_evaluation_is_counted(method: str):
    """Assert the number of gradients against a tally of the calls themselves."""
    calls = []
    H = np.geomspace(1.0, 300.0, 5)

    def gradient(x: jax.Array) -> jax.Array:
        jax.debug.callback(calls.append, x[0])
        return H * x

    objective = flow.Objective(lambda x: 0.5 * x @ (H * x), np.ones(5), gradient=gradient)
    for _ in range(2):
        calls.clear()
        path = compiled(objective, 1.0, method, save=SAVE, rtol=1e-3)
        jax.effects_barrier()
    # Compiling starts, for two.
    assert len(calls) == path.stats["gradients"] + 2


def test_nothing_is_compiled_during_a_run():
    """Assert that all is traced by the time that θ₀ is observed, after which the seconds run."""
    traces, at_start = [], []

    def loss(x: jax.Array) -> jax.Array:
        traces.append(x)
        return 0.5 * x @ (np.array([1.0, 50.0]) * x)

    def observe(*_: object) -> float:
        at_start.append(len(traces))
        return 0.0

    for method, engine in [
        ("RKC2", "jax"),
        ("Tsit5", "jax"),
        ("RKC2", "scipy"),
        ("Radau", "scipy"),
    ]:
        objective = flow.Objective(loss, np.ones(2))
        at_start.clear()
        options = {"method": method, "engine": engine, "observe": {"o": observe}} | QUIET
        path = flow.integrate(objective, 3.0, save=SAVE, **options)
        assert path.stats["steps"] > 10
        assert len(traces) == at_start[0]


# ---- budgets and endings

ENGINES = [("scipy", "TSRKC3"), ("jax", "TSRKC3"), ("jax", "Tsit5")]


def assert_whole(path: flow.Trajectory) -> None:
    """Assert that rows are finite, times increase, and the last is where the run ended."""
    for array in (path.t, path.theta, path.loss, path.gradient_norm):
        assert len(array) == len(path.t)
        assert np.all(np.isfinite(array))
    assert np.all(np.diff(path.t) > 0)
    assert path.t[-1] == path.stats["t_end"]
    assert path.loss[-1] == path.stats["loss_last"]
    named = float(re.search(r"t = ([-+.e\d]+)", path.result)[1])
    assert named == pytest.approx(path.t[-1], rel=1e-5)


@pytest.mark.parametrize(("engine", "method"), ENGINES)
def test_max_gradients(small: flow.Objective, engine: str, method: str):
    """Assert that a budget is never exceeded, and that next to nothing is left of it."""
    for budget in (1, 2, 3, 5, 17, 50, 333):
        path = flow.integrate(
            small, 1e4, method=method, engine=engine, max_gradients=budget, save=SAVE, **QUIET
        )
        assert_whole(path)
        assert path.result.startswith("budget spent at t = ")
        assert f"{budget} gradients (max_gradients)" in path.result
        assert budget - 14 <= path.stats["gradients"] <= budget


def test_a_budget_keeps_the_rows_on_its_way(small: flow.Objective):
    """Assert that a chunk which spends all leaves enough for what it saves."""
    path = compiled(small, 40.0, "Tsit5", max_gradients=100, save=np.linspace(0.0, 40.0, 400))
    assert path.result.startswith("budget spent")
    assert path.stats["gradients"] <= 100
    # Every asked time up to the end is there, but for those within the last step.
    passed = np.linspace(0.0, 40.0, 400)
    passed = passed[passed <= path.stats["t_end"]]
    assert len(path.t) >= 0.7 * len(passed)


@pytest.mark.parametrize(("engine", "method"), ENGINES)
def test_max_steps(small: flow.Objective, engine: str, method: str):
    """Assert that seven steps end where an undisturbed run is after seven."""
    options = {"method": method, "engine": engine} | QUIET
    path = flow.integrate(small, 5.0, max_steps=7, save=SAVE, **options)
    assert_whole(path)
    assert path.stats["steps"] == 7
    assert "7 steps (max_steps)" in path.result
    whole = flow.integrate(small, 5.0, save=path.t, **options)
    np.testing.assert_allclose(whole.theta, path.theta, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", ["TSRKC3", "Tsit5"])
def test_max_seconds(small: flow.Objective, method: str):
    """Assert that a run without end is over soon, with what it has."""
    path = compiled(small, 1e9, method, max_seconds=0.2, save=SAVE, rtol=1e-9, atol=1e-12)
    assert_whole(path)
    assert "0.2 seconds (max_seconds)" in path.result
    assert path.stats["seconds"] < 3


@pytest.mark.parametrize(("engine", "method"), ENGINES)
def test_stop_conditions(small: flow.Objective, engine: str, method: str):
    """Assert that the first step, or saved time, at which one holds ends the run."""
    options = {"method": method, "engine": engine, "rtol": 1e-4, "save": SAVE} | QUIET
    full = flow.integrate(small, 200.0, **options)
    middle = full.loss[5]
    path = flow.integrate(small, 200.0, stop=flow.stop.loss(middle), **options)
    assert_whole(path)
    assert re.match(rf"stopped at t = .*: loss [\d.e-]+ ≤ {middle:g}", path.result)
    assert full.t[4] < path.t[-1] <= full.t[5]
    assert path.loss[-1] <= middle < path.loss[-2]
    norm = full.gradient_norm[5]
    path = flow.integrate(small, 200.0, stop=flow.stop.gradient_norm(norm), **options)
    assert path.gradient_norm[-1] <= norm < path.gradient_norm[-2]
    assert "gradient norm" in path.result

    def late(record: dict) -> bool:
        return record["t"] > 0.5 * full.t[-1]

    path = flow.integrate(small, 200.0, stop=late, **options)
    assert path.result == f"stopped at t = {full.t[6]:g}: condition late holds"
    np.testing.assert_allclose(path.theta, full.theta[:7], rtol=1e-9, atol=1e-12)
    assert abs(flow.audit(path).energy_residual) < 2e-3  # the books end there, within a step


def test_without_an_end(small: flow.Objective):
    """Assert that t = inf keeps evenly thinned steps up to the stop condition, as scipy's does."""
    options = {"stop": flow.stop.gradient_norm(0.02), "save": 6, "rtol": 1e-3}
    path = compiled(small, inf, "TSRKC3", **options)
    assert_whole(path)
    assert path.result.startswith("stopped at t = ")
    assert path.gradient_norm[-1] <= 0.02 < path.gradient_norm[-2]
    assert 6 <= len(path.t) <= 13
    host = flow.integrate(small, inf, method="TSRKC3", **options, **QUIET)
    np.testing.assert_allclose(host.t, path.t, rtol=1e-9)
    np.testing.assert_allclose(host.theta, path.theta, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("method", ["TSRKC3", "Tsit5"])
def test_interrupted(small: flow.Objective, monkeypatch: pytest.MonkeyPatch, method: str):
    """Assert that Ctrl-C within a chunk leaves the rows of an undisturbed run."""
    whole = compiled(small, 40.0, method, save=SAVE, rtol=1e-6)
    book, steps = compiled_driver.CompiledDriver.book, []

    def interrupted(driver: compiled_driver.CompiledDriver, found: object) -> bool:
        steps.append(driver.steps)
        if len(steps) == 2:  # the second chunk's
            signal.raise_signal(signal.SIGINT)
        return book(driver, found)

    monkeypatch.setattr(compiled_driver.CompiledDriver, "book", interrupted)
    monkeypatch.setattr(compiled_driver, "FIRST_CHUNK", 5)
    path = compiled(small, 40.0, method, save=SAVE, rtol=1e-6)
    assert path.result.startswith("interrupted at t = ")
    assert_whole(path)
    assert steps == [0, 5]
    assert path.t[-1] < 40.0
    for name in ("t", "theta"):  # none of what the chunk has passed is left out
        mine, other = getattr(path, name), getattr(whole, name)
        np.testing.assert_array_equal(mine[:-1], other[: len(path.t) - 1])
    assert len(path.t) - 1 == np.searchsorted(whole.t, path.t[-1])
    assert abs(flow.audit(path).energy_residual) < 1e-4


CUBE = (lambda x: -(x[0] ** 3), 1.0, 1 / 3)  # ẋ = 3x²: x = 1/(1 − 3t)
ROOT = (lambda x: jnp.sqrt(1.0 - x[0]), 0.0, 4 / 3)  # (1 − x)^{3/2} = 1 − 3t/4, NaN beyond x = 1


@pytest.mark.parametrize(
    ("method", "loss", "start", "end"), [("TSRKC3", *CUBE), ("TSRKC3", *ROOT), ("Tsit5", *ROOT)]
)
def test_blow_up_in_finite_time(method: str, loss: Callable, start: float, end: float):
    """Assert a finite partial trajectory that ends at the singularity and says so."""
    objective = flow.Objective(loss, np.array([start]))
    path = compiled(objective, 5.0, method, save=SAVE, max_gradients=50_000)
    assert_whole(path)
    assert path.result.startswith("ended at t = ")
    assert "non-finite" in path.result or "may end in finite time" in path.result
    assert 0.99 * end < path.t[-1] < end + 1e-5


# ---- what is kept


def test_observers_files_and_comparisons(small: flow.Objective, tmp_path: Path):
    """Assert that a compiled run is observed, saved, audited and compared like any other."""
    path = compiled(small, 40.0, "Tsit5", save=SAVE, observe={"λ": flow.sharpness})
    expected = [flow.sharpness(small, path.params(i)) for i in range(SAVE)]
    np.testing.assert_allclose(path.observed["λ"], expected, rtol=1e-6)
    stabilised = compiled(small, 40.0, "TSRKC3", save=SAVE)
    again = flow.load(stabilised.save(tmp_path / "run.nc"))
    assert again.stats == stabilised.stats
    assert again.config == stabilised.config
    assert len(again.stats["lambda_max"]) == len(again.stats["lambda_max_t"]) > 3
    for run in (path, stabilised):
        report = flow.audit(run, error_bar=True, progress=False)
        exact = flow.integrate(small, 40.0, rtol=1e-11, atol=1e-13, save=SAVE, **QUIET)
        error = np.linalg.norm(run.theta - exact.theta, axis=1)
        # Of ten times the tolerance, the other run has more than half less error.
        np.testing.assert_allclose(report.error_bar[1:], error[1:], rtol=0.5)
    steps = flow.descend(small, 0.5, 80, save=SAVE, progress=False)
    found = flow.compare(path, steps, progress=False)
    np.testing.assert_allclose(
        found.distance, np.linalg.norm(steps.theta - exact.theta, axis=1), rtol=1e-3, atol=1e-9
    )


def test_ascent():
    """Assert that uphill, J = −½xᵀHx is followed too, with its books."""
    H = np.array([1.0, 80.0])
    objective = flow.Objective(lambda x: -0.5 * x @ (H * x), np.array([1.0, 1.0]))
    dynamics = flow.GradientFlow(objective, ascent=True)
    path = compiled(dynamics, 2.0, "TSRKC3", rtol=1e-5, save=SAVE)
    np.testing.assert_allclose(
        path.theta, np.exp(-np.multiply.outer(path.t, H)), rtol=1e-4, atol=1e-4
    )
    assert abs(flow.audit(path).energy_residual) < 1e-3
    assert 0 <= path.stats["largest_rise"] < 1e-6
    assert path.stats["lambda_max"][0] == pytest.approx(80.0, rel=0.01)  # the sharpness of −J


def test_conserved_quantities():
    """Assert that balancedness of a linear network drifts by the integrator's error alone."""
    X, y = flow.datasets.digits(50)
    network = flow.MLP([8, 3, 10], activation="identity", bias=False)
    path = compiled(network.objective(X[:, 24:32], y), 5.0, "TSRKC3", rtol=1e-5, save=SAVE)
    report = flow.audit(path)
    assert report.conserved["balancedness 1-2"] < 1e-4
    assert abs(report.energy_residual) < 1e-4


# ---- single precision


def test_single_precision():
    """Assert the floor of tolerances, a right answer above it, and bounded stages."""
    X, y = flow.datasets.digits(60)
    single, double = (
        flow.MLP([8, 4, 10]).objective(X[:, 24:32], y, seed=0, dtype=dtype)
        for dtype in ("float32", "float64")
    )
    with pytest.raises(ValueError, match=r"rtol=1e-06 is below 1\.2e-05.*; raise rtol"):
        compiled(single, 100.0, "TSRKC3", rtol=1e-6)
    exact = flow.integrate(double, 100.0, rtol=1e-9, save=SAVE, **QUIET)
    for rtol in (1e-2, 1e-3, 1e-4):
        path = compiled(single, 100.0, "TSRKC3", rtol=rtol, atol=1e-3 * rtol, save=SAVE)
        assert path.result == "reached t = 100"
        error = np.linalg.norm(path.theta - exact.theta, axis=1)
        assert np.all(error <= 10 * rtol * np.linalg.norm(exact.theta, axis=1))
        # Round-off grows with hρ, which stays below 0.03 rtol over the unit roundoff.
        most = 0.03 * rtol / np.finfo(np.float32).eps
        assert units(path) / path.stats["steps"] < 2.0 + np.sqrt(4.0 + 1.6 * most)


# ---- costs


@pytest.mark.parametrize(
    ("method", "rtol", "error", "ceiling"),
    [
        ("RKC2", 1.2e-3, 1e-3, 1450),
        ("TSRKC3", 5e-5, 1e-5, 3000),
        ("TSRKC3", 8e-7, 1e-7, 7200),
    ],
)
@pytest.mark.usefixtures("optimised")
def test_digits(method: str, rtol: float, error: float, ceiling: int):
    """Assert what an error of 1e-3, 1e-5 and 1e-7 costs at T = 1,000."""
    objective, exact = digits()
    path = compiled(objective, 1000.0, method, rtol=rtol, atol=1e-3 * rtol, save=2)
    found = np.linalg.norm(path.theta[-1] - exact) / np.linalg.norm(exact)
    assert found <= error
    assert units(path) <= ceiling


@cache
def digits() -> tuple[flow.Objective, np.ndarray]:
    """The digits problem, and θ(1000) by another method at a far tighter tolerance."""
    objective = problems.digits()
    path = compiled(objective, 1000.0, "Dopri8", rtol=1e-9, atol=1e-12, save=2)
    return objective, path.theta[-1]
