"""The parameters that an optimizer stands for, where they are not those of its steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flow._core.checks import function, users
from flow._core.jaxprs import fingerprint
from flow._core.precision import double_precision
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow._run.optimizers import Lookahead

# (state, params) ↦ the parameters that are recorded.
Evaluate = Callable[[Any, PyTree], PyTree]


def evaluation(
    objective: Objective, optimizer: Any, evaluate: Evaluate | None
) -> tuple[Evaluate | None, str]:
    """Check a user's `evaluate`, or find what is known of the optimizer; None for steps as such.

    Beside it a key of what it computes.

    Raises
    ------
    TypeError, ValueError
        It is no function, or does not return parameters made like θ₀.
    """
    theta = objective.unflatten(objective.theta)
    with double_precision(), users("optimizer.init, called with θ₀"):
        state = jax.eval_shape(optimizer.init, theta)
    if evaluate is None:
        known = any(map(_is_known, jax.tree.leaves(state, is_leaf=_is_known)))
        return (evaluated, "evaluated") if known else (None, "")
    function("evaluate", evaluate)
    with double_precision(), users("evaluate, called with the optimizer's state and θ₀"):
        anew = lambda s, p: evaluate(s, p)  # noqa: E731, PLW0108 - JAX keeps traces by function
        jaxpr, found = jax.make_jaxpr(anew, return_shape=True)(state, theta)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (found, theta)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"evaluate(state, params) must return parameters made like θ₀, of shapes {shapes[1]}; "
            f"got {shapes[0]}"
        )
    return evaluate, fingerprint(jaxpr)


def evaluated(state: Any, params: PyTree) -> PyTree:
    """Return the answers of optax's own.

    They are a schedule-free average, what SAM has perturbed, and lookahead's slow parameters.

    >>> import optax.contrib
    >>> optimizer = optax.contrib.schedule_free_sgd(0.5)
    >>> state = optimizer.init(jnp.ones(1))
    >>> updates, state = optimizer.update(jnp.ones(1), state, jnp.ones(1))
    >>> print(evaluated(state, jnp.ones(1) + updates))
    [0.5]
    """
    import optax.contrib

    for known in filter(_is_known, jax.tree.leaves(state, is_leaf=_is_known)):
        if isinstance(known, Lookahead):
            params = known.slow
            continue
        if isinstance(known, optax.contrib.SAMState):
            # A cache is of the last perturbation, and stays when it is over.
            params = jax.tree.map(
                lambda cached, p, k=known: jnp.where(k.steps_since_sync == 0, p, cached),
                known.cache,
                params,
            )
            continue
        # Of a part of θ, under optax.masked or optax.partition.
        params = jax.tree.map(
            lambda z, p, k=known: (
                p
                if isinstance(z, optax.MaskedNode)
                else optax.contrib.schedule_free_eval_params(k._replace(z=z), p)
            ),
            known.z,
            params,
            is_leaf=lambda z: isinstance(z, optax.MaskedNode),
        )
    return params


def name_of(evaluate: Evaluate) -> str:
    """Return what a label says of it: "evaluated", or by which function of the user's."""
    name = getattr(evaluate, "__name__", type(evaluate).__name__)
    return "evaluated" if evaluate is evaluated else f"evaluated by {name}"


def _is_known(state: Any) -> bool:
    import optax.contrib

    averages = isinstance(state, optax.contrib.ScheduleFreeState)
    perturbs = isinstance(state, optax.contrib.SAMState) and state.cache is not None
    return averages or perturbs or isinstance(state, Lookahead)
