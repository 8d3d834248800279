"""What makes no sense is refused at the door, with the argument, the value met or the remedy."""

import pickle
from functools import partial
from math import inf, nan
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import flow
from flow.records.record import new_run_folder

pytestmark = pytest.mark.quick

X, Y = flow.datasets.digits(20)


@pytest.fixture(scope="module")
def bowl() -> flow.Objective:
    """A loss without data."""
    return flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, 1.0]))


@pytest.fixture(scope="module")
def network() -> flow.Objective:
    """A small network on 20 digits."""
    return flow.MLP([64, 2, 10]).objective(X, Y)


@pytest.fixture(scope="module")
def path(bowl: flow.Objective) -> flow.Trajectory:
    """A flow."""
    return flow.integrate(bowl, 1.0, save=3)


# ---- objectives


@pytest.mark.parametrize(
    ("leaf", "met"),
    [
        (3, "a int"),
        (True, "a bool"),
        ("tanh", "a str"),
        (1j, "a complex"),
        (np.arange(3), "an array of int64"),
        (np.array([True]), "an array of bool"),
        (np.ones(2, complex), "an array of complex128"),
        (jnp.arange(3), r"an array of int\d+"),
    ],
)
def test_leaves_that_cannot_move(leaf: object, met: str):
    """Assert that such a leaf is named by its path, with what it is and what to do."""
    params = {"a": np.ones(2), "net": [np.ones(1), {"width": leaf}]}
    place = r"params\['net'\]\[1\]\['width'\]"
    message = rf"{place} must be a floating-point array, got {met}(; convert|: a flow is of real)"
    with pytest.raises(TypeError, match=message):
        flow.Objective(lambda p: p["a"].sum(), params)


class Tensor:
    """What torch's tensors are like: of float32, and not to be read where a gradient is kept."""

    dtype, device, shape = "torch.float32", "cpu", (2,)

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def detach(self) -> "Tensor":
        """Without its gradient."""
        return self


class Variable:
    """What TensorFlow's are like."""

    dtype, shape = "float32", (2,)

    def numpy(self) -> np.ndarray:
        """As numpy has it."""
        return np.ones(2, np.float32)


class Rows:
    """A data set that is read example by example, as torch's are."""

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return X[i], Y[i]

    def __len__(self) -> int:
        return len(X)


class Model:
    """A torch model holds its parameters."""

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """One weight."""
        return [("W", Tensor())]


@pytest.mark.parametrize(
    ("leaf", "remedy"),
    [
        (Tensor(), r"\.detach\(\)\.numpy\(\)$"),
        (Variable(), r"\.numpy\(\)$"),
        (pd.Series([1.0, 2.0]), r"a pandas Series; give params\['W'\]\.to_numpy\(\)$"),
        (pd.DataFrame({"a": [1.0]}), r"a pandas DataFrame; give params\['W'\]\.to_numpy\(\)$"),
        (Model(), r"a model; give its parameters, {k: p\.detach\(\)\.numpy\(\) for"),
        (iter(X), "a builtins iterator, which is read piece by piece"),
    ],
)
def test_arrays_of_other_libraries(leaf: object, remedy: str):
    """Assert that such a leaf of the parameters is named, with what to type behind it."""
    with pytest.raises(TypeError, match=rf"^params\['W'\] must be an array of .*{remedy}"):
        flow.Objective(lambda p: p["W"].sum(), {"W": leaf})


def test_data_of_other_libraries(bowl: flow.Objective):
    """Assert that pandas' are taken, and what can't be read as arrays is named, at every door."""
    loss = lambda w, batch: jnp.mean((batch["x"] @ w - batch["y"]) ** 2)  # noqa: E731
    table = pd.DataFrame(X)
    taken = flow.Objective(loss, np.ones(64), {"x": table, "y": table[0]})
    assert taken.value(taken.params) == pytest.approx(np.mean((X.sum(1) - X[:, 0]) ** 2))
    with pytest.raises(
        TypeError, match=r"^data\['y'\] .*; give data\['y'\]\.detach\(\)\.numpy\(\)$"
    ):
        flow.Objective(loss, np.ones(64), {"x": table, "y": Tensor()})
    for rows in (Rows(), iter(X)):
        with pytest.raises(TypeError, match="which is read piece by piece; give whole arrays"):
            flow.Objective(loss, np.ones(64), rows)
    with pytest.raises(TypeError, match=r"^X must .*; give it as X\.detach\(\)\.numpy\(\)$"):
        flow.MLP([2, 1]).objective(Tensor(), Y)
    with pytest.raises(
        TypeError, match=r"^params must .*; give it as params\.detach\(\)\.numpy\(\)$"
    ):
        bowl.value(Tensor())


def test_a_bare_integer_is_no_parameter():
    """Assert that θ₀ itself is named where it is the leaf."""
    with pytest.raises(TypeError, match="^params must be a floating-point array, got a int"):
        flow.Objective(lambda x: x**2, 3)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda x: x**2, ValueError, r"loss must return a scalar, got an array of shape \(2,\)"),
        (lambda x: x[:1], ValueError, r"scalar, got an array of shape \(1,\); take the mean"),
        (lambda x: None, ValueError, "loss must return a scalar, got a pytree"),
        (lambda x: (1j * x).sum(), TypeError, "loss must return a real .* got complex128"),
        (lambda x: 3, TypeError, "loss must return a real floating-point number, got int"),
        (lambda x: jnp.log(-x).sum(), ValueError, "loss is nan at the initial parameters; start"),
        (lambda x: (1 / (x - 1)).sum(), ValueError, "loss is inf at the initial parameters"),
        (3.0, TypeError, r"loss must be a function of the parameters, got 3\.0"),
    ],
)
def test_losses_that_are_none(loss: object, error: type, message: str):
    """Assert that what is no finite real scalar function of θ is refused with what was met."""
    with pytest.raises(error, match=message):
        flow.Objective(loss, np.ones(2))


def test_a_gradient_that_is_not_finite():
    """Assert that both kinds of run refuse to start where ∇J is infinite."""
    root = flow.Objective(lambda x: jnp.sqrt(x).sum(), np.zeros(2))
    with pytest.raises(
        ValueError, match=r"the loss is 0\.0 and its gradient's norm inf: ∇J is not"
    ):
        flow.integrate(root, 1.0)
    with pytest.raises(
        ValueError, match=r"the loss is 0\.0 and its gradient's norm inf: ∇J is not"
    ):
        flow.descend(root, 0.1, 3)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X, Y[:5]), ValueError, r"leading axes of the data differ, .*\[0\]': 20, .*\[1\]': 5"),
        ((X[:0], Y[:0]), ValueError, r"data\[0\] has shape \(0, 64\); it needs at least one"),
        ((X, Y[:0]), ValueError, r"data\[1\] has shape \(0, 10\); it needs at least one"),
        ((X, 1.0), ValueError, r"data\[1\] has shape \(\); it needs at least one example"),
        ((X, np.array(["a"] * 20)), TypeError, r"data\[1\] must be numeric, got dtype <U1"),
        ((X * nan, Y), ValueError, "loss is nan at the initial parameters; .*and data"),
    ],
)
def test_data_that_do_not_fit(data: tuple, error: type, message: str):
    """Assert that ragged, empty, textual and NaN data are refused, by a loss and by a network."""
    with pytest.raises(error, match=message):
        flow.Objective(
            lambda W, batch: jnp.mean((batch[0] @ W - batch[1]) ** 2), np.zeros((64, 10)), data
        )


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (X, Y[:5], r"leading axes of the data differ, .*20.*5"),
        (X[:0], Y[:0], r"shape \(0, 64\); it needs at least one example"),
        (
            X[:, :7],
            Y,
            r"X must be \(examples, 64\) for a network of 64 inputs, got shape \(20, 7\)",
        ),
        (X.T, Y, r"X must be \(examples, 64\) .* got shape \(64, 20\)"),
        (X[0], Y[:1], r"X must be \(examples, 64\) .* got shape \(64,\)"),
        (X, Y[:, :7], r"y must be \(examples, 10\) for a network of 10 outputs, got .*\(20, 7\)"),
        (
            X,
            Y.argmax(axis=1),
            r"y must be .* got shape \(20,\); classes are one-hot .*np\.eye\(10\)",
        ),
    ],
)
def test_data_that_do_not_fit_the_network(X: np.ndarray, y: np.ndarray, message: str):
    """Assert that wrong numbers of rows, features and outputs are named."""
    with pytest.raises(ValueError, match=message):
        flow.MLP([64, 2, 10]).objective(X, y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"activation": "tahn"}, ValueError, "activation 'tahn' is unknown.*mean 'tanh'"),
        ({"activation": "ReLU"}, ValueError, "activation 'ReLU' is unknown.*mean 'relu'"),
        ({"activation": None}, ValueError, "activation None is unknown. Choose from 'tanh'"),
        ({"init": "xavir"}, ValueError, "init 'xavir' is unknown.*mean 'xavier'"),
        ({"init": "He"}, ValueError, "init 'He' is unknown.*mean 'he'"),
        ({"gain": 0}, ValueError, "gain must be positive and finite, got 0"),
        ({"sizes": [3, 0]}, ValueError, r"sizes\[1\] must be a positive integer, got 0"),
        ({"sizes": [3, 2.5]}, TypeError, r"sizes\[1\] must be a positive integer, got 2\.5"),
        ({"sizes": [3]}, ValueError, r"sizes needs at least inputs and outputs, got \[3\]"),
    ],
)
def test_networks_that_are_none(arguments: dict, error: type, message: str):
    """Assert that a wrong description of a network is refused, with the nearest name."""
    with pytest.raises(error, match=message):
        flow.MLP(**{"sizes": [3, 2]} | arguments)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("cross-entropy", "cross_entropy"), ("MSE", "mse"), ("binary_crossentropy", "binary_cross_")],
)
def test_losses_by_another_name(name: str, nearest: str):
    """Assert that the nearest name of a loss is suggested."""
    with pytest.raises(ValueError, match=f"loss '{name}' is unknown.*Did you mean '{nearest}"):
        flow.MLP([64, 10]).objective(X, Y, loss=name)


# ---- integrate

INTEGRATE = [
    ({"method": "dop85"}, ValueError, r"method 'dop85' is unknown\. Did you mean 'DOP853'\?"),
    ({"method": "DOP835"}, ValueError, r"method 'DOP835' is unknown\. Did you mean 'DOP853'\?"),
    ({"method": "rk4"}, ValueError, r"method 'rk4' is unknown\. Did you mean 'RK4'\?"),
    ({"method": "lsoda"}, ValueError, r"method 'lsoda' is unknown\. Did you mean 'LSODA'\?"),
    ({"spacing": "liner"}, ValueError, "spacing 'liner' is unknown.*mean 'linear'"),
    ({"spacing": "logarithmic"}, ValueError, "spacing 'logarithmic' is unknown.*mean 'log'"),
    ({"engine": "scpy"}, ValueError, "engine 'scpy' is unknown.*mean 'scipy'"),
    ({"t": 0}, ValueError, r"t must be positive, got 0.*learning rate × steps"),
    ({"t": -1.0}, ValueError, r"t must be positive, got -1\.0"),
    ({"t": -inf}, ValueError, "t must be positive, got -inf"),
    ({"t": nan}, ValueError, "t must be positive, got nan"),
    ({"t": "3"}, TypeError, "t must be a number, got '3' of type str"),
    ({"t": None}, TypeError, "t must be a number, got None"),
    ({"t": True}, TypeError, "t must be a number, got True"),
    ({"t": inf}, ValueError, r"t is infinite and nothing ends the run; give stop="),
    ({"rtol": 1e-15}, ValueError, r"rtol=1e-15 is below 2\.2e-14.*raise rtol$"),
    ({"rtol": 0}, ValueError, "rtol must be positive and finite, got 0"),
    ({"rtol": nan}, ValueError, "rtol must be positive and finite, got nan"),
    ({"rtol": "1e-3"}, TypeError, "rtol must be a number, got '1e-3'"),
    ({"rtol": [1e-3, 1e-4]}, TypeError, "rtol must be a number, got .*list"),
    ({"atol": -1}, ValueError, "atol must be finite and not negative, got -1"),
    ({"atol": nan}, ValueError, "atol must be finite and not negative, got nan"),
    ({"atol": inf}, ValueError, "atol must be finite and not negative, got inf"),
    ({"step": 0.1}, ValueError, r"step=0\.1 goes with methods of fixed steps; 'DOP853' chooses"),
    ({"method": "Euler"}, ValueError, "method 'Euler' needs step=, in units of t"),
    ({"method": "RK4"}, ValueError, "method 'RK4' needs step="),
    ({"method": "Euler", "step": -0.1}, ValueError, r"step must be positive .* got -0\.1"),
    ({"method": "RK4", "step": 0}, ValueError, "step must be positive and finite, got 0"),
    ({"method": "RK4", "step": "h"}, TypeError, "step must be a number, got 'h'"),
    ({"save": [0, 2.0]}, ValueError, r"save times must lie in \[0, 1\], got 0 to 2"),
    ({"save": [-1, 0.5]}, ValueError, r"save times must lie in \[0, 1\], got -1 to 0\.5"),
    ({"save": [0.5, 0.2]}, ValueError, r"save times must be .* in order; np\.unique"),
    ({"save": [0, nan]}, ValueError, "save times must be finite"),
    ({"save": [[0, 1]]}, ValueError, r"save must be a number or a vector .* got shape \(1, 2\)"),
    ({"save": []}, ValueError, r"save must be a number or a vector of times, got shape \(0,\)"),
    ({"save": 1}, ValueError, "save must be at least 2 times, .* got 1"),
    ({"save": 0}, ValueError, "save must be a positive integer, got 0; a number of times"),
    ({"save": 2.5}, TypeError, r"save must be a positive integer, got 2\.5; a number of times"),
    ({"save": True}, TypeError, "save must be a positive integer, got True"),
    ({"save": None}, TypeError, "save must be a positive integer, got None"),
    ({"max_gradients": 0}, ValueError, "max_gradients must be a positive integer, got 0"),
    ({"max_gradients": -1}, ValueError, "max_gradients must be a positive integer, got -1"),
    ({"max_gradients": 1.5}, TypeError, r"max_gradients must be a positive integer, got 1\.5"),
    ({"max_steps": 0}, ValueError, "max_steps must be a positive integer, got 0"),
    ({"max_steps": 2.5}, TypeError, r"max_steps must be a positive integer, got 2\.5"),
    ({"max_steps": True}, TypeError, "max_steps must be a positive integer, got True"),
    ({"max_seconds": 0}, ValueError, "max_seconds must be positive and finite, got 0"),
    ({"max_seconds": -1}, ValueError, "max_seconds must be positive and finite, got -1"),
    ({"max_seconds": "1"}, TypeError, "max_seconds must be a number, got '1'"),
    ({"stop": [3]}, TypeError, r"stop must be flow\.stop\.loss.*got 3"),
    ({"stop": 3}, TypeError, r"stop must be flow\.stop\.loss.*got 3"),
    ({"observe": {"a": 3}}, TypeError, r"observe\['a'\] must be a function .* got 3"),
    ({"observe": {"loss": len}}, ValueError, r"observe\['loss'\]: every run records loss"),
    ({"observe": {"t": len}}, ValueError, r"observe\['t'\]: every run records t already; rename"),
    ({"observe": len}, TypeError, "observe must be"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), INTEGRATE)
def test_integrate_refuses(bowl: flow.Objective, arguments: dict, error: type, message: str):
    """Assert that each argument of `integrate` is refused by name, with the value met."""
    with pytest.raises(error, match=message):
        flow.integrate(bowl, **{"t": 1.0} | arguments)


@pytest.mark.parametrize("save", [0, 1, -3, 2.7, True, "many", None])
def test_integrate_to_infinity_refuses_such_a_number_of_saves(bowl: flow.Objective, save: object):
    """Assert that `save` is checked as well where rows are thinned as the run goes."""
    with pytest.raises((TypeError, ValueError), match=f"save must be .*{save}"):
        flow.integrate(bowl, inf, stop=flow.stop.loss(0.1), save=save)


def test_integrate_needs_an_objective():
    """Assert that a bare function is refused where an objective belongs."""
    with pytest.raises(
        TypeError,
        match=r"needs a dynamics or an objective, flow.Objective\(loss, params\); got <fun",
    ):
        flow.integrate(lambda x: x, 1.0)
    with pytest.raises(
        TypeError, match=r"descend needs an objective, flow.Objective\(loss, params\); got <fun"
    ):
        flow.descend(lambda x: x, 0.1, 3)


def test_what_is_met_for_an_objective(bowl: flow.Objective):
    """Assert what to type for a network, and for a dynamics where it is the objective's turn."""
    network = flow.MLP([2, 1])
    for door in (partial(flow.study, t=1.0), flow.integrate, partial(flow.descend, steps=1)):
        with pytest.raises(TypeError, match=r"objective, network\.objective\(X, y\); got MLP"):
            door(network, 1.0)
    with pytest.raises(TypeError, match=r"needs an objective, dynamics\.objective; got Gradient"):
        flow.descend(flow.GradientFlow(bowl), 0.1, 3)


def test_a_study_is_none_of_its_runs(bowl: flow.Objective):
    """Assert how its runs are given to what takes runs."""
    study = flow.study(bowl, [0.1], t=1.0, save=3, progress=False)
    with pytest.raises(TypeError, match=r"got a Study, .*they are study.flow, \*study.runs"):
        flow.plots.loss(study)


def test_a_loss_of_other_arguments_is_told_its_own():
    """Assert that X and y apart, or data that is not given, are answered with what is called."""
    apart, X = (lambda p, X, y: jnp.mean((X @ p - y) ** 2)), np.ones((3, 2))
    for loss, more, own in (
        (apart, {"data": (X, np.ones(3))}, "params, data"),
        (lambda p, batch: p @ p, {}, "params"),
    ):
        with pytest.raises(TypeError, match="missing 1 required") as raised:
            flow.Objective(loss, np.ones(2), **more)
        assert f"from loss, called with the initial parameters, loss({own})" in (
            raised.value.__notes__
        )


def test_a_gradient_of_another_structure_is_told_the_way():
    """Assert the remedy where nothing is returned, or a flat vector."""
    objective = flow.Objective(lambda p: p["w"] @ p["w"], {"w": np.ones(2)})
    with pytest.raises(ValueError, match="is a return missing"):
        flow.check_gradient(objective, gradient=lambda p: None)
    with pytest.raises(ValueError, match=r"objective\.unflatten\(theta\) makes them"):
        flow.check_gradient(objective, gradient=lambda p: 2 * p["w"])
    with pytest.raises(ValueError, match=r"objective\.unflatten\(theta\) makes them"):
        objective.starting_at(np.zeros(2))


def test_tolerance_below_single_precision():
    """Assert that the floor of float32 is stated, with both remedies, and that above it is fine."""
    single = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2), dtype="float32")
    with pytest.raises(ValueError, match=r"rtol=1e-06 is below 1\.2e-05.*raise rtol, or .*double"):
        flow.integrate(single, 1.0)
    assert flow.integrate(single, 1.0, rtol=1.3e-5, save=2).result == "reached t = 1"


def test_tolerance_at_the_floor_of_double_precision(bowl: flow.Objective):
    """Assert that a tolerance just above the floor is accepted."""
    assert flow.integrate(bowl, 1.0, rtol=2.3e-14, save=2).result == "reached t = 1"


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
def test_dense_methods_refuse_large_networks(method: str):
    """Assert that n × n methods name the size, the limit and the way out above 2,000 parameters."""
    large = flow.MLP([64, 32, 10]).objective(X, Y)
    with pytest.raises(ValueError, match=rf"'{method}' .* 2410 × 2410 .* above 2000 .*'DOP853'"):
        flow.integrate(large, 1.0, method=method)


@pytest.mark.parametrize("value", ["high", None, 1j, {"a": 1}, [1, [2, 3]]])
def test_observers_return_numbers(bowl: flow.Objective, value: object):
    """Assert that anything else is refused at θ₀, naming the observer."""
    observe = {"accuracy": lambda objective, params: value}
    for run in (partial(flow.integrate, bowl, 1.0), partial(flow.descend, bowl, 0.1, 3)):
        with pytest.raises((TypeError, ValueError)) as caught:
            run(observe=observe)
        assert "from observe['accuracy']" in caught.value.__notes__


def test_observers_that_return_a_string_say_what_is_wanted(bowl: flow.Objective):
    """Assert that the message names what came and what is wanted."""
    with pytest.raises(TypeError, match="must return a number or an array of numbers, got.*'high'"):
        flow.integrate(bowl, 1.0, observe={"a": lambda objective, params: "high"})


def test_names_of_observers_that_no_file_can_hold(bowl: flow.Objective, tmp_path: Path):
    """Assert that a run whose observers were accepted can be saved, whatever their names."""
    try:
        path = flow.integrate(bowl, 1.0, save=2, observe={"train/loss": lambda o, p: 1.0})
    except ValueError as error:
        assert "train/loss" in str(error)  # noqa: PT017 - refusing it at the door is as good
    else:
        assert "train/loss" in flow.load(path.save(tmp_path / "run.nc")).observed


# ---- descend

SGD = optax.sgd(0.1)
DESCEND = [
    ({"learning_rate": 0}, ValueError, "learning_rate must be positive and finite, got 0"),
    ({"learning_rate": -0.1}, ValueError, r"learning_rate must be positive .* got -0\.1"),
    ({"learning_rate": nan}, ValueError, "learning_rate must be positive and finite, got nan"),
    ({"learning_rate": inf}, ValueError, "learning_rate must be positive and finite, got inf"),
    ({"learning_rate": "0.1"}, TypeError, r"learning_rate must be a number, got '0\.1'"),
    ({"learning_rate": True}, TypeError, "learning_rate must be a number, got True"),
    ({"learning_rate": None}, ValueError, r"give a learning_rate, or an optax optimizer= and its"),
    (
        {"learning_rate": lambda k: 0.15 - 0.1 * k},
        ValueError,
        r"schedule, must stay .*-0\.05 at step 2",
    ),
    ({"learning_rate": lambda k: nan * k}, ValueError, r"schedule, must stay finite .*nan"),
    ({"learning_rate": lambda k: inf + k}, ValueError, r"schedule, must stay finite .* got .*inf"),
    ({"learning_rate": lambda k: jnp.ones(2)}, ValueError, r"schedule, must .* shape \(3, 2\)"),
    ({"learning_rate": lambda k: 0.0 * k}, ValueError, "is 0 at all 3 steps, and nothing moves"),
    ({"learning_rate": SGD}, TypeError, "is an optax optimizer; give it by name, and its clock"),
    ({"steps": 0}, ValueError, "steps must be a positive integer, got 0"),
    ({"steps": -1}, ValueError, "steps must be a positive integer, got -1"),
    ({"steps": 1.5}, TypeError, r"steps must be a positive integer, got 1\.5"),
    ({"steps": True}, TypeError, "steps must be a positive integer, got True"),
    ({"steps": None}, TypeError, "steps must be a positive integer, got None"),
    ({"optimizer": SGD}, ValueError, "give a learning_rate, or an optax optimizer= .*; not both"),
    ({"learning_rate": None, "optimizer": SGD}, ValueError, "optimizer= needs its time_step="),
    (
        {"learning_rate": None, "optimizer": SGD, "time_step": -1},
        ValueError,
        "time_step must be positive and finite, got -1",
    ),
    (
        {"learning_rate": None, "optimizer": "sgd", "time_step": 1.0},
        TypeError,
        r"optimizer must be an optax optimizer, as optax.adam\(1e-3\) is one; got 'sgd'",
    ),
    ({"batch_size": 2}, ValueError, "batch_size needs examples: flow.Objective"),
    ({"sampling": "epochs"}, ValueError, "sampling 'epochs' is unknown.*mean 'epoch'"),
    ({"sampling": "IDD"}, ValueError, "sampling 'IDD' is unknown.*mean 'iid'"),
    ({"spacing": "lin"}, ValueError, "spacing 'lin' is unknown.*mean 'linear'"),
    ({"save": [0, 1.0]}, ValueError, r"save times must lie in \[0, 0\.3\], got 0 to 1"),
    ({"save": [0.2, 0.1]}, ValueError, "save times must be .* in order"),
    ({"save": [0.1, nan]}, ValueError, "save times must be finite"),
    ({"save": 1}, ValueError, "save must be at least 2 times, .* got 1"),
    ({"save": 0}, ValueError, "save must be a positive integer, got 0"),
    ({"max_seconds": 0}, ValueError, "max_seconds must be positive and finite, got 0"),
    ({"stop": [0.1]}, TypeError, r"stop must be flow\.stop\.loss.*got 0\.1"),
    ({"stop": 0.1}, TypeError, r"stop must be flow\.stop\.loss.*got 0\.1"),
    ({"observe": {"a": 3}}, TypeError, r"observe\['a'\] must be a function .* got 3"),
    ({"observe": {"gradient_norm": len}}, ValueError, r"observe\['gradient_norm'\]: every run"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), DESCEND)
def test_descend_refuses(bowl: flow.Objective, arguments: dict, error: type, message: str):
    """Assert that each argument of `descend` is refused by name, with the value met."""
    with pytest.raises(error, match=message):
        flow.descend(bowl, **{"learning_rate": 0.1, "steps": 3} | arguments)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (21, ValueError, "batch_size=21 is more than the 20 examples"),
        (0, ValueError, "batch_size must be a positive integer, got 0"),
        (2.5, TypeError, r"batch_size must be a positive integer, got 2\.5"),
        (True, TypeError, "batch_size must be a positive integer, got True"),
    ],
)
def test_batch_sizes(network: flow.Objective, size: object, error: type, message: str):
    """Assert that a batch must be a number of the examples that there are."""
    with pytest.raises(error, match=message):
        flow.descend(network, 0.1, 3, batch_size=size)


# ---- what runs are asked


@pytest.mark.parametrize(
    ("threshold", "error"), [("low", TypeError), (nan, ValueError), (None, TypeError)]
)
@pytest.mark.parametrize("condition", [flow.stop.loss, flow.stop.gradient_norm])
def test_thresholds_are_numbers(condition: object, threshold: object, error: type):
    """Assert that a threshold that no value can meet is refused."""
    with pytest.raises(error, match=f"threshold must be .* got '?{threshold}"):
        condition(threshold)


def test_compare_different_problems(path: flow.Trajectory, network: flow.Objective):
    """Assert that runs of other sizes, θ₀ or data are told apart by what differs."""
    bowl = lambda x0: flow.Objective(lambda x: 0.5 * x @ x, x0)  # noqa: E731
    with pytest.raises(ValueError, match="needs a reference and at least one other run"):
        flow.compare(path)
    with pytest.raises(ValueError, match="number of parameters is 2 and 3"):
        flow.compare(path, flow.descend(bowl(np.ones(3)), 0.1, 3))
    with pytest.raises(
        ValueError, match=r"norm of the initial parameters is 1\.41421 and 2\.23607"
    ):
        flow.compare(path, flow.descend(bowl(np.array([2.0, 1.0])), 0.1, 3))
    other = flow.MLP([64, 2, 10]).objective(X, np.roll(Y, 1, axis=0))
    runs = [flow.descend(objective, 0.1, 3) for objective in (network, other)]
    with pytest.raises(ValueError, match="different problems: their initial loss is"):
        flow.compare(*runs)


def test_audit_refuses(bowl: flow.Objective, path: flow.Trajectory, tmp_path: Path):
    """Assert that an error bar needs a flow that can be run again, and its own objective."""
    steps = flow.descend(bowl, 0.1, 3)
    for objective in (None, bowl):
        with pytest.raises(ValueError, match="a discrete run .* has no error bar; audit the flow"):
            flow.audit(steps, objective, error_bar=True)
    loaded = flow.load(path.save(tmp_path / "run.nc"))
    with pytest.raises(ValueError, match=r"carries no objective; pass it: flow\.audit\(path, obj"):
        flow.audit(loaded, error_bar=True)
    other = flow.Objective(lambda x: x @ x, np.ones(3))
    with pytest.raises(ValueError, match="the objective has 3 parameters, but the run 2"):
        flow.audit(loaded, other)


def test_eigenvalues_that_are_none(bowl: flow.Objective):
    """Assert that k is a positive number of at most n, and params of the objective's form."""
    with pytest.raises(ValueError, match="k=3 eigenvalues of a Hessian of size 2: k is at most 2"):
        flow.top_eigenvalues(bowl, bowl.params, k=3)
    with pytest.raises(ValueError, match="k must be a positive integer, got 0"):
        flow.top_eigenvalues(bowl, bowl.params, k=0)
    with pytest.raises(ValueError, match=r"params has shape \(3,\).*\(2,\)"):
        flow.top_eigenvalues(bowl, np.ones(3))


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([0.1], r"learning_rates \[0\.1\] make \[10\] steps to t=1; a slope needs two"),
        ([0.1, 0.1001], "a slope needs two different numbers of steps"),
        ([], "a slope needs two different numbers of steps"),
        ([0.1, -0.2], r"learning_rates must be positive and finite, got -0\.2"),
        ("aut", "learning_rates must be numbers or 'auto', got 'aut'"),
    ],
)
def test_order_study_needs_two_learning_rates(bowl: flow.Objective, rates: object, message: str):
    """Assert that what gives no slope is refused."""
    with pytest.raises(ValueError, match=message):
        flow.order_study(bowl, 1.0, learning_rates=rates)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"examples": 2000}, ValueError, "examples=2000 .* there are 1797"),
        ({"examples": 0}, ValueError, "examples must be a positive integer, got 0"),
        ({"examples": -1}, ValueError, "examples must be a positive integer, got -1"),
        ({"examples": 1.5}, TypeError, r"examples must be a positive integer, got 1\.5"),
        ({"examples": 1700, "test": 200}, ValueError, "examples=1700 and test=200 need 1900"),
        ({"examples": 10, "test": 0}, ValueError, "test must be a positive integer, got 0"),
    ],
)
def test_digits_that_there_are(arguments: dict, error: type, message: str):
    """Assert that no more digits are handed out than there are, and at least one."""
    with pytest.raises(error, match=message):
        flow.datasets.digits(**arguments)


# ---- words


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: flow.integrate(o, T=1.0), "integrate has no argument T=; it takes t="),
        (lambda o: flow.integrate(o, 1.0, tol=1e-3), "tol=; it takes rtol= and atol="),
        (lambda o: flow.integrate(o, 1.0, solver="RK45"), "solver=; it takes method="),
        (lambda o: flow.integrate(o, 1.0, n_saves=3), "n_saves=; it takes save="),
        (lambda o: flow.integrate(o, 1.0, lr=0.1), "it takes step= with method='Euler'; for"),
        (lambda o: flow.integrate(o, 1.0, callback=print), "callback=; it takes observe="),
        (lambda o: flow.integrate(o, 1.0, kep="last"), "kep=; did you mean keep="),
        (lambda o: flow.integrate(o, 1.0, "RK4"), "takes dynamics, t in this .*; got 'RK4'"),
        (lambda o: flow.descend(o, lr=0.1, steps=3), "lr=; it takes learning_rate="),
        (lambda o: flow.descend(o, 0.1, t=5.0), "it takes steps=: t is learning_rate × steps"),
        (lambda o: flow.descend(o, 0.1, epochs=5), "epochs=; it takes steps="),
        (lambda o: flow.descend(o, 0.1, 5, batchSize=5), "batchSize=; it takes batch_size="),
        (lambda o: flow.study(o, lr=0.1, t=1.0), "lr=; it takes learning_rates="),
        (lambda o: flow.study(o, t=1.0, tol=1e-3), "tol=; it takes rtol= and atol="),
        (lambda o: flow.sweep(len, params={}), "params=; it takes grid="),
        (lambda o: flow.MLP(layers=[1, 1]), "MLP has no argument layers=; it takes sizes="),
        (lambda o: flow.Checkpoint(dir="here"), "dir=; it takes folder="),
        (lambda o: flow.plots.loss(figure=3), "loss has no argument figure=; it takes ax="),
        (lambda o: flow.Objective(len, theta0=[1.0]), "theta0=; it takes params="),
        (lambda o: flow.sharpness(o, bad=1), "bad=; it takes objective=, params="),
    ],
)
def test_the_words_of_other_libraries(bowl: flow.Objective, call: object, message: str):
    """Assert that an argument that flow calls otherwise is answered with what flow calls it."""
    with pytest.raises(TypeError, match=message):
        call(bowl)


def test_every_door_names_its_arguments():
    """Assert that all that is called by name says what it takes, and can be pickled."""
    made = "Action Audit Comparison Explanation GradientCheck OrderStudy Study Trajectory"
    observers = "Observer accuracy test_loss projection adam_sharpness rmsprop_sharpness sharpness"
    doors = [getattr(room, n) for room in (flow, flow.plots, flow.dynamics) for n in room.__all__]
    doors += [getattr(flow.observe, name) for name in observers.split()]
    doors += [flow.stop.loss, flow.stop.gradient_norm, flow.datasets.digits, flow.networks.deep]
    for door in doors:
        exception = isinstance(door, type) and issubclass(door, Exception)
        if exception or not callable(door) or door.__name__ in [*made.split(), "shared_legend"]:
            continue
        assert pickle.loads(pickle.dumps(door)) is door  # noqa: S301
        layer, own = (door.__init__, [door]) if isinstance(door, type) else (door, [])
        while not layer.__code__.co_filename.endswith("keywords.py"):  # conftest's types are above
            layer = layer.__wrapped__
        with pytest.raises(TypeError, match=rf"{door.__name__} has no argument zzz=; it takes "):
            layer(*own, zzz=1)


def test_a_warning_is_of_the_line_that_called():
    """Assert that it tells of the user's line, and not of one of flow's."""
    net = flow.Objective(lambda x, b: (x * (b - b.mean())).std(), np.ones(1), data=np.arange(4.0))
    with pytest.warns(flow.BatchWarning) as met:
        flow.descend(net, 0.1, 2, batch_size=2)
    assert met[0].filename == __file__


# ---- first things typed


def test_lists_of_runs(path: flow.Trajectory, bowl: flow.Objective):
    """Assert that runs in a list are the runs one by one."""
    steps = [flow.descend(bowl, rate, n, save=3) for rate, n in ((0.25, 4), (0.5, 2))]
    apart = flow.compare(path, *steps, error_bar=False).distance
    for given in ([path, steps], [[path, *steps]], [path, tuple(steps)]):
        again = flow.compare(*given, error_bar=False).distance
        np.testing.assert_array_equal(np.concatenate(again), np.concatenate(apart))
    drawn = flow.plots.loss(path, *steps), flow.plots.loss([path, *steps])
    for one, other in zip(*(ax.get_lines() for ax in drawn), strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_labels_of_classes(network: flow.Objective):
    """Assert that integer labels count the outputs, as their one-hot rows say."""
    labels = Y.argmax(axis=1)
    expected = flow.observe.accuracy(X, Y)(network, network.params)
    for y in (labels, labels.tolist(), labels[:, None], labels.astype(float)):
        assert flow.observe.accuracy(X, y)(network, network.params) == expected
    for y, met in ((labels + 1, "got 10"), (labels + 0.5, r"got \d\.5")):
        with pytest.raises(ValueError, match=f"y must count the 10 outputs from 0, {met}"):
            flow.observe.accuracy(X, y)(network, network.params)


@pytest.mark.parametrize("t", [0.1, 0.3, 0.7, 1e3])
def test_times_in_single_precision(bowl: flow.Objective, t: float):
    """Assert that the last of them is t, be it above it or below, and that others are refused."""
    times = np.linspace(0.0, t, 4, dtype=np.float32)
    assert float(times[-1]) != t or t == 1e3
    assert flow.integrate(bowl, t, save=times, method="Euler", step=t / 3).t[-1] == t
    assert flow.descend(bowl, t / 3, 3, save=jnp.asarray(times)).t[-1] == t
    with pytest.raises(ValueError, match="save times must lie in"):
        flow.integrate(bowl, t, save=times * np.float32(1.00001))


def test_data_of_another_byte_order_or_in_lists():
    """Assert the same loss of big-endian arrays, lists, and lists of lists."""
    rows, y = np.arange(6).reshape(3, 2), np.array([1.0, -1.0, 2.0])

    def loss(w: object, batch: object) -> object:
        A, b = batch
        return ((A @ w["w"] - b) ** 2).mean()

    params = {"w": np.array([0.5, -1.0])}
    expected = flow.Objective(loss, params, data=(rows, y)).value(params)
    for kind in (">i4", ">i8", ">u2", ">f4", ">f8"):
        objective = flow.Objective(loss, params, data=(rows.astype(kind), y.astype(">f8")))
        assert objective.value(params) == expected
    for data in ((rows.tolist(), y.tolist()), [rows.tolist(), y.tolist()], (rows, y.tolist())):
        assert flow.Objective(loss, params, data=data).value(params) == expected
    big = {"w": params["w"].astype(">f8")}
    assert flow.Objective(loss, big, data=(rows, y)).value(params) == expected
    alone = flow.Objective(lambda w, A: (A @ w["w"]).mean(), params, data=rows.tolist())
    assert alone.value(params) == np.mean(rows @ params["w"])
    with pytest.raises(ValueError, match=r"two examples or a pair: give np.array\(data\), or"):
        flow.Objective(loss, params, data=[[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(TypeError) as met:
        flow.Objective(lambda w: w @ w, [1.0, 2.0])
    assert any("np.array([1.0, 2.0])" in note for note in met.value.__notes__)


def test_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bowl: flow.Objective):
    """Assert that ~ is the user's folder in every path that is typed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = flow.integrate(bowl, 1.0, save=3, checkpoint="~/kept")
    assert path.save("~/run.nc") == tmp_path / "run.nc"
    assert flow.load("~/run.nc").loss[-1] == path.loss[-1]
    assert flow.resume("~/kept", bowl).loss[-1] == path.loss[-1]
    often = flow.Checkpoint("~/steps", gradients=10)
    flow.descend(bowl, 0.1, 3, checkpoint=often)
    flow.sweep(lambda a: a, {"a": [1.0]}, folder="~/cells", progress=False)
    flow.plots.animate(flow.plots.loss(path), "~/loss.gif", frames=2, progress=False)
    assert new_run_folder("script", "", "~/results").is_relative_to(tmp_path / "results")
    found = {p.name for p in tmp_path.iterdir()}
    assert found >= {"run.nc", "kept", "steps", "cells", "loss.gif", "results"}
    with pytest.raises(FileNotFoundError, match="folder ~nobody-of-that-name does not exist"):
        path.save("~nobody-of-that-name/run.nc")


def test_rows_that_are_orthogonal_in_single_precision():
    """Assert that the flow starts at the nearest point of the manifold, and that this is told."""
    W = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 2)))[0].T.astype(np.float32)
    objective = flow.Objective(lambda W: -0.5 * (W @ jnp.diag(jnp.arange(3.0)) * W).sum(), W)
    assert np.abs(W.astype(float) @ W.T.astype(float) - np.eye(2)).max() > 1e-9
    with pytest.warns(flow.PrecisionWarning, match="orthogonal as float32 has them"):
        dynamics = flow.StiefelFlow(objective)
    start = dynamics.objective.theta.reshape(2, 3)
    np.testing.assert_allclose(
        start @ start.T, np.trace(start @ start.T) / 2 * np.eye(2), atol=1e-15
    )
    np.testing.assert_allclose(start, W, atol=1e-7)
    with pytest.raises(ValueError, match="is not on the Stiefel manifold"):
        flow.StiefelFlow(objective.starting_at(W * np.array([[1.0], [1.0001]])))


@pytest.mark.parametrize("more", [(3.0,), (), ({"accuracy": 1.0},)])
def test_a_loss_with_what_else_it_knows(more: tuple):
    """Assert that (loss, aux) is met by name."""
    with pytest.raises(
        ValueError, match=r"has_aux\); give the loss alone, lambda \*a: loss\(\*a\)\[0\]"
    ):
        flow.Objective(lambda x: (x @ x, *more), np.ones(2))


@pytest.mark.parametrize(
    ("loss", "start", "met"),
    [
        (
            lambda x: jnp.where(x > 0, x * jnp.log(x), 0.0).sum(),
            [1.0, 0.0],
            r"\[1\], by (log|div), .*\.py:",
        ),
        (lambda x: jnp.where(x > 0, x * jnp.log(x), 0.0).sum(), [0.0, 0.0], r"\[0\], by log"),
        (lambda x: jnp.sqrt(x @ x), [0.0, 0.0], r"\[0\], by div, .*\.py:"),
    ],
)
def test_gradients_that_are_not_finite(loss: object, start: list, met: str):
    """Assert that the entry is told, the operation and its line, and the way round."""
    objective = flow.Objective(loss, np.array(start))
    message = rf"∇J is not finite in params{met}.*\. A where\(x > 0, log\(x\), 0\) has"
    for run in (flow.integrate, flow.descend):
        with pytest.raises(ValueError, match=message):
            run(objective, 0.1, **({"steps": 3} if run is flow.descend else {}))
    safe = flow.Objective(lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0).sum(),
                          np.array([1.0, 0.0]))  # fmt: skip
    assert np.array_equal(safe.gradient(safe.params), [1.0, 0.0])


def test_losses_without_second_derivatives():
    """Assert that what needs them says so, and that what the message advises runs."""

    @jax.custom_vjp
    def loss(x: object) -> object:
        return 0.5 * x @ x

    def slope(x: object, g: object) -> tuple:
        return (g * jax.pure_callback(np.asarray, jax.ShapeDtypeStruct(x.shape, x.dtype), x),)

    loss.defvjp(lambda x: (loss(x), x), slope)
    objective = flow.Objective(loss, np.ones(2))
    message = r"this needs ∇²J·v, .*study\(\.\.\., learning_rates=\[\.\.\.\], observe=\{\}\)"
    for call in (
        lambda: flow.study(objective, t=1.0),
        lambda: flow.study(objective, [0.1], t=1.0),
        lambda: objective.hvp(objective.params, np.ones(2)),
        lambda: flow.sharpness(objective, objective.params),
        lambda: flow.spectral_density(objective, objective.params),
        lambda: flow.integrate(objective, 1.0, method="Radau"),
        lambda: flow.integrate(flow.ModifiedFlow(objective, 0.1), 1.0),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    study = flow.study(objective, [0.1], t=1.0, save=3, observe={}, progress=False)
    assert study.flow.theta[-1, 0] == pytest.approx(np.exp(-1.0), rel=1e-5)


def test_parameters_that_are_complex():
    """Assert that their parts are asked for, in place of a conversion that loses one."""
    with pytest.raises(TypeError, match=r"params must .* complex128: .*'re': w.real, 'im': w.im"):
        flow.Objective(lambda w: abs(w @ w), np.ones(2, complex))


def test_learning_rates_that_coincide(bowl: flow.Objective):
    """Assert that a study to a t so short says which are one, and runs each once."""
    with pytest.raises(ValueError, match=r"0.5 and 0.51 are both 2 steps to t=1; leave one out"):
        flow.study(bowl, [0.5, 0.51], t=1.0)
    with pytest.raises(ValueError, match=r"t=0.1 is less than .* 0.2 to 2.2 .* or learning_rates="):
        flow.study(bowl, t=0.1)
    study = flow.study(bowl, t=1.0, save=3, observe={}, progress=False)
    assert [run.config["steps"] for run in study.runs] == [5, 1]
