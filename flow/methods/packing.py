"""Scalars of a carry in one array: every array that a compiled call takes costs microseconds."""

from typing import Any

import jax

# Structure, and of every leaf the type if it is a scalar.
Layout = tuple[Any, tuple[str | None, ...]]


def pack(xp: Any, tree: Any) -> tuple[Any, list, Layout]:
    """Return all scalars as float64 (k,), the other leaves, and how to put them together.

    >>> import numpy as np
    >>> numbers, arrays, layout = pack(np, {"on": np.True_, "x": np.ones(2), "y": np.float64(3)})
    >>> numbers, arrays
    (array([1., 3.]), [array([1., 1.])])
    >>> unpack(layout, numbers, arrays)
    {'on': np.True_, 'x': array([1., 1.]), 'y': np.float64(3.0)}
    """
    leaves, structure = jax.tree.flatten(tree)
    types = tuple(None if x.ndim else x.dtype.char for x in leaves)
    numbers = [x for x in leaves if not x.ndim]
    return xp.asarray(numbers, float), [x for x in leaves if x.ndim], (structure, types)


def unpack(layout: Layout, numbers: Any, arrays: list) -> Any:
    """Return the pytree that `pack` took apart."""
    structure, types = layout
    scalars, others = iter(numbers), iter(arrays)
    leaves = [next(others) if char is None else next(scalars).astype(char) for char in types]
    return jax.tree.unflatten(structure, leaves)
