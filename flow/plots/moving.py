"""Times of the points that artists draw, by which animations cut them."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

_TIMES: WeakKeyDictionary = WeakKeyDictionary()


def moving(artist: Any, t: np.ndarray) -> Any:
    """Note the times (points,) of an artist's points."""
    _TIMES[artist] = np.asarray(t)
    return artist


def times_of(artist: Any) -> np.ndarray | None:
    """Return the times of an artist's points; None if it stands still."""
    return _TIMES.get(artist)
