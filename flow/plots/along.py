"""Figures of one number a run along t: J, its gradient's norm, sharpness, distance, steps."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from flow._core.checks import carrying, instance, real, several
from flow._core.costs import units
from flow._core.keywords import own_keywords
from flow._run.trajectory import Trajectory, check_single, told_apart
from flow.plots.moving import moving
from flow.plots.style import (
    LINES,
    TIME_LABEL,
    axes,
    colour,
    colours,
    finish,
    log_if_positive,
    look,
    readable,
)


@own_keywords
def loss(*runs: Trajectory, ax: Any = None) -> Any:
    """Return J against t."""
    return _along("loss", runs, lambda run: (run.t, run.loss), "loss J", ax)


@own_keywords
def gradient_norm(*runs: Trajectory, ax: Any = None) -> Any:
    """Return ‖∇J‖ against t."""
    pick = lambda run: (run.t, run.gradient_norm)  # noqa: E731
    return _along("gradient_norm", runs, pick, "gradient norm ‖∇J‖", ax)


@own_keywords
def step_size(*runs: Trajectory, ax: Any = None) -> Any:
    """Return the integrator's step along t: the mean length of the steps between saves.

    In units of t. Of a discrete run it is its learning rate.

    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(2))
    >>> path = flow.integrate(objective, t=2.0, method="RK4", step=0.25, save=5)
    >>> ax = flow.plots.step_size(path)
    >>> ax.get_lines()[0].get_ydata()
    array([0.25, 0.25, 0.25, 0.25])
    """
    return _along("step_size", runs, lambda run: _per_step(run, "t"), "step, units of t", ax)


@own_keywords
def stages(*runs: Trajectory, ax: Any = None) -> Any:
    """Draw what a step costs along t, in units of a gradient: the mean of the steps between saves.

    Up to the first save it counts the gradient at θ₀ as well, which no step spends.
    """
    pick = lambda run: _per_step(run, "units")  # noqa: E731
    return _along("stages", runs, pick, "gradients a step", ax, log=False)


def _per_step(run: Trajectory, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ends of the steps that were met at saves, and Δquantity/Δsteps up to each."""
    if not run.work:
        raise ValueError(
            f"{run.label!r} was saved by a flow that did not record its steps; run it again"
        )
    spent = units(*(run.work.get(kind, 0) for kind in ("gradients", "hvps", "values")))
    values = {"t": run.work["t"], "units": spent}[quantity]
    steps, first = np.unique(run.work["steps"], return_index=True)
    return run.work["t"][first][1:], np.diff(values[first]) / np.diff(steps)


@own_keywords
def sharpness(
    *runs: Trajectory,
    limits: Sequence[float | None] = (),
    name: str = "sharpness",
    ax: Any = None,
) -> Any:
    """Return the observed sharpness against t, and limits of stability dotted.

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
    one = limits is None or isinstance(limits, Real)
    limits = [limits] if one else several("limits", limits, "a number, or one of each run")
    limits = [None if limit is None else real("limits", limit) for limit in limits]
    if len(limits) > len(runs):
        raise ValueError(f"{len(limits)} limits for {len(runs)} runs; give each its own, or None")
    given, ax = ax, _vectors(runs, name, axes(ax))
    for i, limit in enumerate(limits):
        if limit is not None:
            ax.axhline(limit, color=look(ax, i, runs[i], 2)["color"], linestyle=":", zorder=1)
    return finish(ax, given, xlabel=TIME_LABEL, ylabel=r"sharpness $\lambda_{\max}$")


@own_keywords
def observable(*runs: Trajectory, name: str, ax: Any = None) -> Any:
    """Draw an observed number, or each entry of a vector, against t, by its name in `observe=`."""
    check_single("flow.plots.observable", *runs)
    drawn = _vectors(runs, name, axes(ax))
    return finish(drawn, ax, xlabel=TIME_LABEL, ylabel=readable(name))


def _vectors(runs: Sequence[Trajectory], name: str, ax: Any) -> Any:
    """Return an observable of every run, (times,) or (times, ...), one curve an entry."""
    for i, run in enumerate(told_apart(runs)):
        values = recorded(run, name).reshape(len(run.t), -1)
        style = look(ax, i, run, len(run.t))
        for k in range(values.shape[1]):
            (line,) = ax.plot(run.t, values[:, k], **style | ({"label": None} if k else {}))
            moving(line, run.t)
    return ax


def recorded(run: Trajectory, name: str) -> np.ndarray:
    """Return an observable of a run; an error that says how to record it."""
    instance("name", name, str, "a string")
    if name in run.observed:
        return run.observed[name]
    function = "flow.sharpness" if name == "sharpness" else "function of (objective, params)"
    raise ValueError(
        f"{run.label!r} has not recorded {name!r}; run it with "
        f'observe={{"{name}": {function}}}'
        + (f". It has {', '.join(map(repr, run.observed))}" if run.observed else "")
    )


@own_keywords
def distance(comparison: Any, ax: Any = None) -> Any:
    """Return ‖θ_run − θ_ref‖ against t, with the reference's own error where it is known."""
    carrying("comparison", comparison, "reference pairs", "what flow.compare returns")
    given, ax = ax, axes(ax)
    for i, pair in enumerate(comparison.pairs):
        # At t = 0 there is none, which a logarithm does not show.
        later = pair.t > 0
        style = look(ax, i + 1, pair.run, int(later.sum()))
        (line,) = ax.plot(pair.t[later], pair.distance[later], **style)
        moving(line, pair.t[later])
    if any(np.any(np.isfinite(pair.error_bar)) for pair in comparison.pairs):
        longest = max(comparison.pairs, key=lambda pair: len(pair.t))
        style = {"color": "0.5", "linewidth": 1, "linestyle": "--"}
        name = "the flow's own error"
        later = longest.t > 0
        (line,) = ax.plot(longest.t[later], longest.error_bar[later], label=name, **style)
        moving(line, longest.t[later])
    log_if_positive(ax, [pair.distance for pair in comparison.pairs])
    return finish(ax, given, xlabel=TIME_LABEL, ylabel="distance ‖θ − θ_flow‖")


def _along(
    name: str,
    runs: Sequence[Trajectory],
    pick: Callable,
    label: str,
    given: Any,
    *,
    log: bool = True,
) -> Any:
    """Draw one curve a run, by `pick`: run ↦ times and values; `log` where they are positive."""
    check_single(f"flow.plots.{name}", *runs)
    picked = [pick(run) for run in runs]
    ax = axes(given)
    for i, (run, (t, values)) in enumerate(zip(told_apart(runs), picked, strict=True)):
        (line,) = ax.plot(t, values, **look(ax, i, run, len(t)))
        moving(line, t)
    if log:
        log_if_positive(ax, [values for _, values in picked])
    return finish(ax, given, xlabel=TIME_LABEL, ylabel=label)


def bundle(runs: Sequence[Trajectory], curves: Sequence[dict[str, np.ndarray]], given: Any) -> Any:
    """Draw several named curves of each run: colours tell the names, lines and markers the runs."""
    ax, runs = axes(given), told_apart(runs)
    for i, (run, named) in enumerate(zip(runs, curves, strict=True)):
        style = look(ax, i, run, len(run.t))
        for k, (name, values) in enumerate(named.items()):
            own = {"color": colour(k), "label": readable(name) if i == 0 else None}
            if run.config["kind"] == "flow":
                own |= {"linestyle": LINES[(i + k // len(colours())) % len(LINES)]}
            (line,) = ax.plot(run.t, values, **style | own)
            moving(line, run.t)
    for i, run in enumerate(runs if len(runs) > 1 else ()):
        dashes = {"linestyle": LINES[i % len(LINES)]} if run.config["kind"] == "flow" else {}
        ax.plot([], [], **look(ax, i, run, 2) | {"color": "0.5"} | dashes)
    return ax
