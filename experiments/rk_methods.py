"""Error against cost for scipy's methods, on gradient flow of a network on handwritten digits.

Each method at several tolerances against one flow at a far tighter tolerance: error is
‖θ(T) − θ_ref(T)‖/‖θ_ref(T)‖, cost is gradients plus twice the Hessian-vector products. Implicit
methods factorise n × n matrices and are refused above 2,000 parameters; a narrower network shows
them beside the others. Prints a table, writes a figure, the table and the configuration.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter
from tqdm import tqdm

import flow
from flow.plots import work_precision
from flow.records import Options, Record, Science, run_experiment, uninterrupted

METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")

COUNTS = ("cost", "gradients", "products", "steps", "rejected")


@dataclass(frozen=True)
class Configuration(Options):
    """Error against cost for scipy's methods, on gradient flow of a network on digits."""

    examples: Science[int] = 300
    """Number of digits to train on."""
    hidden: Science[tuple[int, ...]] = (32, 16)
    """Hidden units of each network, 64-hidden-10 with tanh: one panel each."""
    t: Science[float, 10_000.0] = 50.0
    """Flow time, learning rate × steps."""
    rtols: Science[tuple[float, ...]] = (1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
    """Relative tolerances; the absolute ones are a thousandth of them."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""


def study(objective: flow.Objective, config: Configuration, name: str) -> pd.DataFrame:
    """Run every method at every tolerance on one network."""
    tight = {"rtol": 1e-12, "atol": 1e-14, "progress": not config.quiet}
    reference = uninterrupted(flow.integrate(objective, config.t, save=[config.t], **tight))
    rows = []
    cases = [(method, rtol) for method in METHODS for rtol in config.rtols]
    refused = set()
    for method, rtol in tqdm(cases, desc=name, disable=config.quiet):
        if method in refused:
            continue
        row: dict[str, Any] = {"network": name, "method": method, "rtol": rtol}
        try:
            path = uninterrupted(
                flow.integrate(
                    objective,
                    config.t,
                    method=method,
                    rtol=rtol,
                    atol=1e-3 * rtol,
                    save=2,
                    progress=False,
                )
            )
        except ValueError as refusal:
            refused.add(method)
            rows.append(row | {"rtol": np.nan, "result": str(refusal).split(";", maxsplit=1)[0]})
            continue
        gap = np.linalg.norm(path.theta[-1] - reference.theta[-1])
        rows.append(
            row
            | {
                "cost": path.stats["gradients"] + 2 * path.stats["hvps"],
                "gradients": path.stats["gradients"],
                "products": path.stats["hvps"],
                "steps": path.stats["steps"],
                "rejected": path.stats["rejected"],
                "seconds": path.stats["seconds"],
                "error": gap / np.linalg.norm(reference.theta[-1]),
                "result": path.result,
            }
        )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Any:
    """Draw one panel a network: error against cost in log–log."""
    names = list(table["network"].unique())
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(5 * len(names), 4.2),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for ax, name in zip(axes[0], names, strict=True):
        work_precision(table[table["network"] == name], ax=ax)
        ax.set(title=name, xlabel="cost, gradients + 2 × products", ylabel="")
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].set_ylabel("relative error of θ(T)")
    # Whole decades, so that each panel has at least two labelled ticks.
    cost = np.log10(table["cost"].dropna())
    axes[0, 0].set_xlim(10 ** np.floor(cost.min()), 10 ** np.ceil(cost.max()))
    handles = {h.get_label(): h for ax in axes[0] for h in ax.get_lines()}
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=6, frameon=False
    )
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Run every method on every network."""
    data = flow.datasets.digits(config.examples)
    tables = []
    for units in config.hidden:
        objective = flow.MLP([64, units, 10]).objective(*data, seed=config.seed)
        name = f"64-{units}-10, {objective.size:,} parameters, T = {config.t:g}"
        tables.append(study(objective, config, name))
    table = pd.concat(tables, ignore_index=True).set_index(["network", "method", "rtol"])
    record.table("table", table)
    record.figure("figure", draw(table.reset_index()))
    for name, of in table.groupby("network", sort=False):
        print(f"\n{name}")
        shown = of.droplevel(0).reset_index().astype(dict.fromkeys(COUNTS, "Int64"))
        shown = shown.assign(rtol=shown["rtol"].map("{:.0e}".format, na_action="ignore"))
        shown = shown.astype(object).where(shown.notna(), "–")
        print(shown.to_string(index=False, float_format="{:.3g}".format))
    print()


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
