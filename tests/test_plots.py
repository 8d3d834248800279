"""Figures: what is drawn, by axes, labels and legend entries rather than pixels."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import flow


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


def test_distance_shows_the_error_bar(comparison: flow.Comparison):
    """Assert the distances, and the flow's own error beside them."""
    ax = flow.plots.distance(comparison, ax=plt.figure().add_subplot())
    *gaps, bar = ax.get_lines()
    for line, pair in zip(gaps, comparison.pairs, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), pair.distance[1:])
    assert bar.get_label() == "the flow's own error"


def test_plane_holds_all_runs(comparison: flow.Comparison):
    """Assert that in two dimensions the plane is the whole: 100 % captured, distances kept."""
    runs = (comparison.reference, *(pair.run for pair in comparison.pairs))
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


def test_runs_of_one_parameter_and_of_ten(comparison: flow.Comparison):
    """Assert that one dimension, and more runs than colours, are drawn too."""
    objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(1))
    path = flow.integrate(objective, 1.0, save=3)
    runs = [flow.descend(objective, 1.0 / n, steps=n) for n in range(2, 12)]
    figure = flow.compare(path, *runs).plot()
    assert len(figure.axes[3].get_lines()) == 12
    assert comparison.pairs


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
