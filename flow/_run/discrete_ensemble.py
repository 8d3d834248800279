"""Many gradient descents in one call: members have their own θ₀, learning rate, steps or seed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flow._core.endings import ENDINGS
from flow._core.progress import paced
from flow._problem.minibatches import Batches
from flow._problem.objective import Objective
from flow._run.discrete import (
    RUNNING,
    STOPPED,
    Carry,
    DescentLoop,
    lengthened,
    loop_of,
    measure_of,
)
from flow._run.ensemble import initialisations, named
from flow._run.loop import Many, Report
from flow.methods.many import OnDevices, padded, shared, way

NEVER = -1


@dataclass
class DescentMember(DescentLoop):
    """The rows, budgets and result of one member; `DescentEnsemble` takes its steps."""

    due: list[int] = field(init=False)
    # J and ‖∇J‖ by the step at which a chunk measured them.
    known: dict[int, tuple[float, float]] = field(init=False, default_factory=dict)

    def save_start(self) -> None:
        """Save t = 0, if it is asked for."""
        self.due = [int(k) for k in self.saves]
        if self.due[0] == 0:
            del self.due[0]
            self.result = self._save()

    def attempt(self, what: Callable, *arguments: Any) -> Any:
        """Return what it returns, or None where it ends the member instead."""
        try:
            return what(*arguments)
        except ENDINGS as ending:
            self.result = self.cut_short(ending)
            return None

    def next_end(self, chunk: int) -> tuple[int, int]:
        """Return where its next chunk is to end, and the step at which J is wanted there."""
        if self.result is not None:
            return NEVER, NEVER
        total = self.clock.steps
        save = self.due[0] if self.due else total
        return min(self.k + chunk, save), save

    def take(self, carry: Carry, measures: np.ndarray) -> None:
        """Take its part of a chunk."""
        if not np.isnan(measures).all():
            self.known = {int(carry.k): tuple(measures.tolist())}
        result = self.attempt(self.receive, carry, self.due)
        self.result = self.result or result
        if self.result is None and self.k == self.clock.steps:
            self.result = self.reached()

    def _measure(self, theta: np.ndarray) -> tuple[float, float]:
        if self.k not in self.known:
            return super()._measure(theta)
        self.meter.gradients += 1
        self.meter.save_gradients += 1
        return self.known[self.k]


@dataclass
class DescentEnsemble(Many):
    """Drives the members of an ensemble by chunks of one loop over all of them.

    Parameters
    ----------
    members
        One loop for each, of one rule but for η.
    devices
        That they are spread over; None for one.
    """

    members: list[DescentMember]
    devices: tuple[Any, ...] | None = None
    over: Callable = field(init=False)
    take_steps: Callable[[int], tuple[Carry, Any]] = field(init=False)
    carry: Carry = field(init=False)

    @property
    def label(self) -> str:
        """Return what a progress bar calls the runs."""
        return f"{self.members[0].label}, {len(self.members)} members"

    @property
    def end(self) -> float:
        """Return where the last of them ends."""
        return max(member.clock.end for member in self.members)

    def _set_up(self) -> list[tuple[float, float]]:
        """Compile, and return J and ‖∇J‖ at each member's start."""
        firsts = []
        for i, member in enumerate(self.members):
            with named(i):
                firsts.append(member.begin())
        for i, member in enumerate(self.members):
            with named(i):
                member.save_start()
        self._prepare()
        return firsts

    def _prepare(self) -> None:
        one = self.members[0]
        objective, batches = one.objective, one.batches
        own = objective.compiled(
            ("descent over", None if batches is None else batches.size),
            lambda: way(_gradient_of(objective, batches), objective.theta, objective.data),
        )
        self.over = shared(own, self.devices)
        loop = objective.compiled(
            ("descend", one.rule.key, batches, one.ascent, self.over),
            lambda: _compile(one, self.over),
        )
        data = objective.data
        if isinstance(self.over, OnDevices):
            data = self.over.copied(data)
        carry = jax.tree.map(_stacked, *(member.carry for member in self.members))
        keys = jax.vmap(jax.random.key)(np.array([member.seed for member in self.members]))
        rows = jax.device_put((carry, np.stack(self._rates())))
        self.carry, etas, keys = padded(self.over, (*rows, keys))
        self.take_steps = lambda chunk: jax.block_until_ready(
            loop((one.below, data), self.carry, *self._next_ends(chunk), keys, etas)
        )
        self.carry, _ = self.take_steps(0)  # no steps: this compiles

    def _rates(self) -> list[np.ndarray]:
        """Return η of each member, or of its steps where one of them has a schedule."""
        rates = [member.rule.eta for member in self.members]
        if not any(eta.ndim for eta in rates):
            return rates
        steps = max(member.clock.steps for member in self.members)
        return [lengthened(eta, steps) for eta in rates]

    def _next_ends(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        ends, saves = np.array([member.next_end(chunk) for member in self.members]).T
        return padded(self.over, (ends, saves))

    def _drive(self) -> Iterator[Report]:
        chunk = 1
        while self._running():
            for member in self._running():
                member.attempt(member.meter.check_seconds)
            if not (running := self._running()):
                return
            began, before = time.perf_counter(), [member.k for member in running]
            self.carry, measures = self.take_steps(chunk)
            carries, measures = jax.tree.map(_fetched, (self.carry, measures))
            for i, member in enumerate(self.members):
                if member.result is None:
                    member.take(jax.tree.map(lambda x, i=i: x[i], carries), measures[i])
            taken = max(m.k - k for m, k in zip(running, before, strict=True))
            chunk = paced(chunk, taken, time.perf_counter() - began)
            slowest = min(running, key=lambda member: member.k / member.clock.steps)
            yield slowest.t, slowest.carry.loss, slowest.meter.gradients


def _stacked(*leaves: Any) -> Any:
    """Stack a leaf of each member, on the host: XLA takes a minute to compile it of thousands."""
    keys = jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key)
    return jnp.stack(leaves) if keys else np.stack([np.asarray(leaf) for leaf in leaves])


def _fetched(x: Any) -> Any:
    """Return an array of the device as numpy's; keys, which an optimizer may carry, have none."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)


def _gradient_of(objective: Objective, batches: Batches | None) -> Callable:
    """Return J and ∇J as a step computes them, of flat θ."""

    def gradient(theta: Any, data: Any) -> Any:
        params = objective.tree(theta)
        if batches is not None:
            data = jax.tree.map(lambda x: x[: batches.size], data)
        return objective.traced_value_and_gradient(params, data)

    return gradient


def _compile(one: DescentLoop, over: Callable) -> Callable:
    """Return the jitted loop of all members, and J and ‖∇J‖ of those that are to be saved."""
    loop = loop_of(one.objective, one.rule.optimizer, one.batches, one.ascent)
    measure = measure_of(one.objective)

    def member(
        common: tuple[Any, Any], carry: Carry, end: Any, save: Any, key: Any, eta: Any
    ) -> tuple[Carry, Any]:
        (below, data), status = common, carry.status
        carry = loop(carry, end, key, eta, below, data)
        left = (status == RUNNING) & (carry.status == STOPPED)
        evaluate = one.evaluate or (lambda _, params: params)
        measures = jax.lax.cond(
            (carry.k == save) | left,
            lambda: measure(ravel_pytree(evaluate(carry.state, carry.params))[0], data),
            lambda: jnp.full(2, jnp.nan),
        )
        return carry, measures

    return jax.jit(partial(over, member))


def zipped(objective: Objective, ensemble: Any, **each: Any) -> list[tuple[Any, ...]] | None:
    """Return the objective and the arguments of each member; None where nothing is of many.

    Parameters
    ----------
    objective, ensemble
        As `descend` takes them.
    each
        Arguments that are one for all members, or a sequence, one for each.

    Raises
    ------
    ValueError
        Sequences differ in length or are empty, or a θ₀ is off.

    Examples
    --------
    >>> import flow
    >>> objective = flow.Objective(lambda x: x @ x, np.ones(2))
    >>> [rest for _, *rest in zipped(objective, None, learning_rate=[0.1, 0.2], steps=3)]
    [[0.1, 3], [0.2, 3]]
    """
    many = {
        name: value
        for name, value in each.items()
        if isinstance(value, list | tuple)
        or (isinstance(value, np.ndarray | jax.Array) and value.ndim)
    }
    key = many.get("seed")
    if isinstance(key, jax.Array) and (key.shape, key.dtype) == ((2,), np.uint32):
        raise ValueError(
            f"seed must be an integer, or one for each member, got a key, jax.random.PRNGKey("
            f"{int(key[1])}); give the {int(key[1])}"
        )
    for name, value in many.items():
        if len(value) == 0 or any(np.size(one) != 1 or np.shape(one) for one in value):
            raise ValueError(
                f"{name} must be one for all members or a sequence, one for each; got {value!r:.80}"
            )
    starts = None if ensemble is None else initialisations(objective, ensemble)
    counts = {name: len(value) for name, value in many.items()}
    if starts is not None:
        counts = {"ensemble": len(starts)} | counts
    if not counts:
        return None
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"members are taken together, the i-th of each, but there are {counts}; give "
            "as many of each, or one for all (np.repeat and np.tile make a grid of two)"
        )
    n = next(iter(counts.values()))
    columns = [value if name in many else [value] * n for name, value in each.items()]
    return list(zip(starts or [objective] * n, *columns, strict=True))
