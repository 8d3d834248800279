"""`order_study`: the rate at which a dynamics and its discrete counterpart approach each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flow.checks import positive
from flow.descent import descend
from flow.dynamics import Dynamics, GradientFlow
from flow.integration import integrate
from flow.objective import Objective
from flow.spectrum import sharpness

if TYPE_CHECKING:
    import pandas

# The flow is integrated so tightly that its own error is no part of what is measured.
RTOL, ATOL = 1e-11, 1e-13
# Of the stability limit 2/λ_max: well below it, near it, and beyond.
AUTO_SHARES = (0.1, 0.5, 0.9, 1.1)
# An order shows where η is small: halvings of a tenth of the limit.
AUTO_LADDER = tuple(0.1 * 2.0**-k for k in range(5))


@dataclass(frozen=True)
class OrderStudy:
    """Distances at a fixed time for several learning rates, and the slope in log–log.

    Attributes
    ----------
    learning_rates
        η, largest first, each a whole fraction of t.
    distance
        ‖θ_discrete(t) − θ_flow(t)‖ for each.
    slope
        Of log distance against log η, by least squares.
    t
        The fixed time, learning rate × steps.
    abscissa
        What the slope is against.
    """

    learning_rates: np.ndarray
    distance: np.ndarray
    slope: float
    t: float
    abscissa: str = "learning rate η"

    def table(self) -> "pandas.DataFrame":
        """One row a learning rate; `slope` is the local one, from the row above."""
        import pandas

        ratios = np.diff(np.log(self.distance)) / np.diff(np.log(self.learning_rates))
        return pandas.DataFrame(
            {"distance": self.distance, "slope": np.concatenate([[np.nan], ratios])},
            index=pandas.Index(self.learning_rates, name=self.abscissa),
        )

    def plot(self, ax: Any = None) -> Any:
        """Distance against learning rate in log–log, with the fitted line."""
        from flow import plots

        return plots.order(self, ax)


def auto_learning_rates(objective: Objective, shares: Sequence[float] = AUTO_SHARES) -> np.ndarray:
    """Learning rates as shares of 2/λ_max(θ₀), the stability limit at the initial parameters.

    The default {0.1, 0.5, 0.9, 1.1} is well below the limit, near it, and beyond.

    Raises
    ------
    ValueError
        λ_max(θ₀) is not positive, so that there is no limit.
    """
    top = sharpness(objective, objective.params)
    if top <= 0:
        raise ValueError(
            f"the sharpness at the initial parameters is {top:.3g}: there is no stability limit "
            "2/λ_max to choose learning rates by; give learning_rates yourself"
        )
    return np.array(shares) * 2.0 / top


def order_study(
    dynamics: Dynamics | Objective,
    t: float,
    learning_rates: Sequence[float] | str = "auto",
    *,
    progress: bool = True,
) -> OrderStudy:
    """Measure the order at which a dynamics models its discrete counterpart.

    At a fixed time t the distance falls as a power of the learning rate: 1 for gradient descent
    and gradient flow, as Euler's method is of order 1.

    Parameters
    ----------
    dynamics
        A dynamics with a counterpart; an objective is short for its gradient flow.
    t
        Where distances are taken, learning rate × steps.
    learning_rates
        At least two; each is rounded so that t is a whole number of steps. "auto" halves a tenth
        of 2/λ_max(θ₀) four times.
    progress
        Show progress.

    Examples
    --------
    >>> import flow
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> study = order_study(objective, t=1.0, learning_rates=[0.02, 0.01, 0.005])
    >>> round(study.slope, 2)
    1.0
    """
    if isinstance(dynamics, Objective):
        dynamics = GradientFlow(dynamics)
    t = positive("t", t)
    if isinstance(learning_rates, str):
        if learning_rates != "auto":
            raise ValueError(f"learning_rates must be numbers or 'auto', got {learning_rates!r}")
        learning_rates = auto_learning_rates(dynamics.objective, AUTO_LADDER)
    asked = [positive("learning_rates", rate) for rate in learning_rates]
    steps = sorted({max(1, round(t / rate)) for rate in asked})
    if len(steps) < 2:  # noqa: PLR2004
        raise ValueError(
            f"learning_rates {asked} make {steps} steps to t={t:g}; a slope needs two different "
            "numbers of steps"
        )
    path = integrate(dynamics, t, rtol=RTOL, atol=ATOL, save=[t], progress=progress)
    rates = t / np.array(steps)
    distance = []
    for rate, count in zip(rates, steps, strict=True):
        optimizer, time_step = dynamics.counterpart(float(rate))
        run = descend(
            dynamics.objective,
            optimizer=optimizer,
            time_step=time_step,
            steps=count,
            save=2,
            progress=progress,
        )
        distance.append(np.linalg.norm(run.theta[-1] - path.theta[-1]))
    slope = np.polyfit(np.log(rates), np.log(distance), 1)[0]
    return OrderStudy(rates, np.array(distance), float(slope), t)
