"""The gallery of the README: each picture by the one line that makes it.

A network on the Chebyshev polynomial of degree 3, its gradient flow and gradient descent at two
learning rates, as `flow.study` runs them; a linear network for what is conserved; a circuit. Each
line is run as it is printed in the README. Writes the pictures and one animation.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

import flow
from flow.records import Options, Record, Science, choice, run_experiment

# Picture -> the line that makes it.
LINES = {
    "loss": "flow.plots.loss(path, *steps)",
    "sharpness": "flow.plots.sharpness(path, *steps, limits=[None, *limits])",
    "distance": "flow.plots.distance(study.comparison)",
    "surface": "flow.plots.surface(path, *steps)",
    "plane": "flow.plots.plane(path, *steps)",
    "weights": "flow.plots.weights(path, steps[1])",
    "layer_norms": "flow.plots.layer_norms(path, steps[1])",
    "conserved": "flow.plots.conserved(linear, linear_steps)",
    "spectrum": 'flow.plots.spectrum({"θ₀": first, "at the end": last})',
    "spectral_density": "flow.plots.spectral_density(density, width=0.2)",
    "step_size": "flow.plots.step_size(path.named('TSRKC3'), dopri)",
    "stages": "flow.plots.stages(path.named('TSRKC3'), dopri)",
    "order": "flow.order_study(objective, t=2.0).plot()",
    "work_precision": "flow.plots.work_precision(table)",
    "circuit": "flow.plots.circuit(circuit.evaluate({'a': 3.0, 'b': 1.0, 'c': 4.0}))",
}
ANIMATION = "study.animate('study.gif')"


@dataclass(frozen=True)
class Configuration(Options):
    """The gallery of the README."""

    pictures: Science[tuple[str, ...]] = tuple(LINES)
    """Which pictures, by name."""
    t: Science[float] = 2400.0
    """Flow time of the study, learning rate × steps."""
    learning_rates: Science[tuple[float, ...]] = (0.08, 0.16)
    """Learning rates of gradient descent; the second ends at the edge of stability first."""
    save: Science[int] = 161
    """Number of saved times of each run."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    animate: Science[bool] = True
    """Make the animation too."""
    width: Science[float] = 3.6
    """Width of a picture, in inches."""


def names(config: Configuration, record: Record) -> dict[str, Any]:
    """Return what the lines are about, by the names that they use."""
    objective = flow.networks.chebyshev(degree=3, seed=config.seed)
    study = flow.study(
        objective, config.learning_rates, t=config.t, save=config.save, method="TSRKC3",
        engine="jax", progress=not config.quiet,
    )  # fmt: skip
    path, steps = study.flow, study.runs
    for name, run in (("flow", path), *((f"descent-{i}", r) for i, r in enumerate(steps, 1))):
        record.keep(name, run)
    X, y = flow.datasets.digits(100)
    identity = flow.MLP([64, 8, 10], activation="identity", bias=False).objective(X, y)
    a, b, c = (flow.circuits.variable(name) for name in "abc")
    quiet = {"progress": False}
    return {
        "flow": flow,
        "objective": objective,
        "study": study,
        "path": path,
        "steps": steps,
        "limits": [2.0 / run.config["learning_rate"] for run in steps],
        "linear": flow.integrate(identity, 20.0, **quiet),
        "linear_steps": flow.descend(identity, 0.02, 1000, **quiet),
        "first": flow.top_eigenvalues(objective, objective.params, k=30),
        "last": flow.top_eigenvalues(objective, path.params(-1), k=30),
        "density": flow.spectral_density(objective, path.params(-1)),
        "dopri": flow.integrate(objective, 300.0, method="Dopri8").named("Dopri8"),
        "table": costs(objective),
        "circuit": flow.circuits.Circuit(c * (a + 2 * b)),
    }


def costs(objective: flow.Objective, t: float = 100.0) -> pd.DataFrame:
    """Return error against cost of four methods."""
    exact = flow.integrate(objective, t, rtol=1e-11, atol=1e-13, save=[t], progress=False)
    rows = []
    for method in ("RK45", "DOP853", "RKC2", "TSRKC3"):
        for rtol in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
            tolerance = {"rtol": rtol, "atol": 1e-3 * rtol}
            run = flow.integrate(objective, t, method=method, save=[t], progress=False, **tolerance)
            error = np.linalg.norm(run.theta[-1] - exact.theta[-1]) / np.linalg.norm(
                exact.theta[-1]
            )
            cost = run.stats["gradients"] + 2 * run.stats["hvps"]
            rows.append({"method": method, "rtol": rtol, "cost": cost, "error": error})
    return pd.DataFrame(rows)


def experiment(config: Configuration, record: Record) -> None:
    """Draw every picture, by its line."""
    for name in config.pictures:
        choice("--pictures", name, LINES)
    known = names(config, record)
    for name in tqdm(config.pictures, "pictures", disable=config.quiet):
        large = 1.6 if name == "surface" else 1.0
        size = (large * config.width, 0.8 * large * config.width)
        figure = plt.figure(figsize=size, layout="constrained")
        exec(LINES[name], known)  # noqa: S102 - the lines above
        record.figure(name, figure)
    record.table("study", known["study"].table())
    if config.animate:
        file = record.folder / "study.gif"
        known["study"].animate(file, frames=48, dpi=56, progress=not config.quiet)
        record.wrote(file)
    print(known["study"].table().to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    run_experiment(Configuration, experiment)
