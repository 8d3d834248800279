"""The Lagrangian's action along a motion, and that it is stationary there."""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

from flow._core.checks import positive_integer, random_seed, truth
from flow._core.display import Shown
from flow._core.keywords import own_keywords
from flow._run.integrate import rerun, reruns
from flow._run.trajectory import Trajectory, check_single
from flow.dynamics import HeavyBall

# Gauss points in a panel; there is a panel for each step of the run, which resolved the motion.
POINTS = 8
LARGEST_EXPONENT = 600.0


@dataclass(frozen=True)
class Action(Shown):
    """The action of a run, and its first variation.

    Attributes
    ----------
    value
        S = ∫ e^{γt}(½‖θ̇‖² − J) dt.
    first_variation
        δS[φⱼ] for each perturbation φⱼ (perturbations,); zero along an exact motion.
    scale
        ∫ e^{γt}(|⟨θ̇, φ̇ⱼ⟩| + |⟨∇J, φⱼ⟩|) dt, what cancels in δS (perturbations,).
    units
        What it took in gradients, to repeat the run and along it.
    """

    value: float
    first_variation: np.ndarray
    scale: np.ndarray
    units: int = 0

    @property
    def stationarity(self) -> float:
        """Return the largest |δS|/scale: how far the path is from being stationary."""
        return float(np.max(np.abs(self.first_variation) / self.scale))

    def __str__(self) -> str:
        """Return both in a line."""
        return (
            f"action S = {self.value:.6g}, |δS| ≤ {self.stationarity:.1e} of its terms along "
            f"{len(self.scale)} perturbations"
        )


@own_keywords
def action(
    path: Trajectory, perturbations: int = 8, seed: int = 0, *, progress: bool = True
) -> Action:
    """Return the action S = ∫ e^{γt}(½‖θ̇‖² − J(θ)) dt of a heavy-ball run and its variation δS.

    The motion θ̈ + γθ̇ + ∇J = 0 makes S stationary among all paths with the same ends:
    δS[φ] = ∫ e^{γt}(⟨θ̇, φ̇⟩ − ⟨∇J, φ⟩) dt = 0 for every φ with φ(0) = φ(T) = 0 (Bateman 1931 has
    the factor e^{γt}). Perturbations are φⱼ(t) = sin(jπt/T)·u, u a random unit vector.

    Parameters
    ----------
    path
        A run of `flow.HeavyBall`, computed in this process.
    perturbations
        How many, j = 1, 2, ...
    seed
        Of the directions u.
    progress
        Show progress of the run, which is repeated at the points of Gauss's rule.

    Raises
    ------
    ValueError
        The path is of another dynamics, or loaded, or an ensemble; or e^{γT} overflows.

    Examples
    --------
    >>> import flow, numpy as np
    >>> objective = flow.Objective(lambda x: 0.5 * x @ x, np.array([1.0]))
    >>> path = flow.integrate(flow.HeavyBall(objective, friction=0.0), t=1.0, rtol=1e-10)
    >>> S = flow.action(path)
    >>> bool(abs(S.value + np.sin(2.0) / 4) < 1e-9), S.stationarity < 1e-8  # −¼ sin 2T
    (True, True)
    """
    check_single("flow.action", path)
    truth("progress", progress)
    seed = random_seed(seed)
    if not isinstance(path.dynamics, HeavyBall):
        raise ValueError(  # noqa: TRY004
            f"the action is of flow.HeavyBall's motion, computed in this process; got "
            f"{path.label!r}{'' if path.dynamics else ', loaded from a file'}"
        )
    k = np.arange(1, positive_integer("perturbations", perturbations) + 1)[:, None]
    friction, end = path.dynamics.friction, path.stats["t_end"]
    if friction * end > LARGEST_EXPONENT:
        raise ValueError(
            f"e^(γt) overflows at friction {friction:g} and t = {end:g}; integrate to "
            f"t < {LARGEST_EXPONENT / friction:.3g}"
        )
    t, w = _gauss(end, path.stats["steps"])
    with reruns() as spent:
        run = rerun(path, t, progress=progress)
    w = w * np.exp(friction * t)
    velocity = run.state["velocity"]
    objective = path.dynamics.objective
    gradient = np.array([objective.flat_value_and_gradient(theta)[1] for theta in run.theta])
    u = np.random.default_rng(seed).standard_normal((len(k), objective.size))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    frequency = k * np.pi / end
    inertia = (u @ velocity.T) * frequency * np.cos(frequency * t)
    force = (u @ gradient.T) * np.sin(frequency * t)
    kinetic = 0.5 * (velocity**2).sum(axis=1)
    return Action(
        float(w @ (kinetic - run.loss)),
        (inertia - force) @ w,
        (np.abs(inertia) + np.abs(force)) @ w,
        sum(spent) + len(gradient),
    )


def _gauss(end: float, panels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points and weights of the composite rule on [0, end]."""
    nodes, weights = legendre.leggauss(POINTS)
    h = end / panels
    starts = h * np.arange(panels)[:, None]
    return (starts + h * (nodes + 1.0) / 2.0).ravel(), np.tile(h * weights / 2.0, panels)
