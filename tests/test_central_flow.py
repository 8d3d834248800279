"""The central flow against closed forms, an independent gradient of λ_max, and gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flow
from flow.dynamics.complementarity import matrix, solve, vector, weights


@settings(max_examples=60, deadline=None, derandomize=True)
@given(k=st.integers(1, 4), more=st.integers(3, 30), seed=st.integers(0, 2**32 - 1))
def test_complementarity(k: int, more: int, seed: int):
    """Assert X ⪰ 0, M ⪰ 0 and ⟨X, M⟩ = 0: the certificate of an optimum."""
    rng = np.random.default_rng(seed)
    p = len(weights(k))
    n = p + more
    G = rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-2, 2)
    B = rng.standard_normal((k, k)) * rng.integers(0, 2)
    with jax.enable_x64(True):
        K = jnp.asarray(0.5 * G.T @ G)
        a = jnp.asarray(G.T @ rng.standard_normal(n)) + vector(jnp.asarray(B @ B.T))
        X = np.asarray(jax.jit(solve, static_argnums=2)(K, a, k).X)
        M = np.asarray(matrix(K @ vector(jnp.asarray(X)) + a, k))
    scale = max(np.abs(M).max(), np.abs(np.asarray(a)).max())
    assert np.linalg.eigvalsh(X).min() >= -1e-9 * max(np.abs(X).max(), 1e-300)
    assert np.linalg.eigvalsh(M).min() >= -1e-8 * scale
    assert abs(np.sum(X * M)) <= 1e-8 * scale * max(np.abs(X).max(), 1e-300)


@pytest.mark.parametrize("seed", [0, 1])
def test_one_direction(seed: int):
    """Assert X = 2⟨−∇J, ∇λ⟩/‖∇λ‖² at the edge where it is positive, by autodiff of eigvalsh."""
    x = np.linspace(-1.0, 1.0, 12)[:, None]
    objective = flow.MLP([1, 5, 1], gain=1.5).objective(x, np.cos(3.0 * x), seed=seed)

    def loss(theta):
        return objective.traced_value(objective.tree(theta), objective.data)

    with jax.enable_x64(True):
        theta = jnp.asarray(objective.theta)
        top, slope = jax.value_and_grad(lambda v: jnp.linalg.eigvalsh(jax.hessian(loss)(v))[-1])(
            theta
        )
        g, slope = np.asarray(jax.grad(loss)(theta)), np.asarray(slope)
    expected = max(0.0, float(-2.0 * (g @ slope) / (slope @ slope)))
    dynamics = flow.CentralFlow(objective, learning_rate=2.0 / float(top), k=1)
    path = flow.integrate(dynamics, t=1e-6, save=2, progress=False)
    assert path.state["X"][0, 0, 0] == pytest.approx(expected, rel=1e-8, abs=1e-12)
    moved = (path.theta[-1] - path.theta[0]) / 1e-6
    np.testing.assert_allclose(moved, -(g + 0.5 * expected * slope), atol=1e-4)


def sharpening(alpha: np.ndarray, beta: np.ndarray, seed: int) -> flow.Objective:
    """J = −βᵀx + ½Σ(αᵢ + xᵢ)yᵢ², in turned coordinates: curvatures that grow at the rates β."""
    n = len(alpha)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((2 * n, 2 * n)))[0]

    def loss(theta):
        x, y = jnp.split(turn @ theta, 2)
        return -beta @ x + 0.5 * jnp.sum((alpha + x) * y**2)

    objective = flow.Objective(loss, np.zeros(2 * n))
    return objective, turn


@pytest.mark.parametrize("method", ["RKC2", "DOP853"])
def test_two_directions(method: str):
    """Assert that curvatures arrive one after the other, and Σ = 2β on the edge, turned."""
    alpha, beta, eta = np.array([2.0, 1.0, 0.0]), np.array([0.5, 1.0, 0.01]), 0.5
    objective, turn = sharpening(alpha, beta, seed=1)
    path = flow.integrate(
        flow.CentralFlow(objective, eta, k=2), t=8.0, save=17, method=method, rtol=1e-6, atol=1e-10,
        progress=False,
    )  # fmt: skip
    arrival = (2.0 / eta - alpha) / beta
    expected = np.minimum(path.t[:, None], arrival) * beta
    x = (path.theta @ turn.T)[:, :3]
    # The correction lets a curvature near the edge as e^{−t/η}, and so an error of βη at most.
    far = np.abs(path.t[:, None] - arrival).min(axis=1) > 2.5
    np.testing.assert_allclose(x, expected, atol=beta.max() * eta)
    np.testing.assert_allclose(x[far], expected[far], atol=0.01)
    assert path.state["critical"].tolist()[::16] == [0, 2]
    V, X = path.state["V"][-1], path.state["X"][-1]
    variance = turn @ V @ X @ V.T @ turn.T
    np.testing.assert_allclose(np.diag(variance)[3:], [1.0, 2.0, 0.0], atol=3e-4)
    # Their covariance bends no curvature, ∂(y₁ᵀ∇²J y₂) = 0, so that the equation leaves it open.
    np.testing.assert_allclose(variance - np.diag(np.diag(variance)), 0.0, atol=0.05)
    np.testing.assert_allclose(path.state["mean_loss"][-1], path.loss[-1] + 3.0 / eta, atol=0.01)
    np.testing.assert_allclose(
        path.state["mean_squared_gradient"][-1],
        path.gradient_norm[-1] ** 2 + 4.0 / eta**2 * 3.0,
        rtol=2e-3,
    )


@pytest.mark.quick
def test_arrives_and_leaves():
    """Assert the closed form of a direction that comes to the edge, rests there, and leaves."""
    eta = 1e-3
    objective = flow.Objective(
        lambda p: -p[0] * p[1] + 4.0 * p[1] + 0.5 * (2.0 / eta - 2.0 + p[0]) * p[2] ** 2,
        np.array([0.0, 6.0, 0.0]),
    )
    path = flow.integrate(
        flow.CentralFlow(objective, eta, k=1), t=3.6, save=37, rtol=1e-6, atol=1e-9, progress=False
    )
    # Before: ẋ = w, ẇ = x − 4; on the edge, x = 2, ẇ = −2 and X = 2w; after: as before.
    arrival = np.log(np.sqrt(6.0) - 1.0)
    w_edge = -4.0 * np.sinh(arrival) + 6.0 * np.cosh(arrival)
    t, x, X = path.t, path.theta[:, 0], path.state["X"][:, 0, 0]
    leaving = arrival + w_edge / 2.0
    early, on, late = t < arrival - 0.02, (t > arrival + 0.02) & (t < leaving), t > leaving
    assert min(early.sum(), on.sum(), late.sum()) >= 3
    before = 4.0 - 4.0 * np.cosh(t) + 6.0 * np.sinh(t)
    after = 4.0 - 2.0 * np.cosh(t - leaving)
    expected = np.where(t < arrival, before, np.where(t < leaving, 2.0, after))
    np.testing.assert_allclose(x, expected, atol=10.0 * eta)
    np.testing.assert_allclose(X[on], 4.0 * (leaving - t[on]), atol=20.0 * eta)
    assert np.all(X[early | late] < 1e-9)


def test_follows_averaged_gradient_descent():
    """Assert a tenth of the gradient flow's distance to it, and mean losses over bursts to 5 %.

    And the gradient flow itself until λ_max meets 2/η, and what the central flow costs. Where
    θ₀ differs by rounding bursts come at other times: means are over four runs that do.
    """
    objective, eta, t = flow.networks.chebyshev(3, seed=0), 0.08, 2400.0
    steps = round(t / eta)
    # Every fifth step: odd, so that both sides of the oscillation are met.
    kept = np.arange(0, steps + 1, 5) * eta
    starts = objective.theta + 1e-9 * np.random.default_rng(0).standard_normal((4, objective.size))
    descents = flow.descend(
        objective, eta, steps, ensemble=starts, save=kept[kept > 1900.0], progress=False
    )
    common = {"t": t, "engine": "jax", "save": 121, "progress": False}
    gradient = flow.integrate(objective, rtol=1e-6, **common)
    central = flow.integrate(flow.CentralFlow(objective, eta, k=1), rtol=1e-4, **common)

    before = gradient.t < 1100.0
    np.testing.assert_allclose(central.theta[before], gradient.theta[before], atol=2e-3)
    assert np.all(central.state["critical"][before] == 0)
    assert central.stats["gradients"] < 6000
    assert central.stats["hvps"] == 4 * central.stats["gradients"]

    mean = descents.theta[descents.t > 2380.0].mean(axis=0)
    near, far = (np.linalg.norm(run.theta[-1] - mean) for run in (central, gradient))
    assert far > 0.3
    assert near < 0.1 * far
    late = central.t > 1900.0
    assert central.state["critical"][late].min() == 1
    predicted, measured = central.state["mean_loss"][late].mean(), descents.loss.mean()
    assert predicted == pytest.approx(measured, rel=0.05)
    assert central.loss[late].mean() < 0.8 * measured
    predicted = central.state["mean_squared_gradient"][late].mean()
    assert predicted == pytest.approx((descents.gradient_norm**2).mean(), rel=0.05)
    np.testing.assert_allclose(central.state["eigenvalues"][late, 0], 25.0, rtol=1e-4)


def test_one_direction_too_many():
    """Assert that a run ends where more than k directions are at the edge, and says so."""
    objective, _ = sharpening(np.array([2.0, 1.0]), np.array([0.5, 1.0]), seed=0)
    path = flow.integrate(
        flow.CentralFlow(objective, 0.5, k=1), t=20.0, save=41, max_seconds=20, progress=False
    )
    assert "further one has come to it; take k = 2" in path.result
    assert path.t[-1] < 6.0


@pytest.mark.quick
def test_bad_input():
    """Assert errors that name the value met and the remedy."""
    objective = flow.networks.chebyshev()
    with pytest.raises(ValueError, match="k = 301 directions, but there are 300 parameters"):
        flow.CentralFlow(objective, 0.08, k=301)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        flow.CentralFlow(objective, -0.08)
    with pytest.raises(ValueError, match=r"learning_rate=1 is unstable at θ₀ already: λ_max = 2.9"):
        flow.integrate(flow.CentralFlow(objective, 1.0), t=1.0)
    relu = flow.MLP([1, 3, 1], activation="relu").objective([[1.0], [2.0]], [1.0, 0.0])
    with pytest.warns(flow.KinkWarning, match=r"softplus\(beta=200\)"):
        flow.CentralFlow(relu, 0.01)
    with pytest.warns(flow.KinkWarning, match="order 3 takes third derivatives"):
        flow.ModifiedFlow(relu, 0.01, order=3)
