"""Runs that keep less than θ at every time: what they keep, what they refuse, and lockstep."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flow
from flow._evidence.streaming_compare import StreamingDistances

OBJECTIVE = flow.MLP([64, 8, 10]).objective(*flow.datasets.digits(40), seed=0)
WHOLE = flow.integrate(OBJECTIVE, 3.0, save=7, progress=False)


def runs(keep: str) -> list[flow.Trajectory]:
    """A flow by both engines, and a descent."""
    quiet = {"save": 7, "progress": False}
    return [
        flow.integrate(OBJECTIVE, 3.0, keep=keep, **quiet),
        flow.integrate(OBJECTIVE, 3.0, keep=keep, engine="jax", method="TSRKC3", **quiet),
        flow.descend(OBJECTIVE, 0.05, 60, keep=keep, **quiet),
    ]


@pytest.mark.parametrize("keep", ["last", "projection"])
def test_what_is_kept_is_what_it_would_be(keep: str, tmp_path: Path):
    """Assert the last θ, losses and times of the whole run, and the same after a day on disk."""
    for run, whole in zip(runs(keep), runs("theta"), strict=True):
        assert not run.keeps_theta
        assert whole.keeps_theta
        np.testing.assert_array_equal(run.theta, whole.theta[-1:])
        for name in ("t", "loss", "gradient_norm"):
            np.testing.assert_array_equal(getattr(run, name), getattr(whole, name))
        again = flow.load(run.save(tmp_path / f"{id(run)}.nc"))
        np.testing.assert_array_equal(again.theta, run.theta)
        assert not again.keeps_theta
        for i in (-1, 6):
            np.testing.assert_array_equal(again.params(i)[0]["W"], whole.params(-1)[0]["W"])
        with pytest.raises(ValueError, match=r"path\.params\(3\) is not kept"):
            again.params(3)
        assert flow.audit(again, OBJECTIVE).energy_residual == pytest.approx(
            flow.audit(whole).energy_residual, nan_ok=True
        )


def test_what_needs_all_rows_is_refused():
    """Assert that nothing takes the last row for the first."""
    path, _, steps = runs("last")
    for call in (
        lambda: flow.compare(path, steps),
        lambda: flow.compare(WHOLE, steps),
        lambda: flow.plots.plane(path),
        lambda: flow.plots.weights(path),
        lambda: flow.plots.layer_norms(path),
        lambda: flow.plots.surface(path),
        lambda: flow.audit(path, error_bar=True),
    ):
        with pytest.raises(ValueError, match="needs θ at every saved time"):
            call()
    with pytest.raises(ValueError, match="keep 'all' is unknown"):
        flow.integrate(OBJECTIVE, 1.0, keep="all")


def test_members_keep_their_own_last():
    """Assert θ of each member where only the last is kept."""
    theta = OBJECTIVE.theta + np.arange(3)[:, None] * 0.01
    arguments = {"engine": "jax", "ensemble": theta, "save": 4, "progress": False}
    paths, whole = (flow.integrate(OBJECTIVE, 1.0, keep=k, **arguments) for k in ("last", "theta"))
    assert paths.theta.shape == (3, 1, OBJECTIVE.size)
    np.testing.assert_array_equal(paths.theta[:, -1], whole.theta[:, -1])
    np.testing.assert_array_equal(paths.member(1).theta, whole.member(1).theta[-1:])


def test_the_name_of_the_projection_is_taken():
    """Assert that an observer of the user's is not lost to it."""
    mine = {"projection": lambda o, p: 1.0}
    with pytest.raises(ValueError, match="is the name of what keep="):
        flow.integrate(OBJECTIVE, 1.0, keep="projection", observe=mine)


@pytest.mark.quick
def test_projections_of_runs_keep_distances():
    """Assert ‖P(a − b)‖ within 4 standard deviations of ‖a − b‖, and P of a run that of its θ."""
    (path, _, steps), (whole, _, all_steps) = runs("projection"), runs("theta")
    P = flow.observe.projection()
    projected = [P(OBJECTIVE, whole.params(i)) for i in range(7)]
    np.testing.assert_array_equal(path.observed["projection"], projected)
    assert path.observed["projection"].shape == (7, OBJECTIVE.size)  # not more than 1,024
    small = flow.observe.projection(64, seed=3)
    for i in range(1, 7):
        far = np.linalg.norm(whole.theta[i] - all_steps.theta[i])
        a, b = (small(OBJECTIVE, run.params(i)) for run in (whole, all_steps))
        assert np.linalg.norm(a - b) ** 2 == pytest.approx(far**2, rel=4 * (2 / 64) ** 0.5)
    ax = flow.plots.plane(path, steps)
    expected = flow.plots.plane(whole, all_steps, ax=plt.figure().subplots())
    for line, other in zip(ax.get_lines(), expected.get_lines(), strict=True):
        np.testing.assert_allclose(line.get_xydata(), other.get_xydata(), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**31))
def test_projection_is_linear_and_unbiased(k: int, seed: int):
    """Assert linearity, and the mean of ‖Px‖² over 400 draws within 5 of its deviations."""
    objective = flow.Objective(lambda x: x @ x, np.ones(60))
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 60))
    P = flow.observe.projection(k, seed)
    np.testing.assert_allclose(
        P(objective, 2 * x - y), 2 * P(objective, x) - P(objective, y), atol=1e-12
    )
    squares = [np.sum(flow.observe.projection(k, s)(objective, x) ** 2) for s in range(400)]
    assert np.mean(squares) == pytest.approx(x @ x, rel=5 * (2 / k / 400) ** 0.5)


@pytest.mark.parametrize("keep", ["last", "projection"])
def test_distances_in_lockstep_are_those_of_trajectories(keep: str, tmp_path: Path):
    """Assert distance, relative distance and gap of losses to the last bit, by another way."""
    momentum = {"momentum": (optax.sgd(0.003, 0.9), 0.03)}
    arguments = {"t": 2.0, "save": 6, "progress": False, "observe": {}}
    lockstep = flow.study(OBJECTIVE, [0.05, 0.02], momentum, keep=keep, **arguments)
    whole = flow.study(OBJECTIVE, [0.05, 0.02], momentum, **arguments)
    loaded = flow.load_study(lockstep.save(tmp_path / "study.nc"))
    for study in (lockstep, loaded):
        assert not study.flow.keeps_theta
        for mine, pair in zip(study.comparison.pairs, whole.comparison.pairs, strict=True):
            for name in ("t", "distance", "relative_distance", "loss_gap", "loss"):
                np.testing.assert_allclose(
                    getattr(mine, name), getattr(pair, name), rtol=1e-12, atol=1e-15
                )
            assert np.isnan(mine.nearest_distance).all()
            assert mine.first_passage(1e-3) == pair.first_passage(1e-3)
        assert "distance" in study.table()
        assert len(study.plot().axes) == 4


@pytest.mark.quick
def test_a_run_that_ends_early_keeps_nobody_waiting():
    """Assert that a descent that diverges leaves the others' distances whole."""
    arguments = {"t": 100.0, "save": 5, "progress": False, "observe": {}, "keep": "last"}
    study = flow.study(OBJECTIVE, [20.0, 0.05], rtol=1e-3, **arguments)
    assert "diverged" in study.runs[0].result or study.runs[0].loss[-1] > study.runs[0].loss[0]
    pairs = {pair.run.label: pair for pair in study.comparison.pairs}
    assert pairs["GD, η = 0.05"].t[-1] == 100.0
    assert len(pairs["GD, η = 0.05"].t) == 5


def test_no_theta_waits_longer_than_for_its_counterpart():
    """Assert what is held: nothing once both have come by, or one will never come."""
    distances = StreamingDistances("flow", np.zeros(1), 2.0)
    distances.expect({"GD": [0.0, 1.0, 2.0], "Adam": [0.0, 1.0]})
    record = {"theta": np.ones(1), "loss": 1.0}
    for name in ("flow", "GD", "Adam"):
        distances.meet(name, record | {"t": 0.0})
    assert distances.open_times == [1.0, 2.0]
    distances.meet("flow", record | {"t": 1.0})
    distances.meet("GD", record | {"t": 1.0})
    distances.leave("Adam")
    assert distances.open_times == [2.0]
    distances.meet("GD", record | {"t": 2.0})
    distances.leave("GD")
    distances.meet("flow", record | {"t": 2.0 + 4e-16})
    assert distances.open_times == []
    np.testing.assert_array_equal(distances.of("GD")["t"], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(distances.of("Adam")["t"], [0.0])
