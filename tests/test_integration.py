"""The driver: energy identity, dense output, counts, saving and observing."""

import numpy as np
import pytest
import scipy.integrate

import flow
from flow._core.precision import double_precision

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def digits() -> flow.Objective:
    """The network of the README."""
    return flow.MLP([64, 32, 10]).objective(*flow.datasets.digits(300), seed=0)


@pytest.fixture(scope="module")
def small() -> flow.Objective:
    """A network that implicit methods take."""
    return flow.MLP([64, 3, 10]).objective(*flow.datasets.digits(60), seed=0)


@pytest.mark.parametrize(("method", "ceiling"), [("DOP853", 1e-6), ("RK45", 1e-5)])
def test_energy_identity_on_digits(digits: flow.Objective, method: str, ceiling: float):
    """Assert that J₀ − J_T is ∫‖∇J‖² dt, however few times are saved."""
    path = flow.integrate(digits, t=30.0, method=method, save=2)
    assert abs(flow.audit(path).energy_residual) < ceiling
    assert path.stats["loss_first"] == digits.value(digits.params) == path.loss[0]
    assert path.stats["loss_last"] == pytest.approx(digits.value(path.params(-1)), rel=1e-14)
    # A trapezoid over saved times is not the integral: with two times it is wrong tenfold.
    trapezoid = np.trapezoid(path.gradient_norm**2, path.t)
    assert abs(trapezoid / path.stats["dissipated"] - 1) > 1


@pytest.mark.parametrize(
    ("method", "ceiling"),
    [
        ("RK23", 1e-5),
        ("RK45", 1e-5),
        ("DOP853", 1e-7),
        ("Radau", 1e-6),
        ("BDF", 1e-5),
        ("LSODA", 1e-5),
    ],
)
def test_energy_identity_of_every_method(small: flow.Objective, method: str, ceiling: float):
    """Assert the energy identity at default tolerances, implicit and multistep methods included."""
    assert abs(flow.audit(flow.integrate(small, 10.0, method=method)).energy_residual) < ceiling


@pytest.mark.parametrize(("method", "order"), [("Euler", 1), ("RK4", 4)])
def test_energy_integral_has_the_order_of_the_method(method: str, order: int):
    """Assert that halving the step divides the energy residual by 2^order."""
    objective = flow.Objective(lambda x: 0.5 * x @ x + 0.25 * (x @ x) ** 2, np.array([0.4, 0.8]))
    residual = [
        flow.audit(flow.integrate(objective, 1.0, method=method, step=h)).energy_residual
        for h in (0.02, 0.01)
    ]
    assert np.log2(abs(residual[0] / residual[1])) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("method", "order"), [("Euler", 1), ("RK4", 4)])
def test_order_of_fixed_steps(method: str, order: int):
    """Assert that the error at t = 1 falls as h^order, and between steps as h³ at least."""
    problem = flow.exact.quadratic(np.diag([1.0, 3.0]), np.array([1.0, -2.0]))
    errors, between = [], []
    for h in (0.04, 0.02, 0.01):
        path = flow.integrate(problem.objective, 1.0, method=method, step=h, save=[0.517, 1.0])
        error = np.linalg.norm(path.theta - problem.theta(path.t), axis=1)
        between.append(error[0])
        errors.append(error[1])
    slope = np.polyfit(np.log([4, 2, 1]), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.1)
    assert between[-1] < between[0] * 4.0 ** -(min(order, 3) - 0.5)


@pytest.mark.parametrize("method", ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"])
def test_the_steps_are_those_of_solve_ivp(method: str):
    """Assert the same states as `solve_ivp` on the same right-hand side, at times between steps.

    Of DOP853, whose dense output is not to be trusted, where its steps begin.
    """
    problem = flow.exact.two_layer_scalar(2.0, 0.3)
    times = None if method == "DOP853" else np.linspace(0, 3, 17)
    options = {"method": method, "rtol": 1e-7, "atol": 1e-10}

    def rhs(_: float, p: np.ndarray) -> np.ndarray:
        return (2.0 - p[0] * p[1]) * p[::-1]

    if method in ("Radau", "BDF", "LSODA"):
        options["jac"] = lambda t, p: np.array(
            [[-(p[1] ** 2), 2.0 - 2 * p[0] * p[1]], [2.0 - 2 * p[0] * p[1], -(p[0] ** 2)]]
        )
    theirs = scipy.integrate.solve_ivp(
        rhs, (0, 3), problem.objective.theta, t_eval=times, **options
    )
    options.pop("jac", None)
    # Within the step that begins there, also where the last digits of its time are others.
    at = np.minimum(theirs.t + 2e-10, 3.0) if times is None else times
    path = flow.integrate(problem.objective, 3.0, save=at, **options)
    np.testing.assert_allclose(path.theta, theirs.y.T, rtol=0, atol=1e-9)


def test_counts_are_the_calls(digits: flow.Objective):
    """Assert that gradients are the right-hand sides that scipy asks for plus those of saving."""
    path = flow.integrate(digits, t=4.0, save=2)
    calls = 0

    def rhs(_: float, theta: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return -digits.flat_value_and_gradient(theta)[1]

    theirs = scipy.integrate.solve_ivp(rhs, (0, 4.0), digits.theta, "DOP853", rtol=1e-6, atol=1e-9)
    stats = path.stats
    assert stats["gradients"] - stats["save_gradients"] == calls
    assert stats["steps"] == len(theirs.t) - 1
    # A DOP853 attempt takes 12 evaluations; two more choose the first step.
    assert stats["rejected"] == (calls - 2) / 12 - stats["steps"]
    assert stats["save_gradients"] == 1  # at θ₀; at the end J and ∇J are known


def test_ceilings_on_counts(digits: flow.Objective, small: flow.Objective):
    """Assert that the default method and an implicit one spend no more than they did."""
    assert flow.integrate(digits, t=30.0, save=2).stats["gradients"] < 1900
    implicit = flow.integrate(small, t=30.0, method="Radau", save=2).stats
    assert implicit["gradients"] < 1000
    assert implicit["hvps"] <= 10 * small.size
    assert implicit["hvps"] % small.size == 0


def test_implicit_methods_get_the_exact_jacobian(small: flow.Objective):
    """Assert that the Jacobian is −∇²J, column by column, and that no difference is taken."""
    from flow.dynamics.flattened import flatten

    theta = small.theta
    with double_precision():
        J = flatten(flow.GradientFlow(small)).jacobian(0.0, theta)
    for i in (0, 7, small.size - 1):
        np.testing.assert_allclose(
            J[:, i], -small.flat_hvp(theta, np.eye(small.size)[i]), atol=1e-14
        )


def test_saving_has_no_say_in_the_motion(digits: flow.Objective):
    """Assert that the trajectory is the same, whatever is saved and observed."""
    few = flow.integrate(digits, t=3.0, save=[1.7, 3.0])
    many = flow.integrate(digits, t=3.0, save=np.union1d(np.linspace(0, 3, 50), [1.7]))
    np.testing.assert_array_equal(few.theta[0], many.theta[many.t == 1.7][0])
    np.testing.assert_array_equal(few.theta[-1], many.theta[-1])
    assert few.t.tolist() == [1.7, 3.0]


def test_recorded_losses_and_norms(digits: flow.Objective):
    """Assert that J and ‖∇J‖ are those of the saved parameters, pytree and flat."""
    path = flow.integrate(digits, t=3.0, save=4)
    for i in range(4):
        value, gradient = digits.value_and_gradient(path.params(i))
        assert path.loss[i] == pytest.approx(value, rel=1e-14)
        norm = np.linalg.norm(digits.flatten(gradient))
        assert path.gradient_norm[i] == pytest.approx(norm, rel=1e-13)
    np.testing.assert_array_equal(digits.flatten(path.params(2)), path.theta[2])
    assert path.theta.dtype == path.loss.dtype == path.t.dtype == np.float64


def test_log_spacing():
    """Assert 0 and then times evenly spaced in log t, for the flow and for the steps of GD."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(1))
    t = flow.integrate(objective, 10.0, spacing="log", save=11).t
    assert (t[0], t[-1], len(t)) == (0.0, 10.0, 11)
    np.testing.assert_allclose(t[2:] / t[1:-1], 10.0 ** (5 / 9))
    k = flow.descend(objective, 0.1, steps=100, spacing="log", save=11).t / 0.1
    np.testing.assert_allclose(k, np.round(k))
    assert np.all(np.diff(np.log(k[2:])) > 0)


def test_observers_see_params_and_are_counted(digits: flow.Objective):
    """Assert that observables are those of the saved parameters, and their cost is kept apart."""
    train, held_out = flow.datasets.digits(300, test=100)

    def gradient_entry(objective: flow.Objective, params: list) -> float:
        return objective.gradient(params)[0]["W"][0, 3]

    ask = flow.observe.Observer(
        init=lambda objective, params: 0,
        update=lambda objective, params, calls: (
            [calls, float(objective.flatten(objective.hvp(params, params))[0])],
            calls + 1,
        ),
    )
    observe = {
        "entry": gradient_entry,
        "asked": ask,
        "accuracy": flow.observe.accuracy(*held_out),
        "test loss": flow.observe.test_loss(*held_out),
    }
    for run in (
        flow.integrate(digits, 2.0, save=3, observe=observe),
        flow.descend(digits, 0.05, steps=40, save=3, observe=observe),
    ):
        params = run.params(-1)
        assert run.observed["entry"][-1] == gradient_entry(digits, params)
        assert run.observed["asked"][:, 0].tolist() == [0, 1, 2]
        W, V = params
        scores = V["W"] @ np.tanh(W["W"] @ held_out[0].T + W["b"]) + V["b"]
        right = scores.argmax(0) == held_out[1].argmax(1)
        assert run.observed["accuracy"][-1] == right.mean()
        loss = 0.5 * np.sum((scores - held_out[1].T) ** 2) / 100
        assert run.observed["test loss"][-1] == pytest.approx(loss, rel=1e-13)
        assert (run.stats["observer_gradients"], run.stats["observer_hvps"]) == (3, 3)
    assert len(train[0]) == 300


def test_a_users_solver_class(digits: flow.Objective):
    """Assert that an OdeSolver class is driven like its name, and can be repeated by compare."""

    class Mine(scipy.integrate.RK45):
        """A subclass that scipy does not know."""

    mine = flow.integrate(digits, 1.0, method=Mine, save=5)
    named = flow.integrate(digits, 1.0, method="RK45", save=5)
    np.testing.assert_array_equal(mine.theta, named.theta)
    assert mine.stats["dissipated"] == named.stats["dissipated"]
    gap = flow.compare(mine, flow.descend(digits, 0.01, steps=100, save=8)).distance[-1]
    assert 0 < gap < 0.1
    assert mine.config["method"] == "Mine"
