"""Means over noise: how far a stochastic flow is from the descent that it models."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flow.dynamics import StochasticFlow
from flow.dynamics.base import Dynamics
from flow.integration import integrate
from flow.precision import double_precision
from flow.sampling import batches

# Of the learning rate: Euler–Maruyama's own weak error, of order 1, is so much of what is measured.
STEP = 1.0 / 16.0


def weak_distances(
    dynamics: Dynamics,
    t: float,
    rates: np.ndarray,
    steps: Sequence[int],
    paths: int,
    seed: int,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """|E J(θ_discrete(t)) − E J(θ_flow(t))| and its standard error, for each learning rate."""
    if not isinstance(dynamics, StochasticFlow):
        raise TypeError(f"a weak order is measured of flow.StochasticFlow, got {dynamics.label}")
    found, bars = [], []
    for rate, count in zip(rates, steps, strict=True):
        moved = dynamics.at_learning_rate(float(rate))
        flows = integrate(
            moved, t, step=STEP * rate, paths=paths, seed=seed, save=[t], progress=progress
        ).loss[:, -1]
        descents = sgd_losses(moved, count, paths, seed)
        found.append(abs(flows.mean() - descents.mean()))
        bars.append(np.sqrt((flows.var(ddof=1) + descents.var(ddof=1)) / paths))
    return np.array(found), np.array(bars)


def sgd_losses(dynamics: StochasticFlow, steps: int, paths: int, seed: int) -> np.ndarray:
    """J where many runs of stochastic gradient descent end (paths,), as `flow.descend` makes them.

    All at once, as a thousand calls of `flow.descend` would take a thousand times its overhead.
    """
    objective = dynamics.objective
    drawn = batches(objective, dynamics.batch_size, "iid")

    def run(key: Any, theta: Any, data: Any) -> Any:
        def step(k: Any, theta: Any) -> Any:
            batch = drawn.draw(key, k, None, data)
            gradient = objective.traced_gradient(objective.tree(theta), batch)
            return theta - dynamics.learning_rate * jax.flatten_util.ravel_pytree(gradient)[0]

        theta = jax.lax.fori_loop(0, steps, step, theta)
        return objective.traced_value(objective.tree(theta), data)

    with double_precision():
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(paths))
        many = jax.jit(jax.vmap(run, (0, None, None)))
        return np.asarray(many(keys, objective.theta, objective.data))
