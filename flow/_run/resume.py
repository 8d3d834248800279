"""`resume`: go on with a run from its checkpoints, to the same bits."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flow._core.checks import file_path
from flow._core.keywords import own_keywords
from flow._problem.objective import Objective
from flow._run.checkpoint.folder import header, latest
from flow._run.checkpoint.keeper import Checkpoint, Keeper, is_first
from flow._run.checkpoint.lock import held
from flow._run.descend import descend
from flow._run.evaluation import Evaluate
from flow._run.integrate import integrate
from flow._run.trajectory import Trajectory
from flow.dynamics import Dynamics
from flow.observe import Observer
from flow.stop import Condition

if TYPE_CHECKING:
    from scipy.integrate import OdeSolver


@own_keywords
def resume(
    folder: str | os.PathLike,
    dynamics: Dynamics | Objective,
    *,
    observe: Mapping[str, Callable | Observer] | None = None,
    stop: Condition | Iterable[Condition] | None = None,
    method: "type[OdeSolver] | None" = None,
    learning_rate: Callable[[Any], Any] | None = None,
    optimizer: Any = None,
    time_step: Callable[[Any], Any] | None = None,
    evaluate: Evaluate | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
) -> Trajectory:
    """Go on with a run of `integrate` or `descend` from the last of its checkpoints.

    On the same machine, with the same versions, what comes out is what the undisturbed run would
    have returned, to the last bit, but for the seconds; it goes on to keep checkpoints, as often as
    before. A run that has ended is gone on with from its last checkpoint, to the same end. To know
    that it is the same run, the right-hand side at t = 0 is evaluated once more, and of a descent
    the last step is taken again, beside what is counted.

    Parameters
    ----------
    folder
        What was given as ``checkpoint=``.
    dynamics
        That of the run, or its objective; of a descent the objective.
    observe, stop
        What the run was given; functions can't be kept in a file.
    method
        A user's own OdeSolver class, if the run had one.
    learning_rate, optimizer, time_step, evaluate
        A descent's schedules, optax optimizer or evaluation, if it had one.
    max_seconds
        Budget of this call; the other budgets are those of the whole run, kept with it.
    progress
        As in `integrate`.

    Raises
    ------
    FileNotFoundError
        The folder holds no run.
    ValueError
        No checkpoint in it can be read; or θ₀, the data, the dynamics or its settings are not
        those of the run; or it is going on, here or in another process. A single file that can't be
        read, cut off or damaged, is a `flow.CheckpointWarning`, and the checkpoint before it is
        gone on from; one that is whole and was changed is an error that names it, and so is a
        checkpoint of another format.
    TypeError
        The folder holds a descent and a dynamics was given, or an argument goes with the other
        kind of run.

    Examples
    --------
    >>> import flow, numpy as np, tempfile
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     steps = flow.descend(objective, 0.1, 30, checkpoint=folder)
    ...     again = flow.resume(folder, objective)
    >>> np.array_equal(again.theta, steps.theta)
    True
    """
    folder = file_path("folder", folder)
    facts = header(folder)
    mesh = getattr(getattr(dynamics, "objective", dynamics), "mesh", None)
    with held(folder, by_this_process=is_first(mesh)):
        state, rows = latest(folder, facts["run"])
        keeper = Keeper(Checkpoint(folder, **facts["every"]), facts, state, rows)
        given = {"observe": observe, "stop": stop, "max_seconds": max_seconds, "progress": progress}
        asked = facts["asked"]
        if facts["kind"] == "flow":
            _refuse(folder, "a flow", learning_rate=learning_rate, optimizer=optimizer,
                    time_step=time_step, evaluate=evaluate)  # fmt: skip
            asked = asked if method is None else asked | {"method": method}
            return integrate(dynamics, **asked, **given, checkpoint=keeper)
        _refuse(folder, "a descent", method=method)
        if not isinstance(dynamics, Objective):
            raise TypeError(f"{folder} holds a descent; give its flow.Objective, got {dynamics!r}")
        scheduled = {"learning_rate": learning_rate, "time_step": time_step}
        asked |= {name: schedule for name, schedule in scheduled.items() if schedule is not None}
        given |= {"optimizer": optimizer, "evaluate": evaluate}
        return descend(dynamics, **asked, **given, checkpoint=keeper)


def _refuse(folder: Path, what: str, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise TypeError(f"{folder} holds {what}, to which {name}={value!r} does not belong")
