"""`audit`: does a run obey the laws that it must? Energy identity, conservation, error bar."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log1p

import numpy as np

from flow._core.checks import flag, instance, truth
from flow._core.display import cut, visible
from flow._core.keywords import own_keywords
from flow._problem.objective import Objective
from flow._run.conserved import drifts_along
from flow._run.integrate import rerun, reruns
from flow._run.trajectory import Trajectory, apart, check_keeps_theta, check_single
from flow.dynamics import Dynamics, GradientFlow

# What the run of an error bar does by tolerance; and, as a share of the run's mean step, by the
# longest it may take: the first steps, and those at the limit of stability, know no tolerance.
_TIGHTER, _SHORTER = 10.0, 2.0 / 3.0


@dataclass(frozen=True)
class Audit:
    """The findings of an audit.

    Attributes
    ----------
    energy_residual
        (J₀ − J_T − ∫‖∇J‖² dt)/(J₀ − J_T), zero for the exact flow; NaN for a discrete run, which
        does not obey the identity. Uphill J₀ and J_T change places. Of other dynamics it is their
        energy that falls at the rate of their dissipation, if they have any: of heavy ball
        J + ½‖θ̇‖² at γ‖θ̇‖², and without friction the residual is (H₀ − H_T)/H₀.
    largest_rise
        Largest rise of J over a step; the exact flow never rises. Uphill it is the largest fall.
    conserved
        Name -> largest drift ‖Q(θ(t)) − Q(θ₀)‖ over the saved times, of what the dynamics
        declares its flow to conserve; of a gradient flow that is the objective's.
    error_bar
        ‖θ(t) − θ_tight(t)‖ at the saved times (times,), from a run at a ten times tighter
        tolerance and with steps of at most ⅔ of the run's mean one (fixed steps: from half the
        step, by the method's order); no less than rounding, the unit roundoff × what θ has moved.
        None unless asked for. NaN of a path of noise: with another step it is another path.
    units
        What the runs for it cost, in gradients: no part of the run's own `stats`.
    """

    energy_residual: float
    largest_rise: float
    conserved: Mapping[str, float]
    error_bar: np.ndarray | None
    units: int = 0

    def __str__(self) -> str:
        """Return a line for each finding."""
        lines = [
            f"energy residual (J₀ − J_T − ∫‖∇J‖²dt)/(J₀ − J_T)  {self.energy_residual: .2e}",
            f"largest rise of J over a step                    {self.largest_rise: .2e}",
        ]
        lines += [f"drift of {name:<40} {drift: .2e}" for name, drift in self.conserved.items()]
        if self.error_bar is not None:
            lines.append(
                f"error bar ‖θ − θ_tight‖, largest                 {self.error_bar.max(): .2e}"
            )
        return visible("\n".join(lines), keep="\n")

    def __repr__(self) -> str:
        """Return the findings, cut."""
        return cut(str(self))


@own_keywords
def audit(
    path: Trajectory,
    objective: Objective | Dynamics | None = None,
    error_bar: bool = False,
    progress: bool = True,
) -> Audit:
    """Audit a run.

    Parameters
    ----------
    path
        A flow or a discrete run.
    objective
        Of a run that was loaded or comes from another process, for its conserved quantities and its
        error bar; the dynamics itself where that was not a gradient flow.
    error_bar
        Whether to run again at a tighter tolerance; that costs 1.8 times the run
        itself in the median, 4.2 at most (sixteen problems, `experiments/error_bars.py`).
    progress
        Show the progress of that run.

    Raises
    ------
    ValueError
        An error bar is asked for of a discrete run, or of a loaded one without its objective; or
        this is an ensemble.

    Examples
    --------
    >>> import flow
    >>> X, y = flow.datasets.digits(50)
    >>> network = flow.MLP([64, 4, 10], activation="identity", bias=False)
    >>> path = flow.integrate(network.objective(X, y), t=5.0)
    >>> report = flow.audit(path)
    >>> abs(report.energy_residual) < 1e-6, report.conserved["balancedness 1-2"] < 1e-6
    (True, True)
    """
    error_bar = flag("error_bar", error_bar)
    (check_keeps_theta if error_bar else check_single)("flow.audit", path)
    if objective is not None:
        kinds = "a flow.Objective or a dynamics, that was run"
        instance("objective", objective, (Objective, Dynamics), kinds)
    truth("progress", progress)
    own = None if isinstance(objective, Dynamics) else objective
    if isinstance(objective, Dynamics):
        path, own = replace(path, dynamics=objective), objective.objective
    elif objective is None and path.dynamics is not None:
        own = path.dynamics.objective
    conserved = getattr(path.dynamics or own, "conserved", {})
    if own is not None and own.size != path.theta.shape[1]:
        raise ValueError(
            f"the objective has {own.size} parameters, but the run {path.theta.shape[1]}; "
            "pass the objective that was run"
        )
    stats = path.stats
    residual = np.nan
    if stats["dissipated"] is not None:
        first, last = (
            stats.get(f"energy_{end}", stats[f"loss_{end}"]) for end in ("first", "last")
        )
        fallen, dissipated = first - last, stats["dissipated"]
        # Of motion without friction, which dissipates nothing, beside the energy that it has.
        whole = fallen if dissipated else abs(first)
        residual = (fallen - dissipated) / whole if whole else dissipated
    drifts = {} if own is None else drifts_along(path, own, conserved)
    with reruns() as spent:
        bars = error_bars(path, own, progress=progress) if error_bar else None
    return Audit(
        float(residual),
        stats["largest_rise"],
        {name: float(drift.max()) for name, drift in drifts.items()},
        bars,
        sum(spent),
    )


def error_bars(
    path: Trajectory, objective: Objective | None = None, *, progress: bool = True
) -> np.ndarray:
    """Return ‖θ(t) − θ_tight(t)‖ at the saved times (times,), by running the flow again.

    Raises
    ------
    ValueError
        The run is discrete, or loaded and without an objective.
    """
    if path.config["kind"] != "flow":
        raise ValueError("a discrete run is what it is and has no error bar; audit the flow")
    if path.noisy:
        return np.full(len(path.t), np.nan)
    path = _with_dynamics(path, objective)
    return bars_beside(path, tighter(path, progress=progress))


def tighter(path: Trajectory, *, progress: bool) -> Trajectory:
    """Run a flow again at its saved times, with less error."""
    end = path.stats["t_end"]
    if "step" in path.config:
        changes = {"step": min(path.config["step"], end) / 2}
    else:
        rtol, atol = path.config["rtol"], path.config["atol"]
        tight = max(rtol / _TIGHTER, 100 * path.dynamics.objective.resolution)
        span = log1p(end) if path.config.get("clock") == "log" else end
        longest = _SHORTER * span / max(path.stats["steps"], 1)
        changes = {"rtol": tight, "atol": atol * tight / rtol, "longest": longest}
    return rerun(path, path.t, progress=progress, **changes)


def bars_beside(path: Trajectory, tight: Trajectory) -> np.ndarray:
    """Return error bars of a flow at its saved times (times,), from what `tighter` made of it."""
    factor = 1.0
    if "step" in path.config:
        # Errors of a method of order p fall by 2^p when the step is halved.
        from flow.methods.catalogue import METHODS

        method = METHODS.get(path.config["method"])
        order = getattr(path.solver, "order", 1) if method is None else method.order
        factor = 2.0**order / (2.0**order - 1.0)
    objective, n = path.dynamics.objective, len(tight.t)  # fewer, if it could not go on
    bars = np.full(len(path.t), np.nan)
    bars[:n] = factor * apart(path.theta[:n], tight.theta)
    moved = apart(path.theta, objective.theta)
    return np.maximum(bars, objective.resolution * moved)


def _with_dynamics(path: Trajectory, objective: Objective | None) -> Trajectory:
    if path.dynamics is not None:
        return path
    if objective is None or path.config["dynamics"] != "GradientFlow":
        raise ValueError(
            "this run was loaded, or comes from another process, and carries no objective; pass "
            "it: flow.audit(path, objective), or the dynamics where that was not a gradient flow"
        )
    constants = path.config.get("constants", {"ascent": path.config.get("ascent", False)})
    return replace(path, dynamics=GradientFlow(objective, **constants))
