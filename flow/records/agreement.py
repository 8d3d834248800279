"""Agreement of the numbers of two tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Agreement:
    """The agreement of two tables.

    Attributes
    ----------
    numbers
        How many were compared.
    largest
        Largest relative difference; 0 where they are the same.
    lines
        What differs beyond the tolerance, worst first.
    """

    numbers: int
    largest: float
    lines: tuple[str, ...]


def agreement(
    old: "pandas.DataFrame", new: "pandas.DataFrame", skip: Sequence[str], rtol: float
) -> Agreement:
    """Compare two tables column by column, timings left out.

    A number's difference is relative to the larger of the two; of numbers 1e-12 times smaller than
    the largest of their column it is relative to that, as they are what rounding left.

    >>> import pandas as pd
    >>> old, new = (pd.DataFrame({"run": ["a", "b"], "loss": [1.0, x]}) for x in (2.0, 2.2))
    >>> agreement(old, new, skip=(), rtol=1e-6).lines
    ('loss, row 2 (b): 2 → 2.2, 9.1e-02 of it',)
    """
    missing = [f"column {c!r} is in one only" for c in {*old} ^ {*new} if c not in skip]
    if len(old) != len(new):
        return Agreement(0, np.inf, (*missing, f"{len(old)} rows → {len(new)}"))
    found: list[tuple[float, str]] = [(np.inf, line) for line in sorted(missing)]
    count, largest = 0, 0.0
    names = old.iloc[:, 0].astype(str) if len(old.columns) else ()
    for column in [c for c in old if c in new and c not in skip]:
        a, b = old[column].to_numpy(), new[column].to_numpy()
        if not all(np.issubdtype(x.dtype, np.number) for x in (a, b)):
            off = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if str(x) != str(y)]
            found += [(np.inf, f"{column}, row {i + 1}: {a[i]!r} → {b[i]!r}") for i in off]
            continue
        a, b = a.astype(float), b.astype(float)
        gaps = _relative(a, b)
        count += len(a)
        largest = max(largest, float(gaps.max(initial=0.0)))
        found += [
            (gap, f"{column}, row {i + 1} ({names[i]}): {a[i]:.6g} → {b[i]:.6g}, {gap:.1e} of it")
            for i, gap in enumerate(gaps)
            if gap > rtol
        ]
    found.sort(key=lambda item: -item[0])
    return Agreement(count, largest, tuple(line for _, line in found))


def _relative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.concatenate([a, b])
    floor = 1e-12 * np.abs(finite[np.isfinite(finite)]).max(initial=0.0)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), floor)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(same, 0.0, np.nan_to_num(np.abs(a - b) / scale, nan=np.inf))
