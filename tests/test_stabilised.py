"""RKC2 and TSRKC3: stages, stability, order, the radius, and scipy's interface."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

import flow
from flow._core.precision import double_precision
from flow.methods import RKC2, TSRKC3, SpectrumNotReal, rkc2, stabilised, tsrkc3
from flow.methods import spectral_radius as radius
from flow.methods.backend import DEVICE, HOST
from flow.methods.chebyshev import derivatives, last_stage
from flow.methods.interpolation import dissipated, hermite
from flow.methods.loop_state import FINISHED, Limits, Problem, Tolerance

SOLVERS = [RKC2, TSRKC3]
STAGES = [5, 10, 21, 50]
ENDLESS = Limits(np.inf, np.inf, np.inf, -np.inf, -np.inf)


# ---- stages and stability


@pytest.mark.parametrize("s", [2, 3, 7, 40])
def test_chebyshev_derivatives(s: int):
    """Assert T′, T″, T‴ of a Chebyshev polynomial against numpy's."""
    w0 = 1.0 + 0.3 / s**2
    T = chebyshev.Chebyshev.basis(s)
    expected = [T.deriv(k)(w0) for k in (1, 2, 3)]
    np.testing.assert_allclose(derivatives(np, float(s), w0), expected, rtol=1e-9, atol=1e-8)


def amplification(plan: Callable, z: np.ndarray, q: float, s: float) -> np.ndarray:
    """Largest |ζ| with y₁ = ζy = ζ²y₋₁ on ẏ = λy, z = hλ: spectral radius of the step."""
    step = plan(np, 0.0, q, s=float(s))
    u = last_stage(HOST, lambda t, u: z * u, step, 0.0, np.ones_like(z), z, 1.0)
    one = 1.0 - step.gamma - step.beta + step.beta * u
    # ζ² = one ζ + γ
    root = np.sqrt(one.astype(complex) ** 2 + 4.0 * step.gamma)
    return np.maximum(abs(one + root), abs(one - root)) / 2.0


@pytest.mark.parametrize("s", [2, 3, 4, 5, 8, 13, 21, 50, 120])
@pytest.mark.quick
def test_rkc2_is_stable_as_far_as_it_says(s: int):
    """Assert |R(z)| ≤ 1 to −0.653(s² − 1), less than 1 inside, and more soon beyond."""
    end = rkc2.REACH * (s**2 - 1)
    R = amplification(rkc2.plan, -np.linspace(0.0, end, 4001), 0.0, s)
    assert np.all(R <= 1.0 + 1e-10)
    assert np.all(R[400:] < 0.97)
    assert amplification(rkc2.plan, np.array([-1.25 * end]), 0.0, s) > 1.0
    assert rkc2.plan(np, end * (1 - 1e-9)).s == s


@pytest.mark.parametrize("q", [0.49, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0, 30.0, 1e12])
@pytest.mark.parametrize("z", [0.3, 5.0, 60.0, 3e3, 1e5])
@pytest.mark.quick
def test_tsrkc3_is_stable_with_the_stages_it_takes(q: float, z: float):
    """Assert that no component of [−z, 0] grows under steps of constant ratio."""
    s = float(tsrkc3.plan(np, z, q).s)
    growth = amplification(tsrkc3.plan, -np.linspace(0.0, z, 4001), q, s)
    assert np.all(growth <= 1.0 + 1e-9)


@pytest.mark.parametrize("s", [3, 9, 40])
@pytest.mark.parametrize("q", [0.0, 0.48, 0.5, 1.0, 3.0, 1e3, 1e8, 1e16, 1e17, 1e30])
@pytest.mark.quick
def test_a_step_integrates_polynomials(q: float, s: int):
    """Assert that ẏ = kt^{k−1} is followed exactly for k ≤ order, whatever the step before."""
    step = tsrkc3.plan(np, 0.0, q, s=float(s))
    assert step.order == (2 if q < 0.49 else 3)
    # The higher orders drown in rounding where the step is as small beside the one before.
    for k in range(1, 1 + int(step.order if q < 1e4 else 2 if q < 1e10 else 1)):
        u = last_stage(HOST, lambda t, u, k=k: k * t ** (k - 1), step, 0.0, 0.0, float(k == 1), 1.0)
        assert step.gamma * (-q) ** k + step.beta * u == pytest.approx(1.0, rel=1e-6)


# ---- order


@cache
def follower(stiffness: float) -> tuple[Callable, np.ndarray, np.ndarray]:
    """Stiff components that follow a slow one: coupled, nonlinear, of t too. f, y(0), y(1)."""
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))[0]
    rates = np.concatenate([[0.5, 2.0], np.geomspace(stiffness / 50, stiffness, 6)])
    A, slow = Q @ np.diag(rates) @ Q.T, Q[:, 0] + 0.5 * Q[:, 1]

    def f(t: float, y: np.ndarray) -> np.ndarray:
        return -A @ (y - slow * np.cos(2.0 * t)) - np.sin(t) * y**3

    end = scipy.integrate.solve_ivp(f, (0.0, 1.0), slow, "Radau", rtol=1e-13, atol=1e-14).y[:, -1]
    return f, slow, end


def march(plan: Callable, f: Callable, y: np.ndarray, steps: np.ndarray, s: int) -> np.ndarray:
    """Steps of given lengths with a given number of stages."""
    t, before, y_before = 0.0, 0.0, y
    for h in steps:
        step = plan(np, 0.0, before / h, s=float(s))
        u = last_stage(HOST, f, step, t, y, f(t, y), h)
        y_before, y = y, (1 - step.gamma - step.beta) * y + step.gamma * y_before + step.beta * u
        t, before = t + h, h
    return y


@pytest.mark.parametrize("s", [5, 10, 21, 50])
@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize(("module", "order"), [(rkc2, 2), (tsrkc3, 3)], ids=["RKC2", "TSRKC3"])
@pytest.mark.quick
def test_order_in_the_stiff_regime(module: object, order: int, ratio: float, s: int):
    """Assert the slope of the error with steps that are stable by their stages alone.

    Nearly half of the stability interval of s stages is used at the largest step. A ratio below
    1 is that of every other step to the one before.
    """
    numbers = np.array([40, 80, 160])
    f, start, end = follower(float(0.2 * (s - 1) ** 2 * numbers[0]))
    errors = []
    for n in numbers:
        lengths = np.where(np.arange(n) % 2, ratio, 1.0)
        errors.append(
            np.linalg.norm(march(module.plan, f, start, lengths / lengths.sum(), s) - end)
        )
    assert -np.polyfit(np.log(numbers), np.log(errors), 1)[0] == pytest.approx(order, abs=0.1)


# ---- one kernel on two machines


def run(backend: object, plan: Callable, problem: Problem, y: np.ndarray, t: float, rtol: float):
    """All steps to t, as states."""
    tolerance = Tolerance(rtol, 1e-3 * rtol, np.finfo(float).eps)
    limits = ENDLESS._replace(t=t)
    carry = stabilised.start(backend, problem, tolerance, limits, 0.0, y)
    carries = [carry]
    while carry.status == 0:
        carry = stabilised.attempt(backend, plan, problem, tolerance, limits, carry)
        carries.append(carry)
    return carries


@pytest.mark.parametrize("solver", SOLVERS)
def test_host_and_device_take_the_same_steps(solver: type):
    """Assert the same times, states, evaluations and radii, rejected attempts included."""
    rates = np.geomspace(0.1, 3e3, 12)

    def problem(xp):
        def derivative(t, y):
            f = -rates * y + 30.0 * xp.exp(-(((t - 0.15) * 100.0) ** 2)) - 50.0 * y**3
            return f, xp.stack([xp.sum(y * y), xp.sqrt(xp.vdot(f, f))])

        return Problem(derivative, lambda k: (k * k).sum(axis=1))

    y = np.linspace(0.1, 0.2, 12)
    host = run(HOST, solver.plan, problem(np), y, 0.2, 1e-3)
    with double_precision():
        tolerance, limits = Tolerance(1e-3, 1e-6, np.finfo(float).eps), ENDLESS._replace(t=0.2)
        start = jax.jit(lambda y: stabilised.start(DEVICE, problem(jnp), tolerance, limits, 0.0, y))
        attempt = jax.jit(
            lambda c: stabilised.attempt(DEVICE, solver.plan, problem(jnp), tolerance, limits, c)
        )
        carry = start(y)
        for expected in host:
            for name in ("t", "y", "f", "measures", "h", "dissipated", "rise"):
                np.testing.assert_allclose(
                    getattr(carry, name), getattr(expected, name), rtol=1e-8, atol=1e-10
                )
            for name in ("evaluations", "steps", "rejected", "status"):
                assert float(getattr(carry, name)) == float(getattr(expected, name))
            np.testing.assert_allclose(carry.watch.radius, expected.watch.radius, rtol=1e-6)
            carry = attempt(carry)
    assert host[-1].status == FINISHED
    assert host[-1].rejected > 0


# ---- as scipy's solvers


def heat(n: int) -> tuple[Callable, np.ndarray]:
    """u_t = u_xx + sin(3πx)cos(9t) on (0, 1), u = 0 at the ends, by n central differences."""
    x = np.linspace(0.0, 1.0, n + 2)[1:-1]
    inverse = (n + 1.0) ** 2

    def f(t: float, u: np.ndarray) -> np.ndarray:
        padded = np.concatenate([[0.0], u, [0.0]])
        diffusion = inverse * (padded[2:] - 2 * u + padded[:-2])
        return diffusion + np.sin(3 * np.pi * x) * np.cos(9 * t)

    return f, x * (1.0 - x)


@pytest.mark.parametrize(("solver", "ceiling"), [(RKC2, 1800), (TSRKC3, 1530)])
@pytest.mark.quick
def test_heat_equation_agrees_with_radau(solver: type, ceiling: int):
    """Assert states, dense output and events against Radau, and what they cost."""
    f, u = heat(60)
    calls = []

    def counted(t: float, u: np.ndarray) -> np.ndarray:
        calls.append(t)
        return f(t, u)

    def cooled(_: float, u: np.ndarray) -> float:
        return u.max() - 0.15

    times = np.linspace(0.0, 0.5, 41)
    rtol, atol = 1e-5, 1e-8
    mine = scipy.integrate.solve_ivp(
        counted, (0.0, 0.5), u, solver, times, events=cooled, rtol=rtol, atol=atol
    )
    exact = scipy.integrate.solve_ivp(
        f, (0.0, 0.5), u, "Radau", times, events=cooled, rtol=1e-10, atol=1e-13
    )
    assert mine.status == 0
    scale = np.abs(exact.y).max()
    assert np.abs(mine.y - exact.y).max() < 10 * rtol * scale
    np.testing.assert_allclose(mine.t_events[0], exact.t_events[0], rtol=1e-4)
    assert mine.nfev == len(calls) < ceiling


def test_dense_output_is_of_order_three():
    """Assert that the error between steps falls at least as h³, on a solution that is known."""
    errors = []
    for h in (0.2, 0.1, 0.05):
        ends = [np.array([g(t)]) for g in (np.sin, np.cos) for t in (1.0, 1.0 + h)]
        x = np.linspace(0.0, 1.0, 21)
        errors.append(np.abs(hermite(x, h, *ends) - np.sin(1.0 + h * x)).max())
    assert np.log2(errors[0] / errors[1]) > 3.5
    assert np.log2(errors[1] / errors[2]) > 3.5


@pytest.mark.quick
def test_energy_of_a_cubic_step():
    """Assert that ∫ẏ² dt over a step is exact where y is a cubic."""
    y = np.polynomial.Polynomial([0.3, -1.0, 2.0, 0.7])
    dy = y.deriv()
    ends = [np.array([g(t)]) for g in (y, dy) for t in (0.2, 1.1)]
    found = dissipated(np, lambda k: (k * k)[:, 0], 0.9, *ends)
    integral = (dy * dy).integ()
    assert found == pytest.approx(integral(1.1) - integral(0.2), rel=1e-13)


@given(
    spectrum=st.lists(st.floats(-3.0, 2.5), min_size=5, max_size=5),
    seed=st.integers(0, 2**16),
    rtol=st.sampled_from([1e-2, 1e-4]),
    solver=st.sampled_from(SOLVERS),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_quadratics_with_spectra_over_decades(spectrum: list, seed: int, rtol: float, solver: type):
    """Assert the error at the end and between steps, and J's fall, for eigenvalues 1e-3 to 300."""
    rng = np.random.default_rng(seed)
    values = 10.0 ** np.array(spectrum)
    Q = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    H, x0 = Q @ np.diag(values) @ Q.T, rng.standard_normal(5)
    times = np.linspace(0.0, 2.0, 9)
    found = scipy.integrate.solve_ivp(
        lambda t, x: -H @ x, (0.0, 2.0), x0, solver, times, rtol=rtol, atol=1e-3 * rtol
    )
    exact = (np.exp(-np.multiply.outer(times, values)) * (Q.T @ x0)) @ Q.T
    assert found.success
    error = np.linalg.norm(found.y.T - exact, axis=1)
    assert np.all(error <= 10 * rtol * np.linalg.norm(x0))
    assert np.all(np.diff(np.einsum("it,ij,jt->t", found.y, H, found.y)) < 10 * rtol * x0 @ H @ x0)


# ---- what they are not for


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("friction", [0.0, 0.3])
@pytest.mark.quick
def test_complex_spectra_are_refused(solver: type, friction: float):
    """Assert that an oscillator is refused by a reason and a remedy, not amplified."""
    k = np.geomspace(1.0, 100.0, 4)

    def oscillator(_: float, y: np.ndarray) -> np.ndarray:
        return np.concatenate([y[4:], -k * y[:4] - friction * y[4:]])

    with pytest.raises(SpectrumNotReal, match=r"complex \(the cosine .* use 'DOP853'"):
        scipy.integrate.solve_ivp(oscillator, (0.0, 1.0), np.ones(8), solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_strong_friction_is_no_oscillation(solver: type):
    """Assert that an overdamped oscillator, of real spectrum but no symmetry, is let in."""
    found = scipy.integrate.solve_ivp(
        lambda t, y: np.array([y[1], -y[0] - 100.0 * y[1]]), (0.0, 5.0), [1.0, 0.0], solver
    )
    slow = (-100.0 + np.sqrt(100.0**2 - 4.0)) / 2.0
    assert found.y[0, -1] == pytest.approx(np.exp(5.0 * slow), rel=1e-2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_backward_in_time_is_refused(solver: type):
    """Assert that decay is not followed back, where it grows."""
    with pytest.raises(ValueError, match=r"needs t_bound beyond t0 = 1, got 0: backward .*DOP853"):
        scipy.integrate.solve_ivp(lambda t, y: -y, (1.0, 0.0), [1.0], solver)


# ---- the radius


def watch(f: Callable, y: np.ndarray, most: float = radius.COLD) -> tuple[radius.Watch, int]:
    """What is known of the radius from nothing, and the evaluations that it took."""
    calls = []

    def counted(_: float, y: np.ndarray) -> np.ndarray:
        calls.append(y)
        return f(y)

    start = radius.start(HOST, y, f(y))
    eps = np.finfo(float).eps
    return radius.refine(HOST, counted, start, 0.0, y, f(y), eps, most), len(calls)


def symmetric(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix of a spectrum, and its eigenvectors."""
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))[0]
    return Q @ np.diag(values) @ Q.T, Q


@pytest.mark.parametrize("top", [20.0, 1e4, -20.0])
@pytest.mark.parametrize("start", ["soft", "anywhere", "zero"])
def test_radius_of_a_known_spectrum(top: float, start: str):
    """Assert λ_max, or the most negative curvature, from a soft direction or at a minimum too."""
    values = np.concatenate([np.linspace(-1.0, 5.0, 199), [top]])
    H, Q = symmetric(values, 0)
    y = {"soft": Q[:, 100], "anywhere": np.ones(200), "zero": np.zeros(200)}[start]
    found, calls = watch(lambda y: -H @ y, y)
    assert found.radius == pytest.approx(abs(top), rel=0.01)
    assert found.radius <= abs(top) * (1 + 1e-6)
    assert found.eigenvalue == pytest.approx(top, rel=0.01)
    assert found.alignment > 0.98
    assert found.spent == calls <= radius.COLD


@given(
    st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6), st.integers(0, 2**16), st.integers(1, 9)
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_symmetric_problem_never_looks_complex(values: list, seed: int, most: int):
    """Assert this for any spectrum, also ±λ, and however early a budget ends the iteration."""
    H, _ = symmetric(np.array(values), seed)
    y = np.random.default_rng(seed + 1).standard_normal(6)
    found, calls = watch(lambda y: -H @ y, y, most)
    assert found.spent == calls <= most
    assert found.alignment > 0.9


@pytest.mark.parametrize("slope", [-3.0, 3.0])
@pytest.mark.parametrize("y", [-2.0, 2.0])
def test_radius_in_one_dimension(slope: float, y: float):
    """Assert that the first vector does not vanish, whatever the signs."""
    found, _ = watch(lambda y: slope * y, np.array([y]))
    assert found.radius == pytest.approx(3.0, rel=1e-6)
    assert found.eigenvalue == pytest.approx(-slope, rel=1e-6)


def test_no_curvature():
    """Assert radius 0 where the derivative is constant, from two evaluations."""
    found, calls = watch(lambda y: np.array([1.0, 2.0, 3.0]), np.ones(3))
    assert (found.radius, calls) == (0.0, 2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_trace_of_the_sharpness(solver: type):
    """Assert that λ_max as it was met agrees with the Hessian's along the path."""
    X, y = flow.datasets.digits(60)
    objective = flow.MLP([8, 3, 10]).objective(X[:, 24:32], y, seed=0)
    path = flow.integrate(objective, 40.0, method=solver, rtol=1e-3, progress=False)
    t = np.array(path.stats["lambda_max_t"])
    assert len(t) >= 3
    at = flow.integrate(
        objective, 40.0, method=solver, rtol=1e-3, save=np.unique(t), progress=False
    )
    assert set(at.t) == set(t)
    found = np.array(path.stats["lambda_max"])[np.searchsorted(t, at.t)]
    expected = [flow.sharpness(objective, at.params(i)) for i in range(len(at.t))]
    np.testing.assert_allclose(found, expected, rtol=0.02)


# ---- faults


def steps_to(solver: type, f: Callable, y: np.ndarray, t: float, **options: float) -> object:
    """All steps to t, as `solve_ivp` keeps them."""
    return scipy.integrate.solve_ivp(f, (0.0, t), y, solver, **options)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("H", "x0"),
    [
        (np.diag([2.0, -1.0]), [1.0, 0.1]),
        (np.diag([1.0, -8.0]), [1.0, 1e-3]),
        (np.diag([3.0, -3.0]), [1.0, 1e-3]),
        (np.zeros((2, 2)), [1.0, 2.0]),
        (np.array([[40.0]]), [1.0]),
        (np.array([[40.0]]), [-1.0]),
        (np.array([[-2.0]]), [1.0]),
    ],
    ids=["indefinite", "negative dominates", "both", "zero", "n = 1", "n = 1, uphill", "n = 1, -"],
)
def test_odd_hessians(solver: type, H: np.ndarray, x0: list):
    """Assert e^{−Ht}x₀ where the Hessian is indefinite, zero, or one number."""
    found = steps_to(solver, lambda t, x: -H @ x, x0, 1.0, rtol=1e-4, atol=1e-8)
    exact = np.exp(-np.diag(H)) * np.array(x0)
    assert found.success
    np.testing.assert_allclose(found.y[:, -1], exact, rtol=3e-3, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_radius_that_grows_tenfold_at_once(solver: type):
    """Assert that a jump of the stiffness is met by a rejection, and not by a wrong answer."""

    def f(t: float, y: np.ndarray) -> np.ndarray:
        rate = np.array([1.0, 300.0 if t < 0.5 else 3000.0])
        return -rate * (y - np.array([0.0, 1.0]))

    found = steps_to(solver, f, [1.0, 0.9], 1.0, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.y[:, -1], [np.exp(-1.0), 1.0], rtol=1e-3)
    assert found.nfev < 700


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_derivative_that_turns_non_finite(solver: type, bad: float):
    """Assert that the run fails at the time of the fault, with finite states up to it."""
    found = steps_to(solver, lambda t, y: -y if t < 0.5 else bad * y, [1.0, 2.0], 1.0, rtol=1e-5)
    assert not found.success
    assert "Required step size" in found.message
    assert found.t[-1] == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_allclose(
        found.y[:, -1], np.exp(-found.t[-1]) * np.array([1.0, 2.0]), rtol=1e-4
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("t", [1e-300, 1e-12, 1e-5])
def test_one_step_covers_all(solver: type, t: float):
    """Assert that a time so short takes one step and few evaluations."""
    found = steps_to(solver, lambda t, y: -np.array([1.0, 40.0]) * y, [1.0, 1.0], t)
    assert len(found.t) == 2
    np.testing.assert_allclose(found.y[:, -1], np.exp(-np.array([1.0, 40.0]) * t), rtol=1e-9)
    assert found.nfev < 25


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("beyond", [1e-15, 1e-13, 1e-9])
def test_a_last_step_that_is_far_shorter(solver: type, beyond: float):
    """Assert that the end is reached where rounding leaves next to nothing to a last step."""
    f, y0 = lambda t, y: -np.array([1.0, 40.0]) * y, [1.0, 1.0]
    steps = steps_to(solver, f, y0, 20.0)
    t = steps.t[-3]
    found = steps_to(solver, f, y0, t * (1.0 + beyond))
    assert found.success
    assert found.t[-1] == t * (1.0 + beyond)
    assert found.y[0, -1] == pytest.approx(np.exp(-t), abs=1e-3)
