"""Flows that gradient descent follows to higher order, measured on digits.

Gradient descent stays within η of the gradient flow at a fixed time, within η² of the modified flow
of order 2 and of the principal flow, within η³ of that of order 3; after one step within one power
more. Left: distance at the fixed time against η. Right: distance along t at half the stability
limit. Prints both tables and writes them with the figure and every run of the right panel.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, whole_steps


@dataclass(frozen=True)
class Configuration(Options):
    """Flows that gradient descent follows to higher order."""

    examples: Science[int] = 200
    """Digits to train on."""
    hidden: Science[int] = 16
    """Units of the hidden layer."""
    t: Science[float] = 2.0
    """The fixed time of the left panel, learning rate × steps."""
    shares: Science[tuple[float, ...]] = (0.2, 0.1, 0.05, 0.025)
    """Learning rates of the left panel, as shares of 2/λ_max(θ₀); at least two."""
    t_along: Science[float] = 20.0
    """Flow time of the right panel."""
    share: Science[float] = 0.5
    """Learning rate of the right panel, as a share of 2/λ_max(θ₀)."""
    k: Science[int] = 5
    """Eigenpairs that the principal flow tracks."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    save: Science[int] = 60
    """Number of saved times along the right panel."""


def flows(objective: flow.Objective, eta: float, k: int) -> dict[str, flow.Dynamics]:
    """Return models of gradient descent at a learning rate, by name."""
    return {
        "gradient flow": flow.GradientFlow(objective),
        "modified, order 2": flow.ModifiedFlow(objective, eta),
        "modified, order 3": flow.ModifiedFlow(objective, eta, order=3),
        "principal": flow.PrincipalFlow(objective, eta, k=k),
    }


def orders(objective: flow.Objective, config: Configuration) -> dict[str, flow.OrderStudy]:
    """Return distances at the fixed time, and after one step, for every flow."""
    rates = flow.auto_learning_rates(objective, config.shares)
    models = flows(objective, float(rates[0]), config.k)
    return {
        name: flow.order_study(dynamics, config.t, rates, progress=False)
        for name, dynamics in tqdm(models.items(), "orders", disable=config.quiet)
    }


def along(objective: flow.Objective, config: Configuration, record: Record) -> dict[str, Any]:
    """Return gradient descent near the limit, and distances of the flows from it along t."""
    limit = float(flow.auto_learning_rates(objective, [config.share])[0])
    steps = whole_steps("--share", config.t_along, limit)
    eta = config.t_along / steps
    descent = flow.descend(objective, eta, steps, save=config.save, spacing="log", progress=False)
    runs = {"gradient descent": record.keep("gradient descent", descent)}
    for name, dynamics in tqdm(
        flows(objective, eta, config.k).items(), "flows", disable=config.quiet
    ):
        path = flow.integrate(
            dynamics, config.t_along, rtol=1e-7, atol=1e-10, save=descent.t, progress=False
        )
        runs[name] = record.keep(name, path)
    return runs


def distances(runs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return ‖θ_GD − θ_flow‖ over ‖θ_GD − θ₀‖ for every flow."""
    descent = runs["gradient descent"]
    moved = np.linalg.norm(descent.theta[1:] - descent.theta[0], axis=1)
    return {
        name: np.linalg.norm(run.theta[1:] - descent.theta[1:], axis=1) / moved
        for name, run in runs.items()
        if run is not descent
    }


def draw(studies: dict[str, flow.OrderStudy], runs: dict[str, Any], share: float) -> Any:
    """Return both panels."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for (name, study), colour, marker in zip(studies.items(), COLOURS, MARKERS, strict=False):
        left.loglog(
            study.learning_rates,
            study.distance,
            color=colour,
            marker=marker,
            label=f"{name}: {study.slope:.2f}, one step {study.one_step_slope:.2f}",
        )
    left.set(xlabel="learning rate η", ylabel=f"‖θ_GD − θ_flow‖ at t = {study.t:g}")
    left.set_ylim(bottom=left.get_ylim()[0] / 50)  # room for the legend
    left.xaxis.set_minor_formatter(NullFormatter())
    left.legend(title="slopes", fontsize="small", loc="lower right")
    t = runs["gradient descent"].t[1:]
    for (name, distance), colour in zip(distances(runs).items(), COLOURS, strict=False):
        right.loglog(t, distance, color=colour, label=name)
    right.set(
        xlabel=TIME_LABEL,
        ylabel="distance to gradient descent,\nrelative to what that has moved",
        title=f"η = {share:g} · 2/λ_max(θ₀)",
    )
    right.legend(fontsize="small")
    for ax in (left, right):
        ax.grid(visible=True, alpha=0.3)
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return orders at a fixed time, and distances along t."""
    X, y = flow.datasets.digits(config.examples)
    objective = flow.MLP([64, config.hidden, 10]).objective(X, y, seed=config.seed)
    studies, runs = orders(objective, config), along(objective, config, record)
    slopes = pd.DataFrame(
        {name: {"slope": s.slope, "one step": s.one_step_slope} for name, s in studies.items()}
    ).T
    final = pd.DataFrame(
        {"relative distance": {name: d[-1] for name, d in distances(runs).items()}}
    )
    record.table("slopes", slopes)
    record.table("final", final)
    record.figure("modified_flows", draw(studies, runs, config.share))
    print(f"{objective.size} parameters; distance at t = {config.t:g} against η")
    print(slopes.to_string(float_format="{:.3f}".format))
    print(f"\nat t = {config.t_along:g}, η = {config.share:g} of the stability limit")
    print(final.to_string(float_format="{:.2e}".format))


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
