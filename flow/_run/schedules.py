"""Learning rates step by step: a schedule's, and those that an optax optimizer holds."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from flow._core.checks import numbers, positive, users
from flow._core.precision import double_precision
from flow._core.pytrees import PyTree
from flow._run.optimizer_names import closure, transformations

# How the clock of an optimizer that holds a schedule is told.
TELL = (
    "give the schedule as time_step= too, time_step=schedule, and t is its running sum; or, as of "
    "optax.MultiSteps, whose schedule counts its updates and not its steps, let the rate be read, "
    "optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=schedule) without time_step="
)

# What else a schedule of learning rates is called, in optax and in what users make of its parts.
_SCHEDULES = ("eta", "step_size", "step_size_fn", "schedule")


def rates(name: str, given: Any, steps: int) -> np.ndarray | np.float64:
    """Return a number, or what a schedule has for each step (steps,).

    Raises
    ------
    ValueError, TypeError
        It is not positive, or negative or not finite at a step, or 0 at all of them.

    Examples
    --------
    >>> rates("learning_rate", lambda k: 0.1 * k, 3)
    array([0. , 0.1, 0.2])
    """
    if not callable(given):
        return np.float64(positive(name, given))
    with double_precision(), users(f"{name}, a schedule, called with the step"):
        try:
            found = jax.vmap(lambda k: given(k))(jnp.arange(steps))  # noqa: PLW0108 - traced anew
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            found = [given(k) for k in range(steps)]  # by if and else, or in numpy
        found = numbers("what it returns", found)
    if found.shape != (steps,):
        raise ValueError(
            f"{name}, a schedule, must return a number for each step, got shape {found.shape} for "
            f"{steps} steps"
        )
    return _checked(f"{name}, a schedule,", found)


def rates_of(
    update: Callable[..., PyTree], init: Callable, steps: int, params: PyTree, *met: PyTree
) -> np.ndarray | None:
    """Return the learning rate that an optimizer holds, or that of each step (steps,).

    It is that of `optax.inject_hyperparams`. A step that leaves its count as it was, as those do
    in which `optax.MultiSteps` adds gradients up, has none.

    Parameters
    ----------
    update
        (state, params, *met) ↦ the next state.
    init
        params ↦ the first.
    steps
        How many.
    params, met
        What is not to matter: the parameters, J, ∇J and the data.

    Returns
    -------
    ndarray or None
        None where it holds none, several, or one that depends on what is met.
    """

    def turns(params: PyTree, *met: PyTree) -> Any:
        def turn(state: PyTree, _: Any) -> tuple[PyTree, Any]:
            after = update(state, params, *met)
            (old, _), (count, rate) = _held(state)[0], _held(after)[0]
            return after, rate * (count - old)

        return jax.lax.scan(turn, init(params), length=steps)[1]

    with double_precision():
        if len(_held(jax.eval_shape(init, params))) != 1:
            return None
        jaxpr = jax.make_jaxpr(turns)(params, *met).jaxpr
        if any(dce_jaxpr(jaxpr, [True])[1]):
            return None
        # JAX leaves out what only moves moments.
        found = np.asarray(jax.jit(turns)(params, *met), np.float64)
    found = _checked("the learning_rate that optimizer= holds", found)
    return found[0] if np.all(found == found[0]) else found


def holds_schedule(optimizer: Any, state: PyTree) -> bool:
    """Return whether an optimizer has a learning rate that changes from step to step.

    >>> import optax
    >>> schedule = optax.cosine_decay_schedule(0.1, 10)
    >>> [holds_schedule(optax.adam(rate), ()) for rate in (0.1, schedule)]
    [False, True]
    """
    import optax

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    kept = any(map(is_schedule, jax.tree.leaves(state, is_leaf=is_schedule)))
    return kept or any(
        callable(v) and (_is_rate(k) or k in _SCHEDULES) for k, v in _settings(optimizer.update)
    )


def _is_rate(name: str) -> bool:
    return name.endswith("learning_rate") or name == "lr"


def _settings(update: Callable) -> Iterator[tuple[str, Any]]:
    """Yield what a transformation and those that it is made of close over, by name."""
    inside = closure(update)
    yield from inside.items()
    for value in inside.values():
        if isinstance(value, dict):
            yield from value.items()
        for inner, _ in transformations(value):
            yield from _settings(inner)


def _held(state: PyTree) -> list[tuple[Any, Any]]:
    """Return count and learning rate of each `optax.inject_hyperparams` of all parameters."""
    import optax

    parts = optax.MaskedState, optax.transforms.PartitionState

    def is_whole(node: Any) -> bool:
        return isinstance(node, parts) or hasattr(node, "hyperparams")

    nodes = jax.tree.leaves(state, is_leaf=is_whole)
    return [
        (node.count, rate)
        for node in nodes
        if hasattr(node, "hyperparams")
        for name, rate in node.hyperparams.items()
        if _is_rate(name)
    ]


def _checked(what: str, found: np.ndarray) -> np.ndarray:
    """Return learning rates of which t can be the running sum."""
    wrong = ~(np.isfinite(found) & (found >= 0.0))
    if wrong.any():
        step = int(np.argmax(wrong))
        raise ValueError(
            f"{what} must stay finite and not negative, got {found[step]:g} at step {step:,}"
        )
    if not found.any():
        raise ValueError(f"{what} is 0 at all {len(found):,} steps, and nothing moves")
    return found
