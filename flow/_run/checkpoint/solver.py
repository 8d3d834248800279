"""The state of an `OdeSolver` between steps, whatever its class: its numbers and arrays."""

from typing import Any

import numpy as np
from scipy.integrate import DenseOutput, OdeSolver

from flow._run.checkpoint.values import leaves, like, taken_apart
from flow.methods.kernel import Kernel


def carried(solver: OdeSolver) -> dict[str, Any]:
    """Return a solver's attributes, without functions and what can be made from the others.

    Raises
    ------
    ValueError
        It keeps something that is neither number nor array, which is named.
    """
    kept: dict[str, Any] = {}
    for name, value in vars(solver).items():
        if callable(value) or isinstance(value, Kernel):
            continue
        if isinstance(value, DenseOutput) and hasattr(solver, "_compute_dense_output"):
            continue
        value = leaves(value) if hasattr(value, "_fields") else value  # noqa: PLW2901
        try:
            taken_apart(value, {})
        except TypeError:
            raise ValueError(
                f"method {type(solver).__name__!r} keeps {name}, a {type(value).__name__}, which "
                "a checkpoint can't hold; use another method, as 'BDF' for 'LSODA', or leave "
                "checkpoint=None"
            ) from None
        kept[name] = value
    return kept


def restore_solver(solver: OdeSolver, kept: dict[str, Any]) -> None:
    """Make a new solver of the same problem and method the one that was kept."""
    views = _views(solver)
    for name, value in kept.items():
        old = getattr(solver, name, None)
        if name in views:
            continue
        if name in views.values():
            old[...] = value  # in place, for what looks into it
        elif hasattr(old, "_fields"):
            setattr(solver, name, like(old, value))
        else:
            setattr(solver, name, value)
    if getattr(solver, "sol", None) is None and hasattr(solver, "_compute_dense_output"):
        # Radau starts its iteration from the last step's interpolant.
        solver.sol = solver._compute_dense_output() if solver.Z is not None else None  # noqa: SLF001


def _views(solver: OdeSolver) -> dict[str, str]:
    """Return the attributes that look into another's array: DOP853's K into its K_extended."""
    arrays = {name: a for name, a in vars(solver).items() if isinstance(a, np.ndarray)}
    return {
        name: other
        for name, array in arrays.items()
        for other, base in arrays.items()
        if array.base is base and base is not array
    }
