"""One script on one device, on several, and in several processes: the same flow.

The examples of digits are spread over a mesh of devices, each with a copy of θ; a gradient is one
all-reduce. This starts the same run in one process on one device, in one process on virtual
devices, and in several processes that find each other on loopback through `jax.distributed`, and
compares what comes of them: gradient flow by both engines, gradient descent and the sharpness. On a
cluster each process runs `train` after `jax.distributed.initialize()`, which finds its peers under
Slurm, Kubernetes and on TPU pods by itself. Prints a table and writes it with the runs' ends.
"""

import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import flow
from flow.checks import positive, positive_integer
from flow.precision import double_precision
from flow.records import Options, Record, run_experiment

# Seconds after which a process that hears nothing of another gives up, and after which all do.
SILENCE, PATIENCE = 30, 600


@dataclass(frozen=True)
class Configuration(Options):
    """One script on one device, on several, and in several processes."""

    processes: tuple[int, ...] = (2, 4)
    """Numbers of processes on loopback, one device each."""
    devices: int = 8
    """Virtual devices of one process."""
    examples: int = 1792
    """Number of digits; divides over the devices."""
    hidden: int = 32
    """Hidden units of the network."""
    t: float = 10.0
    """Flow time, learning rate × steps."""
    learning_rate: float = 0.02
    """Of gradient descent."""
    seed: int = 0
    """Seed of the initial weights."""


def train(config: Configuration) -> dict[str, np.ndarray]:
    """What every process runs, on all devices that there are."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
    data = flow.datasets.digits(config.examples)
    network = flow.MLP([64, config.hidden, 10])
    objective = network.objective(*data, seed=config.seed, mesh=mesh)
    quiet = {"progress": False, "save": 2}
    began = time.perf_counter()
    runs = {
        "TSRKC3": flow.integrate(objective, config.t, method="TSRKC3", engine="jax", **quiet),
        "DOP853": flow.integrate(objective, config.t, **quiet),
        "GD": flow.descend(
            objective, config.learning_rate, round(config.t / config.learning_rate), **quiet
        ),
    }
    found = {name: run.theta[-1] for name, run in runs.items()}
    found["gradients"] = np.array([run.stats["gradients"] for run in runs.values()])
    found["sharpness"] = np.array(flow.sharpness(objective, runs["GD"].params(-1)))
    found["seconds"] = np.array(time.perf_counter() - began)
    found["collectives"] = np.array(collectives(objective))
    return found


def collectives(objective: flow.Objective) -> tuple[int, int]:
    """All-reduces in the compiled program of one gradient, and the numbers that they add up."""

    def gradient(theta: jax.Array, data: object) -> jax.Array:
        tree = objective.traced_gradient(objective.tree(theta), data)
        return jax.flatten_util.ravel_pytree(tree)[0]

    with double_precision():
        program = jax.jit(gradient).lower(objective.theta, objective.data).compile().as_text()
    sums = re.findall(r"= \w+\[([\d,]*)\]\S* (?:all-reduce|all-reduce-start)\(", program)
    others = re.findall(r"(?:all-gather|all-to-all|collective-permute)(?:-start)?\(", program)
    return len(sums) + len(others), sum(int(np.prod([int(n) for n in s.split(",")])) for s in sums)


def work() -> None:
    """One process of several: find the others, train, and write what came of it."""
    rank, processes, port, out, *options = sys.argv[2:]
    jax.distributed.initialize(
        f"127.0.0.1:{port}", int(processes), int(rank), heartbeat_timeout_seconds=SILENCE
    )
    import tyro

    np.savez(out, **train(tyro.cli(Configuration, args=options)))


def start(config: Configuration, processes: int, devices: int, out: Path) -> list[dict]:
    """Run in so many processes, and collect what each wrote.

    Raises
    ------
    RuntimeError
        One of them failed; the others end with it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("examples", "hidden", "t", "learning_rate", "seed")
    options = [x for n in names for x in (f"--{n.replace('_', '-')}", str(getattr(config, n)))]
    flags = f"--xla_force_host_platform_device_count={devices}"
    files = [out / f"{processes}x{devices}-{rank}.npz" for rank in range(processes)]
    workers = [
        subprocess.Popen(  # noqa: S603 - this script
            [sys.executable, __file__, "--worker", str(rank), str(processes), str(port), str(file),
             *options],
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.DEVNULL,  # gloo's greetings
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, file in enumerate(files)
    ]  # fmt: skip
    try:
        told = [worker.communicate(timeout=PATIENCE)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, text in zip(workers, told, strict=True):
        if worker.returncode:
            raise RuntimeError(f"a process ended with {worker.returncode}: {text[-500:]}")
    return [dict(np.load(file, allow_pickle=False)) for file in files]


def experiment(config: Configuration, record: Record) -> str | None:
    """Run all of them, and compare with one process on one device."""
    positive("--t", config.t)
    positive("--learning-rate", config.learning_rate)
    for value in (*config.processes, config.devices):
        positive_integer("--processes and --devices", value)
    cases = {"1 process, 1 device": (1, 1)}
    if config.devices > 1:
        cases[f"1 process, {config.devices} devices"] = (1, config.devices)
    cases |= {f"{n} processes": (n, 1) for n in config.processes}
    found = {}
    for name, case in cases.items():
        if not config.quiet:
            print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = start(config, *case, record.folder)
    (one,) = found["1 process, 1 device"]
    rows = {}
    for name, results in found.items():
        first = results[0]
        same = all(np.array_equal(first[k], r[k]) for r in results for k in first if k != "seconds")
        rows[name] = {
            f"{k}: ‖Δθ(T)‖/‖θ(T)‖": np.linalg.norm(first[k] - one[k]) / np.linalg.norm(one[k])
            for k in ("TSRKC3", "DOP853", "GD")
        } | {
            "gradients": int(first["gradients"].sum()),
            "Δsharpness": abs(first["sharpness"] / one["sharpness"] - 1.0),
            "all-reduces a gradient": first["collectives"][0],
            "numbers in them": first["collectives"][1],
            "alike in all processes": same,
            "seconds": first["seconds"],
        }
    table = pd.DataFrame(rows).T.rename_axis("where")
    record.table("table", table)
    print(table.T.to_string(float_format="{:.3g}".format))
    return None if table["alike in all processes"].all() else "processes differ"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work()
    else:
        run_experiment(Configuration, experiment)
