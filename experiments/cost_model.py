"""Compare what a flow costs with a model of it: gradients, seconds, bytes, all-reduces.

Gradients of explicit and stabilised methods against λ_max·T on digits; seconds of a gradient
against examples × parameters, from a few thousand parameters to a million; state vectors of the
compiled methods and numbers in an all-reduce follow from the programs (large_models.py and
scale_out.py show them). Prints the tables, with what the model says for a billion parameters, and
writes them with a figure.
"""

import time
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS
from flow.records import Options, Record, Science, run_experiment

# Gradient units of a flow to time T where stability limits the steps, λ the largest sharpness on
# its way. DOP853: 12 evaluations for a step of 0.97 · 6.39/λ. GD at η = 1/λ: one a step.
# TSRKC3: s stages reach hλ = s²/2, so that N steps take at most √(2λTN), which even ones do; each
# has one more, and the start up to 52.
EXPLICIT = 12 / (0.97 * 6.3936)
REACH, START = 0.5, 52
# Multiplications and additions of a gradient, for each example and parameter: forward 2, back 4,
# but of the first layer 2, as nobody asks for the gradient of the images.
FORWARD, BACK = 2.0, 4.0


@dataclass(frozen=True)
class Configuration(Options):
    """Compare what a flow costs, as measured, with a model of it."""

    times: Science[tuple[float, ...]] = (1.0, 10.0, 100.0, 1000.0)
    """Flow times T, learning rate × steps."""
    examples: Science[int] = 300
    """Digits of the flows."""
    hidden: Science[int] = 32
    """Hidden units of their network."""
    rtol: Science[float, 1.0] = 1e-3
    """Relative tolerance of TSRKC3; DOP853 has its default."""
    sizes: Science[tuple[int, ...]] = (30, 100, 300, 1000)
    """Hidden units h of the networks 784-h-h/5-10 whose gradients are timed."""
    images: Science[tuple[int, ...]] = (100, 1000)
    """Examples of these."""
    rounds: Science[int] = 5
    """Gradients of each that are timed; the least counts."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""


def gradients(config: Configuration) -> pd.DataFrame:
    """Return gradient units by T, measured and by the model."""
    network = flow.MLP([64, config.hidden, 10])
    objective = network.objective(*flow.datasets.digits(config.examples), seed=config.seed)
    rows = []
    for T in tqdm(config.times, "flows", disable=config.quiet):
        quiet = {"engine": "jax", "save": 20, "keep": "last", "progress": False}
        fast = flow.integrate(objective, T, method="TSRKC3", rtol=config.rtol, **quiet)
        plain = flow.integrate(objective, T, save=2, keep="last", progress=False)
        lambda_max = max(fast.stats["lambda_max"])
        steps = fast.stats["steps"] + fast.stats["rejected"]
        rows.append(
            {
                "T": T,
                "λT": lambda_max * T,
                "DOP853": plain.units,
                "DOP853, model": EXPLICIT * lambda_max * T,
                "TSRKC3": fast.units,
                "TSRKC3, at most": np.sqrt(lambda_max * T * steps / REACH) + steps + START,
                "steps of TSRKC3": steps,
                "GD at η = 1/λ": lambda_max * T,
            }
        )
    return pd.DataFrame(rows)


def seconds(config: Configuration) -> pd.DataFrame:
    """Return seconds of a gradient by examples × parameters."""
    rng, rows = np.random.default_rng(config.seed), []
    for h in tqdm(config.sizes, "gradients", disable=config.quiet):
        for n_examples in config.images:
            X = rng.standard_normal((n_examples, 784)) / 28
            y = np.eye(10)[rng.integers(10, size=n_examples)]
            objective = flow.MLP([784, h, max(1, h // 5), 10]).objective(X, y, seed=config.seed)
            objective.flat_value_and_gradient(objective.theta)
            took = []
            for _ in range(config.rounds):
                began = time.perf_counter()
                objective.flat_value_and_gradient(objective.theta)
                took.append(time.perf_counter() - began)
            work = n_examples * ((FORWARD + BACK) * objective.size - FORWARD * 784 * h)
            rows.append(
                {
                    "parameters": objective.size,
                    "examples": n_examples,
                    "operations": work,
                    "seconds": min(took),
                    "Gflop/s, from the seconds": work / min(took) / 1e9,
                }
            )
    return pd.DataFrame(rows)


def draw(counts: pd.DataFrame, times: pd.DataFrame) -> Any:
    """Return gradients against λT, and seconds against operations."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for i, name in enumerate(("DOP853", "TSRKC3")):
        axes[0].loglog(counts["λT"], counts[name], MARKERS[i], color=COLOURS[i], label=name)
        (model,) = [column for column in counts if column.startswith(f"{name}, ")]
        axes[0].loglog(counts["λT"], counts[model], color=COLOURS[i], label=model)
    axes[0].set(xlabel="stiffness λ_max·T", ylabel="gradients")
    for i, (n, rows) in enumerate(times.groupby("examples")):
        axes[1].loglog(
            rows["operations"], rows["seconds"], MARKERS[i], color=COLOURS[i], label=f"{n} examples"
        )
    speed = times["Gflop/s, from the seconds"].max()
    ends = np.array([times["operations"].min(), times["operations"].max()])
    axes[1].loglog(ends, ends / speed / 1e9, color="0.5", label=f"{speed:.0f} Gflop/s")
    axes[1].set(xlabel="operations of a gradient, 4 to 6 N n", ylabel="seconds a gradient")
    for ax in axes:
        ax.legend(frameon=False, loc="upper left")
    return figure


def experiment(config: Configuration, record: Record) -> None:
    """Make both tables, and the figure."""
    counts, times = gradients(config), seconds(config)
    record.table("gradients", counts)
    record.table("timings", times)
    record.figure("cost", draw(counts, times))
    for table in (counts, times):
        print(table.to_string(index=False, float_format="{:.3g}".format), end="\n\n")


if __name__ == "__main__":
    run_experiment(Configuration, experiment)
