"""The look of every figure: colours, markers, and which run is drawn as what.

flow's choices hold where matplotlib's settings are untouched: what a user sets, by `rcParams`, a
style sheet or a matplotlibrc, wins.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np

from flow.checks import instance
from flow.trajectory import Trajectory

# Okabe and Ito's, told apart by colour-blind readers; the reference is black.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
TIME_LABEL = "flow time t = learning rate × steps"
# So many points of a discrete run are drawn, or they would merge into a band.
POINTS = 40
# Longer legend entries are broken into lines.
LABEL_WIDTH = 44


def setting(name: str, ours: Any) -> Any:
    """What the user set in matplotlib's `rcParams`, or ours where that is the default."""
    import matplotlib as mpl

    theirs = mpl.rcParams[name]
    return ours if theirs == mpl.rcParamsDefault[name] else theirs


def colour(i: int) -> str:
    """Of the i-th curve, from the user's own cycle if there is one."""
    from cycler import cycler

    cycle = setting("axes.prop_cycle", cycler(color=COLOURS)).by_key().get("color", COLOURS)
    return cycle[i % len(cycle)]


def axes(ax: Any, *, grid: bool = True) -> Any:
    """The axes to draw on, the current ones if None, with a faint grid.

    Raises
    ------
    TypeError
        What is given is no axes.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    ax = plt.gca() if ax is None else ax
    instance("ax", ax, Axes, "matplotlib axes")
    if not grid:
        return ax
    if setting("axes.grid", ours=True):
        ax.grid(visible=True, alpha=setting("grid.alpha", 0.3))
    ax.set_axisbelow(True)
    return ax


def finish(ax: Any, given: Any, **labels: Any) -> Any:
    """Name the axes; a legend where the figure is whole, as no axes were given to draw on."""
    ax.set(**labels)
    entries = ax.get_legend_handles_labels()[1]
    if given is None and entries:
        # Above, as it covers no data there, in two columns where they have room.
        columns = 1 if max(map(len, entries)) > LABEL_WIDTH / 2 else 2
        above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        ax.legend(**above, ncols=columns, fontsize="small", frameon=False)
    return ax


def label_log(axis: Any) -> None:
    """Label a logarithmic axis at 1, 2 and 5 where it spans less than two decades."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    if high < 100.0 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def look(i: int, run: Trajectory, points: int) -> dict[str, Any]:
    """Of the i-th run, the first in black; a flow is a line, a discrete run points.

    Points are staggered from run to run, so that runs on one curve stay visible.
    """
    shade = "black" if i == 0 else colour(i - 1)
    style = {"color": shade, "label": fill(run.label, LABEL_WIDTH)}
    if run.config["kind"] == "flow":
        width = setting("lines.linewidth", 1.8)
        # A line of one point is none.
        dot = {"marker": "o", "markersize": 3.5} if points == 1 else {}
        return style | {"linewidth": width, "zorder": 3 if i == 0 else 2} | dot
    return style | {"linestyle": "none"} | marks(i - 1, points)


def marks(i: int, points: int) -> dict[str, Any]:
    """Markers of the i-th run after the first, at most twice `POINTS` of them; −1 is the first."""
    every = max(1, points // POINTS)
    return {
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 3.5,
        "markevery": (i * every // 4 % every, every),
    }


def log_if_positive(ax: Any, values: Sequence[np.ndarray]) -> None:
    """A logarithmic ordinate, unless something is negative (a log-likelihood) or all is zero."""
    finite = np.concatenate([v[np.isfinite(v)] for v in map(np.ravel, values)])
    positive = finite.size > 0 and finite.min() >= 0 and finite.max() > 0
    ax.set_yscale("log" if positive else "linear")
