"""The equation that gradient descent follows at the edge of stability, and others.

Gradient descent whose sharpness meets 2/η oscillates there, and its running average leaves the
gradient flow. Beside it, from the same weights and on the same clock t = ηk: the gradient flow, the
modified flow, the principal flow, and the central flow, which knows of the oscillation. How far is
each from averaged gradient descent, and do the central flow's predictions hold: of the mean loss,
of the mean squared gradient and of the oscillation's variance along the directions at the edge? On
a network of 300 parameters and a Chebyshev polynomial, where one direction is at the edge, and on
digits, where several are. Prints the tables and writes them with the figure and the runs.
"""

from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter
from tqdm import tqdm

import flow
from flow.plots import COLOURS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, whole_steps

# Descent is saved at every so-manieth step: odd, so that both sides of an oscillation are met.
STRIDE = 5


@dataclass(frozen=True)
class Configuration(Options):
    """The equation that gradient descent follows at the edge of stability, and others."""

    problems: Science[tuple[Literal["chebyshev", "digits"], ...]] = ("chebyshev", "digits")
    """Networks: 1-100-1 tanh on the Chebyshev polynomial of degree 3; 64-32-10 tanh on digits."""
    chebyshev_rate: Science[float] = 0.08
    """Learning rate on the polynomial."""
    chebyshev_t: Science[float] = 3000.0
    """Time to which it is trained, learning rate × steps."""
    chebyshev_k: Science[int] = 2
    """Directions that may be at the edge there."""
    digits_rate: Science[float] = 0.12
    """Learning rate on digits."""
    digits_t: Science[float] = 1000.0
    """Time to which they are trained, learning rate × steps."""
    digits_k: Science[int] = 3
    """Directions that may be at the edge there."""
    window: Science[float] = 20.0
    """Time over which gradient descent is averaged for distances, learning rate × steps."""
    burst: Science[float] = 300.0
    """Time over which losses and variances are averaged: the oscillation comes and goes."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    save: Science[int] = 201
    """Saved times of each flow."""
    principal_seconds: Science[float, 3600.0] = 10.0
    """Budget of the principal flow, which stiffens without end beyond the edge, in seconds."""


@dataclass(frozen=True)
class Problem:
    """An objective, the learning rate that is modelled, and how many directions may be critical."""

    objective: flow.Objective
    learning_rate: float
    t: float
    k: int


def problem(name: str, config: Configuration) -> Problem:
    """Return the problem of a name."""
    if name == "chebyshev":
        objective = flow.networks.chebyshev(3, seed=config.seed)
        return Problem(objective, config.chebyshev_rate, config.chebyshev_t, config.chebyshev_k)
    network = flow.MLP([64, 32, 10], activation="tanh", gain=0.5)
    objective = network.objective(*flow.datasets.digits(300), seed=config.seed)
    return Problem(objective, config.digits_rate, config.digits_t, config.digits_k)


def run(
    problem: str, of: Problem, config: Configuration, record: Record
) -> dict[str, flow.Trajectory]:
    """Return gradient descent and the four flows."""
    objective, eta = of.objective, of.learning_rate
    steps = whole_steps(f"--{problem}-rate", of.t, eta)
    stiff = {"method": "TSRKC3", "rtol": 1e-6}
    settings = {
        "gradient flow": (flow.GradientFlow(objective), stiff),
        "modified flow": (flow.ModifiedFlow(objective, eta), stiff),
        "principal flow": (
            flow.PrincipalFlow(objective, eta, of.k),
            {"rtol": 1e-5, "max_seconds": config.principal_seconds},
        ),
        "central flow": (flow.CentralFlow(objective, eta, of.k), {"rtol": 1e-4}),
    }
    descent = flow.descend(
        objective, eta, steps, save=np.arange(0, steps + 1, STRIDE) * eta,
        progress=not config.quiet,
    )  # fmt: skip
    runs = {"gradient descent": record.keep(f"{problem}-gradient_descent", descent)}
    for name, (dynamics, how) in tqdm(settings.items(), "flows", disable=config.quiet):
        path = flow.integrate(dynamics, of.t, save=config.save, engine="jax", progress=False, **how)
        runs[name] = record.keep(f"{problem}-{name.replace(' ', '_')}", path)
    return runs


def moving_mean(t: np.ndarray, values: np.ndarray, at: np.ndarray, width: float) -> np.ndarray:
    """Return the mean of the rows of `values` within width/2 of each time in `at`."""
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    first, end = (np.searchsorted(t, at + s * width / 2.0) for s in (-1, 1))
    end = np.maximum(end, first + 1)
    count = (end - first).reshape(-1, *[1] * (values.ndim - 1))
    return (total[end] - total[first]) / count


def distances(runs: dict[str, flow.Trajectory], window: float) -> dict[str, np.ndarray]:
    """Return ‖θ − mean of gradient descent‖ at the flows' times with a whole window around."""
    descent = runs["gradient descent"]
    found = {}
    for name, path in list(runs.items())[1:]:
        t = path.t[(path.t >= window / 2) & (path.t <= descent.t[-1] - window / 2)]
        mean = moving_mean(descent.t, descent.theta, t, window)
        found[name] = np.c_[t, np.linalg.norm(path.theta[np.isin(path.t, t)] - mean, axis=1)].T
    return found


def oscillation(descent: flow.Trajectory, central: flow.Trajectory, window: float) -> np.ndarray:
    """Return the squared deviation of each saved step from the running mean.

    Those of the nearest saved time of the central flow, as many as oscillate there.
    """
    away = descent.theta - moving_mean(descent.t, descent.theta, descent.t, window)
    nearest = np.abs(descent.t[:, None] - central.t).argmin(axis=1)
    values, turn = np.linalg.eigh(central.state["X"])
    edge = np.einsum("tnk,tkl->tnl", central.state["V"], turn)
    live = values > 1e-6 * values.max(axis=1, keepdims=True).clip(1e-300)
    along = np.einsum("tn,tnl->tl", away, edge[nearest])
    return np.sum(along**2 * live[nearest], axis=1)


def measured_and_predicted(
    runs: dict[str, flow.Trajectory], config: Configuration
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return what gradient descent does at its saved steps and what the central flow says."""
    descent, central = runs["gradient descent"], runs["central flow"]
    return {
        "loss": (descent.loss, central.state["mean_loss"]),
        "squared gradient": (
            descent.gradient_norm**2,
            central.state["mean_squared_gradient"],
        ),
        "variance at the edge": (
            oscillation(descent, central, config.window),
            np.trace(central.state["X"], axis1=1, axis2=2),
        ),
    }


def distance_table(of: Problem, runs: dict[str, flow.Trajectory], window: float) -> pd.DataFrame:
    """Tabulate how far each flow ends from averaged descent, over the last tenth of the run."""
    limit, found = 2.0 / of.learning_rate, distances(runs, window)
    whole = {name: d[1, d[0] > 0.9 * of.t] for name, d in found.items()}
    base = whole["gradient flow"].mean()
    rows = {}
    for name, path in list(runs.items())[1:]:
        late = whole[name].mean() if len(whole[name]) else np.nan
        top = flow.sharpness(of.objective, path.params(-1))
        rows[name] = {
            "distance": late,
            "over the gradient flow's": late / base,
            "sharpness · η/2": top / limit,
            "gradients": path.stats["gradients"] + 2 * path.stats["hvps"],
            "seconds": path.stats["seconds"],
            "ended": path.result.split(":")[0],
        }
    return pd.DataFrame(rows).T


def prediction_table(runs: dict[str, flow.Trajectory], config: Configuration) -> pd.DataFrame:
    """Return predicted over measured means, from the edge to the end; a run too short has none."""
    descent, central = runs["gradient descent"], runs["central flow"]
    at_edge = central.t[central.state["critical"] > 0]
    start = at_edge[0] + config.window if len(at_edge) else np.inf
    rows = {}
    for name, (measured, predicted) in measured_and_predicted(runs, config).items():
        whole = (descent.t > start) & (descent.t < descent.t[-1] - config.window / 2)
        on = (central.t > start) & (central.t < descent.t[-1] - config.window / 2)
        if descent.t[-1] - start >= config.burst:
            means = measured[whole].mean(), predicted[on].mean()
            rows[name] = {"measured": means[0], "predicted": means[1], "ratio": means[1] / means[0]}
    frame = pd.DataFrame(rows).T
    frame.attrs["from"] = start
    return frame


def draw(
    problems: dict[str, Problem], runs: dict[str, dict[str, flow.Trajectory]], config: Configuration
) -> Any:
    """Return a row for each problem: distance, sharpness, loss, variance."""
    titles = {"chebyshev": "Chebyshev polynomial", "digits": "digits"}
    figure, axes = plt.subplots(
        len(problems), 4, figsize=(15, 3.6 * len(problems)), layout="constrained", squeeze=False
    )
    for row, (name, of) in zip(axes, problems.items(), strict=True):
        found = runs[name]
        descent, central = found["gradient descent"], found["central flow"]
        distance, sharp, loss, variance = row
        for (flow_name, d), colour in zip(
            distances(found, config.window).items(), COLOURS, strict=False
        ):
            distance.semilogy(*d, color=colour, label=flow_name)
        distance.set(
            ylabel="distance to averaged GD", title=f"{titles[name]}, η = {of.learning_rate:g}"
        )
        distance.set_ylim(1e-4, 10.0)  # the principal flow leaves upwards
        limit = 2.0 / of.learning_rate
        sharp.plot(central.t, central.state["eigenvalues"][:, : of.k + 1], color=COLOURS[3])
        sharp.axhline(limit, color="k", linestyle=":", label="2/η")
        sharp.set(ylabel="curvature", title=f"top {of.k + 1} eigenvalues, central flow")
        series = measured_and_predicted(found, config)
        for ax, key in ((loss, "loss"), (variance, "variance at the edge")):
            measured, predicted = series[key]
            at = np.linspace(config.burst / 2, of.t - config.burst / 2, 200)
            if key == "loss":
                ax.plot(descent.t[::7], measured[::7], ".", color="0.75", ms=2, label="GD")
            mean = moving_mean(descent.t, measured, at, config.burst)
            ax.plot(at, mean, color="k", linewidth=3, alpha=0.5, label="GD, averaged")
            mean = moving_mean(central.t, predicted, at, config.burst)
            ax.plot(at, mean, color=COLOURS[3], linestyle="--", label="central flow")
        loss.plot(
            found["gradient flow"].t, found["gradient flow"].loss, color=COLOURS[0], linewidth=1,
            label="gradient flow",
        )  # fmt: skip
        loss.set(ylabel="loss J", yscale="log", title=f"averages over {config.burst:g}")
        loss.yaxis.set_minor_formatter(NullFormatter())
        variance.set(ylabel="variance", title="oscillation at the edge")
        for ax in row:
            ax.set_xlabel(TIME_LABEL)
            ax.grid(visible=True, alpha=0.3)
            ax.legend(fontsize="small", loc="lower right" if ax is sharp else "best")
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return gradient descent and the four flows on every problem."""
    problems = {name: problem(name, config) for name in config.problems}
    for name, of in problems.items():
        whole_steps(f"--{name}-rate", of.t, of.learning_rate)
    runs = {name: run(name, of, config, record) for name, of in problems.items()}
    for name, of in problems.items():
        far = distance_table(of, runs[name], config.window)
        means = prediction_table(runs[name], config)
        record.table(f"{name}-distance", far)
        record.table(f"{name}-prediction", means)
        print(f"\n{name}: {of.objective.size} parameters, η = {of.learning_rate:g}, t = {of.t:g}")
        print(far.to_string(float_format="{:.4g}".format))
        if len(means):
            print(f"\ncentral flow, means from t = {means.attrs['from']:g} to the end")
            print(means.to_string(float_format="{:.4g}".format))
    record.figure("central_flow", draw(problems, runs, config))


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: "-".join(c.problems))
