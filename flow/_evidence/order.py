"""`order_study`: the rate at which a dynamics and its discrete counterpart approach each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flow._core.checks import instance, numbers, positive, random_seed, several, truth
from flow._core.display import cut, table
from flow._core.keywords import own_keywords
from flow._core.progress import silent
from flow._problem.objective import Objective
from flow._run.descend import descend
from flow._run.integrate import integrate
from flow._run.trajectory import all_units, uninterrupted
from flow.dynamics import Dynamics, GradientFlow, StochasticFlow
from flow.spectrum import sharpness

if TYPE_CHECKING:
    import pandas

# The flow is integrated so tightly that its own error is no part of what is measured.
RTOL, ATOL = 1e-11, 1e-13
# Of the stability limit 2/λ_max: well below it, near it, and beyond.
AUTO_SHARES = (0.1, 0.5, 0.9, 1.1)
# Hours of the cheapest gradients: more is a mistake in t or in a learning rate.
MOST_STEPS = 1e9
# t over the time of a step may be off a whole number by rounding.
ROUNDING = 1e-12
# An order shows where η is small: halvings of a tenth of the limit.
AUTO_LADDER = tuple(0.1 * 2.0**-k for k in range(5))


@dataclass(frozen=True)
class OrderStudy:
    """Distances between a dynamics and its discrete counterpart, and their slopes in log–log.

    Attributes
    ----------
    learning_rates
        η, largest first, each such that t is a whole number of steps.
    distance
        ‖θ_discrete(t) − θ_flow(t)‖ for each; with noise |E J(θ_discrete(t)) − E J(θ_flow(t))|.
    slope
        Of log distance against log η, by least squares.
    one_step_distance, one_step_slope
        The same after a single step from θ₀; None with noise.
    t
        The fixed time, time_step × steps.
    standard_error
        Of each distance, with noise; None without.
    abscissa
        What the slopes are against.
    units
        What all runs cost together, in gradients; those of mini-batches among them.
    """

    learning_rates: np.ndarray
    distance: np.ndarray
    slope: float
    one_step_distance: np.ndarray | None
    one_step_slope: float | None
    t: float
    standard_error: np.ndarray | None = None
    abscissa: str = "learning rate η"
    units: int = 0

    def table(self) -> "pandas.DataFrame":
        """Return one row a learning rate; slopes are local ones, from the row above."""
        import pandas

        def local(distance: np.ndarray) -> np.ndarray:
            ratios = np.diff(np.log(distance)) / np.diff(np.log(self.learning_rates))
            return np.concatenate([[np.nan], ratios])

        columns = {"distance": self.distance, "slope": local(self.distance)}
        if self.one_step_distance is not None:
            columns["one step"] = self.one_step_distance
            columns["one-step slope"] = local(self.one_step_distance)
        if self.standard_error is not None:
            columns["standard error"] = self.standard_error
        return pandas.DataFrame(
            columns, index=pandas.Index(self.learning_rates, name=self.abscissa)
        )

    def __repr__(self) -> str:
        """Return the slopes and the table, cut."""
        slopes = f"slope {self.slope:.4g}"
        if self.one_step_slope is not None:
            slopes += f", of one step {self.one_step_slope:.4g}"
        return cut(f"{slopes}, at t = {self.t:g}\n{table(self.table())}")

    def plot(self, ax: Any = None) -> Any:
        """Return distance against learning rate in log–log, with the fitted line."""
        from flow import plots

        return plots.order(self, ax)


@own_keywords
def auto_learning_rates(objective: Objective, shares: Sequence[float] = AUTO_SHARES) -> np.ndarray:
    """Return learning rates as shares of 2/λ_max(θ₀), the stability limit at the start.

    The default {0.1, 0.5, 0.9, 1.1} is well below the limit, near it, and beyond.

    Raises
    ------
    ValueError
        λ_max(θ₀) is not positive, so that there is no limit; or a share is not.
    """
    instance("objective", objective, Objective, "a flow.Objective")
    asked = numbers("shares", shares)
    if asked.ndim != 1 or not np.all(np.isfinite(asked) & (asked > 0)):
        raise ValueError(f"shares must be several positive finite numbers, got {shares!r:.80}")
    top = sharpness(objective, objective.params)
    if top <= 0:
        raise ValueError(
            f"the sharpness at the initial parameters is {top:.3g}: there is no stability limit "
            "2/λ_max to choose learning rates by; give learning_rates yourself"
        )
    return asked * 2.0 / top


@own_keywords
def order_study(
    dynamics: Dynamics | Objective,
    t: float,
    learning_rates: Sequence[float] | str = "auto",
    *,
    paths: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> OrderStudy:
    """Measure the order at which a dynamics models its discrete counterpart.

    At a fixed time t the distance falls as a power of the learning rate: 1 for gradient descent
    and gradient flow, as Euler's method is of order 1. After one step it falls by one power more.
    A dynamics that has the learning rate as a constant takes each in turn.

    Parameters
    ----------
    dynamics
        A dynamics with a counterpart; an objective is short for its gradient flow.
    t
        Where distances are taken, on the clock of `dynamics.counterpart`.
    learning_rates
        At least two; each is rounded so that t is a whole number of steps. "auto" halves a tenth
        of 2/λ_max(θ₀) four times.
    paths, seed
        With noise: how many paths of both the means of J are of. The weak order is that of
        |E J(θ_discrete) − E J(θ_flow)|.
    progress
        Show progress.

    Examples
    --------
    >>> import flow
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> study = order_study(objective, t=1.0, learning_rates=[0.02, 0.01, 0.005])
    >>> round(study.slope, 2), round(study.one_step_slope, 2)
    (1.0, 2.0)
    >>> modified = flow.ModifiedFlow(objective, learning_rate=0.02)
    >>> round(order_study(modified, t=1.0, learning_rates=[0.02, 0.01, 0.005]).slope, 2)
    2.0
    """
    if isinstance(dynamics, Objective):
        dynamics = GradientFlow(dynamics)
    instance("dynamics", dynamics, Dynamics, "a dynamics or a flow.Objective")
    t, seed = positive("t", t), random_seed(seed)
    truth("progress", progress)
    if isinstance(learning_rates, str):
        if learning_rates != "auto":
            raise ValueError(f"learning_rates must be numbers or 'auto', got {learning_rates!r}")
        with silent(progress):
            learning_rates = auto_learning_rates(dynamics.objective, AUTO_LADDER).tolist()
    rates, steps = _whole_steps(dynamics, t, learning_rates)
    if dynamics.noise:
        distance, bars, spent = weak_distances(dynamics, t, rates, steps, paths, seed, progress)
        slope = _slope(rates, distance)
        return OrderStudy(rates, distance, slope, None, None, t, bars, units=spent)
    distance, spent = _distances(dynamics, [t] * len(rates), rates, steps, progress)
    time_steps = [dynamics.counterpart(rate)[1] for rate in rates]
    one_step, more = _distances(dynamics, time_steps, rates, [1] * len(rates), progress)
    slopes = _slope(rates, distance), _slope(rates, one_step)
    return OrderStudy(rates, distance, slopes[0], one_step, slopes[1], t, units=spent + more)


def whole_steps(name: str, t: float, time_step: float) -> int:
    """Return the whole number of steps to t that is nearest to what `name` asks for.

    Raises
    ------
    ValueError
        The first step ends beyond t, or there is no end of them; or they are no positive number.

    >>> whole_steps("learning_rates", 1.0, 0.3)
    3
    """
    steps = t / positive(name, time_step)
    if steps < 1.0 - ROUNDING:
        raise ValueError(
            f"{name} takes steps of {time_step:g}, the first of which ends beyond t={t:g}"
        )
    if steps > MOST_STEPS:
        raise ValueError(
            f"{name} has steps of {time_step:g}, of which t={t:g} is {steps:.1g}; at most "
            f"{MOST_STEPS:.0e} are taken"
        )
    return round(steps)


def _whole_steps(dynamics: Dynamics, t: float, learning_rates: Any) -> tuple[np.ndarray, list[int]]:
    """Return learning rates near the given ones, largest first, and their whole steps to t."""
    given = several("learning_rates", learning_rates, "several numbers or 'auto'")
    asked = [positive("learning_rates", rate) for rate in given]
    found: dict[int, float] = {}
    for rate in sorted(asked, reverse=True):
        time_step = dynamics.counterpart(rate)[1]
        steps = whole_steps("learning_rates", t, time_step)
        found[steps] = rate * (t / steps / time_step) ** (1.0 / dynamics.clock_power)
    if len(found) < 2:  # noqa: PLR2004
        raise ValueError(
            f"learning_rates {asked} make {list(found)} steps to t={t:g}; a slope needs two "
            "different numbers of steps"
        )
    return np.array([found[k] for k in sorted(found)]), sorted(found)


def _distances(
    dynamics: Dynamics,
    ends: Sequence[float],
    rates: np.ndarray,
    steps: Sequence[int],
    progress: bool,
) -> tuple[np.ndarray, int]:
    """Return ‖θ_discrete − θ_flow‖ after so many steps, at each learning rate, and what it cost."""
    found, flows, spent = [], {}, 0
    for end, rate, count in zip(ends, rates, steps, strict=True):
        moved = dynamics.at_learning_rate(float(rate))
        key = (moved, end)
        if key not in flows:
            path = integrate(
                moved, end, method="DOP853", rtol=RTOL, atol=ATOL, save=[end], progress=progress
            )
            flows[key] = uninterrupted(path).theta[-1]
            spent += all_units(path)
        optimizer, time_step = moved.counterpart(float(rate))
        run = descend(
            dynamics.objective,
            optimizer=optimizer,
            time_step=time_step,
            steps=count,
            save=2,
            progress=progress,
        )
        found.append(np.linalg.norm(uninterrupted(run).theta[-1] - flows[key]))
        spent += all_units(run)
    return np.array(found), spent


def _slope(rates: np.ndarray, distance: np.ndarray) -> float:
    return float(np.polyfit(np.log(rates), np.log(distance), 1)[0])


# Of the learning rate: Euler–Maruyama's own weak error, of order 1, is so much of what is measured.
STEP = 1.0 / 16.0


def weak_distances(
    dynamics: Any,
    t: float,
    rates: np.ndarray,
    steps: Sequence[int],
    paths: int,
    seed: int,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return |E J(θ_discrete(t)) − E J(θ_flow(t))| and its standard error, for each learning rate.

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
        descent = descend(
            moved.objective,
            float(rate),
            count,
            batch_size=dynamics.batch_size,
            seed=np.random.SeedSequence(seed).generate_state(paths).tolist(),
            save=[count * rate],
            keep="last",
            progress=progress,
        )
        flows, descents = path.loss[:, -1], descent.loss[:, -1]
        if not path.result.startswith("reached") or not np.all(np.isfinite(descents)):
            raise ValueError(
                f"at learning rate {rate:.3g} paths diverge before t = {t:g}, and have no mean; "
                "take smaller learning_rates, or a larger batch_size"
            )
        spent += all_units(path) + all_units(descent)
        found.append(abs(flows.mean() - descents.mean()))
        bars.append(np.sqrt((flows.var(ddof=1) + descents.var(ddof=1)) / paths))
    return np.array(found), np.array(bars), spent
