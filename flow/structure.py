"""The structure of a pytree of built-in containers as JSON, so that a file can restore it."""

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
