"""Gradient flow of a network on handwritten digits, and gradient descent beside it.

Integrates θ̇ = −∇J(θ) of a 64-32-10 network on scikit-learn's digits, runs gradient descent from
the same weights at learning rates below, near and beyond the stability limit 2/λ_max(θ₀), and
measures how far they part. Prints a table, writes a figure, the runs and the configuration.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

import flow
from flow.records import Options, Record, Science, run_experiment, whole_steps


@dataclass(frozen=True)
class Configuration(Options):
    """Gradient flow of a network on handwritten digits, and gradient descent beside it."""

    examples: Science[int] = 300
    """Number of digits to train on, of 1,797."""
    test: Science[int] = 500
    """Number of other digits for the test loss and accuracy."""
    hidden: Science[tuple[int, ...], 512] = (32,)
    """Units of each hidden layer."""
    activation: Science[Literal["tanh", "sigmoid", "relu", "softplus", "gelu", "identity"]] = "tanh"
    """Activation of the hidden layers. ReLU needs --method RK4 or Euler, and --step."""
    loss: Science[Literal["mse", "cross_entropy", "binary_cross_entropy"]] = "mse"
    """Loss, a mean over examples."""
    learning_rates: Science[tuple[float, ...], 100.0] = ()
    """Learning rates of gradient descent; by default 0.1, 0.5, 0.9 and 1.1 of 2/λ_max(θ₀). Each
    is rounded so that all runs end at the same time."""
    t: Science[float, 1e5] = 300.0
    """Flow time to integrate to, learning rate × steps."""
    method: Science[Literal["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA", "Euler", "RK4"]] = (
        "DOP853"
    )
    """Integrator of the flow."""
    rtol: Science[float | None, 1.0] = None
    """Relative tolerance of the flow, 1e-6 if not given; not for RK4 and Euler."""
    atol: Science[float | None, 1.0] = None
    """Absolute tolerance of the flow, 1e-9 if not given; not for RK4 and Euler."""
    step: Science[float | None, 100.0] = None
    """Step of RK4 and Euler, in units of t; not for the others."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""
    save: Science[int] = 100
    """Number of saved times of each run."""


def settings(config: Configuration) -> dict[str, float]:
    """Return the integrator's settings that were given; refuse what does not go together first."""
    for rate in config.learning_rates:
        whole_steps("--learning-rates", config.t, rate)
    asked = {"rtol": config.rtol, "atol": config.atol, "step": config.step}
    given = {name: value for name, value in asked.items() if value is not None}
    fixed = config.method in ("RK4", "Euler")
    if unused := given.keys() & ({"rtol", "atol"} if fixed else {"step"}):
        raise ValueError(f"--{min(unused)} is no setting of --method {config.method}; leave it out")
    if fixed and config.step is None:
        raise ValueError(f"--method {config.method} needs --step, in units of t")
    if config.activation == "relu" and not fixed:
        raise ValueError(
            "--activation relu needs --method RK4 or Euler, and --step: at its kinks "
            "error-controlled methods stall"
        )
    return given


def run(
    config: Configuration, record: Record
) -> tuple[flow.Trajectory, flow.Comparison, flow.Audit]:
    """Compute the descents and the flow, and compare them."""
    train, held_out = flow.datasets.digits(config.examples, test=config.test)
    integrator = settings(config)
    network = flow.MLP([64, *config.hidden, 10], config.activation)
    objective = network.objective(*train, loss=config.loss, seed=config.seed)
    observe = {
        "test loss": flow.observe.test_loss(*held_out),
        "test accuracy": flow.observe.accuracy(*held_out),
    }
    rates = config.learning_rates or np.minimum(flow.auto_learning_rates(objective), config.t)
    common = {"observe": observe, "progress": not config.quiet}
    descents = []
    for i, rate in enumerate(rates, 1):
        steps = whole_steps("--learning-rates", config.t, rate)
        found = flow.descend(objective, config.t / steps, steps=steps, save=config.save, **common)
        descents.append(record.keep(f"descent-{i}", found))
    path = flow.integrate(
        objective,
        config.t,
        method=config.method,
        **integrator,
        # Saved at the descents' times, the flow needs no second run to be compared at them.
        save=np.unique(np.minimum(np.concatenate([d.t for d in descents]), config.t)),
        **common,
    )
    path = record.keep("flow", flow.refine(path, observe, progress=not config.quiet))
    comparison = flow.compare(path, *descents, progress=not config.quiet)
    return path, comparison, flow.audit(path)


def experiment(config: Configuration, record: Record) -> str | None:
    """Compute, compare, keep and print."""
    path, comparison, audit = run(config, record)
    table = comparison.table()
    accuracy = path.observed["test accuracy"]
    table["test accuracy"] = [pair.run.observed["test accuracy"][-1] for pair in comparison.pairs]
    record.table("table", table)
    record.figure("figure", comparison.plot())
    print(table.to_string(float_format=lambda x: f"{x:.4g}"))
    print()
    print(
        f"flow: {path.result}, J {path.stats['loss_first']:.4g} → {path.stats['loss_last']:.4g}, "
        f"test accuracy {accuracy[0]:.3f} → {accuracy[-1]:.3f}, "
        f"{path.stats['gradients']:,} gradients in {path.stats['seconds']:.1f} s "
        f"(and {path.stats['compile_seconds']:.1f} s to compile)"
    )
    print(audit)
    return None if path.result.startswith("reached") else path.result


if __name__ == "__main__":
    run_experiment(Configuration, experiment, lambda c: f"{c.activation}-t{c.t:g}")
