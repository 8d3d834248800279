"""Adam, RMSProp and sign descent beside their flows, on digits.

Left: loss of the optimizers (points) and of their flows (lines) on the clock t = ηk. Middle:
relative distance at a fixed time against η, with slopes, at fixed β and at fixed relaxation times
τ = −η/ln β. Right: the norm of the second moment. Adam's flow is of order 1. RMSProp's at optax's
default ε = 1e-8 hardly converges: v starts at zero and forgets fast, and where an entry of ∇J
passes zero the speed 1/√(v + ε) has no bound that matters; a larger ε bounds it. Prints the table
and writes it with the figure and the runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tyro
from matplotlib.ticker import NullFormatter
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import new_run_folder, write_run

FAST, SLOW = 0.1, 10.0  # relaxation times, where they are fixed


@dataclass(frozen=True)
class Configuration:
    """Adam, RMSProp and sign descent beside their flows."""

    examples: int = 100
    """Digits to train on."""
    hidden: int = 8
    """Units of the hidden layer."""
    t: float = 0.3
    """Flow time, learning rate × steps."""
    rates: tuple[float, ...] = (5e-3, 2.5e-3, 1.25e-3, 6.25e-4)
    """Learning rates, at least two; the first is drawn on the left."""
    seed: int = 0
    """Seed of the initial weights."""
    out: Path = field(default=Path("results"))
    """Where run folders are made."""
    quiet: bool = False
    """No progress bar."""


def families(objective: flow.Objective) -> dict[str, Callable[[float], flow.Dynamics]]:
    """Dynamics by name, as functions of the learning rate."""
    return {
        "Adam": lambda eta: flow.AdamFlow(objective, eta),
        "Adam, τ fixed": lambda eta: flow.AdamFlow(
            objective, eta, exp(-eta / FAST), exp(-eta / SLOW)
        ),
        "RMSProp": lambda eta: flow.RMSPropFlow(objective, eta),
        "RMSProp, τ fixed, ε = 1e-4": lambda eta: flow.RMSPropFlow(
            objective, eta, exp(-eta / FAST), 1e-4
        ),
        "sign, δ = 0.01": lambda _: flow.SignFlow(objective, smoothing=0.01),
    }


def pair(dynamics: flow.Dynamics, eta: float, t: float, save: int) -> tuple[Any, Any]:
    """A flow and the optimizer that it models."""
    optimizer, time_step = dynamics.counterpart(eta)
    steps = flow.descend(
        dynamics.objective,
        optimizer=optimizer,
        time_step=time_step,
        steps=round(t / time_step),
        save=save,
        progress=False,
    )
    path = flow.integrate(
        dynamics, t, method="DOP853", rtol=1e-8, atol=1e-10, save=steps.t, progress=False
    )
    return path, steps


def measure(objective: flow.Objective, config: Configuration) -> tuple[pd.DataFrame, dict]:
    """Relative distances by family and learning rate, and the runs at the first of them."""
    distance, runs = {}, {}
    for name, make in tqdm(families(objective).items(), "families", disable=config.quiet):
        for i, eta in enumerate(config.rates):
            path, steps = pair(make(eta), eta, config.t, save=2 if i else 100)
            away = np.linalg.norm(path.theta[-1] - steps.theta[-1])
            distance[name, eta] = away / np.linalg.norm(path.theta[-1] - path.theta[0])
            if i == 0:
                runs[name] = path, steps
    table = pd.Series(distance).unstack(sort=False)  # noqa: PD010
    logs = np.log(table.to_numpy().T)
    table["slope"] = np.polyfit(np.log(config.rates), logs, 1)[0]
    return table, runs


def draw(table: pd.DataFrame, runs: dict, rates: tuple[float, ...]) -> Any:
    """Loss, order and second moment."""
    figure, (loss, order, moment) = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    handles = []
    for name, colour, marker in zip(table.index, COLOURS, MARKERS, strict=False):
        path, steps = runs[name]
        points = {"color": colour, "marker": marker, "markersize": 4, "linestyle": "none"}
        loss.semilogy(path.t, path.loss, color=colour)
        loss.semilogy(steps.t[::4], steps.loss[::4], **points)
        (handle,) = order.loglog(
            rates,
            table.loc[name, list(rates)],
            color=colour,
            marker=marker,
            label=f"{name}: {table.loc[name, 'slope']:.2f}",
        )
        handles.append(handle)
        if "nu" in path.state:
            norms = [np.linalg.norm(run.state["nu"], axis=1) for run in (path, steps)]
            moment.semilogy(path.t[1:], norms[0][1:], color=colour)
            moment.semilogy(steps.t[1::4], norms[1][1::4], **points)
    loss.set(xlabel=TIME_LABEL, ylabel="J", title=f"η = {rates[0]:g}")
    order.set(
        xlabel="learning rate η", ylabel="distance at the end,\nrelative to what the flow has moved"
    )
    moment.set(xlabel=TIME_LABEL, ylabel="norm of the second moment v")
    order.xaxis.set_minor_formatter(NullFormatter())
    for ax in (loss, order, moment):
        ax.grid(visible=True, alpha=0.3)
    figure.legend(
        handles=handles, loc="outside upper center", ncols=5, fontsize="small",
        title="lines: flows; points: optimizers; with the slope in η",
    )  # fmt: skip
    return figure


def main() -> None:
    """Run from the command line."""
    config = tyro.cli(Configuration, description=__doc__)
    mpl.use("Agg")
    X, y = flow.datasets.digits(config.examples)
    objective = flow.MLP([64, config.hidden, 10]).objective(X, y, seed=config.seed)
    folder = new_run_folder("adaptive", f"{objective.size}-parameters", config.out)
    table, runs = measure(objective, config)
    files = {
        f"{''.join(c if c.isalnum() else '_' for c in name)}_{kind}": run
        for name, both in runs.items()
        for kind, run in zip(("flow", "optimizer"), both, strict=True)
    }
    write_run(
        folder, config, files, {"adaptive": draw(table, runs, config.rates)}, {"table": table}
    )
    print(f"{objective.size} parameters; relative distance at t = {config.t:g} against η")
    print(table.to_string(float_format="{:.3g}".format))
    print(f"\nfigure: {folder / 'adaptive.png'}")


if __name__ == "__main__":
    main()
