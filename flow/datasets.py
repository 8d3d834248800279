"""Real data that ships with scikit-learn."""

from typing import Any, TypeAlias

import numpy as np

from flow._core.checks import positive_integer
from flow._core.keywords import own_keywords

Examples: TypeAlias = tuple[np.ndarray, np.ndarray]


@own_keywords
def digits(examples: int = 1797, test: int | None = None) -> Examples | tuple[Examples, Examples]:
    """Return handwritten digits (UCI optical recognition, 1,797 images of 8 × 8 pixels).

    Parameters
    ----------
    examples
        The first so many images.
    test
        If given, also return the last so many images, which must not overlap the first:
        held-out data that stays the same whatever `examples` is.

    Returns
    -------
    (X, y) or ((X, y), (X_test, y_test))
        X (examples, 64), pixels in [0, 1]; y (examples, 10), one-hot. Rows are examples.

    Examples
    --------
    >>> X, y = digits(300)
    >>> X.shape, y.shape, X.max().item()
    ((300, 64), (300, 10), 1.0)
    >>> (X, y), (X_test, y_test) = digits(300, test=500)
    >>> len(X_test)
    500
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    X, y = digits.data / 16.0, np.eye(10)[digits.target]
    n = positive_integer("examples", examples)
    held_out = 0 if test is None else positive_integer("test", test)
    if n + held_out > len(X):
        raise ValueError(
            f"examples={n} and test={held_out} need {n + held_out} images; there are {len(X)}"
        )
    train = (X[:n], y[:n])
    return train if test is None else (train, (X[-held_out:], y[-held_out:]))
