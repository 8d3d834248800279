"""Noise: covariances, laws of ensembles, weak order, seeds, and what noise forbids."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.integrate
from jax.flatten_util import ravel_pytree
from test_physics_experiments import run  # noqa: F401 - a fixture

import flow
from flow._core.precision import double_precision
from flow._run.integrate import rerun

integrate = partial(flow.integrate, progress=False)
# Seeds are fixed, so that a law in so many standard errors holds or not, but never by chance.
BARS = 3.0


def bowl(curvatures: list[float], start: float = 0.0, examples: int = 40) -> flow.Objective:
    """J = mean of ½Σλ(x − aᵢ)², whose minibatch noise is that of the data: σ² = λ²Var(a)/B."""
    data = noisy_data(len(curvatures), examples)
    values = np.array(curvatures)
    return flow.Objective(
        lambda x, a: 0.5 * (values * (x - a) ** 2).sum(axis=1).mean(),
        np.full(len(values), start),
        data,
    )


def noisy_data(n: int, examples: int = 40) -> np.ndarray:
    """The aᵢ of `bowl`."""
    return np.random.default_rng(0).standard_normal((examples, n))


def many(n: int, loss=lambda x: 0.5 * x**2, start: float = 0.0) -> flow.Objective:
    """A vector of n coordinates of one J: under additive noise as many independent paths in one."""
    return flow.Objective(lambda x: loss(x).sum(), np.full(n, start))


def least_squares() -> tuple[flow.Objective, np.ndarray]:
    """A linear model on 12 examples, and the gradients of each at θ₀ (12, 3)."""
    rng = np.random.default_rng(1)
    X, y, w = rng.standard_normal((12, 3)), rng.standard_normal(12), np.array([0.5, -1.0, 2.0])
    objective = flow.Objective(
        lambda w, batch: 0.5 * ((batch[0] @ w - batch[1]) ** 2).mean(), w, (X, y)
    )
    return objective, X * (X @ w - y)[:, None]


# ---- covariance of the noise


@pytest.mark.quick
def test_noise_is_that_of_a_minibatch():
    """Assert BBᵀ = η Cov(gᵢ)/B of a network, gᵢ by backprop on one example alone."""
    X, y = flow.datasets.digits(10)
    network = flow.MLP([64, 2, 10])
    objective = network.objective(X, y, loss="cross_entropy", seed=2)
    x, z = objective.data
    with double_precision():
        params = jax.tree.map(jnp.asarray, objective.params)
        gradients = np.array(
            [
                ravel_pytree(objective.traced_gradient(params, (x[i : i + 1], z[i : i + 1])))[0]
                for i in range(10)
            ]
        )
    for batch_size in (1, 4, 10):
        dynamics = flow.StochasticFlow(objective, 0.3, batch_size)
        with double_precision():
            apply, shape = dynamics.diffusion(0.0, dynamics.initial_state(), objective.data)
            B = np.array([ravel_pytree(apply(xi))[0] for xi in np.eye(*2 * shape)]).T
        expected = 0.3 * np.cov(gradients.T, bias=True) / batch_size
        np.testing.assert_allclose(B @ B.T, expected, rtol=0, atol=1e-13 * expected.max())


def test_one_step_has_that_covariance():
    """Assert mean −h∇J and covariance ηhΣ of one step of Euler–Maruyama's method."""
    objective, gradients = least_squares()
    P, rate, h = 2000, 0.2, 0.01
    dynamics = flow.StochasticFlow(objective, rate, batch_size=3)
    paths = integrate(dynamics, h, step=h, paths=P, save=[h])
    assert paths.stats["steps"] == [1] * P
    moved = paths.theta[:, 0] - objective.theta
    S = rate * h * np.cov(gradients.T, bias=True) / 3
    mean_bar = np.sqrt(np.diag(S) / P)
    assert np.all(np.abs(moved.mean(0) + h * gradients.mean(0)) < BARS * mean_bar)
    bar = np.sqrt((np.outer(np.diag(S), np.diag(S)) + S**2) / P)
    assert np.all(np.abs(np.cov(moved.T) - S) < BARS * bar)


# ---- laws


@pytest.mark.quick
def test_stationary_variance():
    """Assert ησ²/2λ of the SDE, ησ²/(λ(2−ηλ)) of SGD, and what epochs leave of it (truth 6)."""
    rate, batch, P, N = 0.5, 4, 800, 40
    objective = bowl([1.0, 0.5])
    dynamics = flow.StochasticFlow(objective, rate, batch)
    curvature, spread = np.array([1.0, 0.5]), np.var(noisy_data(2), axis=0)
    sigma2 = curvature**2 * spread / batch
    bar = np.sqrt(2.0 / (P - 1))
    # Of so long a time e^{−2λt} is left, 2e-4 at most; the step is 1 % of the variance.
    paths = integrate(dynamics, 9.0, paths=P, step=0.02, save=[9.0])
    ratio = paths.theta[:, -1].var(axis=0, ddof=1) / (rate * sigma2 / (2 * curvature))
    assert np.all(np.abs(ratio - 1) < BARS * bar)
    sgd = {"batch_size": batch, "seed": list(range(P)), "progress": False}
    steps = flow.descend(objective, rate, 60, save=[0.0, 10.0, 30.0], **sgd)
    theta, losses = steps.theta, steps.loss
    ratio = theta[:, -1].var(axis=0, ddof=1) / (
        rate * sigma2 / (curvature * (2 - rate * curvature))
    )
    assert np.all(np.abs(ratio - 1) < BARS * bar)
    assert losses[5, 2] == pytest.approx(objective.value(theta[5, 2]), rel=1e-12)
    np.testing.assert_array_equal(theta[:, 0], np.zeros((P, 2)))
    # Without replacement Cov(ā_k, ā_l) = S²(δ/B − 1/N), at the ends of epochs.
    runs = flow.descend(objective, rate, 60, sampling="epoch", save=[30.0], **sgd)
    shuffled = runs.theta[:, -1]
    kept = 1 - rate * curvature
    powers = kept ** np.arange(N // batch)[:, None]
    noise = (powers**2).sum(0) / batch - powers.sum(0) ** 2 / N
    law = (rate * curvature) ** 2 * spread * N / (N - 1) * noise / (1 - kept ** (2 * N // batch))
    assert np.all(np.abs(shuffled.var(axis=0, ddof=1) / law - 1) < BARS * bar)
    assert np.all(law < np.array([1.0, 0.5]) * rate * sigma2 / (2 * curvature))


def test_sgd_of_all_the_data_is_gradient_descent():
    """Assert it, whatever the order that the examples are in."""
    objective = bowl([1.0, 0.5], start=2.0)
    steps = {"steps": 7, "save": 8, "progress": False}
    many = flow.descend(objective, 0.3, batch_size=40, sampling="epoch", seed=[0, 1], **steps)
    one = flow.descend(objective, 0.3, **steps)
    for member in many.theta:
        np.testing.assert_allclose(member, one.theta, rtol=1e-13)


@pytest.mark.quick
def test_ornstein_uhlenbeck():
    """Assert mean x₀e^{−t} and Cov(x_s, x_t) = τ(e^{−|t−s|} − e^{−(t+s)}) of J = ½x²."""
    n, tau, times = 20_000, 0.7, np.array([0.5, 1.0, 2.0])
    path = integrate(flow.LangevinFlow(many(n, start=1.5), tau), 2.0, step=0.02, save=times)
    law = tau * (
        np.exp(-np.abs(np.subtract.outer(times, times))) - np.exp(-np.add.outer(times, times))
    )
    deviation = path.theta.mean(axis=1) - 1.5 * np.exp(-times)
    assert np.all(np.abs(deviation) < BARS * np.sqrt(np.diag(law) / n))
    bar = np.sqrt((np.outer(np.diag(law), np.diag(law)) + law**2) / n)
    assert np.all(np.abs(np.cov(path.theta) - law) < BARS * bar)


def test_langevin_samples_a_double_well():
    """Assert the moments of e^{−J/τ}, J = ¼(x² − 1)² + ⅕x, against numerical quadrature."""
    n, tau = 20_000, 0.5

    def well(x):
        return 0.25 * (x**2 - 1.0) ** 2 + 0.2 * x

    path = integrate(flow.LangevinFlow(many(n, well), tau), 20.0, step=0.05, save=[20.0])
    weigh = lambda f: scipy.integrate.quad(lambda x: f(x) * np.exp(-well(x) / tau), -6, 6)[0]  # noqa: E731
    x = path.theta[-1]
    for k in (1, 2, 3, 4):
        moment = weigh(lambda x, k=k: x**k) / weigh(np.ones_like)
        assert abs((x**k).mean() - moment) < BARS * (x**k).std() / np.sqrt(n)


def test_noisy_descent_is_the_counterpart():
    """Assert the variance τ/(λ(1 − ηλ/2)) that noisy gradient descent tends to."""
    n, tau, rate = 20_000, 0.7, 0.5
    dynamics = flow.LangevinFlow(many(n), tau)
    optimizer, time_step = dynamics.counterpart(rate)
    steps = flow.descend(
        dynamics.objective,
        optimizer=optimizer,
        time_step=time_step,
        steps=30,
        save=2,
        progress=False,
    )
    assert time_step == rate
    ratio = steps.theta[-1].var() / (tau / (1 - rate / 2))
    assert abs(ratio - 1) < BARS * np.sqrt(2 / n)


def test_noise_is_ito_s():
    """Assert E x = x₀e^{−āt} of J = mean of ½aᵢx²; Stratonovich's would be e^{(−ā+ηv/2B)t}."""
    a = np.array([-1.0, 1.0, 3.0])
    objective = flow.Objective(lambda x, a: (0.5 * a * x[0] ** 2).mean(), np.ones(1), a)
    rate, P, t = 0.3, 1000, 1.0
    dynamics = flow.StochasticFlow(objective, rate, batch_size=1)
    x = integrate(dynamics, t, step=0.02, paths=P, save=[t]).theta[:, 0, 0]
    bar = x.std() / np.sqrt(P)
    assert abs(x.mean() - (1 - 0.02 * a.mean()) ** 50) < BARS * bar  # that of the method itself
    assert abs(x.mean() - np.exp((-a.mean() + rate * a.var() / 2) * t)) > 3 * BARS * bar
    second = np.exp((-2 * a.mean() + rate * a.var()) * t)
    assert abs((x**2).mean() - second) < BARS * (x**2).std() / np.sqrt(P) + 0.02 * second
    with pytest.raises(ValueError, match="depends on θ; it is Itô's"):
        integrate(dynamics, t, method="Heun")


def test_weak_order_is_one():
    """Assert |E J − E J| of a quadratic within its bars of the closed form, and slope 1."""
    objective, batch, t = bowl([1.0, 0.25], start=5.0), 4, 1.0
    dynamics = flow.StochasticFlow(objective, 0.2, batch)
    study = flow.order_study(dynamics, t, [0.2, 0.1], paths=400, progress=False)
    curvature, centre = np.array([1.0, 0.25]), np.mean(noisy_data(2), axis=0)
    sigma2 = curvature**2 * np.var(noisy_data(2), axis=0) / batch

    def energy(h: float, eta: float) -> float:
        """E J − J(x*) after steps h of x ← x − h∇J + √(ηh)σξ: Euler–Maruyama's, SGD's at h = η."""
        kept, k = (1 - h * curvature) ** 2, round(t / h)
        variance = eta * h * sigma2 * (1 - kept**k) / (1 - kept)
        return 0.5 * curvature @ (kept**k * (5.0 - centre) ** 2 + variance)

    for eta, distance, bar in zip(
        study.learning_rates, study.distance, study.standard_error, strict=True
    ):
        assert abs(distance - abs(energy(eta, eta) - energy(eta / 16, eta))) < BARS * bar
        assert bar < 0.1 * distance
    assert study.slope == pytest.approx(1.0, abs=0.1)
    assert study.one_step_slope is None
    assert list(study.table().columns) == ["distance", "slope", "standard error"]


# ---- paths


@pytest.fixture(scope="module")
def sde() -> flow.StochasticFlow:
    """SGD on a quadratic."""
    return flow.StochasticFlow(bowl([1.0, 0.5], start=1.0), 0.2, batch_size=4)


def test_a_seed_is_a_path(sde: flow.StochasticFlow):
    """Assert one path whatever is saved, others by another seed or number, `member` among them."""
    follow = partial(integrate, sde, 1.0, step=0.03)
    paths = follow(paths=3, seed=4, save=11)
    assert paths.members == 3
    alone = follow(seed=4, save=[0.5, 1.0])  # at 0.51, the step that is nearest, and at the end
    np.testing.assert_allclose(alone.t, [0.51, 1.0], rtol=1e-14)
    first = paths.member(0)
    np.testing.assert_allclose(first.theta[np.isin(first.t, alone.t)], alone.theta, rtol=1e-13)
    np.testing.assert_array_equal(first.theta, paths.theta[0])
    ends = [*paths.theta[:, -1, 0], follow(seed=5, save=2).theta[-1, 0]]
    assert len(set(ends)) == 4
    starts = np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, 3.0]])
    ensemble = follow(ensemble=starts, seed=4, save=11)
    np.testing.assert_allclose(ensemble.theta[:2], paths.theta[:2], rtol=1e-13)
    np.testing.assert_array_equal(ensemble.theta[:, 0], starts)


def test_default_step(sde: flow.StochasticFlow):
    """Assert 0.02/λ_max(θ₀), and that none is made up where there is no curvature to go by."""
    assert integrate(sde, 0.1, save=2).config["step"] == pytest.approx(0.02, rel=1e-8)
    flat = flow.Objective(lambda x: x.sum(), np.zeros(2))
    with pytest.raises(ValueError, match="the sharpness at the initial parameters is 0"):
        integrate(flow.LangevinFlow(flat, 1.0), 1.0)
    assert integrate(flow.LangevinFlow(flat, 1.0), 1.0, step=0.5).stats["steps"] == 2


def test_ensembles_are_saved(sde: flow.StochasticFlow, tmp_path: Path):
    """Assert all of it, and that what is loaded knows that noise moved it."""
    paths = integrate(sde, 1.0, step=0.1, paths=3, save=5)
    again = flow.load(paths.save(tmp_path / "paths.nc"))
    for name in ("t", "theta", "loss", "gradient_norm"):
        np.testing.assert_array_equal(getattr(again, name), getattr(paths, name))
    assert again.config["constants"] == {"learning_rate": 0.2, "batch_size": 4}
    assert again.config["seed"] == 0
    assert again.noisy
    assert again.member(2).noisy


def test_noise_has_no_error_bar(sde: flow.StochasticFlow, tmp_path: Path):
    """Assert that no other path is taken for a more accurate one, by compare or audit."""
    path = integrate(sde, 1.0, step=0.1, save=11)
    steps = flow.descend(sde.objective, 0.2, steps=5, save=6, batch_size=4, progress=False)
    loaded = flow.load(path.save(tmp_path / "path.nc"))
    for reference in (path, loaded):
        comparison = flow.compare(reference, steps, progress=False)
        np.testing.assert_allclose(comparison.t, steps.t, rtol=1e-14)
        expected = np.linalg.norm(steps.theta - path.theta[::2], axis=1)
        np.testing.assert_allclose(comparison.distance, expected, rtol=1e-13)
        assert np.all(np.isnan(comparison.error_bar))
        rows = np.linalg.norm(steps.theta[:, None] - path.theta, axis=2).min(axis=1)
        np.testing.assert_allclose(comparison.nearest_distance, rows, rtol=1e-13)
    # Only at times that both have.
    odd = flow.descend(sde.objective, 0.25, steps=4, save=5, progress=False)
    np.testing.assert_allclose(flow.compare(path, odd, progress=False).t, [0, 0.5, 1.0])
    late = integrate(sde, 1.0, step=0.1, save=[0.7])
    with pytest.raises(ValueError, match="can't be repeated here, and .* share no saved time"):
        flow.compare(late, steps, progress=False)
    with pytest.raises(ValueError, match="is a path of noise, which can't be repeated"):
        rerun(path, np.array([0.55]), progress=False)
    report = flow.audit(path, error_bar=True, progress=False)
    assert np.isnan(report.energy_residual)
    assert np.all(np.isnan(report.error_bar))
    assert report.largest_rise > 0
    # As what is compared with a flow, whose error is known.
    pair = flow.compare(integrate(sde.objective, 1.0), path, progress=False)
    assert np.all(pair.error_bar < 1e-6)


def test_noise_conserves_nothing():
    """Assert that what gradient flow conserves is not asked of a path of noise."""
    X, y = flow.datasets.digits(10)
    objective = flow.MLP([64, 2, 10], "identity").objective(X, y)
    assert list(objective.conserved)
    path = integrate(flow.StochasticFlow(objective, 0.1, 2), 0.1, step=0.05, save=2)
    assert flow.audit(path).conserved == {}


# ---- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: flow.StochasticFlow(o, 0.1, 41), "batch_size 41 is larger than the 40 examples"),
        (lambda o: flow.StochasticFlow(o, 0.1, 0), "batch_size must be a positive integer, got 0"),
        (lambda o: flow.StochasticFlow(o, 0.0, 4), "learning_rate must be positive"),
        (lambda o: flow.StochasticFlow(o, -0.1, 4), "learning_rate must be positive"),
        (lambda o: flow.StochasticFlow(many(2), 0.1, 4), "needs examples: flow.Objective"),
        (lambda o: flow.LangevinFlow(o, -1.0), "temperature must be finite and not negative"),
    ],
)
@pytest.mark.quick
def test_dynamics_refuse(make, message: str):
    """Assert a sentence that names the argument and the value."""
    with pytest.raises(ValueError, match=message):
        make(bowl([1.0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": 0}, "paths must be a positive integer, got 0"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"seed": 2**32}, "seed must be an integer from 0"),
        ({"seed": 0.5}, "seed must be an integer from 0"),
        ({"method": "DOP853"}, "has noise, which method 'DOP853' knows nothing of"),
        ({"method": "Euler", "step": 0.1}, "has noise, which method 'Euler' knows nothing of"),
        ({"engine": "scipy"}, "has noise, which engine='scipy' has not; use 'jax'"),
        ({"step": -0.1}, "step must be positive"),
        ({"paths": 2, "ensemble": np.zeros((2, 2))}, "paths=2 is for a dynamics with noise"),
    ],
)
def test_integrate_refuses(sde: flow.StochasticFlow, settings: dict, message: str):
    """Assert a sentence that names the argument and the value."""
    with pytest.raises(ValueError, match=message):
        integrate(sde, 1.0, **settings)


def test_noise_is_of_noisy_dynamics_only(sde: flow.StochasticFlow):
    """Assert that paths and methods of noise are refused where there is none."""
    with pytest.raises(ValueError, match="paths=3 is for a dynamics with noise"):
        integrate(sde.objective, 1.0, paths=3)
    with pytest.raises(ValueError, match="is for noise, and gradient flow has none"):
        integrate(sde.objective, 1.0, method="EulerMaruyama", step=0.1, engine="jax")
    with pytest.raises(TypeError, match="a weak order is measured of flow.StochasticFlow"):
        flow.order_study(flow.LangevinFlow(sde.objective, 1.0), 1.0, [0.2, 0.1])


def test_a_diverging_ensemble_has_no_mean():
    """Assert that a weak order is not made of the paths that are left."""
    objective = flow.Objective(
        lambda x, a: ((x[0] - a) ** 4).mean(), np.array([30.0]), np.linspace(-1, 1, 5)
    )
    with pytest.raises(ValueError, match="paths diverge before t = 1"):
        flow.order_study(
            flow.StochasticFlow(objective, 0.1, 2), 1.0, [0.5, 0.25], paths=4, progress=False
        )


# ---- the experiment


def test_stochastic_experiment(run):  # noqa: F811
    """Assert both ensembles' laws, order one, and the networks' small gap at small η."""
    sizes = ("--examples", "20", "--batch-size", "4", "--paths", "200", "--save", "5", "--t", "4")
    rates = ("--learning-rates", "0.5", "--order-rates", "0.2", "0.1", "--network-rates", "0.1")
    network = ("--t-network", "1", "--network-paths", "30", "--hidden", "2")
    folder = run("stochastic", *sizes, *rates, *network)
    table = pd.read_csv(folder / "quadratic.csv", index_col=["η", "λ", "ensemble"])
    assert np.all(table[["mean off by, at most", "covariance off by, at most"]] < 4)
    law = table["closed form"]
    assert law[0.5, 1.0, "SGD"] / law[0.5, 1.0, "SDE"] == pytest.approx(1 / 0.75, rel=1e-3)
    assert law[0.5, 0.25, "epochs"] < 0.3 * law[0.5, 0.25, "SDE"]
    order = pd.read_csv(folder / "order.csv")
    assert np.log2(order["distance"][0] / order["distance"][1]) == pytest.approx(1, abs=0.3)
    gaps = pd.read_csv(folder / "network.csv")
    assert np.all(np.abs(gaps["largest gap"]) < 0.1 * gaps["E J, SDE"])
    assert flow.load(folder / "quadratic-0.5.nc").noisy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", "7"), "--batch-size 7 does not divide --examples 60"),
        (("--learning-rates", "2.5"), "--learning-rates 2.5 is beyond the limit of stability, 2"),
        (("--paths", "0"), "--paths must be a positive integer"),
    ],
)
def test_stochastic_refusals(refused_here: Callable, arguments: tuple, message: str):
    """Assert a sentence for what makes no sense."""
    assert message in refused_here("stochastic", *arguments)
