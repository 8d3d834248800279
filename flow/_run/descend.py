"""`descend`: discrete optimizers, recorded on the flow's time axis."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from flow._core.checks import choice, flag, instance, positive_integer, random_seed, users
from flow._core.keywords import own_keywords
from flow._core.pickling import explained
from flow._core.precision import double_precision
from flow._problem.minibatches import batches
from flow._problem.objective import Objective, how_made
from flow._run import schedules
from flow._run.checkpoint.keeper import keeper
from flow._run.discrete import DescentLoop, Rule
from flow._run.discrete_ensemble import DescentEnsemble, DescentMember, zipped
from flow._run.ensemble import check_devices, named, refuse_checkpoint
from flow._run.evaluation import Evaluate, evaluation, name_of
from flow._run.loop import run
from flow._run.optimizer_names import optimizer_name
from flow._run.optimizers import taken, told
from flow._run.recorder import Meter, Recorder
from flow._run.save_times import SPACINGS, Clock, save_steps
from flow._run.trajectory import Trajectory
from flow.observe import Observer
from flow.stop import Condition, conditions

if TYPE_CHECKING:
    from os import PathLike

    from flow._run.checkpoint.keeper import Checkpoint, Keeper


@own_keywords
@explained()
def descend(
    objective: Objective,
    learning_rate: float | Sequence[float] | Callable[[Any], Any] | None = None,
    steps: int | Sequence[int] | None = None,
    *,
    ensemble: Any = None,
    ascent: bool = False,
    optimizer: Any = None,
    time_step: float | Callable[[Any], Any] | None = None,
    evaluate: Evaluate | None = None,
    batch_size: int | None = None,
    sampling: str = "iid",
    seed: int | Sequence[int] = 0,
    devices: Sequence[Any] | None = None,
    save: Any = 200,
    spacing: str = "linear",
    keep: str = "theta",
    observe: Mapping[str, Callable | Observer] | None = None,
    stop: Condition | Iterable[Condition] | None = None,
    max_seconds: float | None = None,
    checkpoint: "str | PathLike | Checkpoint | Keeper | None" = None,
    label: str | None = None,
    progress: bool = True,
) -> Trajectory:
    """Run gradient descent θ_{k+1} = θ_k − η∇J(θ_k), or any optax optimizer, from θ₀.

    It is Euler's method on the gradient flow with step η: step k is recorded at t = ηk.

    Parameters
    ----------
    objective
        The loss, with θ₀.
    learning_rate
        η, or an optax schedule (step -> η); then t is the running sum of the η used, and stands
        still where η is 0: rows at equal t are kept, and `compare` takes the last of them.
    steps
        How many.
    ensemble
        Many θ₀ in place of the objective's, descended from in one compiled loop: an array
        (members, n), a pytree like the parameters whose leaves have a leading axis of members, or a
        list of θ₀.
        Several learning rates, ``learning_rate=[0.01, 0.02]``, steps or seeds make an ensemble
        too; of more than one of these the i-th are taken together. Each member has its own clock,
        end and rows, and is what a run by itself is, but for rounding: members of one seed draw
        the same mini-batches. Runs that differ in more, in widths or optimizers, are for
        `flow.sweep`.
    ascent
        Climb J instead, θ_{k+1} = θ_k + η∇J(θ_k): the descent of −J, by any optimizer.
    optimizer
        An optax optimizer instead of plain gradient descent; it needs a `time_step`, unless it is
        of `optax.inject_hyperparams`, of which the learning rate is read. Its update is passed
        those extra arguments that it takes of ``value`` and ``grad``, J and ∇J here, and
        ``value_fn``, ``obj_fn`` and ``grad_fn``, both as functions of the parameters, of this
        step's examples and, where `ascent` climbs, of −J. What clips gradients of single examples,
        as `optax.contrib.dpsgd`, is passed those instead of ∇J, and J is to be a mean over them.
    time_step
        Units of t in one step, so that t = time_step × step; the learning rate unless given.
        Momentum has clocks of its own: beside the plain flow, t = ηk/(1 − β). Beside an optimizer
        that holds a schedule, the schedule (step -> units of t), of which t is the running sum.
    evaluate
        ``evaluate(state, params) -> params``, traced by JAX: what an optimizer stands for, by its
        state, where that is not where it takes gradients. θ, J, ‖∇J‖ and what is observed are of
        these parameters, while the run goes on with its own; stop conditions are tested at the
        saved steps. Of optax's schedule-free methods their average unless given, of SAM the point
        that it perturbs, of lookahead the slow parameters, ``state.slow``;
        ``lambda state, params: params`` records the steps themselves.
    batch_size
        Examples in a mini-batch; all of them if None. The loss is to be a mean over the examples
        of a batch: one that changes where a batch is given twice over is refused.
    sampling
        "iid" draws each mini-batch with replacement; "epoch" reshuffles the data and goes through
        it, leaving out the last examples of an epoch where `batch_size` does not divide them.
    seed
        Of the mini-batches.
    devices
        Spread the members of an ensemble over several devices, as in `flow.integrate`.
    save, spacing, keep, observe, stop, max_seconds, checkpoint, progress
        As in `flow.integrate`; a time between two steps is saved at the nearer one. Losses and
        gradient norms are of all the data; with mini-batches, which do not know them, stop
        conditions are tested at the saved steps.
    label
        What tables and figures call the run; unless given the learning rate, or the optax function
        that made the optimizer, where that can be told, with those of its numbers that are no
        defaults.

    Returns
    -------
    Trajectory
        Of an ensemble with a leading axis of members; see `Trajectory.member`.
        If the loss diverges or Ctrl-C ends the run, its last row is the last step with a finite
        loss, and `result` says what happened. Mini-batch gradients are counted apart, in
        ``stats["batch_gradients"]``.

    Warns
    -----
    BatchWarning
        If mini-batches are drawn of a loss that is no mean of what its examples add, as under batch
        normalisation: in the mean their gradients are not that of J.

    Raises
    ------
    ValueError, TypeError
        An argument is off; the message names it, the value met and the remedy.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> steps = flow.descend(objective, learning_rate=0.5, steps=2, save=3)
    >>> steps.t.tolist(), steps.theta[:, 0].tolist()
    ([0.0, 0.5, 1.0], [1.0, 0.5, 0.25])

    Three learning rates in one call, to t = 1 each:

    >>> runs = flow.descend(objective, learning_rate=[0.5, 0.25, 0.1], steps=[2, 4, 10], save=2)
    >>> runs.t[:, -1].tolist(), runs.theta[:, -1, 0].round(3).tolist()
    ([1.0, 1.0, 1.0], [0.25, 0.316, 0.349])
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"descend needs an objective, {how_made(objective)}; got {objective!r:.80}")
    ascent = flag("ascent", ascent)
    choice("spacing", spacing, SPACINGS)
    if hasattr(learning_rate, "update"):
        raise TypeError(
            "learning_rate is an optax optimizer; give it by name, and its clock, the units of t "
            "in one step, beside: flow.descend(objective, optimizer=optax.adam(1e-3), "
            "time_step=1e-3, steps=100)"
        )
    if (learning_rate is None) == (optimizer is None):
        raise ValueError(
            "give a learning_rate, or an optax optimizer= and its time_step=; not both, as an "
            "optimizer has its own learning rate, and its clock is time_step="
        )
    if label is not None:
        instance("label", label, str, "a string")
    made, computed, kept, name = _gradient_descent, "gradient descent", None, None
    if optimizer is not None:
        taking, computed = taken(objective, optimizer)
        made, kept = (lambda _: taking), _states(objective, taking)
        name = optimizer_name(optimizer) or kept
    read, read_key = evaluation(objective, made(0.0), evaluate)
    told = None if read is None else name_of(read)
    drawn, stops = batches(objective, batch_size, sampling), conditions(stop, ascent=ascent)
    batch_size = drawn and drawn.size

    def loop(
        make: type[DescentLoop], objective: Objective, learning_rate: Any, steps: Any, seed: Any
    ) -> DescentLoop:
        steps, seed = positive_integer("steps", steps), random_seed(seed)
        if optimizer is None:
            rates = schedules.rates("learning_rate", learning_rate, steps)
        else:
            rates = _held(objective, made(0.0), time_step, steps)
        clock = _clock(rates, time_step, steps)
        given = None if callable(time_step) else time_step
        ticks = None if clock.scheduled or (time_step or optimizer) is None else clock.time_step
        fixed = _number(learning_rate)
        read_at = np.float64(0.0) if rates is None or optimizer is not None else rates
        own = _label(learning_rate, name, clock, batch_size, ascent)
        own = own if told is None else f"{own}, {told}"
        again = {"optimizer": _label(learning_rate, kept, clock, batch_size, ascent)}
        again |= {"evaluate": told}
        again |= {"time_step": f"scheduled to t = {clock.end!r}" if clock.scheduled else None}
        asked = {"steps": steps, "time_step": given, "save": save, "spacing": spacing}
        asked |= {"batch_size": batch_size, "sampling": sampling, "seed": seed}
        asked |= {"learning_rate": None if fixed is None else learning_rate, "ascent": ascent}
        asked |= {"keep": keep, "label": label}
        return make(
            objective=objective,
            ascent=ascent,
            rule=Rule(made, read_at, (computed, read_key)),
            evaluate=read,
            clock=clock,
            batches=drawn,
            seed=seed,
            saves=save_steps(save, spacing, clock),
            stops=stops,
            meter=Meter(None, None, max_seconds),
            recorder=Recorder(objective, observe, keep=keep, stands=True),
            config={
                "kind": "descent",
                "label": own if label is None else label,
                "ascent": ascent,
                "learning_rate": fixed,
                "time_step": ticks,
                "evaluate": told,
                "steps": steps,
                "batch_size": batch_size,
                "sampling": None if drawn is None else sampling,
                "seed": seed,
            },
            keeper=keeper(checkpoint, "descent", objective.mesh, asked, again, observe, stops),
        )

    each = zipped(objective, ensemble, learning_rate=learning_rate, steps=steps, seed=seed)
    spread = check_devices(devices, objective, None if each is None else len(each))
    if each is None:
        engine = loop(DescentLoop, objective, learning_rate, steps, seed)
    else:
        refuse_checkpoint(checkpoint)
        members = []
        for i, arguments in enumerate(each):
            with named(i):
                members.append(loop(DescentMember, *arguments))
        engine = DescentEnsemble(members, spread)
    return run(engine, partial(_computing, objective), progress)


@contextmanager
def _computing(objective: Objective) -> Iterator[None]:
    """Enter the scope of all that a run computes."""
    with objective.reading(), double_precision():
        yield


def _number(learning_rate: Any) -> float | None:
    """Return a learning rate that is one number; None of a schedule, or where there is none."""
    if learning_rate is None or callable(learning_rate):
        return None
    return float(learning_rate)  # pyright: ignore[reportArgumentType]


def _gradient_descent(learning_rate: Any) -> Any:
    """Take plain steps; η is an argument of the compiled loop, so that another compiles nothing."""
    import optax

    return optax.with_extra_args_support(optax.sgd(learning_rate))


def _clock(rates: np.ndarray | np.float64 | None, time_step: Any, steps: int) -> Clock:
    """Return the clock of a time step, a number or a schedule, or else of learning rates."""
    clock = rates if time_step is None else schedules.rates("time_step", time_step, steps)
    if clock is None:
        raise ValueError(
            "an optimizer= needs its time_step=, the units of t in one step: its learning rate, "
            "or learning rate / (1 − β) for momentum beside the plain flow"
        )
    if clock.ndim:
        return Clock(steps, times=np.concatenate([[0.0], np.cumsum(clock)]))
    return Clock(steps, float(clock))


def _held(objective: Objective, optimizer: Any, time_step: Any, steps: int) -> np.ndarray | None:
    """Return the learning rates that an optimizer holds, where its clock is not given beside.

    Raises
    ------
    ValueError
        It has a schedule, and a clock that is none.
    """
    if callable(time_step):
        return None
    with double_precision():
        theta = objective.unflatten(objective.theta)
        state = optimizer.init(theta)

    def update(state: Any, params: Any, value: Any, gradient: Any, data: Any) -> Any:
        known = told(objective, data, value, gradient)
        return optimizer.update(gradient, state, params, **known)[1]

    met = np.float64(0.0), theta, objective.data
    rates = schedules.rates_of(update, optimizer.init, steps, theta, *met)
    changes = schedules.holds_schedule(optimizer, state) if rates is None else rates.ndim
    if changes and (rates is None or time_step is not None):
        raise ValueError(
            f"optimizer has a learning rate that is scheduled, which time_step={time_step!r} "
            f"does not tell: {schedules.TELL}"
        )
    return rates


def _label(
    learning_rate: Any, name: str | None, clock: Clock, batch: int | None, ascent: bool
) -> str:
    """Return what figures call the run, by an optimizer of that name."""
    if name is not None:
        label = f"{name}, " + (
            "scheduled η" if clock.scheduled else f"{clock.time_step:.3g} a step"
        )
    elif callable(learning_rate):
        label = "gradient ascent, scheduled η" if ascent else "GD, scheduled η"
    else:
        label = f"{'gradient ascent' if ascent else 'GD'}, η = {float(learning_rate):.3g}"
    return label if batch is None else f"{label}, batches of {batch}"


def _states(objective: Objective, optimizer: Any) -> str:
    """Name an optimizer by the states that it keeps, which users' own have too."""
    with double_precision(), users("optimizer.init"):
        states = jax.tree.leaves(
            optimizer.init(objective.unflatten(objective.theta)),
            is_leaf=lambda x: hasattr(x, "_fields"),
        )
    kept = (type(x).__name__ for x in states if getattr(x, "_fields", ()))
    names = [name.removeprefix("ScaleBy").removesuffix("State").lower() for name in kept]
    names = [{"trace": "momentum", "rms": "rmsprop"}.get(n, n) for n in names]
    return " ".join(dict.fromkeys(n for n in names if n != "schedule")) or "optimizer"
