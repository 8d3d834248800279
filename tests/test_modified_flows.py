"""Flows that follow gradient descent: closed forms on quadratics, orders, and energies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flow
from flow._core.precision import double_precision

TIGHT = {"rtol": 1e-11, "atol": 1e-13, "progress": False}
ROTATION = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
LAMBDA = np.array([0.5, 3.0, 9.0])
H = ROTATION @ np.diag(LAMBDA) @ ROTATION.T
X0 = np.array([1.0, -2.0, 0.5])


@pytest.fixture(scope="module")
def quadratic() -> flow.Objective:
    return flow.Objective(lambda x: 0.5 * x @ H @ x, X0)


@pytest.fixture(scope="module")
def network() -> flow.Objective:
    X, y = flow.datasets.digits(40)
    return flow.MLP([64, 4, 10]).objective(X, y, seed=0)


def decayed(rates: np.ndarray, t: float) -> np.ndarray:
    return ROTATION @ (np.exp(-rates * t) * (ROTATION.T @ X0))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.quick
def test_decay_on_a_quadratic(quadratic: flow.Objective, order: int):
    """Assert the rates λ + ηλ²/2 (+ η²λ³/3), which are −log(1 − ηλ)/η up to that power."""
    eta = 0.08
    rates = LAMBDA + eta * LAMBDA**2 / 2 + (order == 3) * eta**2 * LAMBDA**3 / 3
    path = flow.integrate(flow.ModifiedFlow(quadratic, eta, order), t=2.0, **TIGHT)
    np.testing.assert_allclose(path.theta[-1], decayed(rates, 2.0), atol=1e-10)


def test_third_order_field(network: flow.Objective):
    """Assert the field against dense derivatives: ∇(gᵀHg) with g fixed by a loop of its own."""
    eta, dynamics = 0.3, flow.ModifiedFlow(network, 0.3, order=3)
    with double_precision():
        theta = jnp.asarray(network.theta)
        J = lambda x: network.traced_value(network.tree(x), network.data)  # noqa: E731
        g, hessian = jax.grad(J)(theta), jax.hessian(J)(theta)
        step = 1e-4 * g / jnp.linalg.norm(g)
        third = (jax.hessian(J)(theta + step) - jax.hessian(J)(theta - step)) @ g
        third = third * jnp.linalg.norm(g) / 2e-4
        field = g + eta / 2 * hessian @ g + eta**2 * (hessian @ hessian @ g / 3 + third / 12)
        found = dynamics.rhs(0.0, network.tree(theta), network.data)
        found = jax.flatten_util.ravel_pytree(found)[0]
    found, field = np.asarray(found), np.asarray(field)
    np.testing.assert_allclose(found, -field, rtol=0, atol=1e-7 * np.abs(field).max())


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (flow.GradientFlow, 1),
        (lambda o: flow.ModifiedFlow(o, 1.0), 2),
        (lambda o: flow.ModifiedFlow(o, 1.0, order=3), 3),
    ],
)
@pytest.mark.quick
def test_orders(network: flow.Objective, make, order: int):
    """Assert slopes 1, 2, 3 at a fixed time, and one more after one step."""
    rates = flow.auto_learning_rates(network, [0.1, 0.05, 0.025])
    study = flow.order_study(make(network), t=0.5, learning_rates=rates, progress=False)
    assert study.slope == pytest.approx(order, abs=0.05)
    assert study.one_step_slope == pytest.approx(order + 1, abs=0.1)


@pytest.mark.quick
def test_order_of_the_principal_flow(network: flow.Objective):
    """Assert slope 2 of the principal flow on a general loss, whose eigenvectors turn."""
    rates = flow.auto_learning_rates(network, [0.1, 0.05, 0.025])
    dynamics = flow.PrincipalFlow(network, 1.0, k=3)
    study = flow.order_study(dynamics, t=0.5, learning_rates=rates, progress=False)
    assert study.slope == pytest.approx(2.0, abs=0.1)
    assert study.one_step_slope == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.quick
def test_principal_flow_meets_every_iterate(quadratic: flow.Objective, engine: str):
    """Assert that it passes through gradient descent's iterates where ηλ < 1 (truth 3)."""
    eta = 0.1
    steps = flow.descend(quadratic, eta, 20, save=21, progress=False)
    dynamics = flow.PrincipalFlow(quadratic, eta, k=3)
    path = flow.integrate(dynamics, t=2.0, save=steps.t, engine=engine, **TIGHT)
    np.testing.assert_allclose(path.theta, steps.theta, atol=1e-9)


def test_envelope_beyond_the_minimum():
    """Assert |1 − ηλ|ᵏ for 1 < ηλ < 2, and beyond 2, where both grow."""
    eta, rates = 0.1, np.array([13.0, 21.0])
    objective = flow.Objective(lambda x: 0.5 * (rates * x**2).sum(), np.ones(2))
    path = flow.integrate(flow.PrincipalFlow(objective, eta, k=2), t=1.0, **TIGHT)
    np.testing.assert_allclose(path.theta[-1], np.abs(1 - eta * rates) ** 10, rtol=1e-8)


def test_tracked_eigenvectors(network: flow.Objective):
    """Assert that U stays orthonormal and keeps near the top eigenvectors as they turn."""
    dynamics = flow.PrincipalFlow(network, 0.01, k=2)
    path = flow.integrate(dynamics, t=2.0, save=2, progress=False)
    U = path.state["U"][-1]
    np.testing.assert_allclose(U.T @ U, np.eye(2), atol=1e-12)
    vectors = flow.spectrum.eigenpairs(network, path.params(-1), k=2).vectors
    assert np.linalg.norm(vectors.T @ U, 2) <= 1 + 1e-12
    assert np.linalg.svd(vectors.T @ U)[1].min() > 0.98


def test_energy_of_the_modified_flow(network: flow.Objective):
    """Assert that J + (η/4)‖∇J‖² falls at ‖θ̇‖², and with decay J + (w/2)‖θ‖²."""
    for dynamics in (
        flow.ModifiedFlow(network, 0.02),
        flow.GradientFlow(network, weight_decay=0.3),
    ):
        path = flow.integrate(dynamics, t=3.0, rtol=1e-9, atol=1e-12, progress=False)
        assert abs(flow.audit(path).energy_residual) < 1e-8


@pytest.mark.quick
def test_weight_decay(quadratic: flow.Objective):
    """Assert e^{−(H+w)t}, uphill e^{(H−w)t}, and optax's decayed descent to rounding."""
    path = flow.integrate(flow.GradientFlow(quadratic, weight_decay=0.7), t=1.0, **TIGHT)
    np.testing.assert_allclose(path.theta[-1], decayed(LAMBDA + 0.7, 1.0), atol=1e-10)
    uphill = flow.GradientFlow(quadratic, weight_decay=0.7, ascent=True)
    path = flow.integrate(uphill, t=0.5, **TIGHT)
    np.testing.assert_allclose(path.theta[-1], decayed(0.7 - LAMBDA, 0.5), rtol=1e-9)
    for dynamics in (uphill, flow.GradientFlow(quadratic, weight_decay=0.7)):
        optimizer, time_step = dynamics.counterpart(0.05)
        steps = flow.descend(
            quadratic, optimizer=optimizer, time_step=time_step, steps=10, save=11, progress=False
        )
        euler = flow.integrate(dynamics, t=0.5, method="Euler", step=0.05, save=11, progress=False)
        np.testing.assert_allclose(steps.theta, euler.theta, atol=1e-12)


def test_save_load_and_compare(network: flow.Objective, tmp_path):
    """Assert that a modified run comes back whole, with its constants, and is audited."""
    dynamics = flow.ModifiedFlow(network, 0.02, order=2)
    path = flow.integrate(dynamics, t=1.0, save=11, progress=False)
    loaded = flow.load(path.save(tmp_path / "run.nc"))
    assert loaded.config["constants"] == {"learning_rate": 0.02, "order": 2}
    np.testing.assert_array_equal(loaded.theta, path.theta)
    residual = flow.audit(loaded, dynamics).energy_residual
    assert residual == flow.audit(path).energy_residual
    steps = flow.descend(network, 0.02, 50, save=11, progress=False)
    near = flow.compare(path, steps, progress=False).distance[-1]
    far = flow.compare(flow.integrate(network, 1.0, progress=False), steps, progress=False)
    assert near < 0.2 * far.distance[-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: flow.ModifiedFlow(o, -0.1), "learning_rate must be positive"),
        (lambda o: flow.ModifiedFlow(o, 0.1, order=4), "order must be 2 or 3, got 4"),
        (lambda o: flow.PrincipalFlow(o, 0.1, k=4), "k = 4 eigenpairs"),
        (lambda o: flow.PrincipalFlow(o, 0.0, k=1), "learning_rate must be positive"),
        (lambda o: flow.GradientFlow(o, weight_decay=-1.0), "weight_decay must be finite and not"),
    ],
)
def test_refused(quadratic: flow.Objective, make, message: str):
    with pytest.raises(ValueError, match=message):
        make(quadratic)


def test_stabilised_methods_where_declared(quadratic: flow.Objective):
    """Assert TSRKC3 for order 2, a gradient flow, and its refusal for order 3, which is none."""
    path = flow.integrate(
        flow.ModifiedFlow(quadratic, 0.08), t=2.0, method="TSRKC3", rtol=1e-8, progress=False
    )
    rates = LAMBDA + 0.08 * LAMBDA**2 / 2
    np.testing.assert_allclose(path.theta[-1], decayed(rates, 2.0), atol=1e-6)
    with pytest.raises(ValueError, match="real negative spectrum"):
        flow.integrate(flow.ModifiedFlow(quadratic, 0.08, order=3), t=2.0, method="TSRKC3")
