"""The edge of stability: gradient flow sharpens, and gradient descent can't follow beyond 2/η.

From one θ₀ the gradient flow and gradient descent at several learning rates, on 1-100-1 networks
that learn Chebyshev polynomials of degree 3, 4 and 5, and on 64-32-10 networks of digits with tanh
and ReLU. The sharpness of the flow grows; that of gradient descent stops at 2/η, and there the two
part. Likewise heavy ball at (2 + 2β)/η and Nesterov at (2 + 2β)/((1 + 2β)η), on the flow's clock
t = ηk/(1 − β), and Adam, whose preconditioned sharpness stops at (2 + 2β₁)/((1 − β₁)η) = 38/η.
Prints the table of when each meets its limit, how sharp it ends and how far from the flow, and
writes it with the figures and the runs.
"""

from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS, TIME_LABEL
from flow.records import Options, Record, Science, run_experiment, uninterrupted, whole_steps

Name = Literal["chebyshev-3", "chebyshev-4", "chebyshev-5", "digits-tanh", "digits-relu"]
# Of each problem: the time of the runs, and learning rates of gradient descent.
SETTINGS: dict[str, tuple[float, tuple[float, ...]]] = {
    "chebyshev-3": (3000.0, (0.05, 0.08, 0.16)),
    "chebyshev-4": (3000.0, (0.06, 0.1)),
    "chebyshev-5": (3000.0, (0.06, 0.1)),
    "digits-tanh": (600.0, (0.1, 0.12)),
    "digits-relu": (150.0, (0.2, 0.25)),
}
# Of the classical Runge–Kutta method, which gets through the kinks of ReLU: with this step the flow
# is 0.001 from one at half of it by t = 150, with 0.05 it is 0.15 off.
RELU_STEP = 0.025
ADAM_STEPS = 10_000


@dataclass(frozen=True)
class Configuration(Options):
    """The edge of stability of gradient descent and its relatives."""

    problems: Science[tuple[Name, ...]] = tuple(SETTINGS)
    """Problems that are learnt, by name."""
    learning_rates: Science[tuple[float, ...], 10.0] = ()
    """Learning rates of gradient descent, on every problem; by default two or three for each."""
    t: Science[float | None, 30_000.0] = None
    """Time of the runs, learning rate × steps; by default 3,000 on polynomials, 600 on digits with
    tanh and 150 with ReLU."""
    beta: Science[float] = 0.5
    """Momentum of heavy ball and Nesterov, on the polynomial of degree 3."""
    momentum_limit: Science[float] = 25.0
    """Sharpness at which they are to meet their limits; it sets their learning rates."""
    adam_rate: Science[float, 1.0] = 1e-3
    """Learning rate of Adam, on the polynomial of degree 3, for 10,000 steps."""
    seeds: Science[tuple[int, ...], 2**32 - 1] = (0,)
    """Seeds of the initial weights; the first is drawn."""
    save: Science[int] = 300
    """Saved times of each run."""


@dataclass(frozen=True)
class Run:
    """A discrete run, and the limit of its sharpness."""

    name: str
    learning_rate: float
    limit: float
    steps: flow.Trajectory
    flow: flow.Trajectory | None  # on its clock; Adam has another

    @property
    def sharpness(self) -> np.ndarray:
        """Return over its limit; NaN before there is one."""
        return self.steps.observed["sharpness"] / self.limit

    @property
    def crossing(self) -> float:
        """Return the first saved time with the sharpness at its limit or beyond; NaN if none."""
        met = self.sharpness >= 1.0
        return float(self.steps.t[met.argmax()]) if met.any() else np.nan

    @property
    def distance(self) -> tuple[np.ndarray, np.ndarray]:
        """Return matched times, and the distance to the flow there."""
        pair = flow.compare(self.flow, self.steps, error_bar=False, progress=False).pairs[0]
        return pair.t, pair.distance


def objective(name: str, seed: int) -> flow.Objective:
    """Return the problem of a name."""
    kind, detail = name.split("-")
    if kind == "chebyshev":
        return flow.networks.chebyshev(int(detail), seed)
    network = flow.MLP([64, 32, 10], activation=detail, gain=0.5)
    return network.objective(*flow.datasets.digits(300), seed=seed)


def optimizers(name: str, config: Configuration) -> dict[str, tuple[float, float, Any, float]]:
    """Return by name: learning rate, limit of the sharpness, optimizer and units of t in a step."""
    rates = config.learning_rates or SETTINGS[name][1]
    found = {f"GD, η = {eta:g}": (eta, 2.0 / eta, optax.sgd(eta), eta) for eta in rates}
    if name != "chebyshev-3":
        return found
    b, limit = config.beta, config.momentum_limit
    ball, nesterov = (2.0 + 2.0 * b) / limit, (2.0 + 2.0 * b) / ((1.0 + 2.0 * b) * limit)
    adam = config.adam_rate
    return found | {
        f"heavy ball, β = {b:g}": (ball, limit, optax.sgd(ball, b), ball / (1.0 - b)),
        f"Nesterov, β = {b:g}": (
            nesterov,
            limit,
            optax.sgd(nesterov, b, nesterov=True),
            nesterov / (1.0 - b),
        ),
        f"Adam, η = {adam:g}": (adam, 38.0 / adam, optax.adam(adam), adam),
    }


def gradient_flow(
    problem: flow.Objective, t: float, times: np.ndarray, config: Configuration
) -> flow.Trajectory:
    """Return the flow, saved at the times of all discrete runs on its clock."""
    how = {"method": "TSRKC3"} if problem.smooth else {"method": "RK4", "step": RELU_STEP}
    path = flow.integrate(
        problem, t, save=times, engine="jax", progress=not config.quiet,
        observe={"sharpness": flow.observe.sharpness()}, **how,
    )  # fmt: skip
    return uninterrupted(path)


def run(name: str, seed: int, config: Configuration) -> tuple[flow.Trajectory, list[Run]]:
    """Return the flow and all discrete runs of a problem."""
    problem, t = objective(name, seed), config.t or SETTINGS[name][0]
    top = flow.sharpness(problem, problem.params)
    made = []
    for label, (eta, limit, optimizer, time_step) in optimizers(name, config).items():
        adam = label.startswith("Adam")
        if not adam and top > limit:
            print(f"{name}, {label}: λ_max(θ₀) = {top:.3g} is beyond its limit {limit:.3g} already")
        observer = flow.observe.adam_sharpness(eta) if adam else flow.observe.sharpness()
        steps = flow.descend(
            problem, optimizer=optimizer, time_step=time_step, save=config.save,
            steps=ADAM_STEPS if adam else int(t / time_step),
            observe={"sharpness": observer}, progress=not config.quiet,
        )  # fmt: skip
        made.append((label, eta, limit, uninterrupted(steps)))
    on_clock = [steps.t for label, _, _, steps in made if not label.startswith("Adam")]
    times = np.unique(np.concatenate([np.linspace(0.0, t, config.save), *on_clock]))
    path = gradient_flow(problem, t, times, config)
    return path, [
        Run(label, eta, limit, steps, None if label.startswith("Adam") else path)
        for label, eta, limit, steps in made
    ]


def row(run: Run) -> dict[str, Any]:
    """Return a run's row: medians over its last quarter, and shortly before crossing."""
    t, crossing = run.steps.t, run.crossing
    late = np.nanmedian(run.sharpness[t >= 0.75 * t[-1]])
    found = {
        "η": run.learning_rate,
        "limit": run.limit,
        "meets it at t": crossing,
        "late sharpness / limit": late,
    }
    if run.flow is None:
        return found
    times, distance = run.distance
    before = distance[(times > 0.8 * crossing) & (times <= 0.95 * crossing)]
    after = np.median(distance[times >= 0.75 * times[-1]])
    before = np.median(before) if len(before) else np.nan
    return found | {"distance before": before, "late": after, "late / before": after / before}


def draw(name: str, path: flow.Trajectory, runs: list[Run]) -> Any:
    """Draw loss, sharpness against its limits, and distance to the flow; crossings are marked."""
    adaptive = [run for run in runs if run.flow is None]
    shape, size = ((2, 2), (10, 7.5)) if adaptive else ((1, 3), (13, 4))
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained")
    axes = axes.ravel()
    loss, sharp, far = axes[:3]
    loss.semilogy(path.t, path.loss, color="k", label="gradient flow")
    sharp.plot(path.t, path.observed["sharpness"], color="k", label="gradient flow")
    on_clock = [run for run in runs if run.flow is not None]
    for one, colour, marker in zip(on_clock, COLOURS, MARKERS, strict=False):
        style = {"color": colour, "marker": marker, "markersize": 3, "linestyle": "none"}
        t = one.steps.t
        loss.semilogy(t[::4], one.steps.loss[::4], **style, label=one.name)
        sharp.plot(t[::4], one.steps.observed["sharpness"][::4], **style)
        sharp.axhline(one.limit, color=colour, linestyle=":")
        times, distance = one.distance
        far.semilogy(times[1:], distance[1:], color=colour, linewidth=1)
        if np.isfinite(one.crossing):
            at = np.interp(one.crossing, times, distance)
            far.semilogy(
                one.crossing, at, color=colour, marker=marker, markersize=9, markeredgecolor="k"
            )
    top = max([one.limit for one in on_clock] + [path.observed["sharpness"].max()])
    loss.set(ylabel="loss J", title=f"{name}: lines flow, points steps")
    sharp.set(
        ylabel=r"sharpness $\lambda_{\max}$",
        ylim=(0, 1.1 * top),
        title="dotted: limits of stability",
    )
    far.set(ylabel="distance to the flow", title="marked: meets its limit")
    loss.legend(fontsize="small")
    for one in adaptive:
        axes[3].plot(one.steps.t, one.sharpness, ".", color=COLOURS[5], label=one.name)
        axes[3].axhline(1.0, color=COLOURS[5], linestyle=":")
        axes[3].set(
            ylabel="preconditioned sharpness · η/38", ylim=(0, 1.5), title="on Adam's clock"
        )
        axes[3].legend(fontsize="small")
    for ax in axes:
        ax.set_xlabel(TIME_LABEL)
        ax.grid(visible=True, alpha=0.3)
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return flow and discrete runs of every problem and seed."""
    if config.beta >= 1.0:
        raise ValueError(f"--beta must be below 1, got {config.beta:g}")
    for name in config.problems:
        for label, (*_, time_step) in optimizers(name, config).items():
            if not label.startswith("Adam"):
                whole_steps(f"{name}, {label}", config.t or SETTINGS[name][0], time_step)
    rows = {}
    cases = [(name, seed) for name in config.problems for seed in config.seeds]
    for name, seed in tqdm(cases, "problems", disable=config.quiet):
        path, runs = run(name, seed, config)
        if seed == config.seeds[0]:
            record.keep(f"{name}-flow", path)
            for i, one in enumerate(runs, 1):
                record.keep(f"{name}-{i}", one.steps)
            record.figure(name, draw(name, path, runs))
        rows |= {(name, seed, one.name): row(one) for one in runs}
    table = pd.DataFrame(rows).T.rename_axis(["problem", "seed", "run"])
    record.table("table", table)
    print(table.to_string(float_format="{:.4g}".format, na_rep="—"))


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: "-".join(c.problems))
