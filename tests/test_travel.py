"""What is computed goes to another process and back: by pickle, copies, pools and clusters."""

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, is_dataclass, replace
from multiprocessing import get_context
from typing import Any, NamedTuple

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

import flow
from flow._core.precision import double_precision

X, Y = np.linspace(-1.0, 1.0, 10).reshape(5, 2), np.linspace(0.0, 1.0, 5)[:, None]
WAYS = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),  # noqa: S301
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "cloudpickle": lambda x: pickle.loads(cloudpickle.dumps(x)),  # noqa: S301
}


class Pair(NamedTuple):
    """Parameters in a container that no file can restore."""

    a: Any
    b: Any


def quadratic(start: Any = (1.0, 2.0)) -> flow.Objective:
    """½ Σ hₖ xₖ², by a closure."""
    h = np.array([1.0, 1.0 / 3.0])
    return flow.Objective(lambda x: 0.5 * jnp.sum(h * x**2), np.array(start))


def network(activation: Any = "tanh") -> flow.Objective:
    """A network's own objective, its backward pass written by hand."""
    return flow.MLP([2, 2, 1], activation).objective(X, Y)


def custom() -> flow.Objective:
    """Of parameters in a container of one's own."""
    return flow.Objective(lambda p: p.a @ p.a + p.b, Pair(np.ones(2), np.array(1.0)))


def slope(dynamics: flow.Dynamics) -> Any:
    """d(state)/dt at t = 0, with all that is compiled or closed over."""
    with double_precision():
        state = jax.tree.map(jnp.asarray, dynamics.initial_state())
        return dynamics.rhs(0.0, state, dynamics.objective.data)


def results() -> dict[str, Any]:
    """What runs and their evidence are, by name."""
    objective = quadratic()
    path = flow.integrate(objective, 1.0, save=3, observe={"norm": lambda o, x: np.sum(x**2)})
    study = flow.study(objective, [0.5, 0.25], t=1.0, save=3, progress=False)
    starts = np.array([[1.0, 2.0], [0.5, 0.0]])
    many = flow.integrate(objective, 1.0, engine="jax", ensemble=starts, save=3)
    return {
        "trajectory": path,
        "descent": flow.descend(objective, 0.1, 4, save=3),
        "ensemble": many,
        "member": many.member(1),
        "study": study,
        "comparison": study.comparison,
        "audit": flow.audit(path, error_bar=True),
        "order study": flow.order_study(objective, 1.0, [0.1, 0.05]),
    }


def problems() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """What runs are made of, and what it computes."""
    objective, own = quadratic(), flow.backprop.softplus(2.0)

    def rhs(_: Any, state: Any) -> Any:
        return -objective.traced_gradient(state, None)

    mine = flow.Dynamics(rhs, objective.params, objective=objective)
    scaled = flow.ScaleFreeFlow(network(), leaves=["params[0]['W']"])
    batches = flow.HostBatches([(X[:3], Y[:3]), (X[3:], Y[3:])])
    value = lambda o: [o.value(o.params), o.gradient(o.params)]  # noqa: E731
    seen = lambda f: f(network(), network().params)  # noqa: E731
    return {
        "closure": (objective, value),
        "jitted": (flow.Objective(jax.jit(lambda x: x @ x), np.ones(2)), value),
        "network": (network(), value),
        "own activation": (network(own), value),
        "container": (custom(), value),
        "view": (objective.starting_at(np.array([3.0, 4.0])), value),
        "host batches": (batches, lambda b: b.read(1)),
        "gradient flow": (flow.GradientFlow(network()), slope),
        "heavy ball": (flow.HeavyBall(objective, 0.5), slope),
        "adam": (flow.AdamFlow(objective, 0.1), slope),
        "linearised": (flow.LinearizedFlow(network()), slope),
        "scale-free": (scaled, slope),
        "one's own": (mine, slope),
        "MLP": (
            flow.MLP([2, 3, 1], own),
            lambda n: n.outputs(jax.tree.map(jnp.asarray, n.initialise()), jnp.asarray(X)),
        ),
        "accuracy": (flow.observe.accuracy(X, Y > 0.5), seen),
        "test loss": (flow.observe.test_loss(X, Y), seen),
        "projection": (flow.observe.projection(4), seen),
        "sharpness": (flow.observe.sharpness(), lambda o: o.init(network(), network().params)),
        "stop": (flow.stop.loss(0.5), lambda stop: stop({"loss": 0.5})),
    }


def parts(x: Any) -> Any:
    """Arrays, numbers and texts of a result, whatever the process can't have."""
    if isinstance(x, np.ndarray):
        return x.dtype.str, x.shape, x.flags.writeable, x.tobytes()
    if is_dataclass(x):
        here = {"dynamics", "solver", "unflatten"}
        return [(f.name, parts(getattr(x, f.name))) for f in fields(x) if f.name not in here]
    if isinstance(x, dict):
        return [(key, parts(value)) for key, value in x.items()]
    return [*map(parts, x)] if isinstance(x, list | tuple) else repr(x)


@pytest.fixture(scope="module")
def computed() -> dict[str, Any]:
    """Results, computed once."""
    return results()


@pytest.mark.quick
@pytest.mark.parametrize("way", WAYS)
def test_results_come_back(computed: dict[str, Any], way: str):
    """Assert that each is the same to the bit, and still knows which run is which."""
    for name, result in computed.items():
        assert parts(WAYS[way](result)) == parts(result), name
    study = WAYS[way](computed["study"])
    assert study.table().equals(computed["study"].table())
    assert all(
        pair.run is run for pair, run in zip(study.comparison.pairs, study.runs, strict=True)
    )


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "cloudpickle"])
def test_problems_come_back(way: str):
    """Assert that objectives, dynamics, networks and observers compute the same to the bit."""
    for name, (made, of) in problems().items():
        with double_precision():
            expected, found = map(of, (made, WAYS[way](made)))
        assert jax.tree.structure(found) == jax.tree.structure(expected), name
        assert all(map(np.array_equal, *map(jax.tree.leaves, (found, expected)))), name


def test_dask_takes_them(computed: dict[str, Any]):
    """Assert it of dask's own serialisation, which falls back on cloudpickle."""
    from distributed.protocol.pickle import dumps, loads

    assert parts(loads(dumps(computed["study"]))) == parts(computed["study"])
    assert loads(dumps(quadratic())).value(np.ones(2)) == quadratic().value(np.ones(2))


def test_what_is_shared_stays_shared():
    """Assert it of a function and its objective, of tied layers, and of what holds itself."""

    class Own(flow.Dynamics):
        """A class that another process does not have."""

        def __init__(self, objective: flow.Objective) -> None:
            super().__init__(self.move, objective.params, objective=objective)

        def move(self, t: Any, state: Any) -> Any:
            return -state

    made = WAYS["pickle"](Own(quadratic()))
    (move,) = vars(made)["_rhs"].args
    assert move.__self__ is made
    np.testing.assert_array_equal(made.rhs(0.0, made.initial_state(), None), [-1.0, -2.0])
    layer = flow.backprop.Linear(2, 2)
    tied = WAYS["pickle"](flow.Network([layer, "tanh", layer]).objective(X, np.ones((5, 2))))
    first, tanh, second = tied.backprop[0].layers
    assert first is second
    assert tanh is flow.backprop.ACTIVATIONS["tanh"]


def test_precision_and_place_come_along():
    """Assert float64 of what a loss closes over, the device, the mesh and its chunks."""
    with jax.enable_x64(True):
        thirds = jnp.array([1.0, 2.0]) / 3.0
    made = WAYS["pickle"](flow.Objective(lambda x: thirds @ x, np.ones(2), device="cpu"))
    np.testing.assert_array_equal(made.gradient(np.ones(2)), np.array([1.0, 2.0]) / 3.0)
    assert made.device == jax.devices("cpu")[0]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("examples",))
    split = flow.MLP([2, 2, 1]).objective(X, Y, mesh=mesh, batch_chunk=2)
    again = WAYS["pickle"](split)
    assert again.mesh == mesh
    assert again.value(again.params) == split.value(split.params)
    gone = split.__getstate__()
    gone["mesh"][0][0] = "cpu", 99
    alone = object.__new__(flow.Objective)
    alone.__setstate__(gone)  # where there is no such device
    assert alone.mesh is None
    np.testing.assert_allclose(alone.value(alone.params), split.value(split.params), rtol=1e-14)


def test_what_stays_behind_is_given_back():
    """Assert what a run lacks in another process, the messages, and that what they say works."""
    path, steps = flow.integrate(custom(), 1.0, save=4), flow.descend(custom(), 0.25, 4)
    back = WAYS["pickle"](path)
    assert (back.dynamics, back.solver, back.unflatten) == (None, None, None)
    assert copy.deepcopy(path).dynamics is path.dynamics
    with pytest.raises(ValueError, match=r"another process.*unflatten=objective\.unflatten"):
        back.params(-1)
    whole = replace(back, unflatten=custom().unflatten).params(-1)
    np.testing.assert_array_equal(whole.a, path.params(-1).a)
    with pytest.raises(ValueError, match=r"dynamics=flow\.GradientFlow\(objective\)"):
        flow.compare(back, flow.descend(custom(), 0.125, 4, save=[0.125]))
    again = replace(back, dynamics=flow.GradientFlow(custom()))
    found, expected = flow.compare(again, steps), flow.compare(path, steps)
    np.testing.assert_array_equal(found.distance, expected.distance)
    with pytest.raises(ValueError, match=r"another process.*flow\.audit\(path, objective\)"):
        flow.audit(back, error_bar=True)


def test_what_cannot_travel_says_so():
    """Assert the message where a loss holds a lock, by any pickle; a run of it comes back."""
    lock = threading.Lock()

    def guarded(x: Any) -> Any:
        with lock:
            return x @ x

    objective = flow.Objective(guarded, np.ones(2))
    for way in ("pickle", "cloudpickle"):
        with pytest.raises(TypeError, match=r"Objective can't be sent.*lock.*functions of a mod"):
            WAYS[way](objective)
    path = flow.integrate(objective, 0.1, save=2)
    assert parts(WAYS["pickle"](path)) == parts(path)


def travelled(objective: flow.Objective, dynamics: flow.Dynamics) -> list[Any]:
    """What a worker computes of what it was sent."""
    path = flow.integrate(dynamics, 1.0, save=3, progress=False)
    steps = flow.descend(objective, 0.25, 4, save=3, progress=False)
    return [path, steps, flow.compare(path, steps, progress=False), dynamics]


def test_pools_of_processes():
    """Assert the same bits from a pool of fresh processes and from joblib's."""
    sent = (objective := network()), flow.GradientFlow(objective)
    spawned = ProcessPoolExecutor(1, get_context("spawn"))
    try:
        pools = spawned, get_reusable_executor(max_workers=1)
        futures = [pool.submit(travelled, *sent) for pool in pools]
        here = travelled(*sent)
        for future in futures:
            *found, dynamics = future.result(timeout=120)
            for mine, theirs in zip(here, found, strict=False):
                timed = {"seconds", "compile_seconds"}
                if isinstance(mine, flow.Trajectory):
                    mine, theirs = (  # noqa: PLW2901
                        replace(run, stats={k: v for k, v in run.stats.items() if k not in timed})
                        for run in (mine, theirs)
                    )
                    assert parts(theirs) == parts(mine)
                else:
                    np.testing.assert_array_equal(theirs.distance, mine.distance)
            again = flow.integrate(dynamics, 1.0, save=3)
            np.testing.assert_array_equal(again.theta, here[0].theta)
    finally:
        spawned.shutdown()
        get_reusable_executor().shutdown(kill_workers=True)
