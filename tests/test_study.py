"""`flow.study`: all runs from one θ₀ in lockstep, one object and one file."""

import os
import signal
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest

import flow
from flow._run.loop import InTurn


@pytest.fixture(scope="module")
def objective() -> flow.Objective:
    """A small network on digits."""
    return flow.MLP([64, 4, 10]).objective(*flow.datasets.digits(40), seed=0)


@pytest.fixture(scope="module")
def study(objective: flow.Objective) -> flow.Study:
    """Two descents and momentum beside the flow."""
    momentum = {"momentum": (optax.sgd(0.003, 0.9), 0.03)}
    return flow.study(objective, [0.05, 0.02], momentum, t=2.0, save=6, progress=False)


@pytest.fixture(autouse=True)
def _close() -> None:
    yield
    plt.close("all")


def test_runs_are_those_of_integrate_and_descend(study: flow.Study, objective: flow.Objective):
    """Assert that lockstep changes nothing: the runs are what each is by itself, to rounding."""
    alone = flow.integrate(objective, 2.0, save=study.flow.t, progress=False)
    np.testing.assert_array_equal(study.flow.theta, alone.theta)
    for run, steps in zip(study.runs, (40, 100), strict=False):
        by_itself = flow.descend(objective, 2.0 / steps, steps, save=6, progress=False)
        np.testing.assert_array_equal(run.theta, by_itself.theta)
        np.testing.assert_array_equal(run.t, by_itself.t)
    momentum = study.runs[2]
    assert momentum.label == "momentum"
    # 66 steps of 0.03 end at 1.98, the last up to t.
    assert momentum.stats["steps"] == 66
    assert momentum.t[-1] == pytest.approx(1.98)
    assert [run.t[-1] for run in study.runs[:2]] == [2.0, 2.0]


def test_progress_is_anything_true_or_false(objective: flow.Objective):
    """Assert that 0 is silence, as False is."""
    assert flow.integrate(objective, 0.1, save=2, progress=0).result == "reached t = 0.1"
    assert flow.descend(objective, 0.1, 2, save=2, progress=np.False_).stats["steps"] == 2


def test_the_table_has_all_runs(study: flow.Study):
    """Assert ends, distances and costs of every run, from the runs themselves."""
    table = study.table()
    assert list(table.index) == ["gradient flow", "GD, η = 0.05", "GD, η = 0.02", "momentum"]
    np.testing.assert_array_equal(table["gradients"][1:], [40, 100, 66])
    last = [run.observed["sharpness"][-1] for run in (study.flow, *study.runs)]
    np.testing.assert_array_equal(table["sharpness"], last)
    distance = np.linalg.norm(study.runs[0].theta[-1] - study.flow.theta[-1])
    assert table["distance"].iloc[1] == pytest.approx(distance, rel=1e-12)
    assert np.isnan(table["distance"].iloc[0])
    assert set(table["ended"]) == {"reached"}


def drawn(figure: Any) -> list[np.ndarray]:
    """Every line of a figure."""
    return [line.get_xydata() for ax in figure.axes for line in ax.get_lines()]


def test_a_reopened_study_plots_the_same(study: flow.Study, tmp_path: Path):
    """Assert every curve, every row of the table, and the legend, after a day on disk."""
    again = flow.load_study(study.save(tmp_path / "study.nc"))
    for one, other in zip(drawn(study.plot()), drawn(again.plot()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-15)
    assert study.table().equals(again.table())
    names = [t.get_text() for t in again.plot().legends[0].get_texts()]
    assert names == ["gradient flow", "GD, η = 0.05", "GD, η = 0.02", "momentum",
                     "the flow's own error"]  # fmt: skip
    np.testing.assert_array_equal(again.runs[1].theta, study.runs[1].theta)
    with pytest.raises(FileExistsError):
        study.save(tmp_path / "study.nc")
    with pytest.raises(ValueError, match=r"it is a flow study, which flow\.load_study reads"):
        flow.load(tmp_path / "study.nc")
    study.flow.save(tmp_path / "flow.nc")
    with pytest.raises(ValueError, match=r"it is a flow trajectory, which flow\.load reads"):
        flow.load_study(tmp_path / "flow.nc")
    with pytest.raises(FileNotFoundError):
        flow.load_study(tmp_path / "none.nc")


def off_the_line(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance of each point from a drawn line, its vertices joined by straight ones."""
    a, along = line[:-1], np.diff(line, axis=0)
    from_a = points[:, None] - a
    s = np.clip((from_a * along).sum(-1) / (along**2).sum(-1), 0.0, 1.0)
    return np.linalg.norm(from_a - s[..., None] * along, axis=-1).min(axis=1)


@pytest.mark.quick
def test_the_flow_is_drawn_as_the_curve_that_it_is(tmp_path: Path):
    """Assert exp(−Ht)θ₀ and its J, which falls 300-fold before the first save after θ₀."""
    H, T = np.array([0.2, 30.0]), 16.0
    objective = flow.Objective(lambda x: 0.5 * x @ (H * x), np.ones(2))
    seen = {"stiff": lambda _, x: x[1]}
    study = flow.study(objective, [0.05], t=T, save=9, observe=seen, progress=False)
    t = np.unique(np.concatenate([np.linspace(0, T, 2000), np.geomspace(1e-4, T, 500)]))
    theta = np.exp(-np.outer(t, H))
    J = 0.5 * theta**2 @ H
    for drawn in (study, flow.load_study(study.save(tmp_path / "study.nc"))):
        loss, _, _, plane, _ = (
            ax.get_lines()[0].get_xydata() for ax in drawn.plot().axes if ax.get_lines()
        )
        between = np.interp(t, loss[:, 0], np.log(loss[:, 1]))
        assert np.abs(between - np.log(J)).max() < 1e-3 * np.ptp(np.log(J))
        assert off_the_line(plane, theta).max() < 1e-3 * np.sqrt(2)
    # The further rows are of the flow itself, and observed.
    assert 9 < len(study.flow.t) < 80
    alone = flow.integrate(objective, T, save=study.flow.t, observe=seen, progress=False)
    np.testing.assert_array_equal(study.flow.theta, alone.theta)
    np.testing.assert_array_equal(study.flow.observed["stiff"], alone.theta[:, 1])


def test_limits_of_stability_are_drawn(study: flow.Study):
    """Assert 2/η of each descent, and none for momentum."""
    (ax,) = [a for a in study.plot().axes if "sharpness" in a.get_ylabel()]
    levels = [line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"]
    assert levels == pytest.approx([2 / 0.05, 2 / 0.02])


def test_an_animation(study: flow.Study, tmp_path: Path):
    """Assert that it is written, and no figure is left open."""
    file = study.animate(tmp_path / "study.gif", frames=2, progress=False)
    assert file.read_bytes()[:4] == b"GIF8"
    assert plt.get_fignums() == []


def test_ctrl_c_ends_all_at_about_the_same_t(objective: flow.Objective, tmp_path: Path):
    """Assert a study of what there is, within a save of each other, and its file."""
    hit = []

    def interrupt_late(*_: Any) -> float:
        hit.append(1)
        if len(hit) == 60:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", flow.ErrorBarWarning)
        study = flow.study(
            objective,
            [0.05, 0.02, 0.01],
            t=200.0,
            save=101,
            observe={"x": interrupt_late},
            file=tmp_path / "study.nc",
            progress=False,
        )
    ends = [run.t[-1] for run in (study.flow, *study.runs)]
    assert all("interrupted" in run.result for run in (study.flow, *study.runs))
    assert max(ends) < 200.0
    # One save apart at most, and where each was ended between two of them.
    assert max(ends) - min(ends) <= 2 * 2.0 + 1e-9
    again = flow.load_study(tmp_path / "study.nc")
    assert [run.t[-1] for run in again.runs] == ends[1:]
    assert again.comparison is not None
    assert study.table().equals(again.table())


@pytest.mark.quick
def test_none_gets_further_ahead_than_a_save():
    """Assert the order of the saves of runs of both kinds, with saves of their own."""
    seen: list[tuple[str, float]] = []
    bowl = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    runners = {
        "flow": partial(flow.integrate, bowl, 10.0, save=21),
        "compiled": partial(flow.integrate, bowl, 10.0, method="TSRKC3", save=41),
        "descent": partial(flow.descend, bowl, 0.1, 100, save=11),
    }
    runs = InTurn(runners, 10.0, lambda name, at: seen.append((name, at["t"]))).run(show=False)
    at = dict.fromkeys(runners, 0.0)
    for name, t in seen:
        at[name] = t
        assert max(at.values()) - min(at.values()) <= 1.0 + 1e-9
    for name, runner in runners.items():
        alone = runner(progress=False)
        np.testing.assert_allclose(runs[name].theta, alone.theta, rtol=1e-12)
        assert (runs[name].result, runs[name].units) == (alone.result, alone.units)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"t": -1.0}, ValueError, "t must be positive"),
        ({"t": 1.0, "learning_rates": "all"}, ValueError, "learning_rates must be numbers or"),
        ({"t": 1.0, "learning_rates": []}, ValueError, "there is nothing to run"),
        ({"t": 1.0, "learning_rates": [-0.1]}, ValueError, "learning_rates must be positive"),
        (
            {"t": 1.0, "learning_rates": [lambda k: 0.1 / (k + 1)]},
            TypeError,
            r"has a schedule, .* flow.descend\(objective, learning_rate=schedule, steps=",
        ),
        (
            {"t": 1.0, "optimizers": {"a": (optax.sgd(0.1), lambda k: 0.1)}},
            TypeError,
            r"optimizers\['a'\] has a schedule, .* optimizer=..., time_step=schedule, steps=",
        ),
        ({"t": 1.0, "learning_rates": 0.1}, TypeError, "learning_rates must be several numbers"),
        (
            {"t": 1.0, "learning_rates": [3.0]},
            ValueError,
            "takes steps of 3, the first of which ends beyond t=1",
        ),
        ({"t": 1.0, "optimizers": [1]}, TypeError, "optimizers must be {name"),
        ({"t": 1.0, "save": 1}, ValueError, "save must be at least 2"),
        ({"t": 1.0, "rtoll": 1e-3}, TypeError, "study has no argument rtoll=; did you mean rtol=?"),
        ({"t": 1.0, "method": "RK4"}, ValueError, "needs step="),
        ({"t": 1.0, "optimizers": {"a": optax.sgd(0.1)}}, TypeError, "must be"),
        ({"t": 1.0, "optimizers": {"a": (optax.sgd(0.1), 3.0)}}, ValueError, "takes steps of 3"),
        ({"t": 1.0, "file": "nowhere/at/all.nc"}, FileNotFoundError, "does not exist"),
    ],
)
@pytest.mark.quick
def test_what_makes_no_sense(objective: flow.Objective, options: dict, error: Any, message: str):
    """Assert the argument's name and the remedy."""
    with pytest.raises(error, match=message):
        flow.study(objective, progress=False, **options)
    with pytest.raises(TypeError, match="study needs an objective, flow.Objective"):
        flow.study(lambda x: x, t=1.0)


def test_a_failing_run_is_told(objective: flow.Objective):
    """Assert that what an observer raises at θ₀ comes out, and no thread is left waiting."""
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        flow.study(objective, [0.05], t=1.0, observe={"x": lambda *_: 1 / 0}, progress=False)
    assert threading.active_count() == before


@pytest.mark.quick
def test_runs_of_one_name_are_told_apart(objective: flow.Objective, tmp_path: Path):
    """Assert a row each, with the distance of its own, where learning rates print alike."""
    twins = {"GD, η = 0.05": (optax.sgd(0.02), 0.02)}
    study = flow.study(objective, [0.05], twins, t=1.0, save=5, progress=False)
    table = study.table()
    assert list(table.index) == [
        "gradient flow",
        *(f"GD, η = 0.05, steps {n}" for n in ("20", "50")),
    ]
    last = [pair.distance[-1] for pair in study.comparison.pairs]
    np.testing.assert_array_equal(table["distance"][1:], last)
    assert last[1] < 0.7 * last[0]
    again = flow.load_study(study.save(tmp_path / "s.nc"))
    assert again.table().equals(table)


def test_ctrl_c_in_the_comparison_loses_no_run(
    objective: flow.Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Assert a whole study and its file where the tighter run of the error bar is interrupted."""

    def press(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flow._evidence.compare.error_bars", press)
    file = tmp_path / "s.nc"
    study = flow.study(objective, [0.05], t=1.0, save=5, file=file, progress=False)
    assert study.flow.result == "reached t = 1"
    assert np.all(np.isnan(study.comparison.error_bar))
    alone = np.linalg.norm(study.flow.theta[-1] - study.runs[0].theta[-1])
    assert study.comparison.distance[-1] == pytest.approx(alone, rel=1e-12)
    assert flow.load_study(file).table().equals(study.table())
