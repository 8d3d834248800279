"""Runs that cannot go on return what they have, and say why."""

import _thread
import re
import signal
import threading
import time
from collections.abc import Callable
from math import inf

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flow
from flow.dynamics.kinks import may_have_kinks

ADAPTIVE = ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"]


@pytest.fixture(scope="module")
def valley() -> flow.Objective:
    """λ_max = 4, so that learning rates are stable below 1/2."""
    return flow.Objective(lambda x: 2.0 * x[0] ** 2 + 0.5 * x[1] ** 2, np.array([1.0, 1.0]))


@pytest.fixture(scope="module")
def small() -> flow.Objective:
    """A network of 86 parameters, of the middle row of the images."""
    X, y = flow.datasets.digits(60)
    return flow.MLP([8, 4, 10]).objective(X[:, 24:32], y, seed=0)


@pytest.fixture(scope="module")
def relu() -> flow.Objective:
    """A network with kinks."""
    network = flow.MLP([64, 16, 10], activation="relu")
    return network.objective(*flow.datasets.digits(300))


def named_time(path: flow.Trajectory) -> float:
    """The time that `result` names."""
    return float(re.search(r"t = ([-+.e\d]+)", path.result)[1])


def assert_whole(path: flow.Trajectory) -> None:
    """Assert that every row is finite, times increase, and the last is where the run ended."""
    rows = len(path.t)
    assert path.theta.shape[0] == path.loss.shape[0] == path.gradient_norm.shape[0] == rows
    for array in (path.t, path.theta, path.loss, path.gradient_norm):
        assert np.all(np.isfinite(array))
    assert path.t[0] == 0
    assert np.all(np.diff(path.t) > 0)
    assert path.t[-1] == path.stats["t_end"]
    assert path.loss[-1] == path.stats["loss_last"]
    if not path.result.startswith("diverged"):  # that names the step beyond
        assert named_time(path) == pytest.approx(path.t[-1], rel=1e-5)


def after(calls: int, happening: Callable[[], object]) -> Callable:
    """An observer to whom something happens after so many calls, once."""
    seen = []

    def observe(_: flow.Objective, params: object) -> float:
        seen.append(params)
        if len(seen) == calls:
            happening()
        return float(len(seen))

    return observe


def interrupt() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def boom() -> None:
    """Fail."""
    raise RuntimeError("boom")


# ---- blow-up

CUBE = (lambda x: -(x[0] ** 3), 1.0, 1 / 3)  # ẋ = 3x²: x = 1/(1 − 3t)
ROOT = (lambda x: jnp.sqrt(1.0 - x[0]), 0.0, 4 / 3)  # (1 − x)^{3/2} = 1 − 3t/4, NaN beyond x = 1


@pytest.mark.parametrize("method", [*ADAPTIVE, "Euler", "RK4"])
@pytest.mark.parametrize(("loss", "start", "end"), [CUBE, ROOT], ids=["cube", "root"])
def test_blow_up_in_finite_time(loss: Callable, start: float, end: float, method: str):
    """Assert a finite partial trajectory that ends at the singularity and says so."""
    objective = flow.Objective(loss, np.array([start]))
    fixed = method in ("Euler", "RK4")
    path = flow.integrate(
        objective,
        5.0,
        method=method,
        step=0.01 if fixed else None,
        save=101,
        max_gradients=50_000,
        max_seconds=20,
    )
    assert_whole(path)
    assert path.result.startswith("ended at t = ")
    # Fixed steps see a singularity late.
    assert 0.9 * end < path.t[-1] < (1.4 * end if fixed else end + 1e-5)
    assert "non-finite" in path.result or "may end in finite time" in path.result
    early = path.t < 0.5 * end
    t = path.t[early]
    exact = 1 / (1 - 3 * t) if loss is CUBE[0] else 1 - (1 - 0.75 * t) ** (2 / 3)
    tolerance = 0.2 if method == "Euler" else 1e-3
    np.testing.assert_allclose(path.theta[early, 0], exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("save", [2, 11, 1001])
@pytest.mark.quick
def test_gradient_descent_diverges(valley: flow.Objective, save: int):
    """Assert that the step and the value met are named, and that all that is kept is finite."""
    path = flow.descend(valley, 5.0, 1000, save=save)
    assert_whole(path)
    found = re.match(
        r"diverged at step (\d+) \(t = [\d.]+\): the loss is inf; .*2/λ_max", path.result
    )
    assert found
    with np.errstate(over="ignore"):
        x = np.array([(-19.0) ** np.arange(200.0), (-4.0) ** np.arange(200.0)])
        losses = 2.0 * x[0] ** 2 + 0.5 * x[1] ** 2
    first = int(np.argmax(~np.isfinite(losses)))
    assert int(found[1]) == pytest.approx(first, abs=1)
    assert path.stats["steps"] == int(found[1]) - 1


@pytest.mark.quick
def test_what_ran_away_is_told_so():
    """Assert that |∇J|², the first to overflow where J is |θ|²/2, is no sign of a loss at fault."""
    bowl = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    path = flow.integrate(bowl, t=2500.0, method="Euler", step=2.5, save=3)
    assert re.fullmatch(r"ended at t = 21\d\d[.\d]*: beyond it ‖∇J‖ = inf at J = \S+", path.result)
    steps = flow.descend(bowl, 2.5, 1000, save=3)
    assert re.search(r"not finite at a loss of 1\.\d+e\+308, which was .* 2/λ_max", steps.result)


@pytest.mark.parametrize("steps", [119, 120, 121, 122])
def test_gradient_descent_that_ends_as_it_diverges(valley: flow.Objective, steps: int):
    """Assert that a non-finite loss at the last step is no arrival."""
    path = flow.descend(valley, 5.0, steps, save=2)
    assert np.all(np.isfinite(path.loss))
    assert path.result.startswith("diverged") == (path.stats["steps"] < steps)


# ---- kinks


@pytest.mark.quick
def test_relu_stalls_at_a_kink(relu: flow.Objective):
    """Assert that the budget, its name and the way through are told, and the budget is kept."""
    with pytest.warns(flow.KinkWarning, match="'DOP853' takes many tiny steps .* at rtol=1e-06"):
        path = flow.integrate(relu, 50.0, max_gradients=5000)
    assert_whole(path)
    assert path.result.startswith("budget spent at t = ")
    assert "5,000 gradients (max_gradients)" in path.result
    assert re.search(r"\d+ of \d+ attempted steps were rejected", path.result)
    assert "method='RK4'" in path.result
    assert "softplus" in path.result
    assert path.stats["gradients"] <= 5001
    assert path.t[-1] < 50


@pytest.mark.parametrize("method", ["Radau", "DOP853"])
def test_no_kinks_are_blamed_of_a_loss_without(method: str):
    """Assert that many rejections on Rosenbrock's valley are told, and that of |x| kinks are."""
    valley = flow.Objective(
        lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, np.array([-1.2, 1.0])
    )
    path = flow.integrate(valley, 50.0, method=method, rtol=1e-2, max_gradients=160)
    assert re.search(r"; \d+ of \d+ attempted steps were rejected$", path.result)
    bent = flow.Objective(lambda x: jnp.abs(x).sum() + 30 * x[0] ** 2, np.array([1.0, 0.3]))
    with pytest.warns(flow.KinkWarning, match=r"what is compared in it: ge, .*test_ends.py:\d+"):
        path = flow.integrate(bent, 50.0, method=method, max_gradients=1200)
    assert "If the loss has kinks (ReLU)" in path.result


@pytest.mark.parametrize(("method", "step"), [("Euler", 0.05), ("RK4", 0.2)])
@pytest.mark.quick
def test_fixed_steps_go_through_kinks(relu: flow.Objective, method: str, step: float):
    """Assert that Euler and RK4 reach the end where error control does not."""
    path = flow.integrate(relu, 50.0, method=method, step=step, max_gradients=5000)
    assert path.result == "reached t = 50"
    assert path.loss[-1] < 0.2 < path.loss[0]


def test_a_loose_method_of_low_order_goes_through_kinks(relu: flow.Objective):
    """Assert that what the warning advises arrives, silently, at less than RK4's cost."""
    fixed = flow.integrate(relu, 10.0, method="RK4", step=0.05)
    loose = flow.integrate(relu, 10.0, method="RK45", rtol=1e-3)
    assert loose.result == "reached t = 10"
    assert loose.stats["gradients"] <= fixed.stats["gradients"]
    assert loose.loss[-1] == pytest.approx(fixed.loss[-1], rel=0.05)


Z = np.random.default_rng(0).standard_normal((20, 3))
SIGN = np.sign(Z[:, 0] + 0.3)
BENT = {
    "relu": lambda z: jax.nn.relu(z).mean(),
    "abs": lambda z: jnp.abs(z).mean(),
    "maximum": lambda z: jnp.maximum(z, 0.0).mean(),
    "clip": lambda z: jnp.clip(z, -0.5, 0.5).mean(),
    "where": lambda z: jnp.where(z > 0, z, 0.1 * z).mean(),
    "hinge": lambda z: jnp.maximum(1.0 - SIGN * z, 0.0).mean(),
    "max pooling": lambda z: jnp.max(z.reshape(10, 2), axis=1).mean(),
    "selu": lambda z: jax.nn.selu(z).mean(),
    "scan": lambda z: jax.lax.scan(lambda h, x: (jax.nn.relu(x - h), None), 0.0, z)[0],
}
# Of these JAX's own say by their operations that nothing jumps.
UNBENT = {
    "logsumexp": jax.nn.logsumexp,
    "softplus": lambda z: jax.nn.softplus(z).mean(),
    "log_softmax": lambda z: jax.nn.log_softmax(z)[0],
    "softmax": lambda z: jax.nn.softmax(z)[0],
    "gelu": lambda z: jax.nn.gelu(z).mean(),
    "silu": lambda z: jax.nn.silu(z).mean(),
    "binary cross-entropy": lambda z: optax.sigmoid_binary_cross_entropy(z, SIGN > 0).mean(),
    "labels": lambda z: optax.softmax_cross_entropy_with_integer_labels(z, 3),
    "a maximum that is stopped": lambda z: jnp.exp(z - jax.lax.stop_gradient(z.max())).sum(),
    "maxima of data": lambda z: jnp.where(Z[:, 0] > 0, z, 0.1 * z).mean() + jnp.abs(Z).max(),
    "is it finite": lambda z: jnp.where(jnp.isnan(z) | (z == jnp.inf), 0.0, z**2).mean(),
}
CONTINUOUS = {
    "elu": lambda z: jax.nn.elu(z).mean(),
    "squared hinge": lambda z: (jnp.maximum(1.0 - SIGN * z, 0.0) ** 2).mean(),
    "huber": lambda z: optax.huber_loss(z).mean(),
    "a maximum that cancels": lambda z: (m := z.max()) + jnp.log(jnp.exp(z - m).sum()),
    "a guard": lambda z: jnp.sqrt(jnp.where((s := z @ z) > 0, s, 1.0)),
}


@pytest.mark.parametrize(("losses", "kinks"), [(BENT, True), (UNBENT, False), (CONTINUOUS, False)])
@pytest.mark.quick
def test_kinks_are_found_where_the_gradient_jumps(losses: dict, kinks: bool):
    """Assert that they are found in a user's loss, and only there: warnings are errors here."""
    for name, of in losses.items():
        objective = flow.Objective(lambda w, of=of: of(Z @ w), np.array([0.3, -0.5, 0.8]))
        assert bool(objective.jumping) is (losses is not UNBENT), name
        assert may_have_kinks(objective) is kinks, name


def test_kinks_are_told_once():
    """Assert one warning of an objective, none of fixed steps or a loose tolerance."""
    objective = flow.Objective(lambda x: jnp.abs(x).sum() + 0.5 * x @ x, np.ones(2))
    flow.integrate(objective, 0.05, method="Euler", step=0.01)
    flow.integrate(objective, 0.05, method="RK45", rtol=1e-3)
    flow.descend(objective, 0.01, 3)
    with pytest.warns(flow.KinkWarning, match="RK45") as met:
        flow.study(objective, [0.05], t=0.1, save=3, method="RK45", rtol=1e-4)
    flow.integrate(objective, 0.05)
    assert len(met) == 1


def test_a_gradient_of_ones_own_that_jumps():
    """Assert that kinks are found in a hand-written gradient too."""
    objective = flow.Objective(
        lambda x: jnp.sqrt(x @ x), np.ones(2), gradient=lambda x: x * (x > 0.5)
    )
    assert may_have_kinks(objective)


# ---- budgets


@pytest.mark.parametrize("method", ADAPTIVE)
def test_max_steps(small: flow.Objective, method: str):
    """Assert that a run of seven steps ends where an undisturbed one is after seven."""
    path = flow.integrate(small, 5.0, method=method, max_steps=7)
    assert_whole(path)
    assert path.stats["steps"] == 7
    assert "7 steps (max_steps)" in path.result
    whole = flow.integrate(small, 5.0, method=method, save=path.t)
    np.testing.assert_array_equal(whole.theta, path.theta)


@pytest.mark.parametrize("method", ["RK45", "DOP853"])
@pytest.mark.parametrize("budget", [1, 2, 3, 50, 333])
@pytest.mark.quick
def test_max_gradients(small: flow.Objective, method: str, budget: int):
    """Assert that a budget is used up, to less than what one more step costs, and never more."""
    path = flow.integrate(small, 50.0, method=method, max_gradients=budget)
    assert_whole(path)
    assert path.result.startswith("budget spent at t = ")
    assert f"{budget} gradients (max_gradients)" in path.result
    assert path.stats["gradients"] == budget


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
@pytest.mark.parametrize("budget", [1, 10, 100, 1000])
def test_max_gradients_of_implicit_methods(small: flow.Objective, method: str, budget: int):
    """Assert the same where a Jacobian, 2n gradients, is more than the budget or most of it."""
    path = flow.integrate(small, 50.0, method=method, max_gradients=budget)
    assert_whole(path)
    assert path.result.startswith("budget spent at t = ")
    assert path.stats["gradients"] + 2 * path.stats["hvps"] <= budget


@pytest.mark.quick
def test_counts_add_up(small: flow.Objective):
    """Assert that the gradients are those at θ₀, of the first step, of each attempt and save."""
    path = flow.integrate(small, 5.0, method="RK45", save=30)
    stats = path.stats
    attempts = stats["steps"] + stats["rejected"]
    # RK45 picks its first step from two gradients and takes six an attempt; θ₀ is a saved time.
    assert stats["gradients"] == 2 + 6 * attempts + stats["save_gradients"]
    assert 1 <= stats["save_gradients"] <= 30
    assert stats["hvps"] == 0
    steps = flow.descend(small, 0.05, 40, save=5)
    assert steps.stats["gradients"] == 40 + steps.stats["save_gradients"]


def test_max_seconds(small: flow.Objective):
    """Assert that the seconds of both kinds of run are limited, without those of compiling."""
    began = time.perf_counter()
    path = flow.integrate(small, inf, max_seconds=0.2, save=50, rtol=1e-12, atol=1e-13)
    steps = flow.descend(small, 1e-6, 2_000_000, max_seconds=0.2, save=2)
    assert time.perf_counter() - began < 15
    for run in (path, steps):
        assert_whole(run)
        assert run.result.startswith("budget spent at ")
        assert "0.2 seconds (max_seconds)" in run.result
        assert 0.1 < run.stats["seconds"] < 5


def test_seconds_are_without_those_of_compiling():
    """Assert that all is traced by the time that θ₀ is observed, after which the seconds run."""
    traces, at_start = [], []

    def loss(x: object) -> object:
        traces.append(x)
        return 0.5 * x @ x

    def observe(*_: object) -> float:
        at_start.append(len(traces))
        return 0.0

    objective = flow.Objective(loss, np.ones(2))
    for run in (
        lambda: flow.integrate(objective, 1.0, save=2, observe={"o": observe}),
        lambda: flow.descend(objective, 0.1, 10, save=2, observe={"o": observe}),
    ):
        at_start.clear()
        run()
        assert len(traces) == at_start[0]


@pytest.mark.parametrize(
    "ending",
    [
        {"max_steps": 1},
        {"max_gradients": 3},
        {"max_seconds": 1e-9},
        {"stop": flow.stop.loss(100.0)},
    ],
    ids=lambda ending: next(iter(ending)),
)
def test_an_end_before_the_first_saved_time(valley: flow.Objective, ending: dict):
    """Assert that a run that saves late and ends early has its last accepted step."""
    path = flow.integrate(valley, 3.0, save=[2.9], **ending)
    assert path.t.tolist() == [path.stats["t_end"]]
    if "max_seconds" in ending:
        steps = flow.descend(valley, 0.01, 300, save=[2.9], **ending)
        assert steps.t.tolist() == [0.0]


# ---- Ctrl-C


@pytest.mark.parametrize("calls", [2, 3, 5, 8])
@pytest.mark.parametrize("save", [10, 100])
@pytest.mark.quick
def test_interrupted_flow(valley: flow.Objective, save: int, calls: int):
    """Assert that Ctrl-C leaves the rows of an undisturbed run, up to the last accepted step."""
    path = flow.integrate(valley, 3.0, save=save, observe={"calls": after(calls, interrupt)})
    assert path.result.startswith("interrupted at t = ")
    assert_whole(path)
    whole = flow.integrate(valley, 3.0, save=path.t)
    np.testing.assert_array_equal(whole.theta, path.theta)
    assert len(path.observed["calls"]) == len(path.t)


@pytest.mark.quick
@pytest.mark.usefixtures("ctrl_c_ignored")
def test_ctrl_c_that_the_parent_ignored(
    valley: flow.Objective, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Assert that it does nothing, which is said once, with what ends a run in its place."""
    monkeypatch.setattr("flow._core.progress.redraw_seconds", lambda: 0.0)
    for _ in range(2):
        path = flow.integrate(valley, 3.0, save=10, observe={"calls": after(5, interrupt)})
        assert path.result == "reached t = 3"
    told = capsys.readouterr().err
    assert told.count("Ctrl-C (SIGINT) is ignored in this process") == 1
    assert "max_seconds=, max_gradients= or stop= end a run" in told


def test_interrupted_flow_keeps_its_books(valley: flow.Objective):
    """Assert that the energy identity holds up to where an interrupted run ended."""
    path = flow.integrate(valley, 3.0, save=100, observe={"calls": after(20, interrupt)})
    assert path.result.startswith("interrupted")
    assert abs(flow.audit(path).energy_residual) < 1e-6


@pytest.mark.parametrize("method", ["Euler", "RK4"])
def test_ctrl_c_at_any_moment_of_a_flow(valley: flow.Objective, method: str):
    """Assert the same of a signal from outside, wherever in the loop it comes."""
    threads = []

    def start() -> None:
        threads.append(threading.Timer(0.2, _thread.interrupt_main))
        threads[0].start()

    path = flow.integrate(
        valley,
        1e3,
        method=method,
        step=1e-4,
        save=2,
        observe={"calls": after(1, start)},
        max_seconds=20,
    )
    threads[0].join()
    assert path.result.startswith("interrupted at t = ")
    assert_whole(path)
    assert len(path.t) == 2
    whole = flow.integrate(valley, 1e3, method=method, step=1e-4, max_steps=path.stats["steps"])
    assert whole.t[-1] == path.t[-1]
    np.testing.assert_array_equal(whole.theta[-1], path.theta[-1])


def test_ctrl_c_at_any_moment_of_a_descent(small: flow.Objective):
    """Assert that a compiled loop answers a signal soon, at a step of an undisturbed run."""
    threads = []

    def start() -> None:
        threads.append(threading.Timer(0.3, _thread.interrupt_main))
        threads[0].start()

    flow.descend(small, 1e-3, 2, save=2)  # compiles
    observe = {"calls": after(1, start)}
    path = flow.descend(small, 1e-3, 1_000_000, save=2, observe=observe, max_seconds=20)
    threads[0].join()
    assert path.result.startswith("interrupted at step ")
    assert_whole(path)
    assert path.stats["seconds"] < 5
    steps = path.stats["steps"]
    assert 0 < steps < 1_000_000
    whole = flow.descend(small, 1e-3, steps, save=2)
    np.testing.assert_array_equal(whole.theta[-1], path.theta[-1])


@pytest.mark.quick
def test_interrupted_descent(valley: flow.Objective):
    """Assert that Ctrl-C between two steps keeps the rows so far and the step that was reached."""
    observe = {"calls": after(4, interrupt)}
    path = flow.descend(valley, 0.01, 300, save=31, observe=observe)
    assert path.result.startswith("interrupted at step 30 (t = 0.3)")
    assert_whole(path)
    whole = flow.descend(valley, 0.01, 300, save=31)
    np.testing.assert_array_equal(path.theta, whole.theta[:4])


# ---- observers that fail


@pytest.mark.parametrize("save", [10, 100])
@pytest.mark.quick
def test_observer_fails_half_way_along_a_flow(valley: flow.Objective, save: int):
    """Assert that the run ends with what it has and names the observer and its exception."""
    path = flow.integrate(valley, 3.0, save=save, observe={"acc": after(5, boom)})
    assert path.result.startswith("ended at t = ")
    assert "observe['acc'] raised RuntimeError: boom" in path.result
    assert_whole(path)
    assert path.observed["acc"][:4].tolist() == [1, 2, 3, 4]
    assert abs(flow.audit(path).energy_residual) < 1e-6


def test_observer_fails_half_way_down_a_descent(valley: flow.Objective):
    """Assert the same of a descent, whose last row is unobserved."""

    def observe(_: flow.Objective, params: np.ndarray) -> np.ndarray:
        if params[0] < 0.5:
            raise RuntimeError("boom")
        return params

    path = flow.descend(valley, 0.01, 300, save=31, observe={"acc": observe})
    assert "ended at step 20 (t = 0.2): observe['acc'] raised RuntimeError: boom" in path.result
    assert_whole(path)
    np.testing.assert_array_equal(path.observed["acc"][:2], path.theta[:2])
    assert np.all(np.isnan(path.observed["acc"][2]))


def test_observer_that_changes_its_shape(valley: flow.Objective):
    """Assert that values of another shape end the run, as they fit no array."""
    values = iter([np.ones(2), np.ones(2), np.ones(3)])
    path = flow.descend(valley, 0.01, 3, save=4, observe={"v": lambda o, p: next(values)})
    assert (
        "observe['v'] raised ValueError: it returned shape (3,), but (2,) at first" in path.result
    )
    assert path.observed["v"].shape == (3, 2)


def test_observer_fails_at_once(valley: flow.Objective):
    """Assert that what fails at θ₀ fails as itself, with the observer's name."""
    for run in (
        lambda **k: flow.integrate(valley, 1.0, **k),
        lambda **k: flow.descend(valley, 0.01, 3, **k),
    ):
        with pytest.raises(RuntimeError, match="boom") as caught:
            run(observe={"acc": after(1, boom)})
        assert "from observe['acc']" in caught.value.__notes__


# ---- stop conditions


@pytest.mark.parametrize("method", ["RK45", "DOP853", "BDF", "Radau"])
@pytest.mark.parametrize("of", ["loss", "gradient_norm"])
def test_stop_is_tested_at_each_accepted_step(small: flow.Objective, method: str, of: str):
    """Assert that the step that meets a condition is the first, whatever is saved."""
    threshold = {"loss": 0.5, "gradient_norm": 0.3}[of]
    condition = getattr(flow.stop, of)(threshold)
    path = flow.integrate(small, 50.0, method=method, save=2, stop=condition)
    assert_whole(path)
    assert path.result.startswith(f"stopped at t = {path.t[-1]:g}: {of.replace('_', ' ')} ")
    assert len(path.t) == 2
    assert getattr(path, of)[-1] <= threshold
    before = flow.integrate(small, 50.0, method=method, save=2, max_steps=path.stats["steps"] - 1)
    assert getattr(before, of)[-1] > threshold


@pytest.mark.parametrize("of", ["loss", "gradient_norm"])
@pytest.mark.quick
def test_stop_is_tested_at_each_step_of_a_descent(valley: flow.Objective, of: str):
    """Assert that gradient descent stops at the first step that meets a condition."""
    k = np.arange(1001)
    x = np.array([0.96**k, 0.99**k])
    values = {
        "loss": 2.0 * x[0] ** 2 + 0.5 * x[1] ** 2,
        "gradient_norm": np.hypot(4.0 * x[0], x[1]),
    }[of]
    path = flow.descend(valley, 0.01, 1000, save=2, stop=getattr(flow.stop, of)(0.1))
    first = int(np.argmax(values <= 0.1))
    assert path.stats["steps"] == first
    assert path.result.startswith(f"stopped at step {first} (t = {path.t[-1]:g}): {of[:4]}")
    assert_whole(path)


@pytest.mark.parametrize("stop", [flow.stop.loss(1.2), lambda record: record["loss"] <= 1.2])
@pytest.mark.parametrize("save", [4, 101])
def test_the_row_that_stops_a_run_is_its_last(valley: flow.Objective, save: int, stop: Callable):
    """Assert that nothing is kept beyond the time at which a run says that it stopped."""
    path = flow.integrate(valley, 3.0, save=save, stop=stop)
    assert path.result.startswith("stopped at t = ")
    assert_whole(path)
    assert path.loss[-1] <= 1.2 < path.loss[-2]


@pytest.mark.parametrize("kind", ["flow", "descent"])
def test_any_of_a_list_of_conditions_stops(valley: flow.Objective, kind: str):
    """Assert that observables can be asked, and that the first of several conditions counts."""

    def low(record: dict) -> bool:
        return record["x"] < 0.5

    settings = {
        "observe": {"x": lambda objective, params: params[0]},
        "stop": [flow.stop.gradient_norm(1e-9), low, flow.stop.loss(1e-9)],
        "save": 301,
    }
    path = (
        flow.integrate(valley, 3.0, method="Euler", step=0.01, **settings)
        if kind == "flow"
        else flow.descend(valley, 0.01, 300, **settings)
    )
    first = int(np.argmax(0.96 ** np.arange(301) < 0.5))
    assert path.result.startswith("stopped at ")
    assert path.result.endswith("condition low holds")
    assert path.stats["steps"] == first
    assert_whole(path)
    assert path.observed["x"][-1] < 0.5 <= path.observed["x"][-2]


@pytest.mark.parametrize("method", ["DOP853", "RK45", "Radau", "BDF"])
def test_infinite_time(small: flow.Objective, method: str):
    """Assert that a run of no known end keeps between n and 2n accepted steps, and its last."""
    stop = flow.stop.gradient_norm(0.03)
    path = flow.integrate(small, inf, method=method, stop=stop, save=50, max_seconds=30)
    assert path.result.startswith("stopped at t = ")
    assert_whole(path)
    assert 50 <= len(path.t) <= 101
    assert path.gradient_norm[-1] <= 0.03 < path.gradient_norm[:-1].min()
    again = flow.integrate(small, inf, method=method, stop=stop, save=10**6)
    assert len(again.t) == again.stats["steps"] + 1 == path.stats["steps"] + 1
    assert np.all(np.isin(path.t, again.t))


def test_infinite_time_with_a_budget(small: flow.Objective):
    """Assert that a budget alone is an end as well."""
    path = flow.integrate(small, inf, max_steps=60, save=20)
    assert_whole(path)
    assert path.stats["steps"] == 60
    assert 20 <= len(path.t) <= 41


def test_a_stop_condition_that_raises():
    """Assert that what there is comes back; at θ₀ the error itself does."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))

    def condition(record: dict) -> bool:
        return record["t"] > 0.5 and record["accuracy"] > 0.9

    for run in (
        flow.integrate(objective, 1.0, save=11, stop=condition),
        flow.descend(objective, 0.01, steps=100, save=11, stop=condition),
    ):
        assert "stop condition condition raised KeyError: 'accuracy'" in run.result
        assert 0.5 < run.t[-1] == run.stats["t_end"]
        np.testing.assert_allclose(run.theta[:, 0], np.exp(-run.t), rtol=1e-2)
    with pytest.raises(KeyError):
        flow.integrate(objective, 1.0, stop=lambda record: record["accuracy"] > 0.9)


@pytest.mark.parametrize("slack", range(3))
def test_a_budget_that_is_spent_at_the_very_end(slack: int):
    """Assert that the last look at J, which BDF does not evaluate there, is beyond no budget."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    options = {"method": "BDF", "save": [0.5]}
    stats = flow.integrate(objective, 1.0, **options).stats
    spent = stats["gradients"] + 2 * stats["hvps"]
    path = flow.integrate(objective, 1.0, **options, max_gradients=spent - slack)
    assert path.stats["loss_last"] < path.stats["loss_first"]
    assert path.result.startswith(("reached", "budget spent"))
