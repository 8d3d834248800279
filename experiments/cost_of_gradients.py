"""Measure what a gradient costs: operations and seconds as parameters and circuit grow.

One forward pass, one hand-derived gradient, one Hessian-vector product and one gradient by
central finite differences of w-w-w tanh networks on two fixed examples, so that the circuit's size
N is proportional to the number of parameters l ≈ 2w². Operations are those of the compiled
program's own cost analysis, arithmetic and transcendental together; finite differences' are 2 l
forward passes, a subtraction and a division for each parameter. Its seconds are those of
`--differences` parameters at most, scaled to l. Beside them operations counted in Python for
scalar circuits Σ tanh(x_i x_{i+1}). Prints a table and fitted slopes, writes a figure and both.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

import flow
from flow.circuits import Circuit, tanh, variable
from flow.plots import COLOURS, MARKERS
from flow.records import Options, Record, Science, run_experiment

QUANTITIES = ("forward", "gradient", "hvp", "differences")
LABELS = ("forward pass", "gradient, by hand", "HVP ∇²J·v", "finite differences")


@dataclass(frozen=True)
class Configuration(Options):
    """Measure what a gradient costs: operations and seconds as parameters and circuit grow."""

    widths: Science[tuple[int, ...]] = (8, 16, 32, 64, 128, 256)
    """Units w of each layer of the w-w-w networks."""
    circuit_inputs: Science[tuple[int, ...]] = (32, 320, 3200, 32000)
    """Inputs l of the scalar circuits, of 3 l − 1 operations."""
    repeats: Science[int] = 5
    """Timed calls; seconds are their median."""
    differences: Science[int] = 200
    """Parameters whose finite differences are timed, at most."""


def operations(compiled: Any) -> float:
    """Return arithmetic and transcendental operations of a compiled program, as XLA counts them."""
    cost = compiled.cost_analysis()
    return cost["flops"] + cost.get("transcendentals", 0.0)


def seconds(function: Callable[..., Any], arguments: tuple, repeats: int) -> float:
    """Return the median wall seconds of a call, the first of them left out."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def network(width: int, config: Configuration) -> dict[str, Any]:
    """Return operations and seconds of one network."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 2, width))
    objective = flow.MLP([width] * 3).objective(X, y)
    theta, data, l = objective.theta, objective.data, objective.size
    timed, h = min(l, config.differences), 1e-5

    def forward(theta: Any, data: Any) -> Any:
        return objective.traced_value(objective.tree(theta), data)

    def gradient(theta: Any, data: Any) -> Any:
        return ravel_pytree(objective.traced_gradient(objective.tree(theta), data))[0]

    def hvp(theta: Any, v: Any, data: Any) -> Any:
        tree = objective.tree
        return ravel_pytree(objective.traced_hvp(tree(theta), tree(v), data))[0]

    def differences(theta: Any, data: Any) -> Any:
        def entry(k: Any) -> Any:
            up, down = (forward(theta.at[k].add(s), data) for s in (h, -h))  # noqa: PD008
            return (up - down) / (2 * h)

        return jax.lax.map(entry, jnp.arange(timed))

    row: dict[str, Any] = {"l": l}
    with jax.enable_x64(True):
        cases = {
            "forward": (forward, (theta, data)),
            "gradient": (gradient, (theta, data)),
            "hvp": (hvp, (theta, rng.standard_normal(l), data)),
            "differences": (differences, (theta, data)),
        }
        for name, (function, arguments) in cases.items():
            compiled = jax.jit(function).lower(*arguments).compile()
            # XLA counts the body of a loop once.
            row[f"{name} operations"] = (
                2 * l * (row["forward operations"] + 1)
                if name == "differences"
                else operations(compiled)
            )
            row[f"{name} seconds"] = seconds(compiled, arguments, config.repeats)
    row["differences seconds"] *= l / timed
    return row


def circuit(l: int) -> dict[str, Any]:
    """Return operations of a scalar circuit, counted in Python."""
    x = [variable(f"x{i}") for i in range(l)]
    total = tanh(x[-1] * x[0])
    for a, b in itertools.pairwise(x):
        total = total + tanh(a * b)
    forward = Circuit(total)
    gradient = forward.gradient()
    product = gradient.dot({node.name: 1.0 for node in forward.inputs}).gradient()
    return {
        "l": l,
        "forward operations": forward.size,
        "gradient operations": gradient.size,
        "hvp operations": product.size,
        "differences operations": 2 * l * (forward.size + 1),
    }


def slopes(table: pd.DataFrame) -> pd.Series:
    """Return fitted slope of each column against l in log–log."""
    columns = table.drop(columns="l")
    l = np.log(table["l"])
    return pd.Series({name: np.polyfit(l, np.log(columns[name]), 1)[0] for name in columns})


def draw(networks: pd.DataFrame, circuits: pd.DataFrame) -> Any:
    """Return operations of networks and of circuits, and seconds of networks, against l."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    panels = (
        (networks, "operations", "operations (XLA), w-w-w networks"),
        (circuits, "operations", "operations (Python), scalar circuits"),
        (networks, "seconds", "seconds, w-w-w networks"),
    )
    for ax, (table, unit, title) in zip(axes, panels, strict=True):
        for i, (name, label) in enumerate(zip(QUANTITIES, LABELS, strict=True)):
            ax.loglog(
                table["l"],
                table[f"{name} {unit}"],
                color=COLOURS[i],
                marker=MARKERS[i],
                label=label,
            )
        ax.set(xlabel="number of parameters l", ylabel=unit, title=title)
        ax.grid(visible=True, alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return networks and circuits of every size."""
    for name in ("widths", "circuit_inputs"):
        if len(set(getattr(config, name))) < 2:  # noqa: PLR2004
            raise ValueError(f"--{name.replace('_', '-')} needs two sizes for a slope")
    bar = tqdm(config.widths, desc="networks", disable=config.quiet)
    networks = pd.DataFrame([network(width, config) for width in bar])
    bar = tqdm(config.circuit_inputs, desc="circuits", disable=config.quiet)
    circuits = pd.DataFrame([circuit(l) for l in bar])
    fitted = pd.DataFrame({"networks": slopes(networks), "circuits": slopes(circuits)})
    record.figure("figure", draw(networks, circuits))
    for name, table in {"networks": networks, "circuits": circuits, "slopes": fitted}.items():
        record.table(name, table)
        print(f"{name}\n{table.to_string(float_format='{:.4g}'.format)}\n")
    for name in ("gradient", "hvp"):
        ratio = networks[f"{name} operations"] / networks["forward operations"]
        print(f"{name}: at most {ratio.max():.2f} × the operations of one forward pass")


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"w{max(c.widths, default=0)}")
