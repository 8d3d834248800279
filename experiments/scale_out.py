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
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import pandas as pd
import tyro

import flow
from flow.records import Options, Record, Science, run_experiment, whole_steps

# Seconds after which a process that hears nothing of another gives up, and after which all do.
SILENCE, PATIENCE = 30, 600
# The former where one is to be killed.
LOST = 10


@dataclass(frozen=True)
class Configuration(Options):
    """One script on one device, on several, and in several processes."""

    processes: tuple[int, ...] = (2, 4)
    """Numbers of processes on loopback, one device each."""
    devices: int = 8
    """Virtual devices of one process."""
    examples: Science[int] = 1792
    """Number of digits; divides over the devices."""
    hidden: Science[int] = 32
    """Hidden units of the network."""
    t: Science[float] = 10.0
    """Flow time, learning rate × steps."""
    learning_rate: Science[float] = 0.02
    """Learning rate of gradient descent."""
    kill: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Then kill one of two processes half-way, the first and the second, and go on alone."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights."""


def train(config: Configuration) -> dict[str, np.ndarray]:
    """Return what every process runs, on all devices that there are."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
    data = flow.datasets.digits(config.examples)
    network = flow.MLP([64, config.hidden, 10])
    objective = network.objective(*data, seed=config.seed, mesh=mesh)
    quiet = {"progress": False, "save": 2}
    began = time.perf_counter()
    runs = {
        "TSRKC3": flow.integrate(objective, config.t, method="TSRKC3", **quiet),
        "DOP853": flow.integrate(objective, config.t, **quiet),
        "GD": flow.descend(
            objective,
            config.learning_rate,
            whole_steps("--learning-rate", config.t, config.learning_rate),
            **quiet,
        ),
    }
    found = {name: run.theta[-1] for name, run in runs.items()}
    found["gradients"] = np.array([run.stats["gradients"] for run in runs.values()])
    found["sharpness"] = np.array(flow.sharpness(objective, runs["GD"].params(-1)))
    found["seconds"] = np.array(time.perf_counter() - began)
    found["collectives"] = np.array(collectives(objective))
    return found


def collectives(objective: flow.Objective) -> tuple[int, int]:
    """Return how many all-reduces the compiled gradient has, and how many numbers they add up."""

    def gradient(theta: jax.Array, data: object) -> jax.Array:
        tree = objective.traced_gradient(objective.tree(theta), data)
        return jax.flatten_util.ravel_pytree(tree)[0]

    with jax.enable_x64(True):
        program = jax.jit(gradient).lower(objective.theta, objective.data).compile().as_text()
    sums = re.findall(r"= \w+\[([\d,]*)\]\S* (?:all-reduce|all-reduce-start)\(", program)
    others = re.findall(r"(?:all-gather|all-to-all|collective-permute)(?:-start)?\(", program)
    return len(sums) + len(others), sum(int(np.prod([int(n) for n in s.split(",")])) for s in sums)


def long_run(config: Configuration, folder: Path) -> flow.Trajectory:
    """Return a flow that keeps checkpoints, or the rest of it."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
    data = flow.datasets.digits(config.examples)
    objective = flow.MLP([64, config.hidden, 10]).objective(*data, seed=config.seed, mesh=mesh)
    if (folder / "run.npz").exists():
        return flow.resume(folder, objective, progress=False)
    often = flow.Checkpoint(folder, gradients=200)
    return flow.integrate(objective, 20 * config.t, save=2, checkpoint=often, progress=False)


def work() -> None:
    """Run one process of several: find the others, train, and write the arrays it ends with."""
    rank, processes, port, out, *options = sys.argv[2:]
    config = tyro.cli(Configuration, args=options)
    patience = LOST if config.kill else SILENCE
    jax.distributed.initialize(
        f"127.0.0.1:{port}", int(processes), int(rank), heartbeat_timeout_seconds=patience
    )
    if config.kill:
        long_run(config, Path(out).with_suffix(""))
    else:
        np.savez(out, **train(config))


def launch(
    config: Configuration, processes: int, devices: int, files: list[Path]
) -> list[subprocess.Popen]:
    """Start so many processes of `work`, each with its file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("examples", "hidden", "t", "learning_rate", "seed")
    options = [x for n in names for x in (f"--{n.replace('_', '-')}", str(getattr(config, n)))]
    options += ["--kill"] * config.kill
    own = os.environ.get("XLA_FLAGS", "")
    flags = f"{own} --xla_force_host_platform_device_count={devices}"
    return [
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


def kill_one(config: Configuration, victim: int, folder: Path) -> dict[str, Any]:
    """Kill one of two processes half-way; how the other ends, and what is left of the run.

    Raises
    ------
    RuntimeError
        The other has not ended in time, or they never came half-way.
    """
    workers = launch(config, 2, 1, [folder.with_suffix(".npz")] * 2)
    survivor = workers[1 - victim]
    try:
        half_way = folder / "state-000000000003.npz"
        deadline = time.monotonic() + PATIENCE
        while not half_way.exists() and survivor.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        workers[victim].kill()
        workers[victim].communicate()
        began = time.monotonic()
        told = survivor.communicate(timeout=4 * LOST)[1]
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the survivor still waits after {4 * LOST} s") from None
    finally:
        for worker in workers:
            worker.kill()
    if survivor.returncode == 0:
        raise RuntimeError("the run was over before it could be disturbed; give a longer --t")
    seconds = time.monotonic() - began
    with warnings.catch_warnings(record=True) as met:  # other bits than in two processes
        warnings.simplefilter("always", flow.CheckpointWarning)
        path = long_run(config, folder)
    whole = long_run(config, folder.with_name(f"{folder.name}-undisturbed"))
    apart = np.linalg.norm(path.theta[-1] - whole.theta[-1]) / np.linalg.norm(whole.theta[-1])
    return {
        "exit code of the other": survivor.returncode,
        "seconds until then": seconds,
        "says which": "processes of this run was probably lost" in told or "leader" in told,
        "gone on with alone": path.result,
        "‖Δθ‖/‖θ‖ to an undisturbed run": apart,
        "warned of other bits": len(met) > 0,
    }


def start(config: Configuration, processes: int, devices: int, out: Path) -> list[dict]:
    """Run in so many processes, and collect what each wrote.

    Raises
    ------
    RuntimeError
        One of them failed; the others end with it.
    """
    files = [out / f"{processes}x{devices}-{rank}.npz" for rank in range(processes)]
    workers = launch(replace(config, kill=False), processes, devices, files)
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
    whole_steps("--learning-rate", config.t, config.learning_rate)
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
    short = None if table["alike in all processes"].all() else "processes differ"
    if config.kill:
        killed = {
            name: kill_one(config, victim, record.folder / f"killed-{victim}")
            for victim, name in enumerate(("the first", "the second"))
        }
        lost = pd.DataFrame(killed).T.rename_axis("killed")
        record.table("killed", lost)
        print(f"\n{lost.T.to_string()}")
    return short


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work()
    else:
        run_experiment(Configuration, experiment)
