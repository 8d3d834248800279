"""Conserved quantities along a run: how far each is from where it began."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from flow._core.precision import double_precision
from flow._problem.objective import Objective
from flow._run.trajectory import Trajectory


def drifts_along(
    path: Trajectory, objective: Objective, conserved: Mapping[str, Callable]
) -> dict[str, np.ndarray]:
    """Return ‖Q(θ(t)) − Q(θ₀)‖ at the saved times (times,) of each conserved quantity Q."""
    found = {}
    for name, quantity in conserved.items():
        with double_precision():
            values = jax.lax.map(
                lambda theta, q=quantity: q(objective.tree(theta)), path.theta, batch_size=16
            )
            start = quantity(objective.unflatten(objective.theta))
        drift = np.asarray(values) - np.asarray(start)
        found[name] = np.linalg.norm(drift.reshape(len(drift), -1), axis=1)
    return found
