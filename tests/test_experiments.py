"""The experiments at a small size: one as a user runs it, the others in the tests' process."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import flow

ROOT = Path(__file__).parent.parent
SMALL = ["--examples", "40", "--test", "50", "--hidden", "4", "--t", "2", "--save", "9"]


def test_gd_vs_flow_writes_a_run_folder(run_here: Callable, tmp_path: Path):
    """Assert figure, runs, table and configuration, whose numbers are those of the runs."""
    rates = ("0.02", "0.004")
    script = ROOT / "experiments" / "gd_vs_flow.py"
    command = [script, *SMALL, "--quiet", "--learning-rates", *rates, "--out", tmp_path]
    answer = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    (folder,) = (tmp_path / "gd_vs_flow").iterdir()
    names = {"flow.nc", "descent-1.nc", "descent-2.nc", "figure.png", "table.csv"}
    assert {p.name for p in folder.iterdir()} == names | {"configuration.json", "record.json"}
    facts = json.loads((folder / "configuration.json").read_text())
    assert facts["configuration"]["learning_rates"] == [0.02, 0.004]
    assert "jax" in facts["versions"]

    path, *steps = (flow.load(folder / f"{n}.nc") for n in ("flow", "descent-1", "descent-2"))
    assert [s.t[-1] for s in steps] == [2.0, 2.0]
    assert [s.stats["steps"] for s in steps] == [100, 500]
    comparison = flow.compare(path, *steps)
    table = pd.read_csv(folder / "table.csv")
    last = [distance[-1] for distance in comparison.distance]
    np.testing.assert_allclose(table["distance"], last, rtol=1e-12)
    assert last[0] / last[1] == pytest.approx(5, rel=0.2)  # of order one in η
    for name in ("test loss", "test accuracy"):
        assert path.observed[name].shape == path.t.shape
    with Image.open(folder / "figure.png") as figure:
        assert min(figure.size) > 700
        assert figure.info["Source"] == str(folder)
    assert str(folder / "figure.png") in answer.stdout

    run_here("gd_vs_flow", *SMALL, "--learning-rates", *rates)
    assert len(list((tmp_path / "gd_vs_flow").iterdir())) == 2  # nothing is overwritten


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "RK4", "--rtol", "1e-3", "--step", "0.1"], "--rtol is no setting"),
        (["--step", "0.1"], "--step is no setting"),
        (["--method", "RK4"], "needs --step"),
        (["--activation", "relu"], "--activation relu needs"),
        (["--examples", "1700", "--test", "500"], "there are 1797"),
        (["--t", "-1"], "--t must be positive"),
    ],
)
def test_gd_vs_flow_refuses_what_makes_no_sense(
    refused_here: Callable, arguments: list, message: str
):
    """Assert a sentence, no traceback and no folder for options that do not go together."""
    assert message in refused_here("gd_vs_flow", *arguments)


def test_rk_methods_tabulates_every_method(run_here: Callable):
    """Assert errors below 100 rtol for every method, and implicit ones refused above 2,000."""
    folder = run_here(
        "rk_methods",
        *("--examples", "40", "--hidden", "1", "28", "--t", "1", "--rtols", "1e-3", "1e-5"),
    )
    table = pd.read_csv(folder / "table.csv")
    narrow, wide = (of for _, of in table.groupby("network", sort=False))
    assert len(narrow) == 12
    assert np.all(narrow["error"] < 100 * narrow["rtol"])
    refused = wide[wide["error"].isna()]
    assert sorted(refused["method"]) == ["BDF", "LSODA", "Radau"]
    assert (folder / "figure.png").stat().st_size > 10_000


def test_overhead_reports_ratios(run_here: Callable):
    """Assert a row for each network, the counts and positive ratios (their size is no test)."""
    small = ["--rounds", "1", "--t-factor", "0.01", "--repeats", "1", "--save", "2"]
    folder = run_here("overhead", *small)
    found = pd.read_csv(folder / "table.csv")
    assert list(found["parameters"]) == [2410, 55210, 794]
    assert np.all(found[["flow", "solve_ivp", "hand / jax.grad"]] > 0)


def test_an_unwritable_place_is_told_before_anything_is_computed(
    run_in: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """Assert a sentence at once where the run folder can't be made."""
    (tmp_path / "file").touch()
    assert run_in(tmp_path / "file", "gd_vs_flow", "--t", "1e6") == 2
    told = capsys.readouterr().err
    assert "--out" in told
    assert "Traceback" not in told
