"""Optax optimizers as a compiled loop takes them: what they ask for, and what they carry."""

import inspect
import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial, keystr, tree_flatten_with_path, tree_map_with_path

from flow._core.checks import users
from flow._core.costs import marked
from flow._core.jaxprs import fingerprint
from flow._core.precision import double_precision
from flow._core.pytrees import PyTree
from flow._problem.minibatches import refuse_mixed
from flow._problem.objective import Objective

# What `told` has for an update that asks for it.
EXTRA = ("value", "grad", "value_fn", "grad_fn", "obj_fn")
# What it has for `_of_examples` alone.
EACH = "gradients_of_examples"
# An argument that a part of an optimizer does not take, as Python says it.
_NOT_TAKEN = re.compile(r"(?:unexpected keyword argument|multiple values for argument) '(\w+)'")
# One that it needs, as Python says it, or optax.
_MISSING = re.compile(
    r"missing \d+ required keyword-only arguments?: (.+)"
    rf"|^({'|'.join(EXTRA)}) must be provided"
)
CALLED = "optimizer.init and optimizer.update, called with θ₀"
# So many updates after the first a state has the types that it keeps, or never.
SETTLES = 4


class Lookahead(NamedTuple):
    """The state of `optax.lookahead`, with its slow parameters; the fast ones take steps."""

    state: Any
    slow: PyTree


def told(
    objective: Objective,
    batch: PyTree,
    loss: Any,
    downhill: PyTree,
    sign: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> dict[str, Any]:
    """Return the extra arguments of an optax update, by name: J and ∇J here, and as functions.

    The functions are of the parameters, on the same examples; what is evaluated by them is marked
    for `flow._core.costs`. They are pytrees, so that an update may be jitted.

    Parameters
    ----------
    objective, batch
        The loss and the examples of this step.
    loss, downhill
        J, and the gradient that the optimizer is given.
    sign
        What makes it a problem of minimisation: of J or of ∇J.
    """

    # A line search hands on to value_fn what is not its own, by the names of its arguments.
    def value(batch: PyTree, params: PyTree, *, grad_fn: Any = None, obj_fn: Any = None) -> Any:  # noqa: ARG001
        return sign(marked(objective.traced_value(params, batch)))

    def gradient(batch: PyTree, params: PyTree, *_: Any) -> PyTree:
        flat, back = ravel_pytree(objective.traced_gradient(params, batch))
        return sign(back(marked(flat, 1)))

    def gradients(batch: PyTree, params: PyTree) -> PyTree:
        def of_one(example: PyTree) -> PyTree:
            return objective.traced_gradient(params, jax.tree.map(lambda x: x[None], example))

        flat, back = ravel_pytree(jax.vmap(of_one)(batch))
        return sign(back(marked(flat, 1)))

    of_params = Partial(value, batch)
    known = sign(loss), downhill, of_params, Partial(gradient, batch), of_params
    return dict(zip(EXTRA, known, strict=True)) | {EACH: Partial(gradients, batch)}


def taken(objective: Objective, optimizer: Any) -> tuple[Any, Hashable]:
    """Return an optimizer of θ for the loop, and a key of what it computes.

    Its update takes all that `told` has, and hands on what the optimizer's own takes. A state that
    has other types or parts once it is updated is carried as it is then; ``first=`` is whether an
    update begins with what `init` makes.

    Raises
    ------
    TypeError, ValueError
        It is no optimizer, asks for what there is not, its updates are not like the parameters, or
        its state changes its types for ever.
    """
    import optax

    if not (hasattr(optimizer, "update") and hasattr(optimizer, "init")):
        raise TypeError(
            f"optimizer must be an optax optimizer, as optax.adam(1e-3) is one; got {optimizer!r}"
        )
    with double_precision():
        theta = objective.unflatten(objective.theta)
        with _without_advice(), users(CALLED):
            state = jax.eval_shape(lambda p: optimizer.init(p), theta)  # noqa: PLW0108 - traced anew
        names = _asked(optimizer.update)
        if _has(state, optax.contrib.DifferentiallyPrivateAggregateState):
            optimizer, names = _of_examples(objective, optimizer), (*names, EACH)
        if _has(state, optax.LookaheadState):
            optimizer = _of_fast(optimizer)
        names, computed, (begun, updates, after) = _first(objective, optimizer, names, theta)
        _check_updates(updates, theta)
        keys, settled = [fingerprint(computed)], None
        while _types(after) != _types(begun):
            if len(keys) > SETTLES:
                raise _unsettled(begun, after)
            again = jax.make_jaxpr(partial(_update, objective, optimizer, names), return_shape=True)
            with users(CALLED):
                computed, (_, following) = again(after, theta, objective.data)
            keys.append(fingerprint(computed))
            begun, after, settled = after, following, after

    def init(params: PyTree) -> PyTree:
        state = optimizer.init(params)
        return state if settled is None else _as(settled, state)

    def update(
        gradient: PyTree, state: PyTree, params: PyTree, *, first: Any = False, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        given = {name: extra[name] for name in names}
        if settled is None:
            return optimizer.update(gradient, state, params, **given)

        def following(state: PyTree) -> tuple[PyTree, PyTree]:
            updates, after = optimizer.update(gradient, state, params, **given)
            return _as(params, updates), _as(settled, after)

        return jax.lax.cond(
            first, lambda: following(optimizer.init(params)), lambda: following(state)
        )

    made = optax.GradientTransformationExtraArgs(init, update)
    return made, (*keys, names, jax.tree.structure(after))


def _update(
    objective: Objective, optimizer: Any, names: tuple[str, ...], state: Any, theta: Any, data: Any
) -> tuple[Any, Any]:
    """Trace an update, of which only shapes, types and operations are of interest."""
    known = told(objective, data, jnp.zeros(()), theta)
    return optimizer.update(theta, state, theta, **{name: known[name] for name in names})


def _first(
    objective: Objective, optimizer: Any, names: tuple[str, ...], theta: PyTree
) -> tuple[tuple[str, ...], Any, Any]:
    """Trace the first update; return which of those names it takes, its jaxpr and what it returns.

    A chain says that it takes all, and hands them to parts that do not.
    """
    dropped: list[str] = []

    def first(p: Any, data: Any) -> Any:
        state = optimizer.init(p)
        return state, *_update(objective, optimizer, names, state, p, data)

    while True:
        try:
            with users(CALLED):
                return names, *jax.make_jaxpr(first, return_shape=True)(theta, objective.data)
        except (TypeError, ValueError) as error:
            if (found := _NOT_TAKEN.search(str(error))) and found[1] in names:
                names = tuple(name for name in names if name != found[1])
                dropped.append(found[1])
            elif found := _MISSING.search(str(error)):
                raise TypeError(_not_passed(found[1] or repr(found[2]), dropped)) from error
            else:
                raise


def _asked(update: Callable) -> tuple[str, ...]:
    """Return what of `EXTRA` an update takes by its signature.

    >>> _asked(lambda updates, state, params=None, *, value: (updates, state))
    ('value',)
    >>> _asked(lambda grad, state, params=None, **extra: (grad, state))
    ('value', 'value_fn', 'grad_fn', 'obj_fn')
    >>> _asked(lambda updates, state, params, *, hessian: (updates, state))
    Traceback (most recent call last):
    TypeError: optimizer.update needs 'hessian', but descend passes value, grad, value_fn, ...
    """
    try:
        known = list(inspect.signature(update).parameters.values())
    except (TypeError, ValueError):  # of what is not written in Python
        return ()
    by_place = [p.name for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    beside = [
        p
        for p in known
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in by_place[:3]
    ]
    if missing := [p.name for p in beside if p.default is p.empty and p.name not in EXTRA]:
        raise TypeError(_not_passed(", ".join(map(repr, missing)), []))
    takes = {p.name for p in beside}
    takes |= set(EXTRA) if any(p.kind is p.VAR_KEYWORD for p in known) else set()
    return tuple(name for name in EXTRA if name in takes - set(by_place[:3]))


def _not_passed(missing: str, dropped: list[str]) -> str:
    """Return the message that an update needs what it is not given."""
    if dropped:
        return (
            f"a part of optimizer= needs {missing}, but another does not take {dropped[0]!r} among "
            "the extra arguments of its update; let that take **extra_args too, or give it as "
            "optax.GradientTransformation(part.init, part.update), to which optax hands none"
        )
    return (
        f"optimizer.update needs {missing}, but descend passes {', '.join(EXTRA)}: name it as one "
        "of these, or give it a default"
    )


def _check_updates(updates: PyTree, theta: PyTree) -> None:
    """Refuse what can't be added to the parameters, or would be added by broadcasting."""
    shapes, own = ({k: jnp.shape(x) for k, x in _leaves(tree).items()} for tree in (updates, theta))
    alike = jax.tree.structure(updates) == jax.tree.structure(theta) and shapes == own
    if not alike or any(map(jnp.iscomplexobj, jax.tree.leaves(updates))):
        raise ValueError(
            f"optimizer.update must return updates like the parameters, got {updates!r:.80}"
        )


def _of_fast(optimizer: Any) -> Any:
    """Return what `optax.lookahead` is in, of fast parameters alone: it carries the slow ones."""
    import optax

    def init(params: PyTree) -> Lookahead:
        return Lookahead(optimizer.init(optax.LookaheadParams.init_synced(params)), params)

    def update(
        gradient: PyTree, state: Lookahead, params: PyTree, **extra: Any
    ) -> tuple[PyTree, Lookahead]:
        pair = optax.LookaheadParams(fast=params, slow=state.slow)
        updates, after = optimizer.update(gradient, state.state, pair, **extra)
        return updates.fast, Lookahead(after, optax.apply_updates(state.slow, updates.slow))

    return optax.GradientTransformationExtraArgs(init, update)


def _of_examples(objective: Objective, optimizer: Any) -> Any:
    """Return what clips the gradient of each example, as `optax.contrib.dpsgd`, given these."""
    import optax

    who = "optimizer=, which takes the gradient of each example,"
    objective.arrays(who)
    refuse_mixed(objective, who)
    if objective.mesh is not None:
        raise ValueError(f"{who} needs them on one device; make the objective without mesh=")

    def update(
        _: PyTree, state: PyTree, params: PyTree, *, gradients_of_examples: Callable, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return optimizer.update(gradients_of_examples(params), state, params, **extra)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Ask for a state without what `optax.lookahead` says of parameters that are no pair."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _has(state: Any, kind: type) -> bool:
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    return any(isinstance(node, kind) for node in nodes)


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {keystr(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}


def _types(tree: PyTree) -> Any:
    """Return what a loop has to find again in what it carries."""
    return jax.tree.structure(tree), {where: _type(x) for where, x in _leaves(tree).items()}


def _type(x: Any) -> tuple[tuple[int, ...], Any]:
    return jnp.shape(x), x.dtype if hasattr(x, "dtype") else jnp.result_type(x)


def _as(like: PyTree, tree: PyTree) -> PyTree:
    """Return a tree of the parts and types of another; zeros are for parts that it has not."""
    known = _leaves(tree)

    def leaf(path: Any, x: Any) -> Any:
        mine, (shape, dtype) = known.get(keystr(path)), _type(x)
        if mine is None or jnp.shape(mine) != shape:
            return jnp.zeros(shape, dtype)
        return mine if _type(mine) == (shape, dtype) else jnp.asarray(mine, dtype)

    return tree_map_with_path(leaf, like)


def _unsettled(before: PyTree, after: PyTree) -> TypeError:
    """Return the error of a state that is never again what it was, by a part that is not."""
    one, two = (_types(tree)[1] for tree in (before, after))
    where = next((k for k in one | two if one.get(k) != two.get(k)), "")
    return TypeError(
        f"optimizer.update goes on changing the types of its state: state{where} is "
        f"{_written(one.get(where))} and then {_written(two.get(where))}; let it return what it "
        "is given"
    )


def _written(kind: Any) -> str:
    return "not there" if kind is None else f"{kind[1]} of shape {kind[0]}"
