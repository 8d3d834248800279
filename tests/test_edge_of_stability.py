"""The experiments at the edge of stability, at a small size: their numbers against theory."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import flow


@pytest.mark.quick
def test_sharpness_rises_to_the_edge():
    """Assert the flow's λ_max, 2.95 → 31, and that of descent, which leaves the flow at 2/η."""
    objective, eta = flow.networks.chebyshev(3, seed=0), 0.08
    late = [900.0, *np.linspace(1900.0, 2000.0, 5)]
    how = {"method": "TSRKC3", "engine": "jax", "progress": False}
    path = flow.integrate(objective, 2000.0, save=late, **how)
    steps = flow.descend(objective, eta, 25_000, save=late, progress=False)
    flowing, stepping = (
        [flow.sharpness(objective, run.params(i)) for i in range(len(late))]
        for run in (path, steps)
    )
    assert flow.sharpness(objective, objective.params) == pytest.approx(2.95, rel=0.01)
    assert flowing[-1] == pytest.approx(31.0, rel=0.02)
    assert stepping[0] == pytest.approx(flowing[0], rel=0.01)
    assert stepping[0] < 2.0 / eta
    assert np.median(stepping[1:]) == pytest.approx(2.0 / eta, rel=0.01)
    distance = np.linalg.norm(path.theta - steps.theta, axis=1)
    assert distance[0] < 0.01
    assert distance[-1] > 0.5


def test_edge_of_stability(run_here: Callable):
    """Assert when limits are met, that sharpness stays at them, and that the flow is left there."""
    folder = run_here(
        "edge_of_stability", "--problems", "chebyshev-3", "--learning-rates", "0.08", "0.05",
        "--save", "150",
    )  # fmt: skip
    table = pd.read_csv(folder / "table.csv", index_col="run")
    descent, below = table.loc["GD, η = 0.08"], table.loc["GD, η = 0.05"]
    assert 1000 < descent["meets it at t"] < 1800
    assert abs(descent["late sharpness / limit"] - 1.0) < 0.02
    assert descent["late / before"] > 50
    assert np.isnan(below["meets it at t"])
    assert below["late"] < 0.01
    for name in ("heavy ball, β = 0.5", "Nesterov, β = 0.5", "Adam, η = 0.001"):
        assert abs(table.loc[name, "late sharpness / limit"] - 1.0) < 0.05
        assert table.loc[name, "meets it at t"] < 1800
    # Momentum has its own limits, of other learning rates, at the same sharpness.
    assert table.loc["heavy ball, β = 0.5", "η"] == pytest.approx(3.0 / 25.0)
    assert table.loc["Nesterov, β = 0.5", "η"] == pytest.approx(3.0 / 2.0 / 25.0)
    path = flow.load(folder / "chebyshev-3-flow.nc")
    assert path.observed["sharpness"][-1] > 35.0
    assert (folder / "chebyshev-3.png").exists()


def test_unstable_from_the_start(run_here: Callable, capsys: pytest.CaptureFixture):
    """Assert that a learning rate beyond the limit at θ₀ is told, and the run shown."""
    folder = run_here(
        "edge_of_stability", "--problems", "digits-relu", "--learning-rates", "0.9", "--t", "9",
        "--save", "10",
    )  # fmt: skip
    assert "λ_max(θ₀) = 3.62 is beyond its limit 2.22 already" in capsys.readouterr().out
    assert pd.read_csv(folder / "table.csv").loc[0, "meets it at t"] == 0.0


def test_central_flow(run_here: Callable):
    """Assert a tenth of the gradient flow's distance, and means to 5 %, two directions at once."""
    folder = run_here(
        "central_flow", "--problems", "digits", "--digits-t", "420", "--digits-k", "2",
        "--principal-seconds", "2", "--save", "121", "--burst", "250",
    )  # fmt: skip
    far = pd.read_csv(folder / "digits-distance.csv", index_col=0)
    assert far.loc["central flow", "over the gradient flow's"] < 0.1
    assert far.loc["modified flow", "over the gradient flow's"] > 0.9
    assert far.loc["central flow", "sharpness · η/2"] == pytest.approx(1.0, abs=1e-3)
    means = pd.read_csv(folder / "digits-prediction.csv", index_col=0)["ratio"]
    np.testing.assert_allclose(means[["loss", "squared gradient"]], 1.0, atol=0.05)
    assert abs(means["variance at the edge"] - 1.0) < 0.1
    assert flow.load(folder / "digits-central_flow.nc").state["critical"].max() == 2
