"""A check that a run starts where the one of a folder did."""

from pathlib import Path
from typing import Any

import numpy as np

from flow._core.user_warnings import warn
from flow._run.checkpoint.folder import CheckpointWarning

# J and the slope at θ₀ are the same on another machine but for so many units of roundoff, and in
# single precision for no more than this.
_SAME, _MOST = 1e4, 2e-5


def check_start(
    folder: Path, facts: dict[str, Any], start: dict[str, Any], resolution: float
) -> None:
    """Refuse a run that does not start where the kept one did; warn if only the bits differ."""
    kept = facts["start"]
    if facts["resolution"] != resolution:
        raise ValueError(
            f"{folder} holds a run computed to {facts['resolution']:.1e}, and the given dynamics "
            f"is to {resolution:.1e}; give the dtype= that it began with"
        )
    what = {
        "initial": "initial state",
        "slope": "right-hand side at t = 0",
        "loss": "initial loss",
        "gradient_norm": "initial gradient norm",
    }
    for name, meaning in what.items():
        mine, other = np.asarray(start[name]), np.asarray(kept[name])
        if mine.shape != other.shape:
            raise ValueError(
                f"{folder} holds a run with {other.size} parameters or state variables, and the "
                f"given dynamics has {mine.size}"
            )
        if np.array_equal(mine, other):
            continue
        apart = np.linalg.norm(mine - other) / max(np.linalg.norm(other), np.finfo(float).tiny)
        if name == "initial" or not apart <= min(_SAME * resolution, _MOST):
            raise ValueError(
                f"{folder} holds another run: its {meaning} differs, by {apart:.1e} of itself; "
                "give the dynamics, data and parameters that it started with"
            )
        warn(
            f"the {meaning} differs from that in {folder} by rounding ({apart:.1e}): the run goes "
            "on, but not to the bit as where it began; machine or versions are others",
            CheckpointWarning,
        )
