"""Means over noise: how far a stochastic flow is from the descent that it models."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flow.counting import units
from flow.dynamics import StochasticFlow
from flow.dynamics.base import Dynamics
from flow.integration import integrate
from flow.precision import double_precision
from flow.sampling import batches
from flow.trajectory import all_units

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
) -> tuple[np.ndarray, np.ndarray, int]:
    """|E J(θ_discrete(t)) − E J(θ_flow(t))| and its standard error, for each learning rate.

    And what it cost in gradients, those of mini-batches among them.

    Raises
    ------
    TypeError
        The dynamics is not a `StochasticFlow`.
    ValueError
        A path or a descent diverged, so that there is no mean.
    """
    if not isinstance(dynamics, StochasticFlow):
        raise TypeError(f"a weak order is measured of flow.StochasticFlow, got {dynamics.label}")
    found, bars, spent = [], [], 0
    for rate, count in zip(rates, steps, strict=True):
        moved = dynamics.at_learning_rate(float(rate))
        path = integrate(
            moved, t, step=STEP * rate, paths=paths, seed=seed, save=[t], progress=progress
        )
        flows, descents = path.loss[:, -1], sgd_ensemble(moved, [count], paths, seed)[1][:, 0]
        if not path.result.startswith("reached") or not np.all(np.isfinite(descents)):
            raise ValueError(
                f"at learning rate {rate:.3g} paths diverge before t = {t:g}, and have no mean; "
                "take smaller learning_rates, or a larger batch_size"
            )
        spent += all_units(path) + ceil(units(paths * count, values=paths))
        found.append(abs(flows.mean() - descents.mean()))
        bars.append(np.sqrt((flows.var(ddof=1) + descents.var(ddof=1)) / paths))
    return np.array(found), np.array(bars), spent


def sgd_ensemble(
    dynamics: StochasticFlow, steps: Sequence[int], paths: int, seed: int, sampling: str = "iid"
) -> tuple[np.ndarray, np.ndarray]:
    """θ (paths, times, n) and J (paths, times) of many runs of stochastic gradient descent.

    All at once, as a thousand calls of `flow.descend` would take a thousand times its overhead;
    each draws its batches as `flow.descend` does.

    Parameters
    ----------
    dynamics
        Whose η, B and J they are.
    steps
        After which numbers of steps, in ascending order.
    paths, seed
        How many runs, and the seed of them all.
    sampling
        "iid" or "epoch", as in `flow.descend`.
    """
    objective = dynamics.objective
    drawn = batches(objective, dynamics.batch_size, sampling)

    def run(key: Any, theta: Any, data: Any) -> Any:
        def step(k: Any, carry: Any) -> Any:
            theta, order = carry
            order = drawn.order(key, k, order)
            batch = drawn.draw(key, k, order, data)
            gradient = objective.traced_gradient(objective.tree(theta), batch)
            return theta - dynamics.learning_rate * ravel_pytree(gradient)[0], order

        def advance(carry: Any, ends: Any) -> Any:
            carry = jax.lax.fori_loop(*ends, step, carry)
            return carry, (carry[0], objective.traced_value(objective.tree(carry[0]), data))

        ends = jnp.array([[0, *steps[:-1]], steps], jnp.int32).T
        order = jnp.arange(drawn.examples, dtype=jnp.int32)
        return jax.lax.scan(advance, (theta, order), (ends[:, 0], ends[:, 1]))[1]

    with double_precision():
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(paths))
        many = jax.jit(jax.vmap(run, (0, None, None)))
        return tuple(map(np.asarray, many(keys, objective.theta, objective.data)))
