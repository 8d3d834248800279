"""Orthogonal weights, principal subspaces and weights of constant norm: flows on manifolds.

(a) A network on scikit-learn's digits whose hidden weights keep WWᵀ = mI (`flow.StiefelFlow`),
beside the free gradient flow and Riemannian gradient descent from the same θ₀: loss, singular
values, distance from the manifold, gradient in the first layer. (b) J = −½ tr(WCWᵀ), C the
covariance of the digits: the flow's subspace tends to that of the first k principal components at
the rate e^{−(λ_k − λ_{k+1})t}. (c) Gradient flow of J(w/‖w‖) (`flow.ScaleFreeFlow`) keeps every
‖w‖; gradient descent lets Σ‖w‖² grow by η(J₀ − J_T), to first order in η.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, uninterrupted, whole_steps

# The distance to the principal subspace falls by this factor, in e-foldings of the slowest mode;
# the rate is fitted to the last half, where that mode is alone.
FOLDINGS = 12.0
# Over λ_1; the time grows as the gap's inverse.
SMALLEST_GAP = 1e-3
TIGHT = {"rtol": 1e-10, "atol": 1e-13}


@dataclass(frozen=True)
class Configuration(Options):
    """Orthogonal weights, principal subspaces and weights of constant norm."""

    examples: Science[int] = 500
    """Number of digits to train on, of 1,797."""
    test: Science[int] = 500
    """Number of other digits for the test accuracy."""
    hidden: Science[tuple[int, ...]] = (32, 16)
    """Units of each hidden layer, never more than in the layer before."""
    t: Science[float] = 200.0
    """Flow time of (a), learning rate × steps."""
    t_norms: Science[float] = 1000.0
    """Flow time of (c), which is slower by ‖w‖²."""
    learning_rate: Science[float] = 0.05
    """Learning rate of Riemannian gradient descent, rounded to a whole number of steps."""
    norm_rates: Science[tuple[float, ...]] = (4.0, 2.0, 1.0, 0.5, 0.25)
    """Learning rates of (c), at least two."""
    components: Science[tuple[int, ...]] = (1, 2, 5, 10)
    """Numbers k of principal components."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    save: Science[int] = 100
    """Number of saved times of each run."""


def singular_values(_: flow.Objective, params: Any) -> np.ndarray:
    """Return the singular values of the first layer's weights, largest first."""
    return np.linalg.svd(params[0]["W"], compute_uv=False)


def violation(objective: flow.Objective, params: Any) -> float:
    """Return ‖WWᵀ − mI‖ of the hidden layers together, m = ‖W‖²/n at θ₀."""
    total = 0.0
    for layer, first in zip(params[:-1], objective.params[:-1], strict=True):
        W, m = layer["W"], np.sum(first["W"] ** 2) / len(first["W"])
        total += np.sum((W @ W.T - m * np.eye(len(W))) ** 2)
    return np.sqrt(total)


def first_gradient(objective: flow.Objective, params: Any) -> float:
    """Return ‖∂J/∂W₁‖."""
    return np.linalg.norm(objective.gradient(params)[0]["W"])


def networks(config: Configuration, record: Record) -> dict[str, flow.Trajectory]:
    """Run (a): hidden weights on the Stiefel manifold, free, and by Riemannian gradient descent."""
    train, held_out = flow.datasets.digits(config.examples, test=config.test)
    network = flow.MLP([64, *config.hidden, 10])
    leaves = [f"[{l}]['W']" for l in range(len(config.hidden))]
    objective = network.objective(*train, loss="cross_entropy", seed=config.seed)
    objective = flow.dynamics.orthogonal(objective, leaves)
    dynamics = flow.StiefelFlow(objective, leaves)
    settings = {
        "save": config.save,
        "spacing": "log",
        "progress": not config.quiet,
        "observe": {
            "singular values": singular_values,
            "violation": violation,
            "first gradient": first_gradient,
            "test accuracy": flow.observe.accuracy(*held_out),
        },
    }
    steps = whole_steps("--learning-rate", config.t, config.learning_rate)
    optimizer, time_step = dynamics.counterpart(config.t / steps)
    how = {"optimizer": optimizer, "time_step": time_step, "steps": steps}
    runs = {
        "Stiefel flow": lambda: flow.integrate(dynamics, config.t, **settings),
        "free flow": lambda: flow.integrate(objective, config.t, **settings),
        "Riemannian GD": lambda: flow.descend(objective, **how, **settings),
    }
    return {name: record.keep(name.lower(), run()) for name, run in runs.items()}


def network_table(runs: dict[str, flow.Trajectory], config: Configuration) -> pd.DataFrame:
    """Return what came of (a), a row a run."""
    comparison = flow.compare(*runs.values(), progress=not config.quiet)
    distances = [0.0, *(pair.distance[-1] for pair in comparison.pairs)]
    rows = []
    for run, distance in zip(runs.values(), distances, strict=True):
        sigma = run.observed["singular values"][-1]
        rows.append(
            {
                "loss": run.loss[-1],
                "test accuracy": run.observed["test accuracy"][-1],
                "largest ‖WWᵀ − mI‖": run.observed["violation"].max(),
                "σ_max/σ_min of W₁": sigma[0] / sigma[-1],
                "‖∂J/∂W₁‖": run.observed["first gradient"][-1],
                "distance to Stiefel flow": distance,
                "energy residual": flow.audit(run).energy_residual,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(runs, name="run"))


def subspaces(config: Configuration) -> tuple[dict[int, Any], pd.DataFrame]:
    """Return (b) Times and distances to the first k principal components, and fitted rates."""
    X = flow.datasets.digits()[0]
    C = np.cov(X.T, bias=True)
    values, vectors = np.linalg.eigh(C)
    values, vectors = values[::-1], vectors[:, ::-1]
    curves, rows = {}, []
    for k in tqdm(config.components, desc="components", disable=config.quiet):
        gap = -np.diff(values)[k - 1] if k < len(values) else 0.0
        if gap < SMALLEST_GAP * values[0]:
            raise ValueError(
                f"--components {k}: λ_k − λ_(k+1) = {gap:.1g} is too small beside λ_1 = "
                f"{values[0]:.2g} for a rate to show; choose another k"
            )
        W = np.linalg.qr(np.random.default_rng(config.seed).standard_normal((64, k)))[0].T
        objective = flow.Objective(lambda W: -0.5 * jnp.sum((W @ C) * W), W)
        path = flow.integrate(
            flow.StiefelFlow(objective), FOLDINGS / gap, save=config.save, progress=False, **TIGHT
        )
        uninterrupted(path)
        # The sine of the largest principal angle.
        distance = np.array(
            [np.linalg.norm(path.params(i) @ vectors[:, k:], 2) for i in range(len(path.t))]
        )
        late = path.t > path.t[-1] / 2
        rate = -np.polyfit(path.t[late], np.log(distance[late]), 1)[0]
        curves[k] = (path.t * gap, distance)
        rows.append({"k": k, "λ_k − λ_{k+1}": gap, "fitted rate": rate, "rate/gap": rate / gap})
    return curves, pd.DataFrame(rows).set_index("k")


def norms(config: Configuration) -> pd.DataFrame:
    """Return (c) Growth of Σ‖w‖² under gradient descent of J(w/‖w‖), and under its flow, η = 0."""
    train = flow.datasets.digits(config.examples)
    network = flow.MLP([64, *config.hidden, 10], bias=False)
    leaves = [f"[{l}]['W']" for l in range(len(config.hidden) + 1)]
    dynamics = flow.ScaleFreeFlow(
        network.objective(*train, loss="cross_entropy", seed=config.seed), leaves
    )
    settings = {"save": 2, "progress": False}
    runs = {0.0: flow.integrate(dynamics, config.t_norms, **settings, **TIGHT)}
    for rate in tqdm(config.norm_rates, desc="learning rates", disable=config.quiet):
        steps = whole_steps("--norm-rates", config.t_norms, rate)
        rate = config.t_norms / steps  # noqa: PLW2901
        runs[rate] = flow.descend(dynamics.objective, rate, steps=steps, **settings)
    squares = {rate: np.sum(uninterrupted(run).theta ** 2, axis=1) for rate, run in runs.items()}
    fallen = runs[0.0].loss[0] - runs[0.0].loss[-1]
    return pd.DataFrame(
        {
            "growth of Σ‖w‖²": [square[-1] - square[0] for square in squares.values()],
            "η(J₀ − J_T) of the flow": [rate * fallen for rate in runs],
            "loss": [run.loss[-1] for run in runs.values()],
        },
        index=pd.Index(runs, name="η"),
    )


def slope(growth: pd.DataFrame) -> float:
    """Return the slope of the growth against η in log–log, over the rates of gradient descent."""
    descents = growth.iloc[1:]
    return np.polyfit(np.log(descents.index), np.log(descents["growth of Σ‖w‖²"]), 1)[0]


def draw_networks(runs: dict[str, flow.Trajectory], axes: Any) -> None:
    """Draw four panels of (a)."""
    looks = (
        {"color": "black", "zorder": 3},
        {"color": COLOURS[0]},
        {"color": COLOURS[3], "linestyle": "none", "marker": "o", "markersize": 3.5, "zorder": 4},
    )
    loss, sigma, violated, gradient = axes
    for i, (name, run) in enumerate(runs.items()):
        look = {**looks[i], "label": name}
        if "marker" in look:
            look["markevery"] = max(1, len(run.t) // 25)
        loss.loglog(run.t[1:], run.loss[1:], **look)
        gradient.loglog(run.t[1:], run.observed["first gradient"][1:], **look)
        violated.loglog(run.t[1:], run.observed["violation"][1:], **look)
        values = run.observed["singular values"][1:]
        if "marker" not in look:
            sigma.semilogx(run.t[1:], values, **{**look, "label": "_", "linewidth": 0.8})
    loss.set(title="(a) loss", ylabel="J")
    sigma.set(title="(a) singular values of W₁", ylabel="σ")
    violated.set(title="(a) distance from the manifold", ylabel="‖WWᵀ − mI‖")
    gradient.set(title="(a) gradient in the first layer", ylabel="‖∂J/∂W₁‖")
    for ax in axes:
        ax.set(xlabel=TIME_LABEL)


def draw(runs: dict[str, flow.Trajectory], curves: dict[int, Any], growth: pd.DataFrame) -> Any:
    """Draw all panels."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
    draw_networks(runs, axes.flat[:4])
    ax = axes[1, 1]
    for i, (k, (folded, distance)) in enumerate(curves.items()):
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        ax.semilogy(folded, distance, **look, markersize=3.5, markevery=10, label=f"k = {k}")
    folded = np.array([0.0, FOLDINGS])
    ax.semilogy(folded, np.exp(-folded), "--", color="0.4", label="theory's slope")
    ax.set(
        title="(b) distance to k principal components",
        xlabel=r"$(\lambda_k - \lambda_{k+1})\,t$",
        ylabel="sine of the largest angle",
    )
    ax.legend(loc="lower left")
    ax = axes[1, 2]
    descents = growth.iloc[1:]
    theory = descents["η(J₀ − J_T) of the flow"]
    ax.loglog(theory.index, theory, color="0.4", linestyle="--", label="η(J₀ − J(T))")
    grown = growth["growth of Σ‖w‖²"]
    ax.loglog(
        descents.index,
        grown.iloc[1:],
        "o",
        color=COLOURS[3],
        label=f"GD, slope {slope(growth):.2f}",
    )
    ax.plot([], [], " ", label=f"flow: {grown.iloc[0]:.0e}")
    ax.set(title="(c) growth of Σ‖w‖²", xlabel="learning rate η", ylabel="Σ‖w(T)‖² − Σ‖w(0)‖²")
    ax.set_xticks(descents.index, [f"{rate:.2g}" for rate in descents.index])
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    ax.legend(loc="upper left")
    for ax in axes.flat:
        ax.grid(visible=True, alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return networks, subspaces and norms."""
    whole_steps("--learning-rate", config.t, config.learning_rate)
    rates = config.norm_rates
    if len({whole_steps("--norm-rates", config.t_norms, rate) for rate in rates}) < 2:  # noqa: PLR2004
        raise ValueError(f"--norm-rates needs two numbers of steps for a slope, got {rates}")
    curves, rates = subspaces(config)
    runs, growth = networks(config, record), norms(config)
    tables = {"networks": network_table(runs, config), "subspaces": rates, "norms": growth}
    record.figure("figure", draw(runs, curves, growth))
    for name, table in tables.items():
        record.table(name, table)
        print(f"{table.to_string(float_format='{:.4g}'.format)}\n")
    print(f"slope of the growth against η: {slope(growth):.3f}")


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
