"""`study`: the flow and the discrete runs from one θ₀ in one call, one object and one file."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flow._core.checks import choice, positive, several, truth
from flow._core.display import cut
from flow._core.files import refuse_existing, write_new
from flow._core.keywords import own_keywords
from flow._core.opening import TEXT, WHOLE, NetCDF, check_fields, many, netcdf, reading
from flow._core.progress import silent
from flow._core.pytrees import PyTree
from flow._evidence.compare import DISTANCES, Comparison, Pair, compare
from flow._evidence.nearest import refine
from flow._evidence.order import ROUNDING, auto_learning_rates, whole_steps
from flow._evidence.streaming_compare import StreamingDistances
from flow._problem.objective import Objective, how_made
from flow._run.descend import descend
from flow._run.integrate import integrate
from flow._run.loop import InTurn, Prepared
from flow._run.recorder import KEEPS
from flow._run.save_times import Clock, number_of_times, save_steps
from flow._run.trajectory import ENTRIES, Trajectory, told_apart
from flow._run.trajectory_file import run_of
from flow.observe import Observer
from flow.spectrum import sharpness

if TYPE_CHECKING:
    import pandas

FORMAT = "flow study"
FORMAT_VERSION = 1
# Lossless; neighbouring rows of θ share their leading bytes.
PACKED = {"zlib": True, "complevel": 4, "shuffle": True}
# What `integrate` takes that is not common to all runs.
FLOW = "gradient flow"
# What the table has beside what is observed.
COLUMNS = {"run", "distance", "relative", "± error bar", "loss gap", "gradients", "ended"}
_DISTANCES = re.compile("|".join(("t", *DISTANCES)))
INTEGRATOR = ("method", "rtol", "atol", "step", "engine")


@dataclass(frozen=True)
class Study:
    """The flow and the discrete runs of a problem, and how far apart they are.

    Attributes
    ----------
    flow
        The gradient flow.
    runs
        The discrete runs.
    comparison
        Of the runs with the flow; None where Ctrl-C came before there was anything to compare.
    """

    flow: Trajectory
    runs: tuple[Trajectory, ...]
    comparison: Comparison | None

    def plot(self, figure: Any = None) -> Any:
        """Draw loss, distance, sharpness with its limits, PCA plane, and what was observed."""
        from flow import plots

        return plots.study(self, figure)

    def table(self) -> "pandas.DataFrame":
        """Return one row a run: where it ended, how far from the flow, what was observed, its cost.

        Of a vector that was observed, each entry, or of more than four its norm. "gradients" counts
        a Hessian-vector product as two, and leaves out what saving took.
        """
        import pandas

        runs = (self.flow, *self.runs)
        rows = [
            {"run": run.label, "t": run.t[-1], "loss": run.loss[-1]}
            | ({} if self.comparison is None else self._last_distances(run))
            | {"gradients": run.units}
            | _seen(run)
            | {"ended": run.result.split(" ")[0]}
            for run in runs
        ]
        return pandas.DataFrame(rows).set_index("run")

    def _last_distances(self, run: Trajectory) -> dict[str, float]:
        """Return what the table has of a run's distance to the flow."""
        pair = next((pair for pair in self.comparison.pairs if pair.run is run), None)
        distances = ("distance", "relative_distance", "error_bar", "loss_gap")
        values = [np.nan if pair is None else getattr(pair, gap)[-1] for gap in distances]
        return dict(zip(("distance", "relative", "± error bar", "loss gap"), values, strict=True))

    def animate(self, file: str | os.PathLike, **options: Any) -> Path:
        """Return the figure growing with t, as a GIF; options as in `flow.plots.animate`."""
        import matplotlib.pyplot as plt

        from flow import plots

        figure = self.plot()
        try:
            return plots.animate(figure, file, **options)
        finally:
            plt.close(figure)

    def save(self, path: str | os.PathLike) -> Path:
        """Write all runs and their comparison to one netCDF file, whole or not at all.

        Raises
        ------
        FileExistsError
            The path exists; nothing is overwritten.
        OSError
            The folder is missing or not writable, or the disk is full.
        """
        import xarray

        path = refuse_existing(path)
        named = {"/flow": self.flow} | {f"/run-{i}": run for i, run in enumerate(self.runs)}
        parts = {name: run.to_xarray() for name, run in named.items()}
        compared: list[int] = []
        if self.comparison is not None:
            distances = self.comparison.to_xarray()
            parts["/comparison"] = distances.drop_vars("run").assign_attrs(
                units=self.comparison.units
            )
            compared = [
                next(i for i, run in enumerate(self.runs) if run is pair.run)
                for pair in self.comparison.pairs
            ]
        facts = {"runs": len(self.runs), "compared": compared}
        root = {"format": FORMAT, "format_version": FORMAT_VERSION, "facts": json.dumps(facts)}
        tree = xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=root), **parts})
        encoding = {name: dict.fromkeys(part.data_vars, PACKED) for name, part in parts.items()}
        return write_new(path, bytes(tree.to_netcdf(engine="h5netcdf", encoding=encoding)))

    def __repr__(self) -> str:
        """Return a line a run, cut."""
        return cut("\n".join(map(repr, (self.flow, *self.runs))))


@partial(own_keywords, more=INTEGRATOR)
def study(
    objective: Objective,
    learning_rates: Sequence[float] | str = "auto",
    optimizers: Mapping[str, tuple[Any, float]] | None = None,
    *,
    t: float,
    save: int = 33,
    keep: str = "theta",
    observe: Mapping[str, Callable | Observer] | None = None,
    file: str | os.PathLike | None = None,
    progress: bool = True,
    **integrator: Any,
) -> Study:
    """Run the gradient flow, gradient descent and other optimizers from one θ₀, and compare them.

    All go along t together, each in a thread of its own, so that one display tells of all and
    Ctrl-C leaves all of them at about the same t.

    Parameters
    ----------
    objective
        The loss, with θ₀.
    learning_rates
        Of gradient descent, at most t; "auto" takes 0.1, 0.5, 0.9 and 1.1 of 2/λ_max(θ₀). Each is
        changed by about η/2t of itself at most, so that t is a whole number of steps.
    optimizers
        Name -> (optax optimizer, time_step), the units of t in a step: its learning rate, or
        learning rate / (1 − β) for momentum beside the flow. These end at the last step up to t.
    t
        Flow time, learning rate × steps.
    save
        Number of times that each discrete run saves; the flow is saved at all of theirs, and where
        it bends between them, so that its line in a picture is its curve (not with another `keep`).
    keep
        As in `flow.integrate`. Unless it is "theta", no trajectory is stored: the runs wait for
        each other at every save, where distances are computed, and losses compared, of the θ that
        both then have; the nearest distance, the angle and the flow's own error are NaN.
    observe
        As in `flow.integrate`; the sharpness unless given, and ``{}`` for nothing.
    file
        Where to write it, "study.nc"; None to keep it in memory.
    progress
        Show t, an estimate, the flow's loss and sharpness, and the gradients spent by all.
    integrator
        Of the flow: `method`, `rtol`, `atol`, `step` and `engine` of `flow.integrate`.

    Raises
    ------
    FileExistsError
        `file` exists; before anything is computed.
    ValueError, TypeError
        An argument is off; the message names it, the value met and the remedy.

    Examples
    --------
    >>> import flow, optax
    >>> objective = flow.MLP([64, 4, 10]).objective(*flow.datasets.digits(50), seed=0)
    >>> momentum = {"momentum 0.9": (optax.sgd(0.002, 0.9), 0.02)}
    >>> study = flow.study(objective, [0.05, 0.02], momentum, t=2.0, save=5, progress=False)
    >>> list(study.table().index)
    ['gradient flow', 'GD, η = 0.05', 'GD, η = 0.02', 'momentum 0.9']
    >>> far, near, _ = (distance[-1] for distance in study.comparison.distance)
    >>> bool(near < 0.5 * far)
    True
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"study needs an objective, {how_made(objective)}; got {objective!r:.80}")
    if jax.process_count() > 1:
        raise ValueError(
            f"study runs in threads, whose order differs between {jax.process_count()} processes; "
            "there use integrate, descend and compare one after the other"
        )
    t = positive("t", t)
    truth("progress", progress)
    save = number_of_times(save)
    file = None if file is None else refuse_existing(file)
    watched = {"sharpness": sharpness} if observe is None else observe
    common = {"observe": watched, "keep": choice("keep", keep, KEEPS)}
    with silent(progress):
        runners, own = _descents(
            objective, learning_rates, {} if optimizers is None else optimizers, t, save, common
        )
    times = np.unique(np.minimum(np.concatenate([[0.0, t], *own]), t))
    flow = partial(integrate, objective, t, save=times, **integrator, **common)
    distances = None
    if keep != "theta":
        distances = StreamingDistances(FLOW, objective.theta, t)
        distances.expect(dict(zip(runners, own, strict=True)))
    told = () if distances is None else (distances.meet, distances.leave)
    found = InTurn({FLOW: flow} | runners, t, *told).run(show=progress)
    path, *runs = told_apart([found[name] for name in (FLOW, *runners)])
    if distances is None:
        path = refine(path, watched, progress=progress)
        compared = _compared(path, runs, progress=progress)
    else:
        compared = _streamed(path, dict(zip(runners, runs, strict=True)), distances)
    made = Study(path, tuple(runs), compared)
    if file is not None:
        made.save(file)
    return made


@own_keywords
def load_study(
    path: str | os.PathLike, like: PyTree = None, *, max_bytes: int | None = None
) -> Study:
    """Read a study that `Study.save` wrote; `like` and `max_bytes` as in `flow.load`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    Unreadable
        A ValueError: it is truncated, or no study of flow, or of a newer format, or a field of it
        is not what it must be; the message names it.
    """
    with netcdf(path, {FORMAT: FORMAT_VERSION}, max_bytes) as file:
        return study_of(file, like)


def study_of(file: NetCDF, like: PyTree = None) -> Study:
    """Return the study in an open file; `like` as in `flow.load`.

    Raises
    ------
    Unreadable
        It lacks a field, or one is not what it must be.
    """
    what = f"{file.path} cannot be read as a study"
    with reading(what):
        told = check_fields(file.attributes("/", ("facts",)), {"facts": TEXT}, {})
        facts = file.json("facts", told["facts"])
        check_fields(facts, {"runs": WHOLE, "compared": many(WHOLE)}, {}, "facts")
        inside, compared = file.groups(), facts["compared"]
        if facts["runs"] != (there := sum(name.startswith("run-") for name in inside)):
            raise ValueError(f"facts.runs is {facts['runs']}, and {there} are there")
        if any(not 0 <= k < facts["runs"] for k in compared):
            raise ValueError(f"facts.compared must be of {facts['runs']} runs, got {compared}")
    names = ["flow", *(f"run-{i}" for i in range(facts["runs"]))]
    path, *runs = (run_of(file, name, like) for name in names)
    if not compared:
        return Study(path, tuple(runs), None)
    distances = file.arrays("comparison", _DISTANCES)
    units = file.attributes("comparison", ("units",)).get("units", 0)
    with reading(f"{what}: group comparison"):
        WHOLE.check("units", units)
        if missing := {"t", *DISTANCES} - distances.keys():
            raise ValueError(f"{min(missing)} is missing")
        t = distances.pop("t")
        if t.ndim != 1 or any(gap.shape != (len(compared), len(t)) for gap in distances.values()):
            raise ValueError("distances must be (runs, times)")
        pairs = [
            _saved_pair(path, runs[k], t, {name: gap[i] for name, gap in distances.items()})
            for i, k in enumerate(compared)
        ]
        return Study(path, tuple(runs), Comparison(path, tuple(pairs), units))


def _compared(path: Trajectory, runs: Sequence[Trajectory], *, progress: bool) -> Comparison | None:
    """Return the comparison; by what is at hand where Ctrl-C ends the runs that it takes."""
    # An interrupt may have come before a run has left θ₀.
    moved = [run for run in runs if len(run.t) > 1 and run.t[1] <= path.stats["t_end"]]
    if not moved:
        return None
    try:
        ended = path.result.startswith("reached")
        return compare(path, *moved, error_bar=ended, progress=progress)
    except KeyboardInterrupt:
        as_it_is = replace(path, dynamics=None)  # at the times that were saved, without a rerun
        shared = [run for run in moved if np.isin(run.t[1:], path.t).any()]
        if not shared:
            return None
        found = compare(as_it_is, *shared, error_bar=False, progress=False)
        return Comparison(path, found.pairs, found.units)


def _streamed(
    path: Trajectory, runs: Mapping[str, Trajectory], distances: StreamingDistances
) -> Comparison | None:
    """Return the comparison of what was met in lockstep; None where nothing was."""
    pairs = []
    for name, run in runs.items():
        found = distances.of(name)
        unknown = np.full(len(found["t"]), np.nan)
        rows = np.abs(run.t[:, None] - found["t"]).argmin(axis=0)
        nowhere = np.empty((len(rows), 0))
        pair = Pair(
            run=run,
            theta=nowhere,
            reference_theta=nowhere,
            nearest_distance=unknown,
            loss=run.loss[rows],
            angle=unknown,
            error_bar=unknown,
            **found,
        )
        if np.any(pair.t > 0):
            pairs.append(pair)
    return Comparison(path, tuple(pairs)) if pairs else None


def _saved_pair(
    reference: Trajectory, run: Trajectory, t: np.ndarray, distances: Mapping[str, np.ndarray]
) -> Pair:
    """Return a run of a saved comparison; θ_ref is NaN where `compare` had rerun the reference."""
    kept = np.isfinite(distances["distance"])
    t, distances = t[kept], {name: gap[kept] for name, gap in distances.items()}
    at, rows = (np.abs(path.t[:, None] - t).argmin(axis=0) for path in (reference, run))
    saved = np.abs(reference.t[at] - t) <= 1e-9 * np.maximum(t, 1.0)
    nowhere = np.empty((len(rows), 0))
    kept = run.keeps_theta and reference.keeps_theta
    return Pair(
        run=run,
        t=t,
        theta=run.theta[rows] if kept else nowhere,
        reference_theta=np.where(saved[:, None], reference.theta[at], np.nan) if kept else nowhere,
        loss=run.loss[rows],
        **distances,
    )


def _descents(
    objective: Objective,
    learning_rates: Sequence[float] | str,
    optimizers: Mapping[str, tuple[Any, float]],
    t: float,
    save: int,
    common: Mapping[str, Any],
) -> tuple[dict[str, Callable[..., Prepared]], list[np.ndarray]]:
    """Return a runner of each discrete run, and the times at which it saves."""
    rates = _rates(objective, learning_rates, t)
    if not isinstance(optimizers, Mapping):
        raise TypeError(
            f"optimizers must be {{name: (optax optimizer, time_step)}}, got {optimizers!r:.80}"
        )
    runners: dict[str, Callable[..., Prepared]] = {}
    clocks = []
    taken: dict[int, Any] = {}
    for rate in rates:
        steps = whole_steps("learning_rates", t, rate)
        if steps in taken and isinstance(learning_rates, str):
            continue
        if steps in taken:
            raise ValueError(
                f"learning_rates {taken[steps]!r} and {rate!r} are both {steps} steps to t={t:g}; "
                "leave one out, or give a longer t"
            )
        taken[steps] = rate
        clocks.append(Clock(steps, t / steps))
        runners[f"descent {len(runners)}"] = partial(
            descend, objective, t / steps, steps, save=save, **common
        )
    for name, pair in optimizers.items():
        if hasattr(pair, "update") or not (isinstance(pair, tuple) and len(pair) == 2):  # noqa: PLR2004
            raise TypeError(
                f"optimizers[{name!r}] must be (optax optimizer, time_step), got {pair!r}"
            )
        _refuse_schedule(f"optimizers[{name!r}]", pair[1], "optimizer=..., time_step=schedule")
        time_step = positive(f"optimizers[{name!r}] time_step", pair[1])
        whole_steps(f"optimizers[{name!r}]", t, time_step)
        steps = int(t / time_step * (1 + ROUNDING))  # which must not cost the last step
        clocks.append(Clock(steps, time_step))
        runners[f"optimizer {name}"] = partial(
            descend,
            objective,
            optimizer=pair[0],
            time_step=time_step,
            steps=steps,
            save=save,
            label=str(name),
            **common,
        )
    if not runners:
        raise ValueError("learning_rates and optimizers are both empty; there is nothing to run")
    return runners, [
        np.array([clock.at(int(k)) for k in save_steps(save, "linear", clock)]) for clock in clocks
    ]


def _rates(objective: Objective, learning_rates: Sequence[float] | str, t: float) -> list[float]:
    """Return the learning rates that were asked for, checked."""
    if isinstance(learning_rates, str):
        if learning_rates != "auto":
            raise ValueError(f"learning_rates must be numbers or 'auto', got {learning_rates!r}")
        asked = auto_learning_rates(objective)
        if t < asked[0]:
            raise ValueError(
                f"t={t:g} is less than the learning rates that 'auto' takes, {asked[0]:.3g} to "
                f"{asked[-1]:.3g} (0.1 to 1.1 of 2/λ_max): give a longer t, ten times that and "
                f"more, or learning_rates={[t / 10, t / 100]}"
            )
        learning_rates = [min(rate, t) for rate in asked]
    asked = several("learning_rates", learning_rates, "several numbers or 'auto'")
    for rate in asked:
        _refuse_schedule("learning_rates", rate, "learning_rate=schedule")
    return asked


def _refuse_schedule(name: str, given: Any, way: str) -> None:
    """Refuse a schedule, whose steps to t are not known before they are taken."""
    if callable(given):
        raise TypeError(
            f"{name} has a schedule, and the runs of a study have steps of one length; run it "
            f"beside, run = flow.descend(objective, {way}, steps=...), and "
            "flow.compare(study.flow, *study.runs, run)"
        )


def _seen(run: Trajectory) -> dict[str, float]:
    """Return what the table has of what a run observed, at its last time."""
    found = {}
    for name in run.watched:
        column = f"observed {name}" if name in COLUMNS else name
        last = np.ravel(run.observed[name][-1])
        if len(last) == 1:
            found[column] = last[0]
        elif len(last) <= ENTRIES:
            found |= {f"{column} {i + 1}": entry for i, entry in enumerate(last)}
        else:
            found[f"‖{column}‖"] = np.linalg.norm(last)
    return found
