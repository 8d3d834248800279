"""Experiments on dynamics at a small size, by their command lines: their numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def run(run_here: Callable, capsys: pytest.CaptureFixture) -> Callable:
    """Run an experiment whose figure is named to the user; the folder that it wrote."""

    def run(script: str, *arguments: str) -> Path:
        folder = run_here(script, *arguments)
        assert str(folder / f"{script}.png") in capsys.readouterr().out
        assert (folder / f"{script}.png").stat().st_size > 10_000
        return folder

    return run


def test_modified_flows(run: Callable):
    """Assert slopes 1, 2, 3 and 2, and that every next order is nearer along t."""
    small = ["--examples", "30", "--hidden", "3", "--t", "0.5", "--t-along", "2", "--k", "2"]
    small += ["--shares", "0.1", "0.05"]
    folder = run("modified_flows", *small)
    slopes = pd.read_csv(folder / "slopes.csv", index_col=0)
    np.testing.assert_allclose(slopes["slope"], [1, 2, 3, 2], atol=0.15)
    final = pd.read_csv(folder / "final.csv", index_col=0)["relative distance"]
    first, second, third, _ = final
    assert first > second > third


def test_momentum(run: Callable):
    """Assert order ½ in η, bands that fall by four, and that only Runge–Kutta drifts."""
    small = ["--examples", "30", "--hidden", "3", "--t", "3", "--t-order", "1"]
    few = ["--frictions", "0.5", "--periods", "300", "--rates", "1e-3", "2.5e-4"]
    folder = run("momentum", *small, *few)
    slopes = pd.read_csv(folder / "slopes.csv", index_col=0)
    np.testing.assert_allclose(slopes["slope"], 0.5, atol=0.06)
    energy = pd.read_csv(folder / "energy.csv", index_col=0)
    band = energy["largest |H/H₀ − 1|"]
    for problem in ("quadratic", "digits"):
        coarse, fine = (band[f"{problem}, Verlet, {n} steps a period"] for n in (20, 40))
        assert coarse / fine == pytest.approx(4.0, rel=0.1)
    drift = energy["drift"].filter(like="quadratic").abs()
    assert drift["quadratic, Dopri8"] > 0.6 * band["quadratic, Dopri8"]
    assert drift["quadratic, Verlet, 20 steps a period"] < 0.05 * band.max()


def test_lazy(run: Callable):
    """Assert that distances fall about as 1/m in outputs and as 1/√m in parameters."""
    small = ["--widths", "64", "512", "--seeds", "6", "--examples", "10", "--t", "5"]
    folder = run("lazy", *small)
    table = pd.read_csv(folder / "table.csv", index_col=0)
    ratio = table.loc[64] / table.loc[512]
    assert 8.0 * 0.5 < ratio["outputs"] < 8.0 * 2.0
    assert 8.0**0.5 * 0.7 < ratio["parameters"] < 8.0**0.5 * 1.4


def test_orders(run: Callable):
    """Assert the rows that are cheap."""
    rows = ["gradient flow", "Nesterov's ODE", "scale-free flow"]
    folder = run("orders", "--examples", "20", "--only", *rows)
    table = pd.read_csv(folder / "table.csv", index_col=0)
    np.testing.assert_allclose(table["order in η"], table["expected"], atol=0.06)
