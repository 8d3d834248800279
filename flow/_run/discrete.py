"""The compiled loop of a discrete optimizer, run in chunks from save to save."""

import time
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flow._core.costs import KINDS, counted
from flow._core.endings import ENDINGS, BudgetSpent, ObserverFailed
from flow._core.progress import paced
from flow._core.pytrees import PyTree, structure_of, to_numpy
from flow._core.user_warnings import warn
from flow._problem.minibatches import Batches
from flow._problem.objective import Objective
from flow._run.checkpoint import CheckpointWarning, Keeper
from flow._run.checkpoint.values import leaves, like
from flow._run.evaluation import Evaluate
from flow._run.loop import Report, Single
from flow._run.optimizers import told
from flow._run.recorder import TWO_BRANCHES, Meter, Recorder, check_start, flat_record, ran_away
from flow._run.save_times import Clock
from flow._run.trajectory import Trajectory, current_versions, problem
from flow.stop import StopConditions

RUNNING, STOPPED, DIVERGED = range(3)
# A step taken again is the same to so much of itself, and to so many units of roundoff of θ.
STEP, AGAIN = 1e-6, 10.0


@dataclass(frozen=True)
class Rule:
    """An update rule: η ↦ optax optimizer; two rules of one key share a compiled loop.

    Parameters
    ----------
    optimizer
        η ↦ optax optimizer.
    eta
        η, or that of each step (steps,).
    key
        What the optimizer computes.
    """

    optimizer: Callable[[Any], Any]
    eta: np.ndarray | np.float64
    key: Hashable

    @property
    def rates(self) -> np.ndarray:
        """Return `eta` as the loop takes it, filled up to a power of two of steps."""
        return self.eta if self.eta.ndim == 0 else lengthened(self.eta, len(self.eta))


def lengthened(rates: np.ndarray, steps: int) -> np.ndarray:
    """Return η of each step, or one for all, as at least so many, a power of two."""
    rates = np.atleast_1d(rates)
    return np.pad(rates, (0, (1 << (steps - 1).bit_length()) - len(rates)), mode="edge")


class Carry(NamedTuple):
    """The state that the compiled loop carries from step to step."""

    k: Any
    params: PyTree
    state: PyTree  # the optimizer's
    before: tuple[PyTree, PyTree]  # params and state one step back
    order: Any  # of the examples in this epoch
    loss: Any  # at the last step that was taken
    rise: Any  # the largest so far
    left_at: Any  # the loss at which the loop left
    asked: Any  # of value_fn by the optimizer: values, gradients, products
    status: Any


@dataclass
class DescentLoop(Single):
    """One run; every argument has been checked by `flow.descend`."""

    objective: Objective
    ascent: bool
    rule: Rule
    clock: Clock
    batches: Batches | None
    seed: int
    saves: np.ndarray
    stops: StopConditions
    meter: Meter
    recorder: Recorder
    config: dict[str, Any]
    keeper: Keeper | None = None
    evaluate: Evaluate | None = None
    take_steps: Callable[[int], Carry] = field(init=False)
    carry: Carry = field(init=False)
    batch_gradients: int = field(init=False, default=0)

    @property
    def label(self) -> str:
        """Return what a progress bar calls the run."""
        return self.config["label"]

    @property
    def end(self) -> float:
        """Return where t ends."""
        return self.clock.end

    def _set_up(self) -> tuple[tuple[float, float], str | None]:
        """Compile, and return J and ‖∇J‖ at the start, and a result if the run ends there."""
        first = self._prepare()
        resumed = self._begin_keeping(first)
        return first, self._save() if self.saves[0] == 0 and not resumed else None

    def _report(self) -> Report:
        return self.t, self.carry.loss, self.meter.gradients

    @property
    def k(self) -> int:
        """Return the step that was reached."""
        return int(self.carry.k)

    @property
    def t(self) -> float:
        """Return the time that was reached."""
        return self.clock.at(self.k)

    def begin(self) -> tuple[float, float]:
        """Set what the loop starts with; return J and ‖∇J‖ there."""
        objective = self.objective
        params = jax.device_put(objective.unflatten(objective.theta))
        state = self.rule.optimizer(0.0).init(params)
        shuffled = self.batches is not None and self.batches.sampling == "epoch"
        order = np.zeros(self.batches.examples if shuffled else 0, np.int32)
        # Arrays of the loop's own types, or it would be compiled again for what it returns.
        worst = -np.inf if self.ascent else np.inf
        loss, rise, left_at = np.float64([worst, 0.0, 0.0])
        before, asked, status = (params, state), np.zeros(KINDS, np.int64), np.int32(RUNNING)
        self.carry = jax.device_put(
            Carry(np.int64(0), params, state, before, order, loss, rise, left_at, asked, status)
        )
        first = self._measure(objective.theta)
        check_start(objective, *first)
        objective.check_unchanged(objective.theta, first[0])
        return first

    @property
    def saves_its_steps(self) -> bool:
        """Return whether J of a step is that of a row: of all the data, at no evaluated θ."""
        return self.batches is None and self.evaluate is None

    @property
    def below(self) -> tuple[float, float]:
        """Return J and ‖∇J‖ at which the loop leaves, where it knows them."""
        return self.stops.thresholds if self.saves_its_steps else (-np.inf, -np.inf)

    def _prepare(self) -> tuple[float, float]:
        objective, first = self.objective, self.begin()
        loop = objective.compiled(
            ("descend", self.rule.key, self.batches, self.ascent),
            lambda: jax.jit(loop_of(objective, self.rule.optimizer, self.batches, self.ascent)),
        )
        key, rates, below = jax.random.key(self.seed), self.rule.rates, self.below
        self.take_steps = lambda end: jax.block_until_ready(
            loop(self.carry, end, key, rates, below, objective.data)
        )
        self.carry = self.take_steps(0)  # no steps: this compiles
        return first

    def _begin_keeping(self, first: tuple[float, float]) -> bool:
        """Note in the folder of checkpoints where the run starts, or go on from what is there."""
        if self.keeper is None:
            return False
        theta = self.objective.theta
        slope = -self.objective.counted().flat_value_and_gradient(theta)[1]
        start = {"initial": theta, "slope": slope, "loss": first[0], "gradient_norm": first[1]}
        self.keeper.begin(start, self.objective.resolution)
        if (kept := self.keeper.resumed) is None:
            return False
        self._restore(kept)
        return True

    def _keep(self) -> None:
        """Write a checkpoint where one is due."""
        units = self.meter.units + self.batch_gradients
        if self.keeper is None or not self.keeper.due(units):
            return
        state = {
            "carried": leaves(self.carry),
            "spent": [*self.meter.spent, self.batch_gradients],
            "recorder": self.recorder.state(),
        }
        self.keeper.keep(state, self.recorder.rows, units)

    def _restore(self, kept: dict[str, Any]) -> None:
        """Go on from a checkpoint, once its last step has been taken again."""
        carry = jax.device_put(like(self.carry, kept["carried"]))
        if carry.k > 0:
            params, state = carry.before
            self.carry = carry._replace(k=carry.k - 1, params=params, state=state)
            self._check_same(carry, self.take_steps(int(carry.k)))
        self.carry = carry
        *self.meter.spent, self.batch_gradients = kept["spent"]
        self.recorder.restore(kept["recorder"], self.keeper.rows)
        self.keeper.taken_up(self.meter.units + self.batch_gradients)

    def _check_same(self, kept: Carry, again: Carry) -> None:
        """Refuse an optimizer or batches by which the last step would have been another."""
        parts = kept.before, (kept.params, kept.state), (again.params, again.state)
        before, moved, mine = map(_flat, parts)
        whole, again_whole = map(_counted, parts[1:])
        if np.array_equal(moved, mine, equal_nan=True) and whole == again_whole:
            return
        rounding = AGAIN * self.objective.resolution * np.linalg.norm(moved)
        most = STEP * np.linalg.norm(moved - before) + rounding
        if whole != again_whole or not np.linalg.norm(mine - moved) <= most:
            raise ValueError(
                f"{self.keeper.folder} holds another run: its last step can't be taken again; "
                "give the optimizer, schedule and data that it began with"
            )
        warn(
            f"the last step kept in {self.keeper.folder} differs by rounding when it is taken "
            "again: the run goes on, but not to the bit; machine or versions are others",
            CheckpointWarning,
        )

    def _drive(self) -> Generator[Report, None, str]:
        chunk, total = 1, self.clock.steps
        due = [int(k) for k in self.saves if k > self.k]
        try:
            yield self._report()
            while self.k < total:
                self._keep()
                self.meter.check_seconds()
                k, began = self.k, time.perf_counter()
                end = min(k + chunk, due[0] if due else total)
                carry = self.take_steps(end)
                chunk = paced(chunk, int(carry.k) - k, time.perf_counter() - began)
                if (result := self.receive(carry, due)) is not None:
                    return result
                yield self._report()
            return self.reached()
        except ENDINGS as ending:
            return self.cut_short(ending)

    def receive(self, carry: Carry, due: list[int]) -> str | None:
        """Do everything that is due after a chunk; return a result if the run ends with it."""
        before, self.carry = self.carry, carry
        if (int(before.k), self.k) == (0, 1) and self.batches is None:
            self.objective.check_unchanged(self.objective.theta, float(carry.loss))
        status = int(carry.status)
        values, gradients, hvps = (np.asarray(carry.asked) - np.asarray(before.asked)).tolist()
        self._count(self.k - int(before.k) + (status != RUNNING) + gradients)
        self.meter.values += values
        self.meter.hvps += hvps
        if status == DIVERGED:
            return self._diverged(float(carry.left_at))
        if (due and self.k == due[0]) or status == STOPPED:
            del due[:1]
            if (result := self._save()) is None and status == STOPPED:
                # J of a row is computed apart, and may differ by rounding from what the loop saw.
                return (
                    f"stopped at step {self.k:,} (t = {self.t:g}): loss {float(carry.left_at):.6g}"
                )
            return result
        return None

    def reached(self) -> str:
        """Return the result of a run that has taken all its steps."""
        if not np.isfinite(loss := self._last_loss()):
            return self._diverged(loss)
        return f"reached t = {self.t:g} in {self.k:,} steps"

    def cut_short(self, ending: BaseException) -> str:
        """Return the result of a run that is ended from outside."""
        what = {BudgetSpent: "budget spent", ObserverFailed: "ended"}.get(type(ending))
        at = f"{what or 'interrupted'} at step {self.k:,} (t = {self.t:g})"
        return at if what is None else f"{at}: {ending}"

    def _count(self, gradients: int) -> None:
        if self.batches is None:
            self.meter.gradients += gradients
        else:
            self.batch_gradients += gradients

    def _diverged(self, loss: float) -> str:
        """Go back to the last step with a finite loss, and say so."""
        bad = self.k
        params, state = self.carry.before
        self.carry = self.carry._replace(k=bad - 1, params=params, state=state)
        advice = (
            "Gradient descent is stable on a quadratic for learning rates below 2/λ_max"
            if ran_away(loss)
            else TWO_BRANCHES
        )
        last = f"{float(self.carry.loss):.4g}"
        told = (
            f"the gradient is not finite at a loss of {loss:.4g}, which was {last} one step before"
            if np.isfinite(loss)
            else f"the loss is {loss:g}; the last finite loss, {last}, was one step before"
        )
        return f"diverged at step {bad:,} (t = {self.clock.at(bad):g}): {told}. {advice}"

    @property
    def theta(self) -> np.ndarray:
        """Return what is recorded, flat (n,): θ, or what `evaluate` has for it."""
        params = self.carry.params
        if self.evaluate is not None:
            function = self.objective.compiled(
                ("evaluate", self.rule.key),
                lambda: jax.jit(lambda s, p: self.evaluate(s, p)),  # noqa: PLW0108 - traced anew
            )
            params = function(self.carry.state, params)
        return self.objective.flatten(to_numpy(params))

    def _measure(self, theta: np.ndarray) -> tuple[float, float]:
        """Return J and ‖∇J‖ of all the data."""
        self.meter.gradients += 1
        self.meter.save_gradients += 1
        function = self.objective.compiled(
            "value_and_gradient_norm", lambda: jax.jit(measure_of(self.objective))
        )
        loss, norm = np.asarray(function(theta, self.objective.data))
        return float(loss), float(norm)

    def _last_loss(self) -> float:
        """Return J at the step that was reached."""
        if self._saved != self.k:
            return self._measure(self.theta)[0]
        return self.recorder.rows[-1]["loss"]

    @property
    def _saved(self) -> int:
        """Return the last step that was saved; −1 where none was."""
        rows = self.recorder.rows
        return rows[-1]["work"]["steps"] if rows else -1

    def _save(self, *, observe: bool = True) -> str | None:
        """Keep a row; a result if it meets a stop condition."""
        loss, norm = self._measure(theta := self.theta)
        if not np.isfinite(loss):
            return self._diverged(loss)
        state = moments(self.carry.state, to_numpy(self.carry.params))
        gradients, hvps = self.meter.motion
        work = {"t": self.t, "steps": self.k, "gradients": self.batch_gradients or gradients}
        work |= {"hvps": hvps, "values": self.meter.values}
        row = self.recorder.add(self.t, theta, loss, norm, state, work, observe=observe)
        met = self.stops.holding(flat_record(row), saved=True)
        return None if met is None else f"stopped at step {self.k:,} (t = {self.t:g}): {met}"

    def save_end(self) -> None:
        """Keep the last step of a run that ended early."""
        if self.result.startswith("reached") or self.k <= self._saved:
            return
        try:
            self._save()
        except ObserverFailed:
            self._save(observe=False)

    def _largest_rise(self, saved: np.ndarray, last: float) -> float:
        """Return the largest rise of J over a step, uphill of −J.

        With mini-batches, whose losses rise and fall by chance, over a pair of saves; likewise of
        an evaluated θ.
        """
        sign = -1.0 if self.ascent else 1.0
        if not self.saves_its_steps:
            return float((sign * np.diff(saved, prepend=saved[0])).max())
        # The loop has not looked at J of the step that it reached.
        return max(float(self.carry.rise), sign * (last - float(self.carry.loss)))

    def trajectory(
        self, first: tuple[float, float], seconds: float, compile_seconds: float
    ) -> Trajectory:
        """Return the run, its seconds to compile and after that beside it."""
        last = self._last_loss()
        columns = self.recorder.columns()
        return Trajectory(
            **columns,
            stats={
                "gradients": self.meter.gradients,
                "hvps": self.meter.hvps,
                "values": self.meter.values,
                "batch_gradients": self.batch_gradients,
                "save_gradients": self.meter.save_gradients,
                **self.recorder.spent,
                "steps": self.k,
                "rejected": 0,
                "seconds": seconds,
                "compile_seconds": compile_seconds,
                "dissipated": None,
                "t_end": self.t,
                "loss_first": first[0],
                "loss_last": last,
                "largest_rise": self._largest_rise(columns["loss"], last),
            },
            result=self.result,
            config=self.config | {"problem": problem(self.objective, *first)},
            structure=structure_of(self.objective.params),
            versions=current_versions(),
            unflatten=self.objective.unflatten,
        )


def moments(state: Any, params: PyTree) -> dict[str, np.ndarray]:
    """Return what an optax state carries beside counters and keys: vectors of θ's structure, flat.

    By field name.

    >>> import optax
    >>> params = {"w": np.ones(2)}
    >>> sorted(moments(optax.adam(0.1).init(params), params))
    ['mu', 'nu']
    >>> sorted(moments(optax.adam(0.1).init(np.float64(1.0)), np.float64(1.0)))
    ['mu', 'nu']
    """
    found: dict[str, np.ndarray] = {}

    def visit(node: Any) -> None:
        fields = getattr(node, "_fields", None)
        for name, value in zip(fields or [""] * len(node), node, strict=True):
            leaves = jax.tree.leaves(value)
            if leaves and alike(value):
                unique = name if name not in found else f"{name}_{len(found)}"
                found[unique] = np.concatenate([np.ravel(np.array(x, float)) for x in leaves])
            elif isinstance(value, tuple):
                visit(value)

    def alike(value: Any) -> bool:
        if jax.tree.structure(value) != jax.tree.structure(params):
            return False
        # A counter has the structure of a θ that is one array.
        pairs = zip(jax.tree.leaves(value), jax.tree.leaves(params), strict=True)
        return all(
            np.shape(x) == np.shape(p) and jnp.issubdtype(jnp.result_type(x), jnp.floating)
            for x, p in pairs
        )

    if isinstance(state, tuple):
        visit(state)
    return found


def _flat(tree: PyTree) -> np.ndarray:
    """Return all floating-point numbers of a pytree in one vector."""
    return np.concatenate([np.ravel(x).astype(float) for x in leaves(tree) if not _counts(x)])


def _counted(tree: PyTree) -> list[Any]:
    """Return what is counted or drawn from: the same to the bit, or another."""
    return [np.asarray(x).tolist() for x in leaves(tree) if _counts(x)]


def _counts(x: Any) -> bool:
    return not jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def measure_of(objective: Objective) -> Callable:
    """Return (θ, data) ↦ J and ‖∇J‖."""

    def measure(theta: Any, data: Any) -> Any:
        params = objective.tree(theta)
        value, gradient = objective.traced_value_and_gradient(params, data)
        return jnp.stack([value, jnp.linalg.norm(ravel_pytree(gradient)[0])])

    return measure


def loop_of(
    objective: Objective, make: Callable[[Any], Any], batches: Batches | None, ascent: bool
) -> Callable:
    """Return the loop to step `end`; it leaves where the loss is small enough or not finite."""

    def minimised(tree: PyTree) -> PyTree:
        """Return what the optimizer, which minimises, is told: of J, or uphill of −J."""
        return jax.tree.map(jnp.negative, tree) if ascent else tree

    def step(key: Any, eta: Any, below: Any, data: Any, carry: Carry) -> Carry:
        order = carry.order if batches is None else batches.order(key, carry.k, carry.order)
        batch = data if batches is None else batches.draw(key, carry.k, order, data)
        loss, gradient = objective.traced_value_and_gradient(carry.params, batch)
        norm = jnp.linalg.norm(ravel_pytree(gradient)[0])
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        small = (loss <= below[0]) | (norm <= below[1])

        def update() -> Carry:
            downhill = minimised(gradient)
            extra = told(objective, batch, loss, downhill, minimised)
            (updates, state), asked = counted(
                lambda: make(eta if jnp.ndim(eta) == 0 else eta[carry.k]).update(
                    downhill, carry.state, carry.params, first=carry.k == 0, **extra
                )
            )
            params = jax.tree.map(jnp.add, carry.params, updates)
            rise = jnp.maximum(carry.rise, minimised(loss - carry.loss))
            before = (carry.params, carry.state)
            asked, status = carry.asked + asked, carry.status
            return Carry(carry.k + 1, params, state, before, order, loss, rise, loss, asked, status)

        def leave() -> Carry:
            status = jnp.where(finite, STOPPED, DIVERGED).astype(carry.status.dtype)
            return carry._replace(left_at=loss, status=status)

        return jax.lax.cond(finite & ~small, update, leave)

    def loop(carry: Carry, end: Any, *arguments: Any) -> Carry:
        return jax.lax.while_loop(
            lambda c: (c.k < end) & (c.status == RUNNING), partial(step, *arguments), carry
        )

    return loop
