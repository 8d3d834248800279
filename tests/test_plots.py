"""Figures: what is drawn, by axes, labels and legend entries rather than pixels."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import flow
from flow.plots.plane import plane_of, principal_plane
from flow.plots.surface import evaluate

LONG = "an optimizer whose name goes on, and on, η = 0.123456789, β = 0.987654321, and yet on " * 2
OBSERVE = {"sharpness": flow.sharpness}


@pytest.fixture(scope="module")
def linear() -> flow.Objective:
    """A linear network, which conserves its balancedness."""
    X = np.random.default_rng(0).standard_normal((12, 3))
    network = flow.MLP([3, 4, 2], activation="identity", bias=False)
    return network.objective(X, X @ np.ones((3, 2)), seed=0)


@pytest.fixture(scope="module")
def many(linear: flow.Objective) -> list[flow.Trajectory]:
    """A flow and ten descents."""
    common = {"observe": OBSERVE, "progress": False}
    path = flow.integrate(linear, 1.0, save=7, **common)
    return [path, *(flow.descend(linear, 1.0 / n, n, **common) for n in range(20, 40, 2))]


def first_rows(run: flow.Trajectory, n: int) -> flow.Trajectory:
    """The first n rows of a run."""
    parts = {
        group: {name: a[:n] for name, a in getattr(run, group).items()}
        for group in ("state", "observed", "work")
    }
    rows = {name: getattr(run, name)[:n] for name in ("t", "theta", "loss", "gradient_norm")}
    return replace(run, **rows, **parts)


def with_nan(run: flow.Trajectory) -> flow.Trajectory:
    """A run whose last row is lost."""

    def lost(a: np.ndarray) -> np.ndarray:
        a = np.array(a, float)
        a[-1] = np.nan
        return a

    observed = {name: lost(a) for name, a in run.observed.items()}
    rows = {name: lost(getattr(run, name)) for name in ("theta", "loss", "gradient_norm")}
    return replace(run, **rows, observed=observed)


CASES: dict[str, Callable[[list[flow.Trajectory]], list[flow.Trajectory]]] = {
    "one run": lambda runs: runs[:1],
    "one discrete run": lambda runs: runs[1:2],
    "eleven runs": lambda runs: runs,
    "one point": lambda runs: [first_rows(run, 1) for run in runs[:2]],
    "NaN": lambda runs: [with_nan(run) for run in runs[:3]],
    "long labels": lambda runs: [run.named(f"{i} {LONG}") for i, run in enumerate(runs[:3])],
}
TIME = "flow time t = learning rate × steps"
# Of each figure of runs: how it is called, its abscissa and its ordinate.
OF_RUNS: dict[str, tuple[dict[str, Any], str, str]] = {
    "loss": ({}, TIME, "loss J"),
    "gradient_norm": ({}, TIME, "gradient norm ‖∇J‖"),
    "sharpness": ({}, TIME, r"sharpness $\lambda_{\max}$"),
    "observable": ({"name": "sharpness"}, TIME, "sharpness"),
    "step_size": ({}, TIME, "step, units of t"),
    "stages": ({}, TIME, "gradients a step"),
    "layer_norms": ({}, TIME, "norm ‖W‖ of a layer"),
    "weights": ({}, TIME, "weight"),
    "conserved": ({}, TIME, "drift ‖Q(θ) − Q(θ₀)‖"),
    "plane": ({}, "PC 1 (", "PC 2 ("),
    "surface": ({"resolution": 9}, "PC 1 (", "PC 2 ("),
}
# And those of other things, which have tests of their own below.
OTHERS = "animate circuit comparison distance order shared_legend spectral_density spectrum study"


@pytest.mark.quick
def test_every_figure_is_in_the_tables():
    """Assert that no plot function is without a test."""
    functions = {n for n in flow.plots.__all__ if inspect.isfunction(getattr(flow.plots, n))}
    assert functions == {*OF_RUNS, *OTHERS.split(), "work_precision"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", OF_RUNS)
def test_every_figure_of_runs(
    many: list[flow.Trajectory], linear: flow.Objective, name: str, case: str
):
    """Assert labelled axes, an entry a run in the legend, each in lines that fit, all rendered."""
    options, xlabel, ylabel = OF_RUNS[name]
    if name in ("conserved", "surface"):
        options = options | {"objective": linear}
    runs = CASES[case](many)
    figure = plt.figure(figsize=(6, 4), layout="constrained")
    ax = getattr(flow.plots, name)(*runs, ax=figure.add_subplot(), **options)
    figure.canvas.draw()
    assert ax.get_xlabel().startswith(xlabel)
    assert ax.get_ylabel().startswith(ylabel)
    entries = ax.get_legend_handles_labels()[1]
    assert all(len(line) <= 44 for entry in entries for line in entry.split("\n"))
    labels = [" ".join(entry.split()) for entry in entries]
    expected = [" ".join(run.label.split()) for run in runs]
    if name in ("layer_norms", "weights", "conserved"):
        expected = expected if len(runs) > 1 else []  # beside what is drawn of them
        labels = labels[len(labels) - len(expected) :]
    assert labels == expected
    assert all(np.all(np.isfinite(limits)) for limits in (ax.get_xlim(), ax.get_ylim()))


@pytest.fixture(scope="module")
def comparison() -> flow.Comparison:
    """Two descents beside a flow."""
    objective = flow.exact.quadratic(np.diag([1.0, 5.0]), np.array([1.0, 2.0])).objective
    path = flow.integrate(objective, 2.0)
    return flow.compare(
        path, *(flow.descend(objective, eta, steps=round(2 / eta)) for eta in (0.2, 0.02))
    )


@pytest.fixture(autouse=True)
def _close() -> None:
    yield
    plt.close("all")


@pytest.mark.quick
def test_flow_is_a_line_and_descents_are_points(comparison: flow.Comparison):
    """Assert what stands for what, in loss and gradient norm, with the values of the runs."""
    runs = (comparison.reference, *(pair.run for pair in comparison.pairs))
    for draw, quantity in ((flow.plots.loss, "loss"), (flow.plots.gradient_norm, "gradient_norm")):
        ax = draw(*runs, ax=plt.figure().add_subplot())
        lines = ax.get_lines()
        assert [line.get_linestyle() for line in lines] == ["-", "None", "None"]
        assert [line.get_marker() for line in lines] == ["None", "o", "s"]
        for line, run in zip(lines, runs, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), run.t)
            np.testing.assert_array_equal(line.get_ydata(), getattr(run, quantity))
        assert ax.get_xlabel() == "flow time t = learning rate × steps"
        assert ax.get_yscale() == "log"


@pytest.mark.quick
def test_distance_shows_the_error_bar(comparison: flow.Comparison):
    """Assert the distances, and the flow's own error beside them."""
    ax = flow.plots.distance(comparison, ax=plt.figure().add_subplot())
    *gaps, bar = ax.get_lines()
    for line, pair in zip(gaps, comparison.pairs, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), pair.distance[1:])
    assert bar.get_label() == "the flow's own error"


@pytest.mark.quick
def test_plane_holds_all_runs(comparison: flow.Comparison):
    """Assert that runs in a plane are all in it: 100 % captured, distances kept."""
    # Of the third parameter J knows nothing, and the plane is turned.
    H = np.diag([1.0, 5.0, 0.0])
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    objective = flow.exact.quadratic(turn @ H @ turn.T, np.array([1.0, 2.0, 3.0])).objective
    runs = [flow.integrate(objective, 2.0), flow.descend(objective, 0.2, 10)]
    ax = flow.plots.plane(*runs, ax=plt.figure().add_subplot())
    for line, run in zip(ax.get_lines(), runs, strict=False):
        length = np.hypot(line.get_xdata(), line.get_ydata())
        np.testing.assert_allclose(
            length, np.linalg.norm(run.theta - run.theta[0], axis=1), atol=1e-12
        )
    shares = [
        float(label.split("(")[1].split(" ")[0]) for label in (ax.get_xlabel(), ax.get_ylabel())
    ]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares[0] > shares[1]
    # Two parameters are the plane themselves.
    ax = flow.plots.plane(comparison.reference, ax=plt.figure().add_subplot())
    line, start = ax.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), comparison.reference.theta)
    assert list(start.get_xydata()[0]) == [1.0, 2.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("θ[0]", "θ[1]")


@pytest.mark.quick
def test_one_figure_of_four(comparison: flow.Comparison):
    """Assert four labelled axes, and one legend with each run once, outside of the data."""
    figure = comparison.plot()
    assert len(figure.axes) == 4
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["gradient flow", "GD, η = 0.2", "GD, η = 0.02", "the flow's own error"]
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_runs_of_one_parameter_and_of_ten():
    """Assert that one dimension, and more runs than colours, are drawn too."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(1))
    path = flow.integrate(objective, 1.0, save=3)
    runs = [flow.descend(objective, 1.0 / n, steps=n) for n in range(2, 12)]
    figure = flow.compare(path, *runs).plot()
    assert len(figure.axes[3].get_lines()) == 12


def test_order_study_names_its_slope():
    """Assert the fitted line through the distances."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(1))
    study = flow.order_study(objective, 1.0, [0.1, 0.05, 0.025])
    ax = study.plot(plt.figure().add_subplot())
    fit, points = ax.get_lines()
    np.testing.assert_array_equal(points.get_ydata(), study.distance)
    np.testing.assert_allclose(fit.get_ydata(), study.distance, rtol=0.02)
    assert fit.get_label() == f"slope {study.slope:.2f}"
    assert ax.get_xlabel() == "learning rate η"


def test_sharpness_against_limits():
    """Assert what was observed, limits in the colour of their run, and how to record it."""
    objective = flow.networks.chebyshev()
    observe = {"sharpness": flow.sharpness, "two": flow.observe.top_eigenvalues(2)}
    path = flow.integrate(objective, 5.0, save=6, observe=observe, progress=False)
    steps = flow.descend(objective, 0.5, 10, save=6, observe=observe, progress=False)
    ax = flow.plots.sharpness(path, steps, limits=[None, 4.0], ax=plt.figure().add_subplot())
    line, points, limit = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), path.observed["sharpness"])
    np.testing.assert_array_equal(points.get_ydata(), steps.observed["sharpness"])
    assert limit.get_color() == points.get_color() != line.get_color()
    assert list(limit.get_ydata()) == [4.0, 4.0]
    ax = flow.plots.sharpness(path, name="two", ax=plt.figure().add_subplot())
    assert len(ax.get_lines()) == 2
    assert len(ax.get_legend_handles_labels()[1]) == 1
    with pytest.raises(ValueError, match=r"has not recorded 'top'; run it with observe="):
        flow.plots.sharpness(path, name="top")
    with pytest.raises(ValueError, match="2 limits for 1 runs"):
        flow.plots.sharpness(path, limits=[1.0, 2.0])


@pytest.mark.parametrize("spectrum", [[1.0, 1.0, 30.0], [2.0, 2.0], [0.0]])
def test_spectral_density(spectrum: list[float]):
    """Assert the density on the axes, of one eigenvalue too."""
    H = np.array(spectrum)
    objective = flow.Objective(lambda x: 0.5 * (H * x) @ x, np.ones(len(H)))
    density = flow.spectral_density(objective, objective.params)
    ax = flow.plots.spectral_density(density, ax=plt.figure().add_subplot())
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_ydata(), density.density(line.get_xdata()))
    assert ax.get_xlim()[0] < H.min()
    assert ax.get_xlim()[1] > H.max()
    bottom, top = ax.get_ylim()
    assert 0 < bottom < density.density(H).min()
    assert np.isfinite(top)


@pytest.fixture(scope="module")
def strangers() -> tuple[flow.Trajectory, flow.Trajectory]:
    """A run and an ensemble of another problem."""
    small = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    two = {"engine": "jax", "ensemble": np.ones((2, 2))}
    runs = [flow.integrate(small, 1.0, save=3, progress=False, **how) for how in ({}, two)]
    return runs[0], runs[1]


@pytest.mark.parametrize("name", OF_RUNS)
def test_runs_that_have_nothing_in_common(
    many: list[flow.Trajectory], strangers: tuple[flow.Trajectory, flow.Trajectory], name: str
):
    """Assert a sentence for no run, for an ensemble and, in one space, for another problem."""
    draw, options = getattr(flow.plots, name), OF_RUNS[name][0]
    with pytest.raises(ValueError, match=f"flow.plots.{name} needs at least one run"):
        draw(**options)
    other, ensemble = strangers
    if name in ("weights", "plane", "surface"):
        with pytest.raises(ValueError, match="of one problem, but .* has 20 parameters and .* 2"):
            draw(many[0], other, **options)
    with pytest.raises(ValueError, match=r"this is an ensemble of 2; take one by path\.member"):
        draw(ensemble, **options)


@pytest.mark.quick
def test_without_axes_a_figure_is_whole(comparison: flow.Comparison):
    """Assert a legend where a function draws on its own, and none on axes that were given."""
    alone = flow.plots.loss(comparison.reference)
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["gradient flow"]
    given = flow.plots.loss(comparison.reference, ax=plt.figure().add_subplot())
    assert given.get_legend() is None


@pytest.mark.quick
def test_figures_of_one_script_are_figures_of_their_own(comparison: flow.Comparison):
    """Assert a new figure for each call but where the current one is still empty."""
    path, figure = comparison.reference, plt.figure(figsize=(3, 2))
    drawn = [flow.plots.loss(path), flow.plots.gradient_norm(path), flow.plots.plane(path)]
    assert drawn[0].figure is figure
    assert len({id(ax.figure) for ax in drawn}) == 3
    assert [len(ax.get_lines()) for ax in drawn] == [1, 1, 2]
    left, right = plt.figure().subplots(1, 2)
    assert flow.plots.loss(path) is right  # the current one
    assert not left.has_data()


def looks(ax: Any) -> list[tuple[str, str, str]]:
    """Colour, marker and dashes of every line that is in the legend."""
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    return [
        (mpl.colors.to_hex(line.get_color()), line.get_marker(), line.get_linestyle())
        for line in lines
    ]


@pytest.mark.quick
@pytest.mark.parametrize("colours", [None, ["red", "blue"]])
def test_no_two_of_twelve_look_alike(many: list[flow.Trajectory], colours: list[str] | None):
    """Assert another look for each of twelve descents, flows and curves; of two colours too."""
    descents = [many[1 + i % 10].named(f"descent {i}") for i in range(12)]
    flows = [many[0].named(f"flow {i}") for i in range(7 if colours else 12)]
    spectra = {f"spectrum {i}": [1.0] for i in range(12)}
    table = pd.DataFrame([{"method": str(i), "cost": 1, "error": 1} for i in range(12)])
    with mpl.rc_context({"axes.prop_cycle": mpl.cycler(color=colours)} if colours else {}):
        found = [
            looks(flow.plots.loss(many[0], *descents)),
            looks(flow.plots.plane(*flows)),
            looks(flow.plots.spectrum(spectra)),
            looks(flow.plots.work_precision(table)),
        ]
        if not colours:
            found.append(looks(flow.plots.weights(many[0], entries=range(12))))
    assert [len(each) for each in found] == [13, len(flows), *[12] * (len(found) - 2)]
    assert [len(set(each)) for each in found] == [len(each) for each in found]


def contrast(one: Any, other: Any) -> float:
    """Ratio of the luminances of two colours, 1 to 21 (WCAG 2.1)."""
    shades = np.array([mpl.colors.to_rgb(one), mpl.colors.to_rgb(other)])
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    dark, light = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.quick
@pytest.mark.parametrize("style", ["default", "dark_background", "dark axes"])
def test_what_is_drawn_is_seen(
    comparison: flow.Comparison, many: list[flow.Trajectory], style: str
):
    """Assert lines, letters and boxes that stand out from what is behind them, dark or not."""
    dark = {"axes.facecolor": "#101010", "figure.facecolor": "black"}
    with plt.style.context([dark] if style == "dark axes" else style):
        drawn = [
            flow.plots.loss(*many, ax=plt.figure().add_subplot()),
            flow.plots.distance(comparison, ax=plt.figure().add_subplot()),
            flow.plots.plane(*many[:2], ax=plt.figure().add_subplot()),
            flow.plots.weights(*many[:2], ax=plt.figure().add_subplot()),
            flow.plots.spectrum({"a": [1.0, -2.0]}, ax=plt.figure().add_subplot()),
            flow.plots.circuit(flow.circuits.product_of_sum().evaluate({"a": 3, "b": 1, "c": 4})),
        ]
    for ax in drawn:
        behind = ax.get_facecolor()
        for line in ax.get_lines():
            assert contrast(line.get_color(), behind) > 1.9
        for text in ax.texts:
            box = text.get_bbox_patch()
            on = behind if box is None else box.get_facecolor()
            assert contrast(text.get_color(), on) > 7
            assert contrast(on, behind) == pytest.approx(1.0)
    hollow = drawn[4].get_lines()[1]
    assert contrast(hollow.get_markerfacecolor(), drawn[4].get_facecolor()) == pytest.approx(1.0)


def letters(figure: Any) -> list[tuple[str, Any]]:
    """Every text that is seen in a figure, and its box."""
    figure.canvas.draw()
    unseen = {axis.offsetText for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)}
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            away = [t for t in ticks if not (ax.axison and low <= t.get_loc() <= high)]
            unseen |= {label for tick in away for label in (tick.label1, tick.label2)}
            unseen |= set() if ax.axison else {axis.label}
    found = [text for text in figure.findobj(mpl.text.Text) if text not in unseen]
    return [
        (t.get_text(), t.get_window_extent())
        for t in found
        if t.get_visible() and str(t.get_text()).strip()
    ]


WHOLE: dict[str, Callable[..., Any]] = {
    "loss": lambda runs, _: flow.plots.loss(*runs),
    "drift": lambda runs, _: flow.plots.conserved(*runs[1:4], objective=runs[0].dynamics.objective),
    "weights": lambda runs, _: flow.plots.weights(*runs[:3]),
    "surface": lambda runs, _: flow.plots.surface(*runs[:4], resolution=9),
    "spectrum": lambda *_: flow.plots.spectrum({"at θ₀": [4.0, 1.0, -2.0], "at the end": [3.0]}),
    "distance": lambda _, comparison: flow.plots.distance(comparison),
    "four": lambda _, comparison: comparison.plot(),
    "circuit": lambda *_: flow.plots.circuit(
        flow.circuits.two_two_two().evaluate({f"w{i}": 0.1 * i for i in range(1, 9)})
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("settings", [{"font.size": 16}, {"figure.figsize": (3.3, 2.6)}])
def test_no_letters_are_cut_or_overlap(
    many: list[flow.Trajectory], comparison: flow.Comparison, name: str, settings: dict
):
    """Assert each text within the figure and clear of the others, in large letters and a column."""
    with mpl.rc_context(settings):
        runs = many[:9] if "font.size" in settings else many[:4]
        drawn = WHOLE[name](runs, comparison)
        found = letters(getattr(drawn, "figure", drawn))
    whole = getattr(drawn, "figure", drawn).bbox
    for text, box in found:
        assert min(box.x0, box.y0, whole.x1 - box.x1, whole.y1 - box.y1) > -1, text
    for (one, a), (other, b) in combinations(found, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide < 1 or high < 1, (one, other)


def test_three_panels_in_large_letters(many: list[flow.Trajectory], comparison: flow.Comparison):
    """Assert axes of a user's figure whose labels are broken into lines, clear of each other."""
    with mpl.rc_context({"font.size": 16}):
        figure = plt.figure(figsize=(10, 3.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        flow.plots.loss(*many[:3], ax=left)
        flow.plots.distance(comparison, ax=middle)
        flow.plots.plane(*many[:3], ax=right)
        found = [box for _, box in letters(figure)]
    assert left.get_xlabel() != TIME
    assert left.get_xlabel().split() == TIME.split()
    assert not any(a.overlaps(b) for a, b in combinations(found, 2))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.21, 0.27, ["0.21", "0.22", "0.23", "0.24", "0.25", "0.26", "0.27"]),
        (0.02, 0.6, ["0.02", "0.05", "0.1", "0.2", "0.5"]),
    ],
)
def test_logarithms_have_a_few_plain_labels(low: float, high: float, labels: list[str]):
    """Assert what is written at an axis of less than two decades, and nothing between."""
    table = pd.DataFrame({"method": ["a", "a"], "cost": [low, high], "error": [1.0, 1e3]})
    ax = flow.plots.work_precision(table)
    ax.set_xlim(low, high)
    ax.figure.canvas.draw()
    ticks = [t for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high * (1 + 1e-9)]
    assert [t.label1.get_text() for t in ticks] == labels
    assert not any(t.label1.get_text() for t in ax.xaxis.get_minor_ticks())


def test_a_users_settings_win(comparison: flow.Comparison):
    """Assert that colours, widths and the grid of a user's style are taken over flow's."""
    runs = (comparison.reference, *(pair.run for pair in comparison.pairs))
    cycle = mpl.cycler(color=["#111111", "#222222"])
    with mpl.rc_context({"axes.prop_cycle": cycle, "lines.linewidth": 7.0, "grid.alpha": 0.9}):
        ax = flow.plots.loss(*runs, ax=plt.figure().add_subplot())
    line, one, two = ax.get_lines()
    assert (line.get_linewidth(), one.get_color(), two.get_color()) == (7.0, "#111111", "#222222")
    assert ax.get_xgridlines()[0].get_alpha() == 0.9
    ax = flow.plots.loss(*runs, ax=plt.figure().add_subplot())
    assert ax.get_lines()[1].get_color() == flow.plots.COLOURS[0]


def test_steps_and_stages_are_those_that_were_taken(linear: flow.Objective):
    """Assert the step of RK4 and its four gradients, and that an adaptive run's steps add up."""
    path = flow.integrate(linear, 2.0, method="RK4", step=0.05, save=5)
    for draw, expected in ((flow.plots.step_size, 0.05), (flow.plots.stages, 4.0)):
        (line,) = draw(path, ax=plt.figure().add_subplot()).get_lines()
        # The first save has the gradient at θ₀ too.
        np.testing.assert_allclose(line.get_ydata()[1:], expected, rtol=1e-12)
    for engine, method in (("scipy", "DOP853"), ("jax", "TSRKC3"), ("jax", "Dopri8")):
        path = flow.integrate(linear, 2.0, method=method, engine=engine, save=40)
        assert np.all(np.diff(path.work["t"]) >= 0)
        assert np.all(path.work["t"] >= path.t)
        assert path.work["t"][-1] == 2.0
        assert path.work["steps"][-1] == path.stats["steps"]
        counted = path.stats["gradients"] - path.stats["save_gradients"]
        assert path.work["gradients"][-1] == counted
    with pytest.raises(ValueError, match="did not record its steps"):
        flow.plots.stages(replace(path, work={}))


def test_layers_and_weights(many: list[flow.Trajectory]):
    """Assert norms of the leaves, and the entries of θ that move most under their names."""
    path = many[0]
    lines = flow.plots.layer_norms(path, ax=plt.figure().add_subplot()).get_lines()
    for line, layer in zip(lines, range(2), strict=True):
        norms = [np.linalg.norm(path.params(i)[layer]["W"]) for i in range(len(path.t))]
        np.testing.assert_allclose(line.get_ydata(), norms, rtol=1e-14)
    lines = flow.plots.weights(path, entries=[7, 12], ax=plt.figure().add_subplot()).get_lines()
    # 4 × 3 weights of the first layer come first, row by row.
    assert [line.get_label() for line in lines] == ["[0]['W'][2, 1]", "[1]['W'][0, 0]"]
    np.testing.assert_array_equal(lines[1].get_ydata(), path.theta[:, 12])
    (most, *_) = flow.plots.weights(path, ax=plt.figure().add_subplot()).get_lines()
    moved = np.abs(path.theta - path.theta[0]).max()
    assert np.abs(most.get_ydata() - most.get_ydata()[0]).max() == moved
    with pytest.raises(ValueError, match="entries must be whole numbers in 0 to 19"):
        flow.plots.weights(path, entries=[20])


def test_drift_of_what_is_conserved(linear: flow.Objective, many: list[flow.Trajectory]):
    """Assert the drift of W₂ᵀW₂ − W₁W₁ᵀ, computed here, of a descent."""
    descent = many[1]

    def balance(params: Any) -> np.ndarray:
        one, two = (layer["W"] for layer in params)
        return two.T @ two - one @ one.T

    start = balance(descent.params(0))
    drift = [np.linalg.norm(balance(descent.params(i)) - start) for i in range(len(descent.t))]
    ax = flow.plots.conserved(descent, objective=linear, ax=plt.figure().add_subplot())
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata()[1:], drift[1:], rtol=1e-9)
    with pytest.raises(ValueError, match="carry no objective; pass objective="):
        flow.plots.conserved(descent)
    free = flow.Objective(lambda x: x @ x, np.ones(2))
    with pytest.raises(ValueError, match="declares no conserved quantity"):
        flow.plots.conserved(flow.integrate(free, 1.0))


def heights(ax: Any) -> tuple[np.ndarray, np.ndarray]:
    """Levels of a surface's contours, and limits of its colours."""
    filled = next(c for c in ax.collections if isinstance(c, mpl.contour.ContourSet))
    return np.asarray(filled.levels), np.array([filled.norm.vmin, filled.norm.vmax])


@pytest.mark.quick
def test_surface_is_the_loss_in_the_plane():
    """Assert J at points of the plane against J evaluated one by one, and the band's residual."""
    H = np.array([1.0, 4.0, 30.0])
    objective = flow.Objective(lambda x: 0.5 * jnp.sum(H * x**2), np.ones(3))
    path = flow.integrate(objective, 3.0, save=60)
    plane = plane_of([path], None, filter_normalised=False)
    x, y = np.linspace(-1.0, 0.5, 4), np.linspace(-0.2, 0.3, 3)
    found = evaluate(objective, plane, x, y)
    for i, j in np.ndindex(3, 4):
        point = path.theta[0] + x[j] * plane.directions[0] + y[i] * plane.directions[1]
        assert found[i, j] == pytest.approx(0.5 * np.sum(H * point**2), rel=1e-12)
    figure = plt.figure(layout="constrained")
    ax = flow.plots.surface(path, resolution=15, ax=figure.add_subplot())
    (band,) = [a for a in figure.axes if a.get_ylabel().split() == ["off", "plane"]]
    moved = path.theta - path.theta[0]
    normal = np.cross(*plane.directions)
    drawn = band.get_lines()[0].get_ydata()
    np.testing.assert_allclose(drawn, np.abs(moved @ normal), atol=1e-11)
    shares = [
        float(label.split("(")[1].split(" ")[0]) for label in (ax.get_xlabel(), ax.get_ylabel())
    ]
    kept = np.sum((moved @ plane.directions.T) ** 2) / np.sum(moved**2)
    assert sum(shares) / 100 == pytest.approx(kept, abs=2e-3)


def test_paths_are_coloured_by_their_own_loss():
    """Assert true J on the path, on the colours of the surface, over six decades and more."""
    H = np.array([1.0, 25.0])
    objective = flow.Objective(lambda x: 0.5 * jnp.sum(H * x**2), 1e3 * np.ones(2))
    path = flow.integrate(objective, 6.5, save=50)
    descent = flow.descend(objective, 0.02, 325, save=10)
    assert path.loss[0] / path.loss[-1] > 1e6
    ax = flow.plots.surface(path, descent, resolution=21, ax=plt.figure().add_subplot())
    levels, limits = heights(ax)
    assert np.all(np.diff(np.log10(levels)) < 0.5)  # three a decade
    assert 12 <= len(levels) <= 27
    assert limits[0] <= path.loss[-1]
    (line,) = [c for c in ax.collections if isinstance(c, mpl.collections.LineCollection)]
    np.testing.assert_allclose(line.get_array(), (path.loss[1:] + path.loss[:-1]) / 2)
    (dots,) = [c for c in ax.collections if isinstance(c, mpl.collections.PathCollection)]
    np.testing.assert_allclose(dots.get_array(), descent.loss)


def test_runs_are_told_apart(many: list[flow.Trajectory], linear: flow.Objective):
    """Assert that no two runs look alike, also where the first is discrete."""
    one, two = many[1:3]
    ax = flow.plots.surface(one, two, objective=linear, resolution=5, ax=plt.figure().add_subplot())
    dots = [c for c in ax.collections if isinstance(c, mpl.collections.PathCollection)]
    assert len({tuple(d.get_edgecolor()[0]) for d in dots}) == 2
    for pair in ((one, two), (many[0], many[0].named("another"))):
        lines = flow.plots.weights(*pair, entries=[0], ax=plt.figure().add_subplot()).get_lines()
        assert len({(line.get_marker(), line.get_linestyle()) for line in lines[:2]}) == 2


def test_a_star_where_the_runs_began(linear: flow.Objective, many: list[flow.Trajectory]):
    """Assert θ₀ of a run that saved it, and no star where none did."""
    late = flow.integrate(linear, 1.0, save=[0.5, 1.0], progress=False)
    ax = flow.plots.plane(late, many[0], ax=plt.figure().add_subplot())
    drawn = ax.get_lines()[0].get_xydata()
    away = np.linalg.norm(late.theta[0] - many[0].theta[0])
    assert 0.9 * away < np.linalg.norm(drawn[0]) <= away * (1 + 1e-12)
    alone = flow.plots.plane(late, ax=plt.figure().add_subplot())
    assert len(alone.get_lines()) == 1


def test_a_plane_of_given_directions(many: list[flow.Trajectory], linear: flow.Objective):
    """Assert coordinates along two directions, filter-normalised too, and what is refused."""
    path, rng = many[0], np.random.default_rng(1)
    directions = rng.standard_normal((2, 20))
    plane = plane_of([path], directions, filter_normalised=False)
    point = path.theta[:1] + 0.3 * directions[:1] - 0.2 * directions[1:]
    np.testing.assert_allclose(plane.coordinates(point), [[0.3, -0.2]], rtol=1e-12)
    assert plane.residual(point) == pytest.approx(0.0, abs=1e-12)
    plane = plane_of([path], directions, filter_normalised=True)
    own, theirs = (
        np.linalg.norm(x[:12].reshape(4, 3), axis=1) for x in (plane.directions[0], path.theta[0])
    )
    np.testing.assert_allclose(own, theirs, rtol=1e-12)  # a filter is a row of W
    trees = [linear.unflatten(d) for d in directions]
    ax = flow.plots.surface(path, directions=trees, resolution=5, ax=plt.figure().add_subplot())
    assert ax.get_xlabel().startswith("direction 1 (")
    for wrong, message in (
        (directions[:1], "directions must be two, got 1"),
        ([directions[0]] * 2, "directions span no plane"),
        (directions[:, :5], "a direction must have 20 finite entries"),
        (np.full((2, 20), np.nan), "of which 20 are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            flow.plots.surface(path, directions=wrong)
    with pytest.raises(ValueError, match="filter_normalised=True is for given directions"):
        flow.plots.surface(path, filter_normalised=True)
    with pytest.raises(ValueError, match="objective has 2 parameters, but the runs 20"):
        flow.plots.surface(path, objective=flow.Objective(lambda x: x @ x, np.ones(2)))


def test_spectrum_by_rank():
    """Assert eigenvalues in order, negative ones hollow at their size."""
    ax = flow.plots.spectrum({"one": [1.0, -2.0, 5.0], "none": []}, ax=plt.figure().add_subplot())
    line, hollow, *_ = ax.get_lines()
    assert list(line.get_ydata()) == [5.0, 1.0, 2.0]
    assert list(line.get_xdata()) == [1, 2, 3]
    assert (list(hollow.get_xdata()), list(hollow.get_ydata())) == ([3], [2.0])
    assert ax.get_legend_handles_labels()[1] == ["one", "none"]
    assert (
        flow.plots.spectrum({"zero": [0.0]}, ax=plt.figure().add_subplot()).get_yscale() == "linear"
    )


def test_work_precision_of_a_table():
    """Assert a curve a method in the table's order, without those that have no number."""
    rows = [("b", 10, 1e-2), ("b", 20, 1e-4), ("a", 30, 1e-1), ("c", np.nan, np.nan)]
    table = pd.DataFrame(rows, columns=["method", "cost", "error"]).set_index("method")
    ax = flow.plots.work_precision(table, ax=plt.figure().add_subplot())
    assert ax.get_legend_handles_labels()[1] == ["b", "a"]
    assert list(ax.get_lines()[0].get_ydata()) == [1e-2, 1e-4]
    with pytest.raises(ValueError, match="no column 'seconds'; it has"):
        flow.plots.work_precision(table, cost="seconds")


@pytest.mark.quick
def test_an_animation_grows_with_t(comparison: flow.Comparison, tmp_path: Any):
    """Assert frames in which runs grow, the last the whole figure, which is left as it was."""
    runs = (comparison.reference, *(pair.run for pair in comparison.pairs))
    figure = plt.figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    flow.plots.plane(*runs, ax=left)
    flow.plots.surface(*runs, resolution=9, ax=right)
    before = [line.get_xydata().copy() for line in left.get_lines()]
    file = flow.plots.animate(figure, tmp_path / "a.gif", frames=6, progress=False)
    for line, data in zip(left.get_lines(), before, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), data)
    with Image.open(file) as gif:
        assert gif.n_frames == 6
        frames = []
        for k in range(6):
            gif.seek(k)
            frames.append(np.asarray(gif.convert("L"), int))
    missing = [int((np.abs(frame - frames[-1]) > 40).sum()) for frame in frames]
    assert missing[0] > missing[2] > missing[4] > 0
    with pytest.raises(FileExistsError):
        flow.plots.animate(figure, file)
    with pytest.raises(ValueError, match="nothing in this figure moves along t"):
        flow.plots.animate(plt.figure(), tmp_path / "b.gif")
    with pytest.raises(ValueError, match="must end in .gif"):
        flow.plots.animate(figure, tmp_path / "b.mp4")
    assert {p.name for p in tmp_path.iterdir()} == {"a.gif"}


def test_circuits_are_among_the_figures():
    """Assert that a circuit is drawn on the axes."""
    x, y = (flow.circuits.variable(name) for name in "xy")
    circuit = flow.circuits.Circuit(x * y + x)
    ax = plt.figure().add_subplot()
    assert flow.plots.circuit(circuit.evaluate({"x": 2.0, "y": 3.0}), ax=ax) is ax


def test_two_components_of_a_large_matrix(monkeypatch: pytest.MonkeyPatch):
    """Assert that products with vectors find the plane that all components together have."""
    rng = np.random.default_rng(0)
    theta = np.cumsum(rng.standard_normal((40, 30)), axis=0)
    runs = [SimpleNamespace(t=np.arange(20.0), theta=part) for part in np.split(theta, 2)]
    whole = principal_plane(runs)
    monkeypatch.setattr(sys.modules["flow.plots.plane"], "WHOLE", 8)
    found = principal_plane(runs)
    np.testing.assert_allclose(found.directions, whole.directions, rtol=0, atol=1e-12)
    assert found.names == whole.names
