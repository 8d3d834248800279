"""The look of every figure: colours, markers, and which run is drawn as what.

flow's choices hold where matplotlib's settings are untouched: what a user sets, by `rcParams`, a
style sheet or a matplotlibrc, wins.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import lcm
from textwrap import fill
from typing import Any

import numpy as np

from flow._core.checks import instance
from flow._core.display import latex_text, visible
from flow._run.trajectory import Trajectory

# Okabe and Ito's, told apart by colour-blind readers, and six more; the reference is black.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
           "#882255", "#999933", "#6A5ACD", "#44AA99", "#AA4499", "#8C564B"]  # fmt: skip
MARKERS = ["o", "s", "^", "D", "v", "P"]
LINES = ["-", "--", ":", "-."]
TIME_LABEL = "flow time t = learning rate × steps"
# So many points of a discrete run are drawn, or they would merge into a band.
POINTS = 40
# Longer legend entries are broken into lines, of which so many are drawn.
LABEL_WIDTH, LABEL_LINES = 44, 8


def setting(name: str, ours: Any) -> Any:
    """Return what the user set in matplotlib's `rcParams`, or ours where that is the default."""
    import matplotlib as mpl

    theirs = mpl.rcParams[name]
    return ours if theirs == mpl.rcParamsDefault[name] else theirs


def colours() -> list[str]:
    """Return the colours of the curves in turn, from the user's own cycle if there is one."""
    from cycler import cycler

    return setting("axes.prop_cycle", cycler(color=COLOURS)).by_key().get("color", COLOURS)


def colour(i: int) -> str:
    """Return the colour of the i-th curve."""
    return (cycle := colours())[i % len(cycle)]


def backdrop(ax: Any) -> np.ndarray:
    """Return the colour behind the axes' lines, red, green and blue."""
    from matplotlib.colors import to_rgba

    behind = np.ones(3)
    for face in (ax.figure.get_facecolor(), ax.get_facecolor()):
        *shade, opacity = to_rgba(face)
        behind = opacity * np.array(shade) + (1 - opacity) * behind
    return behind


def ink(ax: Any) -> str:
    """Return black, or white on dark axes."""
    return "black" if backdrop(ax) @ [0.3, 0.59, 0.11] > 0.5 else "white"  # noqa: PLR2004


def axes(ax: Any, *, grid: bool = True) -> Any:
    """Return the axes to draw on, with a faint grid; if None, of a figure of its own.

    That is the current figure while nothing is drawn on its axes, and else a new one.

    Raises
    ------
    TypeError
        What is given is no axes.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if ax is None:
        if plt.get_fignums() and plt.gcf().axes and plt.gca().has_data():
            plt.figure()
        ax = plt.gca()
        if plt.gcf().get_layout_engine() is None:  # which leaves room for the labels
            plt.gcf().set_layout_engine("constrained")
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
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            label_log(axis)
        fit(axis)
    if given is None and (entries := ax.get_legend_handles_labels())[1]:
        # Above, as it covers no data there.
        above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        # In what a figure has between its margins.
        room = 0.9 * ax.figure.bbox.x1 - ax.bbox.x0
        legend(ax, *entries, room=room, columns=(2, 3, 4, 1), **above)
    if given is None:
        settle(ax.figure)
    return ax


def shared_legend(figure: Any, *axes: Any) -> None:
    """Draw one legend above the figure, each run once."""
    handles = dict(
        reversed(item) for ax in axes for item in zip(*ax.get_legend_handles_labels(), strict=True)
    )
    legend(
        figure, handles.values(), handles.keys(), room=figure.bbox.width,
        columns=(3, 4, 5, 2, 1), loc="outside upper center",
    )  # fmt: skip
    settle(figure)


def settle(figure: Any) -> None:
    """Lay a whole figure out, and break its labels at what its axes came to be."""
    figure.figure.draw_without_rendering()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            fit(axis, across=1.05, along=1.0)


def legend(
    parent: Any, handles: Any, labels: Any, room: float, columns: Sequence[int], **where: Any
) -> Any:
    """Draw the legend of axes or of a figure, in the first number of columns that has room.

    Smaller, where it is wider than `room` in pixels or two fifths of the figure's height.
    """
    high = 0.4 * parent.figure.bbox.height
    drawn = None
    for size in ("small", "x-small", "xx-small"):
        for n in columns:
            if drawn is not None:
                drawn.remove()
            drawn = parent.legend(handles, labels, ncols=n, fontsize=size, frameon=False, **where)
            box = drawn.get_window_extent()
            if box.width <= room and box.height <= high:
                return drawn
    return drawn


def fit(axis: Any, across: float = 1.1, along: float = 0.8) -> None:
    """Break an axis's label into lines that are no longer than such a share of the axis.

    Before a figure is laid out, there are gaps beside its axes, and legends are to take of their
    height.
    """
    label, box = axis.label, axis.axes.bbox
    extent = label.get_window_extent()
    if axis.axis_name == "x":
        long, room = extent.width, across * box.width
    else:
        long, room = extent.height, along * box.height
    if long > room:
        letters = max(map(len, label.get_text().split("\n")))
        width = max(int(letters * room / long), 1)
        broken = fill(label.get_text(), width, break_long_words=False, break_on_hyphens=False)
        label.set_text(readable(broken))


def label_log(axis: Any) -> None:
    """Label a logarithmic axis without crowding it, in plain numbers below two decades.

    These are at 1, 2 and 5, or evenly spaced where that would be less than two of them.
    """
    from matplotlib.ticker import AutoLocator, LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    if high < 100.0 * low:
        at = LogLocator(subs=(1.0, 2.0, 5.0))
        several = sum(low <= x <= high for x in at.tick_values(low, high)) > 1
        axis.set_major_locator(at if several else AutoLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def in_lines(label: str) -> str:
    """Return a label as a legend has it, in lines of its width."""
    most = 2 * LABEL_LINES * LABEL_WIDTH
    return readable(fill(label[:most], LABEL_WIDTH, max_lines=LABEL_LINES, placeholder="…"))


def readable(text: str) -> str:
    r"""Return a name or a label as matplotlib draws it: as typed, a formula where it is one.

    Control characters are shown. What LaTeX would set, by ``text.usetex``, is never a formula.

    >>> print(readable(r"$\eta$ = 0.1"), readable(r"$\eta^$"), readable("5 $"))
    $\eta$ = 0.1 \$\eta^\$ 5 $
    """
    return "\n".join(map(_line, text.split("\n")))


def _line(line: str) -> str:
    import matplotlib as mpl

    line = visible(line)
    if mpl.rcParams["text.usetex"]:
        return latex_text(line)
    return line if "$" not in line or _drawn(line) else line.replace("$", r"\$")


@lru_cache
def _drawn(line: str) -> bool:
    """Return whether matplotlib can draw a line, if there is a formula in it."""
    from matplotlib.cbook import is_math_text
    from matplotlib.mathtext import MathTextParser

    try:
        return not is_math_text(line) or bool(MathTextParser("path").parse(line))
    except (ValueError, RecursionError):
        return False


def look(ax: Any, i: int, run: Trajectory, points: int) -> dict[str, Any]:
    """Return the look of the i-th run, the first in black; a flow is a line, a descent points.

    Where colours begin anew, dashes and markers are others. Points are staggered from run to run,
    so that runs on one curve stay visible.
    """
    shade = ink(ax) if i == 0 else colour(i - 1)
    style = {"color": shade, "label": in_lines(run.label)}
    if run.config["kind"] == "flow":
        width = setting("lines.linewidth", 1.8)
        again = max(i - 1, 0) // len(colours())
        dashes = {"linestyle": LINES[again % len(LINES)]} if again else {}
        # A line of one point is none.
        dot = {"marker": "o", "markersize": 3.5} if points == 1 else {}
        return style | {"linewidth": width, "zorder": 3 if i == 0 else 2} | dashes | dot
    return style | {"linestyle": "none"} | marks(i - 1, points)


def marks(i: int, points: int) -> dict[str, Any]:
    """Return markers of the i-th run after the first, at most twice `POINTS`; −1 is the first."""
    every = max(1, points // POINTS)
    return {
        "marker": marker(i),
        "markersize": 3.5,
        "markevery": (i * every // 4 % every, every),
    }


def marker(i: int) -> str:
    """Return the marker of the i-th curve: another one where its colour has been before."""
    again = i // lcm(len(colours()), len(MARKERS))
    return MARKERS[(i + again) % len(MARKERS)]


def log_if_positive(ax: Any, values: Sequence[np.ndarray]) -> None:
    """Make the ordinate logarithmic, unless a value is negative or all are zero."""
    finite = np.concatenate([v[np.isfinite(v)] for v in map(np.ravel, values)])
    positive = finite.size > 0 and finite.min() >= 0 and finite.max() > 0
    ax.set_yscale("log" if positive else "linear")
