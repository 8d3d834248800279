"""The loss over a plane through θ₀, with the runs on it and their distance from it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flow._core.checks import flag, instance, positive, positive_integer
from flow._core.keywords import own_keywords
from flow._core.precision import double_precision
from flow._problem.objective import Objective
from flow._run.trajectory import Trajectory, told_apart
from flow.plots.moving import moving
from flow.plots.parameters import check_alike, objective_of
from flow.plots.plane import Plane, mark_start, plane_of
from flow.plots.style import POINTS, TIME_LABEL, axes, finish, look, shared_legend

# The plane's points are evaluated so many at a time, side by side.
BATCH = 64
# Contours, at 1, 2 and 5 of each decade, span so many below the largest loss at most; where these
# are fewer than so many, there are as many in between.
DECADES, FEWEST = 8, 7
HIGHEST = 1e150
COLOURMAP = "cividis"  # as colour-blind readers see it, it is for everybody


@own_keywords
def surface(
    *runs: Trajectory,
    objective: Objective | None = None,
    directions: Any = None,
    filter_normalised: bool = False,
    resolution: int = 101,
    margin: float = 0.25,
    ax: Any = None,
) -> Any:
    """Return the runs over the loss surface, in one plane through θ₀.

    Contours are of J in the plane, at logarithmic levels. Paths are coloured by their own, true J,
    which differs from the plane's where they are off it; how far they are is the band below.

    Parameters
    ----------
    runs
        From one θ₀.
    objective
        Whose J it is; a flow of this process brings it along.
    directions
        Two, pytrees like the parameters or vectors (n,), instead of the principal plane of all
        runs.
    filter_normalised
        Scale each filter of the given directions to the length of θ₀'s (Li et al. 2018).
    resolution
        Points along each axis.
    margin
        Of the plane's extent beyond the runs, as a share of theirs.
    ax
        Axes to draw on; the band is made below them.

    Raises
    ------
    ValueError
        The runs carry no objective and none is given, or the directions span no plane.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * (x**2 @ np.array([1.0, 9.0])), np.ones(2))
    >>> path = flow.integrate(objective, t=3.0)
    >>> ax = flow.plots.surface(path, flow.descend(objective, 0.2, 15), resolution=21)
    """
    check_alike("flow.plots.surface", runs)
    flag("filter_normalised", filter_normalised)
    if positive_integer("resolution", resolution) < 2:  # noqa: PLR2004
        raise ValueError("resolution must be at least 2 points along each axis, got 1")
    positive("margin", margin)
    objective = objective_of(runs) if objective is None else objective
    instance("objective", objective, Objective, "a flow.Objective")
    if objective.size != runs[0].theta.shape[1]:
        raise ValueError(
            f"objective has {objective.size} parameters, but the runs {runs[0].theta.shape[1]}"
        )
    found = plane_of(runs, directions, filter_normalised=filter_normalised)
    points = [found.coordinates(run.theta) for run in runs]
    x, y = _extent(np.concatenate(points), resolution, margin)
    # Squares of what is drawn must be numbers, too.
    heights = np.clip(evaluate(objective, found, x, y), -HIGHEST, HIGHEST)
    given, ax = ax, axes(ax)
    ax.grid(visible=False)
    band = _below(ax)
    levels, norm = _levels(heights, runs)
    filled = ax.contourf(x, y, heights, levels, norm=norm, cmap=COLOURMAP, extend="both")
    ax.contour(x, y, heights, levels, norm=norm, colors="white", linewidths=0.4, alpha=0.5)
    for i, (run, at) in enumerate(zip(told_apart(runs), points, strict=True)):
        _path(ax, i, run, at, norm)
    mark_start(ax, found, runs)
    ax.figure.colorbar(filled, ax=[ax, band], label="loss J", ticks=levels[::2], format="%.2g")
    _residuals(band, runs, found)
    finish(ax, ax, xlabel=found.names[0], ylabel=found.names[1])
    if given is None:
        shared_legend(ax.figure, ax)
    return ax


def evaluate(objective: Objective, plane: Plane, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return J at the plane's points (len(y), len(x)), in one compiled call."""

    def build() -> Any:
        def all_of(corner: Any, directions: Any, at: Any, data: Any) -> Any:
            def height(coordinates: Any) -> Any:
                theta = corner + coordinates[: directions.shape[0]] @ directions
                return objective.traced_value(objective.tree(theta), data)

            return jax.lax.map(height, at, batch_size=BATCH)

        return jax.jit(all_of)

    at = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    with double_precision():
        function = objective.compiled("surface", build)
        values = function(plane.origin, plane.directions, jnp.asarray(at), objective.data)
    return np.asarray(values, float).reshape(len(y), len(x))


def _extent(points: np.ndarray, resolution: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates along both axes, the runs and a margin around them."""
    points = points[np.all(np.isfinite(points), axis=1)]
    low, high = points.min(axis=0), points.max(axis=0)
    wide = np.where(high > low, high - low, 0.0)
    # A path along one axis, or of one point, has a neighbourhood all the same.
    wide = np.where(wide > 0.05 * wide.max(), wide, max(0.5 * wide.max(), 1e-3))
    middle = (low + high) / 2.0
    half = wide * (0.5 + margin)
    x, y = (np.linspace(m - h, m + h, resolution) for m, h in zip(middle, half, strict=True))
    return x, y


def _levels(heights: np.ndarray, runs: Sequence[Trajectory]) -> tuple[np.ndarray, Any]:
    """Return levels of the contours, logarithmic where the loss is positive, and their colours."""
    from matplotlib.colors import LogNorm, Normalize

    met = np.concatenate([heights.ravel(), *(run.loss for run in runs)])
    met = np.clip(met[np.isfinite(met)], -HIGHEST, HIGHEST)
    low, high = met.min(), met.max()
    if low < 0 or high <= 0:
        high = high if high > low else low + 1.0
        return np.linspace(low, high, 22)[1:-1], Normalize(low, high)
    # Below what the runs have reached all is one colour: rings around a minimum of the plane, which
    # has a hundred decades of them, would leave none for the paths.
    reached = np.concatenate([run.loss for run in runs])
    low = max(np.nanmin(reached, where=reached > 0, initial=high), high * 10.0**-DECADES)
    low = low if low < high else high / 10.0
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
    levels = (10.0 ** decades[:, None] * [1.0, 2.0, 5.0]).ravel()
    levels = levels[(levels > low) & (levels < high)]
    if len(levels) < FEWEST:
        levels = np.geomspace(low, high, FEWEST + 2)[1:-1]
    return levels, LogNorm(low, high)


def _path(ax: Any, i: int, run: Trajectory, at: np.ndarray, norm: Any) -> None:
    """Draw a run, coloured by its own loss inside an outline in its own colour."""
    from matplotlib.collections import LineCollection

    style = look(ax, i, run, len(at))
    shade = style["color"]
    low = max(norm.vmin, np.finfo(float).tiny) if norm.vmin > 0 else -np.inf
    true = np.maximum(run.loss, low)
    if run.config["kind"] == "flow":
        (line,) = ax.plot(*at.T, color=shade, linewidth=4.0, label=style["label"], zorder=3)
        moving(line, run.t)
        segments = np.stack([at[:-1], at[1:]], axis=1)
        inner = LineCollection(segments, cmap=COLOURMAP, norm=norm, linewidths=2.0, zorder=4)
        inner.set_array((true[:-1] + true[1:]) / 2.0)
        moving(ax.add_collection(inner), run.t[1:])
        return
    every = max(1, len(at) // POINTS)
    dots = ax.scatter(
        *at[::every].T, c=true[::every], cmap=COLOURMAP, norm=norm, s=26, zorder=4 + i,
        marker=style["marker"], edgecolors=shade,
        linewidths=1.2, label=style["label"],
    )  # fmt: skip
    moving(dots, run.t[::every])


def _below(ax: Any) -> Any:
    """Make axes below, of a quarter of the height."""
    spec = ax.get_subplotspec()
    if spec is None:  # placed by hand
        return ax.inset_axes((0.0, -0.42, 1.0, 0.2))
    gap = None if ax.figure.get_layout_engine() else 0.6  # for the labels
    above, below = spec.subgridspec(2, 1, height_ratios=[4, 1], hspace=gap)
    ax.set_subplotspec(above)
    return ax.figure.add_subplot(below)


def _residuals(band: Any, runs: Sequence[Trajectory], plane: Plane) -> None:
    """Draw the distance of each run from the plane along t."""
    for i, run in enumerate(runs):
        (line,) = band.plot(run.t, plane.residual(run.theta), **look(band, i, run, len(run.t)))
        moving(line, run.t)
    band.set_ylim(bottom=0.0)
    band.locator_params(axis="y", prune="lower")  # where the zero is, is seen
    axes(band).tick_params(labelsize="small")
    finish(band, band, xlabel=TIME_LABEL, ylabel="off plane")
