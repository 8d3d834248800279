"""Heavy ball and Nesterov's ODE: closed forms, clocks, energies, and velocity Verlet."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import j1

import flow

TIGHT = {"rtol": 1e-11, "atol": 1e-13, "progress": False}
LAMBDA = np.array([1.0, 6.0, 20.0])
X0 = np.array([1.0, -2.0, 0.5])


@pytest.fixture(scope="module")
def quadratic() -> flow.Objective:
    return flow.Objective(lambda x: 0.5 * jnp.sum(LAMBDA * x**2), X0)


@pytest.fixture(scope="module")
def network() -> flow.Objective:
    X, y = flow.datasets.digits(40)
    return flow.MLP([64, 4, 10]).objective(X, y, seed=0)


@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.quick
def test_damped_oscillation(quadratic: flow.Objective, engine: str):
    """Assert e^{−γt/2}(cos ωt + (γ/2ω) sin ωt), and its velocity (truth 4)."""
    gamma = 0.8
    path = flow.integrate(flow.HeavyBall(quadratic, gamma), t=5.0, engine=engine, **TIGHT)
    t, omega = path.t[:, None], np.sqrt(LAMBDA - gamma**2 / 4)
    fading = np.exp(-gamma * t / 2)
    exact = X0 * fading * (np.cos(omega * t) + gamma / (2 * omega) * np.sin(omega * t))
    np.testing.assert_allclose(path.theta, exact, atol=1e-9)
    velocity = -X0 * fading * (omega + gamma**2 / (4 * omega)) * np.sin(omega * t)
    np.testing.assert_allclose(path.state["velocity"], velocity, atol=1e-8)


@pytest.mark.parametrize("engine", ["scipy", "jax"])
@pytest.mark.quick
def test_nesterovs_bessel_function(quadratic: flow.Objective, engine: str):
    """Assert 2x₀J₁(√λ t)/(√λ t), and J − J* ≤ 2‖x₀‖²/t² (truth 5)."""
    path = flow.integrate(
        flow.Nesterov(quadratic), t=20.0, save=np.linspace(0.1, 20.0, 100), engine=engine, **TIGHT
    )
    z = np.sqrt(LAMBDA) * path.t[:, None]
    np.testing.assert_allclose(path.theta, 2 * X0 * j1(z) / z, atol=1e-9)
    assert np.all(path.loss <= 2 * (X0 @ X0) / path.t**2)


def test_other_frictions_of_nesterov():
    """Assert r = 1, where the solution of ẍ + ẋ/t + λx = 0 is x₀J₀(√λ t), and r = 0, cos √λ t."""
    from scipy.special import j0

    objective = flow.Objective(lambda x: 2.0 * jnp.sum(x**2), np.ones(1))
    path = flow.integrate(flow.Nesterov(objective, r=1), t=5.0, **TIGHT)
    np.testing.assert_allclose(path.theta[:, 0], j0(2 * path.t), atol=1e-9)
    path = flow.integrate(flow.Nesterov(objective, r=0), t=5.0, **TIGHT)
    np.testing.assert_allclose(path.theta[:, 0], np.cos(2 * path.t), atol=1e-9)


@pytest.mark.parametrize("friction", [0.0, 0.5, 4.0])
@pytest.mark.quick
def test_energy_falls_by_friction(network: flow.Objective, friction: float):
    """Assert H₀ − H_T = ∫γ‖θ̇‖² dt by the integral inside the steps."""
    path = flow.integrate(
        flow.HeavyBall(network, friction), t=5.0, rtol=1e-9, atol=1e-12, progress=False
    )
    assert abs(flow.audit(path).energy_residual) < 1e-7
    H = 0.5 * (path.state["velocity"] ** 2).sum(axis=1) + path.loss
    np.testing.assert_allclose(path.state["energy"], H, rtol=1e-12)


@pytest.mark.parametrize("friction", [0.0, 1.0])
@pytest.mark.quick
def test_order_on_its_own_clock(network: flow.Objective, friction: float):
    """Assert order ½ in η of momentum 1 − γ√η at t = k√η, and none on the clock t = ηk/(1 − β)."""
    dynamics, rates = flow.HeavyBall(network, friction), [1e-3, 2.5e-4, 6.25e-5]
    study = flow.order_study(dynamics, t=1.0, learning_rates=rates, progress=False)
    assert study.slope == pytest.approx(0.5, abs=0.05)
    assert study.one_step_slope == pytest.approx(1.0, abs=0.05)


def test_order_of_nesterov(network: flow.Objective):
    rates = [1e-3, 2.5e-4, 6.25e-5]
    study = flow.order_study(flow.Nesterov(network), t=1.0, learning_rates=rates, progress=False)
    assert study.slope == pytest.approx(0.5, abs=0.05)


def test_nesterovs_method_by_hand(quadratic: flow.Objective):
    """Assert the optimizer against x_{k+1} = y_k − η∇J(y_k), y = x + k/(k+3)(x − x_before)."""
    eta = 0.01
    optimizer, time_step = flow.Nesterov(quadratic).counterpart(eta)
    assert time_step == pytest.approx(0.1)
    steps = flow.descend(
        quadratic, optimizer=optimizer, time_step=time_step, steps=30, save=31, progress=False
    )
    x = y = X0
    for k in range(30):
        moved = y - eta * LAMBDA * y
        x, y = moved, moved + k / (k + 3) * (moved - x)
        np.testing.assert_allclose(steps.theta[k + 1], y, atol=1e-13)


@pytest.mark.parametrize(
    ("optimizer", "limit"),
    [
        (lambda eta: optax.sgd(eta, momentum=0.9), 2 + 2 * 0.9),
        (lambda eta: optax.sgd(eta, momentum=0.9, nesterov=True), (2 + 2 * 0.9) / (1 + 2 * 0.9)),
        # Adam where its second moment has come to rest, on the Hessian that it preconditions.
        (lambda eta: optax.chain(optax.ema(0.9, debias=False), optax.scale(-eta)), 38.0),
    ],
)
@pytest.mark.quick
def test_stability_limits(optimizer, limit: float):
    """Assert (2+2β)/η of momentum, (2+2β)/(η(1+2β)) of Nesterov's, 38/η of Adam's (truth 2)."""
    eta = 0.1
    for share, stays in ((0.99, True), (1.01, False)):
        rate = share * limit / eta
        objective = flow.Objective(lambda x, r=rate: 0.5 * r * jnp.sum(x**2), np.ones(1))
        steps = flow.descend(
            objective, optimizer=optimizer(eta), time_step=eta, steps=4000, save=2, progress=False
        )
        assert (abs(steps.theta[-1, 0]) < 1.0) == stays


# ---- velocity Verlet


@pytest.mark.parametrize("engine", ["scipy", "jax"])
def test_verlet_is_of_second_order(network: flow.Objective, engine: str):
    """Assert that halving the step quarters the error of θ and the band of the energy."""
    ball = flow.HeavyBall(network, friction=0.0)
    exact = flow.integrate(ball, t=2.0, save=[2.0], **TIGHT).theta[-1]
    errors, bands = [], []
    for step in (0.02, 0.01):
        path = flow.integrate(
            ball, t=2.0, method="Verlet", step=step, engine=engine, save=101, progress=False
        )
        errors.append(np.linalg.norm(path.theta[-1] - exact))
        H = path.state["energy"]
        bands.append(np.abs(H / H[0] - 1).max())
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)
    assert bands[0] / bands[1] == pytest.approx(4.0, rel=0.1)


@pytest.mark.quick
def test_no_drift_over_ten_thousand_periods(quadratic: flow.Objective):
    """Assert that H stays in its band over 10⁴ periods of the fastest mode."""
    period = 2 * np.pi / np.sqrt(LAMBDA.max())
    path = flow.integrate(
        flow.HeavyBall(quadratic, friction=0.0), t=10_000 * period, method="Verlet",
        step=period / 25, engine="jax", save=3001, progress=False,
    )  # fmt: skip
    H = path.state["energy"] / path.state["energy"][0] - 1
    early, late = H[:300], H[-300:]
    assert np.abs(H).max() < 0.02
    assert late.max() - late.min() == pytest.approx(early.max() - early.min(), rel=0.05)
    assert abs(late.mean() - early.mean()) < 0.05 * np.abs(H).max()
    assert path.stats["gradients"] <= 250_000 + 3002


def test_verlet_returns():
    """Assert that it is reversible: with the velocity turned it comes back, to rounding."""
    from flow.methods.fixed import Step, verlet
    from flow.methods.loop_state import Problem

    def rhs(_: float, y: jnp.ndarray) -> tuple:
        return jnp.concatenate([y[2:], -(y[:2] ** 3) - y[1::-1]]), jnp.zeros(2)

    problem = Problem(rhs, lambda derivatives: jnp.zeros(len(derivatives)))

    @jax.jit
    def along(y: jnp.ndarray) -> jnp.ndarray:
        def step(_: int, y: jnp.ndarray) -> jnp.ndarray:
            return verlet(problem, Step(0.0, 0.05, y, rhs(0.0, y)[0], None)).y

        return jax.lax.fori_loop(0, 150, step, y)

    with jax.enable_x64(True):
        start = jnp.array([1.0, -0.5, 0.3, 0.2])
        turn = jnp.array([1.0, 1.0, -1.0, -1.0])
        there = along(start)
        back = along(turn * there)
    assert np.linalg.norm(there - start) > 0.1
    np.testing.assert_allclose(turn * back, start, atol=1e-12)


def test_fixed_steps_by_hand(network: flow.Objective):
    """Assert that "Euler", "RK4" and "Verlet" take the steps of a loop of numpy's."""
    h, n, size = 0.02, 50, network.size

    def slope(theta: np.ndarray) -> np.ndarray:
        return -network.flat_value_and_gradient(theta)[1]

    def ball(y: np.ndarray, friction: float) -> np.ndarray:
        return np.concatenate([y[size:], slope(y[:size]) - friction * y[size:]])

    def rk4(y: np.ndarray) -> np.ndarray:
        one = ball(y, 0.5)
        two = ball(y + h / 2 * one, 0.5)
        three = ball(y + h / 2 * two, 0.5)
        return y + h / 6 * (one + 2 * two + 2 * three + ball(y + h * three, 0.5))

    def verlet(y: np.ndarray) -> np.ndarray:
        half = y[size:] + h / 2 * slope(y[:size])
        theta = y[:size] + h * half
        return np.concatenate([theta, half + h / 2 * slope(theta)])

    rest = np.concatenate([network.theta, np.zeros(size)])
    for method, dynamics, step, y in (
        ("Euler", flow.GradientFlow(network), lambda y: y + h * slope(y), network.theta),
        ("RK4", flow.HeavyBall(network, friction=0.5), rk4, rest),
        ("Verlet", flow.HeavyBall(network, friction=0.0), verlet, rest),
    ):
        for _ in range(n):
            y = step(y)  # noqa: PLW2901
        path = flow.integrate(dynamics, n * h, method=method, step=h, save=2, progress=False)
        np.testing.assert_allclose(path.theta[-1], y[:size], atol=1e-12)
        assert path.stats["steps"] == n


def test_save_and_load(quadratic: flow.Objective, tmp_path):
    path = flow.integrate(flow.HeavyBall(quadratic, friction=0.5), t=1.0, save=5, progress=False)
    loaded = flow.load(path.save(tmp_path / "run.nc"))
    np.testing.assert_array_equal(loaded.state["velocity"], path.state["velocity"])
    assert loaded.config["constants"] == {"friction": 0.5}
    again = flow.audit(loaded, flow.HeavyBall(quadratic, friction=0.5), error_bar=True)
    assert again.error_bar.max() < 1e-4


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda o: flow.HeavyBall(o, friction=-1.0), "friction must be finite and not negative"),
        (lambda o: flow.HeavyBall(o, friction=float("nan")), "friction must be finite"),
        (lambda o: flow.Nesterov(o, r=-1), "r must be finite and not negative"),
        (lambda o: flow.HeavyBall(o, 10.0).counterpart(0.04), "makes the momentum"),
        (
            lambda o: flow.integrate(flow.HeavyBall(o, 0.5), 1.0, method="Verlet", step=0.1),
            "Hamiltonian motion",
        ),
        (lambda o: flow.integrate(o, 1.0, method="Verlet", step=0.1), "Hamiltonian motion"),
        (
            lambda o: flow.integrate(flow.HeavyBall(o, 0.0), 1.0, method="Verlet"),
            "needs step=",
        ),
        (
            lambda o: flow.integrate(flow.HeavyBall(o, 0.0), 1.0, method="TSRKC3"),
            "amplifies oscillations",
        ),
    ],
)
def test_refused(quadratic: flow.Objective, run, message: str):
    with pytest.raises(ValueError, match=message):
        run(quadratic)


@pytest.mark.quick
def test_a_dynamics_of_ones_own(quadratic: flow.Objective, tmp_path):
    """Assert that five lines of a user's own are the family, and save, load and compare."""

    def rhs(_, state):
        theta, velocity = state
        gradient = quadratic.traced_gradient(theta, None)
        return velocity, -0.5 * velocity - gradient

    own = flow.Dynamics(rhs, (X0, np.zeros(3)), lambda state: state[0], quadratic)
    path = flow.integrate(own, t=2.0, save=11, progress=False)
    family = flow.integrate(flow.HeavyBall(quadratic, 0.5), t=2.0, save=11, progress=False)
    np.testing.assert_allclose(path.theta, family.theta, atol=1e-12)
    np.testing.assert_array_equal(flow.load(path.save(tmp_path / "own.nc")).theta, path.theta)
    assert flow.compare(family, path, error_bar=False).distance.max() < 1e-12
    with pytest.raises(ValueError, match="has one state"):
        flow.integrate(own, t=1.0, engine="jax", ensemble=np.ones((2, 3)))


@pytest.mark.parametrize(
    ("rhs", "state", "error", "message"),
    [
        (lambda t, s: s[:1], np.ones(2), ValueError, r"of shapes \(2,\); got \(1,\)"),
        (lambda t, s: (s, s), np.ones(2), ValueError, "made like the state"),
        (lambda t, s: s, {"a": 1}, TypeError, r"state\['a'\] must be a floating-point array"),
        (lambda s: s, np.ones(2), TypeError, "positional argument"),
    ],
)
def test_a_wrong_dynamics_of_ones_own(rhs, state, error: type, message: str):
    with pytest.raises(error, match=message):
        flow.Dynamics(rhs, state)
