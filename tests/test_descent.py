"""Discrete runs: optimizers, clocks, mini-batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import flow
from flow._run.optimizer_names import optimizer_name
from flow._run.schedules import holds_schedule

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def regression() -> flow.Objective:
    """Linear regression whose mini-batch gradients are easily computed beside."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 3)), rng.standard_normal(12)

    def loss(w: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2)

    return flow.Objective(loss, np.array([1.0, -1.0, 0.5]), data=(X, y))


def by_hand(objective: flow.Objective, optimizer: optax.GradientTransformation, steps: int):
    """The same optimizer in a plain Python loop."""
    with jax.enable_x64(True):
        params = jnp.asarray(objective.params)
        state = optimizer.init(params)
        thetas = [np.array(params)]
        for _ in range(steps):
            updates, state = optimizer.update(objective.gradient(params), state, params)
            params = optax.apply_updates(params, updates)
            thetas.append(np.array(params))
    return np.array(thetas)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.05),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        optax.rmsprop(0.02),
        optax.lion(0.01),
    ],
)
def test_optax_optimizers(regression: flow.Objective, optimizer: optax.GradientTransformation):
    """Assert the iterates of a plain loop over optax, on the clock that was given."""
    run = flow.descend(regression, optimizer=optimizer, time_step=0.25, steps=25, save=26)
    np.testing.assert_allclose(
        run.theta, by_hand(regression, optimizer, 25), rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(run.t, 0.25 * np.arange(26), rtol=1e-15)


def test_moments_are_kept_by_name(regression: flow.Objective):
    """Assert Adam's moments as its definition has them after the first step."""
    run = flow.descend(regression, optimizer=optax.adam(0.05), time_step=0.05, steps=1, save=2)
    gradient = regression.gradient(regression.params)
    np.testing.assert_allclose(run.state["mu"], [np.zeros(3), 0.1 * gradient], rtol=1e-12)
    np.testing.assert_allclose(run.state["nu"], [np.zeros(3), 0.001 * gradient**2], rtol=1e-9)


@pytest.fixture(scope="module")
def valley() -> flow.Objective:
    """½(x² + 4y²), on which optimizers are written out by hand."""
    return flow.Objective(lambda x: 0.5 * (x[0] ** 2 + 4 * x[1] ** 2), np.array([1.0, -1.0]))


def test_what_a_schedule_free_method_returns_is_recorded(valley: flow.Objective):
    """Assert the average x of z, not y = 0.1z + 0.9x where gradients are taken, in all rows."""
    free = {"optimizer": optax.contrib.schedule_free_sgd(0.1), "time_step": 0.1, "steps": 20}
    curvature, z, x, points, averages = np.array([1.0, 4.0]), valley.theta, valley.theta, [], []
    for k in range(21):
        points.append(0.1 * z + 0.9 * x)
        averages.append(x)
        z = z - 0.1 * curvature * points[-1]
        x = x + (z - x) / (k + 1)
    seen = {"x": lambda o, p: p[0]}
    run = flow.descend(valley, **free, save=21, observe=seen)
    np.testing.assert_allclose(run.theta, averages, rtol=1e-13)
    np.testing.assert_allclose(run.loss, [valley.value(x) for x in averages], rtol=1e-13)
    norms = np.linalg.norm(curvature * averages, axis=1)
    np.testing.assert_allclose(run.gradient_norm, norms, rtol=1e-13)
    np.testing.assert_array_equal(run.observed["x"], run.theta[:, 0])
    assert run.stats["loss_last"] == run.loss[-1]
    assert run.label.endswith(", evaluated")
    steps = flow.descend(valley, **free, save=21, evaluate=lambda state, params: params)
    np.testing.assert_allclose(steps.theta, points, rtol=1e-13)
    np.testing.assert_array_equal(steps.state["z"], run.state["z"])
    # The average is there later than the point: a threshold is one of what is recorded.
    stopped = flow.descend(valley, **free, save=21, stop=flow.stop.loss(0.1))
    assert stopped.stats["steps"] == np.argmax(run.loss <= 0.1) > np.argmax(steps.loss <= 0.1)
    # Of a part of θ the rest is as it is.
    halves = {"free": free["optimizer"], "plain": optax.sgd(0.1)}
    split = flow.Objective(lambda p: valley.traced_value(jnp.stack([p["x"], p["y"]]), None),
                           {"x": np.array(1.0), "y": np.array(-1.0)})  # fmt: skip
    parts = optax.partition(halves, {"x": "free", "y": "plain"})
    run = flow.descend(split, optimizer=parts, time_step=0.1, steps=20, save=21)
    expected = np.stack([np.array(averages)[:, 0], -(0.6 ** np.arange(21))], axis=1)
    np.testing.assert_allclose(run.theta, expected, rtol=1e-13)


def test_what_sam_perturbs_is_recorded(valley: flow.Objective):
    """Assert θ between two perturbations, w ← w − η∇J(w + ρ∇J/‖∇J‖), also while one lasts."""
    ascends = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    sam = optax.contrib.sam(optax.sgd(0.1), ascends)
    plain = optax.GradientTransformation(sam.init, sam.update)
    run = flow.descend(valley, optimizer=plain, time_step=0.05, steps=9, save=10)
    curvature, w, expected = np.array([1.0, 4.0]), valley.theta, []
    for _ in range(5):
        expected += [w, w]
        slope = curvature * w
        w = w - 0.1 * curvature * (w + 0.05 * slope / np.linalg.norm(slope))
    np.testing.assert_allclose(run.theta, expected, rtol=1e-13)


def test_an_evaluation_of_ones_own(valley: flow.Objective):
    """Assert its parameters in single and joint runs, and what is refused."""
    halved = lambda state, params: 0.5 * params  # noqa: E731
    run = flow.descend(valley, 0.1, 10, save=3, evaluate=halved)
    plain = flow.descend(valley, 0.1, 10, save=3)
    np.testing.assert_allclose(run.theta, 0.5 * plain.theta, rtol=1e-15)
    np.testing.assert_allclose(run.loss, 0.25 * plain.loss, rtol=1e-14)
    assert run.label == "GD, η = 0.1, evaluated by <lambda>"
    runs = flow.descend(valley, [0.1, 0.2], 10, save=3, evaluate=halved)
    for name in ("theta", "loss", "gradient_norm"):
        np.testing.assert_allclose(getattr(runs, name)[0], getattr(run, name), rtol=1e-14)
    with pytest.raises(TypeError, match="evaluate must be a function, got 3"):
        flow.descend(valley, 0.1, 10, evaluate=3)
    with pytest.raises(ValueError, match=r"made like θ₀, of shapes \(2,\); got \(\)"):
        flow.descend(valley, 0.1, 10, evaluate=lambda state, params: params[0])


def test_schedule_clock_is_its_running_sum(regression: flow.Objective):
    """Assert t_k = Σ_{i<k} η_i, and that step k uses η_k."""
    schedule = optax.exponential_decay(0.2, 10, 0.5)
    run = flow.descend(regression, learning_rate=schedule, steps=20, save=21)
    rates = 0.2 * 0.5 ** (np.arange(20) / 10)
    np.testing.assert_allclose(run.t, np.concatenate([[0], np.cumsum(rates)]), rtol=1e-12)
    theta = regression.theta
    for rate in rates:
        theta = theta - rate * regression.gradient(theta)
    np.testing.assert_allclose(run.theta[-1], theta, rtol=1e-12)


class ByLoss:
    """A learning rate that depends on what the run meets, as optax's stateful schedules may."""

    def init(self) -> jax.Array:
        """Return the loss that was met last."""
        return jnp.zeros(())

    def update(self, state: jax.Array, **met: jax.Array) -> jax.Array:
        """Keep the loss."""
        return met["value"]

    def __call__(self, state: jax.Array, **met: jax.Array) -> jax.Array:
        """Return the rate."""
        return 0.1 * state


WARM_UP = optax.warmup_cosine_decay_schedule(0.0, 0.1, 3, 8)
ONCE_MORE = [{"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 2, "decay_steps": 4}] * 2


@pytest.mark.parametrize(
    "schedule",
    [
        WARM_UP,
        optax.cosine_decay_schedule(0.1, 6),
        optax.linear_schedule(0.1, 0.0, 5),
        optax.sgdr_schedule(ONCE_MORE),
        optax.join_schedules([optax.linear_schedule(0.0, 0.1, 4), lambda k: 0.0], [6]),
        lambda k: 0.1 if k < 5 else 0.0,
        lambda k: max(0.0, np.sin(k / 2)) / 10,
    ],
    ids=["warm-up", "cosine", "linear", "restarts", "joined", "by if", "numpy"],
)
def test_time_stands_still_where_the_learning_rate_is_0(valley: flow.Objective, schedule):
    """Assert t_k = Σ η_i, all rows, and that saved times and comparisons take the last of equal."""
    rates = np.array([float(schedule(k)) for k in range(10)])
    assert np.any(rates == 0.0)
    run = flow.descend(valley, schedule, 10, save=11, progress=False)
    t = np.concatenate([[0.0], np.cumsum(rates)])
    theta = np.cumprod(np.concatenate([[[1, 1]], 1 - np.outer(rates, [1, 4])]), 0) * [1, -1]
    np.testing.assert_allclose(run.t, t, rtol=1e-6)  # optax counts in 32 bits
    np.testing.assert_allclose(run.theta, theta, rtol=1e-6)
    np.testing.assert_array_equal(np.diff(run.t) == 0.0, rates == 0.0)
    few = flow.descend(valley, schedule, 10, save=run.t[[0, 6, 10]], progress=False)
    last = [0, *(np.flatnonzero(run.t == run.t[k])[-1] for k in (6, 10))]
    np.testing.assert_array_equal(few.work["steps"], np.unique(last))
    path = flow.integrate(valley, run.t[-1], save=3, progress=False)
    for comparison in (
        flow.compare(path, run, progress=False),
        flow.compare(run, run, progress=False),
    ):
        np.testing.assert_allclose(comparison.t, np.unique(run.t), rtol=1e-15)


def test_a_run_ends_where_time_stands_still(valley: flow.Objective):
    """Assert the row of a step that has the time of the row before it."""
    seen = iter(range(99))
    stop = lambda row: next(seen) == 1  # noqa: E731 - at the second saved row
    run = flow.descend(valley, lambda k: 0.1 * (k >= 3), 5, save=6, stop=stop, progress=False)
    assert run.work["steps"].tolist() == [0, 1]
    assert run.t.tolist() == [0.0, 0.0]
    runs = flow.descend(valley, [WARM_UP, 0.05], [10, 4], save=11, progress=False)
    one = flow.descend(valley, WARM_UP, 10, save=11, progress=False)
    np.testing.assert_array_equal(runs.member(0).t, one.t)
    np.testing.assert_allclose(runs.member(0).theta, one.theta, rtol=1e-14)
    np.testing.assert_allclose(runs.member(1).t, 0.05 * np.arange(5))


def users_own(schedule: Callable) -> optax.GradientTransformation:
    """Return gradient descent by a schedule, written by hand."""

    def update(gradient: Any, k: Any, _: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda g: -schedule(k) * g, gradient), k + 1

    return optax.GradientTransformation(lambda _: jnp.zeros((), jnp.int32), update)


def test_the_clock_of_an_optimizer_that_holds_its_rate(valley: flow.Objective):
    """Assert t = Σ η of the rates that are read or given beside, and what can't be told."""
    inject = optax.inject_hyperparams
    run = lambda optimizer, **more: flow.descend(  # noqa: E731
        valley, optimizer=optimizer, steps=9, save=10, progress=False, **more
    )
    t = np.concatenate([[0.0], np.cumsum([float(WARM_UP(k)) for k in range(9)])])
    heavy = inject(optax.sgd)(learning_rate=WARM_UP, momentum=0.5)
    found = run(heavy)
    np.testing.assert_allclose(found.t, t, rtol=1e-7)
    np.testing.assert_allclose(found.theta, by_hand(valley, heavy, 9), rtol=1e-12)
    for made, more in (
        (inject(optax.adam)(learning_rate=WARM_UP), {}),
        (optax.chain(optax.clip(1.0), inject(optax.adam)(WARM_UP)), {}),
        (optax.adam(WARM_UP), {"time_step": WARM_UP}),
    ):
        found = run(made, **more)
        np.testing.assert_allclose(found.t, t, rtol=1e-6)
        assert found.label.endswith("adam, scheduled η")
        assert found.config["time_step"] is None
    fixed = run(inject(optax.adam)(learning_rate=0.1))
    np.testing.assert_allclose(fixed.t, 0.1 * np.arange(10), rtol=1e-15)
    assert fixed.label == "adam, 0.1 a step"
    # Of three gradients that are added up the last moves.
    thirds = run(optax.MultiSteps(inject(optax.adam)(WARM_UP), 3).gradient_transformation())
    np.testing.assert_allclose(thirds.t, t[np.arange(10) // 3], rtol=1e-7)
    assert np.all((np.diff(thirds.t) > 0) >= np.any(np.diff(thirds.theta, axis=0), axis=1))
    halves = {"x": inject(optax.adam)(WARM_UP), "y": optax.sgd(0.1)}
    of_parts = lambda lr: optax.chain(optax.scale_by_adam(), optax.scale(-lr))  # noqa: E731
    np.testing.assert_allclose(run(inject(of_parts)(lr=WARM_UP)).t, t, rtol=1e-7)
    for made, more in (
        (optax.adam(WARM_UP), {"time_step": 0.1}),
        (optax.MultiSteps(optax.adam(WARM_UP), 3).gradient_transformation(), {"time_step": 0.1}),
        (inject(optax.adam)(WARM_UP), {"time_step": 0.1}),
        (inject(of_parts)(lr=WARM_UP), {"time_step": 0.1}),
        (inject(optax.scale)(step_size=WARM_UP), {"time_step": 0.1}),
        (users_own(WARM_UP), {"time_step": 0.1}),
        (optax.contrib.prodigy(WARM_UP), {"time_step": 0.1}),
        (optax.apply_if_finite(inject(optax.adam)(WARM_UP), 3), {"time_step": 0.1}),
        (optax.partition(halves, "x"), {}),
        (inject(optax.adam)(ByLoss()), {}),
        (optax.adam(WARM_UP), {}),
    ):
        with pytest.raises(ValueError, match=r"is scheduled, .* give the schedule as time_step="):
            run(made, **more)
    with pytest.raises(ValueError, match=r"an optimizer= needs its time_step="):
        run(optax.adam(0.1))


def test_mini_batches_of_one_are_examples(regression: flow.Objective):
    """Assert that each step follows one example's gradient, all of them drawn, with repeats."""
    run = flow.descend(regression, 0.01, steps=60, save=61, batch_size=1, seed=3)
    X, y = map(np.asarray, regression.data)
    drawn = []
    for k in range(60):
        moved = (run.theta[k] - run.theta[k + 1]) / 0.01
        each = (X @ run.theta[k] - y)[:, None] * X
        distance = np.linalg.norm(each - moved, axis=1)
        drawn.append(int(distance.argmin()))
        assert distance.min() < 1e-10
    assert set(drawn) == set(range(12))
    assert any(len(set(drawn[i : i + 12])) < 12 for i in range(0, 60, 12))  # with replacement
    assert run.stats["batch_gradients"] == 60
    assert run.stats["gradients"] == run.stats["save_gradients"]


def test_an_epoch_goes_through_all_examples(regression: flow.Objective):
    """Assert that reshuffled epochs draw every example once, in a new order each time."""
    run = flow.descend(regression, 0.01, steps=36, save=37, batch_size=1, sampling="epoch", seed=3)
    X, y = map(np.asarray, regression.data)
    drawn = []
    for k in range(36):
        moved = (run.theta[k] - run.theta[k + 1]) / 0.01
        each = (X @ run.theta[k] - y)[:, None] * X
        drawn.append(int(np.linalg.norm(each - moved, axis=1).argmin()))
    epochs = np.reshape(drawn, (3, 12))
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_mean_of_mini_batches_is_the_gradient(regression: flow.Objective):
    """Assert that over many first steps the mean is the full gradient, within 4 standard errors."""
    moved = []
    for seed in range(200):
        run = flow.descend(regression, 0.01, steps=1, save=2, batch_size=4, seed=seed)
        moved.append((run.theta[0] - run.theta[1]) / 0.01)
    error = np.std(moved, axis=0, ddof=1) / np.sqrt(len(moved))
    gradient = regression.gradient(regression.params)
    assert np.all(np.abs(np.mean(moved, axis=0) - gradient) < 4 * error)
    X, y = map(np.asarray, regression.data)
    each = (X @ regression.theta - y)[:, None] * X
    variance = each.var(axis=0) / 4  # i.i.d. with replacement: no finite-population factor
    np.testing.assert_allclose(np.var(moved, axis=0), variance, rtol=0.4)


def errors(w: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """½ squared errors of a linear model, one an example."""
    return 0.5 * (batch[0] @ w - batch[1]) ** 2


def test_mean_of_descents_on_mini_batches_is_the_descent(regression: flow.Objective):
    """Assert θ* + (I − ηH)ᵏ(θ₀ − θ*), of J = 12 × the mean, for GD and for SGD in the mean."""
    X, y = map(np.asarray, regression.data)
    objective = flow.Objective(lambda w, b: 12 * errors(w, b).mean(), regression.params, (X, y))
    end = np.linalg.lstsq(X, y)[0]
    decay = np.linalg.matrix_power(np.eye(3) - 0.01 * X.T @ X, 20)
    expected = end + decay @ (regression.theta - end)
    steps = flow.descend(objective, 0.01, steps=20, save=2)
    np.testing.assert_allclose(steps.theta[-1], expected, rtol=1e-12)
    runs = flow.descend(objective, 0.01, 20, seed=list(range(100)), batch_size=4, save=2)
    moved = runs.theta[:, -1]
    bar = moved.std(axis=0, ddof=1) / 10
    assert np.all(np.abs(moved.mean(axis=0) - expected) < 3 * bar)
    assert np.all(bar < 0.05)
    # The sum is the same J on all the data, and a third of it on a batch.
    added = flow.Objective(lambda w, b: errors(w, b).sum(), regression.params, (X, y))
    assert added.value(end) == pytest.approx(objective.value(end))
    with pytest.raises(ValueError, match=r"6 examples given twice over it is .*jnp\.mean in pla"):
        flow.descend(added, 0.01, 20, batch_size=4)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda w, b: errors(w, b).mean() + 0.1 * w @ w, None),
        (lambda w, b: errors(w, b).mean() + 0.1 * len(b[1]) * w @ w, "twice"),
        (lambda w, b: errors(w, b).sum() / 12, "twice"),
        (lambda w, b: jnp.linalg.norm(b[0] @ w - b[1]), "twice"),
        (lambda w, b: jnp.var(b[0] @ w - b[1]), "halves"),
        (lambda w, b: jnp.average(errors(w, b), weights=jnp.abs(b[1])), "halves"),
    ],
)
def test_losses_that_are_no_mean(regression: flow.Objective, loss: object, told: str | None):
    """Assert that what grows with its batch is refused, and what mixes its examples is told."""
    objective = flow.Objective(loss, regression.params, data=regression.data)
    again = objective.starting_at(2 * regression.params)
    for one in (objective, again):
        if told == "twice":
            with pytest.raises(ValueError, match="batch_size= needs a loss that is a mean"):
                flow.descend(one, 0.1, 2, batch_size=4)
        elif told == "halves":
            with pytest.warns(flow.BatchWarning, match="on 12 examples it is .* on their halves"):
                flow.descend(one, 0.1, 2, batch_size=4)
        else:
            flow.descend(one, 0.1, 2, batch_size=4)
        if told is None:
            flow.StochasticFlow(one, 0.1, 4)
            continue
        with pytest.raises(ValueError, match="StochasticFlow needs a loss that is a mean over"):
            flow.StochasticFlow(one, 0.1, 4)


def test_a_gradient_of_the_whole_is_none_of_a_batch(regression: flow.Objective):
    """Assert that a hand-written gradient divides by the examples that it is given."""
    loss = lambda w, b: errors(w, b).mean()  # noqa: E731
    whole = lambda w, b: b[0].T @ (b[0] @ w - b[1]) / 12  # noqa: E731
    objective = flow.Objective(loss, regression.params, regression.data, gradient=whole)
    with pytest.raises(ValueError, match=r"its gradient is off that on them once by 5\.0e-01"):
        flow.descend(objective, 0.1, 2, batch_size=4)


def test_seeds_and_saves(regression: flow.Objective):
    """Assert the same run from the same seed whatever is saved, and another from another."""
    options = {"steps": 30, "batch_size": 4, "sampling": "epoch"}
    first = flow.descend(regression, 0.05, seed=1, save=31, **options)
    again = flow.descend(regression, 0.05, seed=1, save=2, **options)
    other = flow.descend(regression, 0.05, seed=2, save=2, **options)
    np.testing.assert_array_equal(first.theta[-1], again.theta[-1])
    assert not np.array_equal(first.theta[-1], other.theta[-1])
    np.testing.assert_allclose(first.loss[-1], regression.value(first.params(-1)), rtol=1e-14)


def test_gradients_are_the_steps(regression: flow.Objective):
    """Assert that a full-batch run spends a gradient a step, and one for each save."""
    stats = flow.descend(regression, 0.05, steps=40, save=5).stats
    assert stats["gradients"] == 40 + stats["save_gradients"]
    assert stats["save_gradients"] <= 6


@pytest.mark.parametrize(
    ("learning_rate", "ending"), [(0.2, "reached"), (0.1, "stopped"), (0.5, "diverged")]
)
def test_every_gradient_is_counted(learning_rate: float, ending: str):
    """Assert the number of gradients against a tally of the calls themselves, however it ends."""
    calls = []

    def gradient(x: jax.Array) -> jax.Array:
        jax.debug.callback(calls.append, x[0])
        return 9.0 * x

    objective = flow.Objective(lambda x: 4.5 * x @ x, np.array([1.0]), gradient=gradient)
    calls.clear()
    run = flow.descend(objective, learning_rate, 900, save=3, stop=flow.stop.loss(1e-300))
    jax.effects_barrier()
    assert run.result.startswith(ending)
    assert run.stats["gradients"] == len(calls)


def test_a_first_flow_and_descent_compile_four_programs():
    """Assert them by name: no leaf's shape has programs of its own, that flatten or place it."""
    compiled = []

    def note(event: str, _: float, fun_name: str = "", **__: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(fun_name)

    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        jax.random.key(0)  # has programs of its own, once a process
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        objective = flow.MLP([5, 7, 3]).objective(rng.random((11, 5)), rng.random((11, 3)))
        flow.integrate(objective, 0.5, progress=False)
        flow.descend(objective, 0.05, 10, progress=False)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    # J at θ₀, the right-hand side, J and ‖∇J‖ of a descent's rows, and its steps.
    assert compiled == ["jit(<lambda>)", "jit(autonomous)", "jit(measure)", "jit(loop)"]


def test_times_between_two_steps_are_saved_at_the_nearer_one(regression: flow.Objective):
    """Assert it of times a little before and a little after a step."""
    run = flow.descend(regression, 0.1, steps=10, save=[0.0, 0.26, 0.74, 1.0])
    np.testing.assert_allclose(run.t, [0.0, 0.3, 0.7, 1.0], rtol=1e-14)


def test_largest_rise_is_over_all_steps():
    """Assert the largest rise of J, between saves too, for an oscillating quadratic."""
    objective = flow.Objective(lambda x: 0.5 * x[0] ** 2 + x[0] ** 4, np.array([0.8]))
    every = flow.descend(objective, 0.45, steps=30, save=31)
    few = flow.descend(objective, 0.45, steps=30, save=2)
    assert few.stats["largest_rise"] == max(0.0, np.diff(every.loss).max())


@pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated")
def test_an_optimizer_is_called_what_the_user_called():
    """Assert the name of every optax function of a learning rate, a number or a schedule."""
    found, rate = set(), optax.constant_schedule(0.1)
    init = jax.enable_x64(True)(lambda made: made.init(np.ones(2)))
    for module in (optax, optax.contrib):
        for name, function in vars(module).items():
            if not callable(function) or isinstance(function, type) or name.startswith("_"):
                continue
            code = getattr(getattr(function, "func", function), "__code__", None)
            first = code.co_varnames[:1] if code else ()
            if first != ("learning_rate",) or name.startswith("scale"):
                continue
            key = {"key": 0} if name == "noisy_sgd" else {}
            for eta in (0.01, 0.3, rate):
                try:
                    made = function(eta, **key)
                    state = init(made)
                except (TypeError, ValueError):  # it needs more, or knows no schedule
                    continue
                assert optimizer_name(made) == name
                assert holds_schedule(made, state) == (eta is rate)
                found.add(name)
    assert len(found) > 35
    assert {"adam", "adamw", "nadam", "nadamw", "yogi", "lamb", "muon", "adagrad"} <= found


def test_labels_tell_optimizers_apart(regression: flow.Objective):
    """Assert names by which a legend tells runs apart."""
    schedule = optax.cosine_decay_schedule(0.1, 10)
    ones_own = optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (g, s))
    for optimizer, label in (
        (optax.adamw(schedule), "adamw"),
        (optax.adam(0.1, b1=0.8), "adam(b1=0.8)"),
        (optax.sgd(0.1, momentum=0.9), "sgd(momentum=0.9)"),
        (optax.sgd(0.1, momentum=0.5, nesterov=True), "sgd(momentum=0.5, nesterov=True)"),
        (optax.rmsprop(0.1, centered=True), "rmsprop(centered=True)"),
        (optax.sgd(0.1), "sgd"),
        (optax.polyak_sgd(), "polyak_sgd"),
        (optax.adam(0.1)._replace(update=jax.jit(optax.adam(0.1).update)), "adam"),
        (optax.lbfgs(), "lbfgs"),
        (
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
            "clip_by_global_norm + adam",
        ),
        (optax.chain(ones_own, optax.adam(0.1)), "unnamed + adam"),
        (optax.inject_hyperparams(optax.adam)(learning_rate=0.1), "adam"),
        (optax.inject_hyperparams(optax.adam)(schedule, b1=0.8), "adam(b1=0.8)"),
        (optax.contrib.schedule_free_sgd(0.1), "schedule_free_sgd"),
        (optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(), "MultiSteps"),
    ):
        assert optimizer_name(optimizer) == label
    own = flow.descend(regression, optimizer=ones_own, time_step=0.1, steps=1, save=2)
    assert own.label == "optimizer, 0.1 a step"
    run = flow.descend(regression, optimizer=optax.yogi(0.1), time_step=0.1, steps=1, save=2)
    assert run.label == "yogi, 0.1 a step"
    assert flow.descend(regression, 0.1, steps=1, label="mine").label == "mine"
    assert (
        flow.descend(regression, 0.1, steps=1, batch_size=4.0).label == "GD, η = 0.1, batches of 4"
    )
    with pytest.raises(TypeError, match="label must be a string, got 3"):
        flow.descend(regression, 0.1, steps=1, label=3)


def test_a_seed_is_an_integer(regression: flow.Objective):
    """Assert that a scalar of JAX's is one, and a key none."""
    once = partial(flow.descend, regression, 0.1, steps=1, batch_size=4)
    assert once(seed=jnp.int32(3)).config["seed"] == 3
    for seed in (jax.random.key(3), 3.5):
        with pytest.raises(ValueError, match="seed must be an integer from 0 to"):
            once(seed=seed)
    with pytest.raises(ValueError, match=r"got a key, jax.random.PRNGKey\(3\); give the 3"):
        once(seed=jax.random.PRNGKey(3))
    with pytest.raises(TypeError, match="learning_rate must be a number, got Array"):
        flow.descend(regression, jax.random.key(3), steps=1)


def test_every_run_of_a_table_has_a_name(regression: flow.Objective):
    """Assert that runs of one label are told apart by what differs, or numbered, in all of it."""
    path = flow.integrate(regression, 1.0, save=5, progress=False)
    seeds = flow.descend(regression, 0.1, 10, batch_size=4, seed=[0, 1], save=5)
    runs = [seeds.member(0), seeds.member(1), seeds.member(0)]
    one = "GD, η = 0.1, batches of 4, seed"
    names = [f"{one} 0", f"{one} 1", f"{one} 0 #2"]
    comparison = flow.compare(path, *runs, progress=False)
    assert comparison.table().index.tolist() == names
    assert comparison.to_xarray()["run"].values.tolist() == names
    legend = flow.plots.loss(path, *runs).get_legend_handles_labels()[1]
    assert legend == ["gradient flow", *names]
    assert runs[0].label == "GD, η = 0.1, batches of 4"
