"""Closed forms that every run must hit, through the public API, at rtol 1e-10 to 1e-8."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
from sklearn.datasets import load_breast_cancer

import flow

TIGHT = {"rtol": 1e-10, "atol": 1e-13}
ERROR = 1e-8


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest error over the times, relative to the largest value."""
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


@pytest.fixture
def hessian() -> np.ndarray:
    """A symmetric matrix that is not diagonal, spectrum 0.05 to 8."""
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    return Q @ np.diag([0.05, 0.2, 0.7, 1.5, 4.0, 8.0]) @ Q.T


@pytest.mark.parametrize("method", ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"])
@pytest.mark.quick
def test_quadratic_flow(hessian: np.ndarray, method: str):
    """Assert that x* + e^{−Ht}(x₀ − x*) is followed by every scipy method (truth 1)."""
    x0, x_star = np.arange(1.0, 7.0), np.linspace(-1, 1, 6)
    problem = flow.exact.quadratic(hessian, x0, x_star)
    # The low-order methods keep their own, looser promise: a hundred times the tolerance.
    settings, error = (TIGHT, ERROR) if method != "RK23" else ({"rtol": 1e-8, "atol": 1e-11}, 1e-6)
    if method == "BDF":
        error = 1e-7
    path = flow.integrate(problem.objective, t=10.0, method=method, save=23, **settings)
    expected = [
        x_star + scipy.linalg.expm(-hessian * t) @ (x0 - x_star) for t in np.linspace(0, 10, 23)
    ]
    assert relative_error(path.theta, np.array(expected)) < error
    assert relative_error(problem.theta(path.t), np.array(expected)) < 1e-13


@pytest.mark.quick
def test_quadratic_descent(hessian: np.ndarray):
    """Assert that gradient descent is (I − ηH)^k (truth 1)."""
    x0, x_star = np.arange(1.0, 7.0), np.linspace(-1, 1, 6)
    objective = flow.exact.quadratic(hessian, x0, x_star).objective
    steps = flow.descend(objective, learning_rate=0.1, steps=60, save=61)
    step = np.eye(6) - 0.1 * hessian
    expected = [x_star + np.linalg.matrix_power(step, k) @ (x0 - x_star) for k in range(61)]
    np.testing.assert_allclose(steps.theta, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(steps.t, 0.1 * np.arange(61), rtol=1e-15)


@pytest.mark.quick
def test_stability_limit_of_gradient_descent(hessian: np.ndarray):
    """Assert that GD converges just below 2/λ_max and grows at its exact rate above (truth 2)."""
    vector = np.linalg.eigh(hessian)[1][:, -1]
    objective = flow.exact.quadratic(hessian, vector).objective
    limit = 2.0 / flow.sharpness(objective, objective.params)
    assert limit == pytest.approx(0.25, rel=1e-10)
    for share in (0.99, 1.01):
        run = flow.descend(objective, share * limit, steps=200)
        rate = np.abs(1 - 2 * share)
        assert np.linalg.norm(run.theta[-1]) == pytest.approx(rate**200, rel=1e-8)
    np.testing.assert_allclose(
        flow.auto_learning_rates(objective), np.array([0.1, 0.5, 0.9, 1.1]) * 0.25, rtol=1e-10
    )


@pytest.mark.quick
def test_least_squares_on_real_data():
    """Assert the filter factors on the breast-cancer data, and the limit X⁺y (truth 7)."""
    X, y = load_breast_cancer(return_X_y=True)
    X = ((X - X.mean(0)) / X.std(0))[:, [0, 4, 7, 11]]
    y = y - y.mean()
    problem = flow.exact.least_squares(X, y)
    path = flow.integrate(problem.objective, t=3.0, save=11, **TIGHT)
    N, s = len(X), np.linalg.svd(X.T @ X / len(X))[1]
    V = np.linalg.svd(X.T @ X / N)[2].T
    expected = [V @ (-np.expm1(-s * t) / s * (V.T @ X.T @ y / N)) for t in path.t]
    assert relative_error(path.theta, np.array(expected)) < ERROR
    assert relative_error(problem.theta(path.t), np.array(expected)) < 1e-12
    limit = flow.integrate(
        problem.objective, t=np.inf, stop=flow.stop.gradient_norm(1e-10), **TIGHT
    )
    assert relative_error(limit.theta[-1], np.linalg.pinv(X) @ y) < ERROR


@pytest.mark.quick
def test_saxe_two_layers():
    """Assert u = s e^{2st}/(e^{2st} − 1 + s/u₀) for J = ½(s − ab)² (truth 8)."""
    s, a0 = 3.0, 0.1
    path = flow.integrate(flow.exact.two_layer_scalar(s, a0).objective, t=2.5, save=31, **TIGHT)
    growth = np.exp(2 * s * path.t)
    u = s * growth / (growth - 1 + s / a0**2)
    assert relative_error(path.theta.prod(axis=1), u) < ERROR
    assert relative_error(flow.exact.two_layer_scalar(s, a0).theta(path.t)[:, 0] ** 2, u) < 1e-13


@pytest.mark.quick
def test_deep_linear_network_learns_its_modes():
    """Assert u̇ = N u^{2−2/N}(s − u) of balanced layers, for a network of three (truth 8)."""
    objective = flow.Objective(
        lambda p: 0.5 * (2.0 - p[0]["W"][0, 0] * p[1]["W"][0, 0] * p[2]["W"][0, 0]) ** 2,
        [{"W": np.array([[0.5]])}] * 3,
    )
    path = flow.integrate(objective, t=3.0, save=9, **TIGHT)
    u = scipy.integrate.solve_ivp(
        lambda t, u: 3 * u ** (4 / 3) * (2.0 - u),
        (0, 3),
        [0.125],
        "DOP853",
        path.t,
        rtol=1e-12,
        atol=1e-14,
    ).y[0]
    assert relative_error(path.theta.prod(axis=1), u) < ERROR


@pytest.mark.quick
def test_unbalanced_product():
    """Assert that a² − b² is kept, λ_max tends to √(c² + 4s²), GD shrinks c (truth 9)."""
    s = 1.5
    a, b = 2.0, 0.3
    objective = flow.Objective(
        lambda p: 0.5 * (s - p[0] * p[1]) ** 2,
        np.array([a, b]),
        conserved={"a² − b²": lambda p: p[0] ** 2 - p[1] ** 2},
    )
    c = a**2 - b**2
    path = flow.integrate(objective, t=20.0, observe={"sharpness": flow.sharpness}, **TIGHT)
    kept = path.theta[:, 0] ** 2 - path.theta[:, 1] ** 2
    np.testing.assert_allclose(kept, c, rtol=ERROR)
    assert flow.audit(path).conserved["a² − b²"] == pytest.approx(np.abs(kept - c).max())
    assert path.observed["sharpness"][-1] == pytest.approx(np.sqrt(c**2 + 4 * s**2), rel=ERROR)
    eta = 0.05
    steps = flow.descend(objective, eta, steps=30, save=31)
    product, c_k = steps.theta.prod(1), steps.theta[:, 0] ** 2 - steps.theta[:, 1] ** 2
    np.testing.assert_allclose(
        c_k[1:], c_k[:-1] * (1 - eta**2 * (s - product[:-1]) ** 2), rtol=1e-13
    )


@pytest.mark.quick
def test_matrix_factorisation():
    """Assert the Riccati solution for WWᵀ of J = ¼‖WWᵀ − A‖² (truth 10)."""
    rng = np.random.default_rng(5)
    Q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    A = Q @ np.diag([2.0, 1.0, 0.5, -0.4]) @ Q.T
    problem = flow.exact.matrix_factorisation(A, 0.3 * rng.standard_normal((4, 3)))
    path = flow.integrate(problem.objective, t=4.0, save=13, **TIGHT)
    found = [(W := path.params(i)) @ W.T for i in range(len(path.t))]
    assert relative_error(np.reshape(found, (13, -1)), problem.theta(path.t)) < ERROR


def test_matrix_factorisation_at_long_times():
    """Assert the formula as it is written where that can be computed, and A where it can't."""
    rng = np.random.default_rng(5)
    Q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    A, W0 = Q @ np.diag([2.0, 1.0, 0.5, 0.01]) @ Q.T, 0.3 * rng.standard_normal((4, 4))
    t = 2.0
    E = scipy.linalg.expm(A * t)
    bracket = np.eye(4) + W0.T @ np.linalg.solve(A, E @ E - np.eye(4)) @ W0
    found = flow.exact.matrix_factorisation(A, W0).theta([t, 3000.0]).reshape(2, 4, 4)
    np.testing.assert_allclose(found[0], E @ W0 @ np.linalg.solve(bracket, W0.T @ E), atol=1e-13)
    np.testing.assert_allclose(found[1], A, rtol=0, atol=1e-12)
    # Of a singular A: u̇ = −2u² of the direction that A knows nothing of.
    lone = flow.exact.matrix_factorisation(np.diag([1.0, 0.0]), np.diag([0.5, 0.5])).theta([3.0])
    assert lone[0, 3] == pytest.approx(0.25 / (1 + 2 * 0.25 * 3), rel=1e-14)


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_modes_of_linear_networks(layers: int):
    """Assert t(u) = ∫du/(N u^{2−2/N}(s − u)) in closed form, ₂F₁, of any number of layers."""
    s, u0, t = np.array([0.5, 2.0, 3.0]), np.array([0.01, 0.02, 0.5]), np.array([0.2, 0.3, 0.0])
    u = flow.exact.linear_modes(s, u0, layers)(t)
    q = 2.0 / layers - 1.0  # u^{2−2/N} = u^{1−q}
    assert u.shape == (3, 3)
    np.testing.assert_allclose(u[2], u0, rtol=1e-14)

    def time(u: np.ndarray) -> np.ndarray:
        if q == 0:
            return np.log(u / (s - u)) / (layers * s)
        return u**q * scipy.special.hyp2f1(1.0, q, 1.0 + q, u / s) / (q * layers * s)

    np.testing.assert_allclose(time(u) - time(u0), np.outer(t, np.ones(3)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.quick
def test_aligned_linear_network(layers: int):
    """Assert that balanced, aligned weights stay so: every weight has its closed form (truth 8)."""
    target = np.random.default_rng(1).standard_normal((3, 4))
    problem = flow.exact.deep_linear(target, [0.3, 0.2, 0.1], layers)
    path = flow.integrate(problem.objective, t=6.0, save=13, **TIGHT)
    assert relative_error(path.theta, problem.theta(path.t)) < ERROR
    product = np.eye(4)
    for layer in path.params(-1):
        product = layer["W"] @ product
    s = np.linalg.svd(target)[1]
    modes = flow.exact.linear_modes(s, [0.3, 0.2, 0.1], layers)(6.0)
    np.testing.assert_allclose(np.linalg.svd(product)[1], modes, rtol=ERROR)


@pytest.mark.quick
def test_balanced_linear_network():
    """Assert W₂W₁ from balanced weights that are not aligned with the target (truth 10)."""
    rng = np.random.default_rng(2)
    target = rng.standard_normal((3, 5))
    U, d, Vt = np.linalg.svd(rng.standard_normal((3, 5)), full_matrices=False)
    W1, W2 = np.sqrt(0.1 * d)[:, None] * Vt, U * np.sqrt(0.1 * d)
    problem = flow.exact.balanced_linear(target, W1, W2)
    path = flow.integrate(problem.objective, t=6.0, save=13, **TIGHT)
    found = [p[1]["W"] @ p[0]["W"] for p in map(path.params, range(13))]
    assert relative_error(np.reshape(found, (13, -1)), problem.theta(path.t)) < ERROR
    with pytest.raises(ValueError, match="W1 and W2 must be balanced"):
        flow.exact.balanced_linear(target, W1, 2 * W2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s": [1.0, 0.0]}, "s must be positive"),
        ({"u0": -0.1}, "u0 must be positive"),
        ({"layers": 0}, "layers must be a positive integer"),
        ({"s": []}, "s has 0 modes"),
        ({"u0": [0.1, 0.2]}, "s has 1 modes and u0 2"),
        ({"layers": 3, "t": [-1.0]}, "t must not be negative, got -1"),
    ],
)
def test_modes_refuse(changes: dict, message: str):
    """Assert that strengths that do not move, and no layers, are refused."""
    arguments = {"s": [1.0], "u0": 0.1, "t": 1.0} | changes
    t = arguments.pop("t")
    with pytest.raises(ValueError, match=message):
        flow.exact.linear_modes(**arguments)(t)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "binary_cross_entropy"])
def test_balancedness(bias: bool, loss: str):
    """Assert that W₂ᵀW₂ − W₁W₁ᵀ − b₁b₁ᵀ is kept, and moved by η²(…) in a GD step (truth 11)."""
    X, y = flow.datasets.digits(40)
    network = flow.MLP([64, 3, 4, 10], "identity", bias=bias)
    objective = network.objective(X, y, loss=loss, seed=1)

    def balance(params: list) -> list[np.ndarray]:
        return [
            up["W"].T @ up["W"] - low["W"] @ low["W"].T - (low["b"] @ low["b"].T if bias else 0.0)
            for low, up in pairwise(params)
        ]

    path = flow.integrate(objective, t=4.0, save=5, **TIGHT)
    for first, last in zip(balance(path.params(0)), balance(path.params(-1)), strict=True):
        np.testing.assert_allclose(last, first, rtol=0, atol=ERROR)
    drift = flow.audit(path).conserved
    assert sorted(drift) == ["balancedness 1-2", "balancedness 2-3"]
    assert max(drift.values()) < ERROR

    eta = 0.3
    step = flow.descend(objective, eta, steps=1, save=2)
    moved = np.subtract(*[balance(step.params(k))[0] for k in (1, 0)])
    G = objective.gradient(objective.params)
    expected = G[1]["W"].T @ G[1]["W"] - G[0]["W"] @ G[0]["W"].T
    expected -= G[0]["b"] @ G[0]["b"].T if bias else 0.0
    np.testing.assert_allclose(moved, eta**2 * expected, rtol=0, atol=1e-13)
    assert flow.audit(step, objective).conserved["balancedness 1-2"] == pytest.approx(
        np.linalg.norm(eta**2 * expected), rel=1e-9
    )


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.quick
def test_neuron_balance(activation: str):
    """Assert ‖w_in‖² + b² − ‖w_out‖² of each neuron, between kinks and across them (truth 13)."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    objective = flow.MLP([3, 6, 2], activation).objective(X, y, seed=3)

    def active(path: flow.Trajectory) -> np.ndarray:
        params = map(path.params, range(len(path.t)))
        return np.array([X @ p[0]["W"].T + p[0]["b"].T > 0 for p in params])

    with pytest.warns(flow.KinkWarning):
        path = flow.integrate(objective, t=0.01, save=5, **TIGHT)
    assert np.all(active(path) == active(path)[0])
    assert flow.audit(path).conserved["neuron balance 1-2"] < 1e-12
    drift = []
    for step in (0.04, 0.02, 0.01, 0.005):
        path = flow.integrate(objective, t=4.0, method="RK4", step=step, save=41)
        drift.append(flow.audit(path).conserved["neuron balance 1-2"])
    assert np.any(active(path) != active(path)[0])
    assert np.polyfit(np.log([8, 4, 2, 1]), np.log(drift), 1)[0] > 0.9
    assert drift[-1] < 1e-6


@pytest.mark.parametrize("method", ["DOP853", "Radau"])
@pytest.mark.quick
def test_exponential_and_logistic_loss(method: str):
    """Assert log(t + e^{w₀}), and c + t − W(e^{c+t}) where e^t overflows (truth 14)."""
    for problem, t in ((flow.exact.exponential(-1.0), 1e3), (flow.exact.logistic(-2.0), 2e3)):
        path = flow.integrate(problem.objective, t, method=method, spacing="log", save=20, **TIGHT)
        assert relative_error(path.theta, problem.theta(path.t)) < ERROR
    w = flow.exact.exponential(-1.0).theta(np.array([5.0]))
    assert w[0, 0] == pytest.approx(np.log(5.0 + np.exp(-1.0)), rel=1e-15)
    c = 0.3 + np.exp(0.3)
    t = np.array([0.0, 2.0, 30.0])
    lambert = c + t - scipy.special.lambertw(np.exp(c + t)).real
    np.testing.assert_allclose(flow.exact.logistic(0.3).theta(t)[:, 0], lambert, rtol=1e-12)


@pytest.mark.quick
def test_diagonal_network():
    """Assert w = u² − v² = 2α² sinh(−4∫Xᵀr) from u₀ = v₀ = α (truth 12)."""
    rng = np.random.default_rng(2)
    X, y, alpha = rng.standard_normal((3, 6)), rng.standard_normal(3), 0.3
    start = {"u": np.full(6, alpha), "v": np.full(6, alpha)}

    def residual(p):
        return X @ (p["u"] ** 2 - p["v"] ** 2) - y

    objective = flow.Objective(lambda p: 0.5 * (residual(p) ** 2).sum(), start)

    for engine, method in (("scipy", "DOP853"), ("jax", "Dopri8")):
        path = flow.integrate(
            objective,
            t=3.0,
            method=method,
            rtol=1e-12,
            atol=1e-14,
            engine=engine,
            save=7,
            progress=False,
        )
        w = np.array([path.params(i)["u"] ** 2 - path.params(i)["v"] ** 2 for i in range(7)])
        exact = 2 * alpha**2 * np.sinh(-4 * integral_of(path, X, residual))
        np.testing.assert_allclose(w, exact, atol=1e-9)


def integral_of(path: flow.Trajectory, X: np.ndarray, residual) -> np.ndarray:
    """∫Xᵀr dt to each saved time, by Gauss's rule on the run's own dense output."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    total, found = np.zeros(X.shape[1]), [np.zeros(X.shape[1])]
    for a, b in zip(path.t[:-1], path.t[1:], strict=True):
        t = (a + b) / 2 + (b - a) / 2 * nodes
        run = flow.integrate(
            path.dynamics, t=path.t[-1], rtol=1e-12, atol=1e-14, save=t, progress=False
        )
        values = np.array([X.T @ residual(run.params(i)) for i in range(len(t))])
        total = total + (b - a) / 2 * weights @ values
        found.append(total)
    return np.array(found)
