"""Waits of a newcomer: imports, --help, the surface figure, a study and its file, long runs.

Seconds of `import flow` over `import jax`, and of the slowest experiments' --help, each in a fresh
process, interleaved, medians of the rounds; the loss surface of a 64-32-10 network on digits with
its five runs; `flow.study` of that network at four learning rates, to a file; and the comparison
and the plane of a flow and a descent with 10,000 saves. Prints a table and writes it with the
study's figure.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import trange

import flow
from flow.records import Options, Record, Science, run_experiment


@dataclass(frozen=True)
class Configuration(Options):
    """The seconds that a newcomer waits."""

    rounds: Science[int] = 5
    """Interleaved rounds of the imports and of --help; medians are of these."""
    examples: Science[int] = 300
    """Number of digits that the network learns."""
    hidden: Science[int] = 32
    """Units of its hidden layer."""
    t: Science[float] = 300.0
    """Flow time of the study, learning rate × steps."""
    resolution: Science[int] = 101
    """Points of the surface along each axis."""
    saves: Science[int] = 10_000
    """Saved times of a flow and of a descent that are compared and drawn in their plane."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""


def seconds(function: Callable[[], object]) -> float:
    """Return wall seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def fresh(*arguments: str) -> float:
    """Return wall seconds of a fresh Python process, whose compiled modules are cached."""
    command = [sys.executable, *arguments]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    silent = {"stdout": subprocess.DEVNULL, "env": env}
    return seconds(lambda: subprocess.run(command, check=True, **silent))  # noqa: S603


def experiment(config: Configuration, record: Record) -> None:
    """Measure imports and --help, then the figure and the study."""
    here = Path(__file__).parent
    starts = {"python": ("-c", ""), "import jax": ("-c", "import jax")}
    starts |= {"import flow": ("-c", "import flow")}
    for script in ("gd_vs_flow", "work_precision", "neural_ode"):
        starts[f"{script}.py --help"] = (str(here / f"{script}.py"), "--help")
    taken = {name: [] for name in starts}
    for i in trange(config.rounds + 1, desc="rounds", disable=config.quiet):
        for name, arguments in starts.items():
            lasted = fresh(*arguments)
            if i > 0:  # the first start after an installation compiles
                taken[name].append(lasted)
    rows = {name: np.median(values) for name, values in taken.items()}
    imports = np.array(taken["import flow"]) / np.array(taken["import jax"])

    network = flow.MLP([64, config.hidden, 10])
    objective = network.objective(*flow.datasets.digits(config.examples), seed=config.seed)
    file = record.folder / "study.nc"
    show = not config.quiet
    began = time.perf_counter()
    study = flow.study(objective, t=config.t, file=file, progress=show)
    record.wrote(file)
    rows["study, four learning rates"] = time.perf_counter() - began
    figure = plt.figure(figsize=(7, 6), layout="constrained")
    ax = figure.add_subplot()

    def draw() -> None:
        flow.plots.surface(study.flow, *study.runs, resolution=config.resolution, ax=ax)
        figure.canvas.draw()

    points = config.resolution**2
    rows[f"surface of {points:,} points, compiled and drawn"] = seconds(draw)
    many = {"save": config.saves, "progress": show}
    path = flow.integrate(objective, t=config.t / 10, **many)
    steps = flow.descend(objective, config.t / 10 / config.saves, config.saves, **many)
    compare = partial(flow.compare, path, steps, progress=show)
    rows[f"compare, {config.saves:,} saves each"] = seconds(compare)
    ax = plt.figure().add_subplot()
    rows["their plane"] = seconds(lambda: flow.plots.plane(path, steps, ax=ax))
    table = pd.DataFrame({"seconds": rows}).rename_axis("what")
    record.table("table", table)
    record.figure("surface", figure)
    record.figure("study", study.plot())
    print(table.to_string(float_format="{:.2f}".format))
    print(f"import flow over import jax: {np.median(imports):.2f}")
    print(f"study.nc: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_experiment(Configuration, experiment)
