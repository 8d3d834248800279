"""The cost of watching the sharpness along a flow.

The gradient flow of a 64-32-10 tanh network on 300 digits to t = 1,000 by TSRKC3 on the compiled
engine, alone and with the top and the bottom of the Hessian's spectrum observed at each saved time,
in interleaved rounds: seconds over those of the bare run, gradient units over its units, products
for each save, and the largest error of what was observed at a twentieth of the saves against ARPACK
at 1e-8, beside the products that ARPACK takes cold at the observer's tolerance. Prints the table
and writes it with the figure and the runs.
"""

import time
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import trange

import flow
from flow.plots import COLOURS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, uninterrupted
from flow.spectrum import eigenpairs


@dataclass(frozen=True)
class Configuration(Options):
    """The cost of watching the sharpness along a flow."""

    t: Science[float] = 1000.0
    """Time of the flow, learning rate × steps."""
    rtol: Science[float, 1.0] = 1e-6
    """Relative tolerance of the flow."""
    save: Science[int] = 200
    """Saved times, at which the spectrum is observed."""
    tol: Science[float] = 1e-3
    """Relative residual of the eigenpairs."""
    rounds: Science[int] = 5
    """Rounds, of which the median counts; one more compiles."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""


def experiment(config: Configuration, record: Record) -> None:
    """Measure every observer, in interleaved rounds."""
    objective = flow.MLP([64, 32, 10]).objective(*flow.datasets.digits(300), seed=config.seed)
    # Observer, and at which end how many.
    watched = {
        "nothing": (None, "top", 0),
        "sharpness": (flow.observe.sharpness(config.tol), "top", 1),
        "top 5": (flow.observe.top_eigenvalues(5, config.tol), "top", 5),
        "bottom": (flow.observe.bottom_eigenvalues(1, config.tol), "bottom", 1),
    }
    seconds, runs = {name: [] for name in watched}, {}
    for i in trange(config.rounds + 1, desc="rounds", disable=config.quiet):
        for name, (observer, _, _) in watched.items():
            began = time.perf_counter()
            path = flow.integrate(
                objective, config.t, method="TSRKC3", rtol=config.rtol,
                save=config.save, observe=observer and {"eigenvalues": observer}, progress=False,
            )  # fmt: skip
            runs[name] = uninterrupted(path)
            if i > 0:
                seconds[name].append(time.perf_counter() - began)
    bare = runs["nothing"].stats["gradients"]
    rows = {}
    for name, (_, end, k) in watched.items():
        products = runs[name].stats["observer_hvps"]
        rows[name] = {
            "seconds": np.median(seconds[name]),
            "over bare": np.median(seconds[name]) / np.median(seconds["nothing"]),
            "units over bare": 1.0 + 2.0 * products / bare,
            "products a save": products / config.save,
        }
        if k:
            at = range(0, config.save, 20)
            params = [runs[name].params(i) for i in at]
            cold = [eigenpairs(objective, p, k, end, config.tol).products for p in params]
            exact = np.array([eigenpairs(objective, p, k, end)[0] for p in params])
            found = runs[name].observed["eigenvalues"][list(at)].reshape(exact.shape)
            scale = flow.sharpness(objective, params[0])
            rows[name] |= {
                "largest error / λ_max": np.abs(found - exact).max() / scale,
                "cold ARPACK": np.mean(cold),
            }
    table = pd.DataFrame(rows).T.rename_axis("watched")
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    top, bottom = (runs[name].observed["eigenvalues"] for name in ("top 5", "bottom"))
    ax.plot(runs["top 5"].t, top, color=COLOURS[0], label=["top 5", *[None] * 4])
    ax.plot(runs["bottom"].t, bottom, color=COLOURS[1], label="bottom")
    ax.set(xlabel=TIME_LABEL, ylabel=r"eigenvalue of $\nabla^2 J$", xscale="symlog", xlim=(0, None))
    ax.grid(visible=True, alpha=0.3)
    ax.legend()
    for name, run in runs.items():
        record.keep(name, run)
    record.table("table", table, timings=["over bare"])
    record.figure("sharpness_cost", figure)
    print(f"{config.save} saves, {bare:,} gradients without")
    print(table.to_string(float_format="{:.3g}".format, na_rep="—"))


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
