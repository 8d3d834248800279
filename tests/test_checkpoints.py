"""A run that is gone on with from any of its checkpoints ends with the bits of the undisturbed."""

import json
import re
import resource
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pandas as pd
import pytest
from scipy.integrate import RK45

import flow
from flow._run.checkpoint.file import Unreadable, read, write
from flow._run.checkpoint.keeper import Keeper, keeper

X, Y = flow.datasets.digits(60)
OBJECTIVE = flow.MLP([64, 4, 10]).objective(X, Y, seed=0)
SHARP = {"sharpness": flow.observe.sharpness()}


class Own(RK45):
    """A user's own method."""


def assert_same(run: flow.Trajectory, whole: flow.Trajectory) -> None:
    """Assert all that was computed, bit for bit; seconds are another matter."""
    for name in ("t", "theta", "loss", "gradient_norm"):
        np.testing.assert_array_equal(getattr(run, name), getattr(whole, name), strict=True)
    for group in ("state", "observed", "work"):
        mine, other = getattr(run, group), getattr(whole, group)
        assert list(mine) == list(other)
        for name, values in mine.items():
            np.testing.assert_array_equal(values, other[name], strict=True)
    counted = [{k: v for k, v in r.stats.items() if "seconds" not in k} for r in (run, whole)]
    assert counted[0] == counted[1]
    assert (run.result, run.config) == (whole.result, whole.config)


def all_checkpoints(
    monkeypatch: pytest.MonkeyPatch, folder: Path, run: Callable
) -> tuple[flow.Trajectory, list[Path]]:
    """What `run` returns, and its folder as it was after each checkpoint."""
    copies: list[Path] = []

    def copied(self: Keeper, *arguments: Any) -> None:
        _write(self, *arguments)
        copies.append(folder / f"copy-{len(copies)}")
        shutil.copytree(folder / "run", copies[-1])

    _write = Keeper._write  # noqa: SLF001
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "_write", copied)
        # The compiled loops are asked between their chunks.
        patch.setattr("flow._core.progress.CHUNK_SECONDS", 1e-3)
        whole = run()
    return whole, copies


FLOWS = {
    "DOP853": ({}, 200),
    "RK23 on its cap": ({"method": "RK23", "rtol": 1e-4}, 100),
    "Radau": ({"method": "Radau", "rtol": 1e-4}, 4),
    "BDF": ({"method": "BDF", "rtol": 1e-4}, 2),
    "own": ({"method": Own, "rtol": 1e-3}, 200),
    "RKC2": ({"method": "RKC2", "rtol": 1e-3}, 60),
    "auto": ({"method": "auto", "rtol": 1e-5}, 100),
    "Euler": ({"method": "Euler", "step": 0.05}, 60),
    "TSRKC3, compiled": ({"engine": "jax", "method": "TSRKC3"}, 100),
    "Dopri8, compiled": ({"engine": "jax", "method": "Dopri8"}, 100),
    "log clock": ({"clock": "log", "method": "TSRKC3", "rtol": 1e-4}, 60),
    "thinned": ({"t": np.inf, "stop": flow.stop.loss(0.3), "save": 5, "rtol": 1e-3}, 60),
    "a budget": ({"max_gradients": 500, "observe": SHARP}, 100),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.quick] * (n == "DOP853")) for n in FLOWS]
)
def test_flows_go_on_to_the_same_bits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Assert it of every method, from the first, the last and checkpoints between."""
    arguments, gradients = FLOWS[name]
    arguments = {"t": 15.0, "save": 13, "progress": False} | arguments
    small = name in ("Radau", "BDF")  # whose Jacobians have a column a parameter
    objective = flow.MLP([2, 3, 1]).objective(X[:, 20:22], Y[:, :1], seed=1) if small else OBJECTIVE
    often = flow.Checkpoint(
        tmp_path / "run", gradients=gradients * (objective.size if small else 1)
    )
    whole, copies = all_checkpoints(
        monkeypatch, tmp_path, lambda: flow.integrate(objective, **arguments, checkpoint=often)
    )
    assert_same(flow.integrate(objective, **arguments), whole)
    again = {k: arguments[k] for k in ("stop", "observe") if k in arguments}
    again |= {"method": Own} if name == "own" else {}
    assert len(copies) >= 4
    for i in {0, 1, len(copies) // 2, len(copies) - 1}:
        assert_same(flow.resume(copies[i], objective, **again, progress=False), whole)


def halved(_: object, params: list) -> list:
    """An evaluation of θ."""
    return jax.tree.map(lambda p: 0.5 * p, params)


FALLING = optax.cosine_decay_schedule(0.02, 300)
DESCENTS = {
    "plain": ({"learning_rate": 0.05}, {}),
    "schedule": ({"learning_rate": lambda k: 0.05 / (1 + 0.01 * k) * (k % 100 > 20)}, {}),
    "scheduled Adam": ({}, {"optimizer": optax.adam(FALLING), "time_step": FALLING}),
    "Adam, epochs": ({"batch_size": 13, "sampling": "epoch"}, {"optimizer": optax.adam(0.01)}),
    "noise of its own": (
        {},
        {"optimizer": optax.chain(optax.add_noise(0.1, 0.5, 3), optax.sgd(0.01))},
    ),
    "evaluated": ({}, {"optimizer": optax.contrib.schedule_free_sgd(0.01), "evaluate": halved}),
    "slow parameters": ({}, {"optimizer": optax.lookahead(optax.adam(0.01), 5, 0.5)}),
    "a state that is there later": (
        {},
        {"optimizer": optax.chain(optax.sgd(0.01), optax.monitor({"first": jax.tree.leaves}))},
    ),
    "perturbations": (
        {},
        {"optimizer": optax.contrib.sam(optax.MultiSteps(optax.sgd(0.01), 3), optax.sgd(0.01))},
    ),
    "estimates of the Hessian": ({}, {"optimizer": optax.contrib.sophia(0.01)}),
    "half-precision moments": ({}, {"optimizer": optax.adam(0.01, mu_dtype=jnp.bfloat16)}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.quick] * (n == "schedule")) for n in DESCENTS]
)
def test_descents_go_on_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Assert it of a learning rate, a schedule, optimizers with moments, batches and keys."""
    arguments, again = DESCENTS[name]
    if "optimizer" in again:
        arguments = {"time_step": 0.01} | arguments | again
    elif name == "schedule":
        again = arguments
    arguments = {"steps": 400, "save": 13, "progress": False} | arguments
    often = flow.Checkpoint(tmp_path / "run", gradients=30)
    whole, copies = all_checkpoints(
        monkeypatch, tmp_path, lambda: flow.descend(OBJECTIVE, **arguments, checkpoint=often)
    )
    assert_same(flow.descend(OBJECTIVE, **arguments), whole)
    assert len(copies) >= 4
    for i in (0, 1, len(copies) // 2, len(copies) - 1):
        assert_same(flow.resume(copies[i], OBJECTIVE, **again, progress=False), whole)
    if name == "schedule":  # the same until later than the step that is taken again
        other = lambda k: arguments["learning_rate"](k) * (k < 390)  # noqa: E731
        with pytest.raises(ValueError, match="holds a run with time_step 'scheduled to t = "):
            flow.resume(copies[1], OBJECTIVE, learning_rate=other, progress=False)


def test_noise_goes_on_along_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Assert that the rest of a path of noise is drawn as if nothing had happened."""
    dynamics = flow.LangevinFlow(OBJECTIVE, temperature=1e-3)
    arguments = {"t": 3.0, "step": 0.01, "seed": 4, "save": 7, "progress": False}
    often = flow.Checkpoint(tmp_path / "run", gradients=60)
    whole, copies = all_checkpoints(
        monkeypatch, tmp_path, lambda: flow.integrate(dynamics, **arguments, checkpoint=often)
    )
    assert_same(flow.integrate(dynamics, **arguments), whole)
    for copy in (copies[0], copies[len(copies) // 2]):
        assert_same(flow.resume(copy, dynamics, progress=False), whole)


@pytest.mark.large
def test_killed_runs_go_on(run_here: Callable):
    """Assert the same after SIGKILL at a random moment, of three runs side by side."""
    folder = run_here("interrupted", "--kills", "1", "--t", "400", "--window", "0.3")
    table = pd.read_csv(folder / "table.csv", index_col="run")
    assert table["same bits"].all()
    assert table["same counts"].all()
    assert table["killed"].sum() >= 2


@pytest.mark.quick
def test_rows_are_written_once_and_two_states_kept(tmp_path: Path):
    """Assert what lies in the folder: every saved row in one file, and the last two states."""
    often = flow.Checkpoint(tmp_path / "run", gradients=50)
    path = flow.integrate(OBJECTIVE, 15.0, save=13, checkpoint=often, progress=False)
    files = sorted(f.name for f in (tmp_path / "run").iterdir())
    assert len([f for f in files if f.startswith("state-")]) == 2
    rows = [read(tmp_path / "run" / f) for f in files if f.startswith("rows-")]
    serials = np.concatenate([r["serial"] for r in rows])
    np.testing.assert_array_equal(serials, np.arange(len(serials)))
    np.testing.assert_array_equal(
        np.concatenate([r["theta"] for r in rows]), path.theta[: len(serials)]
    )


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of a run."""
    often = flow.Checkpoint(tmp_path / "run", gradients=50)
    flow.integrate(OBJECTIVE, 5.0, save=5, checkpoint=often, progress=False)
    return tmp_path / "run"


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.npz"))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _corrupt(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    file.write_bytes(bytes(content))


def _foreign(file: Path) -> None:
    with file.open("wb") as f:
        np.savez(f, theta=np.ones(3))


HARMS = {
    "truncated": _truncate,
    "corrupted": _corrupt,
    "foreign": _foreign,
    "empty": lambda file: file.write_bytes(b""),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_checkpoint_is_told_and_the_one_before_taken(kept: Path, harm: str):
    """Assert the bits of the undisturbed run, a warning, and a folder that is whole again."""
    whole = flow.integrate(OBJECTIVE, 5.0, save=5, progress=False)
    HARMS[harm](_states(kept)[-1])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        path = flow.resume(kept, OBJECTIVE, progress=False)
    assert_same(path, whole)
    assert [w.category for w in told] == [flow.CheckpointWarning] * (harm != "gone")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(flow.resume(kept, OBJECTIVE, progress=False), whole)


@pytest.mark.quick
def test_no_checkpoint_that_can_be_read(kept: Path):
    """Assert an error where all are harmed, with nothing changed on the disk."""
    for file in _states(kept):
        _truncate(file)
    before = {f: f.read_bytes() for f in kept.iterdir()}
    with pytest.warns(flow.CheckpointWarning), pytest.raises(ValueError, match="no checkpoint in"):
        flow.resume(kept, OBJECTIVE)
    assert {f: f.read_bytes() for f in kept.iterdir()} == before


@pytest.mark.quick
def test_nothing_in_a_file_is_executed(kept: Path):
    """Assert that a pickle in the place of an array is refused, not loaded."""

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (kept / "sprung",))

    for file in (*_states(kept), kept / "run.npz"):
        with file.open("wb") as f:
            np.savez(f, tree=np.array([Trap()], object))
    with pytest.raises(ValueError, match=r"run\.npz can't be read"):
        flow.resume(kept, OBJECTIVE)
    assert not (kept / "sprung").exists()


def test_a_newer_format_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Assert the remedy."""
    with monkeypatch.context() as patch:
        patch.setattr("flow._run.checkpoint.file.FORMAT_VERSION", 7)
        write(tmp_path / "new.npz", {"t": 1.0})
    with pytest.raises(Unreadable, match="format 7, newer than this flow's 2; upgrade"):
        read(tmp_path / "new.npz")


def edited(file: Path, change: Callable[[dict, dict], object]) -> None:
    """Rewrite a file as numpy reads and writes it, its facts and arrays changed."""
    with np.load(file) as archive:
        arrays = dict(archive)
    facts = json.loads(arrays["tree"].tobytes())
    change(facts, arrays)
    arrays["tree"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(file, **arrays)


def larger(_: dict, arrays: dict) -> None:
    """Every vector × 1.5."""
    arrays |= {name: 1.5 * a for name, a in arrays.items() if a.dtype == float and a.ndim}


def later(facts: dict, _: dict) -> None:
    """Ask for ten times as long."""
    facts["tree"]["dict"]["asked"]["dict"]["t"] *= 10


def of_format_1(facts: dict, arrays: dict) -> None:
    """Make it a file of the format that had no digest."""
    facts["version"] = 1
    del arrays["digest"]


CHANGED, OLDER = (
    "was changed since it was written",
    "format 1, older than .* the gradient-flow that",
)
EDITS = {
    "a state × 1.5": ("state-*", larger, CHANGED),
    "rows × 1.5": ("rows-*", larger, CHANGED),
    "t × 10": ("run.npz", later, CHANGED),
    "a state without its digest": ("state-*", lambda _, arrays: arrays.pop("digest"), CHANGED),
    "a state with an array more": ("state-*", lambda _, arrays: arrays.update(a=1.0), CHANGED),
    "an older header": ("run.npz", of_format_1, OLDER),
    "an older state": ("state-*", of_format_1, OLDER),
}


@pytest.mark.quick
def test_a_changed_file_is_refused_by_name(kept: Path, tmp_path: Path):
    """Assert it of states, rows and header, with nothing changed on the disk."""
    for name, (pattern, change, message) in EDITS.items():
        folder = shutil.copytree(kept, tmp_path / name)
        file = max(folder.glob(pattern))
        edited(file, change)
        before = {f: f.read_bytes() for f in folder.iterdir()}
        with pytest.raises(ValueError, match=f"{re.escape(str(file))} .*{message}"):
            flow.resume(folder, OBJECTIVE)
        assert {f: f.read_bytes() for f in folder.iterdir()} == before
    unchanged = shutil.copytree(kept, tmp_path / "unchanged")
    edited(_states(unchanged)[-1], lambda facts, arrays: None)
    whole = flow.resume(unchanged, OBJECTIVE, progress=False)
    changed = tmp_path / "a state × 1.5"
    _states(changed)[-1].unlink()
    assert_same(flow.resume(changed, OBJECTIVE, progress=False), whole)


def test_a_file_of_another_run_is_refused_by_name(kept: Path, tmp_path: Path):
    """Assert it of a state, and of rows, that are whole."""
    often = flow.Checkpoint(tmp_path / "other", gradients=50)
    flow.integrate(OBJECTIVE, 5.0, rtol=1e-5, save=5, checkpoint=often, progress=False)
    for pattern in ("state-*", "rows-*"):
        folder = shutil.copytree(kept, tmp_path / pattern[:5])
        mine, other = (min(f.glob(pattern)) for f in (folder, tmp_path / "other"))
        for state in _states(folder)[1:]:
            state.unlink()
        shutil.copy(other, mine)
        with pytest.raises(ValueError, match=f"{re.escape(str(mine))} is of another run than"):
            flow.resume(folder, OBJECTIVE)


def test_another_run_is_refused(kept: Path):
    """Assert that θ₀, size, data, dynamics, observers and conditions must be those of the run."""
    other = [
        (flow.MLP([64, 4, 10]).objective(X, Y, seed=1), {}, "initial state differs"),
        (
            flow.MLP([64, 5, 10]).objective(X, Y, seed=0),
            {},
            r"\d+ parameters .* and the given dynamics has",
        ),
        (flow.MLP([64, 4, 10]).objective(X, -Y, seed=0), {}, "right-hand side at t = 0 differs"),
        (flow.GradientFlow(OBJECTIVE, weight_decay=0.1), {}, "with dynamics .*'weight_decay': 0.0"),
        (OBJECTIVE, {"observe": SHARP}, r"observe \[\], and here it is \['sharpness'\]"),
        (OBJECTIVE, {"stop": flow.stop.loss(0.1)}, r"stop \[\], and here"),
        (OBJECTIVE, {"method": Own}, "method None, and here it is 'Own'"),
    ]
    for dynamics, arguments, message in other:
        with pytest.raises(ValueError, match=message):
            flow.resume(kept, dynamics, **arguments)
    with pytest.raises(TypeError, match="holds a flow, to which optimizer="):
        flow.resume(kept, OBJECTIVE, optimizer=optax.sgd(0.1))
    with pytest.raises(FileNotFoundError, match="holds no run"):
        flow.resume(kept.parent, OBJECTIVE)


def test_another_optimizer_is_refused(tmp_path: Path):
    """Assert that a learning rate inside an optimizer, which has no name, is met all the same."""
    often = flow.Checkpoint(tmp_path / "run", gradients=10)
    flow.descend(OBJECTIVE, optimizer=optax.adam(0.01), time_step=0.01, steps=50, checkpoint=often)
    with pytest.raises(ValueError, match="its last step can't be taken again"):
        flow.resume(tmp_path / "run", OBJECTIVE, optimizer=optax.adam(0.02))
    with pytest.raises(ValueError, match="optimizer 'adam"):
        flow.resume(tmp_path / "run", OBJECTIVE, optimizer=optax.sgd(0.01))
    with pytest.raises(TypeError, match=r"holds a descent; give its flow\.Objective"):
        flow.resume(tmp_path / "run", flow.GradientFlow(OBJECTIVE))


@pytest.mark.quick
def test_rounding_is_told(kept: Path):
    """Assert a warning where only the last bits differ, as on another machine."""
    facts = read(kept / "run.npz")
    facts["start"]["slope"] = facts["start"]["slope"] * (1 + 1e-15)
    (kept / "run.npz").unlink()
    write(kept / "run.npz", facts)
    with pytest.warns(flow.CheckpointWarning, match="differs from that in .* by rounding"):
        flow.resume(kept, OBJECTIVE)


@pytest.mark.quick
def test_a_folder_in_use_is_refused(kept: Path, tmp_path: Path):
    """Assert that no run is overwritten, and what else a folder may not be."""
    with pytest.raises(FileExistsError, match=r"go on with flow\.resume"):
        flow.integrate(OBJECTIVE, 5.0, checkpoint=kept)
    with pytest.raises(FileExistsError, match="is a file; give a folder"):
        flow.integrate(OBJECTIVE, 5.0, checkpoint=kept / "run.npz")
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        flow.descend(OBJECTIVE, 0.1, 5, checkpoint=tmp_path / "no" / "where")
    with pytest.raises(TypeError, match="checkpoint, a folder, must be a path, got 3"):
        flow.descend(OBJECTIVE, 0.1, 5, checkpoint=3)
    with pytest.raises(ValueError, match="seconds must be positive"):
        flow.Checkpoint(tmp_path, seconds=-1)
    with pytest.raises(TypeError, match="gradients must be a positive integer"):
        flow.Checkpoint(tmp_path, gradients=1.5)


def test_a_run_that_is_going_on_is_left_alone(tmp_path: Path):
    """Assert that its folder is refused meanwhile, and free when it has ended."""
    met: list[str] = []

    def intrude(*_: Any) -> float:
        try:
            flow.resume(tmp_path / "run", OBJECTIVE, observe={"intrude": intrude})
        except (ValueError, FileNotFoundError) as error:
            met.append(str(error))
        return 0.0

    observe = {"intrude": intrude}
    often = flow.Checkpoint(tmp_path / "run", gradients=20)
    path = flow.integrate(OBJECTIVE, 2.0, save=4, observe=observe, checkpoint=often, progress=False)
    assert len(met) == 4
    assert all("belongs to a run that is going on" in m for m in met)
    again = flow.resume(tmp_path / "run", OBJECTIVE, observe={"intrude": lambda o, p: 0.0})
    np.testing.assert_array_equal(again.theta, path.theta)


class Enough:
    """A stop condition without a name."""

    def __call__(self, *_: Any) -> bool:
        """Never."""
        return False


def test_numbers_of_numpy_and_conditions_without_names(tmp_path: Path):
    """Assert that a run goes on that was given them."""
    one = np.int64(10**5)
    path = flow.integrate(
        OBJECTIVE, 2.0, max_gradients=one, save=np.int64(4), stop=Enough(),
        checkpoint=tmp_path / "flow", progress=False,
    )  # fmt: skip
    again = flow.resume(tmp_path / "flow", OBJECTIVE, stop=Enough(), progress=False)
    assert_same(again, path)
    steps = flow.descend(
        OBJECTIVE, np.float32(0.1), np.int64(20), batch_size=np.int64(8), seed=np.int64(1),
        checkpoint=tmp_path / "descent", progress=False,
    )  # fmt: skip
    assert_same(flow.resume(tmp_path / "descent", OBJECTIVE, progress=False), steps)


def test_another_precision_or_noise_is_refused(tmp_path: Path):
    """Assert it of a flow and a descent in single precision, and of keys of random numbers."""
    single = flow.MLP([64, 4, 10]).objective(X, Y, seed=0, dtype="float32")
    flow.integrate(OBJECTIVE, 0.5, rtol=1e-4, checkpoint=tmp_path / "flow", progress=False)
    flow.descend(
        OBJECTIVE, steps=20, optimizer=optax.noisy_sgd(0.01, key=0), time_step=0.01,
        checkpoint=flow.Checkpoint(tmp_path / "noisy", gradients=5), progress=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="computed to 2.2e-16.*is to 1.2e-07; give the dtype="):
        flow.resume(tmp_path / "flow", single)
    with pytest.raises(ValueError, match="give the dtype="):
        flow.resume(tmp_path / "noisy", single, optimizer=optax.noisy_sgd(0.01, key=0))
    with pytest.raises(ValueError, match="its last step can't be taken again"):
        flow.resume(tmp_path / "noisy", OBJECTIVE, optimizer=optax.noisy_sgd(0.05, key=0))


@pytest.mark.quick
def test_any_bit_of_a_file(kept: Path):
    """Assert that a flipped one is told as unreadable, or changes nothing that is read."""
    (file, *_) = sorted(kept.glob("state-*.npz"))
    content, whole, rng = file.read_bytes(), read(file), np.random.default_rng(0)
    told = []
    for at in (*rng.integers(len(content), size=300), *range(len(content) - 200, len(content))):
        harmed = bytearray(content)
        harmed[at] ^= 1 << rng.integers(8)
        file.write_bytes(harmed)
        try:
            np.testing.assert_equal(read(file), whole)
        except Unreadable as error:
            told.append(str(error))
    assert len(told) > 200


def test_what_cannot_be_kept_is_told_at_once(tmp_path: Path):
    """Assert that LSODA, ensembles and observers of strange state are refused at the start."""
    with pytest.raises(ValueError, match="'LSODA' keeps _lsoda_solver"):
        flow.integrate(OBJECTIVE, 5.0, method="LSODA", checkpoint=tmp_path / "a")
    with pytest.raises(ValueError, match="for a single run"):
        flow.integrate(
            OBJECTIVE, 5.0, engine="jax", ensemble=np.ones((2, OBJECTIVE.size)),
            checkpoint=tmp_path / "b",
        )  # fmt: skip
    strange = flow.observe.Observer(lambda o, p: object(), lambda o, p, s: (0.0, s))
    with pytest.raises(TypeError, match=r"\['observers'\]\['odd'\] is a object"):
        flow.integrate(OBJECTIVE, 5.0, observe={"odd": strange}, checkpoint=tmp_path / "c")


def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path: Path):
    """Assert a warning, the run's own end, and the files from before."""
    whole = flow.integrate(OBJECTIVE, 15.0, save=40, progress=False)
    often = flow.Checkpoint(tmp_path / "run", gradients=100)
    filled: list[int] = []

    def fill(*_: Any) -> float:
        """From the middle of the run on no file may have more than a few bytes."""
        if len(filled) == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        filled.append(1)
        return 0.0

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.warns(flow.CheckpointWarning, match="could not be written .*; the run goes on"):
            path = flow.integrate(
                OBJECTIVE, 15.0, save=40, observe={"fill": fill}, checkpoint=often, progress=False
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(path.theta, whole.theta)
    assert not list((tmp_path / "run").glob(".*"))
    again = flow.resume(tmp_path / "run", OBJECTIVE, observe={"fill": lambda o, p: 0.0})
    np.testing.assert_array_equal(again.theta, whole.theta)


def test_the_first_must_be_written(tmp_path: Path):
    """Assert an error before anything is computed where the disk is full from the start."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            flow.integrate(OBJECTIVE, 5.0, checkpoint=tmp_path / "run", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_seconds_are_of_each_call(kept: Path):
    """Assert that a budget too short to begin with leaves what was kept, in path and folder."""
    path = flow.resume(kept, OBJECTIVE, max_seconds=1e-9, progress=False)
    assert path.result.startswith("budget spent at t = ")
    assert path.t[-1] > 0
    assert len(path.t) > 1
    whole = flow.integrate(OBJECTIVE, 5.0, save=5, progress=False)
    assert_same(flow.resume(kept, OBJECTIVE, progress=False), whole)


def test_files_hold_no_names_of_others(kept: Path):
    """Assert that what a file says is never taken for a path."""
    for file in kept.glob("*.npz"):
        with np.load(file, allow_pickle=False) as archive:
            text = json.loads(archive["tree"].tobytes())
        assert str(kept) not in json.dumps(text)


def test_seconds_and_gradients_say_when():
    """Assert that a checkpoint is due by whichever comes first, and every 60 s unless told."""
    assert flow.Checkpoint("a").interval == (60.0, np.inf)
    assert flow.Checkpoint("a", gradients=5).interval == (np.inf, 5)
    assert flow.Checkpoint("a", seconds=2, gradients=5).interval == (2, 5)
    assert keeper(None, "flow", None, {}, {}, None, None) is None
    assert jax.process_index() == 0
