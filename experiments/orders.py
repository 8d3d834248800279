"""The order at which every dynamics models its discrete counterpart, measured.

For each pair both run from the same θ₀ to a fixed time on the clock that the dynamics gives, at
halving learning rates, and once for a single step: the slope of log distance against log η is the
order. Noise is measured by its weak order, |E J − E J|. Prints a table and writes it with a figure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

import flow
from flow.plots import COLOURS, MARKERS
from flow.records import Options, Record, Science, choice, run_experiment

LADDER = (0.1, 0.05, 0.025, 0.0125)  # of 2/λ_max(θ₀)
RATES = (1e-2, 5e-3, 2.5e-3, 1.25e-3)  # where an entry's step is η


@dataclass(frozen=True)
class Configuration(Options):
    """The order at which every dynamics models its discrete counterpart."""

    only: Science[tuple[str, ...]] = ()
    """Rows to measure, by name; all of them if none is given."""
    examples: Science[int] = 100
    """Digits that the network 64-8-10 learns."""
    paths: Science[int] = 2000
    """Paths of the stochastic flow."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights and of the noise."""


@dataclass(frozen=True)
class Row:
    """A pair: its dynamics, the optimizer and clock in words, the time, and the learning rates."""

    dynamics: flow.Dynamics
    models: str
    clock: str
    t: float
    rates: Any
    expected: float


def rows(config: Configuration) -> dict[str, Callable[[], Row]]:
    """Return every pair, by name."""
    X, y = flow.datasets.digits(config.examples)
    objective = flow.MLP([64, 8, 10]).objective(X, y, seed=config.seed)
    orthogonal = flow.dynamics.orthogonal(objective, "[0]['W']")
    ladder = flow.auto_learning_rates(objective, LADDER)
    noisy = flow.Objective(lambda x, a: 0.5 * jnp.mean((x - a) ** 2), np.array([3.0]), X[:, 20:21])
    forget = lambda time: exp(-RATES[0] / time)  # noqa: E731

    def pair(make: Callable, models: str, order: float, **other: Any) -> Callable[[], Row]:
        values = {"clock": "t = ηk", "t": 1.0, "rates": ladder} | other
        return lambda: Row(make(), models, expected=order, **values)

    root = {"clock": "t = k√η", "t": 2.0, "rates": [1e-2 * 4.0**-k for k in range(4)]}
    even = {"t": 0.3, "rates": RATES}
    return {
        "gradient flow": pair(lambda: flow.GradientFlow(objective), "gradient descent", 1),
        "with weight decay": pair(
            lambda: flow.GradientFlow(objective, weight_decay=0.1), "decayed gradient descent", 1
        ),
        "modified, order 2": pair(
            lambda: flow.ModifiedFlow(objective, ladder[0]), "gradient descent", 2
        ),
        "modified, order 3": pair(
            lambda: flow.ModifiedFlow(objective, ladder[0], order=3), "gradient descent", 3
        ),
        "principal, k = 3": pair(
            lambda: flow.PrincipalFlow(objective, ladder[0], k=3), "gradient descent", 2
        ),
        "heavy ball, γ = 1": pair(
            lambda: flow.HeavyBall(objective, friction=1.0), "momentum 1 − γ√η", 0.5, **root
        ),
        "Hamiltonian": pair(
            lambda: flow.HeavyBall(objective, friction=0.0), "momentum 1", 0.5, **root
        ),
        "Nesterov's ODE": pair(
            lambda: flow.Nesterov(objective), "Nesterov, k/(k + 3)", 0.5, **root
        ),
        "Adam's flow": pair(lambda: flow.AdamFlow(objective, RATES[0]), "Adam, β fixed", 1, **even),
        "RMSProp's flow": pair(
            lambda: flow.RMSPropFlow(objective, RATES[0]), "RMSProp, β fixed", 1, **even
        ),
        "RMSProp's flow, ε = 1e-4": pair(
            lambda: flow.RMSPropFlow(objective, RATES[0], forget(0.1), eps=1e-4),
            "RMSProp, β fixed",
            1,
            **even,
        ),
        "sign flow, δ = 0.01": pair(
            lambda: flow.SignFlow(objective, smoothing=0.01),
            "smoothed sign descent",
            1,
            t=0.3,
            rates=[r / 16 for r in RATES],
        ),
        "natural gradient, λ = 0.1": pair(
            lambda: flow.NaturalGradientFlow(objective, damping=0.1),
            "damped Gauss–Newton",
            1,
            rates=[0.1, 0.05, 0.025, 0.0125],
        ),
        "Stiefel flow": pair(
            lambda: flow.StiefelFlow(orthogonal, "[0]['W']"), "Riemannian gradient descent", 1
        ),
        "scale-free flow": pair(
            lambda: flow.ScaleFreeFlow(objective, "[0]['W']"), "weight normalisation", 1
        ),
        "linearised flow": pair(
            lambda: flow.LinearizedFlow(objective), "descent of the linearised network", 1
        ),
        "stochastic flow (weak)": pair(
            lambda: flow.StochasticFlow(noisy, 0.4, 10),
            "SGD, batches of 10",
            1,
            rates=[0.4, 0.2, 0.1, 0.05],
        ),
    }


def experiment(config: Configuration, record: Record) -> str | None:
    """Measure the chosen pairs."""
    pairs = rows(config)
    chosen = config.only or tuple(pairs)
    for name in chosen:
        choice("--only", name, pairs)
    studies, table = {}, {}
    for name in tqdm(chosen, desc="pairs", disable=config.quiet):
        row = pairs[name]()
        study = flow.order_study(
            row.dynamics, row.t, row.rates, paths=config.paths, seed=config.seed, progress=False
        )
        studies[name] = study
        table[name] = {
            "models": row.models,
            "clock": row.clock,
            "expected": row.expected,
            "order in η": study.slope,
            "one step": np.nan if study.one_step_slope is None else study.one_step_slope,
        }
    frame = pd.DataFrame(table).T
    record.table("table", frame)
    record.figure("orders", draw(studies))
    print(frame.to_string(float_format="{:.2f}".format))


def draw(studies: dict[str, flow.OrderStudy]) -> Any:
    """Return distance against η for every pair, in log–log."""
    figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
    for i, (name, study) in enumerate(studies.items()):
        ax.loglog(
            study.learning_rates,
            study.distance,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i // len(COLOURS) % len(MARKERS)],
            markersize=5,
            label=f"{name}: {study.slope:.2f}",
        )
    ax.set(xlabel="learning rate η", ylabel="distance at t, ‖θ_discrete − θ_flow‖")
    ax.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", title="order in η")
    return figure


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"{len(c.only) or 'all'}-pairs")
