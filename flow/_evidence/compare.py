"""`compare`: how far runs are from a reference, at truly matched times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flow._core.checks import choice, flag, positive, truth
from flow._core.display import Shown, cut, table
from flow._core.keywords import own_keywords
from flow._core.user_warnings import warn
from flow._evidence.audit import error_bars
from flow._evidence.nearest import HermitePath
from flow._run.integrate import rerun, reruns
from flow._run.save_times import last_of_equal, nearest
from flow._run.trajectory import TIME_UNIT, Trajectory, apart, check_keeps_theta, parts, told_apart

if TYPE_CHECKING:
    import pandas
    import xarray

# A distance is reported with a warning if the integrator's own error is more than this of it.
ERROR_BAR_SHARE = 0.05
# Times are the same if they differ by rounding: steps × learning rate against the flow's end.
_SAME_TIME = 1e-12
# A distance that has shrunk to so little of the largest is none.
_TOGETHER = 1e-6
# Of the farthest that the reference gets: before, a tiny distance over a tiny travel is no parting.
UNDER_WAY = 0.1
# What is known of a run at matched times.
DISTANCES = ("distance", "relative_distance", "nearest_distance", "loss_gap", "angle", "error_bar")
# The problem's numbers at θ₀ agree so well between processes, and in single precision so.
_SAME_PROBLEM = 1e-4


class ErrorBarWarning(UserWarning):
    """A reported distance is not much larger than the integrator's own error."""


@dataclass(frozen=True)
class Pair(Shown):
    """One run against the reference, at matched times.

    Attributes
    ----------
    run
        The run.
    t
        Matched times (times,), units of learning rate × steps.
    theta, reference_theta
        Parameters of both there (times, n); (times, 0) where they were not kept.
    distance
        ‖θ_run(t) − θ_ref(t)‖.
    relative_distance
        `distance` over ‖θ_ref(t) − θ_ref(0)‖, what the reference has travelled; NaN at t = 0.
    nearest_distance
        Distance of θ_run(t) from the reference's curve, whatever the time on it: at most
        `distance`, and much less where a run lags behind on the same path. Between saved and
        matched times the curve is the cubic Hermite interpolant of positions and velocities
        −∇J (of a loaded reference: of a cubic spline; of a path of noise, which has no velocity,
        its saved points are the curve).
    loss
        J_run(t).
    loss_gap
        J_run(t) − J_ref(t).
    angle
        Angle in degrees between the mean velocities of both over the interval that ends at t;
        NaN at the first time.
    error_bar
        ‖θ_ref − θ_tight‖, the reference's own error; NaN where it is not known, as with noise.
    """

    run: Trajectory
    t: np.ndarray
    theta: np.ndarray
    reference_theta: np.ndarray
    distance: np.ndarray
    relative_distance: np.ndarray
    nearest_distance: np.ndarray
    loss: np.ndarray
    loss_gap: np.ndarray
    angle: np.ndarray
    error_bar: np.ndarray

    def first_passage(self, threshold: float, of: str = "relative_distance") -> float:
        """Return the first matched time at which |gap| exceeds a threshold; NaN if it never does.

        A relative distance counts once the reference is a tenth as far from θ₀ as it gets by the
        last matched time: of a first step it is about ηλ/2, of a tiny travel, however close the
        two stay.
        """
        choice("of", of, DISTANCES)
        beyond = np.abs(getattr(self, of)) > positive("threshold", threshold)
        if of == "relative_distance":
            with np.errstate(divide="ignore", invalid="ignore"):
                travelled = self.distance / self.relative_distance
            known = travelled[np.isfinite(travelled)]
            beyond &= ~(travelled < UNDER_WAY * known.max(initial=0.0))
        return float(self.t[np.argmax(beyond)]) if beyond.any() else np.nan


@dataclass(frozen=True)
class Comparison:
    """Runs against a reference.

    `t`, `distance`, `relative_distance`, `nearest_distance`, `loss_gap`, `angle`, `error_bar` are
    arrays (times,) if one run is compared, and tuples of arrays in the order of the runs if
    several are, as their times may differ; see `Pair` for what each is.

    Attributes
    ----------
    reference
        The first trajectory that was given to `compare`.
    pairs
        One `Pair` for each other run.
    units
        What it took in gradients, to repeat the reference and for the velocities of its curve: no
        part of the `stats` of the runs.
    """

    reference: Trajectory
    pairs: tuple[Pair, ...]
    units: int = 0

    def _of(self, name: str) -> Any:
        values = tuple(getattr(pair, name) for pair in self.pairs)
        return values[0] if len(values) == 1 else values

    t = property(lambda self: self._of("t"))
    distance = property(lambda self: self._of("distance"))
    relative_distance = property(lambda self: self._of("relative_distance"))
    nearest_distance = property(lambda self: self._of("nearest_distance"))
    loss_gap = property(lambda self: self._of("loss_gap"))
    angle = property(lambda self: self._of("angle"))
    error_bar = property(lambda self: self._of("error_bar"))

    def first_passage(self, threshold: float, of: str = "relative_distance") -> Any:
        """Return the first matched time at which a gap exceeds a threshold, by run; NaN if never.

        As in `Pair.first_passage`, a relative distance counts once the reference is under way.
        """
        values = tuple(pair.first_passage(threshold, of) for pair in self.pairs)
        return values[0] if len(values) == 1 else values

    def table(self) -> "pandas.DataFrame":
        """Return one row a run, at its last matched time; times are learning rate × steps."""
        import pandas

        rows = [
            {
                "run": pair.run.label,
                "t": pair.t[-1],
                "loss": pair.loss[-1],
                "distance": pair.distance[-1],
                "relative": pair.relative_distance[-1],
                "± error bar": pair.error_bar[-1],
                "loss gap": pair.loss_gap[-1],
                "nearest": pair.nearest_distance[-1],
                "10 % apart at t": pair.first_passage(0.1),
                "ended": pair.run.result.split(" ")[0],
            }
            for pair in self.pairs
        ]
        return pandas.DataFrame(rows).set_index("run")

    def __repr__(self) -> str:
        """Return the table, cut."""
        name = f"{len(self.pairs)} compared with {self.reference.label}"
        return cut(f"{name}\n{table(self.table())}")

    def plot(self, figure: Any = None) -> Any:
        """Draw loss, distance, gradient norm and common PCA plane, 2 × 2 in a matplotlib figure."""
        from flow import plots

        return plots.comparison(self, figure)

    def to_xarray(self) -> "xarray.Dataset":
        """Return the gaps on the union of the matched times, NaN where a run has none."""
        import xarray

        t = np.unique(np.concatenate([pair.t for pair in self.pairs]))
        distances = {name: np.full((len(self.pairs), len(t)), np.nan) for name in DISTANCES}
        for i, pair in enumerate(self.pairs):
            for name in DISTANCES:
                distances[name][i, np.searchsorted(t, pair.t)] = getattr(pair, name)
        return xarray.Dataset(
            {name: (("run", "time"), gap) for name, gap in distances.items()},
            coords={
                "t": ("time", t, {"long_name": "flow time", "units": TIME_UNIT}),
                "run": [pair.run.label for pair in self.pairs],
            },
            attrs={"reference": self.reference.label},
        )


@own_keywords
def compare(
    reference: Trajectory, *runs: Trajectory, error_bar: bool = True, progress: bool = True
) -> Comparison:
    """Compare runs with a reference at matched times, the saved times of each run.

    Of rows at equal times, of steps at a learning rate of 0, it is the last that is compared.
    Where the reference was not saved at them, its dense output is evaluated there by repeating
    it (nothing is interpolated between saves); a loaded reference and a path of noise, which can't
    be repeated, are compared at the times that both share.

    Parameters
    ----------
    reference
        Usually a gradient flow.
    runs
        Others of the same problem, from the same θ₀, one by one or in a list. Of one name, they are
        told apart by what they were run with, or numbered.
    error_bar
        Whether to run a flow that can be repeated once more, more tightly, to know its own error,
        as `flow.audit` does; that costs 1.8 times the reference in the median.
    progress
        Show the progress of the runs that this takes.

    Warns
    -----
    ErrorBarWarning
        If that error exceeds 5 % of the largest or of the last distance of a run.

    Raises
    ------
    ValueError
        The runs are of different problems or initial parameters, or share no times after t = 0;
        or one of them is an ensemble.

    Examples
    --------
    >>> import flow
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> path = flow.integrate(objective, t=1.0)
    >>> comparison = flow.compare(path, flow.descend(objective, 0.5, steps=2))
    >>> comparison.t
    array([0. , 0.5, 1. ])
    >>> np.allclose(comparison.distance, np.abs(0.5 ** np.arange(3) - np.exp(-comparison.t)))
    True
    """
    flag("error_bar", error_bar)
    truth("progress", progress)
    if not runs:
        raise ValueError("compare needs a reference and at least one other run")
    check_keeps_theta("flow.compare", reference, *runs)
    reference, *others = told_apart([reference, *runs])
    runs = tuple(others)
    for run in runs:
        _check_same_problem(reference, run)
    matched = _match(reference, runs)
    # θ_ref(0), from which the distance travelled is taken, is one of the rows where it is known.
    start = [[0.0]] if _repeatable(reference) or reference.t[0] == 0 else []
    times = np.unique(np.concatenate([*start, *(t for t, _ in matched)]))
    with reruns() as spent:
        source = _evaluated(reference, times, progress)
        bars = np.full(len(source.t), np.nan)
        if error_bar and _repeatable(reference):
            bars = error_bars(source, progress=progress)
    hermite = HermitePath(source)
    pairs = tuple(
        _pair(run, run_index, source, nearest(source.t, t), bars, hermite, progress)
        for run, (t, run_index) in zip(runs, matched, strict=True)
    )
    for pair in pairs:
        _warn_of_error(pair)
    return Comparison(reference, pairs, sum(spent) + hermite.gradients)


def _check_same_problem(reference: Trajectory, run: Trajectory) -> None:
    if reference.config.get("ascent", False) != run.config.get("ascent", False):
        raise ValueError(
            f"of {reference.label!r} and {run.label!r} one climbs J and the other descends; give "
            "ascent=True to both, flow.GradientFlow(objective, ascent=True) and "
            "flow.descend(..., ascent=True)"
        )
    mine, other = reference.config["problem"], run.config["problem"]
    for name, meaning in (
        ("size", "number of parameters"),
        ("norm", "norm of the initial parameters"),
        ("loss", "initial loss"),
        ("gradient_norm", "initial gradient norm"),
    ):
        if not np.isclose(mine[name], other[name], rtol=_SAME_PROBLEM, atol=1e-12):
            raise ValueError(
                f"{reference.label!r} and {run.label!r} are runs of different problems: their "
                f"{meaning} is {mine[name]:.6g} and {other[name]:.6g}; compare runs of one "
                "objective from one θ₀"
            )


def _match(
    reference: Trajectory, runs: Sequence[Trajectory]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each run the matched times, and the run's rows there."""
    end = reference.stats["t_end"]
    tolerance = _SAME_TIME * max(end, 1.0)
    matched = []
    for run in runs:
        index = last_of_equal(run.t)
        index = index[run.t[index] <= end + tolerance]
        t = run.t[index]
        near = reference.t[nearest(reference.t, t)]
        shared = np.abs(near - t) <= _SAME_TIME * np.maximum(np.abs(t), 1.0)
        t = np.where(shared, near, np.minimum(t, end))
        if not _repeatable(reference):
            index, t = index[shared], t[shared]
        if not np.any(t > 0):
            if _repeatable(reference):
                raise ValueError(
                    f"{reference.label!r}, which ends at t = {end:g}, and {run.label!r} share no "
                    "saved time after t = 0; save earlier, integrate(..., save=times)"
                )
            again = "; or give the first back what it was a run of, dataclasses.replace(path, "
            again += "dynamics=flow.GradientFlow(objective))"
            raise ValueError(
                f"{reference.label!r}, which can't be repeated here, and {run.label!r} share no "
                "saved time after t = 0; save one at the other's, integrate(..., save=run.t)"
                + ("" if reference.noisy else again)
            )
        matched.append((t, index))
    return matched


def _repeatable(reference: Trajectory) -> bool:
    """Return whether the reference can be evaluated at other times."""
    return reference.dynamics is not None and not reference.noisy


def _evaluated(reference: Trajectory, times: np.ndarray, progress: bool) -> Trajectory:
    """Return the reference with rows at its own times and the given ones."""
    if np.all(np.isin(times, reference.t)):
        return reference
    times = np.union1d(times, reference.t)
    again = rerun(reference, times, progress=progress)
    if len(again.t) < len(times):
        raise RuntimeError(f"{reference.label!r} could not be repeated: {again.result}")
    return again


def _pair(
    run: Trajectory,
    rows: np.ndarray,
    source: Trajectory,
    at: np.ndarray,
    bars: np.ndarray,
    hermite: HermitePath,
    progress: bool,
) -> Pair:
    theta, reference = run.theta[rows], source.theta[at]
    distance, travelled = apart(theta, reference), apart(reference, source.theta[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(travelled > 0, distance / travelled, np.nan)
    return Pair(
        run=run,
        t=source.t[at],
        theta=theta,
        reference_theta=reference,
        distance=distance,
        relative_distance=relative,
        # Rounding may choose a row that is not the nearest.
        nearest_distance=np.minimum(hermite.distances(theta, progress=progress), distance),
        loss=run.loss[rows],
        loss_gap=run.loss[rows] - source.loss[at],
        angle=_angles(theta, reference),
        error_bar=bars[at],
    )


def _angles(theta: np.ndarray, reference: np.ndarray) -> np.ndarray:
    half = np.full(len(theta), np.nan)
    for part in parts(len(theta) - 1, theta.shape[1]):
        ends = slice(part.start, part.stop + 1)
        moved, reference_moved = (np.diff(x[ends], axis=0) for x in (theta, reference))
        with np.errstate(divide="ignore", invalid="ignore"):
            a = moved / np.linalg.norm(moved, axis=1, keepdims=True)
            b = reference_moved / np.linalg.norm(reference_moved, axis=1, keepdims=True)
        # Kahan's formula keeps small angles, of which arccos loses half the digits.
        sides = np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1)
        half[1:][part] = np.arctan2(*sides)
    return np.degrees(2 * half)


def _warn_of_error(pair: Pair) -> None:
    if not np.any(np.isfinite(pair.error_bar)):
        return
    # Where two runs have come together again, at one minimum, they differ by rounding at most.
    least = _TOGETHER * np.max(pair.distance)
    for i in (int(np.nanargmax(pair.distance)), -1):
        bar, distance = pair.error_bar[i], pair.distance[i]
        if bar > ERROR_BAR_SHARE * distance and bar > least:
            warn(
                f"the reference's own error at t = {pair.t[i]:g} is {bar:.2g}, of a distance of "
                f"{distance:.2g} to {pair.run.label!r}; integrate with a tighter rtol",
                ErrorBarWarning,
            )
            return
