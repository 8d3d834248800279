"""`flow.sweep`: every cell, failures among them, kept and not computed twice."""

import logging
import os
import resource
import shutil
import signal
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from joblib import Parallel, delayed

import flow
from flow._evidence.sweep import sweep

GRID = {"curvature": [1.0, 3.0], "method": ["RK45", "DOP853", "none"]}


def decayed(curvature: float, method: str) -> dict[str, Any]:
    """θ(1) of θ̇ = −λθ, and three numbers."""
    objective = flow.Objective(lambda x: 0.5 * curvature * x @ x, np.ones(2))
    path = flow.integrate(objective, 1.0, method=method, rtol=1e-8, atol=1e-11, progress=False)
    return {"theta": path.theta[-1], "gradients": path.stats["gradients"]}


@pytest.mark.quick
def test_every_cell_by_its_labels():
    """Assert closed forms by label, dimensions of arrays, and the errors of those that failed."""
    found = sweep(decayed, GRID, progress=False)
    assert dict(found.sizes) == {"curvature": 2, "method": 3, "theta_0": 2}
    for curvature in GRID["curvature"]:
        for method in ("RK45", "DOP853"):
            theta = found["theta"].sel({"curvature": curvature, "method": method})
            np.testing.assert_allclose(theta, np.exp(-curvature), rtol=1e-7)
    failed = found.sel({"method": "none"})
    assert np.isnan(failed["theta"]).all()
    assert np.isnan(failed["gradients"]).all()
    assert all("ValueError: method 'none' is unknown" in e for e in failed["error"].to_numpy())
    assert (found["error"].sel({"method": "RK45"}) == "").all()
    assert (found["seconds"] > 0).all()


@pytest.mark.quick
def test_what_is_done_is_not_done_again(tmp_path: Path):
    """Assert that only failed cells are called again, and the result is the same."""
    # A list would be taken for what tells the function.
    calls, broken = deque(), deque([True])

    def count(x: float) -> float:
        calls.append(x)
        if x == 2.0 and broken:
            raise RuntimeError("not today")
        return x**2

    first = sweep(count, {"x": [1.0, 2.0, 3.0]}, folder=tmp_path / "s", progress=False)
    assert list(first["error"].to_numpy()) == ["", "RuntimeError: not today", ""]
    broken.clear()
    calls.clear()
    again = sweep(count, {"x": [1.0, 2.0, 3.0, 4.0]}, folder=tmp_path / "s", progress=False)
    assert list(calls) == [2.0, 4.0]
    np.testing.assert_array_equal(again["value"], [1.0, 4.0, 9.0, 16.0])

    def other(x: float) -> float:
        return x

    with pytest.raises(ValueError, match="has cells of another function"):
        sweep(other, {"x": [1.0]}, folder=tmp_path / "s")
    with pytest.raises(ValueError, match="holds other files, and no sweep"):
        sweep(other, {"x": [1.0]}, folder=tmp_path)
    (cell, *_) = (tmp_path / "s").glob("cell-*.npz")
    cell.write_bytes(cell.read_bytes()[:50])
    with pytest.raises(ValueError, match="can't be read as a cell .* it is computed again"):
        sweep(count, {"x": [1.0, 2.0, 3.0, 4.0]}, folder=tmp_path / "s", progress=False)


@pytest.mark.quick
def test_ctrl_c_keeps_what_there_is():
    """Assert that cells before it are there, and the others say why they are not."""

    def press(x: int) -> int:
        if x == 2:
            raise KeyboardInterrupt
        return x

    found = sweep(press, {"x": [0, 1, 2, 3]}, progress=False)
    np.testing.assert_array_equal(found["value"], [0, 1, np.nan, np.nan])
    assert list(found["error"].to_numpy()[2:]) == ["not done: interrupted, or its worker died"] * 2


def squared_or_dead(x: int) -> int:
    """x², but the worker does not survive 3."""
    if x == 3:
        os._exit(1)
    return x**2


@pytest.mark.large
def test_processes_and_one_that_dies(tmp_path: Path):
    """Assert the same in processes, and that a dead worker is told and hangs nobody."""
    found = sweep(squared_or_dead, {"x": [0, 1, 2]}, jobs=2, progress=False)
    np.testing.assert_array_equal(found["value"], [0, 1, 4])
    found = sweep(squared_or_dead, {"x": [1, 3]}, jobs=2, folder=tmp_path / "s", progress=False)
    assert "its worker died" in str(found["error"].sel(x=3).item())


@pytest.mark.large
def test_a_dask_cluster_of_two_workers(tmp_path: Path):
    """Assert the same on a cluster, what a cell that kills workers takes along, and a second call.

    Dask gives up what was four times on a worker that died, also where it waited there.
    """

    def squared(x: int) -> int:
        if x == 3 and not (tmp_path / "well").exists():
            os._exit(1)
        return x**2

    grid, keep = {"x": [0, 1, 2, 3, 4, 5]}, {"folder": tmp_path / "s", "progress": False}
    at_home = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(**at_home, silence_logs=logging.CRITICAL), joblib.parallel_config("dask"):
        found = sweep(squared, grid, **keep)
        (tmp_path / "well").touch()
        times = {f: f.stat().st_mtime_ns for f in (tmp_path / "s").glob("cell-*.npz")}
        again = sweep(squared, grid, **keep)
    lost = found["x"].to_numpy()[found["error"] != ""]
    assert 3 in lost
    for x in grid["x"]:
        if x in lost:
            assert "not done: its worker died: KilledWorker" in str(found["error"].sel(x=x).item())
        else:
            assert found["value"].sel(x=x) == x**2
    np.testing.assert_array_equal(again["value"], [0, 1, 4, 9, 16, 25])
    assert {f: f.stat().st_mtime_ns for f in times} == times
    assert len(times) == 6 - len(lost) >= 1


def test_what_cannot_be_sent():
    """Assert that it is refused before any cell, with the remedy."""
    lock = threading.Lock()
    with pytest.raises(TypeError, match="can't be sent .*lock.*let it make what it needs itself"):
        sweep(lambda x: x if lock else 0, {"x": [1]}, jobs=2, progress=False)


def test_a_cell_that_cannot_be_written(tmp_path: Path):
    """Assert a warning and the cell's value, and that the next call computes it again."""
    limits, grid = resource.getrlimit(resource.RLIMIT_FSIZE), {"x": [1, 2]}
    calls: deque[int] = deque()

    def squared(x: int) -> int:
        if list(calls) == [1]:  # from the second cell on the disk is full
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        calls.append(x)
        return x**2

    try:
        with pytest.warns(UserWarning, match=r"the cell {'x': 2} can't be kept \(.*too large"):
            found = sweep(squared, grid, folder=tmp_path / "s", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(found["value"], [1, 4])
    again = sweep(squared, grid, folder=tmp_path / "s", progress=False)
    np.testing.assert_array_equal(again["value"], [1, 4])
    assert list(calls) == [1, 2, 2]


@pytest.mark.parametrize(
    ("function", "grid", "message"),
    [
        (decayed, {}, "grid is empty"),
        (decayed, {"x": []}, "must have values, each once"),
        (decayed, {"x": [1, 1]}, "must have values, each once"),
        (decayed, {"x": [np.ones(2)]}, "values are numbers or strings"),
        (decayed, {"error": [1]}, "every sweep records error"),
    ],
)
def test_what_makes_no_sense(function: Any, grid: dict, message: str):
    """Assert the argument's name and the remedy."""
    with pytest.raises(ValueError, match=message):
        sweep(function, grid, progress=False)


def test_ctrl_c_inside_a_run_is_no_result(tmp_path: Path):
    """Assert that a cell whose run Ctrl-C ended is not done, and done by the next call."""
    pressed: deque[float] = deque()

    def loss(t: float) -> float:
        def press(*_: Any) -> float:
            if t == 2.0 and not pressed:
                pressed.append(t)
                signal.raise_signal(signal.SIGINT)
            return 0.0

        objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
        return flow.integrate(objective, t, observe={"press": press}, progress=False).loss[-1]

    grid = {"t": [1.0, 2.0, 3.0]}
    found = sweep(loss, grid, folder=tmp_path / "s", progress=False)
    np.testing.assert_allclose(found["value"], [np.exp(-2.0), np.nan, np.nan], rtol=1e-5)
    assert "not done: interrupted" in str(found["error"].sel(t=2.0).item())
    again = sweep(loss, grid, folder=tmp_path / "s", progress=False)
    np.testing.assert_allclose(again["value"], np.exp([-2.0, -4.0, -6.0]), rtol=1e-4)


def test_functions_of_one_name_are_told_apart(tmp_path: Path):
    """Assert that cells of one are not given for another's: by code, closure and what is fixed."""

    def times(k: float) -> Any:
        return lambda x: k * x

    def total(x: float, data: np.ndarray) -> float:
        return x + data.sum()

    data = np.zeros(5000)
    for one, other in (
        (lambda x: x, lambda x: 100 * x),
        (times(1.0), times(100.0)),
        (partial(total, data=data), partial(total, data=data + 1)),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        sweep(one, {"x": [1.0]}, folder=folder, progress=False)
        with pytest.raises(ValueError, match="has cells of another function"):
            sweep(other, {"x": [1.0]}, folder=folder, progress=False)
        sweep(one, {"x": [1.0, 2.0]}, folder=folder, progress=False)


@pytest.mark.large
def test_two_processes_in_one_folder(tmp_path: Path):
    """Assert that both have all cells where they began together."""
    work = [delayed(in_folder)(tmp_path / "s") for _ in range(2)]
    for found in Parallel(n_jobs=2)(work):
        np.testing.assert_array_equal(found, np.arange(40) ** 2)


def in_folder(folder: Path) -> np.ndarray:
    """A sweep of squares there."""
    while time.time() % 1.0 > 0.02:  # both at once
        pass
    return sweep(square, {"x": list(range(40))}, folder=folder, progress=False)["value"].to_numpy()


def square(x: int) -> int:
    """x²."""
    return x**2


def test_what_is_no_number_is_the_cells_error():
    """Assert that text and a name that is taken are recorded as errors."""
    found = sweep(lambda x: "text", {"x": [1]}, progress=False)
    assert "function must return numbers" in found["error"].item()
    found = sweep(np.ones, {"shape": [1, 2]}, progress=False)
    assert found["error"].to_numpy()[1] == "value has shape (2,) here, but (1,) before"
    assert found["value"].sel(shape=1).item() == 1.0
    for value in ({"x": 1.0}, {"a": np.ones(2), "a_0": 1.0}):
        found = sweep(lambda x, value=value: value, {"x": [1]}, progress=False)
        assert "under names of its own" in found["error"].item()
    found = sweep(lambda a_0: {"a": np.ones(2)}, {"a_0": [1]}, progress=False)
    assert "a_0 is another's" in found["error"].item()
    found = sweep(lambda x: np.ma.masked_array([1.0], [True]), {"x": [1]}, progress=False)
    assert "must return numbers" in found["error"].item()

    def leave(status: int) -> None:
        raise SystemExit(status)

    found = sweep(leave, {"status": [2, 0]}, progress=False)
    assert list(found["error"].to_numpy()) == ["SystemExit: 2", "SystemExit: 0"]


def test_the_experiment(run_here: Any, tmp_path: Path):
    """Assert a table of every cell, refusals among them, and that a second call reads them."""
    small = ["--widths", "2", "28", "--methods", "TSRKC3", "Radau", "--examples", "20", "--t", "1"]
    small += ["--cells", str(tmp_path / "cells"), "--rates", "2", "--rounds", "1"]
    folder = run_here("sweep", *small)
    assert (pd.read_csv(folder / "together.csv")["largest difference"] < 1e-13).all()
    first = pd.read_csv(folder / "table.csv", index_col=["width", "method"])
    assert len(list((tmp_path / "cells").glob("cell-*.npz"))) == 3
    assert "above 2000" in first["error"][28, "Radau"].replace(",", "")
    # Both at a tolerance of 1e-5.
    loss = first["loss"]
    assert loss[2, "Radau"] == pytest.approx(loss[2, "TSRKC3"], rel=1e-4)
    shutil.rmtree(tmp_path / "sweep")
    again = pd.read_csv(run_here("sweep", *small) / "table.csv", index_col=["width", "method"])
    done = first["error"].isna()
    pd.testing.assert_frame_equal(first[done], again[done])
