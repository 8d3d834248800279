"""The networks that backprop is taught with, against formulas written out; and gradient ascent."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flow
from flow import networks


def sigmoid(z: jax.Array) -> jax.Array:
    """As the definition has it."""
    return 1 / (1 + jnp.exp(-z))


def relu(z: jax.Array) -> jax.Array:
    """With slope 0 at 0."""
    return jnp.where(z > 0, z, 0.0)


def two_three_two(params: list, x: jax.Array, y: jax.Array, g: Callable = relu) -> jax.Array:
    """½ Σ (ŷ − y)² of one example."""
    first, last = params
    h = g(first["W"] @ x + first["b"].ravel())
    return 0.5 * jnp.sum((sigmoid(last["W"] @ h + last["b"].ravel()) - y) ** 2)


def two_layer_relu(params: list, x: jax.Array, y: jax.Array) -> jax.Array:
    """½ (y − h)²."""
    first, last = params
    h = last["W"] @ relu(first["W"] @ x + first["b"].ravel()) + last["b"].ravel()
    return 0.5 * (y[0] - h[0]) ** 2


def two_two_two(params: list, x: jax.Array, y: jax.Array) -> jax.Array:
    """Weight by weight, each hidden activation branching to both outputs."""
    w1, w2, w3, w4, w5, w6, w7, w8 = jnp.concatenate([layer["W"].ravel() for layer in params])
    a1, a2 = sigmoid(w1 * x[0] + w2 * x[1]), sigmoid(w3 * x[0] + w4 * x[1])
    y1, y2 = sigmoid(w5 * a1 + w6 * a2), sigmoid(w7 * a1 + w8 * a2)
    return 0.5 * (y1 - y[0]) ** 2 + 0.5 * (y2 - y[1]) ** 2


def logistic(params: list, x: jax.Array, y: jax.Array) -> jax.Array:
    """The log-likelihood y log ŷ + (1 − y) log(1 − ŷ)."""
    p = sigmoid(params[1]["W"] @ sigmoid(params[0]["W"] @ x))[0]
    return y[0] * jnp.log(p) + (1 - y[0]) * jnp.log(1 - p)


def deep(params: list, x: jax.Array, y: jax.Array) -> jax.Array:
    """Binary cross-entropy behind L layers."""
    *hidden, last = params
    for layer in hidden:
        x = relu(layer["W"] @ x + layer["b"].ravel())
    p = sigmoid(last["W"] @ x + last["b"].ravel())[0]
    return -(y[0] * jnp.log(p) + (1 - y[0]) * jnp.log(1 - p))


CASES: dict[str, tuple[Callable, Callable]] = {
    f.__name__: (getattr(networks, f.__name__), f)
    for f in (two_three_two, two_layer_relu, two_two_two, logistic, deep)
} | {f"deep({depth})": (lambda depth=depth: networks.deep(depth), deep) for depth in (1, 7)}
CASES["two_three_two(sigmoid)"] = (
    lambda: networks.two_three_two(hidden="sigmoid"),
    lambda *given: two_three_two(*given, g=sigmoid),
)

made = cache(lambda name: CASES[name][0]())  # compiled functions live with their objective


@pytest.mark.parametrize("name", CASES)
@pytest.mark.quick
def test_named_network(name: str):
    """Assert J and ∇J against autodiff of the formula to 1e-12, and central differences to 1e-7."""
    objective, formula = made(name), CASES[name][1]
    rng = np.random.default_rng(0)
    for theta in (objective.theta, objective.theta + 0.3 * rng.standard_normal(objective.size)):
        with jax.enable_x64(True):

            def mean(theta: jax.Array) -> jax.Array:
                params = objective.tree(theta)
                return jnp.mean(jax.vmap(lambda x, y: formula(params, x, y))(*objective.data))

            J, gradient = jax.jit(jax.value_and_grad(mean))(theta)
        found_J, found = objective.flat_value_and_gradient(theta)
        assert found_J == pytest.approx(float(J), rel=1e-13)
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-12 * scale)
        ends = [
            [objective.value(objective.unflatten(theta + s * e)) for s in (1e-6, -1e-6)]
            for e in np.eye(objective.size)
        ]
        differences = -np.diff(ends, axis=1).ravel() / 2e-6
        np.testing.assert_allclose(found, differences, rtol=0, atol=1e-7 * max(1, scale))
        assert scale > 1e-3


def test_named_networks_are_fixed():
    """Assert the same θ₀ and data each time, and no hidden ReLU on its kink."""
    for name in ("two_two_two", "deep"):
        first, second = made(name), CASES[name][0]()
        np.testing.assert_array_equal(first.theta, second.theta)
        for x, y in zip(first.data, second.data, strict=True):
            np.testing.assert_array_equal(x, y)
    for objective in map(made, ("two_three_two", "two_layer_relu", "deep")):
        Z = objective.params[0]["W"] @ np.asarray(objective.data[0]).T
        assert np.abs(Z).min() > 1e-3


@pytest.mark.quick
def test_shapes_of_the_table():
    """Assert the layers of each network, and biases where the table has them."""
    shapes = {
        name: [{k: v.shape for k, v in layer.items()} for layer in made(name).params]
        for name in CASES
    }
    assert shapes["two_three_two"] == [{"W": (3, 2), "b": (3, 1)}, {"W": (2, 3), "b": (2, 1)}]
    assert shapes["two_two_two"] == [{"W": (2, 2)}, {"W": (2, 2)}]
    assert shapes["logistic"] == [{"W": (3, 2)}, {"W": (1, 3)}]
    assert len(shapes["deep(7)"]) == 7


@pytest.mark.quick
def test_two_three_two_of_sigmoids_as_it_is_worked_by_hand():
    """Assert weights of 0 to closed form, and every number of a pass that is written out."""
    objective = networks.two_three_two(hidden="sigmoid")
    still = objective.unflatten(np.zeros(17))
    # At 0 every a is ½: J = ½·2·¼, dZ₂ = (½ − y)/16, so Σ dZ₂ = 0 for xor and ¼·¼ for and.
    assert objective.value(still) == 0.25
    gradient = objective.gradient(still)
    np.testing.assert_allclose(gradient[1]["b"], [[0], [1 / 16]], atol=1e-17)
    np.testing.assert_allclose(gradient[1]["W"], [[0] * 3, [1 / 32] * 3], atol=1e-17)
    assert not np.any(gradient[0]["W"])
    (first, last), (X, Y) = objective.params, (np.asarray(rows).T for rows in objective.data)
    A1 = 1 / (1 + np.exp(-(first["W"] @ X + first["b"])))
    A2 = 1 / (1 + np.exp(-(last["W"] @ A1 + last["b"])))
    dZ2 = (A2 - Y) * A2 * (1 - A2) / 4
    dZ1 = (last["W"].T @ dZ2) * A1 * (1 - A1)
    table = flow.explain(objective)
    for symbol, value, g in (("A2", A2, (A2 - Y) / 4), ("A1", A1, last["W"].T @ dZ2)):
        np.testing.assert_allclose(table[symbol].value, value, rtol=0, atol=1e-15)
        np.testing.assert_allclose(table[symbol].check.gradient, g, rtol=0, atol=1e-15)
    by_hand = [dZ1 @ X.T, dZ1.sum(axis=1), dZ2 @ A1.T, dZ2.sum(axis=1)]
    found = jax.tree.leaves(objective.gradient(objective.params))
    for g, expected in zip(found, by_hand, strict=True):
        np.testing.assert_allclose(g.ravel(), expected.ravel(), rtol=0, atol=1e-16)
    assert objective.smooth
    with pytest.raises(ValueError, match="hidden 'sigmiod' is unknown. Did you mean 'sigmoid'"):
        networks.two_three_two(hidden="sigmiod")


@pytest.mark.quick
def test_canonical_link():
    """Assert ∂J/∂z_L = (ŷ − y)/N, read off the gradient by the last bias."""
    objective = made("deep")
    p = 1 / (1 + np.exp(-objective.outputs(objective.params)))
    found = objective.gradient(objective.params)[-1]["b"]
    np.testing.assert_allclose(found, np.mean(p - np.asarray(objective.data[1]), keepdims=True))


def test_deep_learns_by_mini_batches():
    """Assert that batches of 8 columns bring the loss down, and that depth is checked."""
    objective = made("deep")
    steps = flow.descend(objective, learning_rate=0.1, steps=1000, batch_size=8, save=5)
    assert steps.loss[-1] < 0.3 * steps.loss[0]
    for bad in (0, -1):
        with pytest.raises(ValueError, match="depth must be a positive integer"):
            networks.deep(bad)


def test_log_likelihood_at_huge_logits():
    """Assert finite values and slopes where the logits are ±1e4, one of them quite wrong."""
    loss = flow.backprop.LOSSES["log_likelihood"]
    with jax.enable_x64(True):
        A, Y = jnp.asarray([[1e4, -1e4, 1e4]]), jnp.asarray([[1.0, 0.0, 0.0]])
        values = [loss.value(A[:, [n]], Y[:, [n]]).item() for n in range(3)]
        residual = np.asarray(loss.residual(A, Y))
    assert values == [0.0, 0.0, -1e4]
    np.testing.assert_array_equal(residual, [[0.0, 0.0, -1.0]])


# ---- ascent


@pytest.fixture
def up_and_down() -> tuple[flow.Objective, flow.Objective]:
    """The mean log-likelihood, to be climbed, and its negative, to be descended."""
    up = networks.logistic()
    down = flow.Objective(
        lambda p, batch: -up.traced_value(p, batch),
        up.params,
        up.data,
        gradient=lambda p, batch: jax.tree.map(jnp.negative, up.traced_gradient(p, batch)),
    )
    return up, down


@pytest.mark.parametrize("method", ["DOP853", "BDF"])
def test_ascent_flow_is_descent_of_the_negative(up_and_down: tuple, method: str):
    """Assert one trajectory, −J along it, one energy integral of the other sign, one audit."""
    up, down = up_and_down
    climb = flow.integrate(flow.GradientFlow(up, ascent=True), t=30.0, method=method)
    fall = flow.integrate(down, t=30.0, method=method)
    np.testing.assert_allclose(climb.theta, fall.theta, rtol=0, atol=1e-12)
    np.testing.assert_allclose(climb.loss, -fall.loss, rtol=1e-12)
    assert climb.loss[-1] > climb.loss[0] + 0.01
    assert climb.stats["dissipated"] == pytest.approx(-fall.stats["dissipated"], rel=1e-10)
    risen = climb.loss[-1] - climb.loss[0]
    assert -climb.stats["dissipated"] == pytest.approx(risen, rel=1e-5)
    audit = flow.audit(climb)
    assert audit.energy_residual == pytest.approx(flow.audit(fall).energy_residual, abs=1e-9)
    assert audit.largest_rise == 0
    assert climb.label == "gradient flow, ascent"


def test_an_overshoot_uphill_is_a_fall():
    """Assert that `largest_rise` uphill is the largest fall of J, in flow and in steps."""
    objective = flow.Objective(lambda x: -0.5 * x @ x, np.array([1.0]))
    for path in (
        flow.integrate(
            flow.GradientFlow(objective, ascent=True), 12.5, method="Euler", step=2.5, save=6
        ),
        flow.descend(objective, 2.5, 5, ascent=True, save=6),
    ):
        values = -0.5 * 1.5 ** (2.0 * np.arange(6))
        assert path.stats["largest_rise"] == pytest.approx(values[4] - values[5], rel=1e-12)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_ascent_is_descent_of_the_negative(up_and_down: tuple, batch_size: int | None):
    """Assert one trajectory of gradient steps and of Adam's, with mini-batches too."""
    up, down = up_and_down
    options = {"steps": 100, "batch_size": batch_size, "save": 11}
    for rule in (
        {"learning_rate": 0.5},
        {"learning_rate": optax.linear_schedule(0.5, 0.1, 100)},
        {"optimizer": optax.adam(0.05), "time_step": 0.05},
    ):
        climb = flow.descend(up, ascent=True, **rule, **options)
        fall = flow.descend(down, **rule, **options)
        np.testing.assert_allclose(climb.theta, fall.theta, rtol=0, atol=1e-12)
        np.testing.assert_allclose(climb.loss, -fall.loss, rtol=1e-12)
        rises = [run.stats["largest_rise"] for run in (climb, fall)]
        assert rises[0] == pytest.approx(rises[1], rel=1e-9, abs=1e-15)
    both = flow.descend(up, learning_rate=0.5, **options)  # not the compiled loop of the ascent
    assert both.loss[-1] < both.loss[0]


def test_founding_identity_uphill():
    """Assert that Euler's method on θ̇ = ∇J is gradient ascent."""
    objective = networks.logistic()
    uphill = flow.GradientFlow(objective, ascent=True)
    euler = flow.integrate(uphill, t=10.0, method="Euler", step=0.1, save=11)
    steps = flow.descend(objective, learning_rate=0.1, steps=100, ascent=True, save=11)
    np.testing.assert_allclose(steps.theta, euler.theta, rtol=0, atol=1e-13)
    study = flow.order_study(uphill, t=4.0, learning_rates=[0.2, 0.1, 0.05])
    assert study.slope == pytest.approx(1.0, abs=0.05)


def test_compare_and_load_uphill(up_and_down: tuple, tmp_path: Path):
    """Assert that runs uphill compare, repeat at other times, save, load and are audited."""
    objective, down = up_and_down
    path = flow.integrate(flow.GradientFlow(objective, ascent=True), t=10.0, save=5)
    steps = flow.descend(objective, learning_rate=0.05, steps=200, ascent=True, save=41)
    comparison = flow.compare(path, steps)
    assert 0 < comparison.relative_distance[-1] < 0.02
    fall = flow.integrate(down, t=10.0, save=5)
    mirror = flow.compare(fall, flow.descend(down, learning_rate=0.05, steps=200, save=41))
    for gap in ("distance", "nearest_distance", "error_bar"):
        np.testing.assert_allclose(getattr(comparison, gap), getattr(mirror, gap), atol=1e-9)
    figure = comparison.plot()
    assert figure.axes[0].get_yscale() == "linear"
    with pytest.raises(ValueError, match="one climbs J and the other descends"):
        flow.compare(path, flow.descend(objective, learning_rate=0.05, steps=2))
    loaded = flow.load(path.save(tmp_path / "up.nc"))
    assert loaded.config["ascent"] is True
    audit = flow.audit(loaded, objective, error_bar=True)
    assert 0 < audit.error_bar[-1] < 1e-5
    assert audit.energy_residual == flow.audit(path).energy_residual


def test_stop_at_a_loss_uphill_is_refused():
    """Assert that J ≤ threshold, which holds at once uphill, is refused with the remedy."""
    objective = networks.logistic()
    stop = flow.stop.loss(-0.3)
    with pytest.raises(ValueError, match=r"J rises; give a function, lambda record.*>= -0\.3"):
        flow.integrate(flow.GradientFlow(objective, ascent=True), t=1.0, stop=stop)
    with pytest.raises(ValueError, match="J rises"):
        flow.descend(objective, 0.1, 10, ascent=True, stop=[stop])
    path = flow.integrate(
        flow.GradientFlow(objective, ascent=True),
        t=1e4,
        save=1001,
        stop=lambda record: record["loss"] >= -0.3,
    )
    assert path.result.startswith("stopped")
    assert path.loss[-2] < -0.3 <= path.loss[-1]
