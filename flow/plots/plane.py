"""Two-dimensional pictures of θ-space: the runs in one plane, and how far off it they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from flow._core.checks import numbers, several
from flow._core.keywords import own_keywords
from flow._core.progress import redraw_seconds
from flow._run.trajectory import Trajectory, told_apart
from flow.plots.moving import moving
from flow.plots.parameters import check_alike, entry_name, leaves
from flow.plots.style import axes, backdrop, finish, ink, look, readable

# A residual of so small a share of the distance from the origin is none.
ROUNDING = 1e-12
# Up to so many points, or parameters, all principal components are found, and not two alone.
WHOLE = 512


@dataclass(frozen=True)
class Plane:
    """The plane origin + span(directions).

    Attributes
    ----------
    origin
        θ₀ (n,), but of two parameters 0.
    directions
        Linearly independent (2, n); (1, n) where θ is a single number.
    names
        Of the axes, with the share of the runs' variance about θ₀ that each captures.
    start
        Coordinates of θ₀.
    """

    origin: np.ndarray
    directions: np.ndarray
    names: tuple[str, str]
    start: tuple[float, float] = (0.0, 0.0)

    def coordinates(self, theta: np.ndarray) -> np.ndarray:
        """Return the coordinates in the plane (points, 2) of the points (points, n)."""
        found = (theta - self.origin) @ np.linalg.pinv(self.directions)
        return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))

    def residual(self, theta: np.ndarray) -> np.ndarray:
        """Return distance of the points (points, n) from the plane (points,)."""
        inside = self.coordinates(theta)[:, : len(self.directions)] @ self.directions
        off = np.linalg.norm(theta - self.origin - inside, axis=1)
        # What rounding left of points in the plane is no distance.
        scale = np.linalg.norm(theta - self.origin, axis=1)
        return np.where(off > ROUNDING * scale, off, 0.0 * off)


def start_of(runs: Sequence[Trajectory]) -> np.ndarray:
    """Return θ₀, where a run has saved it; else where the first run begins."""
    return next((run.theta[0] for run in runs if run.t[0] == 0), runs[0].theta[0])


def principal_plane(runs: Sequence[Trajectory]) -> Plane:
    """Return the plane of the first two principal components of all points of all runs about θ₀.

    θ₀ is the one point that all runs share; each run is given the same weight. Two parameters are
    themselves the plane's coordinates.
    """
    origin = start_of(runs)
    if origin.size == 2:  # noqa: PLR2004
        names = tuple(readable(entry_name(runs[0], i)) for i in range(2))
        return Plane(np.zeros(2), np.eye(2), names, tuple(origin))
    finite = [run.theta[np.isfinite(run.theta.sum(axis=1))] for run in runs]
    moved = np.concatenate(finite) - origin
    moved /= np.sqrt(np.repeat(*np.tile([len(theta) for theta in finite], (2, 1))))[:, None]
    singular, rows = _two_components(moved)
    if len(rows) < min(2, origin.size):  # one point has no components
        rows = np.eye(2, origin.size)
    # A principal direction has no sign: the reference is to run to the right and up.
    ahead = (finite[0][-1] - origin) @ rows.T
    rows = rows * np.where(ahead < 0, -1.0, 1.0)[:, None]
    shares = np.zeros(2)
    variance = singular**2 / max(np.vdot(moved, moved), np.finfo(float).tiny)
    shares[: len(variance)] = 100 * variance
    names = tuple(f"PC {k + 1} ({share:.1f} % of variance)" for k, share in enumerate(shares))
    return Plane(origin, rows, names)


def _two_components(moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two singular values of (points, n) and their directions (2, n).

    Of a large matrix by its products with vectors, which a bar counts after a second.
    """
    if min(moved.shape) <= WHOLE:
        _, singular, rows = np.linalg.svd(moved, full_matrices=False)
        return singular[:2], rows[:2]
    from scipy.sparse.linalg import LinearOperator, svds

    later = {"delay": 1.0, "mininterval": redraw_seconds(), "leave": False}
    with tqdm(desc="principal components", unit=" products", **later) as bar:

        def product(matrix: np.ndarray, v: np.ndarray) -> np.ndarray:
            bar.update()
            return matrix @ v

        operator = LinearOperator(
            moved.shape, partial(product, moved), partial(product, moved.T), dtype=float
        )
        start = np.ones(min(moved.shape))
        _, singular, rows = svds(operator, 2, v0=start)
    order = np.argsort(singular)[::-1]
    return singular[order], rows[order]


def given_plane(runs: Sequence[Trajectory], directions: Any, *, filter_normalised: bool) -> Plane:
    """Return the plane of two given directions, pytrees like the parameters or vectors (n,).

    Raises
    ------
    ValueError
        They are not two, not of θ's size, not finite, or one is a multiple of the other.
    """
    run, origin = runs[0], start_of(runs)
    directions = several("directions", directions, "two, each like the parameters")
    if len(directions) != 2:  # noqa: PLR2004
        raise ValueError(f"directions must be two, got {len(directions)}")
    flat = [
        np.concatenate([np.ravel(numbers("directions", x)) for x in jax.tree.leaves(d)])
        for d in directions
    ]
    for d in flat:
        if d.size != origin.size or not np.all(np.isfinite(d)):
            raise ValueError(
                f"a direction must have {origin.size} finite entries, as θ has, got {d.size} "
                f"of which {np.sum(~np.isfinite(d))} are not finite"
            )
    rows = np.array([_like_filters(run, d) for d in flat] if filter_normalised else flat)
    if np.linalg.matrix_rank(rows) < 2:  # noqa: PLR2004
        raise ValueError(
            "directions span no plane: one is zero or a multiple of the other"
            + (" once they are filter-normalised" if filter_normalised else "")
        )
    moved = np.concatenate([(r.theta - origin) / np.sqrt(len(r.theta)) for r in runs])
    whole = max(np.nansum(moved**2), np.finfo(float).tiny)
    shares = [np.nansum((moved @ d) ** 2) / (d @ d) / whole * 100 for d in rows]
    names = tuple(
        f"direction {k + 1} ({share:.2g} % of variance)" for k, share in enumerate(shares)
    )
    return Plane(origin, rows, names)


def plane_of(runs: Sequence[Trajectory], directions: Any, *, filter_normalised: bool) -> Plane:
    """Return the principal plane, or that of the given directions."""
    if directions is not None:
        return given_plane(runs, directions, filter_normalised=filter_normalised)
    if filter_normalised:
        raise ValueError("filter_normalised=True is for given directions=; principal ones are as "
                         "the runs are")  # fmt: skip
    return principal_plane(runs)


def _like_filters(run: Trajectory, direction: np.ndarray) -> np.ndarray:
    """Return the direction with each filter as long as θ₀'s, and zero in biases.

    A filter is what a leaf of at least two axes has along its first. Li et al. 2018, section 4.
    """
    scaled = np.zeros_like(direction)
    for _, part, leaf in leaves(run):
        if np.ndim(leaf) >= 2:  # noqa: PLR2004
            own = direction[part].reshape(np.shape(leaf)[0], -1)
            length = np.linalg.norm(own, axis=1, keepdims=True)
            theirs = np.linalg.norm(np.reshape(leaf, own.shape), axis=1, keepdims=True)
            with np.errstate(invalid="ignore", divide="ignore"):
                scaled[part] = np.where(length > 0, own * theirs / length, 0.0).ravel()
    return scaled


@own_keywords
def plane(*runs: Trajectory, ax: Any = None) -> Any:
    """Draw the runs in the plane of the two principal components of all their points about θ₀.

    Each run is given the same weight. The axes carry the share of the variance they capture; of
    two parameters they are the parameters. Of runs with ``keep="projection"`` it is the plane of
    their projections, in which distances are kept to a few percent.
    """
    runs = [seen(run) for run in runs]
    check_alike("flow.plots.plane", runs)
    given, ax = ax, axes(ax)
    found = principal_plane(runs)
    for i, run in enumerate(told_apart(runs)):
        x, y = found.coordinates(run.theta).T
        (line,) = ax.plot(x, y, **look(ax, i, run, len(x)))
        moving(line, run.t)
    mark_start(ax, found, runs)
    return finish(ax, given, xlabel=found.names[0], ylabel=found.names[1])


def seen(run: Trajectory) -> Trajectory:
    """Return the run, or its projection in the place of the θ that it has not kept."""
    if getattr(run, "keeps_theta", True) or "projection" not in run.observed:
        return run
    return replace(run, theta=run.observed["projection"])


def mark_start(ax: Any, plane: Plane, runs: Sequence[Trajectory]) -> None:
    """Draw a star at θ₀, if it is known."""
    from matplotlib.patheffects import withStroke

    if all(run.t[0] > 0 for run in runs):
        return
    shade = {"color": ink(ax), "zorder": 5}
    behind = backdrop(ax)  # of lines and contours, as an outline
    ax.plot(*plane.start, marker="*", markersize=12, markeredgecolor=behind, markeredgewidth=0.6,
            linestyle="none", **shade)  # fmt: skip
    outline = {"path_effects": [withStroke(linewidth=2, foreground=behind)]}
    ax.annotate("θ₀", plane.start, textcoords="offset points", xytext=(5, 6), **shade, **outline)
