"""Examples in chunks, read from the host, and spread over devices and processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flow
from flow._core.precision import double_precision
from flow.dynamics.flattened import flatten

ROOT = Path(__file__).parent.parent
X, Y = flow.datasets.digits(60)
NETWORK = flow.MLP([64, 4, 10])
WHOLE = NETWORK.objective(X, Y, seed=0)


def loss(params: Any, batch: Any) -> Any:
    """The mean over a batch."""
    return mse(NETWORK.outputs(params, batch[0]), batch[1])


def mse(A: Any, y: Any) -> Any:
    """½‖A − y‖², the mean over examples."""
    return 0.5 * jnp.mean(jnp.sum((A - y) ** 2, axis=1))


def assert_alike(objective: flow.Objective, rtol: float = 1e-12) -> None:
    """Assert J, ∇J and ∇²J·v of the whole."""
    params, rng = WHOLE.params, np.random.default_rng(0)
    v = jax.tree.map(lambda x: rng.standard_normal(x.shape), params)
    assert objective.value(params) == pytest.approx(WHOLE.value(params), rel=rtol)
    for name in ("gradient", "hvp"):
        mine, whole = (
            o.flatten(getattr(o, name)(params, *([v] if name == "hvp" else [])))
            for o in (objective, WHOLE)
        )
        np.testing.assert_allclose(mine, whole, atol=rtol * np.linalg.norm(whole), rtol=0)


@pytest.mark.parametrize("chunk", [1, 7, 20, 1000])
@pytest.mark.quick
def test_chunks_are_the_whole(chunk: int):
    """Assert J, ∇J and ∇²J·v to 1e-12, where chunks divide the examples and where they don't."""
    assert_alike(NETWORK.objective(X, Y, seed=0, batch_chunk=chunk))


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 60))
def test_batches_of_the_host_are_the_whole(size: int):
    """Assert the same of batches that are read one by one."""
    batches = [(X[i : i + size], Y[i : i + size]) for i in range(0, 60, size)]
    objective = flow.Objective(loss, WHOLE.params, data=flow.HostBatches(batches))
    assert flow.HostBatches(batches).examples == 60
    assert_alike(objective)


def test_what_is_split_runs_as_the_whole():
    """Assert flows by both engines, descent and sharpness, bit for bit from run to run."""
    batches = flow.HostBatches([(X[:25], Y[:25]), (X[25:50], Y[25:50]), (X[50:], Y[50:])])
    read = flow.Objective(loss, WHOLE.params, data=batches)
    chunks = NETWORK.objective(X, Y, seed=0, batch_chunk=25)
    for split, how in ((read, {}), (chunks, {"method": "RK4", "step": 0.05, "engine": "jax"})):
        one, again, whole = (
            flow.integrate(o, 1.0, save=3, progress=False, **how) for o in (split, split, WHOLE)
        )
        np.testing.assert_array_equal(one.theta, again.theta)
        np.testing.assert_allclose(one.theta, whole.theta, rtol=0, atol=1e-11)
        steps, whole = (flow.descend(o, 0.05, 20, save=2, progress=False) for o in (split, WHOLE))
        np.testing.assert_allclose(steps.theta, whole.theta, rtol=0, atol=1e-13)
    sharp = flow.sharpness(read, read.params)
    assert sharp == pytest.approx(flow.sharpness(WHOLE, WHOLE.params), rel=1e-10)


# Flows that are no gradient of the objective's own loss: of its outputs, or of another loss.
SECOND_HAND = {
    "natural": lambda o: flow.NaturalGradientFlow(o, damping=0.1),
    "linearised": flow.LinearizedFlow,
    "scale-free": lambda o: flow.ScaleFreeFlow(o, leaves=["params[0]['W']"]),
}


def speed(dynamics: flow.Dynamics) -> np.ndarray:
    """θ̇ near θ₀, (n,)."""
    flat = flatten(dynamics)
    with double_precision():
        return np.asarray(flat.derivative(0.0, flat.initial + 0.01)[0])


@pytest.mark.parametrize("name", SECOND_HAND)
def test_what_is_split_moves_as_the_whole(name: str):
    """Assert θ̇ to 1e-10 of its length, as a solve is to 1e-12, and the whole's is no gradient."""
    make, outputs = SECOND_HAND[name], {"outputs": NETWORK.outputs, "output_loss": mse}
    batches = flow.HostBatches([(X[:25], Y[:25]), (X[25:50], Y[25:50]), (X[50:], Y[50:])])
    whole = speed(make(WHOLE))
    for split in (
        flow.Objective(**outputs, params=WHOLE.params, data=batches),
        flow.Objective(**outputs, params=WHOLE.params, data=(X, Y), batch_chunk=25),
    ):
        np.testing.assert_allclose(
            speed(make(split)), whole, rtol=0, atol=1e-10 * np.linalg.norm(whole)
        )
    assert np.linalg.norm(whole - speed(flow.GradientFlow(WHOLE))) > 1e-3 * np.linalg.norm(whole)


def test_what_wants_all_examples_at_once():
    """Assert that they are asked for as arrays, and that others are taken beside the batches."""
    batches = flow.HostBatches([(X[:30], Y[:30]), (X[30:], Y[30:])])
    read = flow.Objective(
        outputs=NETWORK.outputs, output_loss=mse, params=WHOLE.params, data=batches
    )
    for name, wants in {
        "outputs without X": lambda: read.outputs(read.params),
        "jvp": lambda: read.jvp(read.params, read.params),
        "vjp": lambda: read.vjp(read.params, Y),
        "StochasticFlow": lambda: flow.StochasticFlow(read, 0.1, 4),
        "batch_size": lambda: flow.descend(read, 0.1, 5, batch_size=4, seed=0),
        "the tangent kernel": lambda: flow.LinearizedFlow(read).kernel(),
    }.items():
        with pytest.raises(ValueError, match=f"{name} needs all examples as arrays"):
            wants()
    np.testing.assert_array_equal(read.outputs(read.params, X), WHOLE.outputs(read.params))
    other = WHOLE.value(read.params, (X[:7], Y[:7]))
    assert read.value(read.params, (X[:7], Y[:7])) == pytest.approx(other, rel=1e-14)


@pytest.mark.quick
def test_batches_are_computed_in_the_precision_asked_for():
    """Assert that a single batch in float32 is, to the bit, what the array is in float32."""
    read, array = (
        flow.Objective(loss, WHOLE.params, data=data, dtype="float32")
        for data in (flow.HostBatches([(X, Y)]), (X, Y))
    )
    assert read.value(read.params) == array.value(array.params) != WHOLE.value(WHOLE.params)
    np.testing.assert_array_equal(
        read.flatten(read.gradient(read.params)), array.flatten(array.gradient(array.params))
    )


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.float32, np.int64, np.bool_])
def test_batches_of_any_type(dtype: type):
    """Assert what the array gives."""
    data = ((1 + 1j) * X if np.issubdtype(dtype, np.complexfloating) else X).astype(dtype)
    size = lambda p, x: jnp.mean(jnp.abs(x.astype(complex) @ p) ** 2)  # noqa: E731
    read, array = (
        flow.Objective(size, np.ones(64), data=d).value(np.ones(64))
        for d in (flow.HostBatches([data[:40], data[40:]]), data)
    )
    assert read == pytest.approx(array, rel=1e-12 if dtype != np.complex64 else 1e-6)


def test_what_reading_raises(tmp_path: Path):
    """Assert that it is raised as it was, wherever batches are read, and forgotten afterwards."""

    class Source:
        lost = False

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> np.ndarray:
            if self.lost and i == 1:
                raise OSError("stale file handle")
            return X[20 * i : 20 * i + 20]

    source = Source()
    read = flow.Objective(
        lambda p, x: jnp.mean((x @ p) ** 2), np.ones(64), data=flow.HostBatches(source)
    )
    begun = flow.Checkpoint(tmp_path / "run", gradients=1)
    path = flow.integrate(read, 0.1, checkpoint=begun, progress=False)
    source.lost = True
    for call in (
        lambda: read.value(read.params),
        lambda: read.gradient(read.params),
        lambda: read.hvp(read.params, read.params),
        lambda: flow.sharpness(read, read.params),
        lambda: flow.descend(read, 0.1, 4, progress=False),
        lambda: flow.integrate(read, 0.1, progress=False),
        lambda: flow.integrate(read, 0.1, engine="jax", method="TSRKC3", progress=False),
    ):
        with pytest.raises(OSError, match="stale file handle") as raised:
            call()
        assert raised.value.__notes__ == ["from batches[1]"]
    source.lost = False
    again = flow.resume(tmp_path / "run", read, progress=False)
    np.testing.assert_array_equal(again.theta, path.theta)


def test_only_one_chunk_is_in_memory():
    """Assert the compiled gradient's temporaries: those of a chunk, not of all examples."""
    data = np.zeros((4000, 64)), np.zeros((4000, 10))
    network = flow.MLP([64, 64, 10])

    def temporaries(chunk: int | None) -> int:
        objective = network.objective(*data, batch_chunk=chunk)
        with double_precision():
            function = objective.compiled("g", objective._build_value_and_gradient)  # noqa: SLF001
            program = function.lower(objective.theta, objective.data).compile()
        return program.memory_analysis().temp_size_in_bytes

    whole, chunked = temporaries(None), temporaries(40)
    assert whole > 4000 * 64 * 8  # the hidden layer's activations, at least
    assert chunked < whole / 20


def test_a_batch_that_is_no_such():
    """Assert what is refused at the door, by name, and what a source that changes does later."""
    layers = [
        flow.backprop.Linear(64, 4),
        flow.backprop.BatchNormalisation(4),
        "tanh",
        flow.backprop.Linear(4, 10),
    ]
    with pytest.raises(ValueError, match="batch normalisation, which looks at all of its batch"):
        flow.Network(layers).objective(X, Y, batch_chunk=10)
    variance = lambda p, x: jnp.var(x @ p)  # noqa: E731
    small = flow.HostBatches([X[i : i + 2] for i in range(0, 60, 2)])
    large = flow.HostBatches([X[:30], X[30:]])
    for split in ({"data": X, "batch_chunk": 8}, {"data": large}, {"data": small}):
        with pytest.raises(ValueError, match="need a loss that is a mean over examples"):
            flow.Objective(variance, np.ones(64), **split)
    # Not at θ₀ = 0, not on the first rows, or only in the gradient.
    scaled = lambda p, x: jnp.mean(p * x) / (1.0 + jnp.abs(p[0]) * jnp.var(x))  # noqa: E731
    weighted = lambda p, b: jnp.sum(b[1] * (b[0] @ p)) / jnp.sum(b[1])  # noqa: E731
    mean = lambda p, x: jnp.mean(x @ p)  # noqa: E731
    fixed = {"gradient": lambda p, x: jnp.sum(x, axis=0) / 60}
    for loss_, theta, data, more in (
        (scaled, np.zeros(64), X, {}),
        (weighted, np.ones(64), (X, np.where(np.arange(60) < 40, 1.0, 0.0)), {}),
        (mean, np.ones(64), X, fixed),
    ):
        with pytest.raises(ValueError, match="need a loss that is a mean over examples"):
            flow.Objective(loss_, theta, data=data, batch_chunk=20, **more)
    single = flow.HostBatches([X[i : i + 1] for i in range(60)])
    with pytest.raises(ValueError, match="need a loss that is a mean over examples"):
        flow.Objective(variance, np.ones(64), data=single)
    assert flow.Objective(mean, np.ones(64), data=single).value(np.ones(64)) == pytest.approx(
        (X @ np.ones(64)).mean()
    )
    for make, error, message in (
        (lambda: NETWORK.objective(X, Y, batch_chunk=0), ValueError, "batch_chunk must be"),
        (lambda: NETWORK.objective(X, Y, mesh="all"), TypeError, "must be a jax.sharding.Mesh"),
        (
            lambda: flow.Objective(lambda p: p @ p, np.ones(2), batch_chunk=3),
            ValueError,
            "splits the examples of data=, and there is none",
        ),
        (lambda: flow.HostBatches(iter([X])), TypeError, "as each gradient reads them again"),
        (lambda: flow.HostBatches([]), ValueError, "batches is empty"),
        (lambda: flow.HostBatches([X[:3], X[3:9]]), ValueError, "as many rows as the first"),
        (
            lambda: flow.Objective(
                lambda p, x: jnp.mean(x @ p), np.ones(64), data=flow.HostBatches([X]), batch_chunk=2
            ),
            ValueError,
            "HostBatches are chunks already",
        ),
    ):
        with pytest.raises(error, match=message):
            make()


SHARDED = """
import json, jax, numpy as np, flow
from flow._core.precision import double_precision
from flow.dynamics.flattened import flatten
X, y = flow.datasets.digits(60)
network = flow.MLP([64, 4, 10])
whole = network.objective(X, y, seed=0)
mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("examples",))
place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("examples"))
with double_precision():
    arrays = [jax.device_put(np.asarray(a, float), place) for a in (X, y)]
split = {
    "mesh": network.objective(X, y, seed=0, mesh=mesh),
    "chunks": network.objective(X, y, seed=0, mesh=mesh, batch_chunk=4),
    "arrays": flow.Objective(
        outputs=network.outputs, output_loss=lambda A, y: 0.5 * ((A - y) ** 2).sum(1).mean(),
        params=whole.params, data=tuple(arrays)),
}
v = jax.tree.map(np.ones_like, whole.params)
found = {}
for name, o in split.items():
    pairs = [(o.gradient(o.params), whole.gradient(o.params))]
    pairs.append((o.hvp(o.params, v), whole.hvp(o.params, v)))
    gaps = [np.abs(whole.flatten(a) - whole.flatten(b)).max() for a, b in pairs]
    runs = [flow.integrate(x, 1.0, save=2, progress=False) for x in (o, whole)]
    gaps.append(np.abs(runs[0].theta - runs[1].theta).max())
    found[name] = [float(g) for g in gaps]
alone = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("examples",))
for devices in (mesh, alone):
    o = network.objective(X, y, seed=0, mesh=devices)
    for make in (lambda o: flow.NaturalGradientFlow(o, damping=0.1), flow.LinearizedFlow,
                 lambda o: flow.ScaleFreeFlow(o, leaves=["params[0]['W']"])):
        flat = [flatten(make(x)) for x in (o, whole)]
        with double_precision():
            one, all_ = (np.asarray(f.derivative(0.0, f.initial + 0.01)[0]) for f in flat)
        moved = float(np.linalg.norm(one - all_) / np.linalg.norm(all_))
        found.setdefault("moved", []).append(moved)
try:
    network.objective(X[:58], y[:58], mesh=mesh)
except ValueError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


def on_four_devices(script: str, folder: Path) -> dict[str, Any]:
    """What a script prints in a process with four virtual devices."""
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"}
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def test_examples_on_several_devices(tmp_path: Path):
    """Assert gradients and flows on a mesh, also in chunks, and of arrays that lie there."""
    found = on_four_devices(SHARDED, tmp_path)
    assert "58 examples do not divide; leave out 2 of them" in found.pop("error")
    assert max(found.pop("moved")) < 1e-10
    for gradient, product, run in found.values():
        assert gradient < 1e-13
        assert product < 1e-12
        assert run < 1e-11


PLACED = """
import json
import jax, numpy as np
import flow

there, (X, y) = jax.devices()[2], flow.datasets.digits(60)
network, found = flow.MLP([64, 4, 10]), {}
losses = {
    "network": lambda device: network.objective(X, y, device=device),
    "bowl": lambda device: flow.Objective(lambda x: (x**2).sum() + x.prod(), np.ones(3),
                                          device=device),
}
for name, make in losses.items():
    o, usual = make(there), make(None)
    with jax.enable_x64(True):
        function = o.compiled("value_and_gradient", o._build_value_and_gradient)
        lies = function(o.theta, o.data)[1].devices() == {there}
    runs = {
        "host": lambda o: flow.integrate(o, 0.2, save=3, progress=False).theta,
        "compiled": lambda o: flow.integrate(o, 0.2, method="TSRKC3", engine="jax", save=3,
                                             progress=False).theta,
        "descent": lambda o: flow.descend(o, 0.05, 10, save=3, progress=False).theta,
        "gradient": lambda o: o.flatten(o.gradient(o.params)),
        "sharpness": lambda o: flow.sharpness(o, o.params),
    }
    found[name] = [lies, *(bool(np.array_equal(run(o), run(usual))) for run in runs.values())]
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
for name, more in {"both": {"mesh": mesh, "device": there}, "absent": {"device": "tpu"}}.items():
    try:
        network.objective(X, y, **more)
    except ValueError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def test_a_device_of_ones_own(tmp_path: Path):
    """Assert that all is computed on the device that was asked for, to the same bits."""
    found = on_four_devices(PLACED, tmp_path)
    assert "is one, and mesh= has its own; leave one out" in found.pop("both")
    assert "device='tpu' is not here; JAX has [" in found.pop("absent")
    assert found == {"network": [True] * 6, "bowl": [True] * 6}


@pytest.mark.large
def test_processes_on_loopback(tmp_path: Path):
    """Assert that two processes do what one does, alike in both, with one all-reduce a gradient."""
    script = ROOT / "experiments" / "scale_out.py"
    small = [
        "--processes",
        "2",
        "--devices",
        "1",
        "--examples",
        "40",
        "--hidden",
        "3",
        "--t",
        "0.5",
    ]
    answer = subprocess.run(
        [sys.executable, script, *small, "--quiet", "--out", tmp_path],
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    (file,) = tmp_path.glob("scale_out/*/table.csv")
    table = pd.read_csv(file, index_col=0)
    assert list(table.index) == ["1 process, 1 device", "2 processes"]
    assert table["alike in all processes"].all()
    assert (table.filter(like="Δ") < 1e-10).all(axis=None)
    assert len(set(table["gradients"])) == 1
    # θ has 64·3 + 3 + 3·10 + 10 entries.
    assert list(table["numbers in them"]) == [235, 235]
    assert list(table["all-reduces a gradient"]) == [1, 1]


@pytest.mark.large
def test_one_process_of_two_is_killed(tmp_path: Path):
    """Assert that the other ends within its time-out and says why, and that the run goes on."""
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        import scale_out
    finally:
        sys.path.pop(0)
    config = scale_out.Configuration(examples=200, hidden=8, kill=True)
    found = scale_out.kill_one(config, 1, tmp_path / "killed")
    assert found["exit code of the other"] != 0
    assert found["says which"]
    assert found["seconds until then"] < 3 * scale_out.LOST
    assert found["gone on with alone"] == "reached t = 200"
    assert found["‖Δθ‖/‖θ‖ to an undisturbed run"] < 1e-12


IN_PARTS = """
import json, sys
import jax, numpy as np
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]))
import flow

X, y = flow.datasets.digits(60)
network = flow.MLP([64, 4, 10])
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
whole, parts = network.objective(X, y, seed=0), network.objective(X, y, seed=0, mesh=mesh)
p = whole.params
found = {
    name: float(np.abs(of(parts) - of(whole)).max() / np.abs(of(whole)).max())
    for name, of in {
        "outputs": lambda o: o.outputs(p),
        "jvp": lambda o: o.jvp(p, p),
        "kernel": lambda o: flow.LinearizedFlow(o).outputs([1.0]),
    }.items()
}
found["error"] = flow.check_gradient(parts).worst.error
found["explained"] = str(flow.explain(parts)) == str(flow.explain(whole))
runs = {"shared": parts, f"own-{sys.argv[1]}": whole}
for folder, objective in runs.items():
    flow.integrate(objective, 0.2, checkpoint=folder, progress=False)
found["resumed"] = [flow.resume(folder, o, progress=False).result for folder, o in runs.items()]
print(json.dumps(found))
"""


@pytest.mark.large
def test_what_is_of_all_examples_in_two_processes(tmp_path: Path):
    """Assert outputs, products with them and checks, each process having all of what is asked.

    And that each keeps the checkpoints of a run of its own, and one those of a run they share.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = {"JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IN_PARTS, str(rank), port],
            cwd=tmp_path,
            env={**os.environ, **flags},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    one, other = (json.loads(p.communicate(timeout=240)[0].splitlines()[-1]) for p in processes)
    assert one == other
    assert one.pop("explained")
    assert one.pop("resumed") == ["reached t = 0.2"] * 2
    assert one.pop("error") < 1e-9
    assert max(one.values()) < 1e-12
