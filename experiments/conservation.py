"""Measure what architectures conserve along the gradient flow, and how descent breaks it.

A symmetry of the loss gives the flow a conserved quantity Q, quadratic in θ. Linear layers keep
W_{l+1}ᵀW_{l+1} − W_lW_lᵀ − b_lb_lᵀ; hidden neurons with a homogeneous activation, ReLU and leaky
ReLU, its diagonal, ‖w_out‖² − ‖w_in‖² − b² (Du, Hu & Lee 2018); rows that are normalised before
use, w/‖w‖, keep ‖w‖² (Tanaka & Kunin 2021). tanh has no such symmetry: the neuron's quantity is
measured all the same, and drifts.

As Q is quadratic and has no rate along −∇J, a step of gradient descent changes it by exactly
η²Q(∇J), and to time t it drifts by η∫Q(∇J)dt, of order one in η. The flow is followed by RK4 in
steps of a fixed length, as the kinks of ReLU stall error-controlled methods; its drift is the
integrator's error alone. It falls with the fourth power of the step; but where a kink makes the
gradient jump within a step, with a power between the second and the first. Networks on handwritten
digits. Prints a table, writes a figure, tables, runs and the configuration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, uninterrupted, whole_steps


@dataclass(frozen=True)
class Configuration(Options):
    """Measure what each architecture conserves, and how far gradient descent drifts off it."""

    examples: Science[int] = 200
    """Number of digits to train on."""
    hidden: Science[tuple[int, ...]] = (16, 16)
    """Units of each hidden layer."""
    t: Science[float] = 4.0
    """Flow time, learning rate × steps."""
    learning_rate: Science[float] = 0.01
    """The largest of gradient descent; rounded so that it ends at t."""
    step: Science[float] = 0.04
    """The largest of RK4, in units of t; rounded likewise."""
    halvings: Science[int] = 4
    """Number of times that both are halved."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    save: Science[int] = 81
    """Number of saved times."""


@dataclass(frozen=True)
class Result:
    """A network's runs, one a learning rate and one a step of RK4, the largest first.

    Parameters
    ----------
    descents, flows
        The runs, with Q observed.
    coefficient
        ‖∫Q(∇J)dt‖ along the flow: gradient descent's drift over η as η → 0. NaN where Q is not
        conserved, as the next.
    one_step
        Relative error of the change η²Q(∇J) in one step at the largest η.
    """

    descents: list[flow.Trajectory]
    flows: list[flow.Trajectory]
    coefficient: float
    one_step: float

    @property
    def rates(self) -> np.ndarray:
        """Return learning rates."""
        return np.array([run.config["learning_rate"] for run in self.descents])

    @property
    def steps(self) -> np.ndarray:
        """Return steps of RK4."""
        return np.array([run.config["step"] for run in self.flows])


def network(config: Configuration, activation: str) -> flow.Objective:
    """Return an MLP on digits; its objective declares what it conserves."""
    sizes = [64, *config.hidden, 10]
    X, y = flow.datasets.digits(config.examples)
    return flow.MLP(sizes, activation).objective(X, y, seed=config.seed)


def normalised(config: Configuration) -> flow.Objective:
    """Return a tanh MLP whose rows w are used as w/‖w‖."""
    X, y = flow.datasets.digits(config.examples)
    inner = flow.MLP([64, *config.hidden, 10], "tanh")

    def outputs(params: list[dict[str, Any]], X: Any) -> Any:
        layers = [
            {**layer, "W": layer["W"] / jnp.linalg.norm(layer["W"], axis=1, keepdims=True)}
            for layer in params
        ]
        return inner.outputs(layers, X)

    return flow.Objective(
        outputs=outputs,
        output_loss=lambda A, y: 0.5 * jnp.mean(jnp.sum((A - y) ** 2, axis=1)),
        params=inner.initialise(config.seed),
        data=(X, y),
        conserved={
            f"‖w‖² of layer {l + 1}": lambda params, l=l: jnp.sum(params[l]["W"] ** 2, axis=1)
            for l in range(len(config.hidden) + 1)
        },
    )


def objectives(config: Configuration) -> dict[str, tuple[flow.Objective, Callable]]:
    """Return a network of each kind, and what is watched of it."""
    relu = network(config, "relu")
    found = {
        "linear": network(config, "identity"),
        "ReLU": relu,
        "leaky ReLU": network(config, "leaky_relu"),
        "normalised": normalised(config),
        "tanh": network(config, "tanh"),
    }
    # tanh conserves nothing; of it the ReLU's quantity is watched.
    return {
        name: (objective, watch(objective.conserved or relu.conserved))
        for name, objective in found.items()
    }


def watch(conserved: dict[str, Callable]) -> Callable[[Any], Any]:
    """Return a function of parameters to all conserved quantities in one vector."""
    return lambda params: jnp.concatenate([jnp.ravel(q(params)) for q in conserved.values()])


def compute(config: Configuration, objective: flow.Objective, quantities: Callable) -> Result:
    """Follow gradient descent and the flow at each learning rate and step."""
    common = {"observe": {"Q": lambda _, params: np.asarray(quantities(params))}, "progress": False}

    def ladder(largest: float) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of steps, and times that all of them meet, so that none is between two."""
        steps = whole_steps("largest", config.t, largest) * 2 ** np.arange(config.halvings + 1)
        return steps, np.unique(np.linspace(0, steps[0], config.save).round()) / steps[0] * config.t

    steps, times = ladder(config.learning_rate)
    descents = [
        uninterrupted(flow.descend(objective, config.t / n, steps=int(n), save=times, **common))
        for n in steps
    ]
    steps, times = ladder(config.step)
    flows = [
        uninterrupted(
            flow.integrate(
                objective,
                config.t,
                method="RK4",
                step=config.t / n,
                save=times,
                engine="jax",
                **common,
            )
        )
        for n in steps
    ]
    if not objective.conserved:
        return Result(descents, flows, np.nan, np.nan)
    coefficient = np.linalg.norm(filled(objective, quantities, config.t, config.t / steps[-1]))
    error = one_step(objective, quantities, descents[0].config["learning_rate"])
    return Result(descents, flows, float(coefficient), error)


def filled(objective: flow.Objective, quantities: Callable, t: float, step: float) -> np.ndarray:
    """Return ∫Q(∇J)dt along the flow, integrated with it: the pair of θ and the integral moves."""

    def rhs(_: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        gradient = objective.traced_gradient(state[0], objective.data)
        return jax.tree.map(jnp.negative, gradient), quantities(gradient)

    with jax.enable_x64(True):
        nothing = np.zeros_like(quantities(objective.params))
    pair = flow.Dynamics(rhs, (objective.params, nothing))
    path = flow.integrate(pair, t, method="RK4", step=step, save=[t], progress=False)
    return uninterrupted(path).params(-1)[1]


def one_step(objective: flow.Objective, quantities: Callable, rate: float) -> float:
    """Return how far the change of Q in a step is from η²Q(∇J), relative to it."""
    step = flow.descend(objective, rate, steps=1, save=2, progress=False)
    with jax.enable_x64(True):
        moved = quantities(step.params(1)) - quantities(step.params(0))
        expected = rate**2 * quantities(objective.gradient(objective.params))
    return float(np.linalg.norm(moved - expected) / np.linalg.norm(expected))


def drift(run: flow.Trajectory) -> np.ndarray:
    """Return ‖Q(θ(t)) − Q(θ₀)‖ (times,)."""
    Q = run.observed["Q"]
    return np.linalg.norm(Q - Q[0], axis=1)


def final(runs: list[flow.Trajectory]) -> np.ndarray:
    """Return drift at the end of each run."""
    return np.array([drift(run)[-1] for run in runs])


def slope(rates: np.ndarray, drifts: np.ndarray) -> float:
    """Return fitted slope of log drift against log rate."""
    return float(np.polyfit(np.log(rates), np.log(drifts), 1)[0])


def tables(results: dict[str, Result]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a row an architecture, and a row a run."""
    rows, drifts = {}, []
    for name, result in results.items():
        descents, flows = final(result.descents), final(result.flows)
        loss = result.flows[-1].loss
        rows[name] = {
            "loss": loss[0],
            "loss at t": loss[-1],
            "flow's drift": flows[-1],
            "slope of RK4": slope(result.steps, flows),
            "GD's drift": descents[-1],
            "slope of GD": slope(result.rates, descents),
            "GD's drift / η‖∫Q(∇J)dt‖": descents[-1] / (result.rates[-1] * result.coefficient),
            "error of one step": result.one_step,
        }
        for method, rates, found in (
            ("GD", result.rates, descents),
            ("RK4", result.steps, flows),
        ):
            drifts += [
                {"network": name, "method": method, "η or step": rate, "drift": value}
                for rate, value in zip(rates, found, strict=True)
            ]
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "network"
    return table, pd.DataFrame(drifts).set_index(["network", "method", "η or step"])


def draw(results: dict[str, Result], table: pd.DataFrame) -> Any:
    """Return drift against learning rate and step, and along t."""
    figure, axes = plt.subplots(1, 3, figsize=(10.6, 4.6), layout="constrained")
    for i, (name, result) in enumerate(results.items()):
        colour = {"color": COLOURS[i]}
        marks = {"marker": MARKERS[i], "markersize": 5}
        rates, descent, path = result.rates, result.descents[0], result.flows[-1]
        label = f"{name} ({table['slope of GD'][name]:.2f}, {table['slope of RK4'][name]:.2f})"
        points = {"linestyle": "none", "label": label, **colour, **marks}
        axes[0].loglog(rates, final(result.descents), **points)
        axes[0].loglog(rates, rates * result.coefficient, linewidth=1, **colour)
        axes[1].loglog(result.steps, final(result.flows), linewidth=1, **colour, **marks)
        axes[2].semilogy(path.t[1:], drift(path)[1:], **colour)
        every = max(1, len(descent.t) // 20)
        few = {"linestyle": "none", "markevery": every, **marks, "markersize": 3.5}
        axes[2].semilogy(descent.t[1:], drift(descent)[1:], **colour, **few)
    axes[0].set(title="gradient descent", xlabel="learning rate η")
    axes[0].set_ylabel(f"drift ‖Q(θ(t)) − Q(θ₀)‖ at t = {path.t[-1]:g}")
    axes[1].set(title="flow, by RK4", xlabel="step of RK4, in units of t")
    axes[2].set(title=f"flow; points: GD, η = {rates[0]:.3g}", xlabel=TIME_LABEL)
    for ax in axes:
        ax.grid(visible=True, alpha=0.3)
    for ax, places in ((axes[0], result.rates), (axes[1], result.steps)):
        ax.set_xticks(places[::2], [f"{x:.3g}" for x in places[::2]])
        ax.xaxis.set_minor_locator(NullLocator())
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        frameon=False,
        title="network (slope of GD, slope of RK4); thin lines on the left: η‖∫Q(∇J)dt‖",
    )
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return drifts of every network."""
    for name in ("learning_rate", "step"):
        whole_steps(f"--{name.replace('_', '-')}", config.t, getattr(config, name))
    results = {}
    problems = objectives(config)
    for name, problem in tqdm(problems.items(), desc="networks", disable=config.quiet):
        results[name] = compute(config, *problem)
        for kind, run in (
            ("flow", results[name].flows[-1]),
            ("descent", results[name].descents[0]),
        ):
            record.keep(f"{kind}-{name.replace(' ', '-')}", run)
    table, by_run = tables(results)
    record.table("table", table)
    record.table("drifts", by_run)
    record.figure("figure", draw(results, table))
    print(table.to_string(float_format=lambda x: f"{x:.3g}"))


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
