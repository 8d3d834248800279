"""The file of a run: what `Trajectory.save` wrote, read as data and checked field by field."""

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from flow._core.checks import numbers
from flow._core.keywords import own_keywords
from flow._core.opening import (
    ANY,
    COUNT,
    FLAG,
    KIND,
    NOTHING,
    NUMBER,
    TEXT,
    Kind,
    NetCDF,
    check_fields,
    many,
    named,
    netcdf,
    reading,
)
from flow._core.pytrees import PyTree, path_name, structure_size
from flow._run.trajectory import FORMAT, FORMAT_VERSION, Trajectory

# What a file has of it.
_JSON = ("config", "stats", "structure", "versions")
_EACH = ("t", "theta", "loss", "gradient_norm")
_ARRAYS = re.compile(rf"{'|'.join(_EACH)}|(state|observed|work):.*", re.DOTALL)
PROBLEM = ("size", "loss", "gradient_norm", "norm")
_CONFIGURATION = {
    "ascent": FLAG,
    "dynamics": TEXT,
    "method": TEXT,
    "engine": TEXT,
    "clock": TEXT,
    "constants": named(ANY),
    "t": NUMBER,
    "rtol": NUMBER | NOTHING,
    "atol": ANY,
    "step": NUMBER | NOTHING,
    "learning_rate": NUMBER | NOTHING,
}
_COUNTS = (
    *("gradients", "batch_gradients", "save_gradients", "observer_gradients"),
    *("hvps", "save_hvps", "observer_hvps", "values", "observer_values", "steps"),
)
_MET = ("t_end", "loss_first", "loss_last", "largest_rise")
_MEASURED = (*_MET, "energy_first", "energy_last", "seconds", "compile_seconds")
_MAYBE_UNKNOWN = ("rejected", "dissipated")


@own_keywords
def load(
    path: str | os.PathLike, like: PyTree = None, *, max_bytes: int | None = None
) -> Trajectory:
    """Read a run that `Trajectory.save` wrote; nothing of a file is executed or opened beside it.

    Parameters
    ----------
    path
        The netCDF file.
    like
        A pytree of the parameters' structure. Needed only where they are in containers other
        than dicts, lists and tuples: equinox modules, named tuples.
    max_bytes
        What its arrays may take in memory; unless given 64 MiB, or twenty times the file's size
        where that is more.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    Unreadable
        A ValueError: it is truncated, or no run of flow, or of a newer format, or a field of it is
        not what it must be; the message names it.
    ValueError
        `like` does not fit.

    Examples
    --------
    >>> import flow, numpy as np, tempfile, pathlib
    >>> objective = flow.Objective(lambda p: (p["x"] ** 2).sum(), {"x": np.ones(2)})
    >>> path = flow.integrate(objective, t=1.0, save=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = flow.load(path.save(pathlib.Path(folder) / "run.nc"))
    >>> again.params(-1)["x"] == path.params(-1)["x"]
    array([ True,  True])
    """
    with netcdf(path, {FORMAT: FORMAT_VERSION}, max_bytes) as file:
        return run_of(file, "/", like)


def run_of(file: NetCDF, group: str, like: PyTree = None) -> Trajectory:
    """Return the run in a group of an open file; `like` as in `load`.

    Raises
    ------
    Unreadable
        It lacks a field, or one is not what it must be.
    """
    arrays = file.arrays(group, _ARRAYS)
    texts = file.attributes(group, ("result", *_JSON))
    what = f"{file.path} cannot be read as a run"
    with reading(what if group == "/" else f"{what}: group {group}"):
        check_fields(texts, dict.fromkeys(("result", *_JSON), TEXT), {})
        facts = {name: file.json(name, texts[name]) for name in _JSON}
        if missing := [name for name in _EACH if name not in arrays]:
            raise ValueError(f"{missing[0]} is missing")
        parts = {name: arrays.pop(name) for name in _EACH}
        grouped = {group: _group(arrays, group) for group in ("state", "observed", "work")}
        _check_shapes(parts, grouped)
        _check_facts(facts, parts["t"].shape, parts["theta"].shape[-1])
    return Trajectory(
        **parts,
        **grouped,
        **facts,
        result=texts["result"],
        unflatten=None if like is None else _like(like, parts["theta"].shape[-1]),
    )


def _group(arrays: Mapping[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    prefix = f"{group}:"
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}


def _check_shapes(
    parts: Mapping[str, np.ndarray], groups: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    """Refuse arrays that are not of the same saved times."""
    times = parts["t"].shape
    if len(times) not in (1, 2) or 0 in times:
        raise ValueError(f"t must be (times,) or (members, times), got shape {times}")
    theta = parts["theta"].shape
    if len(theta) != len(times) + 1 or theta[:-1] not in (times, (*times[:-1], 1)):
        raise ValueError(f"theta has shape {theta}, and t {times}")
    named = {f"{group}:{k}": a for group, of in groups.items() for k, a in of.items()}
    for name, array in ({k: parts[k] for k in ("loss", "gradient_norm")} | named).items():
        whole = array.shape == times or name in named
        if not whole or array.shape[: len(times)] != times:
            raise ValueError(f"{name} has shape {array.shape}, and t {times}")


def _of_each(members: int | None, kind: Kind) -> Kind:
    """Return a kind for every member; of a single run the kind itself."""
    if members is None:
        return kind
    words = f"a list of {members} entries, each {kind.words}"
    return Kind(words, lambda x: many(kind).fits(x) and len(x) == members)


def _check_facts(facts: Mapping[str, Any], times: tuple[int, ...], size: int) -> None:
    """Refuse a configuration or costs that are not of a run, or of an ensemble of that size."""
    members = None if len(times) == 1 else times[0]
    each = partial(_of_each, members)
    config, stats = facts["config"], facts["stats"]
    needed = {"kind": KIND, "label": TEXT | each(TEXT), "problem": each(named(NUMBER))}
    own = {name: kind | each(kind) for name, kind in _CONFIGURATION.items()}
    check_fields(config, needed, own | {"each": many(TEXT)}, "config")
    for one in config["problem"] if members else [config["problem"]]:
        check_fields(one, dict.fromkeys(PROBLEM, NUMBER), {}, "config.problem")
    costs = {name: each(ANY) for name in named(ANY).check("stats", stats)} | {
        name: each(COUNT) for name in _COUNTS
    }
    costs |= {name: each(NUMBER | NOTHING) for name in _MAYBE_UNKNOWN}
    costs |= {name: each(NUMBER) for name in _MEASURED}
    needed = {name: costs[name] for name in ("gradients", "steps", "dissipated", *_MET)}
    if members is not None:
        needed["result"] = each(TEXT)
        split = config.get("each", ["problem"])
        check_fields(config, dict.fromkeys(split, each(ANY) | TEXT), {}, "config")
        if "problem" not in split:
            raise ValueError(f"config.each must have 'problem', got {split}")
    check_fields(stats, needed, costs, "stats")
    named(TEXT).check("versions", facts["versions"])
    if facts["structure"] is not None and structure_size(facts["structure"]) != size:
        raise ValueError(f"structure is not that of {size} parameters")


def _like(like: PyTree, size: int) -> Callable[[np.ndarray], PyTree]:
    leaves, treedef = jax.tree.flatten(like)
    for path, leaf in jax.tree.leaves_with_path(like):
        if isinstance(leaf, np.ndarray) or not hasattr(leaf, "dtype"):
            numbers(path_name("like", path), leaf)
    sizes = [np.size(leaf) for leaf in leaves]
    if sum(sizes) != size:
        raise ValueError(f"like has {sum(sizes)} entries, but the run has {size} parameters")

    def unflatten(theta: np.ndarray) -> PyTree:
        parts = np.split(np.array(theta, np.float64), np.cumsum(sizes)[:-1])
        shaped = [p.reshape(np.shape(x)) for p, x in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(treedef, shaped)

    return unflatten
