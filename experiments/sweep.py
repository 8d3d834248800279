"""Widths and integrators over a grid: what a flow costs, and how sharp it ends.

Gradient flow of 64-width-10 networks on digits for every width and method, by `flow.sweep`: cells
are written as they are done, those that fail are recorded with their error, and a second call with
the same --cells computes only what is missing. Runs in this process, in several (--jobs), or on a
Dask cluster (--workers on this machine; --scheduler for one that runs elsewhere). Prints a table of
the cells and writes it with the figure.

Runs that differ in numbers alone need no sweep: a second table has the seconds of --rates gradient
descents in one call, `flow.descend(objective, learning_rate=[...])`, beside those one by one.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import flow
from flow.plots import COLOURS, MARKERS
from flow.plots.style import label_log
from flow.records import Options, Record, Science, run_experiment


@dataclass(frozen=True)
class Configuration(Options):
    """Widths and integrators over a grid."""

    widths: Science[tuple[int, ...]] = (4, 8, 16, 32, 64)
    """Hidden units of the networks."""
    methods: Science[tuple[str, ...]] = ("DOP853", "TSRKC3", "RKC2", "Radau")
    """Integrators; Radau is refused above 2,000 parameters, which the table tells."""
    examples: Science[int] = 200
    """Number of digits to train on."""
    t: Science[float] = 100.0
    """Flow time, learning rate × steps."""
    rtol: Science[float, 1.0] = 1e-5
    """Relative tolerance; the absolute one is a thousandth of it."""
    rates: Science[int] = 16
    """Learning rates, from 0.01 to 0.1, of the descents in one call and one by one."""
    rounds: Science[int] = 3
    """Interleaved rounds of these; the least seconds count."""
    jobs: int = 1
    """Processes of this machine, where there is no cluster."""
    workers: int = 0
    """Workers of a Dask cluster that is started on this machine; needs the extra "cluster"."""
    scheduler: str | None = None
    """Address of a Dask cluster that runs already, instead."""
    cells: Path | None = None
    """Folder that keeps the cells; by default one in the run folder."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""


def cell(
    width: int, method: str, *, examples: int, t: float, rtol: float, seed: int
) -> dict[str, float]:
    """Run one flow, and return its numbers."""
    network = flow.MLP([64, width, 10])
    objective = network.objective(*flow.datasets.digits(examples), seed=seed)
    path = flow.integrate(
        objective, t, method=method, rtol=rtol, atol=1e-3 * rtol, save=2, progress=False
    )
    return {
        "parameters": objective.size,
        "loss": path.loss[-1],
        "cost": path.stats["gradients"] + 2 * path.stats["hvps"],
        "sharpness": flow.sharpness(objective, path.params(-1)),
    }


@contextmanager
def cluster(config: Configuration) -> Iterator[None]:
    """Let joblib's processes be the workers of a Dask cluster."""
    import joblib
    from distributed import Client

    local = {"n_workers": config.workers, "threads_per_worker": 1}
    where = {"address": config.scheduler} if config.scheduler else local
    with Client(**where), joblib.parallel_config("dask"):
        yield


def together(rates: int, seed: int, rounds: int) -> pd.DataFrame:
    """Return seconds of gradient descents in one call and one by one, compilation apart.

    The least of interleaved rounds.
    """
    learning_rates = np.geomspace(0.01, 0.1, rates)
    X, y = flow.datasets.digits(300)
    networks = {
        "2-3-1, 40 examples": ([2, 3, 1], X[:40, 18:20], y[:40, :1], 2000),
        "64-32-10, 300 digits": ([64, 32, 10], X, y, 300),
    }
    rows = {}
    for name, (widths, inputs, targets, steps) in networks.items():
        objective = flow.MLP(widths).objective(inputs, targets, seed=seed)
        descend = partial(flow.descend, objective, steps=steps, progress=False)
        descend(learning_rates), descend(learning_rates[0])
        seconds = []
        for _ in range(rounds):
            times = [time.perf_counter()]
            in_one = descend(learning_rates)
            times.append(time.perf_counter())
            singles = [descend(rate) for rate in learning_rates]
            times.append(time.perf_counter())
            seconds.append(np.diff(times))
        one_call, one_by_one = np.min(seconds, axis=0)
        gaps = [np.abs(in_one.theta[i] - single.theta).max() for i, single in enumerate(singles)]
        rows[name] = {
            "steps": steps,
            "seconds in one call": one_call,
            "seconds one by one": one_by_one,
            "times as fast": one_by_one / one_call,
            "largest difference": max(gaps),
        }
    return pd.DataFrame(rows).T.rename_axis(f"{rates} learning rates")


def draw(found: Any) -> Any:
    """Return the cost and sharpness against the width."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for ax, name in zip(axes, ("cost", "sharpness"), strict=True):
        for i, method in enumerate(found["method"].to_numpy()):
            of = found[name].sel({"method": method})
            look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            ax.semilogx(found["width"], of, label=str(method), **look)
        ax.set(xlabel="hidden units", xticks=found["width"], xticklabels=found["width"].to_numpy())
        ax.minorticks_off()
        ax.grid(visible=True, alpha=0.3)
    axes[0].set_yscale("log")
    label_log(axes[0].yaxis)
    axes[0].set_ylabel("cost, gradients + 2 × products")
    axes[1].set_ylabel(r"sharpness $\lambda_{\max}$ at the end")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
    )
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Run every cell; make a table and a figure."""
    if config.workers and config.scheduler:
        raise ValueError("--workers starts a cluster, of at least one, and --scheduler names one")
    on_dask = bool(config.workers or config.scheduler)
    if on_dask and find_spec("distributed") is None:
        raise ValueError("--workers and --scheduler need Dask; pip install -e '.[cluster]'")
    function = partial(
        cell, examples=config.examples, t=config.t, rtol=config.rtol, seed=config.seed
    )
    with cluster(config) if on_dask else nullcontext():
        found = flow.sweep(
            function,
            {"width": config.widths, "method": config.methods},
            folder=config.cells or record.folder / "cells",
            jobs=config.jobs,
            progress=not config.quiet,
        )
    table = found.to_dataframe()
    record.table("table", table, timings=["seconds"])
    record.figure("sweep", draw(found))
    shown = table.assign(error=table["error"].str.slice(0, 60))
    print(shown.to_string(float_format="{:.4g}".format, na_rep="–"))
    descents = together(config.rates, config.seed, config.rounds)
    # The difference is rounding, which another machine has another of.
    record.table("together", descents, timings=["times as fast", "largest difference"])
    print(f"\n{descents.to_string(float_format='{:.4g}'.format)}")
    undone = table["error"].str.startswith("not done").sum()
    return f"{undone} cells were not done" if undone else None


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"{len(c.widths)}x{len(c.methods)}")
