"""The structure of a pytree of built-in containers as JSON, so that a file can restore it."""

from math import prod
from typing import Any

import numpy as np

from flow.pytrees import PyTree


def describe(tree: PyTree) -> Any:
    """JSON of dicts, lists, tuples and array shapes; None where other containers are met.

    >>> describe({"W": np.zeros((2, 3)), "b": [np.zeros(2)]})
    {'dict': {'W': {'shape': [2, 3]}, 'b': {'list': [{'shape': [2]}]}}}
    """
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        inner = {key: describe(tree[key]) for key in sorted(tree)}
        return None if None in inner.values() else {"dict": inner}
    if type(tree) in (list, tuple):
        inner = [describe(item) for item in tree]
        return None if None in inner else {type(tree).__name__: inner}
    if hasattr(tree, "dtype") or isinstance(tree, float):
        return {"shape": list(np.shape(tree))}
    return None


def size(structure: Any) -> int:
    """Entries of a pytree of that structure.

    >>> size({"dict": {"W": {"shape": [2, 3]}, "b": {"list": [{"shape": []}]}}})
    7

    Raises
    ------
    ValueError
        It is none.
    """
    kind, inner = next(iter(structure.items())) if _one(structure) else (None, None)
    if kind == "shape" and isinstance(inner, list):
        if all(type(length) is int and length >= 0 for length in inner):
            return prod(inner)
    elif kind == "dict" and isinstance(inner, dict):
        return sum(map(size, inner.values()))
    elif kind in ("list", "tuple") and isinstance(inner, list):
        return sum(map(size, inner))
    raise ValueError(
        f"structure must be made of dict, list, tuple and shape, got {structure!r:.60}"
    )


def _one(node: Any) -> bool:
    return isinstance(node, dict) and len(node) == 1


def restore(structure: Any, theta: np.ndarray) -> PyTree:
    """The pytree of that structure whose flat vector is `theta`, leaves in JAX's order.

    >>> restore({"dict": {"W": {"shape": [1, 2]}, "b": {"shape": [1]}}}, np.array([1.0, 2.0, 3.0]))
    {'W': array([[1., 2.]]), 'b': array([3.])}
    """
    entries = iter(np.array(theta, np.float64))

    def build(node: Any) -> PyTree:
        ((kind, inner),) = node.items()
        if kind == "shape":
            leaf = np.fromiter(entries, np.float64, count=int(np.prod(inner)))
            return leaf.reshape(inner)
        if kind == "dict":
            return {key: build(inner[key]) for key in inner}
        return (list if kind == "list" else tuple)(build(item) for item in inner)

    return build(structure)
