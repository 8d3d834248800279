"""Vanishing and exploding gradients: the norm of ∂J/∂W_l in each layer, at θ₀ and along the flow.

The backward pass multiplies by σ′W once a layer. Where σ saturates, or is a sigmoid with
σ′ ≤ 1/4, the product dies out on its way to the first layers; where the weights are large it
blows up. A ReLU network without biases scales with each of its W_l, so that ⟨W_l, ∂J/∂W_l⟩ is the
same in every layer (Euler's theorem): its layers vanish or explode together. Deep networks of
64-w-...-w-10 on handwritten digits with softmax cross-entropy, whose ∂J/∂Z_L is bounded.

Smooth networks are followed by DOP853, up to a budget of gradients. ReLU networks, at whose kinks
error-controlled methods stall, are followed by a number of RK4 steps, at first of at most
1/λ_max(θ₀). Sharpness rises on the way, so a run is believed only if it keeps the energy identity
to 5 %; if not, it is repeated at a tighter tolerance, or with as many steps a tenth as long. Where
gradients explode neither gets far: the table says to which t, and with which residual. Prints a
table, writes two figures, the tables and the configuration.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, uninterrupted

# Times are saved evenly in log t over so many decades, as networks move at very different paces.
DECADES = 5
# Largest energy residual of a run that is believed, and how often it is tried.
RESIDUAL, ATTEMPTS = 0.05, 6


@dataclass(frozen=True)
class Configuration(Options):
    """The norm of ∂J/∂W_l in each layer, at θ₀ and along the flow."""

    depths: Science[tuple[int, ...]] = (2, 5, 10, 20, 50)
    """Numbers of layers."""
    activations: Science[tuple[Literal["sigmoid", "tanh", "relu"], ...]] = (
        "sigmoid",
        "tanh",
        "relu",
    )
    """Activations of the hidden layers: a row of panels each."""
    inits: Science[tuple[Literal["normal", "lecun", "xavier", "he"], ...]] = (
        "normal",
        "xavier",
        "he",
    )
    """Initialisations, see flow.MLP: a column of panels each."""
    width: Science[int] = 16
    """Units of each hidden layer."""
    examples: Science[int] = 100
    """Number of digits to train on."""
    t: Science[float] = 10.0
    """Flow time, learning rate × steps."""
    gradients: Science[int] = 3000
    """Budget of a smooth network's flow."""
    steps: Science[int] = 200
    """Steps of a ReLU network's flow."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    save: Science[int] = 52
    """Number of saved times, t = 0 and then evenly in log t."""


def layer_norms(objective: flow.Objective, params: Any) -> np.ndarray:
    """Return norms of ∂J/∂W_l (layers,), first layer first."""
    return np.array([np.linalg.norm(layer["W"]) for layer in objective.gradient(params)])


def follow(
    config: Configuration, activation: str, init: str, depth: int, data: tuple[Any, Any]
) -> flow.Trajectory:
    """Return the flow of one network, with the norms of its layers at the saved times.

    It is the first attempt that keeps the energy identity, or the last one.
    """
    sizes = [64, *[config.width] * (depth - 1), 10]
    network = flow.MLP(sizes, activation, init=init)
    objective = network.objective(*data, loss="cross_entropy", seed=config.seed)
    observe = {"layers": layer_norms}
    for t, settings in attempts(config, objective):
        save = np.concatenate([[0.0], np.geomspace(10.0**-DECADES, 1.0, config.save - 1) * t])
        path = flow.integrate(objective, t, save=save, observe=observe, progress=False, **settings)
        if abs(flow.audit(uninterrupted(path)).energy_residual) < RESIDUAL:
            break
    return path


def attempts(
    config: Configuration, objective: flow.Objective
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield to which time to integrate and how, ever more carefully."""
    if objective.smooth:
        for rtol in (1e-6, 1e-8, 1e-10, 1e-12):
            budget = {"max_gradients": config.gradients}
            yield config.t, {"rtol": rtol, "atol": 1e-3 * rtol, **budget}
        return
    top = flow.sharpness(objective, objective.params)
    step = config.t / max(config.steps, config.t * top)
    for _ in range(ATTEMPTS):
        yield config.steps * step, {"method": "RK4", "step": step}
        step /= 10


def row(path: flow.Trajectory) -> dict[str, Any]:
    """Return what the table has of one run."""
    norms = path.observed["layers"]
    return {
        "first layer": norms[0, 0],
        "last layer": norms[0, -1],
        "first/last": norms[0, 0] / norms[0, -1],
        "loss": path.loss[0],
        "t": path.t[-1],
        "first layer at t": norms[-1, 0],
        "last layer at t": norms[-1, -1],
        "loss at t": path.loss[-1],
        "energy residual": flow.audit(path).energy_residual,
        "gradients": path.stats["gradients"],
        "result": path.result,
    }


def panels(config: Configuration, **shared: str) -> tuple[Any, Any]:
    """Return a panel for each activation and initialisation."""
    rows, columns = len(config.activations), len(config.inits)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(0.8 + 3.1 * columns, 1.0 + 2.5 * rows),
        layout="constrained",
        squeeze=False,
        **shared,
    )
    for i, activation in enumerate(config.activations):
        for j, init in enumerate(config.inits):
            axes[i, j].set(yscale="log", title=f"{activation}, {init}")
            axes[i, j].yaxis.set_major_locator(LogLocator(numticks=7))
            axes[i, j].yaxis.set_minor_locator(NullLocator())
            axes[i, j].grid(visible=True, alpha=0.3)
    return figure, axes


def label(figure: Any, axes: Any, x: str, y: str) -> None:
    """Write one label for all abscissas and one for all ordinates, and one legend."""
    figure.supxlabel(x, fontsize="medium")
    figure.supylabel(y, fontsize="medium")
    handles = {h.get_label(): h for h in axes[0, 0].get_lines() if h.get_label()[0] != "_"}
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=7, frameon=False
    )


def draw_layers(paths: dict[tuple, flow.Trajectory], config: Configuration) -> Any:
    """Draw the norm against the layer's place, at θ₀ (points) and at the flow's end (dashed)."""
    figure, axes = panels(config, sharex="all", sharey="row")
    for (activation, init, depth), path in paths.items():
        ax = axes[config.activations.index(activation), config.inits.index(init)]
        i = config.depths.index(depth)
        place, norms = np.linspace(0, 1, depth), path.observed["layers"]
        look = {"color": COLOURS[i % len(COLOURS)]}
        mark = {"marker": MARKERS[i % len(MARKERS)], "markersize": 3.5}
        mark["markevery"] = max(1, depth // 10)
        # A layer whose gradient is exactly zero has no place on a logarithmic axis.
        start, end = (np.where(n > 0, n, np.nan) for n in (norms[0], norms[-1]))
        ax.plot(place, start, **look, **mark, label=f"{depth} layers")
        ax.plot(place, end, **look, linestyle="--", linewidth=1)
    axes[0, 0].plot([], [], color="0.4", linestyle="--", linewidth=1, label="end of the flow")
    axes[-1, 0].set_xticks([0, 1], ["first", "last"])
    label(figure, axes, "layer", "norm of ∂J/∂W in the layer, at θ₀ and at the end of the flow")
    return figure


def draw_along(paths: dict[tuple, flow.Trajectory], config: Configuration) -> Any:
    """Return the norm in the first layer against time."""
    figure, axes = panels(config, sharey="row")
    for (activation, init, depth), path in paths.items():
        ax = axes[config.activations.index(activation), config.inits.index(init)]
        i = config.depths.index(depth)
        first = path.observed["layers"][1:, 0]
        first = np.where(first > 0, first, np.nan)
        ax.loglog(path.t[1:], first, color=COLOURS[i % len(COLOURS)], label=f"{depth} layers")
        if not np.isclose(path.t[-1], config.t):  # where a run had to end early
            ax.plot(path.t[-1], first[-1], color=COLOURS[i % len(COLOURS)], marker="x")
        ax.xaxis.set_major_locator(LogLocator(numticks=5))
        ax.xaxis.set_minor_locator(NullLocator())
    label(figure, axes, f"{TIME_LABEL} (×: ended early)", "norm of ∂J/∂W in the first layer")
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Follow every network."""
    data = flow.datasets.digits(config.examples)
    cases = [
        (activation, init, depth)
        for activation in config.activations
        for init in config.inits
        for depth in config.depths
    ]
    paths = {
        case: follow(config, *case, data)
        for case in tqdm(cases, desc="networks", disable=config.quiet)
    }
    index = ["activation", "init", "depth"]
    table = pd.DataFrame(
        {**dict(zip(index, case, strict=True)), **row(path)} for case, path in paths.items()
    ).set_index(index)
    layers = pd.DataFrame(
        {**dict(zip(index, case, strict=True)), "t": t, "layer": l, "norm": norm}
        for case, path in paths.items()
        for t, norms in zip(path.t, path.observed["layers"], strict=True)
        for l, norm in enumerate(norms, 1)
    ).set_index([*index, "t", "layer"])
    record.table("table", table)
    record.table("layers", layers)
    record.figure("layers", draw_layers(paths, config))
    record.figure("along", draw_along(paths, config))
    shown = table.drop(columns=["gradients", "result"])
    print(shown.to_string(float_format=lambda x: f"{x:.2g}"))


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
