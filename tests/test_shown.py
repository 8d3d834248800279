"""What is shown: a cell's last line, the table and the figure of a study; and where runs begin."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib import rc_context
from matplotlib.text import Text

import flow
from flow._evidence.compare import DISTANCES, Comparison, Pair
from flow._evidence.study import Study
from flow.plots.style import readable

MOST = 2000
# What a terminal, matplotlib or LaTeX would obey.
HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e $\\frac{$ \\input{x}"


@dataclass(frozen=True)
class Large(flow.Dynamics):
    """A dynamics with arrays and lists for arguments."""

    objective: flow.Objective
    matrix: np.ndarray
    numbers: list[int]


@pytest.fixture(scope="module")
def leaves() -> flow.Objective:
    """½ Σ θ² of a hundred leaves."""
    start = {f"a leaf with a name, number {i}": np.ones(2) for i in range(100)}
    return flow.Objective(lambda p: 0.5 * sum(jnp.sum(leaf**2) for leaf in p.values()), start)


def many(path: flow.Trajectory) -> Comparison:
    """A hundred runs of 10,000 rows against a flow."""
    row = np.zeros(10_000)
    theta = np.zeros((10_000, 3))
    distances = dict.fromkeys([*DISTANCES, "loss"], row)
    named = [
        path.named(f"run {i} of a long name, longer than a column is wide") for i in range(100)
    ]
    pairs = [Pair(run, t=row, theta=theta, reference_theta=theta, **distances) for run in named]
    return Comparison(path, tuple(pairs))


@pytest.mark.quick
def test_a_cells_last_line_is_short(leaves: flow.Objective):
    """Assert at most 2,000 characters of each, that say what it is."""
    path = flow.integrate(leaves, 1.0, save=3)
    compared = many(path)
    rates = np.geomspace(1.0, 1e-3, 10_000)
    bars = np.zeros(10_000)
    names = [f"params['a leaf with a name, number {i}']" for i in range(100)]
    told = {
        "100 compared with gradient flow": compared,
        "error_bar=array (10000,)": compared.pairs[0],
        "… ": flow.Audit(0.0, 0.0, dict.fromkeys(names, 0.0), bars),
        "slope 1, at t = 1": flow.OrderStudy(rates, rates, 1.0, None, None, 1.0),
        "200 parameters; J(θ₀) = 100": leaves,
        "<Objective of 200 parameters>": flow.GradientFlow(leaves),
        "matrix=array (300, 300)": Large(leaves, np.zeros((300, 300)), list(range(10_000))),
        "leaves=(": flow.ScaleFreeFlow(leaves, leaves=names),
        "rhs=test_a_cells_last_line_is_short.<lambda>": flow.Dynamics(lambda t, s: s, np.ones(900)),
        "MLP of 199 layers": flow.MLP([2] * 101),
        "more lines": Study(path, tuple(pair.run for pair in compared.pairs), None),
        "<HostBatches: 1 of 5 examples>": flow.HostBatches([np.ones(5)]),
    }
    for what, thing in told.items():
        assert what in repr(thing)
        assert len(repr(thing)) <= MOST, what
        assert len(repr(thing).splitlines()) <= 24, what


@pytest.mark.quick
def test_control_characters_are_written_out():
    """Assert that a name, whoever gave it, reaches no terminal and no figure as a command."""
    objective = flow.Objective(
        lambda p: 0.5 * jnp.sum(p[HOSTILE] ** 2),
        {HOSTILE: np.ones(2)},
        conserved={HOSTILE: lambda p: p[HOSTILE].sum()},
    )
    observe = {HOSTILE: lambda o, p: p[HOSTILE][0]}
    quiet = {"save": 3, "observe": observe, "progress": False}
    path = flow.integrate(objective, 1.0, **quiet).named(f"flow {HOSTILE}")
    steps = flow.descend(objective, 0.5, 2, **quiet).named(f"{HOSTILE}{'long ' * 10_000}")
    compared = flow.compare(path, steps, progress=False)
    x = flow.circuits.variable(HOSTILE)
    circuit = flow.circuits.Circuit(x * x).evaluate({HOSTILE: 2.0})
    study = Study(path, (steps,), compared)
    for thing in (objective, path, steps, compared, study, flow.audit(path), x, x * x, circuit):
        for told in (repr(thing), str(thing)):
            assert told.replace("\n", "").isprintable()
    errors = pd.DataFrame({HOSTILE: [1.0, 2.0], "error": [1.0, 0.5], "method": [HOSTILE] * 2})
    flow.plots.loss(path, steps)
    flow.plots.observable(path, steps, name=HOSTILE)
    flow.plots.layer_norms(path)
    flow.plots.conserved(path)
    flow.plots.plane(path, steps)
    flow.plots.spectrum({HOSTILE: np.ones(3)})
    flow.plots.work_precision(errors, cost=HOSTILE)
    flow.plots.circuit(circuit)
    shown = 0
    for figure in map(plt.figure, plt.get_fignums()):
        figure.draw_without_rendering()
        for text in figure.findobj(Text):
            assert text.get_text().replace("\n", "").isprintable()
            shown += "x1b" in text.get_text()
    assert shown >= 9  # each of them, somewhere


def test_a_label_is_drawn_as_typed():
    """Assert that what is no formula is as wide as its letters, and that a formula is one."""
    ax = plt.figure().add_subplot()

    def wide(label: str, **as_text: bool) -> float:
        return ax.text(0, 0, label, **as_text).get_window_extent().width

    for label in ("$x^$", r"$\frac{$", f"${'{' * 5000}$", "5 $", r"$$ and $\no$"):
        assert wide(readable(label)) == wide(label, parse_math=False)
    for label in (r"$\eta^2$ = 0.1", r"\$5 and $x$"):
        assert readable(label) == label
        assert wide(readable(label)) < wide(label, parse_math=False)
    with rc_context({"text.usetex": True}):
        assert "\\input" not in readable(r"\input{x} $\input{x}$")


@pytest.mark.quick
def test_a_study_shows_what_is_observed(monkeypatch: pytest.MonkeyPatch):
    """Assert columns and panels of scalars and vectors, and the distance at 80 columns."""
    objective = flow.Objective(lambda x: 0.5 * jnp.sum(x**2), np.ones(6))
    observe = {
        "height": lambda o, x: x[0],
        "pair": lambda o, x: x[:2],
        "all": lambda o, x: x,
        "distance": lambda o, x: 3.0,
    }
    study = flow.study(objective, [0.5, 0.25], t=1.0, save=3, observe=observe, progress=False)
    table = study.table()
    end = study.runs[0].theta[-1]
    columns = ["height", "pair 1", "pair 2", "‖all‖", "observed distance"]
    expected = [end[0], end[0], end[1], np.linalg.norm(end), 3.0]
    np.testing.assert_array_equal(table.loc["GD, η = 0.5", columns].astype(float), expected)
    monkeypatch.setenv("COLUMNS", "80")
    with pd.option_context("display.max_columns", 0, "display.width", 80):
        assert " distance" in repr(table).splitlines()[0]
        assert " distance" in repr(study.comparison.table()).splitlines()[0]
    drawn = {ax.get_ylabel(): ax for ax in study.plot().axes}
    assert {"height", "pair", "‖all‖"} < set(drawn)
    norms = np.linalg.norm(study.flow.theta, axis=1)
    np.testing.assert_array_equal(drawn["‖all‖"].get_lines()[0].get_ydata(), norms)
    assert len(drawn["pair"].get_lines()) == 6


@pytest.mark.quick
def test_a_run_begins_where_another_ended():
    """Assert the bits of one run in two halves, by flow and descent; and that motion is at rest."""
    h = np.array([1.0, 3.0])
    objective = flow.Objective(lambda x: 0.25 * jnp.sum(h * x**4), np.ones(2))
    euler: dict[str, Any] = {"method": "Euler", "step": 0.125}
    whole = flow.integrate(objective, 2.0, **euler)
    half = flow.integrate(objective, 1.0, **euler)
    again = flow.integrate(objective.starting_at(half), 1.0, **euler)
    assert again.theta[-1].tobytes() == whole.theta[-1].tobytes()
    assert again.t[0] == 0.0
    steps = flow.descend(objective.starting_at(flow.descend(objective, 0.125, 8)), 0.125, 8)
    assert steps.theta[-1].tobytes() == whole.theta[-1].tobytes()
    ball = flow.integrate(flow.HeavyBall(objective, friction=0.5), 1.0)
    assert ball.state["velocity"][-1].any()
    moving = flow.HeavyBall(objective.starting_at(ball), friction=0.5)
    begun = flow.integrate(moving, 1.0)
    np.testing.assert_array_equal(begun.theta[0], ball.theta[-1])
    assert not begun.state["velocity"][0].any()
    kept = flow.integrate(objective, 1.0, keep="last")
    np.testing.assert_array_equal(objective.starting_at(kept).theta, kept.theta[-1])
    other = flow.Objective(lambda x: x @ x, np.ones(3))
    with pytest.raises(ValueError, match=r"theta must have shape \(3,\), got \(2,\)"):
        other.starting_at(half)
    several = flow.descend(objective, [0.1, 0.2], 4)
    with pytest.raises(ValueError, match=r"starting_at is of one run.*path\.member\(i\)"):
        objective.starting_at(several)
