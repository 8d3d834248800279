"""Costs of the compiled engine beyond its gradients, side by side in one run.

For each network: seconds of a flow by TSRKC3 over (its cost × seconds of one gradient inside a
compiled loop), and the seconds of a float32 flow over those of a float64 one for each unit of cost.
Rounds are interleaved and medians are of their ratios; compilation is no part of it. Prints a table
and writes it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from problems import all_digits, digits, small
from tqdm import tqdm

import flow
from flow.records import Options, Record, Science, run_experiment

# A network, t and rtol at which a step has ten stages or more, gradients of one timed loop.
NETWORKS = {
    "2-3-2, 100 points": (small, 200_000.0, 1e-1, 20_000),
    "64-32-10, 300 digits": (digits, 1000.0, 1e-3, 1000),
    "64-200-200-10, 1,797 digits": (all_digits, 20.0, 1e-2, 20),
}


@dataclass(frozen=True)
class Configuration(Options):
    """The cost of the compiled engine beyond its gradients."""

    networks: Science[tuple[str, ...]] = tuple(NETWORKS)
    """Which networks, by name."""
    rounds: Science[int] = 7
    """Interleaved rounds; medians are of these."""
    t_factor: Science[float] = 1.0
    """Factor on the flow times, for a quick look."""


def gradients_in_a_loop(objective: flow.Objective, count: int) -> Callable[[], None]:
    """Return a function that takes `count` gradients, at different points, in a compiled loop."""

    @jax.jit
    def loop(theta: Any, data: Any) -> Any:
        def body(_: Any, y: Any) -> Any:
            gradient = objective.traced_gradient(objective.tree(y), data)
            return y - 1e-6 * ravel_pytree(gradient)[0]

        return jax.lax.fori_loop(0, count, body, theta)

    return lambda: jax.block_until_ready(loop(objective.theta, objective.data))


def seconds(function: Callable[[], object]) -> float:
    """Return wall seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(name: str, config: Configuration) -> dict[str, float]:
    """Return medians of the ratios for one network."""
    make, t, rtol, count = NETWORKS[name]
    t *= config.t_factor
    objective = make()
    single = make(dtype="float32")

    def unit(of: flow.Objective) -> tuple[float, flow.Trajectory]:
        """Return seconds a unit of cost, and the run."""
        path = flow.integrate(of, t, method="TSRKC3", rtol=rtol, save=[t], progress=False)
        cost = path.stats["gradients"] + 2 * path.stats["hvps"]
        return path.stats["seconds"] / cost, path

    ratios: dict[str, list[float]] = {"flow / gradients": [], "float32 / float64": []}
    with jax.enable_x64(True):
        bare = gradients_in_a_loop(objective, count)
        bare()
        unit(objective)
        unit(single)
        for _ in tqdm(range(config.rounds), desc=name, disable=config.quiet):
            before = seconds(bare) / count
            compiled, path = unit(objective)
            after = seconds(bare) / count
            halved, _ = unit(single)
            ratios["flow / gradients"].append(2 * compiled / (before + after))
            ratios["float32 / float64"].append(halved / compiled)
    stats = path.stats
    return {
        "parameters": objective.size,
        "µs a gradient": 1e6 * before,
        "stages a step": stats["gradients"] / (stats["steps"] + stats["rejected"]),
        **{key: float(np.median(values)) for key, values in ratios.items()},
    }


def experiment(config: Configuration, record: Record) -> str | None:
    """Measure every network."""
    table = pd.DataFrame({name: measure(name, config) for name in config.networks}).T
    record.table("table", table, timings=list(table))
    print(table.to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    run_experiment(Configuration, experiment)
