"""Central differences of J along entries and directions, with a step that adapts to J."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flow._core.precision import double_precision

# Of fourth order: at this relative step the truncation error is of the size of the round-off,
# which a step near ε^{1/5} = 7e-4 would amplify ten times as much; it is cut to a quarter as
# long as two estimates differ.
STEP = 1e-2
_CUT, _ITERATIONS = 4.0, 8
_RELATIVE = 1e-9
# In units of round-off of J: what a difference over STEP, or over a quarter of it, may be off by.
_ROUND_OFF = 5e4
# At a kink the second difference falls as the step, elsewhere as its square. At the smaller of
# these round-off, 4ε|J| over the step, is about one floor.
_KINK_STEPS = (1e-3, 1e-4)
# Numbers that a batch of evaluations may hold.
_BATCH = 2**22


@dataclass(frozen=True)
class Differences:
    """Derivatives of J by s at s = 0, along k directions.

    Attributes
    ----------
    value
        (k,).
    resolved
        (k,); False at a kink, where estimates did not settle, or where J is not finite nearby.
    floor
        Absolute error that round-off of J may have made, the same for all.
    """

    value: Float[np.ndarray, "k"]
    resolved: Bool[np.ndarray, "k"]
    floor: float


def central_differences(
    along: Callable[[Array, Array, Any], Array],
    directions: Int[np.ndarray, "k"],
    size: int,
    resolution: float,
    data: Any = None,
) -> Differences:
    """Return d/ds of ``along(s, direction, data)`` at s = 0, by `scipy.differentiate.derivative`.

    (J(s) − J(−s))/2s and the same with s/4 combine to cancel the s² term of the error. s starts at
    0.01 and is cut until two such estimates agree to 1e-9, or to the floor: 5e4 unit round-offs
    of the largest |J| that was met, 1.1e-11·|J| in double precision.

    Parameters
    ----------
    along
        (s, direction, data) ↦ J, traced by JAX.
    directions
        Codes (k,) that `along` understands.
    size
        Numbers that one evaluation holds; bounds how many are evaluated together.
    resolution
        Unit round-off of J.
    data
        What J takes beside, a pytree of arrays.

    >>> import jax.numpy as jnp
    >>> found = central_differences(
    ...     lambda s, k, _: jnp.exp((1.0 + s) * k), np.array([1, 2]), size=1, resolution=2.2e-16)
    >>> found.value / np.exp([1, 2])  # k eᵏ
    array([1., 2.])
    """
    lanes = max(1, min(64, _BATCH // size))
    together = jax.jit(jax.vmap(along, in_axes=(0, 0, None)))

    def evaluate(s: Any, direction: np.ndarray) -> np.ndarray:
        s, direction = np.broadcast_arrays(np.asarray(s, np.float64), direction)
        flat, codes = s.ravel(), direction.ravel().astype(np.int64)
        short = -flat.size % lanes  # every batch has one shape, or each would be compiled
        flat, codes = np.pad(flat, (0, short)), np.pad(codes, (0, short), mode="edge")
        values = [
            np.asarray(together(flat[i : i + lanes], codes[i : i + lanes], data), np.float64)
            for i in range(0, flat.size, lanes)
        ]
        return np.concatenate(values)[: s.size].reshape(s.shape)

    from scipy.differentiate import derivative

    with double_precision(), np.errstate(all="ignore"):
        here, nearby = evaluate(0.0, directions), evaluate(STEP, directions)
        sizes = np.abs([here, nearby])
        floor = _ROUND_OFF * resolution * np.max(sizes, initial=0.0, where=np.isfinite(sizes))
        jump, small_jump = (
            np.abs(evaluate(s, directions) - 2 * here + evaluate(-s, directions)) / s
            for s in _KINK_STEPS
        )
        kink = (small_jump > 0.2 * jump) & (small_jump > 2 * floor)
        found = derivative(
            evaluate,
            np.zeros(directions.shape),
            args=(directions,),
            initial_step=STEP,
            step_factor=_CUT,
            order=4,
            maxiter=_ITERATIONS,
            tolerances={
                "rtol": max(_RELATIVE, _ROUND_OFF * resolution),
                "atol": max(floor, np.finfo(np.float64).tiny),
            },
        )
    return Differences(found.df, found.success & np.isfinite(found.df) & ~kink, float(floor))
