"""Deep linear networks learn the singular modes of their target one by one, in closed form.

A network W_N⋯W₁ on whitened inputs, XᵀX/N = I, minimises ½‖Σ − W_N⋯W₁‖² + const, Σ = USVᵀ the
correlation of targets with inputs. From balanced weights that are aligned with U and V the
strengths u of its modes move apart from each other, u̇ = N u^{2−2/N}(s − u): sigmoids, the largest
singular value first (Saxe, McClelland & Ganguli 2013). From balanced weights that are small but
not aligned, W₂W₁ of two layers is known too, as the solution of a Riccati equation (Fukumizu
1998); its diagonal in Σ's own basis tells the same story. The flow keeps all of them balanced.
Gradient descent does so only where weights are aligned: a mode's factors are then equal, and stay
equal.

Integrates the flow of each network, runs gradient descent beside it on the same clock, and compares
both with the closed forms. Prints tables, writes a figure, the runs and the configuration.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.plots.style import POINTS
from flow.records import Options, Record, Science, run_experiment, whole_steps

# Close to the minimum DOP853 steps at its stability limit and beyond, until the error estimate
# tells: at rtol 1e-10 strengths are wrong by 1e-6 there.
TIGHT = {"rtol": 1e-12, "atol": 1e-15}


@dataclass(frozen=True)
class Configuration(Options):
    """The modes of deep linear networks, against their closed forms."""

    singular_values: Science[tuple[float, ...]] = (3.0, 2.0, 1.0, 0.5)
    """Singular values of the target."""
    u0: Science[float, 1.0] = 0.01
    """Strength of the modes at t = 0; where weights are not aligned, the largest singular value of
    W₂W₁."""
    layers: Science[tuple[int, ...]] = (2, 3)
    """Numbers of layers of the networks that start aligned."""
    learning_rate: Science[float] = 0.05
    """Learning rate of gradient descent; rounded so that it ends at t."""
    t: Science[float] = 16.0
    """Flow time, learning rate × steps."""
    inputs: Science[int] = 32
    """Number of inputs."""
    outputs: Science[int] = 16
    """Number of outputs."""
    examples: Science[int] = 400
    """Number of examples, more than inputs."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the data and of the weights that are not aligned."""
    save: Science[int] = 161
    """Number of saved times of the flow."""


@dataclass(frozen=True)
class Network:
    """A network on whitened inputs, with its closed form.

    Parameters
    ----------
    objective
        Its loss on the data, from its own start.
    strengths
        t (times,) ↦ the strengths of Σ's modes in closed form (times, modes).
    """

    objective: flow.Objective
    strengths: Any


@dataclass(frozen=True)
class Result:
    """A network's flow and descent, and the strengths of their modes (times, modes)."""

    path: flow.Trajectory
    steps: flow.Trajectory
    found: np.ndarray
    descended: np.ndarray
    theory: np.ndarray
    theory_of_steps: np.ndarray


def whitened(config: Configuration) -> tuple[np.ndarray, np.ndarray]:
    """Return rows X (examples, inputs) with XᵀX/N = I, and the target Σ (outputs, inputs)."""
    rng = np.random.default_rng(config.seed)
    X = np.linalg.qr(rng.standard_normal((config.examples, config.inputs)))[0]
    U, V = (
        np.linalg.qr(rng.standard_normal((n, len(config.singular_values))))[0]
        for n in (config.outputs, config.inputs)
    )
    return np.sqrt(config.examples) * X, U * config.singular_values @ V.T


def networks(config: Configuration) -> dict[str, Network]:
    """Return networks that start aligned, one a depth, and one of two layers that does not."""
    X, target = whitened(config)

    def on_data(exact: flow.exact.Exact) -> flow.Objective:
        params = exact.objective.params
        sizes = [config.inputs, *(len(layer["W"]) for layer in params)]
        network = flow.MLP(sizes, "identity", bias=False)
        return network.objective(X, X @ target.T).starting_at(params)

    found = {}
    s = np.sort(config.singular_values)[::-1]
    for depth in config.layers:
        aligned = flow.exact.deep_linear(target, config.u0, depth)
        modes = flow.exact.linear_modes(s, config.u0, depth)
        found[f"{depth} layers, aligned"] = Network(on_data(aligned), modes)
    rng = np.random.default_rng(config.seed + 1)
    U, d, Vt = np.linalg.svd(rng.standard_normal(target.shape), full_matrices=False)
    d = np.sqrt(config.u0 * d / d[0])
    balanced = flow.exact.balanced_linear(target, d[:, None] * Vt, U * d)
    found["2 layers, not aligned"] = Network(
        on_data(balanced),
        lambda t: diagonal(balanced.theta(t).reshape(-1, *target.shape), target, len(s)),
    )
    return found


def diagonal(products: np.ndarray, target: np.ndarray, modes: int) -> np.ndarray:
    """Return the diagonal of Uᵀ W_N⋯W₁ V (times, modes), of products (times, outputs, inputs)."""
    U, _, Vt = np.linalg.svd(target, full_matrices=False)
    return np.einsum("oa,toi,ai->ta", U[:, :modes], products, Vt[:modes])


def strengths(run: flow.Trajectory, target: np.ndarray, modes: int) -> np.ndarray:
    """Return strengths of the target's modes along a run (times, modes)."""
    products = []
    for i in range(len(run.t)):
        product = np.eye(target.shape[1])
        for layer in run.params(i):
            product = layer["W"] @ product
        products.append(product)
    return diagonal(np.array(products), target, modes)


def compute(config: Configuration, network: Network) -> Result:
    """Integrate, descend, and compare with the closed form."""
    target, modes = whitened(config)[1], len(config.singular_values)
    steps = whole_steps("--learning-rate", config.t, config.learning_rate)
    objective = network.objective
    path = flow.integrate(objective, config.t, save=config.save, progress=False, **TIGHT)
    descent = flow.descend(objective, config.t / steps, steps=steps, save=steps + 1, progress=False)
    return Result(
        path,
        descent,
        strengths(path, target, modes),
        strengths(descent, target, modes),
        network.strengths(path.t),
        network.strengths(descent.t),
    )


def half_time(t: np.ndarray, u: np.ndarray, s: float) -> float:
    """Return when a mode first has half of its strength, on a line between saved times."""
    over = np.flatnonzero(u >= s / 2)
    if not len(over) or over[0] == 0:
        return np.nan
    i = over[0]
    return float(np.interp(s / 2, u[i - 1 : i + 1], t[i - 1 : i + 1]))


def tables(config: Configuration, results: dict[str, Result]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row a network, and a row a mode."""
    rows, modes = {}, {}
    for name, result in results.items():
        audits = [
            flow.audit(run, result.path.dynamics.objective) for run in (result.path, result.steps)
        ]
        rows[name] = {
            "flow's error in u": np.abs(result.found - result.theory).max(),
            "GD's error in u": np.abs(result.descended - result.theory_of_steps).max(),
            "flow's drift of balance": max(audits[0].conserved.values()),
            "GD's drift of balance": max(audits[1].conserved.values()),
            "energy residual": audits[0].energy_residual,
            "loss": result.path.loss[-1],
        }
        for i, s in enumerate(np.sort(config.singular_values)[::-1]):
            modes[name, s] = {
                "half learned at t, theory": half_time(result.path.t, result.theory[:, i], s),
                "flow": half_time(result.path.t, result.found[:, i], s),
                "GD": half_time(result.steps.t, result.descended[:, i], s),
                "u at the end": result.found[-1, i],
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    by_mode = pd.DataFrame.from_dict(modes, orient="index")
    by_mode.index.names, table.index.name = ["network", "s"], "network"
    return table, by_mode


def draw(config: Configuration, results: dict[str, Result]) -> Any:
    """Return strengths against time, a panel a network, over their errors."""
    figure, axes = plt.subplots(
        2,
        len(results),
        figsize=(0.8 + 3.4 * len(results), 6.4),
        height_ratios=[1.5, 1],
        layout="constrained",
        sharex="all",
        sharey="row",
        squeeze=False,
    )
    s = np.sort(config.singular_values)[::-1]
    for (top, bottom), (name, result) in zip(axes.T, results.items(), strict=True):
        every = max(1, len(result.steps.t) // POINTS)
        for i in range(len(s)):
            look = {"color": COLOURS[i % len(COLOURS)]}
            top.plot(result.path.t, result.found[:, i], linewidth=3, alpha=0.45, **look)
            top.plot(result.path.t, result.theory[:, i], color="black", linestyle="--", linewidth=1)
            top.plot(
                *(result.steps.t[::every], result.descended[::every, i]),
                linestyle="none",
                marker=MARKERS[i % len(MARKERS)],
                markersize=3.5,
                **look,
            )
        for t, error, look in (
            (result.path.t, result.found - result.theory, {"color": "black"}),
            (
                result.steps.t,
                result.descended - result.theory_of_steps,
                {"color": "0.5", "marker": "o", "markersize": 3, "linestyle": "none"},
            ),
        ):
            largest = np.abs(error).max(axis=1)
            size = slice(1, None, every if "marker" in look else 1)
            bottom.semilogy(t[size], np.maximum(largest, 1e-17)[size], **look)
        top.set(title=name)
        for ax in (top, bottom):
            ax.grid(visible=True, alpha=0.3)
    axes[0, 0].set_ylabel("strength u of a mode")
    axes[1, 0].set_ylabel("largest error in u")
    figure.supxlabel(TIME_LABEL, fontsize="medium")
    legend(figure, results, s)
    return figure


def legend(figure: Any, results: dict[str, Result], s: np.ndarray) -> None:
    """Draw one legend for all panels: modes by colour, runs by line."""
    rate = next(iter(results.values())).steps.config["learning_rate"]
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=3, label=f"s = {value:g}")
        for i, value in enumerate(s)
    ] + [
        Line2D([], [], color="0.4", linewidth=3, alpha=0.6, label="flow"),
        Line2D([], [], color="black", linestyle="--", linewidth=1, label="closed form"),
        Line2D([], [], color="0.5", marker="o", linestyle="none", label=f"GD, η = {rate:.3g}"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)


def experiment(config: Configuration, record: Record) -> str | None:
    """Return flow, descent and closed form of every network."""
    for depth in config.layers:
        if depth < 2:  # noqa: PLR2004
            raise ValueError(f"--layers needs at least two layers, got {depth}")
    modes = len(config.singular_values)
    if not modes <= min(config.outputs, config.inputs) <= config.inputs < config.examples:
        raise ValueError(
            f"--examples {config.examples} must be more than --inputs {config.inputs}, and "
            f"inputs and outputs ({config.outputs}) no fewer than the {modes} modes"
        )
    results = {}
    bar = tqdm(networks(config).items(), desc="networks", disable=config.quiet)
    for i, (name, network) in enumerate(bar, 1):
        results[name] = result = compute(config, network)
        record.keep(f"flow-{i}", result.path)
        record.keep(f"descent-{i}", result.steps)
    table, by_mode = tables(config, results)
    record.table("table", table)
    record.table("modes", by_mode)
    record.figure("figure", draw(config, results))
    for shown in (table, by_mode):
        print(shown.to_string(float_format=lambda x: f"{x:.4g}"), end="\n\n")


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
