"""A flow as a curve: the nearest point on it, and the rows by which a picture draws it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from tqdm import tqdm

from flow._core.checks import truth
from flow._core.keywords import own_keywords
from flow._core.progress import redraw_seconds
from flow._run.integrate import rerun
from flow._run.recorder import Recorder
from flow._run.save_times import last_of_equal
from flow._run.trajectory import Trajectory, check_keeps_theta, parts
from flow.dynamics import GradientFlow

# Of what a picture spans: how far a line may be off the curve that it stands for, half a pixel.
TOLERANCE = 1e-3
# An interval is cut into so many at most, so many times: to 1/65,536 of it.
PIECES, ROUNDS = 16, 4
# Rows in whose span the nearest ones are looked for, where there are more.
SPAN = 64
# Of the largest coefficient: what is as good as zero beside it.
TINY = 1e-300


class HermitePath:
    """The cubic Hermite curve through the rows of a flow, with its velocities ∓∇J.

    Where J is unknown, the slopes of a cubic spline stand for the velocities; a path of noise has
    none, and is its rows.
    """

    def __init__(self, source: Trajectory) -> None:
        last = last_of_equal(source.t)
        self.t, self.theta = source.t[last], source.theta[last]
        self.objective = None
        self.pieces = 0 if source.noisy else len(self.t) - 1
        if isinstance(source.dynamics, GradientFlow):
            self.objective = objective = source.dynamics.objective.counted()
            sign = 1.0 if source.dynamics.ascent else -1.0
            self.velocity = cache(
                lambda i: sign * objective.flat_value_and_gradient(self.theta[i])[1]
            )
        elif len(self.t) > 1:
            from scipy.interpolate import CubicSpline

            slopes = CubicSpline(self.t, self.theta)(self.t, 1)
            self.velocity = slopes.__getitem__

    @property
    def gradients(self) -> int:
        """Count the gradients that its velocities have taken."""
        return 0 if self.objective is None else self.objective.tally.gradients

    def distances(self, points: np.ndarray, *, progress: bool = False) -> np.ndarray:
        """Return the least distance of each point (points, n) from the path.

        In parts, whose memory is bounded; `progress` shows how many are done.
        """
        nearest, found = self._nearest(points), np.empty(len(points))
        bar = tqdm(total=len(points), desc="nearest points", disable=not progress, delay=1.0,
                   mininterval=redraw_seconds(), leave=False)  # fmt: skip
        with bar:
            for part in parts(*points.shape):
                i, some = nearest[part], points[part]
                squares = np.sum((self.theta[i] - some) ** 2, axis=1)
                for a in (i - 1, i):
                    if not np.any(inside := (a >= 0) & (a < self.pieces)):
                        continue
                    least = self._least_squares(a[inside], some[inside])
                    squares[inside] = np.minimum(squares[inside], least)
                found[part] = np.sqrt(squares)
                bar.update(len(some))
        return found

    def _nearest(self, points: np.ndarray) -> np.ndarray:
        """Return the row that is nearest to each point; among those that are as near, any.

        ‖a − b‖² = ‖a‖² + ‖b‖² − 2ab is a matrix product. Of many parameters and rows it is taken
        of the coordinates in the span of some of the rows, and of the distance from that: all rows
        are nearly in it.
        """
        rows, origin = self.theta, self.theta[0]
        if min(rows.shape) > SPAN:
            some = np.linspace(0, len(rows) - 1, SPAN).astype(int)
            Q = np.linalg.qr((rows[some] - origin).T)[0]
            rows, points = (_in_and_off(Q, x, origin) for x in (rows, points))
        else:
            rows, points = rows - origin, points - origin
        # ‖b‖² − 2ab, as ‖a‖² has no say.
        rows = np.column_stack([-2.0 * rows, np.einsum("ij,ij->i", rows, rows)])
        points = np.column_stack([points, np.ones(len(points))])
        some = parts(len(points), len(rows))
        return np.concatenate([(points[part] @ rows.T).argmin(axis=1) for part in some])

    def _least_squares(self, a: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return the least ‖c₀ + c₁s + c₂s² + c₃s³ − point‖² over s in (0, 1) on each piece a.

        A sextic in s, least where its derivative is zero.
        """
        h = (self.t[a + 1] - self.t[a])[:, None]
        start, rise = self.theta[a] - points, self.theta[a + 1] - self.theta[a]
        v, w = (h * self._velocities(rows) for rows in (a, a + 1))
        c = np.stack([start, v, 3 * rise - 2 * v - w, v + w - 2 * rise], axis=1)
        gram = c @ c.transpose(0, 2, 1)
        sextic = np.stack([np.trace(gram[:, :, ::-1], 3 - k, 1, 2) for k in range(7)], axis=1)
        s = _roots(sextic[:, 1:] * np.arange(1, 7))
        inside = (np.abs(s.imag) < 1e-9) & (s.real > 0) & (s.real < 1)  # noqa: PLR2004
        which, root = np.nonzero(inside)
        powers = s.real[which, root][:, None, None] ** np.arange(4.0)
        found = np.full(len(a), np.inf)
        np.minimum.at(found, which, np.sum((powers @ c[which])[:, 0] ** 2, axis=1))
        return found

    def _velocities(self, rows: np.ndarray) -> np.ndarray:
        """Return velocities at those rows, each evaluated once."""
        return np.reshape([self.velocity(i) for i in rows.tolist()], (len(rows), -1))


def _in_and_off(Q: np.ndarray, points: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return coordinates (points, k + 1): in the span of k orthonormal columns, and how far off."""
    found = np.empty((len(points), Q.shape[1] + 1))
    for part in parts(*points.shape):
        x = points[part] - origin
        found[part, :-1] = inside = x @ Q
        found[part, -1] = np.linalg.norm(x - inside @ Q.T, axis=1)
    return found


def _roots(coefficients: np.ndarray) -> np.ndarray:
    """Return the complex roots (polynomials, degree) of polynomials, whose constants come first."""
    degree = coefficients.shape[1] - 1
    found = np.full((len(coefficients), degree), np.nan, complex)
    full = coefficients[:, -1] != 0
    companion = np.tile(np.eye(degree, k=-1), (int(full.sum()), 1, 1))
    with np.errstate(over="ignore"):
        companion[:, :, -1] -= coefficients[full, :-1] / coefficients[full, -1:]
    # LAPACK takes no infinite numbers, which are of a last term that is as good as zero.
    full[full] = ok = np.all(np.isfinite(companion), axis=(1, 2))
    found[full] = np.linalg.eigvals(companion[ok, ::-1, ::-1])
    for i in np.flatnonzero(~full):
        c = coefficients[i]
        own = Polynomial(np.where(np.abs(c) > TINY * np.abs(c).max(), c, 0.0)).trim().roots()
        found[i, : len(own)] = own
    return found


@own_keywords
def refine(
    path: Trajectory, observe: Mapping[str, Any] | None = None, *, progress: bool = True
) -> Trajectory:
    """Return a gradient flow with so many rows that straight lines between them are its curve.

    In log J along t and in the space of θ, where they are off by less than a thousandth of what
    the flow spans. Rows come from dense output, by repeating the flow up to its last bend; a flow
    that ended early, and one whose repetition Ctrl-C ends, is returned as it is.

    Parameters
    ----------
    path
        A gradient flow of this process, with θ in every row.
    observe
        What it was observed by; the further rows are, too.
    progress
        Show the progress of the repetitions.

    Raises
    ------
    TypeError
        It is no run, or none of a gradient flow.
    ValueError
        It is an ensemble, has not kept θ, or was loaded and carries no objective.

    Examples
    --------
    >>> import flow
    >>> H = np.array([1.0, 100.0])
    >>> objective = flow.Objective(lambda x: 0.5 * (H * x**2).sum(), np.ones(2))
    >>> path = flow.refine(flow.integrate(objective, 4.0, save=3))
    >>> exact = 0.5 * (H * np.exp(-2 * H * 0.3)).sum()  # at t = 0.3, where no row is
    >>> bool(abs(np.exp(np.interp(0.3, path.t, np.log(path.loss))) / exact - 1) < 0.01)
    True
    """
    check_keeps_theta("refine", path)
    if path.config.get("dynamics") != "GradientFlow":
        raise TypeError(f"refine is of a gradient flow, got {path!r:.80}")
    if path.dynamics is None:
        raise ValueError(
            "this flow was loaded, or comes from another process, and carries no objective; "
            "integrate it here, flow.integrate(objective, t)"
        )
    truth("progress", progress)
    Recorder(path.dynamics.objective, observe)  # which refuses what it can't observe
    found, lasts = path, []
    try:
        for _ in range(ROUNDS if path.result.startswith("reached") else 0):
            pieces = _pieces(found)
            if np.all(pieces == 1):
                break
            lasts.append(found.t[1:][pieces > 1].max())
            found = _saved(found, _divided(found.t, pieces), lasts[-1], progress=progress)
        if lasts and observe:
            found = _saved(path, found.t, max(lasts), progress=progress, observe=observe)
    except KeyboardInterrupt:
        return path
    return found


def _pieces(path: Trajectory) -> np.ndarray:
    """Return into how many pieces to cut each interval between rows; 1 where that is not needed."""
    off = deviations(path) / TOLERANCE
    # A line's deviation falls as the square of the interval.
    return np.where(off > 1.0, np.clip(np.ceil(np.sqrt(off)), 2, PIECES), 1).astype(int)


def deviations(path: Trajectory) -> np.ndarray:
    """Return how far lines between rows may be off the flow (times − 1,), of what it spans.

    In θ, a curve of length a is within ½√(a² − c²) of a chord of length c, and ∫‖θ̇‖²dt = ΔJ
    bounds its length by a² ≤ Δt·ΔJ. In log J it is the cubic through both ends, whose slope is
    −‖∇J‖²/J, that the line is compared with; J falls, and is off by no more than its fall.
    """
    h, moved = np.diff(path.t), np.linalg.norm(np.diff(path.theta, axis=0), axis=1)
    fall = np.maximum(-np.diff(path.loss), 0.0)
    span = np.linalg.norm(path.theta - path.theta[0], axis=1).max()
    aside = 0.5 * np.sqrt(np.maximum(h * fall - moved**2, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        height, slope = path.loss, -(path.gradient_norm**2)
        if np.all(path.loss > 0):
            height, slope = np.log(height), slope / height
        rise = np.diff(height)
        before, after = (h * m - rise for m in (slope[:-1], slope[1:]))
        s = np.linspace(0.0, 1.0, 9)[:, None]
        off = np.abs(s * (1 - s) * ((1 - s) * before - s * after)).max(axis=0)
        off = np.minimum(off, np.abs(rise)) / np.ptp(height)
        off = np.maximum(off, aside / span)
    # What moves by less than the integrator's tolerance is its error, no curve.
    known = [path.config.get(name, 0.0) for name in ("rtol", "atol")]
    resolved = moved > known[0] * np.linalg.norm(path.theta[1:], axis=1) + known[1]
    return np.where(resolved & np.isfinite(off), off, 0.0)


def _divided(t: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Return the times with evenly spaced ones between them."""
    inner = [
        np.linspace(a, b, n, endpoint=False) for a, b, n in zip(t[:-1], t[1:], pieces, strict=True)
    ]
    return np.unique(np.concatenate([*inner, t[-1:]]))


def _saved(path: Trajectory, times: np.ndarray, last: float, **changes: Any) -> Trajectory:
    """Return the path with rows at the times up to `last` as well, where its repetition ends."""
    again = rerun(path, times[times <= last], stop=lambda at: at["t"] >= last, **changes)
    beyond = path.t > again.t[-1]

    def joined(rows: Any, more: Any) -> Any:
        if isinstance(rows, Mapping):
            return {k: joined(a, more[k]) for k, a in rows.items() if k in more}
        return np.concatenate([rows, more[beyond]])

    names = ("t", "theta", "loss", "gradient_norm", "state", "observed", "work")
    return replace(path, **{k: joined(getattr(again, k), getattr(path, k)) for k in names})
