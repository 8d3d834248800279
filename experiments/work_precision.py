"""Error against cost of gradient flow's integrators: flow's beside those that people use today.

On every problem of `problems.py` each method runs at several tolerances against one run at a far
tighter one: error is ‖θ(T) − θ_ref(T)‖/‖θ_ref(T)‖, cost is gradients plus twice the
Hessian-vector products, seconds are warm (compilation is no part of them) and the least of
`repeats`. Peers (extra `bench`: extensisq, torch, torchdiffeq) run on the same gradient in the same
process. Prints, and writes, every run; what each method needs for an error of 1e-3, 1e-5 and 1e-7;
what "auto" costs beside the best of four single methods; how cost grows with T; and what each takes
to converge, where implicit methods beyond the four take steps as long as the flow is slow.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter
from peers import PEERS
from problems import PROBLEMS, Problem, teacher
from tqdm import tqdm

import flow
from flow.plots import COLOURS
from flow.records import Options, Record, Science, choice, run_experiment

RTOLS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
PEER_RTOLS = (1e-3, 1e-6)
TARGETS = (1e-3, 1e-5, 1e-7)
PATIENCE = 10.0  # seconds; what takes longer is not repeated
# Implicit methods and torch are for where they are bearable; a peer that would take minutes on a
# problem without teaching more than on the others is left out there.
DENSE_SIZE = 400
LONG = 50_000.0  # λ_max(θ₀)·T
LARGE, LARGE_RTOL, EXPLICIT_RTOL = 10_000, 1e-6, 1e-4


@dataclass(frozen=True)
class Configuration(Options):
    """Error against cost of gradient flow's integrators."""

    problems: Science[tuple[str, ...]] = tuple(PROBLEMS)
    """Which problems, by name."""
    rtols: Science[tuple[float, ...]] = RTOLS
    """Relative tolerances of flow's own methods; the absolute ones are a thousandth."""
    peers: Science[bool] = True
    """Run the peers too; those that are not installed are named and left out."""
    repeats: Science[int] = 3
    """Runs of each, of which the least seconds count."""
    growth: Science[bool] = True
    """Measure how cost grows from T = 100 to 10,000 on digits, and to convergence."""


def own(method: str, engine: str, objective: flow.Objective, t: float, rtol: float) -> Callable:
    """Return a call of one of flow's methods, as a peer is called."""

    def run() -> tuple[np.ndarray, float]:
        path = flow.integrate(
            objective,
            t,
            method=method,
            engine=engine,
            rtol=rtol,
            atol=1e-3 * rtol,
            save=[t],
            progress=False,
        )
        return path.theta[-1], path.stats["gradients"] + 2 * path.stats["hvps"]

    run()  # this compiles
    return run


OWN = {
    "RKC2": partial(own, "RKC2", "jax"),
    "TSRKC3": partial(own, "TSRKC3", "jax"),
    "auto": partial(own, "auto", "scipy"),
    "Radau": partial(own, "Radau", "scipy"),
    "DOP853": partial(own, "DOP853", "scipy"),
}
SINGLE = ("RKC2", "TSRKC3", "Radau", "DOP853")
STYLES = {
    "RKC2": (COLOURS[0], "o", "-"),
    "TSRKC3": (COLOURS[3], "s", "-"),
    "auto": ("black", "*", "-"),
    "Radau": (COLOURS[2], "^", "-"),
    "DOP853": (COLOURS[5], "D", "-"),
    "scipy RK45": (COLOURS[1], "v", ":"),
    "scipy DOP853": (COLOURS[5], "d", ":"),
    "diffrax Tsit5": (COLOURS[4], "P", ":"),
    "extensisq SSV2stab": (COLOURS[2], "X", ":"),
    "RK4, h = 1/λ_max": ("0.5", "h", "none"),
    "torchdiffeq dopri5": ("0.5", "<", ":"),
}


def cases(name: str, objective: flow.Objective, problem: Problem, config: Configuration) -> list:
    """Return every (method, tolerance, maker) that runs on a problem."""
    stiff = flow.sharpness(objective, objective.params) * problem.t > LONG
    large = objective.size > LARGE
    found = []
    for label, make in OWN.items():
        if (label == "Radau" and objective.size > DENSE_SIZE) or (label == "DOP853" and stiff):
            continue
        # Explicit methods cost the same at every tolerance.
        explicit = label == "DOP853"
        least, most = (LARGE_RTOL if large else 0.0), (EXPLICIT_RTOL if explicit else np.inf)
        found += [(label, rtol, make) for rtol in config.rtols if least <= rtol <= most]
    for label, make in PEERS.items() if config.peers else ():
        if _installed(label) and not _left_out(label, name, stiff):
            rtols = [1e-3] if stiff or label.startswith(("RK4", "torch")) else PEER_RTOLS
            found += [(label, rtol, make) for rtol in rtols]
    return found


def _installed(label: str) -> bool:
    return all(find_spec(p) for p in ("extensisq", "torchdiffeq") if label.startswith(p))


def _left_out(label: str, name: str, stiff: bool) -> bool:
    slow = label in ("scipy DOP853", "RK4, h = 1/λ_max", "diffrax Tsit5") and stiff
    return slow or (label == "torchdiffeq dopri5" and name != "digits, T = 1,000")


def measure(name: str, problem: Problem, config: Configuration) -> pd.DataFrame:
    """Run every method at every tolerance on one problem."""
    objective = problem.make()
    reference = flow.integrate(
        objective,
        problem.t,
        method=problem.reference,
        rtol=problem.rtol,
        atol=1e-3 * problem.rtol,
        save=[problem.t],
        progress=not config.quiet,
    ).theta[-1]
    rows = []
    for label, rtol, make in tqdm(
        cases(name, objective, problem, config), name, disable=config.quiet
    ):
        with jax.enable_x64(True):
            started = time.perf_counter()
            run = make(objective, problem.t, rtol)
            ready = time.perf_counter() - started
            seconds = []
            while len(seconds) < config.repeats and sum(seconds) < PATIENCE:
                started = time.perf_counter()
                theta, cost = run()
                seconds.append(time.perf_counter() - started)
        error = np.linalg.norm(theta - reference) / np.linalg.norm(reference)
        rows.append(
            {
                "problem": name,
                "method": label,
                "rtol": np.nan if label.startswith("RK4") else rtol,
                "error": error,
                "cost": cost,
                "seconds": min(seconds),
                "set-up seconds": ready,
            }
        )
    return pd.DataFrame(rows)


def at_error(table: pd.DataFrame, target: float, quantity: str) -> float:
    """Return the cost (or seconds) of an error by one method, interpolated in log–log.

    Only between runs: NaN where none is as accurate; the cheapest where all are.
    """
    table = table.sort_values("error")
    error, cost = table["error"].to_numpy(), table[quantity].to_numpy()
    if error.size == 0 or error[0] > target:
        return np.nan
    if error[-1] <= target:
        return float(cost.min())
    return float(np.exp(np.interp(np.log(target), np.log(error), np.log(cost))))


def needs(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return what each method needs for each of the target errors."""
    grouped = table.groupby(["problem", "method"], sort=False)
    return pd.DataFrame(
        {f"{e:.0e}": grouped.apply(lambda g, e=e: at_error(g, e, quantity)) for e in TARGETS}
    )


def auto_beside_best(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cost of "auto" at each tolerance, and of the cheapest single method at the same.

    The user gives the tolerance: a method whose error is more than twice that, and larger than
    auto's, is no choice.
    """
    rows = []
    for (name, rtol), auto in table[table["method"] == "auto"].groupby(
        ["problem", "rtol"], sort=False
    ):
        single = table[(table["problem"] == name) & table["method"].isin(SINGLE)]
        enough = max(2.0 * rtol, auto["error"].item())
        good = single[(single["rtol"] == rtol) & (single["error"] <= enough)]
        best = good.loc[good["cost"].idxmin()]
        cost = auto["cost"].item()
        rows.append(
            {
                "problem": name,
                "rtol": rtol,
                "error": auto["error"].item(),
                "auto": cost,
                "best": best["cost"],
                "which": best["method"],
                "(auto − 60)/best": (cost - 60) / best["cost"],
            }
        )
    return pd.DataFrame(rows)


def growth() -> pd.DataFrame:
    """Return the cost on digits at T = 100, 1,000 and 10,000, and the slope in log–log."""
    objective, times = PROBLEMS["digits, T = 100"].make(), (100.0, 1000.0, 10_000.0)
    rows = []
    for method, rtol in (("RKC2", 1e-3), ("TSRKC3", 1e-3), ("TSRKC3", 1e-5), ("TSRKC3", 1e-7)):
        costs = [own(method, "jax", objective, t, rtol)()[1] for t in times]
        slope = np.polyfit(np.log(times), np.log(costs), 1)[0]
        rows.append({"method": method, "rtol": rtol, **dict(zip(times, costs, strict=True))})
        rows[-1]["slope"] = slope
    return pd.DataFrame(rows)


def to_convergence() -> pd.DataFrame:
    """Return cost to ‖∇J‖ = 1e-7 at the default tolerances, of a network that learns another's."""
    rows = {
        seed: {
            method: flow.integrate(
                teacher(seed), np.inf, method=method, stop=flow.stop.gradient_norm(1e-7),
                progress=False,
            ).units
            for method in ("auto", "TSRKC3", "Radau", "LSODA", "BDF")  # DOP853 takes millions
        }
        for seed in range(3)
    }  # fmt: skip
    table = pd.DataFrame(rows).T.rename_axis("seed")
    return table.assign(**{"auto/best": table["auto"] / table.min(axis=1)})


def draw(table: pd.DataFrame, quantity: str, label: str) -> Any:
    """Draw one panel a problem: error against cost or seconds, in log–log."""
    names = list(table["problem"].unique())
    columns = min(3, len(names))
    figure, axes = plt.subplots(
        -(-len(names) // columns),
        columns,
        figsize=(4.2 * columns, 3.6 * -(-len(names) // columns)),
        layout="constrained",
        squeeze=False,
    )
    handles = {}
    for ax, name in zip(axes.flat, names, strict=False):
        of_problem = table[table["problem"] == name]
        for method, runs in of_problem.groupby("method", sort=False):
            colour, marker, line = STYLES[method]
            ordered = runs.sort_values(quantity)
            (handle,) = ax.loglog(
                ordered[quantity],
                ordered["error"],
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=5,
                linewidth=1.3,
            )
            handles.setdefault(method, handle)
        ax.set(title=name, xlabel=label, ylabel="relative error of θ(T)")
        ax.grid(visible=True, alpha=0.3)
        # Labels between the decades, which short axes would have, run into each other.
        ax.xaxis.set_minor_formatter(NullFormatter())
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Run every method on every problem."""
    for name in config.problems:
        choice("--problems", name, PROBLEMS)
    for label in PEERS if config.peers else ():
        if not _installed(label):
            print(f"{label} is not installed and left out; pip install -e '.[bench]'")
    pieces = []
    for name in config.problems:
        pieces.append(measure(name, PROBLEMS[name], config))
        print(f"\n{name}\n{_text(pieces[-1].drop(columns='problem'))}", flush=True)
    runs = pd.concat(pieces, ignore_index=True)
    record.table("runs", runs.set_index(["problem", "method", "rtol"]))
    for quantity in ("cost", "seconds"):
        need = needs(runs, quantity)
        record.table(quantity, need, timings=list(need) if quantity == "seconds" else ())
        print(f"\n{quantity} for an error of\n{need.to_string(float_format=_number)}")
    best = auto_beside_best(runs)
    record.table("auto", best.set_index(["problem", "rtol"]))
    print(f"\nauto beside the best of {', '.join(SINGLE)}\n{_text(best)}")
    if config.growth:
        grown = growth()
        record.table("growth", grown.set_index(["method", "rtol"]))
        print(f"\ncost on digits against T\n{_text(grown)}")
        converged = to_convergence()
        record.table("convergence", converged)
        print(f"\ncost to ‖∇J‖ = 1e-7\n{converged.to_string(float_format=_number)}")
    record.figure("cost", draw(runs, "cost", "cost, gradients + 2 × products"))
    record.figure("seconds", draw(runs, "seconds", "seconds, compiled before"))


def _number(x: float) -> str:
    return "–" if np.isnan(x) else f"{x:.3g}" if x < 100 else f"{x:,.0f}"  # noqa: PLR2004


def _text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format=_number)


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"{len(c.problems)}-problems")
