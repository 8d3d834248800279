"""The Hessian's spectrum against dense linear algebra: its ends, cold and warm, and its density."""

from functools import cache

import jax
import numpy as np
import optax
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import flow
from flow.spectrum import EigenvaluesNotConverged, eigenpairs
from flow.spectrum.eigenpairs import DENSE_SIZE
from flow.spectrum.hessian import hessian
from flow.spectrum.warm_start import start_block, track

N = DENSE_SIZE + 50


def quadratic(spectrum: np.ndarray, seed: int = 0) -> tuple[flow.Objective, np.ndarray]:
    """½xᵀHx with a spectrum, in turned coordinates."""
    n = len(spectrum)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    H = (Q * spectrum) @ Q.T
    return of_matrix(H), H


@cache
def compiled_quadratic(n: int) -> flow.Objective:
    """½xᵀHx of any H (1, n, n)."""
    return flow.Objective(lambda x, H: 0.5 * (x @ H[0] @ x), np.ones(n), data=np.eye(n)[None])


def of_matrix(H: np.ndarray) -> flow.Objective:
    """½xᵀHx, compiled once for all H of a size."""
    objective = compiled_quadratic(len(H)).counted()
    with jax.enable_x64(True):
        data = jax.numpy.asarray(H[None])
    vars(objective).update(data=data, _start=0.5 * H.sum())  # J of this H at θ₀ = (1, 1, ...)
    return objective


@st.composite
def spectra(draw) -> np.ndarray:
    """Indefinite spectra whose ends are degenerate or clustered."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.uniform(-1.0, 1.0, N)
    for sign in (1.0, -1.0):
        copies = draw(st.integers(0, 4))
        near = draw(st.integers(0, 3))
        end = sign * draw(st.sampled_from([1.5, 3.0, 40.0]))
        gap = 10.0 ** -draw(st.integers(1, 9))
        place = rng.choice(N, copies + near, replace=False)
        values[place] = np.r_[np.full(copies, end), end * (1.0 - gap * rng.uniform(0, 1, near))]
    return values


@settings(max_examples=20, deadline=None)
@given(spectra(), st.integers(1, 5), st.sampled_from(["top", "bottom"]))
def test_both_ends_of_any_spectrum(values: np.ndarray, k: int, end: str):
    """Assert eigenvalues to 1e-8, residuals that are true, and every copy, cold and warm."""
    objective, H = quadratic(values)
    expected = np.sort(values)[::-1][:k] if end == "top" else np.sort(values)[:k]
    norm = np.abs(values).max()
    cold = eigenpairs(objective, objective.params, k, end)
    # From the block of another point nearby.
    E = np.random.default_rng(0).standard_normal((N, N)) / np.sqrt(N)
    before = of_matrix(H + 0.01 * norm * (E + E.T))
    _, block = track(hessian(before, before.params), start_block(N, k), k, end, 1e-8)
    warm, _ = track(hessian(objective, objective.params), block, k, end, 1e-8)
    for found in (cold, warm):
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-8 * norm)
        V = found.vectors
        np.testing.assert_allclose(V.T @ V, np.eye(k), atol=1e-10)
        left = np.linalg.norm(H @ V - V * found.values, axis=0) / norm
        assert left.max() <= 1e-7
        assert np.all(found.residuals <= 1e-7)


def network(seed: int = 2) -> tuple[flow.Objective, np.ndarray]:
    """A network beyond the dense size, and its Hessian by jax.hessian."""
    objective = flow.MLP([64, 5, 10]).objective(*flow.datasets.digits(50), seed=seed)
    assert objective.size > DENSE_SIZE
    with jax.enable_x64(True):
        H = jax.hessian(
            lambda theta: objective.traced_value(objective.tree(theta), objective.data)
        )(jax.numpy.asarray(objective.theta))
    return objective, np.asarray(H)


def test_a_network_by_products():
    """Assert jax.hessian's eigenvalues at both ends, and a count of products that is true."""
    objective, H = network()
    expected = np.linalg.eigvalsh(H)
    assert expected[0] < -1e-3
    params = objective.params
    np.testing.assert_allclose(
        flow.top_eigenvalues(objective, params, k=4), expected[::-1][:4], rtol=1e-8
    )
    np.testing.assert_allclose(
        flow.bottom_eigenvalues(objective, params, k=3), expected[:3], atol=1e-8 * expected[-1]
    )
    assert flow.sharpness(objective, params) == pytest.approx(expected[-1], rel=1e-8)
    counted = objective.counted()
    assert eigenpairs(counted, params, k=2).products == counted.tally.hvps


def test_a_small_network_is_dense():
    """Assert jax.hessian's spectrum up to rounding, and products and residuals that are told."""
    x = np.linspace(-1.0, 1.0, 12)[:, None]
    objective = flow.MLP([1, 8, 1]).objective(x, np.cos(3.0 * x))
    with jax.enable_x64(True):
        H = jax.hessian(
            lambda theta: objective.traced_value(objective.tree(theta), objective.data)
        )(jax.numpy.asarray(objective.theta))
    pairs = eigenpairs(objective, objective.params, k=objective.size)
    expected = np.linalg.eigvalsh(np.asarray(H))[::-1]
    np.testing.assert_allclose(pairs.values, expected, atol=1e-13 * expected[0])
    assert pairs.products == objective.size == objective.tally.hvps
    assert pairs.residuals.max() < 1e-14


@pytest.mark.parametrize("size", [1, 3, N])
@pytest.mark.quick
def test_a_large_negative_eigenvalue_is_no_sharpness(size: int):
    """Assert the largest eigenvalue, not the largest magnitude, dense and by products."""
    spectrum = np.linspace(0.1, 2.0, size)
    spectrum[0] = -50.0 if size > 1 else -3.0
    objective = flow.Objective(lambda x: 0.5 * x @ (spectrum * x), np.ones(size))
    found = flow.sharpness(objective, objective.params)
    assert found == pytest.approx(spectrum.max(), rel=1e-9)


@pytest.mark.parametrize("k", [1, 3])
def test_warm_starts_cost_no_more_than_cold_eigsh(k: int):
    """Assert the same eigenvalues along a flow, for at most the products of a cold start."""
    objective, _ = network()
    path = flow.integrate(objective, t=20.0, save=11, rtol=1e-6, progress=False)
    block = start_block(objective.size, k)
    for i in range(11):
        cold = eigenpairs(objective, path.params(i), k, tol=1e-6)
        at = hessian(objective, path.params(i))
        warm, block = track(at, block, k, "top", 1e-6)
        np.testing.assert_allclose(warm.values, cold.values, rtol=1e-8)
        if i > 0:
            assert warm.products <= cold.products


@pytest.mark.parametrize("engine", ["scipy", "jax"])
def test_along_a_flow(engine: str):
    """Assert that flow.sharpness is warm-started where it is observed, and what that costs."""
    objective, _ = network()
    path = flow.integrate(
        objective, t=20.0, save=21, engine=engine, progress=False,
        observe={
            "sharpness": flow.sharpness,
            "three": flow.observe.top_eigenvalues(3, tol=1e-4),
            "bottom": flow.observe.bottom_eigenvalues(tol=1e-4),
        },
    )  # fmt: skip
    exact = np.array([flow.top_eigenvalues(objective, path.params(i), 3) for i in (0, 10, 20)])
    np.testing.assert_allclose(path.observed["sharpness"][::10], exact[:, 0], rtol=1e-6)
    np.testing.assert_allclose(path.observed["three"][::10], exact, rtol=1e-5)
    bottom = flow.bottom_eigenvalues(objective, path.params(-1))
    np.testing.assert_allclose(path.observed["bottom"][-1], bottom, atol=1e-5 * exact[-1, 0])
    only = flow.integrate(
        objective, t=20.0, save=21, engine=engine, observe={"s": flow.sharpness}, progress=False
    )
    assert 21 < only.stats["observer_hvps"] < 21 * 12


def test_meets_what_overtakes():
    """Assert the sharpness where another direction overtakes; one vector would not see it."""
    H0, H1 = np.ones(N), np.ones(N)
    H0[0], H1[1] = 10.0, 30.0
    objective = flow.Objective(
        lambda p: 0.5 * p["x"] @ ((1 - p["s"]) * H0 * p["x"] + p["s"] * H1 * p["x"]),
        {"s": np.array(0.0), "x": np.zeros(N)},
    )
    observer, state = flow.observe.sharpness(), None
    state = observer.init(objective, objective.params)
    for s in np.linspace(0.0, 1.0, 30):
        at = {"s": np.array(s), "x": np.zeros(N)}
        value, state = observer.update(objective, at, state)
        expected = max(1.0 + 9.0 * (1.0 - s), 1.0 + 29.0 * s)
        assert value == pytest.approx(expected, rel=1e-5)


def test_preconditioned_sharpness():
    """Assert the generalised eigenvalue of (∇²J, P), and that of Adam's P along its descent."""
    objective, H = network()
    P = np.random.default_rng(0).uniform(0.1, 3.0, objective.size)
    expected = scipy.linalg.eigh(H, np.diag(P), eigvals_only=True)[-1]
    for given_as in (P, objective.unflatten(P)):
        found = flow.preconditioned_sharpness(objective, objective.params, given_as)
        assert found == pytest.approx(expected, rel=1e-8)
    steps = flow.descend(
        objective, optimizer=optax.adam(1e-3), time_step=1e-3, steps=40, save=3, progress=False,
        observe={"adam": flow.observe.adam_sharpness(1e-3)},
    )  # fmt: skip
    assert np.isnan(steps.observed["adam"][0])
    for i, k in ((1, 20), (2, 40)):
        P = np.sqrt(steps.state["nu"][i] / (1.0 - 0.999**k)) + 1e-8
        expected = flow.preconditioned_sharpness(objective, steps.params(i), P)
        assert steps.observed["adam"][i] == pytest.approx(expected, rel=1e-4)
    steps = flow.descend(
        objective, optimizer=optax.rmsprop(1e-3), time_step=1e-3, steps=40, save=3, progress=False,
        observe={"rms": flow.observe.rmsprop_sharpness()},
    )  # fmt: skip
    P = np.sqrt(steps.state["nu"][-1] + 1e-8)
    expected = flow.preconditioned_sharpness(objective, steps.params(-1), P)
    assert steps.observed["rms"][-1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [N, 60])
def test_density(size: int):
    """Assert an integral of 1, the trace, and the quantiles of the dense spectrum."""
    rng = np.random.default_rng(0)
    values = np.sort(np.r_[rng.normal(0.0, 0.3, size - 4), [5.0, 6.0, 6.0, 9.0]])
    objective, _ = quadratic(values)
    found = flow.spectral_density(objective, objective.params, lanczos_steps=60, probes=20)
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-12)
    grid = np.linspace(-4.0, 14.0, 20_001)
    assert np.trapezoid(found.density(grid), grid) == pytest.approx(1.0, abs=1e-6)
    assert found.weights @ found.nodes == pytest.approx(values.mean(), abs=0.05)
    shares = np.linspace(0.05, 0.95, 19)
    exact = np.quantile(values[:-4], shares)  # not by the few that are far out
    np.testing.assert_allclose(found.quantile(shares * (size - 4) / size), exact, atol=0.06)
    assert found.nodes[-1] == pytest.approx(9.0, rel=1e-8)
    assert found.products == (size if size <= DENSE_SIZE else 60 * 20)


def test_density_of_few_distinct_eigenvalues():
    """Assert their shares, where Lanczos' method ends before its steps do."""
    objective, _ = quadratic(np.repeat([0.0, 1.0, 4.0], [N - 60, 40, 20]))
    found = flow.spectral_density(objective, objective.params, probes=40)
    for value, copies in ((0.0, N - 60), (1.0, 40), (4.0, 20)):
        share = found.weights[np.abs(found.nodes - value) < 1e-6].sum()
        assert share == pytest.approx(copies / N, abs=0.02)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
@pytest.mark.quick
def test_a_multiple_of_the_identity(value: float):
    """Assert the one eigenvalue, cold, warm and in the density: Krylov's space is one vector."""
    objective = of_matrix(value * np.eye(N))
    params = objective.params
    for end in ("top", "bottom"):
        pairs = eigenpairs(objective, params, 3, end)
        np.testing.assert_allclose(pairs.values, value, atol=1e-12)
        np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(3), atol=1e-12)
        warm, _ = track(hessian(objective, params), start_block(N, 3), 3, end, 1e-6)
        np.testing.assert_allclose(warm.values, value, atol=1e-12)
    found = flow.spectral_density(objective, params, 20, 3)
    np.testing.assert_allclose(found.weights @ (found.nodes - value) ** 2, 0.0, atol=1e-20)
    assert found.weights.sum() == pytest.approx(1.0)


@pytest.mark.quick
def test_low_rank():
    """Assert eigenvalues of which most are zero, and more wanted than are not."""
    objective, _ = quadratic(np.r_[np.zeros(N - 2), 3.0, 5.0])
    found = flow.top_eigenvalues(objective, objective.params, 4)
    np.testing.assert_allclose(found, [5.0, 3.0, 0.0, 0.0], atol=1e-12)


def test_single_precision():
    """Assert what products in single precision can deliver, by default."""
    data = flow.datasets.digits(50)
    double, single = (
        flow.MLP([64, 5, 10]).objective(*data, dtype=dtype) for dtype in ("float64", "float32")
    )
    exact = flow.sharpness(double, double.params)
    assert flow.sharpness(single, single.params) == pytest.approx(exact, rel=1e-5)


def test_bad_input():
    """Assert errors that name the value met, and an error rather than an unconverged value."""
    objective, _ = quadratic(np.linspace(-1.0, 1.0, N))
    params = objective.params
    with pytest.raises(ValueError, match=f"k=400 eigenvalues of a Hessian of size {N}"):
        flow.top_eigenvalues(objective, params, k=400)
    with pytest.raises(ValueError, match="at most that"):
        flow.integrate(objective, 1.0, observe={"s": flow.observe.top_eigenvalues(400)})
    with pytest.raises(ValueError, match="not finite"):
        flow.sharpness(objective, np.full(N, np.nan))
    with pytest.raises(ValueError, match="b2 must lie between 0 and 1, got 1"):
        flow.observe.adam_sharpness(1e-3, b2=1.0)
    with pytest.raises(ValueError, match="tol must be positive"):
        flow.observe.sharpness(-1.0)
    with pytest.raises(ValueError, match=r"preconditioner must be positive .* 0\.0"):
        flow.preconditioned_sharpness(objective, params, np.zeros(N))
    with pytest.raises(ValueError, match="share must lie in"):
        flow.spectral_density(objective, params, 5, 1).quantile(2.0)
    with pytest.raises(ValueError, match="the second moment is needed"):
        flow.descend(objective, 0.1, 3, observe={"a": flow.observe.adam_sharpness(0.1)})
    for unreachable in (  # tolerances below rounding
        lambda: flow.top_eigenvalues(objective, params, k=2, tol=1e-17),
        lambda: track(hessian(objective, params), start_block(N, 2), 2, "top", 1e-17),
    ):
        with pytest.raises(EigenvaluesNotConverged, match="residual") as error:
            unreachable()
        assert 1e-17 < error.value.residual < 1e-3


@pytest.mark.quick
def test_learning_rates_need_a_positive_limit():
    """Assert that a concave loss has no stability limit, and says so."""
    objective = flow.Objective(lambda x: -(x @ x), np.ones(2))
    with pytest.raises(ValueError, match="no stability limit"):
        flow.auto_learning_rates(objective)
