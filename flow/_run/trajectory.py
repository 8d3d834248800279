"""`Trajectory`: times, parameters, observables, cost and why it ended; saved and loaded whole."""

import copy
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from flow._core.checks import index, instance, single_run
from flow._core.costs import units
from flow._core.display import visible
from flow._core.files import refuse_existing, write_new
from flow._core.pytrees import PyTree, restored
from flow._problem.objective import Objective

if TYPE_CHECKING:
    import xarray

FORMAT = "flow trajectory"
FORMAT_VERSION = 1
TIME_UNIT = "learning rate × steps"
# Numbers that are held at once beside the runs.
PART = 2**20
# Of a vector that is observed, entries that tables and figures of a study show one by one.
ENTRIES = 4
# What a run has in the process that computed it alone.
HERE = ("dynamics", "solver", "unflatten")
_PACKAGES = ["gradient-flow", "jax", "numpy", "scipy", "optax"]


@dataclass(frozen=True)
class Trajectory:
    """A run: its times, parameters, losses and observables, in numpy float64.

    Of an ensemble (``ensemble=`` of `integrate` and `descend`, or several learning rates) the
    first axis of every array is the member, and rows that a member lacks beside the longest are
    NaN; every entry of `stats` is a list, one entry a member. `member` gives the runs one by one,
    of the shapes below.

    Attributes
    ----------
    t
        Saved times (times,), in units of learning rate × steps.
    theta
        Flat parameters (times, n), in `jax.flatten_util.ravel_pytree` order; of a run that kept
        less, ``keep="projection"`` or "last", those at the last time alone (1, n).
    loss, gradient_norm
        J and ‖∇J‖ on all the data (times,).
    state
        What else the dynamics or the optimizer carries, by name: (times, ...).
    observed
        Observables by name: (times, ...).
    work
        What had been spent when a row was saved, (times,) each: "steps", "gradients", "hvps" and
        of a descent "values", those for saving and for observers left out, and "t", where the step
        then in progress ended.
    stats
        What it cost: "gradients" and "hvps" in all, of which "save_gradients" and "save_hvps" for
        θ, J and ‖∇J‖ where the method has not evaluated them, at saved times and after steps of
        BDF and LSODA; of a descent "values", those of J alone that a line search took;
        "observer_gradients", "observer_hvps" and "observer_values" apart
        (`flow._run.recorder.Meter`); "steps", "rejected" (None where the method does not tell),
        "seconds" without "compile_seconds". And what it met: "dissipated" = ∫‖∇J‖² dt up to
        "t_end", "loss_first", "loss_last", "largest_rise" of J between steps (of a solver class of
        yours that does not evaluate J there: between saves). Uphill, "dissipated" is −∫‖∇J‖² dt
        and "largest_rise" that of −J. Of an ensemble, the seconds are those of the whole call in
        every entry, and "result" has each member's.
    result
        Why it ended, a sentence; of an ensemble, which members ended how.
    config
        What was run: kind, method, tolerances, learning rate, clock, problem, seed. Of an ensemble
        the entries named in "each" are lists, one entry a member.
    dynamics
        The dynamics that moved, for a flow computed in this process; None after loading, and in
        another process, to which a pickle brings what a file has. Of an ensemble a tuple, each with
        its own θ₀.
    solver
        Its `scipy.integrate.OdeSolver` class, likewise.
    """

    t: Float64[np.ndarray, "*members times"]
    theta: Float64[np.ndarray, "*members kept n"]
    loss: Float64[np.ndarray, "*members times"]
    gradient_norm: Float64[np.ndarray, "*members times"]
    state: Mapping[str, np.ndarray]
    observed: Mapping[str, np.ndarray]
    work: Mapping[str, np.ndarray]
    stats: Mapping[str, Any]
    result: str
    config: Mapping[str, Any]
    structure: Any = None
    versions: Mapping[str, str] = field(default_factory=dict)
    dynamics: Any = field(default=None, repr=False, compare=False)
    solver: Any = field(default=None, repr=False, compare=False)
    unflatten: Callable[[np.ndarray], PyTree] | None = field(
        default=None, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a file has, for another process: neither dynamics nor solver."""
        return vars(self) | dict.fromkeys(HERE)

    def __copy__(self) -> "Trajectory":
        """Return the same, in this process with its dynamics."""
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Trajectory":
        """Return arrays of its own, in this process with its dynamics."""
        own = {k: copy.deepcopy(x, memo) for k, x in vars(self).items() if k not in HERE}
        return replace(self, **own)

    @property
    def label(self) -> str:
        """Return what tables and figures call it."""
        label = self.config["label"]
        return label if isinstance(label, str) else f"{label[0]}, and {len(label) - 1} more"

    @property
    def units(self) -> int:
        """Return what its motion cost in gradients, rounded up; saves are left out.

        A product counts as two gradients and a value of J alone, of a line search, as a third. Of
        mini-batches their gradients. Of an ensemble the sum.
        """
        own = self.total("batch_gradients")
        own = own or self.total("gradients") - self.total("save_gradients")
        hvps = self.total("hvps") - self.total("save_hvps")
        return ceil(units(own, hvps, self.total("values")))

    def total(self, name: str) -> int:
        """Return an entry of `stats`, of an ensemble its sum."""
        return int(np.sum(self.stats.get(name, 0)))

    @property
    def members(self) -> int | None:
        """Return how many runs an ensemble has; None for a single run."""
        return None if self.t.ndim == 1 else len(self.t)

    @property
    def keeps_theta(self) -> bool:
        """Return whether θ is there at every saved time."""
        return self.theta.shape[:-1] == self.t.shape

    @property
    def watched(self) -> list[str]:
        """Return names of what `observe=` recorded: of all but what ``keep="projection"`` adds."""
        return [name for name in self.observed if self.keeps_theta or name != "projection"]

    @property
    def noisy(self) -> bool:
        """Return whether noise moved it: a flow of one seed."""
        return self.config["kind"] == "flow" and "seed" in self.config

    def member(self, i: int) -> "Trajectory":
        """Return the i-th run of an ensemble by itself, without the padding.

        Raises
        ------
        ValueError
            This is a single run.
        IndexError, TypeError
            There is no such member, or `i` is no integer.

        Examples
        --------
        >>> import flow, numpy as np
        >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0, 2.0]))
        >>> theta = np.array([[1.0, 2.0], [-3.0, 0.0]])
        >>> paths = flow.integrate(objective, t=1.0, ensemble=theta, save=5)
        >>> paths.theta.shape, paths.member(1).theta.shape
        ((2, 5, 2), (5, 2))
        """
        if self.members is None:
            raise ValueError("this is a single run and has no members; use it as it is")
        i = index("member", i, self.members, f"an ensemble of {self.members}")
        kept = ~np.isnan(self.t[i])
        stats = {name: entries[i] for name, entries in self.stats.items() if name != "result"}
        return replace(
            self,
            t=self.t[i][kept],
            theta=self.theta[i][kept if self.keeps_theta else slice(None)],
            loss=self.loss[i][kept],
            gradient_norm=self.gradient_norm[i][kept],
            state={name: a[i][kept] for name, a in self.state.items()},
            observed={name: a[i][kept] for name, a in self.observed.items()},
            work={name: a[i][kept] for name, a in self.work.items()},
            stats=stats,
            result=self.stats["result"][i],
            config=self._config_of(i),
            dynamics=None if self.dynamics is None else self.dynamics[i],
        )

    def _config_of(self, i: int) -> dict[str, Any]:
        """Return what the i-th member ran: its own of the entries in which members differ."""
        config = dict(self.config)
        each = config.pop("each", ["problem"])
        own = {k: config[k][i] for k in each if isinstance(config[k], list)}  # or renamed for all
        return config | own

    def params(self, i: int) -> PyTree:
        """Return parameters at the i-th saved time, a pytree like the θ₀ that the user gave.

        Raises
        ------
        ValueError
            The run has kept θ at its last time alone, and this is another.
            The run was loaded, or comes from another process, and its parameters are in containers
            that no file can restore; ``flow.load(path, like=params)`` restores them, and so does
            ``dataclasses.replace(path, unflatten=objective.unflatten)``. Or this is an ensemble.
        IndexError, TypeError
            There is no such saved time, or `i` is no integer.
        """
        check_single("path.params", self)
        i = index("row", i, len(self.t), f"{len(self.t)} saved times")
        if not self.keeps_theta:
            if i % len(self.t) != len(self.t) - 1:
                raise ValueError(
                    f"path.params({i}) is not kept, only θ at the last time, path.params(-1); run "
                    'with keep="theta"'
                )
            i = -1
        if self.unflatten is not None:
            return self.unflatten(self.theta[i])
        if self.structure is None:
            raise ValueError(
                "the parameters of this run, which was loaded or comes from another process, are "
                "not made of dicts, lists and tuples; load it with flow.load(path, like=params), "
                "params a pytree of that structure, or give back what restores them, "
                "dataclasses.replace(path, unflatten=objective.unflatten)"
            )
        return restored(self.structure, self.theta[i])

    def named(self, label: str) -> "Trajectory":
        """Return the same run under another name in tables and figures."""
        instance("label", label, str, "a string")
        return replace(self, config={**self.config, "label": label})

    def __repr__(self) -> str:
        """Return a line that tells runs apart."""
        if self.members is not None:
            return visible(
                f"<Trajectory {self.label}: {self.members} members to t = {np.nanmax(self.t):g}, "
                f"{self.theta.shape[-1]} parameters, {sum(self.stats['gradients']):,} gradients; "
                f"{self.result}>"
            )
        return visible(
            f"<Trajectory {self.label}: {len(self.t)} times to t = {self.t[-1]:g}, "
            f"{self.theta.shape[1]} parameters, J {self.loss[0]:.4g} → {self.loss[-1]:.4g}, "
            f"{self.stats['gradients']:,} gradients; {self.result}>"
        )

    def to_xarray(self) -> "xarray.Dataset":
        """Return an `xarray.Dataset` with units; configuration and cost are attributes."""
        import xarray

        time = ("time",) if self.members is None else ("member", "time")
        kept = time if self.keeps_theta else (*time[:-1], "last")
        variables: dict[str, Any] = {
            "theta": ((*kept, "parameter"), self.theta, {"long_name": "parameters, flat"}),
            "loss": (time, self.loss, {"long_name": "J, mean over examples"}),
            "gradient_norm": (time, self.gradient_norm, {"long_name": "‖∇J‖"}),
        }
        for group in ("state", "observed", "work"):
            arrays = getattr(self, group)
            for name, array in arrays.items():
                axes = [f"{group}_{name}_{i}" for i in range(1, array.ndim - len(time) + 1)]
                variables[f"{group}:{name}"] = ((*time, *axes), array)
        clock = {"long_name": "flow time", "units": TIME_UNIT}
        return xarray.Dataset(
            variables,
            coords={"t": (time, self.t, clock)},
            attrs={
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "result": self.result,
                "config": json.dumps(self.config),
                "stats": json.dumps(self.stats),
                "structure": json.dumps(self.structure),
                "versions": json.dumps(self.versions),
            },
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Write the run to one netCDF file, whole or not at all.

        Raises
        ------
        FileExistsError
            The path exists; nothing is overwritten.
        OSError
            The folder is missing or not writable, or the disk is full.
        """
        path = refuse_existing(path)
        return write_new(path, bytes(self.to_xarray().to_netcdf(engine="h5netcdf")))


def parts(rows: int, width: int) -> list[slice]:
    """Return rows in parts, so that what is made of one at a time takes a bounded memory.

    >>> parts(3, 2**20)
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None)]
    """
    size = max(PART // max(width, 1), 1)
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ‖aᵢ − bᵢ‖ of each row of two arrays (rows, n), or of all from one point (n,)."""
    found = np.empty(len(a))
    for part in parts(*a.shape):
        found[part] = np.linalg.norm(a[part] - (b if b.ndim == 1 else b[part]), axis=1)
    return found


def all_units(run: Trajectory) -> int:
    """Return what a run cost in gradients with saves, observers and mini-batches, rounded up."""
    kinds = (
        ("gradients", "batch_gradients", "observer_gradients"),
        ("hvps", "observer_hvps"),
        ("values", "observer_values"),
    )
    return ceil(units(*(sum(map(run.total, kind)) for kind in kinds)))


def check_single(what: str, *runs: Any) -> None:
    """Refuse an ensemble where one run is asked for, and nothing where something is."""
    if not runs:
        raise ValueError(f"{what} needs at least one run")
    for run in runs:
        if not isinstance(run, Trajectory):
            of_study = "; of a study they are study.flow, *study.runs" * hasattr(run, "runs")
            raise TypeError(
                f"{what} is of runs, of integrate or descend, given one by one or in a list; got "
                f"a {type(run).__name__}, {run!r:.80}{of_study}"
            )
    for run in runs:
        single_run(what, run)


def check_keeps_theta(what: str, *runs: Trajectory) -> None:
    """Refuse what `check_single` does, and runs that have not kept θ where it is asked for."""
    check_single(what, *runs)
    for run in runs:
        if not run.keeps_theta:
            raise ValueError(
                f"{what} needs θ at every saved time, and {run.label!r} has kept the last alone; "
                'run it with keep="theta", or see distances in lockstep, flow.study(..., '
                'keep="last")'
            )


def told_apart(runs: Sequence[Trajectory]) -> list[Trajectory]:
    """Return the runs, each by a name of its own: of one name, with what they differ in.

    That is what they were run with, or where it is all the same, a number.

    >>> import flow
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.ones(1))
    >>> runs = [flow.integrate(objective, 1.0, method=m) for m in ("RK23", "RK45", "RK45")]
    >>> [run.label for run in told_apart(runs)]
    ['gradient flow, method RK23', 'gradient flow, method RK45', 'gradient flow, method RK45 #2']
    """
    names = [run.label for run in runs]
    for label in {name for name in names if names.count(name) > 1}:
        same = [i for i, name in enumerate(names) if name == label]
        for i, more in zip(same, _differences([runs[i].config for i in same]), strict=True):
            names[i] = ", ".join([label, *more])
    own: list[str] = []
    for name in names:
        numbered = (f"{name} #{k}" for k in count(2))
        own.append(next(one for one in chain([name], numbered) if one not in own))
    pairs = zip(runs, own, strict=True)
    return [run if run.label == name else run.named(name) for run, name in pairs]


def _differences(configs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Write as many entries of each as tell them apart."""
    found: list[list[str]] = [[] for _ in configs]
    facts = [{**config, **config.get("constants", {})} for config in configs]
    for key in dict.fromkeys(key for fact in facts for key in fact):
        values = [fact.get(key) for fact in facts]
        if not all(isinstance(value, bool | int | float | str) for value in values):
            continue
        name = key.replace("_", " ")
        words = [f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for v in values]
        longer = [[*before, word] for before, word in zip(found, words, strict=True)]
        if len(set(map(tuple, longer))) > len(set(map(tuple, found))):
            found = longer
    return found


def uninterrupted(run: Trajectory) -> Trajectory:
    """Return the run, unless Ctrl-C ended it: then what it is a part of ends as well.

    `integrate` and `descend` return what they have; a study of many runs must not go on with the
    next, nor take its last row for its end.

    Raises
    ------
    KeyboardInterrupt
        It was interrupted.
    """
    if "interrupted" in run.result:
        raise KeyboardInterrupt
    return run


def problem(objective: Objective, loss: float, gradient_norm: float) -> dict[str, float]:
    """Return numbers at θ₀ by which runs of one problem know each other, across files."""
    return {
        "size": objective.size,
        "loss": float(loss),
        "gradient_norm": float(gradient_norm),
        "norm": float(np.linalg.norm(objective.theta)),
    }


@cache
def current_versions() -> dict[str, str]:
    """Return versions of what computes a run, kept with it; looking them up takes milliseconds."""
    # What may change a number: not the kernel, but the C library and the processor's kind.
    system = "-".join([platform.system(), platform.machine(), *platform.libc_ver()])
    versions = {"python": platform.python_version(), "platform": system}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
