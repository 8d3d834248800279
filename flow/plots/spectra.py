"""Eigenvalues of the Hessian: each by its rank, and their density."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flow._core.checks import instance, mapping, numbers, positive
from flow._core.keywords import own_keywords
from flow.plots.style import axes, backdrop, colour, finish, in_lines, marker

if TYPE_CHECKING:
    from flow.spectrum import SpectralDensity


@own_keywords
def spectrum(eigenvalues: Mapping[str, Any], ax: Any = None) -> Any:
    """Return eigenvalues by rank, the largest first; negative ones by their size, hollow.

    Parameters
    ----------
    eigenvalues
        Name -> eigenvalues (k,), of `flow.top_eigenvalues` for instance, in any order.

    Examples
    --------
    >>> import flow, numpy as np
    >>> H = np.array([1.0, 4.0, -2.0])
    >>> saddle = flow.Objective(lambda x: 0.5 * (H * x**2).sum(), np.ones(3))
    >>> ax = flow.plots.spectrum({"at θ₀": flow.top_eigenvalues(saddle, saddle.params, k=3)})
    >>> ax.get_lines()[0].get_ydata().round(6)
    array([4., 1., 2.])
    """
    from matplotlib.ticker import MaxNLocator

    if not isinstance(eigenvalues, Mapping):
        raise TypeError(f"eigenvalues must be {{name: eigenvalues}}, got {eigenvalues!r:.80}")
    eigenvalues = {
        name: numbers(f"eigenvalues[{name!r}]", values)
        for name, values in mapping("eigenvalues", eigenvalues, "{name: eigenvalues}").items()
    }
    given, ax = ax, axes(ax)
    for i, (name, values) in enumerate(eigenvalues.items()):
        ordered = -np.sort(-np.ravel(np.asarray(values, float)))
        rank = np.arange(1, len(ordered) + 1)
        style = {"color": colour(i), "marker": marker(i), "markersize": 4}
        label = in_lines(name)
        ax.plot(rank, np.abs(ordered), linewidth=0.6, label=label, **style)
        below = ordered < 0
        hollow = style | {"markerfacecolor": backdrop(ax), "linestyle": "none"}
        ax.plot(rank[below], -ordered[below], **hollow)
    # Zeros are not on a logarithmic axis, and NaN on none.
    if any(np.any(np.asarray(v, float) != 0) for v in eigenvalues.values()):
        ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ylabel = r"eigenvalue of $\nabla^2 J$ (hollow: negative)"
    return finish(ax, given, xlabel="rank", ylabel=ylabel)


@own_keywords
def spectral_density(density: "SpectralDensity", width: float | None = None, ax: Any = None) -> Any:
    """Return the density of the Hessian's eigenvalues; `width` as in `SpectralDensity.density`."""
    from flow.spectrum import SpectralDensity

    instance("density", density, SpectralDensity, "what flow.spectral_density returns")
    width = None if width is None else positive("width", width)
    given, ax = ax, axes(ax)
    low, high = density.nodes[0], density.nodes[-1]
    # To the foot of the outermost: five of their widths.
    margin = max(0.05 * (high - low) or 0.05 * abs(high) or 1.0, 5.0 * (width or 0.0))
    grid = np.linspace(low - margin, high + margin, 2000)
    values = density.density(grid, width)
    ax.semilogy(grid, values, color=colour(0))
    # A normal distribution falls without end; a hundredth of the least node's peak is its foot.
    alive = density.weights > 1e-12  # noqa: PLR2004
    foot = density.density(density.nodes[alive], width).min() / 100.0
    ax.set_ylim(foot, 2.0 * values.max())
    return finish(ax, given, xlabel=r"eigenvalue of $\nabla^2 J$", ylabel="density")
