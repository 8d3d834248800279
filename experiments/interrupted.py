"""Killed at random moments, and gone on with: the same bits as if nothing had happened.

Gradient flow by scipy's loop (DOP853) and by the compiled one (TSRKC3), and Adam on mini-batches,
side by side in one process that keeps checkpoints much more often than anybody would, is killed
with SIGKILL at random moments, half of them while a file is being written, and started again by
`flow.resume`, until all have ended. Prints a table and writes it: how often each was killed, how
often that was during the writing of a file, and whether the ends are those of undisturbed runs.
"""

import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optax
import pandas as pd

import flow
from flow.records import Options, Record, Science, positive_integer, run_experiment

# Seconds in which a worker must have started.
PATIENCE = 120
# Share of the kills that wait for a file that is being written.
WRITING = 0.5


@dataclass(frozen=True)
class Configuration(Options):
    """Killed at random moments, and gone on with."""

    kills: Science[int] = 24
    """Kills at most; the runs may end before."""
    window: Science[float] = 0.6
    """A kill comes so many seconds, at most, after all runs have gone on."""
    t: Science[float] = 22000.0
    """Flow time, learning rate × steps, of the flow by scipy's loop."""
    every: Science[int] = 30
    """Gradients between two checkpoints."""
    examples: Science[int] = 200
    """Number of digits to train on."""
    seed: Science[int, 2**32 - 1] = 0
    """Seed of the initial weights, and of the moments of the kills."""


def runs(config: Configuration) -> dict[str, tuple]:
    """Return each run by name: its function, arguments beside the objective, those of resume."""
    adam = {"optimizer": optax.adam(1e-4)}
    descent = {"steps": int(35 * config.t), "time_step": 1e-4, "batch_size": 20}
    compiled = {
        "t": config.t / 11,
        "engine": "jax",
        "method": "TSRKC3",
        "rtol": 1e-11,
        "atol": 1e-14,
    }
    return {
        "DOP853": (flow.integrate, {"t": config.t}, {}),
        "TSRKC3, compiled": (flow.integrate, compiled, {}),
        "Adam": (flow.descend, descent | adam, adam),
    }


def work() -> None:
    """Start the runs, or go on with them; write the end of each."""
    import tyro

    folder = Path(sys.argv[2])
    config = tyro.cli(Configuration, args=sys.argv[3:])
    network = flow.MLP([64, 8, 10])
    objective = network.objective(*flow.datasets.digits(config.examples), seed=config.seed)

    def run(name: str) -> None:
        start, arguments, again = runs(config)[name]
        where, end = folder / name, folder / f"{name}.nc"
        if end.exists():
            return
        if (where / "run.npz").exists():
            path = flow.resume(where, objective, **again, progress=False)
        else:
            often = flow.Checkpoint(where, gradients=config.every)
            path = start(objective, **arguments, save=50, checkpoint=often, progress=False)
        path.save(end)

    threads = [threading.Thread(target=run, args=(name,)) for name in runs(config)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def last(config: Configuration, folder: Path) -> dict[str, str]:
    """Return the last checkpoint of each run; "ended" where it has ended."""

    def of(name: str) -> str:
        if (folder / f"{name}.nc").exists():
            return "ended"
        return max((file.name for file in (folder / name).glob("state-*.npz")), default="")

    return {name: of(name) for name in runs(config)}


def kill_once(config: Configuration, folder: Path, chance: random.Random) -> dict[str, int] | None:
    """Start a worker and kill it; which runs were met, and how many of these writing.

    None where it ended by itself.
    """
    options = [f"--{k}={getattr(config, k)}" for k in ("t", "every", "examples", "seed")]
    before = last(config, folder)
    worker = subprocess.Popen(  # noqa: S603 - this script
        [sys.executable, __file__, "--worker", str(folder), *options], stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + PATIENCE

    def going() -> bool:
        now = last(config, folder)
        return all(now[name] == "ended" or now[name] != before[name] for name in now)

    try:
        while worker.poll() is None and time.monotonic() < deadline and not going():
            time.sleep(0.01)
        try:
            worker.wait(chance.uniform(0.0, config.window))
        except subprocess.TimeoutExpired:
            if chance.random() < WRITING:
                patience = time.monotonic() + 1.0
                while not list(folder.glob("*/.*")) and time.monotonic() < patience:
                    pass
            worker.kill()  # SIGKILL: nothing is asked, nothing is closed
    finally:
        worker.kill()
    told = worker.communicate()[1].decode()
    if worker.returncode == 0:
        return None
    if worker.returncode > 0:
        raise RuntimeError(f"the worker failed: {told[-2000:]}")
    met = [name for name, file in last(config, folder).items() if file != "ended"]
    return {name: len(list((folder / name).glob(".*"))) for name in met}


def experiment(config: Configuration, record: Record) -> str | None:
    """Kill, go on, and compare."""
    positive_integer("35 --t, Adam's steps,", runs(config)["Adam"][1]["steps"])
    disturbed, undisturbed = record.folder / "killed", record.folder / "undisturbed"
    chance = random.Random(config.seed)  # noqa: S311 - no secret
    killed, writing = dict.fromkeys(runs(config), 0), dict.fromkeys(runs(config), 0)
    disturbed.mkdir()
    for i in range(config.kills):
        if (met := kill_once(config, disturbed, chance)) is None:
            break
        if not config.quiet:
            print(f"kill {i + 1}: {', '.join(met)}", file=sys.stderr, flush=True)
        for name, files in met.items():
            killed[name] += 1
            writing[name] += files > 0
    options = [f"--{k}={getattr(config, k)}" for k in ("t", "every", "examples", "seed")]
    undisturbed.mkdir()
    for folder in (disturbed, undisturbed):
        subprocess.run(  # noqa: S603
            [sys.executable, __file__, "--worker", str(folder), *options], check=True
        )
    rows = {}
    for name in killed:
        path, whole = (flow.load(f / f"{name}.nc") for f in (disturbed, undisturbed))
        parts = ("t", "theta", "loss", "gradient_norm")
        spent = ("gradients", "hvps", "batch_gradients", "steps", "rejected", "dissipated")
        rows[name] = {
            "killed": killed[name],
            "while writing": writing[name],
            "gradients": path.units,
            "same bits": all(np.array_equal(getattr(path, p), getattr(whole, p)) for p in parts),
            "same counts": all(path.stats.get(s) == whole.stats.get(s) for s in spent),
        }
    table = pd.DataFrame(rows).T.rename_axis("run")
    record.table("table", table)
    print(table.to_string())
    same = table["same bits"].all() and table["same counts"].all()
    return None if same else "a run that was gone on with differs from the undisturbed one"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work()
    else:
        run_experiment(Configuration, experiment)
