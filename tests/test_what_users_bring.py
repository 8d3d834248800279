"""What users bring stays theirs: arrays, and functions that they call themselves as well.

The loss J(w) = ½ Σ |cₖ|² wₖ² holds each cₖ = 1/3 in another way, so that its gradient |cₖ|² wₖ
tells which of them has been rounded.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flow

GLOBAL = None
THIRD = 1.0 / 3.0


class Holder:
    """An object whose method is part of a loss."""

    def __init__(self) -> None:
        self.c = np.array([THIRD])

    def held(self, w: Any) -> Any:
        """Return cw."""
        return self.c * w


def ways(folder: Path) -> dict[str, tuple[Callable, float]]:
    """Name -> (w ↦ cw, |c|²)."""
    closed, listed = np.array([THIRD]), [np.array([THIRD])]
    scalar, complex_ = np.array(THIRD), np.array([THIRD * np.exp(1j)])
    table, index = np.array([0.0, THIRD]), np.array([1], np.int64)
    single = np.array([THIRD], np.float32)
    mapped = np.memmap(folder / "c", np.float64, "w+", shape=(1,))
    mapped[:] = THIRD
    helped = jax.jit(lambda w: closed[0] * w)
    return {
        "closure": (lambda w: closed * w, THIRD**2),
        "global": (lambda w: GLOBAL * w, THIRD**2),
        "default": (lambda w, c=listed[0]: c * w, THIRD**2),
        "partial": (partial(jnp.multiply, np.array([THIRD])), THIRD**2),
        "attribute": (Holder().held, THIRD**2),
        "list": (lambda w: listed[0] * w, THIRD**2),
        "0-d": (lambda w: scalar * w, THIRD**2),
        "complex": (lambda w: complex_ * w, THIRD**2),
        "index": (lambda w: jnp.asarray(table)[index] * w, THIRD**2),
        "memmap": (lambda w: mapped * w, THIRD**2),
        "jitted": (helped, THIRD**2),
        "single": (lambda w: single * w, float(single[0]) ** 2),
    }


def doors(loss: Callable, g: np.ndarray) -> dict[str, Callable[[flow.Objective], tuple]]:
    """Name -> objective ↦ (found, expected), where ∇J = g and ∇²J = diag(g) at w = (1, 1, ...)."""
    one, jitted = np.ones(len(g)), jax.jit(loss)
    rates = np.array([THIRD, THIRD])
    quiet = {"progress": False}

    def observed(objective: flow.Objective) -> tuple:
        told = {"J": lambda _, params: jitted(params)}
        path = flow.integrate(objective, 0.1, method="Euler", step=0.1, observe=told, **quiet)
        return path.observed["J"], path.loss

    def stopped(objective: flow.Objective) -> tuple:
        met = []
        stop = lambda record: met.append(float(jitted(record["theta"])))  # noqa: E731
        steps = flow.descend(objective, 0.1, 1, stop=lambda r: stop(r) is not None, **quiet)
        return met, steps.loss

    return {
        "value": lambda o: (o.value(one), 0.5 * g.sum()),
        "gradient": lambda o: (o.gradient(one), g),
        "hvp": lambda o: (o.hvp(one, one), g),
        "sharpness": lambda o: (flow.sharpness(o, one), g.max()),
        "scipy": lambda o: (
            flow.integrate(o, 1.0, method="DOP853", rtol=1e-12, atol=1e-14, save=2, **quiet).theta[
                -1
            ],
            np.exp(-g),
        ),
        "compiled": lambda o: (
            flow.integrate(o, 0.1, method="Euler", step=0.1, engine="jax", **quiet).theta[-1],
            1.0 - 0.1 * g,
        ),
        "descend": lambda o: (flow.descend(o, 0.1, 1, **quiet).theta[-1], 1.0 - 0.1 * g),
        "schedule": lambda o: (
            flow.descend(o, lambda k: jnp.asarray(rates)[k], 2, **quiet).theta[-1],
            (1.0 - THIRD * g) ** 2,
        ),
        "optimizer": lambda o: (
            flow.descend(
                o,
                optimizer=optax.sgd(lambda k: jnp.asarray(rates)[k]),
                time_step=lambda k: jnp.asarray(rates)[k],
                steps=1,
                **quiet,
            ).theta[-1],
            1.0 - THIRD * g,
        ),
        "observe": observed,
        "stop": stopped,
    }


@pytest.mark.quick
@pytest.mark.parametrize("first", ["flow", "called", "jitted", "differentiated"])
def test_constants_are_double_in_flow_and_single_outside(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Assert each way to hold a constant at each door, whoever called the loss first."""
    monkeypatch.setitem(globals(), "GLOBAL", np.array([THIRD]))
    parts = ways(tmp_path)
    g = np.array([square for _, square in parts.values()])
    one = np.ones(len(g))

    def loss(w: Any) -> Any:
        terms = [part(w[k : k + 1]) for k, (part, _) in enumerate(parts.values())]
        return 0.5 * sum(jnp.sum(jnp.abs(term) ** 2) for term in terms)

    outside = {"called": loss, "jitted": jax.jit(loss), "differentiated": jax.grad(loss)}
    if first != "flow":
        outside[first](one.astype(np.float32))
    objective = flow.Objective(loss, one)
    assert objective.resolution == np.finfo(float).eps
    for door, call in doors(loss, g).items():
        found, expected = call(objective)
        np.testing.assert_allclose(found, expected, rtol=4e-12 if door == "scipy" else 1e-14)
        for name, function in outside.items():
            mine = function(jnp.asarray(one))
            assert mine.dtype == np.float32, (door, name)
            right = g if name == "differentiated" else 0.5 * g.sum()
            np.testing.assert_allclose(mine, right, rtol=1e-6)


BEFORE_THE_IMPORT = """
import jax, numpy as np
H = np.diag([1.0, 10.0]) / 3.0
loss, start = lambda x: 0.5 * x @ H @ x, np.array([1.0, 1.0])
jax.jit(loss)(start), loss(start), jax.grad(loss)(start)
import flow
path = flow.integrate(flow.Objective(loss, start), t=1.0, rtol=1e-12, atol=1e-14, save=2)
assert np.allclose(path.theta[-1], np.exp(-np.diag(H)), rtol=4e-12, atol=0), path.theta[-1]
assert jax.jit(loss)(start).dtype == jax.grad(loss)(start).dtype == np.float32
assert np.allclose(jax.jit(jax.grad(loss))(start), np.diag(H), rtol=1e-6)
"""


def test_a_loss_used_before_flow_is_imported():
    """Assert double precision of what JAX had rounded before there was flow in the process."""
    subprocess.run([sys.executable, "-c", BEFORE_THE_IMPORT], check=True)


# ---- arrays


def aligned(values: np.ndarray) -> np.ndarray:
    """The same where JAX would share its memory: at a multiple of 64 bytes."""
    room = np.zeros(values.size + 8)
    start = -room.ctypes.data // 8 % 8
    array = room[start : start + values.size].reshape(values.shape)
    array[:] = values
    return array


def squares(p: Any, batch: Any) -> Any:
    return 0.5 * jnp.mean((batch[0] @ p["w"] - batch[1]) ** 2)


@pytest.fixture
def given() -> tuple[dict, tuple]:
    """Return w and (X, y), that a test is to change in place: J = ½ mean (Xw − y)² = 2.5."""
    return {"w": aligned(np.array([1.0]))}, (
        aligned(np.arange(2.0)[:, None] * 2),
        aligned(-np.ones(2)),
    )


@pytest.mark.quick
def test_arrays_are_copied_once(given: tuple):
    """Assert that a later change in place of data or θ₀ changes nothing, at any door."""
    params, data = given
    objective = flow.Objective(squares, params, data=data)
    data[0][:] -= 100.0
    data[1][:] = 7.0
    params["w"] -= 5.0
    objective.params["w"] -= 5.0
    objective.theta[:] = 9.0
    with pytest.raises(AttributeError, match="theta"):
        objective.theta -= 1.0
    assert objective.value(objective.params) == 2.5
    assert objective.theta.tolist() == objective.params["w"].tolist() == [1.0]
    assert objective.reparametrised(lambda p: p).value({"w": np.ones(1)}) == 2.5
    elsewhere = objective.starting_at(moved := {"w": np.array([2.0])})
    moved["w"][:] = 0.0
    for o, w in ((objective, 1.0), (elsewhere, 2.0)):
        for dynamics in (flow.GradientFlow(o), flow.ScaleFreeFlow(o)):
            path = flow.integrate(dynamics, 0.1, method="Euler", step=0.1, progress=False)
            assert path.theta[0].tolist() == [w]
        assert flow.descend(o, 0.1, 1, progress=False).theta[0].tolist() == [w]


WRITES = [
    lambda record: record["theta"].__isub__(1.0) is None,
    lambda record: record["twice"].__isub__(1.0) is None,
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    "run",
    [
        partial(flow.integrate, t=0.2, method="Euler", step=0.1),
        partial(flow.integrate, t=0.2, method="Euler", step=0.1, engine="jax"),
        partial(flow.descend, learning_rate=0.1, steps=2),
        partial(flow.descend, learning_rate=[0.1, 0.2], steps=2),
    ],
    ids=["scipy", "jax", "descend", "ensemble"],
)
def test_records_are_read_only(write: Callable, run: Callable, given: tuple):
    """Assert that a stop condition can't write to the rows that it is shown."""
    objective = flow.Objective(squares, given[0], data=given[1])
    twice = lambda _, params: 2.0 * params["w"]  # noqa: E731
    with pytest.raises(ValueError, match="read-only"):
        run(objective, stop=write, observe={"twice": twice}, progress=False)


def test_observers_do_not_write_to_each_others_parameters(given: tuple):
    """Assert that one which normalises in place is refused, as others are shown the same θ."""
    objective = flow.Objective(squares, given[0], data=given[1])
    halve = lambda _, params: np.divide(params["w"], 2.0, out=params["w"])  # noqa: E731
    with pytest.raises(ValueError, match="read-only"):
        flow.descend(objective, 0.1, 2, observe={"halved": halve}, progress=False)


# ---- functions that read what changes

SETTING = 0.1


@pytest.fixture
def bowl() -> flow.Objective:
    """J = ½w², from 1: a step of η leaves 1 − η."""
    return flow.Objective(lambda w: 0.5 * jnp.sum(w**2), np.ones(1))


def _step(bowl: flow.Objective, **options: Any) -> float:
    return flow.descend(bowl, steps=1, progress=False, **options).theta[..., -1, 0].tolist()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"learning_rate": lambda k: SETTING + 0.0 * k}, lambda eta: 1.0 - eta),
        (
            {"learning_rate": [lambda k: SETTING + 0.0 * k, lambda k: 2.0 * SETTING]},
            lambda eta: [1.0 - eta, 1.0 - 2.0 * eta],
        ),
        (
            {"optimizer": optax.sgd(lambda k: SETTING + 0.0 * k), "time_step": lambda k: 1.0},
            lambda eta: 1.0 - eta,
        ),
        (
            {"learning_rate": 0.5, "evaluate": lambda state, w: SETTING * w},
            lambda factor: 0.5 * factor,
        ),
    ],
    ids=["schedule", "several schedules", "optimizer", "evaluation"],
)
def test_a_rule_that_reads_a_setting_is_taken_anew(
    options: dict, left: Callable, bowl: flow.Objective, monkeypatch: pytest.MonkeyPatch
):
    """Assert that a second run by the same function is by what it computes then."""
    for setting in (0.1, 0.5, 0.1):
        monkeypatch.setitem(globals(), "SETTING", setting)
        assert _step(bowl, **options) == pytest.approx(left(setting), rel=1e-15)


def test_rules_that_compute_the_same_share_a_compiled_loop(bowl: flow.Objective):
    """Assert that neither a new schedule nor a new optimizer of the same numbers compiles anew."""
    for eta in (0.1, 0.2):
        _step(bowl, learning_rate=eta)
        _step(bowl, learning_rate=lambda k, eta=eta: eta + 0.0 * k)
        _step(bowl, optimizer=optax.adam(0.1), time_step=0.1)
    assert sum(key[0] == "descend" for key in bowl._compiled if isinstance(key, tuple)) == 2  # noqa: SLF001


@pytest.mark.parametrize("engine", ["scipy", "jax"])
def test_a_dynamics_that_reads_a_setting_is_taken_anew(
    engine: str, monkeypatch: pytest.MonkeyPatch
):
    """Assert θ = e^(−at) of the a that is read, whatever ran before."""
    dynamics = flow.Dynamics(lambda t, w: -SETTING * w, np.ones(1))
    for a in (0.1, 0.5):
        monkeypatch.setitem(globals(), "SETTING", a)
        path = flow.integrate(dynamics, 0.2, method="RK4", step=0.1, engine=engine, progress=False)
        assert path.theta[-1, 0] == pytest.approx(np.exp(-0.2 * a), rel=1e-6)


@pytest.mark.parametrize(
    "run",
    [
        partial(flow.integrate, t=0.2),
        partial(flow.integrate, t=0.2, method="Euler", step=0.1, engine="jax"),
        partial(flow.integrate, t=0.2, method="TSRKC3", engine="scipy"),
        partial(flow.descend, learning_rate=0.1, steps=2),
        partial(flow.descend, learning_rate=[0.1, 0.2], steps=2),
    ],
    ids=["scipy", "jax", "stabilised", "descend", "ensemble"],
)
@pytest.mark.parametrize("looked", [False, True])
def test_a_loss_that_reads_a_setting_is_one_loss(
    looked: bool, run: Callable, monkeypatch: pytest.MonkeyPatch
):
    """Assert an error where J(θ₀) is another than at first, and none once it is as it was."""
    monkeypatch.setitem(globals(), "SETTING", 1.0)
    objective = flow.Objective(lambda w: SETTING * jnp.sum(w**2), np.ones(2))
    if looked:  # J and ∇J are compiled then, and the run's own loop is not
        flow.integrate(objective, 0.1, method="RK45", progress=False)
        flow.descend(objective, optimizer=optax.adam(0.1), time_step=0.1, steps=1, progress=False)
    monkeypatch.setitem(globals(), "SETTING", 2.0)
    if not (looked and run.keywords == {"t": 0.2}):  # that has nothing left to compile
        with pytest.raises(ValueError, match="loss at θ₀ is 4, and was 2 when .* make a new"):
            run(objective, progress=False)
    monkeypatch.setitem(globals(), "SETTING", 1.0)
    assert run(objective, progress=False).loss[..., 0].tolist() in (2.0, [2.0, 2.0])


def test_keys_in_data():
    """Assert that each example may have a key, and that one key is told from examples."""

    def loss(w: object, batch: object) -> object:
        x, keys = batch
        noise = jax.vmap(lambda key: jax.random.normal(key, (), np.float64))(keys)
        return ((x * w - noise) ** 2).mean()

    x = np.arange(6.0)
    for make in (jax.random.key, jax.random.PRNGKey):
        keys = jax.random.split(make(0), 6)
        whole = flow.Objective(loss, np.ones(()), data=(x, keys))
        with jax.enable_x64(True):
            assert whole.value(1.0) == pytest.approx(float(loss(1.0, (x, keys))), rel=1e-14)
        parts = flow.Objective(loss, np.ones(()), data=(x, keys), batch_chunk=2)
        assert parts.value(1.0) == pytest.approx(whole.value(1.0), rel=1e-14)
        assert np.isfinite(flow.descend(whole, 0.01, 2, batch_size=2).loss).all()
    with pytest.raises(ValueError, match=r"data\[1\] is one PRNG key.*jax.random.split\(key, N\)"):
        flow.Objective(loss, np.ones(()), data=(x, jax.random.key(0)))
    with pytest.raises(ValueError, match=r"rows are examples; data\[1\] may be a PRNG key"):
        flow.Objective(loss, np.ones(()), data=(x, jax.random.PRNGKey(0)))
