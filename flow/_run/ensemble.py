"""Ensembles: the members' θ₀ as a user gives them, and their runs as one `Trajectory`."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from flow._core.checks import numbers
from flow._core.pytrees import PyTree, path_name
from flow._problem.objective import Objective
from flow._run.trajectory import Trajectory

ONE = "make one of several θ₀ by jax.tree.map(lambda *x: np.stack(x), *several)"


def initialisations(objective: Objective, ensemble: Any) -> list[Objective]:
    """Return the objective from each member's θ₀.

    Parameters
    ----------
    objective
        Whose parameters the members' are like.
    ensemble
        An array (members, n) of flat θ₀, a pytree like the objective's parameters whose leaves have
        a leading axis, the member, or a list of θ₀.

    Raises
    ------
    ValueError
        It is made otherwise, has no members, or the loss is not finite at one of them.

    Examples
    --------
    >>> import flow
    >>> objective = flow.Objective(lambda p: (p["x"] ** 2).sum(), {"x": np.zeros(2)})
    >>> [o.theta for o in initialisations(objective, {"x": np.eye(2)})]
    [array([1., 0.]), array([0., 1.])]
    """
    starts = _starts(objective, ensemble)
    if not starts:
        raise ValueError("ensemble has no members; give at least one θ₀")
    members = []
    for i, start in enumerate(starts):
        with named(i):
            members.append(objective.starting_at(start))
    return members


def _starts(objective: Objective, ensemble: Any) -> list[PyTree]:
    ensemble = _stacked(objective, ensemble)
    for path, leaf in jax.tree.leaves_with_path(ensemble):
        numbers(path_name("ensemble", path), leaf)
    if getattr(ensemble, "ndim", 0) == 2 and _is_flat(objective, ensemble):  # noqa: PLR2004
        return [objective.unflatten(theta) for theta in np.asarray(ensemble)]
    own = objective.params
    if jax.tree.structure(ensemble) != jax.tree.structure(own):
        raise ValueError(
            f"ensemble must be an array (members, {objective.size}) of flat θ₀, or a pytree like "
            f"the objective's parameters, {jax.tree.structure(own)}, with a leading axis of "
            f"members; got {_described(ensemble)}; {ONE}"
        )
    counts = {}
    for (path, leaf), mine in zip(
        jax.tree.leaves_with_path(ensemble), jax.tree.leaves(own), strict=True
    ):
        name, shape = path_name("ensemble", path), np.shape(leaf)
        if not shape or shape[1:] != np.shape(mine):
            wanted = ", ".join(map(str, ("members", *np.shape(mine))))
            flat = f", or be flat, (members, {objective.size})" if not path else ""
            raise ValueError(f"{name} must have shape ({wanted}){flat}; it has {shape}; {ONE}")
        counts[name] = shape[0]
    if len(set(counts.values())) > 1:
        raise ValueError(f"the leading axes of ensemble differ, {counts}; they are the members")
    return [
        jax.tree.map(lambda leaf, i=i: leaf[i], ensemble)
        for i in range(next(iter(counts.values())))
    ]


def _stacked(objective: Objective, ensemble: Any) -> Any:
    """Return several θ₀ in a list, each like the parameters or flat, as one with a leading axis."""
    own = jax.tree.structure(objective.params)
    if not isinstance(ensemble, list | tuple) or jax.tree.structure(ensemble) == own:
        return ensemble
    alike = all(jax.tree.structure(one) == own for one in ensemble)
    if not alike and any(np.shape(one) != (objective.size,) for one in ensemble):
        return ensemble
    if len({tuple(map(np.shape, jax.tree.leaves(one))) for one in ensemble}) > 1:
        return ensemble
    return jax.tree.map(lambda *x: np.stack(x), *ensemble)


def _is_flat(objective: Objective, ensemble: Any) -> bool:
    return ensemble.shape[1] == objective.size


def _described(ensemble: Any) -> str:
    if hasattr(ensemble, "shape"):
        return f"an array of shape {ensemble.shape}"
    return f"{jax.tree.structure(ensemble)}"


@contextmanager
def named(i: int) -> Iterator[None]:
    """Say in an error at the door which member it is of."""
    try:
        yield
    except ValueError as error:
        error.args = (f"ensemble member {i}: {error}",)
        raise


# So many members are listed by number.
LISTED = 6


def stacked(runs: Sequence[Trajectory]) -> Trajectory:
    """Return the members as one; rows that a member lacks beside the longest are NaN.

    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: x @ x, np.ones(2))
    >>> long, short = (flow.integrate(objective, t=1.0, save=n) for n in (3, 2))
    >>> stacked([long, short]).t
    array([[0. , 0.5, 1. ],
           [0. , 1. , nan]])
    """

    def stack(pick: Any) -> np.ndarray:
        arrays = [pick(run) for run in runs]
        # A member whose observer failed at once has one NaN a row, whatever the others' shape.
        inner = max((a.shape[1:] for a in arrays), key=len)
        rows = np.full((len(arrays), max(map(len, arrays)), *inner), np.nan)
        for row, a in zip(rows, arrays, strict=True):
            row[: len(a)] = a.reshape(a.shape + (1,) * (row.ndim - a.ndim))
        return rows

    first = runs[0]
    results = [run.result for run in runs]
    names = {name for run in runs for name in run.stats}
    return replace(
        first,
        t=stack(lambda run: run.t),
        theta=stack(lambda run: run.theta),
        loss=stack(lambda run: run.loss),
        gradient_norm=stack(lambda run: run.gradient_norm),
        state={k: stack(lambda run, k=k: run.state[k]) for k in first.state},
        observed={k: stack(lambda run, k=k: run.observed[k]) for k in first.observed},
        work={k: stack(lambda run, k=k: run.work[k]) for k in first.work},
        stats={
            **{k: [run.stats.get(k, []) for run in runs] for k in sorted(names)},
            "result": results,
        },
        result=summary(results, [run.stats["t_end"] for run in runs]),
        config=_configs([run.config for run in runs]),
        dynamics=None if first.dynamics is None else tuple(run.dynamics for run in runs),
    )


def _configs(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what was run: of what members differ in a list, one entry each, named in "each"."""
    first = configs[0]
    each = [k for k in first if k == "problem" or any(c[k] != first[k] for c in configs)]
    return first | {k: [config[k] for config in configs] for k in each} | {"each": each}


def summary(results: Sequence[str], ends: Sequence[float]) -> str:
    """Return one sentence of all members' results, told apart by how they ended.

    >>> summary(["reached t = 3"] * 2, [3.0, 3.0])
    'reached t = 3'
    >>> summary(["reached t = 3", "stopped at t = 1: loss 0.1 ≤ 0.1", "reached t = 3"], [3, 1, 3])
    'members 0, 2 reached t = 3; member 1 stopped at t = 1: loss 0.1 ≤ 0.1'
    >>> summary(["interrupted at t = 1", "interrupted at t = 2"], [1, 2])
    'members 0, 1 interrupted at t = 1 to 2'
    >>> summary(["reached t = 1 in 9 steps", "reached t = 2 in 9 steps"], [1, 2])
    'members 0, 1 reached t = 1 to 2'
    """
    if len(set(results)) == 1:
        return results[0]
    kinds: dict[str, list[int]] = {}
    for i, result in enumerate(results):
        kinds.setdefault(re.split(r" at t = | at step | t = ", result)[0], []).append(i)
    sentences = []
    for kind, which in kinds.items():
        many = f"members {', '.join(map(str, which))}"
        who = many if len(which) <= LISTED else f"{len(which)} members"
        if len({results[i] for i in which}) == 1:
            how = results[which[0]]
        else:
            t = [ends[i] for i in which]
            at = "" if kind == "reached" else "at "
            how = f"{kind} {at}t = {min(t):g} to {max(t):g}"
        sentences.append(f"{who if len(which) > 1 else f'member {which[0]}'} {how}")
    return "; ".join(sentences)


def check_devices(
    devices: Sequence[Any] | None, objective: Objective, members: int | None
) -> tuple[Any, ...] | None:
    """Return the devices that a user asked for, refused where they are not to be had.

    Parameters
    ----------
    devices
        What the user gave.
    objective
        Whose members are to be spread.
    members
        How many; None for a single run.
    """
    if devices is None:
        return None
    listed = isinstance(devices, list | tuple | np.ndarray)
    given = tuple(np.ravel(devices)) if listed else ()
    if not given or not all(isinstance(device, jax.Device) for device in given):
        raise TypeError(f"devices must be a list of JAX's, jax.devices(), got {devices!r}")
    if members is None:
        raise ValueError(
            f"devices={list(given)} are for the members of an ensemble, and this is a single run; "
            "flow.Objective(..., mesh=) spreads the examples of one"
        )
    if len(set(given)) < len(given):
        raise ValueError(f"devices has one twice: {list(given)}")
    if any(device.process_index != jax.process_index() for device in given):
        raise ValueError(
            f"devices has some of another process, {list(given)}; give jax.local_devices(), and "
            "each process members of its own"
        )
    if objective.mesh is not None or objective.device is not None:
        placed = objective.device or f"a mesh of {objective.mesh.size}"
        raise ValueError(
            f"devices= spreads members over {len(given)} devices, but the objective's examples lie "
            f"on {placed} already; make it without device= and mesh= (and of arrays that are not "
            "sharded), or leave devices= out"
        )
    return given


def refuse_checkpoint(checkpoint: Any) -> None:
    """Refuse to keep checkpoints of an ensemble."""
    if checkpoint is not None:
        raise ValueError(
            "checkpoint= is for a single run; give each member of an ensemble one of its own"
        )
