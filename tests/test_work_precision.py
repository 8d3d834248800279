"""The benchmark of integrators at a small size, and its own arithmetic."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import flow

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

from problems import PROBLEMS  # noqa: E402
from work_precision import at_error  # noqa: E402


def test_cost_at_an_error_is_interpolated_between_runs():
    """Assert a power law's cost in closed form, and no extrapolation to smaller errors."""
    errors = np.array([1e-6, 1e-2, 1e-4])
    table = pd.DataFrame({"error": errors, "cost": errors**-0.5})
    assert at_error(table, 1e-3, "cost") == pytest.approx(1e-3**-0.5)
    assert np.isnan(at_error(table, 1e-7, "cost"))
    assert at_error(table, 1.0, "cost") == pytest.approx(10.0)


def test_runs_are_those_that_integrate_makes(run_here: Callable, capsys: pytest.CaptureFixture):
    """Assert errors within ten times rtol, costs that a run of one's own repeats, and figures."""
    folder = run_here(
        "work_precision", "--problems", "2-3-2", "--rtols", "1e-3", "1e-5", "--no-peers",
        "--no-growth", "--repeats", "1",
    )  # fmt: skip
    runs = pd.read_csv(folder / "runs.csv")
    assert set(runs["method"]) == {"RKC2", "TSRKC3", "auto", "Radau", "DOP853"}
    assert (runs["error"] <= 10 * runs["rtol"]).all()
    problem = PROBLEMS["2-3-2"]
    for rtol in (1e-3, 1e-5):
        path = flow.integrate(
            problem.make(), problem.t, method="TSRKC3", rtol=rtol, atol=1e-3 * rtol,
            save=[problem.t],
        )  # fmt: skip
        row = runs[(runs["method"] == "TSRKC3") & (runs["rtol"] == rtol)]
        assert row["cost"].item() == path.stats["gradients"]
    auto = pd.read_csv(folder / "auto.csv")
    assert (auto["auto"] <= 1.3 * auto["best"] + 60).all()
    for name in ("cost.png", "seconds.png"):
        with Image.open(folder / name) as figure:
            assert figure.info["Source"] == str(folder)
    assert str(folder / "cost.png") in capsys.readouterr().out


def test_a_misspelt_problem_is_named(refused_here: Callable):
    """Assert an answer that lists the problems, and no run folder."""
    told = refused_here("work_precision", "--problems", "digits")
    assert "--problems 'digits' is unknown" in told
    assert "4-24-1 un-normalised" in told


def test_overhead_of_the_compiled_engine(run_here: Callable):
    """Assert the networks' sizes, and ratios that are positive."""
    folder = run_here(
        "compiled_overhead", "--networks", "2-3-2, 100 points", "64-32-10, 300 digits",
        "--rounds", "1", "--t-factor", "0.01",
    )  # fmt: skip
    table = pd.read_csv(folder / "table.csv", index_col=0)
    assert table["parameters"].tolist() == [17, 2410]
    assert (table > 0).all(axis=None)


# Gradients of RKC2 and TSRKC3 at rtol 1e-3, as they were measured, and a tenth more.
CEILINGS = {
    "digits, T = 100": (498, 486),
    "digits, T = 1,000": (1483, 1831),
    "2-3-2": (848, 834),
    "1-100-1 on Chebyshev degree 3": (2177, 2427),
    "4-24-1 un-normalised": (6620, 10452),
    "linear regression": (1147, 1049),
    "64-200-200-10, all digits": (277, 280),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_ceilings(name: str):
    """Assert that no problem of the benchmark costs a tenth more than it did."""
    problem = PROBLEMS[name]
    objective = problem.make()
    for method, measured in zip(("RKC2", "TSRKC3"), CEILINGS[name], strict=True):
        path = flow.integrate(
            objective, problem.t, method=method, rtol=1e-3, atol=1e-6, save=[problem.t],
            engine="jax", progress=False,
        )  # fmt: skip
        assert path.result.startswith("reached")
        assert path.stats["gradients"] <= 1.1 * measured
