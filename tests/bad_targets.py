"""The public API as a table of calls that work, on problems whose answers are known."""

import itertools
import os
import sys
import tempfile
from math import inf
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from bad_calls import Target, run
from bad_values import (
    ANY,
    REFUSED,
    Kind,
    UsersError,
    anything,
    array,
    flag,
    function,
    integer,
    never,
    none,
    not_negative,
    option,
    positive,
    raises,
    real,
    rows,
    seed,
    tries,
    wrong,
)

import flow
from flow.circuits import Circuit, variable

mpl.use("Agg")
FOLDER = Path(tempfile.mkdtemp())
os.chdir(FOLDER)  # in which what is called "auto" may be written
NUMBERS = itertools.count()

H, START = np.array([1.0, 3.0]), np.array([1.0, -2.0])
X = np.array([[1.0, 2.0], [0.5, -1.0], [-1.0, 0.3], [2.0, 1.0]])
Y = np.array([[1.0], [-1.0], [0.5], [2.0]])


def given(value: Any) -> Any:
    """What makes that value."""
    return lambda: value


def energy(x: Any) -> Any:
    """½ xᵀHx."""
    return 0.5 * x @ (H * x)


bowl = flow.Objective(energy, START)
line = flow.Objective(lambda x, batch: 0.5 * jnp.mean((batch[0] @ x - batch[1][:, 0]) ** 2), START,
                      data=(X, Y))  # fmt: skip
net = flow.MLP([2, 2, 1]).objective(X, Y)
path = flow.integrate(bowl, 1.0, save=5, progress=False)
steps = flow.descend(bowl, 0.1, 10, save=5, progress=False)
ball = flow.integrate(flow.HeavyBall(bowl, 0.5), 1.0, save=5, progress=False)
many = flow.integrate(bowl, 1.0, save=3, engine="jax", ensemble=np.array([START, 2 * START]),
                      progress=False)  # fmt: skip
compared = flow.compare(path, steps, progress=False)
studied = flow.study(bowl, [0.1], t=1.0, save=3, progress=False)
saved = path.save(FOLDER / "run.nc")
saved_study = studied.save(FOLDER / "study.nc")
density = flow.spectral_density(bowl, START)
x, y = variable("x"), variable("y")
circuit = Circuit((x * x * y).named("z"))


def new_file(suffix: str = ".nc") -> Path:
    """A path at which there is nothing."""
    return FOLDER / f"new-{next(NUMBERS)}{suffix}"


def is_path(value: Any) -> Any:
    """A path that is known here means itself; others are anybody's."""
    return ANY if isinstance(value, str | Path) else REFUSED


def is_folder(value: Any) -> Any:
    """Whether that may be a folder; what is in it is left open."""
    return ANY if isinstance(value, str | Path) and str(value) else REFUSED


def is_many(value: Any) -> Any:
    """Whether that may be one number for each member of an ensemble."""
    return ANY if isinstance(value, np.ndarray | jax.Array) and value.ndim == 1 else REFUSED


def quiet(call: Any) -> Any:
    """The call without progress."""
    return lambda **arguments: call(**arguments, progress=False)


def flat(params: Any) -> np.ndarray:
    """A pytree of θ as a vector."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def of_run(run: Any) -> tuple:
    """What a run comes to."""
    return run.t, run.theta, run.loss, run.result.split(" (")[0].split(" seconds")[0]


theta = array(2)  # θ of the bowl: int arrays are numbers
finite_theta = array(2, finite=True)
an_objective = wrong(never, net_params=net.params, loss=energy, path=path)
kept = FOLDER / "kept"
flow.integrate(bowl, 1.0, save=3, checkpoint=kept, progress=False)
a_path = wrong(never, study=studied, ensemble=many, objective=bowl, file=str(saved))
functions = tries(
    function,
    raising=raises,
    wrong_shape=lambda *a: jnp.ones(3),
    none=lambda *a: None,
    nan=lambda *a: jnp.nan,
    text=lambda *a: "loss",
    whole=lambda *a: 3,
    complex=lambda *a: 1j,
)
observers = tries(none | Kind(lambda v: ANY if isinstance(v, dict) and not v else REFUSED),
                  fine={"a": lambda o, p: 1.0}, raising={"a": raises}, text={"a": lambda o, p: "a"},
                  late={"a": lambda o, p: np.ones(1 if o.value(p) > 6 else 2)})  # fmt: skip
observers = wrong(observers, number={"a": 3}, taken={"loss": len}, key={3: len}, name={"": len},
                  function=len, pairs=[("a", len)])  # fmt: skip
stops = tries(none, loss=flow.stop.loss(0.5), both=[flow.stop.loss(0.5)], raising=raises,
              vector=lambda record: np.ones(2), text=lambda record: "no")  # fmt: skip
stops = Kind(lambda v: ANY if callable(v) or (isinstance(v, list | tuple) and not len(v)) else
             stops_.meaning(v), stops.tries) if (stops_ := stops) else None  # fmt: skip


def times(end: float) -> Kind:
    """Times to save in [0, end], or how many."""
    count = integer(2, 2000)
    vector = rows(-1, finite=True)

    def meaning(value: Any) -> Any:
        found = count.meaning(value)
        if not (isinstance(found, str) and found == REFUSED):
            return found
        found = vector.meaning(value)
        if isinstance(found, str):
            return REFUSED
        fits = found.size and found[0] >= 0 and found[-1] <= end and np.all(np.diff(found) > 0)
        return found if fits else REFUSED

    return Kind(meaning, {"unsorted": lambda: [0.5, 0.25], "beyond": lambda: [0.5, 2.0],
                          "in order": lambda: [0.0, 0.25, 1.0],
                          "first": lambda: [0.25]})  # fmt: skip


def several_rates(value: Any) -> Any:
    """Positive numbers in a row."""
    found = rows(-1, finite=True).meaning(value)
    return found if not isinstance(found, str) and found.size and np.all(found > 0) else REFUSED


def some_numbers(value: Any) -> Any:
    """Numbers of any shape, of which nothing else is known."""
    arrays = list | np.ndarray | jax.Array | float | int | np.number
    try:
        found = np.asarray(value) if isinstance(value, arrays) else ""
    except ValueError:
        return REFUSED
    return ANY if getattr(found, "dtype", np.dtype("U")).kind in "fiub" else REFUSED


rates = Kind(several_rates, {"list": given([0.1])})


numbers = Kind(some_numbers, {"two": given([0.1, 0.2])})
learning_rates = rates | Kind(
    lambda v: (
        ANY if (isinstance(v, np.ndarray) and v.dtype == object) or str(v) == "auto" else REFUSED
    ),
    {"number": given(0.1), "array": given(np.array([0.1, 0.05]))},
)


def check_flow(answer: Any, *, t: float, rtol: float, atol: float, **_: Any) -> None:
    """Along a flow of the bowl θ is e^{−Ht}θ₀, the loss never rises, and it says why it ended."""
    at, theta, loss, result = answer
    exact = np.exp(-H * at[:, None]) * START
    assert np.all(np.abs(theta - exact) <= 2e3 * (rtol * np.abs(START) + atol)), (theta, exact)
    assert np.all(np.diff(loss) <= 1e3 * (rtol + atol)), loss
    if result.startswith("reached"):
        assert at[-1] <= t * (1 + 1e-12)


def read_objective(objective: Any) -> tuple:
    return objective.value(objective.params), objective.theta, objective.smooth


sizes = Kind(
    lambda v: (
        ANY
        if isinstance(v, list | tuple)
        and len(v)
        and all(integer().meaning(x) != REFUSED for x in v)
        else REFUSED
    )
)
several = Kind(lambda v: ANY if isinstance(v, np.ndarray) and v.ndim > 1 else REFUSED)
no_names = Kind(lambda v: ANY if isinstance(v, dict) and not v else REFUSED)
OBJECTIVES = {
    "Objective": Target(
        flow.Objective,
        {
            "loss": (given(energy), functions),
            "params": (
                given(START),
                wrong(array(2, finite=True, kinds="f"), text=["a"], nested={"a": {"b": 3}}),
            ),
            "conserved": (
                given(None),
                tries(none | Kind(lambda v: ANY if isinstance(v, dict) else REFUSED)),
            ),
            "smooth": (given(True), flag),
            "dtype": (given("float64"), anything),
            "gradient": (
                given(None),
                tries(
                    none | function,
                    wrong_shape=lambda x: jnp.ones(3),
                    none=lambda x: None,
                    raising=raises,
                ),
            ),
            "batch_chunk": (given(None), none),
            "mesh": (given(None), none),
        },
        read_objective,
        aliases={"params": r"param\w*"},
        examples=90,
    ),
    "Objective of data": Target(
        flow.Objective,
        {
            "outputs": (given(lambda p, X: X @ p), functions),
            "output_loss": (given(lambda f, y: jnp.mean((f - y[:, 0]) ** 2)), functions),
            "params": (given(START), array(2, finite=True, kinds="f")),
            "data": (
                given((X, Y)),
                wrong(
                    tries(never, masked=(np.ma.array(X, mask=X > 1), Y)),
                    short=(X, Y[:2]),
                    strings=(X.astype(str), Y),
                    objects=(X.astype(object), Y),
                    one=(X,),
                ),
            ),
            "batch_chunk": (given(None), none | integer()),
        },
        read_objective,
        aliases={
            "output_loss": "loss|output_loss",
            "outputs": "outputs|loss",
            "params": r"param\w*",
        },
        examples=40,
    ),
    "MLP": Target(
        flow.MLP,
        {
            "sizes": (
                given([2, 2, 1]),
                Kind(
                    lambda v: (
                        [int(n) for n in v]
                        if isinstance(v, np.ndarray)
                        and v.dtype.kind in "iu"
                        and v.ndim == 1
                        and v.size > 1
                        and v.min() > 0
                        else REFUSED
                    ),
                    {
                        "text": given("21"),
                        "floats": given([2.0, 1.0]),
                        "zero": given([2, 0]),
                        "nested": given([[2, 1]]),
                        "huge": given([2, 10**30]),
                    },
                ),
            ),
            "activation": (given("tanh"), option("tanh", "relu")),
            "bias": (given(True), flag),
            "init": (given("lecun"), option("lecun", "he")),
            "gain": (given(1.0), positive),
            "parameterisation": (given("standard"), option("standard", "ntk")),
        },
        lambda network: flat(network.initialise(0)),
        examples=120,
    ),
    "MLP.initialise": Target(
        flow.MLP([2, 1]).initialise, {"seed": (given(0), seed)}, flat, examples=30
    ),
    "MLP.objective": Target(
        flow.MLP([2, 1]).objective,
        {
            "X": (
                given(X),
                wrong(
                    tries(never, list=X.tolist(), ints=X.astype(int)),
                    masked=np.ma.array(X, mask=X > 1),
                    strings=X.astype(str),
                    complex=X + 1j,
                    wide=np.ones((4, 3)),
                ),
            ),
            "y": (
                given(Y),
                wrong(
                    tries(never, column=Y[:, 0]),
                    strings=Y.astype(str),
                    complex=Y + 1j,
                    masked=np.ma.array(Y, mask=Y > 1),
                    wide=np.ones((4, 2)),
                ),
            ),
            "loss": (given("mse"), option("mse", "binary_cross_entropy")),
            "seed": (given(0), seed),
            "dtype": (given("float64"), anything),
            "batch_chunk": (given(None), none | integer()),
        },
        read_objective,
        aliases={"X": "data|X", "y": "data|y"},
        examples=60,
    ),
    "Network": Target(
        flow.Network,
        {
            "layers": (
                lambda: [flow.backprop.Linear(2, 1)],
                wrong(
                    tries(never, name=["tanh"], empty=[]), text="tanh", number=[3], unknown=["tahn"]
                ),
            )
        },
        lambda network: len(network.chain.layers),
        examples=30,
    ),
    "networks.deep": Target(
        flow.networks.deep, {"depth": (given(1), integer(1, 3))}, read_objective, examples=15
    ),
    "networks.two_three_two": Target(
        flow.networks.two_three_two,
        {"hidden": (given("relu"), option("relu", "sigmoid"))},
        read_objective,
        examples=15,
    ),
    "networks.chebyshev": Target(
        flow.networks.chebyshev,
        {"degree": (given(1), integer(1, 10)), "seed": (given(0), seed)},
        read_objective,
        examples=15,
    ),
    "value": Target(
        bowl.value,
        {"params": (given(START), theta), "data": (given(None), none)},
        check=lambda J, params, data: np.testing.assert_allclose(J, energy(params)),
    ),
    "value of data": Target(
        line.value,
        {
            "params": (given(START), theta),
            "data": (
                given(None),
                wrong(
                    tries(none, rows=(X[:1], Y[:1])),
                    strings=(X.astype(str), Y),
                    complex=(X + 1j, Y),
                    masked=(np.ma.array(X, mask=X > 1), Y),
                    wide=(np.ones((4, 3)), Y),
                    X=X,
                ),
            ),
        },
    ),
    "value of a pytree": Target(
        flow.Objective(
            lambda p: p["a"] @ p["a"] + p["b"][0], {"a": START, "b": [np.array(1.0)]}
        ).value,
        {
            "params": (
                given({"a": START, "b": [np.array(1.0)]}),
                wrong(
                    tries(never, ints={"a": np.array([1, 2]), "b": [2]}),
                    missing={"a": START},
                    more={"a": START, "b": [1.0], "c": 1.0},
                    none={"a": START, "b": [None]},
                    text={"a": START, "b": ["1.0"]},
                    flag={"a": START, "b": [True]},
                    broadcast={"a": np.array(1.0), "b": [1.0]},
                    tuple={"a": START, "b": (1.0,)},
                    complex={"a": START, "b": [1j]},
                ),
            )
        },
    ),
    "gradient": Target(
        bowl.gradient,
        {"params": (given(START), theta)},
        check=lambda g, params: np.testing.assert_allclose(g, H * params),
    ),
    "hvp": Target(
        bowl.hvp,
        {"params": (given(START), theta), "v": (given(START), theta)},
        check=lambda w, params, v: np.testing.assert_allclose(w, H * v + 0 * params),
    ),
    "unflatten": Target(bowl.unflatten, {"theta": (given(START), rows(2))}),
    "starting_at": Target(
        bowl.starting_at,
        {"params": (given(START), array(2, finite=True, kinds="f"))},
        read_objective,
        aliases={"params": r"param\w*"},
    ),
    "reparametrised": Target(
        bowl.reparametrised,
        {
            "change": (given(lambda w: 2 * w), functions),
            "conserved": (given(None), none | tries(never, empty={})),
        },
        lambda o: o.value(START),
        examples=20,
    ),
    "outputs": Target(
        net.outputs, {"params": (given(net.params), never), "X": (given(X), none | rows(-1, 2))}
    ),
    "jvp": Target(
        net.jvp,
        {"params": (given(net.params), never), "v": (given(net.params), never)},
        examples=20,
    ),
    "vjp": Target(
        net.vjp,
        {"params": (given(net.params), never), "u": (given(Y), rows(4, 1))},
        flat,
    ),
    "HostBatches": Target(
        flow.HostBatches,
        {
            "batches": (
                given([X[:2], X[2:]]),
                wrong(
                    tries(several, one=[X], text="ab", pairs=[(X, Y)]),
                    ragged=[X[:1], X],
                    strings=[X.astype(str)],
                    complex_objects=[X.astype(object)],
                    none=[None],
                    empty=[X[:0]],
                    scalar=[3.0],
                    masked=[np.ma.array(X, mask=X > 1)],
                ),
            )
        },
        lambda batches: (batches.examples, len(batches)),
        examples=50,
    ),
    "datasets.digits": Target(
        flow.datasets.digits,
        {"examples": (given(3), integer(1, 1797)), "test": (given(2), none | integer(1, 1700))},
        lambda found: float(np.sum(found[0][0])),
        examples=40,
    ),
    "backprop.Linear": Target(
        flow.backprop.Linear,
        {
            "inputs": (given(2), integer()),
            "outputs": (given(2), integer()),
            "bias": (given(True), flag),
            "init": (given("he"), option("he", "xavier")),
            "gain": (given(1.0), positive),
        },
        lambda layer: float(layer.deviation),
    ),
    "backprop.softplus": Target(
        flow.backprop.softplus,
        {"beta": (given(2.0), positive)},
        lambda a: float(a.value(0.3)),
        examples=25,
    ),
    "backprop.leaky_relu": Target(
        flow.backprop.leaky_relu,
        {"negative": (given(0.1), real(np.isfinite))},
        lambda a: float(a.value(-2.0)),
        examples=25,
    ),
    "backprop.Convolution": Target(
        flow.backprop.Convolution,
        {
            "inputs": (given(1), integer()),
            "outputs": (given(2), integer()),
            "window": (given((2, 2)), tries(sizes, short=(2,), floats=(2.0, 2), zero=(0, 2))),
            "bias": (given(True), flag),
        },
        lambda layer: layer.outputs,
        examples=40,
    ),
    "backprop.AveragePooling": Target(
        flow.backprop.AveragePooling,
        {"window": (given((2, 2)), tries(sizes, short=(2,), floats=(2.0, 2), zero=(0, 2)))},
        lambda layer: layer.window,
        examples=25,
    ),
    "backprop.Reshape": Target(
        flow.backprop.Reshape,
        {"shape": (given((1, 2)), tries(sizes, floats=(2.0, 1), zero=(0, 2)))},
        lambda layer: layer.output_shape((2, 4)),
        examples=25,
    ),
    "backprop.BatchNormalisation": Target(
        flow.backprop.BatchNormalisation,
        {"features": (given(2), integer())},
        lambda layer: layer.output_shape((2, 4)),
        examples=25,
    ),
    "exact.quadratic": Target(
        flow.exact.quadratic,
        {
            "H": (
                given(np.diag(H)),
                wrong(
                    tries(never, list=np.diag(H).tolist()),
                    asymmetric=np.array([[1.0, 2.0], [0.0, 1.0]]),
                    complex=np.diag(H) * 1j,
                    nan=np.diag([np.nan, 1.0]),
                ),
            ),
            "x0": (given(START), rows(2, finite=True)),
            "x_star": (given(None), none | rows(2, finite=True)),
        },
        lambda found: found.theta([0.0, 1.0]),
        examples=30,
    ),
    "exact.linear_modes": Target(
        flow.exact.linear_modes,
        {
            "s": (given([1.0, 2.0]), tries(rates | positive, fine=[1.0], square=np.ones((2, 2)))),
            "u0": (given(0.1), tries(positive | rates, two=[0.1, 0.2])),
            "layers": (given(2), integer(1, 6)),
        },
        lambda u: u([0.0, 1.0]),
        examples=40,
    ),
}

INTEGRATE = {
    "dynamics": (given(bowl), an_objective),
    "t": (given(1.0), real(lambda t: t > 0)),
    "method": (given("DOP853"), none | tries(option("DOP853", "RK45"), odd="Euler", whole="TSRKC3",
                                             auto="auto", sde="Heun")),
    "rtol": (given(1e-6), real(lambda r: 2.2e-14 <= r < inf)),
    "atol": (given(1e-9), not_negative),
    "step": (given(None), none),
    "save": (given(3), times(1.0)),
    "spacing": (given("linear"), option("linear", "log")),
    "observe": (given(None), observers),
    "stop": (given(None), stops),
    "max_gradients": (given(3000), integer(1, 10**31) | none),
    "max_steps": (given(3000), integer(1, 10**31) | none),
    "max_seconds": (given(5.0), positive | none),
    "checkpoint": (given(None), none | Kind(is_folder)),
    "progress": (given(False), anything),
    "engine": (given("scipy"), none | option("scipy")),
    "ensemble": (given(None), none),
    "paths": (given(None), none),
    "seed": (given(0), seed),
    "clock": (given("linear"), option("linear", "log")),
}  # fmt: skip


def budgeted(answer: Any, **arguments: Any) -> None:
    """A flow's checks where no budget was spent."""
    if answer[3].startswith("reached"):
        check_flow(answer, **arguments)


DESCEND = {
    "objective": (given(line), an_objective),
    "learning_rate": (
        given(0.1),
        tries(
            positive,
            schedule=lambda k: 0.1 + 0 * k,
            from_zero=lambda k: 0.1 * k,
            by_if=lambda k: 0.1 if k < 2 else 0.0,
            zero=lambda k: 0.0,
            vector=lambda k: jnp.ones(2) + k,
            raising=raises,
            text=lambda k: "a",
            none=lambda k: None,
        ),
    ),
    "steps": (given(4), integer(1, 50)),
    "ascent": (given(False), flag),
    "optimizer": (given(None), none),
    "evaluate": (given(None), none),
    "time_step": (given(None), tries(none | positive, from_zero=lambda k: 0.1 * k)),
    "batch_size": (given(2), none | integer(1, 4)),
    "sampling": (given("iid"), option("iid", "epoch")),
    "seed": (given(0), seed),
    "save": (given(3), times(0.4)),
    "spacing": (given("linear"), option("linear", "log")),
    "observe": (given(None), observers),
    "stop": (given(None), stops),
    "max_seconds": (given(5.0), none | positive),
    "label": (given(None), none | Kind(lambda v: v if isinstance(v, str) else REFUSED)),
    "progress": (given(False), anything),
}

DESCEND_BOWL = DESCEND | {
    "objective": (given(bowl), an_objective), "batch_size": (given(None), none),
    "learning_rate": (given(0.1), positive | Kind(is_many)), "stop": (given(None), none),
    "observe": (given(None), none | no_names),
}  # fmt: skip


def check_descent(answer: Any, *, learning_rate: float, ascent: bool, **_: Any) -> None:
    """θ_k = (1 ∓ ηH)ᵏθ₀ at the steps that are saved."""
    _, found, _, result, k = answer
    eta = -learning_rate if ascent else learning_rate
    with np.errstate(all="ignore"):
        exact = (1 - eta * H) ** k[:, None] * START
    assert np.allclose(found, exact, rtol=1e-9, atol=1e-12), (found, exact)
    assert result.startswith(("reached", "diverged", "stopped", "ended", "the")), result


def check_fixed(answer: Any, *, step: float, **_: Any) -> None:
    """Euler's method: θ = (1 − hH)ᵏθ₀, the last step cut to end at t."""
    at, found, _, result = answer
    if result.startswith("reached"):
        whole = np.floor(at * (1 + 1e-12) / step)
        exact = (1 - step * H) ** whole[:, None] * (1 - (at - whole * step)[:, None] * H) * START
        assert np.allclose(found, exact, rtol=1e-6, atol=1e-9), (found, exact)


class Failing:
    """Batches of which the second can't be read, or is of another shape."""

    def __init__(self, second: Any) -> None:
        self.second = second

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> Any:
        if i != 1:
            return X, Y
        if isinstance(self.second, Exception):
            raise self.second
        return self.second


RUNS = {
    "integrate, keeping less": Target(
        lambda **arguments: flow.integrate(bowl, 1.0, save=3, progress=False, **arguments),
        {
            "keep": (given("last"), option("theta", "last", "projection")),
            "checkpoint": (
                lambda: new_file(""),
                none
                | wrong(
                    Kind(is_folder),
                    used=kept,
                    file=saved,
                    missing=FOLDER / "no" / "where",
                    nul="a\0b",
                    run=path,
                ),
            ),
        },
        lambda run: (run.t, run.params(-1), run.loss),
        errors=(FileExistsError, FileNotFoundError),
        examples=40,
    ),
    "resume": Target(
        lambda **arguments: flow.resume(progress=False, **arguments),
        {
            "folder": (
                given(kept),
                wrong(never, file=saved, missing=FOLDER / "no", other=FOLDER, nul="a\0b"),
            ),
            "dynamics": (given(bowl), tries(never, line=line, path=path, other=net)),
            "observe": (given(None), none | tries(never, empty={})),
            "stop": (given(None), none | tries(never, empty=[])),
            "method": (given(None), none),
            "learning_rate": (given(None), none),
            "optimizer": (given(None), none),
            "max_seconds": (given(5.0), positive | none),
        },
        of_run,
        errors=(FileNotFoundError, FileExistsError, NotADirectoryError),
        examples=60,
    ),
    "Checkpoint": Target(
        flow.Checkpoint,
        {
            "folder": (given("a"), Kind(is_folder)),
            "seconds": (given(1.0), positive | none),
            "gradients": (given(3), integer(1, 10**31) | none),
        },
        lambda made: made.interval,
        examples=30,
    ),
    "descents together": Target(
        lambda **arguments: flow.descend(bowl, save=2, progress=False, **arguments),
        {
            "learning_rate": (
                given([0.1, 0.2]),
                wrong(
                    positive,
                    empty=[],
                    ragged=[[0.1], 0.2],
                    text=["a", "b"],
                    nan=[0.1, np.nan],
                    three=[0.1, 0.2, 0.3],
                    negative=[0.1, -0.1],
                ),
            ),
            "steps": (given([4, 2]), wrong(integer(1, 50), half=[1.5, 2], zero=[0, 1], one=[3])),
            "seed": (given([0, 1]), wrong(seed, half=[0.5, 1], none=[None, 0])),
            "devices": (given(None), none | wrong(never, empty=[], text=["cpu"], number=[3])),
        },
        lambda runs: (runs.t, runs.theta),
        examples=50,
    ),
    "integrate by Euler": Target(
        lambda **arguments: flow.integrate(
            bowl, method="Euler", save=3, max_steps=2000, progress=False, **arguments
        ),
        {
            "t": (given(1.0), real(lambda t: t > 0)),
            "step": (given(0.1), positive),
            "engine": (given("scipy"), none | option("scipy", "jax")),
        },
        of_run,
        check_fixed,
        examples=60,
    ),
    "integrate compiled": Target(
        lambda **arguments: flow.integrate(bowl, engine="jax", method="TSRKC3", **arguments),
        {
            name: INTEGRATE[name]
            for name in (
                "t",
                "rtol",
                "atol",
                "step",
                "save",
                "spacing",
                "observe",
                "stop",
                "max_gradients",
                "max_steps",
                "max_seconds",
                "progress",
                "seed",
                "clock",
            )
        },
        of_run,
        budgeted,
        examples=100,
    ),
    "descend on a bowl": Target(
        flow.descend,
        DESCEND_BOWL,
        lambda run: (*of_run(run), np.rint(run.work["steps"])),
        check_descent,
        aliases={"objective": "Objective"},
        examples=120,
    ),
    "Objective of HostBatches": Target(
        lambda data: flow.Objective(
            lambda x, batch: jnp.mean((batch[0] @ x - batch[1][:, 0]) ** 2), START, data=data
        ),
        {
            "data": (
                given(flow.HostBatches([(X, Y), (X, Y)])),
                tries(
                    never,
                    raising=flow.HostBatches(Failing(UsersError("unreadable"))),
                    narrow=flow.HostBatches(Failing((X[:, :1], Y))),
                    none=flow.HostBatches(Failing(None)),
                ),
            )
        },
        read_objective,
        aliases={"data": "data|batch|loss"},
        examples=30,
    ),
    "integrate": Target(flow.integrate, INTEGRATE, of_run, budgeted, examples=260),
    "integrate an ensemble": Target(
        lambda **arguments: flow.integrate(
            bowl, 1.0, engine="jax", save=3, progress=False, **arguments
        ),
        {
            "ensemble": (
                given(np.array([START, 2 * START])),
                none
                | wrong(
                    tries(array(-1, 2, finite=True), structure=[START], list=[[1.0, 2.0]]),
                    nan=np.full((2, 2), np.nan),
                    strings=np.array([["1", "2"]]),
                    complex=np.ones((2, 2), complex),
                    none=np.empty((0, 2)),
                    masked=np.ma.array(np.ones((2, 2)), mask=np.eye(2)),
                ),
            ),
            "method": (given("RK4"), option("RK4")),
            "step": (given(0.1), real(lambda h: 1e-3 < h < 1e9)),
            "max_gradients": (given(1000), integer(1, 10**31) | none),
        },
        lambda run: (run.t, run.theta),
        examples=40,
    ),
    "integrate with noise": Target(
        lambda **arguments: flow.integrate(
            flow.LangevinFlow(bowl, 0.1), 0.5, save=2, progress=False, max_steps=10**4, **arguments
        ),
        {
            "paths": (given(2), integer(1, 5) | none),
            "seed": (given(0), seed),
            "step": (given(0.1), real(lambda h: 1e-3 < h < 1e9) | none),
        },
        lambda run: (run.t, run.theta),
        examples=40,
    ),
    "descend": Target(
        flow.descend, DESCEND, of_run, aliases={"objective": "Objective"}, examples=180
    ),
    "descend by an optimizer": Target(
        lambda **arguments: flow.descend(bowl, progress=False, **arguments),
        {
            "optimizer": (
                given(optax.sgd(0.1)),
                wrong(
                    tries(
                        never,
                        broken=optax.GradientTransformation(raises, raises),
                        silent=optax.GradientTransformation(
                            lambda p: (), lambda g, s, p=None: (None, s)
                        ),
                        summed=optax.GradientTransformation(
                            lambda p: (), lambda g, s, p=None: (g.sum(), s)
                        ),
                        asks=optax.GradientTransformation(
                            lambda p: (), lambda g, s, p=None, *, hessian: (g, s)
                        ),
                        grows=optax.GradientTransformation(
                            lambda p: p, lambda g, s, p=None: (g, jnp.append(s, 1.0))
                        ),
                    ),
                    function=optax.sgd,
                    pair=(optax.sgd(0.1), 0.1),
                ),
            ),
            "time_step": (given(0.1), positive),
            "steps": (given(4), integer(1, 50)),
        },
        of_run,
        examples=40,
    ),
    "stop.loss": Target(
        flow.stop.loss, {"threshold": (given(0.1), real())}, lambda c: c.threshold, examples=30
    ),
    "stop.gradient_norm": Target(
        flow.stop.gradient_norm,
        {"threshold": (given(0.1), positive)},
        lambda c: c.threshold,
        examples=30,
    ),
    "observe.accuracy": Target(
        lambda **arguments: flow.observe.accuracy(**arguments)(net, net.params),
        {
            "X": (given(X), rows(-1, 2)),
            "y": (given(Y), tries(rows(-1, 1), column=Y[:, 0], wide=np.ones((4, 2)), short=Y[:2])),
        },
        aliases={"X": "data|X", "y": "data|y"},
        examples=50,
    ),
    "observe.test_loss": Target(
        lambda **arguments: flow.observe.test_loss(**arguments)(net, net.params),
        {
            "X": (given(X), rows(-1, 2)),
            "y": (given(Y), tries(rows(-1, 1), column=Y[:, 0], wide=np.ones((4, 2)), short=Y[:2])),
        },
        aliases={"X": "data|X", "y": "data|y"},
        examples=50,
    ),
    "observe.sharpness": Target(
        flow.observe.sharpness, {"tol": (given(1e-3), positive)}, lambda o: True, examples=25
    ),
    "observe.projection": Target(
        lambda **arguments: flow.observe.projection(**arguments)(bowl, START),
        {"k": (given(1), integer(1, 2**16)), "seed": (given(0), seed)},
        examples=25,
    ),
    "observe.top_eigenvalues": Target(
        lambda **arguments: (o := flow.observe.top_eigenvalues(**arguments)).update(
            bowl, START, o.init(bowl, START)
        )[0],
        {"k": (given(1), integer(1, 2)), "tol": (given(1e-3), positive)},
        errors=(flow.EigenvaluesNotConverged,),
    ),
    "observe.adam_sharpness": Target(
        flow.observe.adam_sharpness,
        {
            "learning_rate": (given(0.1), positive),
            "b2": (given(0.9), real(lambda b: 0 < b < 1)),
            "eps": (given(1e-8), positive),
            "tol": (given(1e-3), positive),
        },
        lambda o: True,
    ),
    "Dynamics": Target(
        flow.Dynamics,
        {
            "rhs": (given(lambda t, s: -s), functions),
            "state": (given(START), array(2, kinds="f")),
            "params": (given(None), none | functions),
            "objective": (given(bowl), none | never),
        },
        lambda d: d.objective.value(START),
        examples=40,
    ),
}


def family(cls: Any, objective: Any = bowl, **constants: tuple[Any, Kind]) -> Target:
    """A family of right-hand sides, judged by the constants that a run keeps of it."""
    arguments = {name: (given(value), kind) for name, (value, kind) in constants.items()}
    return Target(
        cls,
        {"objective": (given(objective), an_objective), **arguments},
        lambda moved: (
            *sorted(moved.constants.items()),
            moved.label,
            str(getattr(moved, "leaves", "")),
        ),
        examples=25,
    )


eta = {"learning_rate": (0.1, positive)}
unit = real(lambda b: 0 < b < 1)
FAMILIES = {
    "GradientFlow": family(
        flow.GradientFlow, weight_decay=(0.1, not_negative), ascent=(False, flag)
    ),
    "HeavyBall": family(flow.HeavyBall, friction=(0.1, not_negative)),
    "Nesterov": family(flow.Nesterov, r=(3.0, not_negative)),
    "AdamFlow": family(flow.AdamFlow, **eta, b1=(0.9, unit), b2=(0.9, unit), eps=(1e-8, positive)),
    "RMSPropFlow": family(flow.RMSPropFlow, **eta, decay=(0.9, unit), eps=(1e-8, positive)),
    "SignFlow": family(flow.SignFlow, smoothing=(0.1, not_negative)),
    "ModifiedFlow": family(flow.ModifiedFlow, **eta, order=(2, integer(2, 3))),
    "PrincipalFlow": family(flow.PrincipalFlow, **eta, k=(1, integer(1, 2))),
    "CentralFlow": family(flow.CentralFlow, **eta, k=(1, integer(1, 2))),
    "LangevinFlow": family(flow.LangevinFlow, temperature=(0.1, not_negative)),
    "StochasticFlow": family(flow.StochasticFlow, line, **eta, batch_size=(2, integer(1, 4))),
    "NaturalGradientFlow": family(flow.NaturalGradientFlow, net, damping=(0.1, not_negative)),
    "LinearizedFlow": family(flow.LinearizedFlow, net),
    "ScaleFreeFlow": family(
        flow.ScaleFreeFlow,
        net,
        leaves=("[0]['W']", tries(never, several=["[0]['W']"], unknown="[7]['W']")),
    ),
    "StiefelFlow": family(
        flow.StiefelFlow,
        flow.dynamics.orthogonal(net, "[0]['W']"),
        leaves=("[0]['W']", tries(never, several=["[0]['W']"], bias="[0]['b']")),
    ),
    "orthogonal": Target(
        flow.dynamics.orthogonal,
        {"objective": (given(net), an_objective), "leaves": (given("[0]['W']"), tries(never))},
        lambda o: o.theta,
        examples=25,
    ),
    "counterpart": Target(
        flow.GradientFlow(bowl).counterpart,
        {"learning_rate": (given(0.1), positive)},
        lambda pair: float(pair[1]),
        examples=20,
    ),
    "HeavyBall.counterpart": Target(
        flow.HeavyBall(bowl, 0.5).counterpart,
        {"learning_rate": (given(0.1), positive)},
        lambda pair: float(pair[1]),
        examples=20,
    ),
}


def closed(draw: Any) -> Any:
    """The figure drawn and closed, and what its curves show."""

    def call(**arguments: Any) -> Any:
        import matplotlib.pyplot as plt

        try:
            ax = draw(**arguments)
            return [np.asarray(curve.get_ydata(), float) for curve in getattr(ax, "lines", [])]
        finally:
            plt.close("all")

    return call


explained = flow.explain(flow.MLP([2, 1]), None, X, Y)


def one_job(*, jobs: Any, **arguments: Any) -> Any:
    """A sweep in this process where it would be right in several, which take seconds to start."""
    several = isinstance(jobs, int | np.integer) and not isinstance(jobs, bool) and jobs > 1
    found = flow.sweep(jobs=1 if several else jobs, progress=False, **arguments)
    assert several or isinstance(jobs, int | np.integer), jobs
    return found


EVIDENCE = {
    "first_passage": Target(
        compared.first_passage,
        {
            "threshold": (given(1e-3), positive),
            "of": (given("distance"), option("distance", "angle")),
        },
    ),
    "Explanation": Target(
        explained.__getitem__,
        {"symbol": (given("W1"), option("W1", "Z1"))},
        lambda row: row.symbol,
        errors=(KeyError,),
        examples=20,
    ),
    "dimension_puzzle": Target(
        explained.dimension_puzzle,
        {"symbol": (given("W1"), option("W1"))},
        str,
        errors=(KeyError,),
        examples=20,
    ),
    "LinearizedFlow.outputs": Target(
        flow.LinearizedFlow(net).outputs, {"t": (given([0.0, 1.0]), numbers)}, examples=30
    ),
    "tangent_kernel": Target(
        flow.dynamics.tangent_kernel, {"objective": (given(net), an_objective)}, examples=15
    ),
    "plots.conserved": Target(
        closed(lambda **arguments: flow.plots.conserved(path, **arguments)),
        {
            "objective": (
                given(flow.Objective(energy, START, conserved={"a": lambda x: x[0]})),
                wrong(never, none=bowl),
            )
        },
        examples=15,
    ),
    "exact.theta": Target(
        flow.exact.quadratic(np.diag(H), START).theta,
        {"t": (given([0.0, 1.0]), numbers)},
        examples=25,
    ),
    "exact.deep_linear": Target(
        flow.exact.deep_linear,
        {
            "target": (
                given(np.diag(H)),
                wrong(
                    array(2, 2, finite=True), nan=np.diag([np.nan, 1.0]), strings=np.array([["a"]])
                ),
            ),
            "u0": (given(0.1), tries(rates | positive)),
            "layers": (given(2), integer(1, 4)),
        },
        lambda found: found.theta([0.0, 1.0]),
        examples=30,
    ),
    "exact.balanced_linear": Target(
        flow.exact.balanced_linear,
        {
            "target": (given(np.diag(H)), tries(array(2, 2, finite=True))),
            "W1": (given(np.eye(2)), never),
            "W2": (given(np.eye(2)), never),
        },
        lambda found: found.theta([0.0, 1.0]),
        examples=30,
    ),
    "exact.matrix_factorisation": Target(
        flow.exact.matrix_factorisation,
        {
            "A": (given(np.diag(H)), tries(array(2, 2, finite=True))),
            "W0": (given(np.eye(2)), tries(array(2, -1, finite=True))),
        },
        lambda found: found.theta([0.0, 1.0]),
        examples=30,
    ),
    "exact.two_layer_scalar": Target(
        flow.exact.two_layer_scalar,
        {"s": (given(1.0), positive), "a0": (given(0.1), positive)},
        lambda found: found.theta([0.0, 1.0]),
        examples=20,
    ),
    "exact.exponential": Target(
        flow.exact.exponential,
        {"w0": (given(0.5), real(np.isfinite))},
        lambda found: found.theta([0.0, 1.0]),
        examples=20,
    ),
    "exact.logistic": Target(
        flow.exact.logistic,
        {"w0": (given(0.5), real(np.isfinite))},
        lambda found: found.theta([0.0, 1.0]),
        examples=20,
    ),
    "compare": Target(
        lambda *, reference, run, **more: flow.compare(reference, run, **more),
        {
            "reference": (given(path), a_path),
            "run": (given(steps), a_path),
            "error_bar": (given(False), flag),
            "progress": (given(False), anything),
        },
        lambda c: c.distance[0],
        aliases={"reference": "compare", "run": "compare"},
    ),
    "study": Target(
        quiet(flow.study),
        {
            "objective": (given(bowl), an_objective),
            "learning_rates": (
                given([0.1, 0.05]),
                learning_rates,
            ),
            "optimizers": (
                given({"m": (optax.sgd(0.1), 0.1)}),
                none
                | tries(
                    never,
                    empty={},
                    swapped={"m": (0.1, optax.sgd(0.1))},
                    bare={"m": optax.sgd(0.1)},
                    function={"m": (optax.sgd, 0.1)},
                ),
            ),
            "t": (given(1.0), positive),
            "save": (given(3), integer(2, 100)),
            "observe": (given({}), observers),
            "file": (given(None), none | Kind(is_path)),
            "method": (given("RK45"), option("RK45", "RK23")),
            "rtol": (given(1e-6), real(lambda r: 2.2e-14 <= r < inf)),
        },
        lambda s: tuple(map(of_run, (s.flow, *s.runs))),
        errors=(OSError,),
        aliases={"objective": "Objective"},
        examples=30,
    ),
    "order_study": Target(
        quiet(flow.order_study),
        {
            "dynamics": (given(bowl), an_objective),
            "t": (given(0.5), real(lambda t: 0 < t < 50)),
            "learning_rates": (
                given([0.1, 0.05]),
                learning_rates,
            ),
        },
        lambda s: (s.learning_rates, s.distance, s.slope),
        examples=30,
    ),
    "auto_learning_rates": Target(
        flow.auto_learning_rates,
        {"objective": (given(bowl), an_objective), "shares": (given([0.1, 0.5]), rates)},
        examples=30,
    ),
    "audit": Target(
        flow.audit,
        {
            "path": (given(path), a_path),
            "objective": (given(None), none | never),
            "error_bar": (given(False), flag),
            "progress": (given(False), anything),
        },
        lambda a: (a.energy_residual, a.largest_rise),
        aliases={"path": "flow.audit"},
    ),
    "refine": Target(
        flow.refine,
        {
            "path": (given(path), wrong(a_path, other=ball, descent=steps)),
            "observe": (given(None), observers),
            "progress": (given(False), anything),
        },
        lambda refined: (refined.t, refined.loss),
        aliases={"path": "refine"},
    ),
    "action": Target(
        flow.action,
        {
            "path": (given(ball), wrong(a_path, other=path)),
            "perturbations": (given(2), integer(1, 50)),
            "seed": (given(0), seed),
            "progress": (given(False), anything),
        },
        lambda a: (a.value, a.first_variation),
        aliases={"path": "action"},
    ),
    "sharpness": Target(
        flow.sharpness,
        {"objective": (given(bowl), an_objective), "params": (given(START), finite_theta)},
        check=lambda top, **_: np.testing.assert_allclose(top, 3.0),
    ),
    "top_eigenvalues": Target(
        flow.top_eigenvalues,
        {
            "objective": (given(bowl), an_objective),
            "params": (given(START), finite_theta),
            "k": (given(2), integer(1, 2)),
            "tol": (given(1e-6), none | positive),
        },
        check=lambda top, k, **_: np.testing.assert_allclose(top, [3.0, 1.0][:k]),
    ),
    "bottom_eigenvalues": Target(
        flow.bottom_eigenvalues,
        {
            "objective": (given(bowl), an_objective),
            "params": (given(START), finite_theta),
            "k": (given(2), integer(1, 2)),
            "tol": (given(1e-6), none | positive),
        },
        check=lambda low, k, **_: np.testing.assert_allclose(low, [1.0, 3.0][:k]),
    ),
    "preconditioned_sharpness": Target(
        flow.preconditioned_sharpness,
        {
            "objective": (given(bowl), an_objective),
            "params": (given(START), finite_theta),
            "preconditioner": (
                given(np.ones(2)),
                Kind(
                    lambda v: (
                        m
                        if not isinstance(m := finite_theta.meaning(v), str) and np.all(m > 0)
                        else REFUSED
                    )
                ),
            ),
            "tol": (given(1e-6), none | positive),
        },
        check=lambda top, preconditioner, **_: np.testing.assert_allclose(
            top, np.max(H / preconditioner)
        ),
    ),
    "spectral_density": Target(
        flow.spectral_density,
        {
            "objective": (given(bowl), an_objective),
            "params": (given(START), finite_theta),
            "lanczos_steps": (given(2), integer(1, 10**31)),
            "probes": (given(2), integer(1, 10**31)),
            "seed": (given(0), seed),
        },
        lambda d: (d.nodes, d.weights),
    ),
    "SpectralDensity.density": Target(
        density.density,
        {
            "eigenvalues": (given([1.0, 2.0]), numbers),
            "width": (given(0.1), none | positive),
        },
    ),
    "SpectralDensity.quantile": Target(
        density.quantile, {"share": (given(0.5), numbers)}, np.asarray, examples=30
    ),
    "check_gradient": Target(
        flow.check_gradient,
        {
            "objective": (given(bowl), an_objective),
            "params": (given(START), none | finite_theta),
            "gradient": (given(None), tries(none | functions, numpy=lambda x: np.multiply(H, x))),
        },
        lambda c: c.passed,
        examples=30,
    ),
    "explain": Target(
        flow.explain,
        {
            "network": (given(flow.MLP([2, 1])), wrong(never, opaque=bowl, loss=energy)),
            "params": (given(None), none),
            "X": (given(X), rows(4, 2)),
            "y": (given(Y), tries(rows(4, 1))),
            "loss": (given("mse"), none | option("mse", "binary_cross_entropy")),
            "values": (given(False), flag),
        },
        lambda e: e.passed,
        aliases={"network": "objective|network", "X": "data|X", "y": "data|y"},
        examples=14,
    ),
    "circuits.variable": Target(
        variable,
        {"name": (given("x"), Kind(lambda v: v if isinstance(v, str) and v else REFUSED))},
        repr,
        examples=25,
    ),
    "circuits.Circuit": Target(
        Circuit,
        {
            "outputs": (given(x * y), wrong(never, numbers={"a": 3.0}, text={"a": "b"})),
            "inputs": (given((x,)), tries(never, empty=(), twice=(x, x))),
        },
        lambda c: c.size,
        examples=30,
    ),
    "Circuit.evaluate": Target(
        lambda a, b: circuit.evaluate({"x": a, "y": b}),
        {"a": (given(2.0), real(np.isfinite)), "b": (given(3.0), real(np.isfinite))},
        lambda e: (e.value, *e.gradient.values()),
        aliases={"a": "x", "b": "y"},
        check=lambda e, a, b: np.testing.assert_allclose(e[0], a * a * b),
    ),
    "Circuit.evaluate inputs": Target(
        circuit.evaluate,
        {"inputs": (given({"x": 1.0, "y": 2.0}), never)},
        lambda e: e.value,
        examples=30,
    ),
    "Circuit.objective": Target(
        circuit.objective,
        {"params": (given({"x": 1.0, "y": 2.0}), never)},
        lambda o: o.theta,
        aliases={"params": "inputs"},
        examples=30,
    ),
    "Circuit.dot": Target(
        circuit.dot,
        {"v": (given({"z": 1.0}), wrong(never, text={"z": "a"}, nan={"z": np.nan}))},
        lambda c: c.size,
        examples=30,
    ),
    "Circuit.node": Target(circuit.node, {"label": (given("z"), never)}, repr, examples=25),
    "circuits.exp": Target(
        flow.circuits.exp,
        {"x": (given(0.5), anything)},
        lambda v: True,
        aliases={"x": "operand"},
        examples=20,
    ),
    "load": Target(
        flow.load,
        {
            "path": (
                given(saved),
                wrong(never, folder=FOLDER, study=saved_study, nothing="no.nc", nul="a\0b"),
            ),
            "like": (
                given(None),
                none | numbers | tries(never, pair=[1.0, 2.0], dict={"a": np.ones(3)}),
            ),
            "max_bytes": (given(10**6), integer(10**4, 2**63 - 1) | none),
        },
        lambda run: (run.theta, flat(run.params(-1))),
        errors=(FileNotFoundError,),
    ),
    "load_study": Target(
        flow.load_study,
        {
            "path": (given(saved_study), wrong(never, folder=FOLDER, run=saved)),
            "max_bytes": (given(10**6), integer(10**4, 2**63 - 1) | none),
        },
        lambda s: s.flow.theta,
        errors=(FileNotFoundError,),
        examples=25,
    ),
    "Trajectory.save": Target(
        path.save,
        {
            "path": (
                new_file,
                wrong(Kind(is_path), exists=saved, folder=FOLDER, missing=FOLDER / "no" / "run.nc"),
            )
        },
        lambda file: True,
        errors=(OSError,),
        aliases={"path": "path|folder"},
        examples=25,
    ),
    "Trajectory.params": Target(
        path.params, {"i": (given(-1), integer(-5, 4))}, aliases={"i": "row"}, errors=(IndexError,)
    ),
    "Trajectory.member": Target(
        many.member,
        {"i": (given(0), integer(-2, 1))},
        of_run,
        aliases={"i": "member"},
        errors=(IndexError,),
    ),
    "Trajectory.named": Target(
        path.named,
        {"label": (given("a"), Kind(lambda v: v if isinstance(v, str) else REFUSED))},
        lambda run: run.label,
        examples=20,
    ),
    "sweep": Target(
        one_job,
        {
            "function": (given(lambda a: 2.0 * a), functions),
            "grid": (
                given({"a": [1.0, 2.0]}),
                wrong(
                    tries(never, array={"a": np.array([0.5, 1.0])}),
                    text={"a": "bc"},
                    none={"a": None},
                    number={"a": 1.0},
                    nan={"a": [np.nan]},
                    mixed={"a": [True, "b"]},
                    key={3: [1.0]},
                    nested={"a": [[1.0]]},
                    empty={"a": []},
                    taken={"error": [1.0]},
                ),
            ),
            "folder": (given(None), none | Kind(is_path)),
            "jobs": (given(1), anything),
        },
        lambda found: found["value"].to_numpy() if "value" in found else None,
        errors=(OSError,),
        examples=60,
    ),
}


def of_path(draw: Any) -> Any:
    """The figure of one run."""
    return closed(lambda *, run, **arguments: draw(run, **arguments))


an_ax = (given(None), none)
FIGURES = {
    **{
        f"plots.{name}": Target(
            of_path(getattr(flow.plots, name)),
            {"run": (given(path), a_path), "ax": an_ax},
            aliases={"run": "plots"},
            examples=12,
        )
        for name in ("loss", "gradient_norm", "step_size", "layer_norms", "plane")
    },
    "plots.weights": Target(
        of_path(flow.plots.weights),
        {
            "run": (given(path), a_path),
            "entries": (
                given([0, 1]),
                none
                | tries(
                    Kind(
                        lambda v: (
                            [int(v)]
                            if isinstance(v, np.integer | int)
                            and not isinstance(v, bool)
                            and 0 <= v < 2
                            else REFUSED
                        )
                    ),
                    fine=[1],
                ),
            ),
        },
        aliases={"run": "plots"},
        examples=30,
    ),
    "plots.observable": Target(
        of_path(flow.plots.observable),
        {
            "run": (
                given(
                    flow.integrate(
                        bowl, 1.0, save=3, progress=False, observe={"a": lambda o, p: 1.0}
                    )
                ),
                a_path,
            ),
            "name": (given("a"), option("a")),
        },
        aliases={"run": "plots"},
        examples=20,
    ),
    "plots.sharpness": Target(
        of_path(flow.plots.sharpness),
        {
            "run": (
                given(
                    flow.integrate(
                        bowl, 1.0, save=3, progress=False, observe={"sharpness": flow.sharpness}
                    )
                ),
                a_path,
            ),
            "limits": (
                given([2.0]),
                tries(real(lambda _: True) | none, several=[1.0, 2.0], text=["a"]),
            ),
            "name": (given("sharpness"), option("sharpness")),
        },
        aliases={"run": "plots"},
        examples=30,
    ),
    "plots.spectrum": Target(
        closed(flow.plots.spectrum),
        {
            "eigenvalues": (
                given({"a": [1.0, -2.0]}),
                wrong(
                    tries(no_names, array={"a": H}),
                    number=[1.0],
                    text={"a": "b"},
                    key={3: [1.0]},
                    complex={"a": [1j]},
                ),
            )
        },
        examples=30,
    ),
    "plots.spectral_density": Target(
        closed(flow.plots.spectral_density),
        {"density": (given(density), never), "width": (given(0.1), none | positive)},
        examples=20,
    ),
    "plots.surface": Target(
        of_path(flow.plots.surface),
        {
            "run": (given(path), a_path),
            "objective": (given(None), none | never),
            "directions": (
                given(None),
                none
                | tries(
                    never,
                    fine=[H, START],
                    one=[H],
                    same=[H, H],
                    text=["ab", "cd"],
                    complex=[H * 1j, START],
                ),
            ),
            "filter_normalised": (given(False), flag),
            "resolution": (given(5), integer(2, 50)),
            "margin": (given(0.25), positive),
        },
        aliases={"run": "plots", "directions": "direction"},
        examples=30,
    ),
    "plots.distance": Target(
        closed(flow.plots.distance), {"comparison": (given(compared), never)}, examples=10
    ),
    "plots.comparison": Target(
        closed(flow.plots.comparison), {"comparison": (given(compared), never)}, examples=5
    ),
    "plots.study": Target(closed(flow.plots.study), {"study": (given(studied), never)}, examples=5),
    "plots.order": Target(
        closed(flow.plots.order),
        {"study": (given(flow.order_study(bowl, 0.5, [0.1, 0.05], progress=False)), never)},
        examples=8,
    ),
    "plots.circuit": Target(
        closed(flow.plots.circuit),
        {
            "evaluation": (
                given(circuit.evaluate({"x": 1.0, "y": 2.0})),
                wrong(never, circuit=circuit),
            )
        },
        examples=8,
    ),
    "plots.work_precision": Target(
        closed(flow.plots.work_precision),
        {
            "table": (
                given(
                    __import__("pandas").DataFrame(
                        {"method": ["a", "a"], "cost": [1.0, 2.0], "error": [0.1, 0.01]}
                    )
                ),
                never,
            ),
            "cost": (given("cost"), option("cost")),
            "error": (given("error"), option("error")),
            "by": (given("method"), option("method")),
        },
        aliases={"by": "column", "cost": "column", "error": "column"},
        examples=30,
    ),
    "plots.animate": Target(
        lambda **arguments: flow.plots.animate(flow.plots.loss(path), progress=False, **arguments),
        {
            "file": (lambda: new_file(".gif"), wrong(Kind(is_path), folder=FOLDER, png="a.png")),
            "frames": (given(1), integer(1, 3)),
            "seconds": (given(1.0), real(lambda s: 0 < s < 600)),
            "dpi": (given(20), integer(1, 100)),
        },
        lambda file: True,
        errors=(OSError,),
        examples=15,
    ),
}

PARTS = {"doors": {**OBJECTIVES, **FAMILIES, **EVIDENCE}, "runs": {**RUNS, **FIGURES}}

if __name__ == "__main__":
    faults = run(PARTS[sys.argv[1]], float(sys.argv[2]))
    print("\n".join(faults))  # noqa: T201
    sys.exit(bool(faults))
