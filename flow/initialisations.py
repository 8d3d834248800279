"""What a user gives as `ensemble`: many θ₀ of one objective."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from flow.checks import numbers
from flow.objective import Objective
from flow.pytrees import PyTree, path_name

ONE = "make one of several θ₀ by jax.tree.map(lambda *x: np.stack(x), *several)"


def initialisations(objective: Objective, ensemble: Any) -> list[Objective]:
    """The objective from each member's θ₀.

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
            f"members; got {_met(ensemble)}; {ONE}"
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
    """Several θ₀ in a list, each like the parameters or flat, as one with a leading axis."""
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


def _met(ensemble: Any) -> str:
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
