"""Figures: each function takes and returns matplotlib axes. Flows are lines, discrete runs points.

Colours are Okabe and Ito's, told apart by colour-blind readers; the reference is black. t is in
units of learning rate × steps.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flow.trajectory import Trajectory, check_single

if TYPE_CHECKING:
    from flow.comparison import Comparison
    from flow.order import OrderStudy
    from flow.spectrum import SpectralDensity

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
TIME_LABEL = "flow time t = learning rate × steps"
# So many points of a discrete run are drawn, or they would merge into a band.
POINTS = 40


def loss(*runs: Trajectory, ax: Any = None) -> Any:
    """J against t."""
    return _against_time(runs, "loss", "loss J", ax)


def gradient_norm(*runs: Trajectory, ax: Any = None) -> Any:
    """‖∇J‖ against t."""
    return _against_time(runs, "gradient_norm", "gradient norm ‖∇J‖", ax)


def sharpness(
    *runs: Trajectory,
    limits: Sequence[float | None] = (),
    name: str = "sharpness",
    ax: Any = None,
) -> Any:
    """The observed sharpness against t, and limits of stability dotted.

    Parameters
    ----------
    runs
        With an observable `name`, (times,) or (times, k).
    limits
        Of each run in turn, 2/η of gradient descent; None for one that has none, a flow.
    name
        What `observe=` called it.

    Raises
    ------
    ValueError
        A run has not recorded it; or there are more limits than runs.
    """
    check_single("flow.plots.sharpness", *runs)
    if len(limits) > len(runs):
        raise ValueError(f"{len(limits)} limits for {len(runs)} runs; give each its own, or None")
    ax = _axes(ax)
    for i, run in enumerate(runs):
        if name not in run.observed:
            raise ValueError(
                f"{run.label!r} has not recorded {name!r}; run it with "
                f'observe={{"{name}": flow.sharpness}}'
            )
        values = run.observed[name].reshape(len(run.t), -1)
        style = _style(i - 1, run) | _marks(i - 1, run, len(run.t))
        for k in range(values.shape[1]):
            ax.plot(run.t, values[:, k], **style | ({"label": None} if k else {}))
    for i, limit in enumerate(limits):
        if limit is not None:
            ax.axhline(limit, color=_style(i - 1, runs[i])["color"], linestyle=":", zorder=1)
    ax.set(xlabel=TIME_LABEL, ylabel=r"sharpness $\lambda_{\max}$")
    return ax


def spectral_density(density: "SpectralDensity", width: float | None = None, ax: Any = None) -> Any:
    """The density of the Hessian's eigenvalues; `width` as in `SpectralDensity.density`."""
    ax = _axes(ax)
    low, high = density.nodes[0], density.nodes[-1]
    # To the foot of the outermost: five of their widths.
    margin = max(0.05 * (high - low) or 0.05 * abs(high) or 1.0, 5.0 * (width or 0.0))
    grid = np.linspace(low - margin, high + margin, 2000)
    values = density.density(grid, width)
    ax.semilogy(grid, values, color=COLOURS[0])
    # A normal distribution falls without end; a hundredth of the least node's peak is its foot.
    alive = density.weights > 1e-12  # noqa: PLR2004
    foot = density.density(density.nodes[alive], width).min() / 100.0
    ax.set(xlabel=r"eigenvalue of $\nabla^2 J$", ylabel="density", ylim=(foot, 2.0 * values.max()))
    return ax


def distance(comparison: "Comparison", ax: Any = None) -> Any:
    """‖θ_run − θ_ref‖ against t, with the reference's own error where it is known."""
    ax = _axes(ax)
    for i, pair in enumerate(comparison.pairs):
        marks = _marks(i, pair.run, len(pair.t) - 1)
        ax.plot(pair.t[1:], pair.distance[1:], **_style(i, pair.run), **marks)
    bars = np.array([pair.error_bar[-1] for pair in comparison.pairs])
    if np.any(np.isfinite(bars)):
        longest = max(comparison.pairs, key=lambda pair: len(pair.t))
        ax.plot(
            longest.t[1:],
            longest.error_bar[1:],
            color="0.5",
            linewidth=1,
            linestyle="--",
            label="the flow's own error",
        )
    ax.set_yscale("log")
    ax.set(xlabel=TIME_LABEL, ylabel="distance ‖θ − θ_flow‖")
    return ax


def plane(*runs: Trajectory, ax: Any = None) -> Any:
    """The runs in the plane of the first two principal components of all their points.

    Each run is given the same weight. The axes carry the share of the variance they capture.
    """
    check_single("flow.plots.plane", *runs)
    ax = _axes(ax)
    start = runs[0].theta[0]
    weighted = [(run.theta - start) / np.sqrt(len(run.theta)) for run in runs]
    # Principal directions about θ₀, the one point that all runs share.
    _, singular, directions = np.linalg.svd(np.concatenate(weighted), full_matrices=False)
    directions = directions[:2]
    # A principal direction has no sign: the reference is to run to the right and up.
    end = (runs[0].theta[-1] - start) @ directions.T
    directions = directions * np.where(end < 0, -1.0, 1.0)[:, None]
    captured = (singular**2 / max(np.sum(singular**2), np.finfo(float).tiny))[:2] * 100
    for i, run in enumerate(runs):
        points = (run.theta - start) @ directions.T
        x, y = points[:, 0], points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
        ax.plot(x, y, **_style(i - 1, run), **_marks(i - 1, run, len(points)))
    ax.plot(0, 0, marker="*", markersize=9, color="black", linestyle="none")
    ax.annotate("θ₀", (0, 0), textcoords="offset points", xytext=(5, 6))
    names = [f"PC {k + 1} ({share:.1f} % of variance)" for k, share in enumerate(captured)]
    ax.set(xlabel=names[0], ylabel=names[1] if len(names) > 1 else "")
    return ax


def order(study: "OrderStudy", ax: Any = None) -> Any:
    """Distance at a fixed time against the learning rate, with the fitted line."""
    ax = _axes(ax)
    rates = study.learning_rates
    centre = np.exp(np.mean(np.log(study.distance)) - study.slope * np.mean(np.log(rates)))
    ax.loglog(rates, centre * rates**study.slope, color="black", label=f"slope {study.slope:.2f}")
    ax.loglog(rates, study.distance, "o", color=COLOURS[0], label=f"distance at t = {study.t:g}")
    ax.set(xlabel=study.abscissa, ylabel="distance ‖θ − θ_flow‖")
    ax.legend()
    return ax


def comparison(comparison: "Comparison", figure: Any = None) -> Any:
    """Loss, distance, gradient norm and common PCA plane in one 2 × 2 figure."""
    import matplotlib.pyplot as plt

    figure = figure or plt.figure(figsize=(10, 7.6), layout="constrained")
    axes = figure.subplots(2, 2)
    runs = (comparison.reference, *(pair.run for pair in comparison.pairs))
    loss(*runs, ax=axes[0, 0])
    distance(comparison, ax=axes[0, 1])
    gradient_norm(*runs, ax=axes[1, 0])
    plane(*runs, ax=axes[1, 1])
    handles = dict(
        reversed(item)
        for ax in (axes[0, 0], axes[0, 1])
        for item in zip(*ax.get_legend_handles_labels(), strict=True)
    )
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False
    )
    return figure


def _against_time(runs: Sequence[Trajectory], quantity: str, label: str, ax: Any) -> Any:
    check_single(f"flow.plots.{quantity}", *runs)
    ax = _axes(ax)
    for i, run in enumerate(runs):
        ax.plot(
            run.t,
            getattr(run, quantity),
            **_style(i - 1, run),
            **_marks(i - 1, run, len(run.t)),
        )
    # A log-likelihood is negative.
    ax.set_yscale("linear" if min(getattr(run, quantity).min() for run in runs) < 0 else "log")
    ax.set(xlabel=TIME_LABEL, ylabel=label)
    return ax


def _axes(ax: Any) -> Any:
    import matplotlib.pyplot as plt

    return plt.gca() if ax is None else ax


def _style(i: int, run: Trajectory) -> dict[str, Any]:
    """The look of the i-th compared run; −1 is the reference."""
    colour = "black" if i < 0 else COLOURS[i % len(COLOURS)]
    if run.config["kind"] == "flow":
        return {"color": colour, "label": run.label, "linewidth": 1.8, "zorder": 3 if i < 0 else 2}
    return {"color": colour, "label": run.label, "linestyle": "none"}


def _marks(i: int, run: Trajectory, points: int) -> dict[str, Any]:
    """Markers of a discrete run, staggered so that runs on one curve stay visible."""
    if run.config["kind"] == "flow":
        return {}
    every = max(1, points // POINTS)
    return {
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 3.5,
        "markevery": (i * every // 4 % every, every),
    }
