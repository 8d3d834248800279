"""Measure what the driver and the hand-written backward pass cost, side by side in one run.

For each network: seconds of a flow over (its gradients × seconds of one bare jitted gradient to
numpy), the same for scipy's plain `solve_ivp`, and seconds of the hand-derived gradient over those
of `jax.grad` of the same loss. Rounds are interleaved and medians are of their ratios; compilation
is no part of it. Prints a table and writes it.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

import flow
from flow.backprop import (
    AveragePooling,
    BatchNormalisation,
    Convolution,
    Flatten,
    Linear,
    MaxPooling,
    Reshape,
)
from flow.records import Options, Record, Science, run_experiment

CONVOLUTIONAL = flow.Network(
    [
        Reshape((1, 8, 8)),
        Convolution(1, 8, (3, 3)),
        BatchNormalisation(8),
        "tanh",
        MaxPooling((2, 2)),
        Convolution(8, 16, (2, 2)),
        "tanh",
        AveragePooling((2, 2)),
        Flatten(),
        Linear(16, 10),
    ]
)
NETWORKS = {
    "64-32-10, 300 digits": (flow.MLP([64, 32, 10]), 300, 30.0),
    "64-200-200-10, 1,797 digits": (flow.MLP([64, 200, 200, 10]), 1797, 3.0),
    "convolutional, 300 digits": (CONVOLUTIONAL, 300, 1.0),
}


@dataclass(frozen=True)
class Configuration(Options):
    """Sizes of the measurement of what the driver and the hand-written backward pass cost."""

    rounds: Science[int] = 7
    """Interleaved rounds; medians are of these."""
    method: Science[str] = "DOP853"
    """scipy method of the flow and of solve_ivp."""
    t_factor: Science[float] = 1.0
    """Factor on the flow times, for a quick look."""
    repeats: Science[int] = 20
    """Bare gradients that a round times, at least."""
    save: Science[int] = 200
    """Number of saved times of each run."""


def seconds(function: Callable[[], object]) -> float:
    """Return wall seconds of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(
    network: flow.Network, examples: int, t: float, config: Configuration, name: str
) -> dict[str, float]:
    """Return medians of the ratios for one network."""
    from scipy.integrate import solve_ivp

    t *= config.t_factor
    run = partial(flow.integrate, t=t, method=config.method, save=config.save, progress=False)
    hand = network.objective(*flow.datasets.digits(examples))
    auto = flow.Objective(hand.traced_value, hand.params, hand.data)

    def bare(objective: flow.Objective) -> Callable[[], object]:
        """Return one jitted gradient, flat numpy in, flat numpy out, and nothing else."""
        gradient = jax.jit(
            lambda theta, data: ravel_pytree(
                objective.traced_gradient(objective.tree(theta), data)
            )[0]
        )
        return lambda: np.asarray(gradient(objective.theta, objective.data))

    calls, tol = 0, {"rtol": 1e-6, "atol": 1e-9}

    def rhs(_: float, theta: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return -np.asarray(gradient_of_hand(theta, hand.data))

    gradient_of_hand = jax.jit(
        lambda theta, data: ravel_pytree(hand.traced_gradient(hand.tree(theta), data))[0]
    )
    rounds: dict[str, list[float]] = {"flow": [], "solve_ivp": [], "hand / jax.grad": []}
    with jax.enable_x64(True):
        by_hand, by_autodiff = bare(hand), bare(auto)
        path = run(hand)
        by_hand(), by_autodiff(), rhs(0.0, hand.theta)
        repeats = max(config.repeats, round(0.005 * config.repeats / seconds(by_hand)))
        for _ in tqdm(range(config.rounds), desc=name, disable=config.quiet):
            # The bare gradient is timed before and after each, as the machine drifts.
            times = {"hand": [], "auto": []}
            for _ in range(repeats):
                times["hand"].append(seconds(by_hand))
                times["auto"].append(seconds(by_autodiff))
            before = sum(times["hand"]) / repeats
            path = run(hand)
            between = sum(seconds(by_hand) for _ in range(repeats)) / repeats
            calls = 0
            plain = seconds(
                partial(solve_ivp, rhs, (0, t), hand.theta, config.method, path.t, **tol)
            )
            after = sum(seconds(by_hand) for _ in range(repeats)) / repeats
            spent = path.stats["gradients"] * (before + between) / 2
            rounds["flow"].append(path.stats["seconds"] / spent)
            rounds["solve_ivp"].append(plain / (calls * (between + after) / 2))
            ratio = np.median(times["hand"]) / np.median(times["auto"])
            rounds["hand / jax.grad"].append(ratio)
    return {
        "parameters": hand.size,
        "gradients": path.stats["gradients"],
        "µs a bare gradient": 1e6 * before,
        **{key: float(np.median(values)) for key, values in rounds.items()},
    }


def experiment(config: Configuration, record: Record) -> str | None:
    """Measure every network."""
    # Max pooling has kinks, which the flow and solve_ivp meet alike.
    warnings.simplefilter("ignore", flow.KinkWarning)
    rows = {name: measure(*case, config, name) for name, case in NETWORKS.items()}
    table = pd.DataFrame(rows).T.rename_axis("network")
    record.table("table", table, timings=["flow", "solve_ivp", "hand / jax.grad"])
    print(table.to_string(float_format=lambda x: f"{x:.4g}"))
    print(f"\nmedians of {config.rounds} rounds")


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: c.method)
