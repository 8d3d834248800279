"""The first figure of a comparison: loss, distance, gradient norm and plane."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from math import ceil
from typing import Any

import numpy as np

from flow._core.checks import carrying
from flow._core.keywords import own_keywords
from flow._run.trajectory import ENTRIES, Trajectory
from flow.plots.along import distance, gradient_norm, loss, observable, sharpness
from flow.plots.plane import plane, seen
from flow.plots.style import shared_legend

# A limit further above all sharpness that was met would flatten it.
LIMITS_IN_VIEW = 2.0


@own_keywords
def comparison(comparison: Any, figure: Any = None) -> Any:
    """Return the loss, distance, gradient norm and common PCA plane in one 2 × 2 figure."""
    import matplotlib.pyplot as plt

    carrying("comparison", comparison, "reference pairs", "what flow.compare returns")
    figure = figure or plt.figure(figsize=(10, 7.6), layout="constrained")
    axes = figure.subplots(2, 2)
    runs = (comparison.reference, *(pair.run for pair in comparison.pairs))
    loss(*runs, ax=axes[0, 0])
    distance(comparison, ax=axes[0, 1])
    gradient_norm(*runs, ax=axes[1, 0])
    if all(seen(run).keeps_theta for run in runs):
        plane(*runs, ax=axes[1, 1])
    else:
        axes[1, 1].set_axis_off()
    shared_legend(figure, axes[0, 0], axes[0, 1])
    return figure


@own_keywords
def study(study: Any, figure: Any = None) -> Any:
    """Draw loss, distance, sharpness against 2/η, and common PCA plane in one figure, two in a row.

    Below what else was observed, each by itself: of a vector its entries, or of more than four its
    norm. Where the sharpness was not recorded it is the gradient norm; without a comparison the
    distance is left out, and the plane where θ was not kept.
    """
    import matplotlib.pyplot as plt

    carrying("study", study, "flow runs comparison", "what flow.study returns")
    runs = (study.flow, *study.runs)
    others = [name for name in study.flow.watched if name != "sharpness"]
    others = [name for name in others if all(name in run.observed for run in runs)]
    rows = 2 + ceil(len(others) / 2)
    figure = figure or plt.figure(figsize=(10, 3.8 * rows), layout="constrained")
    axes = figure.subplots(rows, 2)
    loss(*runs, ax=axes[0, 0])
    if study.comparison is None:
        axes[0, 1].set_axis_off()
    else:
        distance(study.comparison, ax=axes[0, 1])
    if all("sharpness" in run.observed for run in runs):
        rates = [run.config.get("learning_rate") for run in runs]
        limits = [None if eta is None else 2.0 / eta for eta in rates]
        sharpness(*runs, limits=limits, ax=axes[1, 0])
        met = np.concatenate([np.ravel(run.observed["sharpness"]) for run in runs])
        met = met[np.isfinite(met)]
        top = float(met.max(initial=0.0))
        near = [limit for limit in limits if limit is not None and limit < LIMITS_IN_VIEW * top]
        if top > 0:
            axes[1, 0].set_ylim(min(0.0, float(met.min())), 1.05 * max([top, *near]))
    else:
        gradient_norm(*runs, ax=axes[1, 0])
    if all(seen(run).keeps_theta for run in runs):
        plane(*runs, ax=axes[1, 1])
    else:
        axes[1, 1].set_axis_off()
    for name, ax in zip_longest(others, axes[2:].flat):
        if name is None:
            ax.set_axis_off()
        else:
            _observed(runs, name, ax)
    shared_legend(figure, axes[0, 0], axes[0, 1])
    return figure


def _observed(runs: Sequence[Trajectory], name: str, ax: Any) -> None:
    """Draw what was observed by that name, or the norm of a long vector."""
    vectors = [run.observed[name].reshape(len(run.t), -1) for run in runs]
    if max(vector.shape[1] for vector in vectors) > ENTRIES:
        name = f"‖{name}‖"
        norms = [np.linalg.norm(vector, axis=1) for vector in vectors]
        runs = [replace(run, observed={name: n}) for run, n in zip(runs, norms, strict=True)]
    observable(*runs, name=name, ax=ax)
