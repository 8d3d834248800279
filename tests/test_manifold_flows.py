"""Flows of orthogonal weights, and of weights whose length has no say."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import flow

TIGHT = {"rtol": 1e-10, "atol": 1e-13, "progress": False}
COMPILED = {"engine": "jax", "method": "Tsit5", **TIGHT}
ENGINES = [{}, {"engine": "jax", "method": "Dopri8"}]
HIDDEN = ["[0]['W']", "[1]['W']"]

rng = np.random.default_rng(7)
A = rng.standard_normal((5, 5))
C = A @ A.T / 5 + np.diag(np.arange(5.0))
M = 2.5


def trace_loss(W: jax.Array) -> jax.Array:
    """−½ tr(WCWᵀ)."""
    return -0.5 * jnp.sum((W @ C) * W)


def frame(n: int, p: int, m: float, seed: int = 0) -> np.ndarray:
    """W (n, p) with WWᵀ = mI."""
    return (
        np.sqrt(m)
        * scipy.linalg.qr(np.random.default_rng(seed).standard_normal((p, n)), mode="economic")[0].T
    )


@pytest.fixture(scope="module")
def oja() -> flow.StiefelFlow:
    """J = −½ tr(WCWᵀ) of W (2, 5) with WWᵀ = 2.5 I."""
    return flow.StiefelFlow(flow.Objective(trace_loss, frame(2, 5, M)))


@pytest.fixture(scope="module")
def network() -> flow.Objective:
    """Biases, two hidden layers whose weights are orthogonal, and free ones above."""
    objective = flow.MLP([64, 6, 4, 10]).objective(*flow.datasets.digits(60), seed=1)
    return flow.dynamics.orthogonal(objective, HIDDEN)


@pytest.fixture(scope="module")
def scale_free() -> flow.ScaleFreeFlow:
    """The same network, the first two layers' weights divided by their norms."""
    objective = flow.MLP([64, 6, 4, 10]).objective(*flow.datasets.digits(60), seed=1)
    return flow.ScaleFreeFlow(objective, HIDDEN)


@pytest.fixture(scope="module")
def rayleigh() -> flow.ScaleFreeFlow:
    """J = −½ wᵀCw/‖w‖²."""
    w0 = np.array([1.0, -0.5, 0.3, 0.2, 0.4])
    return flow.ScaleFreeFlow(flow.Objective(lambda w: -0.5 * w @ C @ w, w0))


def projector(t: float) -> np.ndarray:
    """Onto the rows of W₀e^{Ct} (Yan, Helmke & Moore 1994); W itself is free to turn."""
    V = frame(2, 5, M) @ scipy.linalg.expm(C * t)
    return V.T @ np.linalg.solve(V @ V.T, V)


# ---- Stiefel


@pytest.mark.parametrize("options", ENGINES)
@pytest.mark.quick
def test_rayleigh_quotient_flow(options: dict):
    """Assert w(t) ∝ e^{Ct}w₀ for one row."""
    w0 = frame(1, 5, 1.0)
    dynamics = flow.StiefelFlow(flow.Objective(trace_loss, w0))
    path = flow.integrate(dynamics, t=4.0, save=9, **TIGHT, **options)
    grown = np.array([scipy.linalg.expm(C * t) @ w0[0] for t in path.t])
    expected = grown / np.linalg.norm(grown, axis=1, keepdims=True)
    np.testing.assert_allclose(path.theta, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("method", "error", "options"),
    [
        ("RK23", 1e-7, {"rtol": 1e-8}),
        ("RK45", 1e-8, {}),
        ("DOP853", 1e-8, {}),
        ("Radau", 1e-8, {}),
        ("BDF", 1e-8, {}),
        ("LSODA", 1e-8, {}),
        ("auto", 1e-8, {}),
        ("TSRKC3", 1e-6, {"rtol": 1e-7}),
        ("RKC2", 1e-6, {"rtol": 1e-7, "engine": "jax"}),
        ("Euler", 5e-3, {"step": 0.02}),
        ("RK4", 1e-6, {"step": 0.02}),
    ],
)
def test_every_method_follows_the_subspace_on_the_manifold(
    oja: flow.StiefelFlow, method: str, error: float, options: dict
):
    """Assert the projector onto the rows in closed form, and WWᵀ = mI to 1e-10, at each time."""
    tolerances = {"progress": False} if "step" in options else TIGHT
    path = flow.integrate(oja, t=1.5, method=method, save=7, **tolerances | options)
    for i, t in enumerate(path.t):
        W = path.params(i)
        np.testing.assert_allclose(W @ W.T, M * np.eye(2), rtol=0, atol=1e-10)
        np.testing.assert_allclose(W.T @ W / M, projector(t), rtol=0, atol=error)
    found = flow.audit(path)
    assert found.conserved["WWᵀ of params"] < 1e-12
    if "step" not in options:
        assert abs(found.energy_residual) < error


@pytest.mark.quick
def test_principal_components():
    """Assert that the flow ends at PCA's top k, by scikit-learn, at the rate of the gap."""
    from sklearn.decomposition import PCA

    X = flow.datasets.digits(400)[0]
    X = X - X.mean(axis=0)
    top = PCA(4, svd_solver="full").fit(X)
    spectrum = top.explained_variance_ * (len(X) - 1) / len(X)
    objective = flow.Objective(
        lambda W, x: -0.5 * jnp.mean(jnp.sum((x @ W.T) ** 2, axis=1)), frame(3, 64, 1.0), data=X
    )
    t = 10.0 / (spectrum[2] - spectrum[3])
    path = flow.integrate(flow.StiefelFlow(objective), t, save=[0.7 * t, t], **TIGHT)
    W = path.params(-1)
    assert np.max(scipy.linalg.subspace_angles(W.T, top.components_[:3].T)) < 3e-4
    assert objective.value(W) == pytest.approx(-0.5 * spectrum[:3].sum(), rel=1e-6)
    fourth = [np.linalg.norm(path.params(i) @ top.components_[3]) for i in (0, 1)]
    rate = np.log(fourth[0] / fourth[1]) / (0.3 * t)
    assert rate == pytest.approx(spectrum[2] - spectrum[3], rel=1e-3)


def test_stop_at_a_constrained_minimum(oja: flow.StiefelFlow):
    """Assert that the gradient's norm, of the tangent part, ends a run where ∇J does not vanish."""
    path = flow.integrate(oja, t=np.inf, stop=flow.stop.gradient_norm(1e-7), progress=False)
    assert path.result.startswith("stopped")
    values, vectors = np.linalg.eigh(C)
    W = path.params(-1)
    assert oja.objective.value(W) == pytest.approx(-0.5 * M * values[-2:].sum(), rel=1e-13)
    assert np.linalg.norm(W @ vectors[:, :-2]) < 1e-6
    assert np.linalg.norm(oja.objective.gradient(W)) > 1.0


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([(1, 4), (2, 3), (3, 3)]),
    st.floats(0.01, 100.0),
    st.integers(0, 2**32 - 1),
)
@pytest.mark.quick
def test_the_velocity_is_the_nearest_tangent(shape: tuple[int, int], m: float, seed: int):
    """Assert that Ẇ + G is orthogonal to every Ẇ with d(WWᵀ)/dt = 0, and Ẇ is one of them."""
    n, p = shape
    W, G = frame(n, p, m, seed), np.random.default_rng(seed + 1).standard_normal(shape)
    dynamics = flow.StiefelFlow(LINEAR[shape].starting_at(W))
    with jax.enable_x64(True):
        found = np.asarray(dynamics.rhs(0.0, W, G[None]))
    entries = np.eye(n * p).reshape(-1, n, p)
    constraint = np.array([(E @ W.T + W @ E.T).ravel() for E in entries]).T
    tangents = scipy.linalg.null_space(constraint / np.sqrt(m), rcond=1e-10)
    assert tangents.shape[1] == n * p - n * (n + 1) // 2
    np.testing.assert_allclose(
        found.ravel(), -tangents @ tangents.T @ G.ravel(), rtol=0, atol=1e-12 * np.linalg.norm(G)
    )


# J = ⟨W, G⟩, the mean over one example G: any gradient is had by other data.
LINEAR = {
    shape: flow.Objective(
        lambda W, G: jnp.mean(jnp.sum(W * G, axis=(1, 2))), frame(*shape, 1.0), np.ones((1, *shape))
    )
    for shape in [(1, 4), (2, 3), (3, 3)]
}


def test_spectrum_on_the_manifold(oja: flow.StiefelFlow):
    """Assert the declared real spectrum off equilibrium, and the Jacobian by differences."""
    W = frame(2, 5, M, seed=3)

    def rhs(w: jax.Array) -> jax.Array:
        return oja.rhs(0.0, w.reshape(2, 5), None).ravel()

    with jax.enable_x64(True):
        J = np.asarray(jax.jacfwd(rhs)(W.ravel()))
        h = 1e-5
        moved = [[rhs(W.ravel() + s * h * e) for s in (1, -1)] for e in np.eye(10)]
        differences = np.array([(up - down) / (2 * h) for up, down in moved]).T
    np.testing.assert_allclose(J, differences, rtol=0, atol=1e-8)
    assert np.abs(J - J.T).max() > 0.1
    eigenvalues = np.linalg.eigvals(J)
    assert np.abs(eigenvalues.imag).max() < 1e-7
    # n(n + 1)/2 normal directions, which the polar factor does not see.
    assert np.sum(np.abs(eigenvalues) < 1e-7) >= 3


def test_energy_of_orthogonal_and_free_leaves(network: flow.Objective):
    """Assert J₀ − J_T = ∫‖Ẇ‖² + ‖ḃ‖² dt, and that the recorded norm is that rate's root."""
    dynamics = flow.StiefelFlow(network, HIDDEN)
    path = flow.integrate(dynamics, t=10.0, save=21, **TIGHT)
    found = flow.audit(path)
    assert abs(found.energy_residual) < 1e-9
    assert list(found.conserved) == [f"WWᵀ of params{name}" for name in HIDDEN]
    assert max(found.conserved.values()) < 1e-12
    assert path.loss[-1] < 0.7 * path.loss[0]
    params, G = path.params(-1), network.gradient(path.params(-1))
    total = 0.0
    for layer, (at, slope) in enumerate(zip(params, G, strict=True)):
        W, g = at["W"], slope["W"]
        if layer < 2:
            # Orthogonal to the normals SW, S symmetric.
            m = np.trace(W @ W.T) / len(W)
            g = g - 0.5 * (g @ W.T + W @ g.T) @ W / m
            assert abs(np.trace(g @ W.T)) < 1e-12
        total += np.sum(g**2) + np.sum(slope["b"] ** 2)
    assert path.gradient_norm[-1] == pytest.approx(np.sqrt(total), rel=1e-9)


def test_orders_of_the_counterparts(oja: flow.StiefelFlow, rayleigh: flow.ScaleFreeFlow):
    """Assert slope 1 against Riemannian gradient descent, and against that of J(w/‖w‖)."""
    for dynamics in (oja, rayleigh):
        study = flow.order_study(dynamics, 1.0, [0.01, 0.005, 0.0025], progress=False)
        assert study.slope == pytest.approx(1.0, abs=0.05)


def test_riemannian_descent_stays_on_the_manifold(network: flow.Objective):
    """Assert the constraint over steps near the stability limit, and a step by hand."""
    dynamics = flow.StiefelFlow(network, HIDDEN)
    (rate,) = flow.auto_learning_rates(network, [0.9])
    optimizer, time_step = dynamics.counterpart(rate)
    assert time_step == rate
    steps = flow.descend(
        network, optimizer=optimizer, time_step=rate, steps=300, save=301, progress=False
    )
    assert max(flow.audit(steps, dynamics).conserved.values()) < 1e-12
    assert steps.loss[-1] < 0.5 * steps.loss[0]
    G, before, after = network.gradient(network.params), steps.params(0), steps.params(1)
    for layer in (0, 1):
        W, g = before[layer]["W"], G[layer]["W"]
        m = np.sum(W**2) / len(W)
        moved = W - rate * (g - 0.5 * (g @ W.T + W @ g.T) @ W / m)
        expected = np.sqrt(m) * scipy.linalg.polar(moved)[0]
        np.testing.assert_allclose(after[layer]["W"], expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(after[2]["W"], before[2]["W"] - rate * G[2]["W"], rtol=1e-14)
    np.testing.assert_allclose(after[0]["b"], before[0]["b"] - rate * G[0]["b"], rtol=1e-14)
    with pytest.raises(ValueError, match=r"optimizer\.update\(g, state, params\)"):
        optimizer.update(G, optimizer.init(network.params))


def test_a_stiefel_flow_beside_others(network: flow.Objective, tmp_path: Path):
    """Assert that it compares with the free flow, is audited after loading, and repeats."""
    dynamics = flow.StiefelFlow(network, HIDDEN)
    path = flow.integrate(dynamics, t=2.0, save=11, progress=False)
    free = flow.integrate(network, t=2.0, save=11, progress=False)
    distance = flow.compare(path, free, progress=False).distance
    np.testing.assert_allclose(distance, np.linalg.norm(path.theta - free.theta, axis=1))
    assert distance[-1] > 0.05
    path.save(tmp_path / "run.nc")
    found = flow.audit(flow.load(tmp_path / "run.nc"), dynamics, error_bar=True, progress=False)
    assert max(found.conserved.values()) < 1e-12
    assert found.error_bar.max() < 1e-5


def test_ensembles(oja: flow.StiefelFlow):
    """Assert that members of one m are runs of their own, and another m is refused."""
    starts = np.stack([frame(2, 5, M, seed=seed) for seed in (1, 2)])
    together = flow.integrate(oja, 1.0, save=3, ensemble=starts, **COMPILED)
    for i, W in enumerate(starts):
        V = W @ scipy.linalg.expm(C)
        found = together.member(i).params(-1)
        expected = V.T @ np.linalg.solve(V @ V.T, V)
        np.testing.assert_allclose(found.T @ found / M, expected, rtol=0, atol=1e-8)
    starts[1] *= 1.1
    with pytest.raises(ValueError, match=r"params has ‖W‖²/n = 3\.025, but m = 2\.5"):
        flow.integrate(oja, 1.0, engine="jax", ensemble=starts)


def test_orthogonal_start():
    """Assert the polar factor of scipy at the old norm, the other leaves as they were."""
    objective = flow.MLP([5, 4, 2]).objective(np.eye(5), np.ones((5, 2)))
    before = objective.params
    after = flow.dynamics.orthogonal(objective, "params[0]['W']").params
    W = before[0]["W"]
    expected = scipy.linalg.polar(W)[0]
    expected *= np.linalg.norm(W) / np.linalg.norm(expected)
    np.testing.assert_allclose(after[0]["W"], expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(after[1]["W"], before[1]["W"])
    flow.StiefelFlow(flow.dynamics.orthogonal(objective, ["[0]['W']"]), ["[0]['W']"])


# ---- scale-free


@pytest.mark.parametrize("options", [*ENGINES, {"method": "Radau"}])
@pytest.mark.quick
def test_directions_move_by_an_effective_clock(rayleigh: flow.ScaleFreeFlow, options: dict):
    """Assert w(t) = ‖w₀‖ e^{Ct/‖w₀‖²}w₀ / ‖e^{Ct/‖w₀‖²}w₀‖ for J = −½ wᵀCw."""
    w0 = rayleigh.objective.theta
    r = np.linalg.norm(w0)
    path = flow.integrate(rayleigh, t=3.0, save=7, **TIGHT, **options)
    grown = np.array([scipy.linalg.expm(C * t / r**2) @ w0 for t in path.t])
    expected = r * grown / np.linalg.norm(grown, axis=1, keepdims=True)
    np.testing.assert_allclose(path.theta, expected, rtol=0, atol=1e-8)
    found = flow.audit(path)
    assert found.conserved["‖w‖ of params"] < 1e-9
    assert abs(found.energy_residual) < 1e-9


def test_scaled_ensemble(rayleigh: flow.ScaleFreeFlow):
    """Assert w(c²t; cw₀) = c w(t; w₀): members of other lengths, by one compiled flow."""
    w0 = rayleigh.objective.theta
    starts = np.stack([w0, 2.0 * w0])
    save = np.array([0.5, 2.0])
    found = flow.integrate(rayleigh, 2.0, save=save, ensemble=starts, **COMPILED).theta
    np.testing.assert_allclose(found[1, 1], 2.0 * found[0, 0], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="ensemble member 1: loss is nan"):
        flow.integrate(rayleigh, 1.0, engine="jax", ensemble=np.stack([w0, 0.0 * w0]))


def test_scale_free_network(scale_free: flow.ScaleFreeFlow):
    """Assert norms and energy along the flow, and J̃ and ∇J̃ by autodiff of a forward pass."""
    objective = scale_free.objective
    X, y = flow.datasets.digits(60)

    def loss(params: list) -> jax.Array:
        A = jnp.asarray(X)
        for layer, p in enumerate(params):
            W = p["W"] / jnp.sqrt(jnp.sum(p["W"] ** 2)) if layer < 2 else p["W"]
            Z = A @ W.T + p["b"].T
            A = jnp.tanh(Z) if layer < 2 else Z
        return 0.5 * jnp.mean(jnp.sum((A - y) ** 2, axis=1))

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(loss))(objective.params)
    assert objective.value(objective.params) == pytest.approx(float(value), rel=1e-14)
    np.testing.assert_allclose(
        objective.flatten(objective.gradient(objective.params)),
        objective.flatten(gradient),
        rtol=0,
        atol=1e-14,
    )
    np.testing.assert_allclose(
        0.5 * np.mean(np.sum((objective.outputs(objective.params) - y) ** 2, axis=1)),
        float(value),
        rtol=1e-14,
    )
    path = flow.integrate(scale_free, t=20.0, save=11, **TIGHT)
    found = flow.audit(path)
    assert list(found.conserved) == [f"‖w‖ of params{name}" for name in HIDDEN]
    assert max(found.conserved.values()) < 1e-9
    assert abs(found.energy_residual) < 1e-9
    assert path.loss[-1] < 0.97 * path.loss[0]


def test_norms_grow_under_gradient_descent(scale_free: flow.ScaleFreeFlow):
    """Assert ‖w_{k+1}‖² = ‖w_k‖² + η²‖∂J̃/∂w‖², leaf by leaf."""
    eta, objective = 0.1, scale_free.objective
    steps = flow.descend(objective, eta, steps=10, save=11, progress=False)
    for k in range(10):
        G, before, after = (
            objective.gradient(steps.params(k)),
            steps.params(k),
            steps.params(k + 1),
        )
        for layer in (0, 1):
            old, new, g = (np.sum(p[layer]["W"] ** 2) for p in (before, after, G))
            assert new - old == pytest.approx(eta**2 * g, rel=1e-9)
    grown = np.linalg.norm(steps.params(-1)[0]["W"]) - np.linalg.norm(objective.params[0]["W"])
    assert flow.audit(steps, scale_free).conserved["‖w‖ of params[0]['W']"] == pytest.approx(grown)
    assert grown > 1e-4


def test_single_precision_stays_single_precision():
    """Assert that J(w/‖w‖) of a float32 objective is one, without a warning."""
    objective = flow.Objective(lambda w: -0.5 * w @ w[::-1], np.arange(1.0, 4.0), dtype="float32")
    dynamics = flow.ScaleFreeFlow(objective)
    assert dynamics.objective.resolution == objective.resolution
    # ∇(−½ wᵀRw/‖w‖²) = −Rw/‖w‖² + (wᵀRw)w/‖w‖⁴ with w = (1, 2, 3), ‖w‖² = 14, wᵀRw = 10.
    np.testing.assert_allclose(
        dynamics.objective.gradient(objective.params),
        -np.array([3.0, 2.0, 1.0]) / 14 + 10 * np.arange(1.0, 4.0) / 14**2,
        rtol=1e-6,
    )


# ---- bad input


def refused(make: type, params: object, leaves: object, message: str) -> None:
    """Assert the message."""
    objective = flow.Objective(lambda p: sum(jnp.sum(x) for x in jax.tree.leaves(p)), params)
    with pytest.raises(ValueError, match=message):
        make(objective, leaves)


@pytest.mark.parametrize("make", [flow.StiefelFlow, flow.ScaleFreeFlow, flow.dynamics.orthogonal])
@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        (("W1",), r"leaves 'W1' is unknown.* Choose from .params\['V'\]., .params\['W'\]"),
        (None, r"which of the 2 leaves are meant, leaves=\[\"params\['V'\]\"\] for instance"),
        ((), r"leaves is empty.*choose from params\['V'\], params\['W'\]"),
    ],
)
def test_unknown_leaves(make: type, leaves: object, message: str):
    """Assert that the names to choose from are told."""
    refused(make, {"V": np.eye(2), "W": np.eye(2)}, leaves, message)


@pytest.mark.parametrize(
    ("W", "message"),
    [
        (np.eye(3)[:, :2], r"params has more rows than columns, \(3, 2\).*transpose"),
        (np.ones(3), r"params must be a matrix \(n, p\), n ≤ p, got shape \(3,\)"),
        (
            np.diag([2.0, 1.0]),
            r"‖WWᵀ − mI‖ = 2\.12 with m = .* = 2\.5; start from flow.dynamics.orthogonal\(obj",
        ),
        (np.zeros((2, 3)), "not on the Stiefel manifold at θ₀"),
        (np.eye(2) + 1e-4, r"not on the Stiefel manifold at θ₀: .* = 0\.0002"),
    ],
)
def test_leaves_off_the_manifold(W: np.ndarray, message: str):
    """Assert what is wrong, by how much, and what to do."""
    refused(flow.StiefelFlow, W, None, message)


def test_other_starts_that_are_refused():
    """Assert a reason for a leaf without direction, and for one without a nearest frame."""
    refused(flow.ScaleFreeFlow, {"b": np.zeros(2), "w": np.ones(2)}, "['b']", r"\['b'\] is zero")
    refused(flow.dynamics.orthogonal, np.ones((2, 3)), None, "params has rank 1 with 2 rows")


# ---- the experiment


SMALL = ["--examples", "60", "--test", "20", "--hidden", "6", "4", "--t", "20", "--save", "21"]


def test_experiment(run_here: Callable):
    """Assert the constraint, the rate of the gap, and growth of slope 1 with theory's factor."""
    folder = run_here(
        "orthogonal", *SMALL, "--components", "1", "3", "--t-norms", "300", "--norm-rates", "0.8",
        "0.4",
    )  # fmt: skip
    networks = pd.read_csv(folder / "networks.csv").set_index("run")
    held = networks["largest ‖WWᵀ − mI‖"]
    assert held["Stiefel flow"] < 1e-10
    assert held["Riemannian GD"] < 1e-10
    assert held["free flow"] > 0.1
    assert networks.loc["Stiefel flow", "σ_max/σ_min of W₁"] == pytest.approx(1.0, abs=1e-12)
    assert abs(networks.loc["Stiefel flow", "energy residual"]) < 1e-5
    distance = networks["distance to Stiefel flow"]
    assert 0.0 < distance["Riemannian GD"] < 0.1 * distance["free flow"]
    path = flow.load(folder / "stiefel-flow.nc")
    assert path.observed["violation"].max() == held["Stiefel flow"]

    rates = pd.read_csv(folder / "subspaces.csv")
    X = flow.datasets.digits()[0]
    values = np.linalg.svd(X - X.mean(axis=0), compute_uv=False) ** 2 / len(X)
    np.testing.assert_allclose(
        rates["λ_k − λ_{k+1}"], [values[0] - values[1], values[2] - values[3]]
    )
    np.testing.assert_allclose(rates["rate/gap"], 1.0, atol=0.02)

    norms = pd.read_csv(folder / "norms.csv")
    assert abs(norms["growth of Σ‖w‖²"][0]) < 1e-8
    grown, theory = norms["growth of Σ‖w‖²"][1:], norms["η(J₀ − J_T) of the flow"][1:]
    np.testing.assert_allclose(grown, theory, rtol=0.01)
    assert np.polyfit(np.log(norms["η"][1:]), np.log(grown), 1)[0] == pytest.approx(1.0, abs=0.01)
    with Image.open(folder / "figure.png") as figure:
        assert min(figure.size) > 700


def test_the_experiment_refuses_widening_layers(refused_here: Callable):
    """Assert a sentence and no folder for weights that can't be orthogonal."""
    told = refused_here("orthogonal", *SMALL, "--hidden", "65")
    assert "params[0]['W'] has more rows than columns, (65, 64)" in told
