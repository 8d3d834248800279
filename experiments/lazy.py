"""Lazy training: how near a network of growing width stays to its linearisation.

A network 64-m-1 in the NTK parameterisation learns digits, below five or not, by gradient flow from
several seeds. Beside it moves the network linearised at θ₀, in closed form by its tangent kernel.
Their distance at a fixed time, relative to what the linearised one has moved, falls as 1/m in the
outputs and as 1/√m in the parameters. Prints a table and writes it with a figure and every run.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

import flow
from flow.dynamics import tangent_kernel
from flow.plots import COLOURS
from flow.records import Options, Record, Science, run_experiment, uninterrupted

WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Configuration(Options):
    """The distance of networks of growing width from their linearisation."""

    widths: Science[tuple[int, ...]] = WIDTHS
    """Numbers m of hidden units, at least two."""
    seeds: Science[int] = 20
    """Initialisations of each width."""
    examples: Science[int] = 20
    """Digits to learn."""
    t: Science[float] = 10.0
    """Flow time, learning rate × steps."""


def distances(width: int, config: Configuration) -> pd.DataFrame:
    """Return relative distances in outputs and in parameters, a row a seed."""
    X, digit = flow.datasets.digits(config.examples)
    y = np.where(digit.argmax(axis=1) < 5, 1.0, -1.0)  # noqa: PLR2004
    network = flow.MLP([64, width, 1], bias=False, parameterisation="ntk")
    objective = network.objective(X, y)
    starts = [objective.starting_at(network.initialise(seed)) for seed in range(config.seeds)]
    paths = flow.integrate(
        objective,
        config.t,
        engine="jax",
        rtol=1e-6,
        atol=1e-9,
        save=[config.t],
        ensemble=np.stack([start.theta for start in starts]),
        progress=False,
    )
    uninterrupted(paths)
    rows = []
    for seed, start in enumerate(starts):
        f0 = start.outputs(start.params)
        moved, pulled = linearised(tangent_kernel(start), f0.ravel() - y, config.t)
        lazy = start.flatten(start.vjp(start.params, pulled[:, None]))
        run = paths.member(seed)
        f = start.outputs(run.params(-1)) - f0
        rows.append(
            {
                "m": width,
                "seed": seed,
                "outputs": np.linalg.norm(f.ravel() - moved) / np.linalg.norm(moved),
                "parameters": np.linalg.norm(run.theta[-1] - start.theta - lazy)
                / np.linalg.norm(lazy),
                "loss": run.loss[-1],
            }
        )
    return pd.DataFrame(rows)


def linearised(kernel: np.ndarray, residual: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what the linearised outputs have moved by t, and u with θ(t) − θ₀ = (∂f/∂θ)ᵀu.

    f(t) − y = e^{−Θt/N}(f₀ − y), and θ(t) − θ₀ = −(∂f/∂θ)ᵀ ∫(f − y)/N dt.
    """
    n = len(residual)
    rates, U = np.linalg.eigh(kernel / n)
    modes = U.T @ residual
    gone = np.expm1(-rates * t)
    return U @ (gone * modes), U @ (gone / rates * modes) / n


def slope(table: pd.DataFrame, column: str) -> float:
    """Return the slope of the median over seeds against m, in log–log."""
    medians = table.groupby("m")[column].median()
    return float(np.polyfit(np.log(medians.index), np.log(medians), 1)[0])


def draw(table: pd.DataFrame) -> Any:
    """Return both distances against width, with quartiles over seeds."""
    figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for column, theory, colour, marker in (
        ("outputs", -1.0, COLOURS[0], "o"),
        ("parameters", -0.5, COLOURS[1], "s"),
    ):
        low, middle, high = (table.groupby("m")[column].quantile(q) for q in (0.25, 0.5, 0.75))
        m = middle.index.to_numpy(float)
        ax.errorbar(
            m,
            middle,
            yerr=[middle - low, high - middle],
            color=colour,
            marker=marker,
            linestyle="none",
            capsize=3,
            label=f"{column}, slope {slope(table, column):.2f}",
        )
        ax.plot(m, middle.iloc[0] * (m / m[0]) ** theory, color=colour, linestyle=":", linewidth=1)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="width m",
        ylabel="distance to the linearised flow,\nrelative to what that has moved",
    )
    ax.grid(visible=True, alpha=0.3)
    ax.legend(title="medians and quartiles; dotted: −1 and −½")
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return distances at every width."""
    if len(config.widths) < 2:  # noqa: PLR2004
        raise ValueError(f"--widths needs two widths at least for a slope, got {config.widths}")
    pieces = [distances(m, config) for m in tqdm(config.widths, "widths", disable=config.quiet)]
    runs = pd.concat(pieces, ignore_index=True)
    table = runs.groupby("m")[["outputs", "parameters", "loss"]].median()
    record.table("table", table)
    record.table("runs", runs)
    record.figure("lazy", draw(runs))
    print(f"medians over {config.seeds} seeds at t = {config.t:g}, relative to the motion")
    print(table.to_string(float_format="{:.3g}".format))
    print(f"slope against m: outputs {slope(runs, 'outputs'):.3f} (theory −1), ", end="")
    print(f"parameters {slope(runs, 'parameters'):.3f} (theory −½)")


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"{c.seeds}-seeds")
