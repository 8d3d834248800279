"""Adam, RMSProp and sign descent beside their flows, on a network on handwritten digits.

Each optimizer is run from the same weights to the same time t = ηk at ever smaller η, and compared
with its flow (`flow.AdamFlow`, `flow.RMSPropFlow`, `flow.SignFlow`). With β fixed, as practice has
it, the relaxation times −η/ln β shrink with η and each η has a flow of its own; with τ fixed, at
what it is for the default β at the largest η, β = e^{−η/τ} and one flow is the limit of them all.
RMSProp is run at its default ε = 1e-8 and at a larger one; sign descent with its jumps, against
the same at a much smaller step, and smoothed. Orders are read between neighbouring η: RMSProp
with a small ε oscillates until η is below 2√ε/λ_max(∇²J).

Prints distances, orders, losses and moments; writes a figure, the tables, the runs at the largest η
and the configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, uninterrupted

# The flow's own error is no part of what is measured.
TIGHT = {"rtol": 1e-7, "atol": 1e-11}
# Sign descent is followed by the same at a step so much smaller.
FINER = 4
# Learning rates that are drawn against time, largest first.
SHOWN = 3


@dataclass(frozen=True)
class Configuration(Options):
    """Adam, RMSProp and sign descent beside their flows."""

    examples: Science[int] = 300
    """Number of digits to train on, of 1,797."""
    hidden: Science[tuple[int, ...]] = (32,)
    """Units of each hidden layer."""
    t: Science[float] = 0.05
    """Flow time, learning rate × steps; an entry of θ moves by about t."""
    steps: Science[tuple[int, ...]] = (50, 200, 800, 3200, 12800)
    """Numbers of steps to t, at least two, fewest first; η = t/steps."""
    eps: Science[float, 1.0] = 1e-4
    """The larger ε of RMSProp, in units of ∇J²."""
    smoothing: Science[float, 1.0] = 1e-2
    """δ of the smoothed sign descent, in units of ∇J."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    save: Science[int] = 51
    """Number of saved times of each run."""


@dataclass(frozen=True)
class Pairing:
    """An optimizer and its flow.

    Parameters
    ----------
    make
        The flow at a learning rate η, given η over the largest η.
    one_flow
        Whether the flow is the same for all η.
    """

    make: Callable[[float, float], flow.Dynamics]
    one_flow: bool


def pairings(objective: flow.Objective, config: Configuration) -> dict[str, Pairing]:
    """Return what is compared, by name; β to the power η/η_max keeps the time −η/ln β."""
    adam, rmsprop, eps = flow.AdamFlow, flow.RMSPropFlow, config.eps
    return {
        "Adam, β fixed": Pairing(lambda eta, _: adam(objective, eta), one_flow=False),
        "Adam, τ fixed": Pairing(
            lambda eta, share: adam(objective, eta, 0.9**share, 0.999**share), one_flow=True
        ),
        "RMSProp, β fixed": Pairing(lambda eta, _: rmsprop(objective, eta), one_flow=False),
        "RMSProp, τ fixed": Pairing(
            lambda eta, share: rmsprop(objective, eta, 0.9**share), one_flow=True
        ),
        f"RMSProp ε = {eps:g}, β fixed": Pairing(
            lambda eta, _: rmsprop(objective, eta, eps=eps), one_flow=False
        ),
        "sign descent": Pairing(lambda *_: flow.SignFlow(objective), one_flow=True),
        f"sign descent, δ = {config.smoothing:g}": Pairing(
            lambda *_: flow.SignFlow(objective, config.smoothing), one_flow=True
        ),
    }


def descents(pairing: Pairing, config: Configuration) -> dict[float, flow.Trajectory]:
    """Return the optimizer's run at each learning rate."""
    runs = {}
    for steps in config.steps:
        eta = config.t / steps
        dynamics = pairing.make(eta, config.steps[0] / steps)
        optimizer, time_step = dynamics.counterpart(eta)
        run = flow.descend(
            dynamics.objective,
            optimizer=optimizer,
            time_step=time_step,
            steps=steps,
            save=config.save,
            progress=False,
        )
        runs[eta] = uninterrupted(run)
    return runs


def flows(
    pairing: Pairing, runs: dict[float, flow.Trajectory], config: Configuration
) -> dict[float, flow.Trajectory]:
    """Return the flow of each run, saved at its times."""

    def integrate(eta: float, *beside: flow.Trajectory) -> flow.Trajectory:
        dynamics = pairing.make(eta, eta / max(runs))
        method = TIGHT
        if not dynamics.continuous:
            step = min(runs) / FINER
            method = {"method": "Euler", "engine": "jax", "step": step}
        times = np.unique(np.concatenate([np.minimum(run.t, config.t) for run in beside]))
        path = flow.integrate(dynamics, config.t, save=times, progress=False, **method)
        return uninterrupted(path)

    if pairing.one_flow:
        return dict.fromkeys(runs, integrate(max(runs), *runs.values()))
    return {eta: integrate(eta, run) for eta, run in runs.items()}


def orders(distance: pd.DataFrame) -> pd.DataFrame:
    """Return slopes in log–log from each learning rate to the next larger one."""
    slopes = np.diff(np.log(distance), axis=0) / np.diff(np.log(distance.index))[:, None]
    return pd.DataFrame(slopes, index=distance.index[1:], columns=distance.columns)


def draw(compared: dict[str, dict[float, flow.Comparison]], distance: pd.DataFrame) -> Any:
    """Return losses and distances against time, moments, and distances against η."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 7.6), layout="constrained")
    drawn = [name for name in compared if name in (*list(compared)[:3:2], list(compared)[-1])]
    for ax, name in zip(axes[0], drawn, strict=True):
        draw_losses(ax, name, compared[name])
        ax.sharey(axes[0, 0])
    draw_distances(axes[1, 0], {name: compared[name] for name in drawn})
    draw_moments(axes[1, 1], {name: compared[name] for name in drawn[:2]})
    draw_orders(axes[1, 2], distance)
    for ax in axes.flat:
        ax.grid(visible=True, alpha=0.3)
    handles, labels = axes[1, 2].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        title="distances at the end, and their order at the smallest two η",
    )
    return figure


def draw_losses(ax: Any, name: str, comparisons: dict[float, flow.Comparison]) -> None:
    """Draw flows as lines and optimizers as points; a colour a learning rate."""
    for i, (eta, comparison) in enumerate(list(comparisons.items())[:SHOWN]):
        (pair,) = comparison.pairs
        ax.semilogy(comparison.reference.t, comparison.reference.loss, color=COLOURS[i])
        look = {"marker": MARKERS[i], "markersize": 3.5, "linestyle": "none"}
        every = max(1, len(pair.t) // 25)
        ax.semilogy(
            pair.t, pair.loss, color=COLOURS[i], markevery=every, **look, label=f"η = {eta:.2g}"
        )
    ax.plot([], [], color="0.4", label="its flow")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set(title=name, xlabel=TIME_LABEL, ylabel="loss J")
    ax.legend()


def draw_distances(ax: Any, drawn: dict[str, dict[float, flow.Comparison]]) -> None:
    """Draw distances at the learning rates of the losses, the smaller the paler."""
    for i, (name, comparisons) in enumerate(drawn.items()):
        for j, comparison in enumerate(list(comparisons.values())[:SHOWN]):
            label = name if j == 0 else "_"
            t, distance = comparison.t[1:], comparison.distance[1:]
            ax.semilogy(t, distance, color=COLOURS[i], alpha=1 - 0.3 * j, label=label)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
    ax.set(
        title="distances, the paler the smaller η",
        xlabel=TIME_LABEL,
        ylabel="distance ‖θ − θ_flow‖",
    )
    ax.legend(loc="upper left")


def draw_moments(ax: Any, drawn: dict[str, dict[float, flow.Comparison]]) -> None:
    """Draw norms of the moments at the largest learning rate."""
    i = 0
    for name, comparisons in drawn.items():
        comparison = next(iter(comparisons.values()))
        path, run = comparison.reference, comparison.pairs[0].run
        for moment, symbol in {"mu": "m", "nu": "v"}.items():
            if moment not in run.state:
                continue
            norms = [np.linalg.norm(x.state[moment], axis=1) for x in (path, run)]
            ax.semilogy(path.t[1:], norms[0][1:], color=COLOURS[i])
            look = {"marker": MARKERS[i], "markersize": 3.5, "linestyle": "none"}
            optimizer = name.split(",")[0]
            label = f"‖{symbol}‖ of {optimizer}"
            every = max(1, len(run.t) // 25)
            ax.semilogy(
                run.t[1:], norms[1][1:], color=COLOURS[i], **look, markevery=every, label=label
            )
            i += 1
    eta = max(next(iter(drawn.values())))
    ax.plot([], [], color="0.4", label="of its flow")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.5)
    ax.set(title=f"moments at η = {eta:.2g}", xlabel=TIME_LABEL, ylabel="norm")
    ax.legend(loc="upper right")


def draw_orders(ax: Any, distance: pd.DataFrame) -> None:
    """Draw distances against η, a colour an optimizer, dashed where τ is fixed."""
    colours: dict[str, str] = {}
    last = orders(distance).iloc[-1]
    for name, column in distance.items():
        optimizer = name.split(", β")[0].split(", τ")[0]
        colour = colours.setdefault(optimizer, COLOURS[len(colours)])
        look = {"marker": MARKERS[list(colours).index(optimizer)], "markersize": 4}
        style = "--" if "τ" in name else "-"
        label = f"{name}: {last[name]:.2f}"
        ax.loglog(distance.index, column, color=colour, linestyle=style, **look, label=label)
    ax.set(title="distances at the end", xlabel="learning rate η", ylabel="distance ‖θ − θ_flow‖")


def experiment(config: Configuration, record: Record) -> str | None:
    """Return descents and flows of every pairing, and their distances."""
    if len(config.steps) < 2 or np.any(np.diff(config.steps) <= 0):  # noqa: PLR2004
        raise ValueError(f"--steps needs two numbers for a slope, fewest first, got {config.steps}")
    objective = flow.MLP([64, *config.hidden, 10]).objective(
        *flow.datasets.digits(config.examples), seed=config.seed
    )
    compared: dict[str, dict[float, flow.Comparison]] = {}
    bar = tqdm(pairings(objective, config).items(), desc="pairings", disable=config.quiet)
    for i, (name, pairing) in enumerate(bar, 1):
        runs = descents(pairing, config)
        paths = flows(pairing, runs, config)
        largest = max(runs)
        record.keep(f"flow-{i}", paths[largest])
        record.keep(f"descent-{i}", runs[largest])
        compared[name] = {
            eta: flow.compare(paths[eta], run, error_bar=False) for eta, run in runs.items()
        }
    distance = distances(compared)
    tables = {
        "distances": distance,
        "orders": orders(distance),
        "losses": losses(compared),
        "moments": moments(compared),
    }
    record.figure("figure", draw(compared, distance))
    for name, table in tables.items():
        record.table(name, table)
        print(name)
        # A row an optimizer, so that it fits on a screen.
        print(f"{table.rename(index='{:.2g}'.format).T.to_string(float_format='{:.3g}'.format)}\n")


def distances(compared: dict[str, dict[float, flow.Comparison]]) -> pd.DataFrame:
    """Return ‖θ − θ_flow‖ at the end, a row a learning rate."""
    ends = {
        name: pd.Series({eta: comparison.distance[-1] for eta, comparison in of.items()})
        for name, of in compared.items()
    }
    return pd.DataFrame(ends).rename_axis("η").sort_index(ascending=False)


def losses(compared: dict[str, dict[float, flow.Comparison]]) -> pd.DataFrame:
    """Return J at the end, of the optimizer and of its flow, a row a learning rate."""
    columns = {}
    for name, of in compared.items():
        columns[name] = pd.Series({eta: pair.pairs[0].loss[-1] for eta, pair in of.items()})
        columns[f"flow of {name}"] = columns[name] - pd.Series(
            {eta: pair.loss_gap[-1] for eta, pair in of.items()}
        )
    return pd.DataFrame(columns).rename_axis("η").sort_index(ascending=False)


def moments(compared: dict[str, dict[float, flow.Comparison]]) -> pd.DataFrame:
    """Return relative distance at the end of each moment from the flow's, a row a learning rate."""
    columns = {}
    for name, of in compared.items():
        for moment in ("mu", "nu"):
            gaps = {}
            for eta, comparison in of.items():
                path, run = comparison.reference, comparison.pairs[0].run
                if moment in run.state:
                    reference = path.state[moment][-1]
                    gap = np.linalg.norm(run.state[moment][-1] - reference)
                    gaps[eta] = gap / np.linalg.norm(reference)
            if gaps:
                columns[f"{moment} of {name}"] = pd.Series(gaps)
    return pd.DataFrame(columns).rename_axis("η").sort_index(ascending=False)


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
