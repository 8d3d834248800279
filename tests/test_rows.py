"""J and ‖∇J‖ of every row are those of its θ, whoever moved it."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import DenseOutput, OdeSolver
from scipy.integrate._ivp.base import ConstantDenseOutput

import flow

integrate = partial(flow.integrate, t=3.0, save=7, progress=False)
descend = partial(flow.descend, steps=40, save=5, progress=False)

H = np.array([1.0, 30.0, 1000.0])
SCIPY = ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA", "RKC2", "TSRKC3", "auto"]
COMPILED = ["RKC2", "TSRKC3", "Tsit5", "Dopri8"]
FIXED = {"Euler": 2e-3, "RK4": 4e-3}


@pytest.fixture(scope="module")
def quartic() -> flow.Objective:
    """J = Σ(½Hᵢxᵢ² + xᵢ⁴/10) at x = 1, where a state between two is soon another J."""
    return flow.Objective(lambda x: jnp.sum(0.5 * H * x**2 + 0.1 * x**4), np.ones(3))


@pytest.fixture(scope="module")
def bowl() -> flow.Objective:
    """J = mean of ½Σᵢ(x − aₖ)ᵢ² over eight aₖ."""
    data = np.random.default_rng(0).standard_normal((8, 3))
    return flow.Objective(lambda x, a: 0.5 * ((x - a) ** 2).sum(axis=1).mean(), np.ones(3), data)


def assert_own(run: flow.Trajectory, objective: flow.Objective) -> None:
    """Assert J and ‖∇J‖ of each row, and of the first and last state, at the rows' own θ."""
    theta = np.array([objective.unflatten(x) for x in run.theta])
    loss = np.array([objective.value(x) for x in theta])
    norm = [np.linalg.norm(objective.gradient(x)) for x in theta]
    np.testing.assert_allclose(run.loss, loss, rtol=1e-13)
    np.testing.assert_allclose(run.gradient_norm, norm, rtol=1e-13)
    np.testing.assert_allclose(run.stats["loss_last"], loss[-1], rtol=1e-13)
    if run.t[0] == 0:
        np.testing.assert_allclose(run.stats["loss_first"], loss[0], rtol=1e-13)


@pytest.mark.quick
@pytest.mark.parametrize("method", SCIPY)
def test_rows_of_scipys_engine(quartic: flow.Objective, method: str):
    """Assert rows at asked times and at steps, of runs to t, to a threshold and to a budget."""
    seen = []

    def look(record: dict) -> bool:
        seen.append((record["theta"].copy(), record["loss"], record["gradient_norm"]))
        return False

    run = partial(integrate, quartic, method=method, rtol=1e-2)
    whole = run(stop=look)
    ended = run(stop=flow.stop.gradient_norm(0.1))
    assert ended.result.startswith("stopped")
    thinned = run(t=np.inf, save=1000, max_gradients=200)
    for path in (whole, ended, thinned):
        assert_own(path, quartic)
    theta, loss, norm = map(np.array, zip(*seen, strict=True))
    np.testing.assert_array_equal(theta, whole.theta)
    np.testing.assert_array_equal(loss, whole.loss)
    np.testing.assert_array_equal(norm, whole.gradient_norm)


@pytest.mark.parametrize("method", ["DOP853", "BDF", "LSODA"])
def test_largest_rise_is_over_steps(quartic: flow.Objective, method: str):
    """Assert the largest rise of an oscillating J over all steps where the end alone is saved."""
    ball = flow.HeavyBall(quartic, friction=0.5)
    every = integrate(ball, method=method, t=np.inf, save=1000, max_steps=60)
    few = integrate(ball, method=method, t=every.t[-1], save=[every.t[-1]])
    rise = np.diff(every.loss).max()
    # Where it is to end, LSODA looks ahead, and its steps differ a little.
    assert few.stats["largest_rise"] == pytest.approx(rise, rel=1e-5)
    assert rise > 1.0


class InPlace(OdeSolver):
    """Euler's method that moves one array, and gives up after 50 steps."""

    def __init__(self, fun: Callable, t0: float, y0: np.ndarray, t_bound: float, *, step: float):
        super().__init__(fun, t0, y0, t_bound, vectorized=False)
        self.h, self.left = step, 50

    def _step_impl(self) -> tuple[bool, str | None]:
        self.y += self.h * self.fun(self.t, self.y)
        self.t, self.left = self.t + self.h, self.left - 1
        return self.left > 0, "no further"

    def _dense_output_impl(self) -> DenseOutput:
        return ConstantDenseOutput(self.t_old, self.t, np.array(self.y))


def test_rows_of_a_solver_that_moves_its_state_in_place(quartic: flow.Objective):
    """Assert rows and the energy at θ₀, also where the last step is not accepted."""
    run = partial(integrate, method=InPlace, step=1e-3)
    path = run(quartic, save=[0.0, 0.01, 0.02])
    assert path.result == "ended at t = 0.049: no further"
    assert len(path.t) == 4
    assert_own(path, quartic)
    assert path.stats["energy_first"] == path.stats["loss_first"]
    ball = run(flow.HeavyBall(quartic, friction=0.5), save=[0.0])
    assert ball.stats["energy_first"] == pytest.approx(quartic.value(np.ones(3)), rel=1e-13)


@pytest.mark.parametrize("method", COMPILED)
def test_rows_of_the_compiled_engine(quartic: flow.Objective, method: str):
    """Assert rows of a run that a threshold ends, and of the members of an ensemble."""
    run = partial(integrate, quartic, method=method, engine="jax", t=1.0, rtol=1e-2)
    starts = np.array([[1.0, 1.0, 1.0], [-0.5, 2.0, 0.1]])
    members = run(ensemble=starts)
    for path in (run(stop=flow.stop.gradient_norm(0.5)), *map(members.member, range(2))):
        assert_own(path, quartic)


def test_rows_at_steps_of_the_compiled_engine(quartic: flow.Objective):
    """Assert rows of a run that saves as it goes."""
    assert_own(integrate(quartic, t=np.inf, save=100, max_gradients=200, engine="jax"), quartic)


@pytest.mark.parametrize("method", FIXED)
def test_rows_of_fixed_steps(quartic: flow.Objective, method: str):
    """Assert rows of Euler's method and RK4, between steps and at them."""
    run = partial(integrate, quartic, method=method, step=FIXED[method], t=0.1)
    for path in (run(), run(stop=flow.stop.gradient_norm(5.0))):
        assert_own(path, quartic)


@pytest.mark.parametrize("method", ["DOP853", "BDF", "LSODA", "Verlet"])
def test_rows_of_motion(quartic: flow.Objective, method: str):
    """Assert J and ‖∇J‖ at θ where θ is part of the state, and the log clock's."""
    step = {"step": 0.01} if method == "Verlet" else {}
    ball = flow.HeavyBall(quartic, friction=0.0)
    assert_own(integrate(ball, method=method, t=0.3, **step), quartic)
    if not step:
        assert_own(integrate(quartic, method=method, clock="log"), quartic)


@pytest.mark.parametrize("method", ["EulerMaruyama", "Heun"])
def test_rows_of_noise(quartic: flow.Objective, method: str):
    """Assert rows of two paths."""
    paths = integrate(flow.LangevinFlow(quartic, 0.1), method=method, step=1e-3, t=0.1, paths=2)
    for i in range(2):
        assert_own(paths.member(i), quartic)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 1e-3},
        {"optimizer": optax.adam(0.1), "time_step": 0.1},
        {"learning_rate": 0.1, "batch_size": 2},
        {"learning_rate": 0.1, "stop": flow.stop.gradient_norm(0.05)},
    ],
)
def test_rows_of_descent(bowl: flow.Objective, options: dict):
    """Assert rows of a run of an optimizer, also of one on mini-batches."""
    assert_own(descend(bowl, **options), bowl)


def test_rows_of_descents(quartic: flow.Objective):
    """Assert rows of an ensemble of learning rates, one of which diverges."""
    runs = descend(quartic, [1e-4, 1e-3, 0.1])
    assert "diverged" in runs.result
    for i in range(3):
        assert_own(runs.member(i), quartic)
