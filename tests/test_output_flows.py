"""Flows of the network's outputs: lazy training and the natural gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import flow
from flow._core.precision import double_precision
from flow.dynamics import tangent_kernel

TIGHT = {"rtol": 1e-11, "atol": 1e-13, "progress": False}


def network(loss: str = "mse", examples: int = 12) -> flow.Objective:
    X, y = flow.datasets.digits(examples)
    return flow.MLP([64, 3, 10]).objective(X, y, loss=loss, seed=0)


@pytest.fixture(scope="module")
def mse() -> flow.Objective:
    return network()


@pytest.fixture(scope="module")
def cross_entropy() -> flow.Objective:
    return network("cross_entropy")


def jacobian(objective: flow.Objective) -> np.ndarray:
    """∂f/∂θ (outputs, n) by forward mode, where the kernel takes the backward one."""
    with double_precision():
        f = lambda x: jnp.ravel(objective.traced_outputs(objective.tree(x), objective.data[0]))  # noqa: E731
        return np.array(jax.jacfwd(f)(jnp.asarray(objective.theta)))


# ---- lazy training


@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.quick
def test_closed_form_of_the_squared_loss(mse: flow.Objective, engine: str):
    """Assert f(t) = y + e^{−Θt/N}(f₀ − y) of the integrated θ, to 1e-10 (truth 16)."""
    dynamics = flow.LinearizedFlow(mse)
    path = flow.integrate(
        dynamics, t=4.0, save=[1.0, 4.0], method="DOP853" if engine == "scipy" else "Dopri8",
        engine=engine, rtol=1e-13, atol=1e-14, progress=False,
    )  # fmt: skip
    J, (_, y), n = jacobian(mse), mse.data, 12
    f0, target = mse.outputs(mse.params).ravel(), np.asarray(y).ravel()
    rates, U = np.linalg.eigh(J @ J.T / n)
    for i, t in enumerate(path.t):
        exact = target + U @ (np.exp(-rates * t) * (U.T @ (f0 - target)))
        found = dynamics.objective.outputs(path.params(i)).ravel()
        np.testing.assert_allclose(found, exact, atol=1e-10)
        np.testing.assert_allclose(dynamics.outputs(t)[0].ravel(), exact, atol=1e-10)


def test_beside_jax_linearize(cross_entropy: flow.Objective):
    """Assert θ(t) by an independent flow of `jax.linearize`'s network under another loss."""
    dynamics = flow.LinearizedFlow(cross_entropy)
    path = flow.integrate(dynamics, t=2.0, save=[2.0], rtol=1e-12, atol=1e-14, progress=False)
    with double_precision():
        start, (X, y) = jnp.asarray(cross_entropy.theta), cross_entropy.data
        f = lambda x: cross_entropy.traced_outputs(cross_entropy.tree(x), X)  # noqa: E731
        f0, push = jax.linearize(f, start)
        loss = lambda x: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(f0 + push(x - start)), axis=1))  # noqa: E731
        gradient = jax.jit(jax.grad(loss))
        solution = solve_ivp(
            lambda _, x: -np.array(gradient(x)), (0, 2), start, method="DOP853", rtol=1e-12,
            atol=1e-14,
        )  # fmt: skip
    np.testing.assert_allclose(path.theta[-1], solution.y[:, -1], atol=1e-10)
    outputs = dynamics.objective.outputs(path.params(-1))
    np.testing.assert_allclose(dynamics.outputs([2.0])[0], outputs, atol=1e-8)


def test_tangent_kernel(mse: flow.Objective):
    J = jacobian(mse)
    np.testing.assert_allclose(tangent_kernel(mse), J @ J.T, atol=1e-12)
    elsewhere = mse.starting_at(mse.unflatten(mse.theta + 0.1))
    J = jacobian(elsewhere)
    np.testing.assert_allclose(tangent_kernel(elsewhere), J @ J.T, atol=1e-12)


def test_energy_and_descent_of_the_linearised_network(mse: flow.Objective):
    """Assert the energy identity, and order 1 of descent on the linearised objective."""
    dynamics = flow.LinearizedFlow(mse)
    path = flow.integrate(dynamics, t=5.0, rtol=1e-9, atol=1e-12, progress=False)
    assert abs(flow.audit(path).energy_residual) < 1e-8
    rates = flow.auto_learning_rates(dynamics.objective, [0.1, 0.05, 0.025])
    study = flow.order_study(dynamics, t=0.5, learning_rates=rates, progress=False)
    assert study.slope == pytest.approx(1.0, abs=0.05)


def test_too_large_a_kernel():
    X, y = flow.datasets.digits(1100)
    objective = flow.MLP([64, 2, 10]).objective(X, y)
    with pytest.raises(ValueError, match="11,000 outputs takes 968 MB"):
        flow.LinearizedFlow(objective).kernel()


# ---- the NTK parameterisation


def test_ntk_parameterisation_is_the_same_network():
    """Assert the outputs of σW, with W of unit variance, and a gradient σ times as large."""
    X, y = flow.datasets.digits(15)
    for init in ("lecun", "he"):
        mlp = flow.MLP([64, 5, 10], init=init, gain=1.3, parameterisation="ntk")
        plain = flow.MLP([64, 5, 10], init=init, gain=1.3)
        objective, other = (m.objective(X, y, seed=4) for m in (mlp, plain))
        np.testing.assert_allclose(
            objective.outputs(objective.params), other.outputs(other.params), atol=1e-12
        )
        sigma = [
            layer["W"] / unit["W"]
            for layer, unit in zip(other.params, objective.params, strict=True)
        ]
        assert all(np.ptp(s) < 1e-12 for s in sigma)
        assert flow.check_gradient(objective).passed
        np.testing.assert_allclose(
            objective.gradient(objective.params)[0]["W"],
            sigma[0] * other.gradient(other.params)[0]["W"],
            atol=1e-14,
        )
    with pytest.raises(ValueError, match="parameterisation 'NTK' is unknown"):
        flow.MLP([2, 1], parameterisation="NTK")


# ---- natural gradient


def gauss_newton(objective: flow.Objective) -> np.ndarray:
    """G = (1/N) Σ Jᵢᵀ Hᵢ Jᵢ, dense, with the Hessian of each loss written out."""
    J = jacobian(objective).reshape(12, 10, -1)
    f = objective.outputs(objective.params)
    if objective.backprop[1].name == "mse":
        curvature = np.broadcast_to(np.eye(10), (12, 10, 10))
    else:
        p = np.exp(f - f.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        curvature = p[:, :, None] * np.eye(10) - p[:, :, None] * p[:, None, :]
    return np.einsum("iap,iab,ibq->pq", J, curvature, J) / 12


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_natural_gradient_beside_the_dense_matrix(loss: str):
    """Assert −(G + λI)⁻¹∇J with a dense solve."""
    objective = network(loss)
    dynamics = flow.NaturalGradientFlow(objective, damping=0.1)
    gradient = objective.flat_value_and_gradient(objective.theta)[1]
    exact = -np.linalg.solve(gauss_newton(objective) + 0.1 * np.eye(objective.size), gradient)
    with double_precision():
        found = dynamics.rhs(0.0, objective.tree(jnp.asarray(objective.theta)), objective.data)
        found = np.array(jax.flatten_util.ravel_pytree(found)[0])
    np.testing.assert_allclose(found, exact, atol=1e-9 * np.abs(exact).max())


@pytest.mark.parametrize("damping", [0.0, 0.5])
@pytest.mark.quick
def test_newton_flow_on_least_squares(damping: float):
    """Assert decay of every eigenmode at s/(s + λ): e^{−t} for all without damping."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 4)) * [1.0, 5.0, 0.3, 2.0]
    solution = np.array([1.0, -2.0, 3.0, 0.5])
    objective = flow.MLP([4, 1], activation="identity", bias=False).objective(X, X @ solution)
    dynamics = flow.NaturalGradientFlow(objective, damping=damping)
    path = flow.integrate(dynamics, t=2.0, save=[2.0], **TIGHT)
    s, U = np.linalg.eigh(X.T @ X / 40)
    away = U @ (np.exp(-2.0 * s / (s + damping)) * (U.T @ (objective.theta - solution)))
    np.testing.assert_allclose(path.theta[-1], solution + away, atol=1e-9)


def test_order_of_damped_gauss_newton(mse: flow.Objective):
    study = flow.order_study(
        flow.NaturalGradientFlow(mse, damping=0.5), t=0.5, learning_rates=[0.1, 0.05, 0.025],
        progress=False,
    )  # fmt: skip
    assert study.slope == pytest.approx(1.0, abs=0.05)
    assert study.one_step_slope == pytest.approx(2.0, abs=0.1)


def test_refused(mse: flow.Objective):
    with pytest.raises(ValueError, match="damping must be finite and not negative, got -1"):
        flow.NaturalGradientFlow(mse, damping=-1)
    opaque = flow.Objective(lambda x: x @ x, np.ones(2))
    for make in (flow.LinearizedFlow, lambda o: flow.NaturalGradientFlow(o, damping=0.1)):
        with pytest.raises(TypeError, match="knows its loss only"):
            make(opaque)
