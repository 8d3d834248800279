"""Large models, and the memory they take: a million-parameter MLP and a flax CNN.

Gradient flow (TSRKC3, compiled), gradient descent, both in lockstep without a stored trajectory,
and the sharpness, of 784-1000-200-10 on 10,000 synthetic images of 28 × 28 and of a convolutional
network of flax. Each runs in a process of its own, whose peak of resident memory is told beside
that of gradients alone in the same process, in state vectors (8 n bytes). Beside it, for every
compiled method, what XLA allots to its loop. Prints two tables and writes them with a figure.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import flow
from flow.methods.loop_state import Fixed, Limits, Tolerance
from flow.records import Options, Record, Science, choice, run_experiment, whole_steps

MODELS = ("MLP", "flax CNN")
TASKS = ("gradient", "flow", "descent", "lockstep", "sharpness")
METHODS = ("TSRKC3", "RKC2", "Euler", "RK4", "Tsit5", "Dopri8")
SIDE, CLASSES = 28, 10
VECTORS = "vectors beyond a gradient"


@dataclass(frozen=True)
class Configuration(Options):
    """Large models, and the memory that they take."""

    examples: Science[int] = 10_000
    """Images that the MLP learns."""
    images: Science[int] = 500
    """Images that the convolutional network learns."""
    hidden: Science[tuple[int, ...]] = (1000, 200)
    """Hidden units of the MLP."""
    channels: Science[tuple[int, ...]] = (16, 32)
    """Channels of the convolutional network's layers."""
    t: Science[float] = 1.0
    """Flow time, learning rate × steps."""
    learning_rate: Science[float] = 0.05
    """Learning rate of gradient descent."""
    rtol: Science[float, 1.0] = 1e-3
    """Tolerance of the flow."""
    dtype: Science[str] = "float64"
    """float64 or float32."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights and of the images."""


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images of ten smooth random prototypes: rows of 784 pixels, and one-hot rows."""
    rng = np.random.default_rng(seed)
    waves = np.cos(np.pi * np.outer(np.arange(6), np.arange(SIDE) + 0.5) / SIDE)
    shapes = np.einsum("cij,ix,jy->cxy", rng.standard_normal((CLASSES, 6, 6)), waves, waves)
    shapes /= shapes.std(axis=(1, 2), keepdims=True)
    label = rng.integers(CLASSES, size=n)
    pixels = shapes[label] + rng.standard_normal((n, SIDE, SIDE))
    return pixels.reshape(n, -1) / SIDE, np.eye(CLASSES)[label]


def objective_of(model: str, config: Configuration) -> flow.Objective:
    """Return the loss of a model on its images."""
    if model == "MLP":
        network = flow.MLP([SIDE**2, *config.hidden, CLASSES])
        data = images(config.examples, config.seed)
        return network.objective(*data, seed=config.seed, dtype=config.dtype)
    import flax.linen as nn

    class Convolutional(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = x.reshape(-1, SIDE, SIDE, 1)
            for channels in config.channels:
                x = nn.avg_pool(nn.tanh(nn.Conv(channels, (3, 3))(x)), (2, 2), (2, 2))
            return nn.Dense(CLASSES)(nn.tanh(nn.Dense(128)(x.reshape(len(x), -1))))

    network, (X, y) = Convolutional(), images(config.images, config.seed)
    with jax.enable_x64(True):
        params = network.init(jax.random.key(config.seed), X[:1])
    return flow.Objective(
        outputs=network.apply,
        output_loss=lambda f, y: 0.5 * ((f - y) ** 2).sum(axis=1).mean(),
        params=params,
        data=(X, y),
        dtype=config.dtype,
    )


def run(task: str, objective: flow.Objective, config: Configuration, t: float) -> dict[str, Any]:
    """Run one task to flow time t, and return its numbers."""
    how = {"method": "TSRKC3", "rtol": config.rtol, "atol": 1e-3 * config.rtol}
    quiet = {"save": 3, "keep": "last", "progress": False}
    steps = whole_steps("--learning-rate", t, config.learning_rate)
    if task == "gradient":
        for _ in range(3):
            began = time.perf_counter()
            objective.flat_value_and_gradient(objective.theta)
        return {"seconds a gradient": time.perf_counter() - began}
    if task == "flow":
        path = flow.integrate(objective, t, **how, **quiet)
    elif task == "descent":
        path = flow.descend(objective, t / steps, steps, **quiet)
    elif task == "lockstep":
        study = flow.study(objective, [t / steps], t=t, observe={}, **how, **quiet)
        path, pair = study.flow, study.comparison.pairs[0]
        return {"distance": pair.distance[-1], "relative distance": pair.relative_distance[-1]}
    else:
        return {"sharpness": flow.sharpness(objective, objective.params)}
    return {"gradients": path.units, "J": path.loss[-1], "result": path.result}


def work() -> None:
    """Run one task in this process, and print its numbers, its size and the peak of memory."""
    import tyro

    task, model, *options = sys.argv[2:]
    config = tyro.cli(Configuration, args=options)
    objective = objective_of(model, config)
    run(task, objective, config, 2 * config.learning_rate)  # imports and compilation are not meant
    run("gradient", objective, config, config.t)
    _, gradient = peak(lambda: run("gradient", objective, config, config.t))
    found, most = peak(lambda: run(task, objective, config, config.t))
    vectors = (most - gradient) / (8 * objective.size)
    found |= {"parameters": objective.size, "peak, MB": most / 1e6, VECTORS: vectors}
    print(json.dumps(found, default=float))


def peak(call: Callable[[], Any]) -> tuple[Any, int]:
    """Return what the call returns, and the most resident memory meanwhile, in bytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    found = call()
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return found, 1024 * int(line.split()[1])


def alone(task: str, model: str, config: Configuration) -> dict[str, Any]:
    """Return the task in a process of its own."""
    options = [
        str(part)
        for name in ("examples", "images", "t", "learning_rate", "rtol", "dtype", "seed")
        for part in (f"--{name.replace('_', '-')}", getattr(config, name))
    ]
    options += ["--hidden", *map(str, config.hidden), "--channels", *map(str, config.channels)]
    # Freed vectors go back to the system at once, so that the peak is of what lived together.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": "0"}
    told = subprocess.run(  # noqa: S603 - this script
        [sys.executable, __file__, "--worker", task, model, *options],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(told.strip().splitlines()[-1])


def allotted(objective: flow.Objective, method: str) -> dict[str, float]:
    """Return state vectors that XLA allots to a chunk of a compiled method, and to a gradient."""
    adaptive = method not in ("Euler", "RK4")
    objective.flat_value_and_gradient(objective.theta)
    with jax.enable_x64(True):
        settings = {} if adaptive else {"step": 1e-6}
        flow.integrate(
            objective, 1.0, method=method, engine="jax", max_gradients=60, save=2, progress=False,
            keep="last", **settings,
        )  # fmt: skip
        dynamics = flow.GradientFlow(objective)
        limits = Limits(*map(np.float64, (1.0, 60.0, 1.0, -np.inf, -np.inf)))
        given = Tolerance(1e-3, 1e-6, 1e-15) if adaptive else Fixed(1e-6)
        given = jax.tree.map(np.float64, given)
        start, chunk = (
            objective.compiled((name, method, None, dynamics), lambda: None)
            for name in ("start", "chunk")
        )
        carry = jax.eval_shape(start, objective.data, given, limits, 0.0, objective.theta)
        times = np.full(1, np.inf)
        programs = {
            "gradient": objective.compiled("value_and_gradient", lambda: None).lower(
                objective.theta, objective.data
            ),
            "loop": chunk.lower(objective.data, given, limits, times, carry),
        }
    data = sum(x.nbytes for x in jax.tree.leaves(objective.data))
    vectors = {}
    for name, program in programs.items():
        m = program.compile().memory_analysis()
        bytes_ = m.argument_size_in_bytes - data + m.output_size_in_bytes + m.temp_size_in_bytes
        vectors[name] = (bytes_ - m.alias_size_in_bytes) / (8 * objective.size)
    state = sum(x.size for x in jax.tree.leaves(carry)) / objective.size
    return {
        "carried from step to step": state,
        "beyond the gradient's own": vectors["loop"] - vectors["gradient"],
    }


def draw(table: pd.DataFrame, methods: pd.DataFrame) -> Any:
    """Return vectors of each task above the gradient's, and of each method."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    beyond = table.pivot_table(VECTORS, "task", "model", sort=False)
    beyond.drop("gradient").plot.barh(ax=axes[0], color=flow.plots.COLOURS[:2])
    axes[0].set(xlabel="resident memory beyond a gradient's (state vectors)", ylabel="")
    axes[0].legend(loc="best", frameon=False)
    methods.plot.barh(ax=axes[1], color=flow.plots.COLOURS[2:4])
    axes[1].set(xlabel="memory of the compiled loop (state vectors)", ylabel="")
    axes[1].legend(loc="lower right", frameon=False)
    return figure


def experiment(config: Configuration, record: Record) -> str | None:
    """Run all tasks of both models, then the loops of all methods."""
    whole_steps("--learning-rate", config.t, config.learning_rate)
    choice("--dtype", config.dtype, ["float64", "float32"])
    rows = {}
    for model in MODELS:
        for task in TASKS:
            began = time.perf_counter()
            rows[model, task] = alone(task, model, config)
            if not config.quiet:
                took = time.perf_counter() - began
                print(f"{model}, {task}: {took:.0f} s", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows).T.rename_axis(["model", "task"])
    table = table.reset_index().infer_objects()
    small = objective_of("MLP", replace(config, examples=100, dtype="float64"))
    methods = pd.DataFrame({name: allotted(small, name) for name in METHODS}).T
    record.table("table", table)
    record.table("methods", methods.rename_axis("method").reset_index())
    record.figure("memory", draw(table, methods))
    print(table.to_string(index=False, na_rep="", float_format="{:.4g}".format))
    print(methods.to_string(float_format="{:.3g}".format))
    ended = table["result"].dropna()
    return None if ended.str.startswith("reached").all() else f"a run fell short: {list(ended)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work()
    else:
        run_experiment(Configuration, experiment)
