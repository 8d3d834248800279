"""Figures of parameters along t: norms of the layers, single weights, conserved quantities."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flow._core.checks import instance
from flow._core.keywords import own_keywords
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow._run.conserved import drifts_along
from flow._run.trajectory import Trajectory, check_keeps_theta
from flow.plots.along import bundle
from flow.plots.style import TIME_LABEL, finish, log_if_positive

# So many weights are drawn unless asked for.
WEIGHTS = 6


@own_keywords
def layer_norms(*runs: Trajectory, ax: Any = None) -> Any:
    """Return ‖W_l‖ of each leaf of the parameters, a layer's weights or biases, against t.

    >>> import flow
    >>> objective = flow.MLP([64, 8, 10]).objective(*flow.datasets.digits(50))
    >>> path = flow.integrate(objective, t=1.0, save=5)
    >>> ax = flow.plots.layer_norms(path)
    >>> [line.get_label() for line in ax.get_lines()]
    ["[0]['W']", "[0]['b']", "[1]['W']", "[1]['b']"]
    """
    check_keeps_theta("flow.plots.layer_norms", *runs)
    curves = [
        {name: np.linalg.norm(run.theta[:, part], axis=1) for name, part, _ in leaves(run)}
        for run in runs
    ]
    return finish(bundle(runs, curves, ax), ax, xlabel=TIME_LABEL, ylabel="norm ‖W‖ of a layer")


@own_keywords
def weights(*runs: Trajectory, entries: Sequence[int] | None = None, ax: Any = None) -> Any:
    """Return the single parameters against t.

    Parameters
    ----------
    runs
        Of one problem.
    entries
        Which entries of θ; by default the six that the first run moves most.

    Raises
    ------
    ValueError
        There is no such entry.
    """
    check_alike("flow.plots.weights", runs)
    moved = np.nan_to_num(np.abs(runs[0].theta - runs[0].theta[0])).max(axis=0)
    most = np.argsort(-moved, kind="stable")[:WEIGHTS]
    chosen = most if entries is None else np.atleast_1d(np.array(entries))
    size = runs[0].theta.shape[1]
    if (
        chosen.dtype.kind not in "iu"
        or chosen.size == 0
        or not np.all((chosen >= 0) & (chosen < size))
    ):
        raise ValueError(f"entries must be whole numbers in 0 to {size - 1}, got {entries}")
    curves = [{entry_name(run, int(i)): run.theta[:, i] for i in chosen} for run in runs]
    return finish(bundle(runs, curves, ax), ax, xlabel=TIME_LABEL, ylabel="weight")


@own_keywords
def conserved(*runs: Trajectory, objective: Objective | None = None, ax: Any = None) -> Any:
    """Return drift ‖Q(θ(t)) − Q(θ₀)‖ of each conserved quantity against t.

    Parameters
    ----------
    runs
        Of one problem.
    objective
        Which declares what its flow conserves; a flow of this process brings it along.

    Raises
    ------
    ValueError
        It conserves nothing, or is not known.
    """
    check_keeps_theta("flow.plots.conserved", *runs)
    objective = objective_of(runs) if objective is None else objective
    instance("objective", objective, Objective, "a flow.Objective")
    if not objective.conserved:
        raise ValueError(
            "this objective declares no conserved quantity; give it one, "
            "flow.Objective(..., conserved={name: function of the parameters})"
        )
    curves = [drifts_along(run, objective, objective.conserved) for run in runs]
    # At t = 0 there is none, which a logarithm does not show.
    later = [{name: np.where(q > 0, q, np.nan) for name, q in named.items()} for named in curves]
    drawn = bundle(runs, later, ax)
    log_if_positive(drawn, [q for named in curves for q in named.values()])
    return finish(drawn, ax, xlabel=TIME_LABEL, ylabel="drift ‖Q(θ) − Q(θ₀)‖")


def check_alike(what: str, runs: Sequence[Trajectory]) -> None:
    """Refuse runs whose parameters are not as many, which have no common space to be drawn in."""
    check_keeps_theta(what, *runs)
    first = runs[0]
    for run in runs:
        if run.theta.shape[1] != first.theta.shape[1]:
            raise ValueError(
                f"{what} is of runs of one problem, but {first.label!r} has "
                f"{first.theta.shape[1]} parameters and {run.label!r} {run.theta.shape[1]}"
            )


def objective_of(runs: Sequence[Trajectory]) -> Objective:
    """Return the objective that a flow of this process brings along."""
    for run in runs:
        if run.dynamics is not None:
            return run.dynamics.objective
    raise ValueError(
        "these runs were loaded, come from another process or are discrete, and carry no "
        "objective; pass objective="
    )


def leaves(run: Trajectory) -> list[tuple[str, slice, PyTree]]:
    """List the leaves of the parameters: name, part of θ, and the leaf at θ₀."""
    paths, start = [], 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(run.params(0))[0]:
        end = start + np.size(leaf)
        paths.append((jax.tree_util.keystr(path) or "θ", slice(start, end), leaf))
        start = end
    return paths


def entry_name(run: Trajectory, entry: int) -> str:
    """Return what an entry of θ is called: its leaf, and where in it."""
    for name, part, leaf in leaves(run):
        if entry < part.stop:
            at = np.unravel_index(entry - part.start, np.shape(leaf))
            return f"{name}{list(map(int, at))}" if at else name
    raise IndexError(entry)
