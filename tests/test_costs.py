"""What is told of a cost is what was spent: against a loss that counts its own evaluations."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flow
from flow._core.costs import counted, marked


class Counts:
    """J = Σ(xᵢ² − 1)² + ..., which counts on the host how often its value and gradient ran."""

    def __init__(self) -> None:
        self.values = self.gradients = 0

        def plain(x: jax.Array) -> jax.Array:
            return jnp.sum((x**2 - 1.0) ** 2) + jnp.sum(x[1:] * x[:-1]) + 0.3 * jnp.sin(3 * x).sum()

        def value(x: jax.Array) -> jax.Array:
            jax.debug.callback(self._one_value)
            return plain(x)

        def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            jax.debug.callback(self._one_gradient)
            return jax.value_and_grad(plain)(x)

        self.loss = jax.custom_vjp(value)
        self.loss.defvjp(forward, lambda gradient, cotangent: (cotangent * gradient,))
        self.objective = flow.Objective(self.loss, np.linspace(-2.0, 2.0, 5))

    def _one_value(self) -> None:
        self.values += 1

    def _one_gradient(self) -> None:
        self.gradients += 1

    def of(self, run: Callable) -> tuple[object, int, int]:
        """Return what it returns, and the values and gradients that it took, compiling apart."""
        run()
        jax.effects_barrier()
        self.values = self.gradients = 0
        found = run()
        jax.effects_barrier()
        return found, self.values, self.gradients


@pytest.fixture(scope="module")
def counts() -> Counts:
    return Counts()


LINE_SEARCHES = {
    "zoom": optax.lbfgs(),
    "backtracking": optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)
    ),
    "backtracking by gradients": optax.chain(
        optax.sgd(1.0),
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=15, store_grad=True),
    ),
    "none": optax.adam(0.1),
}


@pytest.mark.parametrize("name", LINE_SEARCHES)
def test_line_searches(counts: Counts, name: str):
    """Assert what they ask of value_fn; a step has a gradient of its own, and a save."""
    run = partial(flow.descend, optimizer=LINE_SEARCHES[name], time_step=0.1, steps=20, save=3)
    path, values, gradients = counts.of(partial(run, counts.objective))
    stats, own = path.stats, 20 + path.stats["save_gradients"]
    assert stats["gradients"] == gradients
    # J of a step comes with its gradient.
    assert stats["values"] == values
    assert (gradients > own) == (name in ("zoom", "backtracking by gradients"))
    assert (stats["values"] > 0) == (name == "backtracking")
    assert path.units == np.ceil(gradients - stats["save_gradients"] + stats["values"] / 3)
    assert path.work["gradients"][-1] == gradients - stats["save_gradients"]
    assert path.work["values"][-1] == stats["values"]


def test_gradients_and_products_that_an_update_takes(counts: Counts):
    """Assert them of opaque SAM, and of Sophia's estimates of the Hessian in every tenth step."""
    perturbs = optax.contrib.sam(optax.sgd(0.01), optax.sgd(0.01), 3, opaque_mode=True)
    run = partial(flow.descend, time_step=0.1, steps=20, save=3)
    path, _, gradients = counts.of(partial(run, counts.objective, optimizer=perturbs))
    assert path.stats["gradients"] == gradients == 3 * 20 + path.stats["save_gradients"]
    path = run(counts.objective, optimizer=optax.contrib.sophia(0.01))
    assert path.stats["hvps"] == 2
    assert path.units == 20 + 2 * 2


def test_line_searches_of_an_ensemble(counts: Counts):
    """Assert that each member has what it has alone, and half-way what it had by then."""
    starts = np.stack([np.linspace(-2.0, 2.0, 5), np.linspace(-1.0, 1.5, 5)])
    run = partial(flow.descend, optimizer=LINE_SEARCHES["zoom"], time_step=0.1, steps=20)
    many = run(counts.objective, ensemble=starts, save=[0.0, 1.0, 2.0])
    for i, start in enumerate(starts):
        alone = run(counts.objective.starting_at(start), save=[0.0, 1.0, 2.0])
        for name in ("gradients", "save_gradients", "values", "hvps"):
            assert many.member(i).stats[name] == alone.stats[name]
        np.testing.assert_array_equal(many.member(i).work["gradients"], alone.work["gradients"])
    assert many.stats["gradients"][0] != many.stats["gradients"][1]


def test_line_searches_on_batches():
    """Assert that what they ask is of the batch, and `units` what the batches took."""
    X = np.linspace(-1.0, 1.0, 12)[:, None]
    loss = lambda w, data: jnp.mean((data[0] @ w - data[1]) ** 2)  # noqa: E731
    objective = flow.Objective(loss, np.zeros((1, 1)), (X, X))
    search = LINE_SEARCHES["backtracking by gradients"]
    path = flow.descend(objective, optimizer=search, time_step=1.0, steps=5, batch_size=4, save=2)
    assert path.stats["batch_gradients"] > 5
    assert path.stats["gradients"] == path.stats["save_gradients"]
    assert path.units == path.stats["batch_gradients"]


def test_other_ways_to_ask():
    """Assert the counts of values, gradients and products through every kind of loop."""
    value = lambda x: marked(jnp.sum(x**3))  # noqa: E731
    x = jnp.linspace(0.1, 3.0, 4)
    slope = jax.grad(value)
    ways = {
        "product": (lambda: jax.jvp(slope, (x,), (x,))[1], [0, 0, 1]),
        "many": (lambda: jax.vmap(value)(jnp.stack([x, x, x])), [3, 0, 0]),
        "jit": (lambda: jax.jit(jax.grad(jax.jit(value)))(x), [0, 1, 0]),
        "scan": (lambda: jax.lax.scan(lambda c, _: (c - slope(c), c), x, None, 4), [0, 4, 0]),
        "remat": (lambda: jax.checkpoint(slope)(x), [0, 1, 0]),
        # 36.6 is halved in x, and so divided by 8 in x³, twice.
        "condition": (
            lambda: jax.lax.while_loop(lambda y: value(y) > 1.0, lambda y: y / 2, x),
            [3, 0, 0],
        ),
        "branch": (lambda: jax.lax.cond(x[0] > 1.0, slope, lambda y: y, x), [0, 0, 0]),
    }
    for name, (way, expected) in ways.items():
        found, counts = jax.jit(lambda way=way: counted(way))()
        assert counts.tolist() == expected, name
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, way())


METHODS = ["RK45", "DOP853", "Radau", "BDF", "LSODA", "TSRKC3", "auto", "RK4"]
FLOWS = [(m, "scipy") for m in METHODS] + [("TSRKC3", "jax"), ("Dopri8", "jax")]


@pytest.mark.parametrize(("method", "engine"), FLOWS)
def test_flows(counts: Counts, method: str, engine: str):
    """Assert one gradient a right-hand side, with which J comes, and its norm.

    A Jacobian's products share one gradient. The compiled loops evaluate twice to be compiled.
    """
    how = {"step": 0.02} if method == "RK4" else {"rtol": 1e-4}
    run = partial(flow.integrate, counts.objective, 2.0, method=method, engine=engine, **how)
    few, many = (counts.of(partial(run, save=save)) for save in (2, 40))
    for path, values, gradients in (few, many):
        stats = path.stats
        compiling = 2 * (method in ("TSRKC3", "auto") or engine == "jax") + (method == "RK4")
        assert values == 0
        assert gradients == stats["gradients"] + compiling + stats["hvps"] / 5
        assert path.units == stats["gradients"] - stats["save_gradients"] + 2 * stats["hvps"]
    assert few[0].units == many[0].units
    # BDF and LSODA end their steps where they have not evaluated J.
    unknown = few[0].stats["steps"] if method in ("BDF", "LSODA") else 0
    assert few[0].stats["save_gradients"] <= 1 + unknown


def test_reruns(counts: Counts):
    """Assert what audit, compare, a study and an order study tell of the runs that they take."""
    objective = counts.objective
    path = flow.integrate(objective, 1.0, rtol=1e-4, save=3)
    report, _, gradients = counts.of(lambda: flow.audit(path, error_bar=True))
    assert report.units == gradients > path.units
    assert flow.audit(path).units == 0
    steps = flow.descend(objective, 0.05, steps=20, save=5)
    comparison, _, gradients = counts.of(lambda: flow.compare(path, steps))
    assert comparison.units == gradients > report.units
    order, _, gradients = counts.of(lambda: flow.order_study(objective, 0.5, [0.1, 0.05]))
    assert order.units == gradients


def test_observers(counts: Counts):
    """Assert that they are told apart, values of J alone among them."""
    observe = {"J": lambda objective, x: objective.value(x), "at 0": first_gradient}
    path = flow.integrate(counts.objective, 1.0, save=5, observe=observe)
    steps = flow.descend(counts.objective, 0.01, steps=8, save=5, observe=observe)
    for run in (path, steps):
        spent = {name: run.stats[f"observer_{name}"] for name in ("gradients", "hvps", "values")}
        assert spent == {"gradients": 5, "hvps": 0, "values": 5}
        np.testing.assert_array_equal(run.observed["J"], run.loss)


def first_gradient(objective: flow.Objective, x: np.ndarray) -> float:
    """Return ∂J/∂x₀."""
    return objective.gradient(x)[0]
