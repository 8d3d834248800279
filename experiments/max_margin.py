"""Separable data to t = e⁶⁰: the weights grow as ln t and turn to the direction of largest margin.

The gradient flow of the logistic and of the exponential loss of a linear classifier without bias
has ‖w‖ ≈ ‖ŵ‖ ln t and an angle to ŵ that falls as 1/ln t, ŵ the shortest w with every margin at
least 1 (Soudry et al. 2018, arXiv 1710.10345). In s = ln(1 + t) it is followed to t = e⁶⁰ in some
hundred gradients, or some thousand where features are many or large; gradient descent needs e⁶⁰/η
steps. Where many examples are close to the margin the slope is not there yet: that of the digits
is −0.70 at t = e⁶⁰ and −0.87 with ``--log-t 300``. Three points of the plane, iris flowers
(setosa and versicolor) and handwritten digits (zeros and ones); a constant feature stands for the
bias. ŵ is computed independently by scikit-learn's SVC. Prints a table, writes a figure, the runs,
the table and the configuration.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS
from flow.records import Options, Record, Science, choice, run_experiment

TIGHT = {"rtol": 1e-8, "atol": 1e-11}
# Of 2/λ_max(θ₀), for gradient descent: the curvature of both losses falls along the way.
SHARE = 0.5
LOSSES = {
    "logistic": lambda margins: jnp.mean(jax.nn.softplus(-margins)),
    "exponential": lambda margins: jnp.mean(jnp.exp(-margins)),
}


@dataclass(frozen=True)
class Configuration(Options):
    """Separable data to t = e⁶⁰: the weights turn to the direction of largest margin."""

    data: Science[tuple[str, ...]] = ("points", "iris", "digits")
    """Data sets, of "points", "iris" and "digits"."""
    log_t: Science[float] = 60.0
    """ln of the flow time to integrate to, learning rate × steps; at least 10."""
    steps: Science[int] = 30_000
    """Steps of gradient descent."""
    save: Science[int] = 121
    """Number of saved times of each run."""


def rows(name: str) -> np.ndarray:
    """Return the examples times their labels ±1 (N, n)."""
    from sklearn.datasets import load_digits, load_iris

    if name == "points":
        return np.array([[1.0, 0.2], [0.6, 1.5], [2.0, -0.3]])
    if name == "iris":
        X, label = load_iris(return_X_y=True)
    elif name == "digits":
        X, label = load_digits(return_X_y=True)
        X = X / 16.0
    else:
        choice("--data", name, ("points", "iris", "digits"))
    chosen = label < 2  # noqa: PLR2004
    X = np.column_stack([X[chosen], np.ones(chosen.sum())])
    return X * np.where(label[chosen] == 1, 1.0, -1.0)[:, None]


def largest_margin(Z: np.ndarray) -> np.ndarray:
    """Return ŵ (n,), the shortest w with Zw ≥ 1.

    The bias that SVC has is zero by symmetry if each row stands there with its negative too.
    """
    from sklearn.svm import SVC

    both = np.concatenate([Z, -Z])
    label = np.repeat([1, -1], len(Z))
    svc = SVC(kernel="linear", C=1e10, tol=1e-10).fit(both, label)
    w = svc.coef_[0]
    if (Z @ w).min() < 1.0 - 1e-3:
        raise ValueError(f"the data is not separable: the least margin is {(Z @ w).min():.3g}")
    return w


def angle(theta: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return between each row of θ and w, in radians, accurate where it is small; NaN of θ = 0."""
    with np.errstate(invalid="ignore"):
        directions = theta / np.linalg.norm(theta, axis=1, keepdims=True)
    w = w / np.linalg.norm(w)
    across = directions - np.outer(directions @ w, w)
    return np.arctan2(np.linalg.norm(across, axis=1), directions @ w)


def late(path: flow.Trajectory) -> np.ndarray:
    """Return the second half in ln t, to which slopes are fitted."""
    return np.log1p(path.t) > np.log1p(path.t[-1]) / 2


def row(path: flow.Trajectory, steps: flow.Trajectory, w: np.ndarray) -> dict[str, Any]:
    """Return what the table has of one data set and loss."""
    rest, log = late(path), np.log1p(path.t)
    angles, norms = angle(path.theta, w), np.linalg.norm(path.theta, axis=1)
    return {
        "angle": angles[-1],
        "slope of ln angle in ln ln t": np.polyfit(np.log(log[rest]), np.log(angles[rest]), 1)[0],
        "‖w‖/ln t": norms[-1] / log[-1],
        "d‖w‖/d ln t": np.polyfit(log[rest], norms[rest], 1)[0],
        "‖ŵ‖": np.linalg.norm(w),
        "gradients": path.units,
        "ln t of GD": np.log1p(steps.t[-1]),
        "angle of GD": angle(steps.theta[-1:], w)[0],
        "angle of the flow there": np.interp(np.log1p(steps.t[-1]), log[1:], angles[1:]),
    }


def runs_of(
    Z: np.ndarray, loss: str, config: Configuration
) -> tuple[flow.Trajectory, flow.Trajectory]:
    """Return the flow to t = e^log_t, and gradient descent as far as its steps take it."""
    objective = flow.Objective(lambda w, Z: LOSSES[loss](Z @ w), np.zeros(Z.shape[1]), Z)
    path = flow.integrate(
        objective, np.expm1(config.log_t), clock="log", save=config.save, progress=False, **TIGHT
    )
    rate = SHARE * 2.0 / flow.sharpness(objective, objective.params)
    steps = flow.descend(
        objective, rate, config.steps, save=config.save, spacing="log", progress=False
    )
    return path, steps


def draw(runs: dict[tuple[str, str], Any], config: Configuration) -> Any:
    """Return the angle and norm against ln t."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for (data, loss), (path, steps, w) in runs.items():
        colour = COLOURS[config.data.index(data) % len(COLOURS)]
        look = {"color": colour, "linestyle": "-" if loss == "logistic" else "--"}
        points = {"color": colour, "linestyle": "none", "markersize": 3.5, "markevery": 4}
        points["marker"] = MARKERS[list(LOSSES).index(loss)]
        points["markerfacecolor"] = colour if loss == "logistic" else "white"
        for run, style in ((path, look), (steps, points)):
            log = np.log1p(run.t)
            seen = log > 1.0
            norms = np.linalg.norm(run.theta, axis=1)
            axes[0].loglog(log[seen], angle(run.theta[seen], w), **style)
            axes[1].plot(log[seen], norms[seen] / np.linalg.norm(w), **style)
    log = np.array([10.0, config.log_t])
    axes[0].loglog(log, 0.6 / log, color="0.5", linewidth=1)
    axes[0].annotate(
        "1/ln t",
        (log[-1] / 2.0, 1.2 / log[-1]),
        xytext=(2, 4),
        textcoords="offset points",
        color="0.3",
    )
    axes[1].plot([0, config.log_t], [0, config.log_t], color="0.5", linewidth=1)
    axes[1].annotate(
        "ln t",
        (0.8 * config.log_t, 0.8 * config.log_t),
        xytext=(-28, 4),
        textcoords="offset points",
        color="0.3",
    )
    axes[0].set(ylabel="angle to the max-margin direction (radians)")
    axes[1].set(ylabel="norm ‖w‖/‖ŵ‖")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 60) if tick <= config.log_t]
    axes[0].set_xticks(ticks, [f"{tick}" for tick in ticks])
    for ax in axes:
        ax.set_xlabel("ln(1 + t), flow time t = learning rate × steps")
        ax.minorticks_off()
        ax.grid(visible=True, alpha=0.3)
    handles = [axes[1].plot([], [], color=COLOURS[i])[0] for i in range(len(config.data))]
    styles = [("-", "none", ""), ("none", "o", "black"), ("--", "none", ""), ("none", "s", "white")]
    handles += [
        axes[1].plot(
            [], [], color="black", linestyle=line, marker=mark, markerfacecolor=face or None
        )[0]
        for line, mark, face in styles
    ]
    names = [*config.data, "logistic, flow", "logistic, GD", "exponential, flow", "exponential, GD"]
    figure.legend(handles, names, loc="outside upper center", ncols=7, frameon=False)
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return flow and descent on every data set, by every loss."""
    if config.log_t < 10.0:  # noqa: PLR2004
        raise ValueError(f"--log-t must be at least 10 for slopes to show, got {config.log_t}")
    sets = {name: rows(name) for name in config.data}
    margins = {name: largest_margin(Z) for name, Z in sets.items()}
    cases = [(name, loss) for name in sets for loss in LOSSES]
    runs = {}
    for name, loss in tqdm(cases, desc="runs", disable=config.quiet):
        path, steps = runs_of(sets[name], loss, config)
        record.keep(f"{name}-{loss}-flow", path)
        record.keep(f"{name}-{loss}-descent", steps)
        runs[name, loss] = path, steps, margins[name]
    table = pd.DataFrame(
        [{"data": key[0], "loss": key[1], **row(*case)} for key, case in runs.items()]
    ).set_index(["data", "loss"])
    record.table("table", table)
    record.figure("figure", draw(runs, config))
    print(table.to_string(float_format="{:.5g}".format))


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"e{c.log_t:g}")
