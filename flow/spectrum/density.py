"""The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flow._core.checks import numbers, positive, positive_integer, random_seed
from flow._core.display import Shown
from flow._core.keywords import own_keywords
from flow._core.precision import double_precision
from flow._core.pytrees import PyTree
from flow._problem.objective import Objective
from flow.spectrum.eigenpairs import DENSE_SIZE
from flow.spectrum.hessian import hessian, traced_product

# Overlap of two Lanczos vectors, which is rounding unless the Krylov space has ended.
ORTHOGONAL = 1e-6


@dataclass(frozen=True)
class SpectralDensity(Shown):
    """The share of eigenvalues at each λ: φ = Σ wᵢ δ(λ − λᵢ), Σ wᵢ = 1.

    Parameters
    ----------
    nodes
        λᵢ, ascending, (nodes,). Where the Hessian was dense they are its eigenvalues.
    weights
        wᵢ (nodes,).
    products
        Hessian-vector products that were spent.
    """

    nodes: Float[np.ndarray, "nodes"]
    weights: Float[np.ndarray, "nodes"]
    products: int

    def density(self, eigenvalues: Any, width: float | None = None) -> np.ndarray:
        """Return φ at `eigenvalues`, each node drawn as a normal distribution; its integral is 1.

        `width` is its standard deviation, a hundredth of the spectrum's range unless given.
        """
        spread = float(np.ptp(self.nodes)) or abs(float(self.nodes[0])) or 1.0
        width = spread / 100.0 if width is None else positive("width", width)
        eigenvalues = numbers("eigenvalues", eigenvalues)
        with np.errstate(over="ignore"):  # of a width near zero the nodes are infinite peaks
            z = (eigenvalues[..., None] - self.nodes) / width
            return np.exp(-0.5 * z**2) @ self.weights / (width * np.sqrt(2.0 * np.pi))

    def quantile(self, share: Any) -> np.ndarray:
        """Return the λ below which lies a share of the eigenvalues, between nodes by interpolation.

        >>> SpectralDensity(np.array([1.0, 2.0, 3.0]), np.full(3, 1 / 3), 0).quantile(0.5)
        array(2.)
        """
        share = numbers("share", share)
        if not np.all((share >= 0) & (share <= 1)):
            raise ValueError(f"share must lie in [0, 1], got {share}")
        middle = np.cumsum(self.weights) - 0.5 * self.weights
        return np.asarray(np.interp(share, middle, self.nodes))


@own_keywords
def spectral_density(
    objective: Objective,
    params: PyTree,
    lanczos_steps: int = 80,
    probes: int = 10,
    seed: int = 0,
) -> SpectralDensity:
    """Return the density of the eigenvalues of ∇²J at `params`.

    Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017; Ghorbani, Krishnan and Xiao 2019,
    arXiv 1901.10159), matfree's: of a random unit vector v, m steps of Lanczos' method give the
    Gauss quadrature of vᵀf(∇²J)v, whose mean over v is tr f(∇²J)/n. Up to 300 parameters from the
    dense Hessian, exactly.

    Parameters
    ----------
    objective, params
        Where to take the Hessian.
    lanczos_steps
        m, at most n: products for each v, and vectors of memory.
    probes
        How many v. The error falls as 1/√(n·probes).
    seed
        Of the v.

    Examples
    --------
    >>> import flow
    >>> objective = flow.MLP([64, 10], activation="identity").objective(*flow.datasets.digits(300))
    >>> found = flow.spectral_density(objective, objective.params)
    >>> bool(found.quantile(1.0) < flow.sharpness(objective, objective.params) * (1 + 1e-9))
    True
    """
    m, probes = positive_integer("lanczos_steps", lanczos_steps), positive_integer("probes", probes)
    H, seed = hessian(objective, params), random_seed(seed)
    if H.size <= DENSE_SIZE:
        values = np.linalg.eigvalsh(H.dense())
        return SpectralDensity(values, np.full(H.size, 1.0 / H.size), H.size)
    m = min(m, H.size)
    before = objective.tally.hvps
    objective.tally.hvps += m * probes
    with double_precision(), objective.reading():
        build = partial(_build, objective, m)
        first, *keys = jax.random.split(jax.random.key(seed), probes)
        with objective.compiling(("density", m), "spectral density"):
            solve = objective.compiled(("density", m), build)
            found = [solve(H.theta, first, objective.data)]
        found += [solve(H.theta, key, objective.data) for key in keys]
        nodes, weights = (
            np.concatenate([np.asarray(x) for x in part]) for part in zip(*found, strict=True)
        )
    if not np.all(np.isfinite(nodes) & np.isfinite(weights)):
        raise ValueError("the Hessian has entries that are not finite; there is no density")
    order = np.argsort(nodes)
    return SpectralDensity(nodes[order], weights[order] / probes, objective.tally.hvps - before)


def _build(objective: Objective, m: int) -> Callable[..., Any]:
    from matfree import decomp

    tridiagonal = decomp.tridiag_sym(m, reortho="full", custom_vjp=False)

    def solve(theta: Any, key: Any, data: PyTree) -> tuple[Any, Any]:
        product = traced_product(objective, theta, data)
        v = jax.random.normal(key, theta.shape)
        found = tridiagonal(product, v / jnp.linalg.norm(v))
        # Where Krylov's space ends early, matfree goes on with rounding divided by its norm, which
        # is orthogonal to nothing: what follows is left out.
        Q = found.Q_tall  # in rows
        overlap = jnp.triu(jnp.abs(Q @ Q.T - jnp.eye(m)))
        rest = jnp.cumsum(~(overlap.max(axis=0) < ORTHOGONAL)) > 0
        T = jnp.where(rest[:, None] | rest, 0.0, found.J_small)
        nodes, Y = jnp.linalg.eigh((T + T.T) / 2.0)
        return nodes, Y[0] ** 2

    return jax.jit(solve)
