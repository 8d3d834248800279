"""Momentum as motion: heavy ball and Nesterov, discrete and continuous, and without friction.

On digits: momentum with β = 1 − γ√η beside θ̈ + γθ̇ + ∇J = 0 for several frictions γ, and Nesterov's
method beside θ̈ + (3/t)θ̇ + ∇J = 0, all on their own clock t = k√η; distances at a fixed time fall
as √η. Without friction the energy ½‖θ̇‖² + J is conserved: velocity Verlet keeps it within a band
that falls by four when the step is halved, on digits and over many periods of a quadratic, where
Runge–Kutta drifts. Prints the tables and writes them with the figure and the runs.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS
from flow.records import Options, Record, Science, run_experiment, uninterrupted, whole_steps


@dataclass(frozen=True)
class Configuration(Options):
    """Momentum as motion."""

    may_be_zero = ("frictions",)

    examples: Science[int] = 200
    """Digits to train on."""
    hidden: Science[int] = 16
    """Units of the hidden layer."""
    t: Science[float] = 20.0
    """Time of the runs, √(learning rate) × steps."""
    frictions: Science[tuple[float, ...]] = (0.1, 0.5, 2.0, 8.0)
    """Frictions γ of the heavy ball."""
    learning_rate: Science[float] = 2.5e-3
    """Learning rates of the discrete runs that are drawn."""
    rates: Science[tuple[float, ...]] = (1e-2, 2.5e-3, 6.25e-4, 1.5625e-4)
    """Learning rates of the slopes, at least two."""
    t_order: Science[float] = 3.0
    """Time at which the slopes are taken."""
    periods: Science[int] = 10_000
    """Periods of the quadratic's fastest mode."""
    steps: Science[tuple[int, ...]] = (20, 40)
    """Steps of Verlet in such a period, the second twice the first."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    save: Science[int] = 200
    """Number of saved times of each motion and of each discrete run."""


def motions(objective: flow.Objective, config: Configuration) -> dict[str, flow.Dynamics]:
    """Return the second-order dynamics, by name."""
    balls = {f"γ = {g:g}": flow.HeavyBall(objective, friction=g) for g in config.frictions}
    return balls | {"Nesterov": flow.Nesterov(objective)}


def pairs(
    objective: flow.Objective, config: Configuration, record: Record
) -> dict[str, flow.Trajectory]:
    """Run every motion, and the optimizer that it models, on one clock."""
    runs = {}
    for name, dynamics in tqdm(motions(objective, config).items(), "motions", disable=config.quiet):
        optimizer, time_step = dynamics.counterpart(config.learning_rate)
        count = whole_steps("--learning-rate", config.t, time_step)
        motion = flow.integrate(dynamics, config.t, save=config.save, progress=False)
        steps = flow.descend(
            objective,
            optimizer=optimizer,
            time_step=time_step,
            steps=count,
            save=config.save,
            progress=False,
        )
        for of, run in ((name, motion), (f"{name}, discrete", steps)):
            runs[of] = record.keep(of, run)
    return runs


def orders(objective: flow.Objective, config: Configuration) -> dict[str, flow.OrderStudy]:
    """Return distances at a fixed time against η."""
    return {
        name: flow.order_study(dynamics, config.t_order, config.rates, progress=False)
        for name, dynamics in tqdm(
            motions(objective, config).items(), "orders", disable=config.quiet
        )
    }


def energies(objective: flow.Objective, config: Configuration) -> dict[str, flow.Trajectory]:
    """Return motion without friction: on digits, and over many periods of a quadratic."""
    H = np.array([1.0, 7.0, 25.0])
    quadratic = flow.Objective(lambda x: 0.5 * jnp.sum(H * x**2), np.ones(3))
    period = 2.0 * np.pi / np.sqrt(H.max())
    coarse, fine = config.steps
    fastest = 2.0 * np.pi / np.sqrt(flow.sharpness(objective, objective.params))
    cases = {
        "quadratic": (quadratic, config.periods * period, period),
        "digits": (objective, config.t, fastest / 2.0),  # λ_max grows on the way
    }
    runs = {}
    for name, (of, t, length) in tqdm(cases.items(), "energies", disable=config.quiet):
        ball = flow.HeavyBall(of, friction=0.0)
        for steps in (coarse, fine):
            runs[f"{name}, Verlet, {steps} steps a period"] = flow.integrate(
                ball, t, method="Verlet", step=length / steps, engine="jax", save=2000,
                progress=False,
            )  # fmt: skip
        runs[f"{name}, Dopri8"] = flow.integrate(
            ball, t, method="Dopri8", rtol=1e-5, atol=1e-8, engine="jax", save=2000, progress=False
        )
        for run in runs.values():
            uninterrupted(run)
    return runs


def energy_table(runs: dict[str, flow.Trajectory]) -> pd.DataFrame:
    """Return band and drift of H."""
    rows = {}
    for name, run in runs.items():
        H = run.state["energy"] / run.state["energy"][0] - 1.0
        tenth = len(H) // 10
        rows[name] = {
            "largest |H/H₀ − 1|": np.abs(H).max(),
            "drift": H[-tenth:].mean() - H[:tenth].mean(),
            "gradients": run.stats["gradients"],
        }
    return pd.DataFrame(rows).T


def draw(
    runs: dict[str, flow.Trajectory],
    studies: dict[str, flow.OrderStudy],
    conserved: dict[str, flow.Trajectory],
) -> Any:
    """Return the loss, order and energy."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    loss, order, energy = axes
    for (name, study), colour, marker in zip(studies.items(), COLOURS, MARKERS, strict=False):
        motion, steps = runs[name], runs[f"{name}, discrete"]
        loss.semilogy(motion.t, motion.loss, color=colour, label=name)
        loss.semilogy(
            steps.t[::10], steps.loss[::10], color=colour, marker=marker, markersize=3,
            linestyle="none",
        )  # fmt: skip
        order.loglog(
            study.learning_rates, study.distance, color=colour, marker=marker,
            label=f"{name}: {study.slope:.2f}",
        )  # fmt: skip
    loss.set(
        xlabel="t = √(learning rate) × steps", ylabel="J", title="lines: motion; points: steps"
    )
    loss.legend(fontsize="small")
    order.set(xlabel="learning rate η", ylabel="distance at a fixed time", title="slopes in η")
    order.legend(fontsize="small", loc="lower right")
    quadratic = {k: v for k, v in conserved.items() if k.startswith("quadratic")}
    for (name, run), colour in zip(reversed(quadratic.items()), COLOURS, strict=False):
        H = run.state["energy"]
        label = name.removeprefix("quadratic, ")
        energy.plot(run.t[::7], (H / H[0] - 1.0)[::7], color=colour, linewidth=1, label=label)
    energy.set(xlabel="t", ylabel="H(t)/H(0) − 1", title="γ = 0, a quadratic")
    energy.set_ylim(top=3 * energy.get_ylim()[1])  # room for the legend
    energy.legend(fontsize="small", loc="upper left")
    for ax in axes:
        ax.grid(visible=True, alpha=0.3)
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Return motions beside their optimizers, orders, and energy without friction."""
    X, y = flow.datasets.digits(config.examples)
    objective = flow.MLP([64, config.hidden, 10]).objective(X, y, seed=config.seed)
    runs, studies = pairs(objective, config, record), orders(objective, config)
    conserved = energies(objective, config)
    slopes = pd.DataFrame(
        {name: {"slope": s.slope, "one step": s.one_step_slope} for name, s in studies.items()}
    ).T
    energy = energy_table(conserved)
    record.table("slopes", slopes)
    record.table("energy", energy)
    record.figure("momentum", draw(runs, studies, conserved))
    print(f"{objective.size} parameters; distance at t = {config.t_order:g} against η")
    print(slopes.to_string(float_format="{:.3f}".format))
    print("\nenergy without friction")
    print(energy.to_string(float_format="{:.3g}".format))


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"t{c.t:g}")
