"""Runs in files: what comes back, what is refused, and that files are whole or not there."""

import errno
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

import flow

Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - as users write them


def squares(params: Any) -> Any:
    """Half the sum of k·x² over the entries of all leaves, the k-th leaf steeper by k."""
    leaves = jax.tree.leaves(params)
    return sum(0.5 * (k + 1) * jnp.sum(jnp.asarray(x) ** 2) for k, x in enumerate(leaves))


@pytest.fixture(scope="module")
def nested() -> flow.Objective:
    """Parameters in dicts, lists and tuples, a scalar and an empty list among them."""
    params = {
        "z": [np.arange(6.0).reshape(2, 3), (np.ones(1), 2.0)],
        "a": {"k": np.float64(3)},
        "none": [],
    }
    return flow.Objective(squares, params)


@pytest.fixture(scope="module")
def named() -> flow.Objective:
    """Parameters in a container that no file can restore."""
    return flow.Objective(squares, Pair(np.arange(4.0).reshape(2, 2), np.float64(1.0)))


@pytest.fixture(scope="module")
def path(nested: flow.Objective) -> flow.Trajectory:
    """A flow with a scalar and a vector observed."""
    observe = {
        "sharpness": flow.sharpness,
        "largest": lambda objective, params: np.sort(objective.flatten(params))[-3:],
    }
    return flow.integrate(nested, 1.0, save=7, observe=observe)


@pytest.fixture(scope="module")
def content(path: flow.Trajectory, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Its file."""
    return path.save(tmp_path_factory.mktemp("run") / "run.nc").read_bytes()


def assert_same(found: flow.Trajectory, expected: flow.Trajectory) -> None:
    """Assert that nothing was lost, to the bit."""
    for name in ("t", "theta", "loss", "gradient_norm"):
        array = getattr(found, name)
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, getattr(expected, name), strict=True)
    for group in ("state", "observed"):
        arrays, others = getattr(found, group), getattr(expected, group)
        assert arrays.keys() == others.keys()
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], others[name], strict=True)
    for name in ("stats", "config", "result", "versions", "structure", "label"):
        assert getattr(found, name) == getattr(expected, name)


# ---- round trip


@pytest.mark.quick
def test_round_trip_of_a_flow(path: flow.Trajectory, tmp_path: Path):
    """Assert that arrays, cost, configuration, versions and the pytree come back."""
    loaded = flow.load(path.save(tmp_path / "run.nc"))
    assert_same(loaded, path)
    assert loaded.observed["largest"].shape == (7, 3)
    assert {"python", "jax", "numpy", "scipy"} <= loaded.versions.keys()
    for i in (0, -1):
        mine, others = loaded.params(i), path.params(i)
        assert jax.tree.structure(mine) == jax.tree.structure(others)
        jax.tree.map(np.testing.assert_array_equal, mine, others)
        assert [np.shape(x) for x in jax.tree.leaves(mine)] == [(), (2, 3), (1,), ()]


@pytest.mark.quick
def test_round_trip_of_a_descent(nested: flow.Objective, tmp_path: Path):
    """Assert that an optimizer's moments come back beside the rest."""
    steps = flow.descend(nested, optimizer=optax.adam(0.01), time_step=0.01, steps=20, save=5)
    loaded = flow.load(steps.save(tmp_path / "run.nc"))
    assert_same(loaded, steps)
    assert loaded.state["mu"].shape == loaded.theta.shape == (5, nested.size)


def test_round_trip_of_a_single_array(tmp_path: Path):
    """Assert that parameters without any container come back as one array."""
    path = flow.integrate(flow.Objective(lambda x: x @ x, np.ones(3)), 1.0, save=2)
    loaded = flow.load(path.save(tmp_path / "run.nc"))
    np.testing.assert_array_equal(loaded.params(-1), path.theta[-1], strict=True)


def test_round_trip_of_an_interrupted_run(nested: flow.Objective, tmp_path: Path):
    """Assert that a partial run with its reason in Greek comes back."""
    path = flow.integrate(nested, 1.0, save=5, stop=flow.stop.gradient_norm(5.0))
    loaded = flow.load(str(path.save(str(tmp_path / "run.nc"))))
    assert "≤" in loaded.result
    assert_same(loaded, path)


def test_containers_that_no_file_restores(named: flow.Objective, tmp_path: Path):
    """Assert that `like` restores them, and that without it the error names `like`."""
    path = flow.integrate(named, 1.0, save=3)
    file = path.save(tmp_path / "run.nc")
    assert_same(flow.load(file), path)
    with pytest.raises(ValueError, match=r"not made of dicts.*flow\.load\(path, like=params\)"):
        flow.load(file).params(-1)
    restored = flow.load(file, like=named.params).params(-1)
    assert isinstance(restored, Pair)
    np.testing.assert_array_equal(restored.a, path.params(-1).a, strict=True)
    assert restored.b == path.params(-1).b
    with pytest.raises(ValueError, match="like has 3 entries, but the run has 5 parameters"):
        flow.load(file, like=np.ones(3))


@pytest.mark.quick
def test_xarray(path: flow.Trajectory):
    """Assert that the dataset names its dimensions and units, and carries what was run."""
    dataset = path.to_xarray()
    assert dataset["t"].attrs["units"] == "learning rate × steps"
    assert dataset["theta"].dims == ("time", "parameter")
    assert dataset["observed:largest"].shape == (7, 3)
    np.testing.assert_array_equal(dataset["loss"], path.loss)
    assert dataset.attrs["format"] == "flow trajectory"
    assert dataset.attrs["result"] == "reached t = 1"
    assert {"config", "stats", "structure", "versions"} <= dataset.attrs.keys()


# ---- what is refused


@pytest.mark.quick
def test_an_existing_path_is_left_alone(path: flow.Trajectory, tmp_path: Path):
    """Assert that neither a file nor a folder nor a dangling link is overwritten."""
    file = tmp_path / "run.nc"
    file.write_text("precious")
    link = tmp_path / "link.nc"
    link.symlink_to(tmp_path / "nowhere")
    for taken in (file, tmp_path, link):
        with pytest.raises(FileExistsError, match="exists and is not overwritten; choose another"):
            path.save(taken)
    assert file.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.nc", "run.nc"]


def test_a_missing_folder(path: flow.Trajectory, tmp_path: Path):
    """Assert that a folder that is not there is named and not made."""
    with pytest.raises(FileNotFoundError, match="folder .*absent does not exist; create it first"):
        path.save(tmp_path / "absent" / "run.nc")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable(path: flow.Trajectory, tmp_path: Path):
    """Assert that nothing is left in a folder that may not be written to."""
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            path.save(tmp_path / "run.nc")
        assert not list(tmp_path.iterdir())
    finally:
        tmp_path.chmod(0o755)


def test_files_are_readable_as_others_are(path: flow.Trajectory, tmp_path: Path):
    """Assert that a run has the permissions of any new file, not those of a temporary one."""
    (tmp_path / "other").write_text("")
    file = path.save(tmp_path / "run.nc")
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("kept", [0.0, 1e-4, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.quick
def test_truncated_files(content: bytes, tmp_path: Path, kept: float):
    """Assert that a file that was cut, anywhere, is refused by name."""
    file = tmp_path / "run.nc"
    file.write_bytes(content[: min(int(kept * len(content)), len(content) - 1)])
    with pytest.raises(ValueError, match=r"run\.nc cannot be read as netCDF .*truncated\?"):
        flow.load(file)


def test_the_whole_file_is_read(content: bytes, path: flow.Trajectory, tmp_path: Path):
    """Assert that a copy of all the bytes is the run."""
    (tmp_path / "run.nc").write_bytes(content)
    assert_same(flow.load(tmp_path / "run.nc"), path)


def test_missing_files(tmp_path: Path):
    """Assert that what is no file is named."""
    for absent in (tmp_path / "run.nc", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"is not a file; give one that flow saved"):
            flow.load(absent)


@pytest.mark.quick
def test_foreign_files(tmp_path: Path):
    """Assert that text, other HDF5 and other netCDF are told from runs."""
    (tmp_path / "text.nc").write_text("t, loss\n0, 1\n")
    with pytest.raises(ValueError, match=r"text\.nc cannot be read as netCDF"):
        flow.load(tmp_path / "text.nc")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = [1.0, 2.0]
    with pytest.raises(ValueError, match=r"other\.h5 (cannot be read|is netCDF, but not a run)"):
        flow.load(tmp_path / "other.h5")
    xarray.Dataset({"a": ("x", [1.0, 2.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(
        ValueError, match=r"other\.nc is netCDF, but not a flow trajectory; it is nothing of flow's"
    ):
        flow.load(tmp_path / "other.nc")


def test_files_of_a_newer_flow(path: flow.Trajectory, tmp_path: Path):
    """Assert that a newer format is refused with both numbers and the remedy."""
    newer = path.to_xarray()
    newer.attrs["format_version"] = 2
    newer.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="has format 2, newer than this flow's 1; upgrade"):
        flow.load(tmp_path / "run.nc")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
import flow

folder = Path(sys.argv[1])
path = flow.integrate(flow.Objective(lambda x: x @ x, np.ones(3)), 1.0, save=100)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    path.save(folder / "run.nc")
except OSError as error:
    print("refused", error.errno)
print([p.name for p in folder.iterdir()])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
path.save(folder / "run.nc")
print([p.name for p in folder.iterdir()])
"""


def test_whole_or_not_at_all(tmp_path: Path):
    """Assert that a save that runs out of room leaves nothing, and that room makes it succeed."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["refused 27", "[]", "['run.nc']"], done.stderr
    assert flow.load(tmp_path / "run.nc").result == "reached t = 1"


def test_a_file_system_without_links(
    path: flow.Trajectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Assert the same file there, nothing beside it, and that it is not overwritten."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    content = path.save(tmp_path / "run.nc").read_bytes()
    np.testing.assert_array_equal(flow.load(tmp_path / "run.nc").theta, path.theta)
    with pytest.raises(FileExistsError, match="exists and is not overwritten"):
        path.save(tmp_path / "run.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["run.nc"]
    assert (tmp_path / "run.nc").read_bytes() == content


# ---- what loaded runs are good for


def test_loaded_runs_are_compared_at_shared_times(nested: flow.Objective, tmp_path: Path):
    """Assert that two loaded runs compare as they did, and that sharing no time is an error."""
    path = flow.integrate(nested, 1.0, save=11)
    steps = flow.descend(nested, 0.05, 20, save=11)
    files = [path.save(tmp_path / "flow.nc"), steps.save(tmp_path / "steps.nc")]
    loaded = flow.compare(*(flow.load(file) for file in files))
    live = flow.compare(path, steps)
    np.testing.assert_array_equal(loaded.t, live.t)
    np.testing.assert_array_equal(loaded.distance, live.distance)
    assert live.distance[-1] > 0
    assert np.all(np.isnan(loaded.error_bar))
    apart = flow.descend(nested, 0.05, 20, save=[0.25, 0.75])
    with pytest.raises(ValueError, match=r"share no saved time after t = 0; save one at the other"):
        flow.compare(flow.load(files[0]), apart)


@pytest.mark.parametrize(
    "settings",
    [{}, {"method": "Radau", "rtol": 1e-4}, {"method": "RK4", "step": 0.1}],
    ids=["DOP853", "Radau", "RK4"],
)
def test_loaded_flows_are_audited(nested: flow.Objective, tmp_path: Path, settings: dict):
    """Assert that with its objective a loaded flow is audited as it was before."""
    path = flow.integrate(nested, 1.0, save=5, **settings)
    loaded = flow.load(path.save(tmp_path / "run.nc"))
    found, expected = flow.audit(loaded, nested, error_bar=True), flow.audit(path, error_bar=True)
    assert found.energy_residual == expected.energy_residual
    assert found.largest_rise == expected.largest_rise
    np.testing.assert_array_equal(found.error_bar, expected.error_bar)
    assert 0 < found.error_bar[-1] < 0.01
    assert flow.audit(loaded).energy_residual == expected.energy_residual


def test_loaded_networks_keep_their_conserved_quantities(tmp_path: Path):
    """Assert that conserved quantities are audited of a file, and that a break of them is found."""
    X, y = flow.datasets.digits(20)
    objective = flow.MLP([64, 2, 10], activation="identity", bias=False).objective(X, y)
    path = flow.integrate(objective, 2.0, save=3)
    loaded = flow.load(path.save(tmp_path / "run.nc"))
    assert flow.audit(loaded, objective).conserved["balancedness 1-2"] < 1e-5
    scale = np.ones(objective.size)
    scale[:128] = 1.1
    broken = replace(loaded, theta=loaded.theta * scale)
    assert flow.audit(broken, objective).conserved["balancedness 1-2"] > 1e-2
