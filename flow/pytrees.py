"""Parameters and data as pytrees: what is let in, and in which form."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flow.checks import numbers, to_numpy_by

PyTree: TypeAlias = Any


def path_name(root: str, path: Any) -> str:
    """The place of a leaf as one would type it: ``params[0]['W']``."""
    return f"{root}{jax.tree_util.keystr(path)}"


def as_parameters(params: PyTree, root: str = "params") -> PyTree:
    """Copy floating-point leaves to numpy float64; refuse any other leaf by its path."""
    leaves = jax.tree.leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{root} has no arrays: {params!r}; give a pytree of float arrays")
    for path, leaf in leaves:
        name = path_name(root, path)
        if foreign := _foreign(name, leaf):
            raise TypeError(f"{name} must be an array of numpy or JAX, got {foreign}")
        dtype = np.dtype(float) if type(leaf) is float else getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            met = f"a {type(leaf).__name__}" if dtype is None else f"an array of {dtype}"
            convert = ".astype(float)" if hasattr(leaf, "astype") else "np.asarray(..., float)"
            raise TypeError(
                f"{name} must be a floating-point array, got {met}; convert it with {convert}, "
                "or keep what is not trained out of params (equinox.partition, or a closure)"
            )
        numbers(path_name(root, path), leaf)  # no masks
        if np.size(leaf) == 0:
            raise ValueError(f"{path_name(root, path)} is empty, shape {np.shape(leaf)}")
    return to_numpy(params)


def _foreign(name: str, leaf: Any) -> str:
    """What a leaf is that another library made, and what to give for it; "" of any other."""
    kind = f"a {type(leaf).__module__.split('.')[0]} {type(leaf).__name__}"
    if hasattr(leaf, "named_parameters"):
        one = "{k: p.detach().numpy() for k, p in model.named_parameters()}"
        return f"{kind}, a model; give its parameters, {one} for instance"
    if way := to_numpy_by(leaf):
        return f"{kind}; give {name}{way}"
    of_rows = hasattr(leaf, "__iter__") or hasattr(leaf, "__getitem__")
    if of_rows and not (hasattr(leaf, "__array__") or isinstance(leaf, Sequence)):
        return f"{kind}, which is read piece by piece; give whole arrays"
    return ""


def as_data(data: PyTree, dtype: Any, root: str = "data") -> PyTree:
    """Copy data to the device, floats as `dtype`; refuse ragged or empty data by name."""

    def convert(path: Any, leaf: Any) -> jax.Array:
        name = path_name(root, path)
        if isinstance(leaf, np.ma.MaskedArray):
            numbers(name, leaf)
        foreign = _foreign(name, leaf)
        if foreign and not hasattr(leaf, "__array__"):
            raise TypeError(f"{name} must be an array of numbers, got {foreign}")
        # JAX would share the memory of an array that happens to lie well in it.
        try:
            array = leaf if isinstance(leaf, jax.Array) else np.array(leaf)
        except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's
            met = foreign or f"{leaf!r:.40}"
            raise TypeError(f"{name} must be an array of numbers, got {met}") from error
        if array.dtype.kind not in "fiubVc":  # V: bfloat16 and its kin
            raise TypeError(f"{name} must be numeric, got dtype {array.dtype}, {leaf!r:.40}")
        if array.ndim == 0 or array.shape[0] == 0:
            raise ValueError(f"{name} has shape {array.shape}; it needs at least one example")
        return jnp.asarray(array, dtype if jnp.issubdtype(array.dtype, jnp.floating) else None)

    arrays = jax.tree_util.tree_map_with_path(convert, data)
    rows = {path_name("data", p): x.shape[0] for p, x in jax.tree.leaves_with_path(arrays)}
    if len(set(rows.values())) > 1:
        raise ValueError(f"the leading axes of the data differ, {rows}; rows are examples")
    return arrays


def rows_of(data: PyTree) -> int:
    """The length of the leading axis, that of the examples; 0 without data."""
    leaves = jax.tree.leaves(data)
    return leaves[0].shape[0] if leaves else 0


def shape_remedy(met: tuple[int, ...], own: tuple[int, ...], examples: int = 0) -> str:
    """What to do with an array of another shape; `examples` is N where it is a gradient's.

    >>> shape_remedy((2, 3), (3, 2)), shape_remedy((4,), (3, 1), examples=4)
    ('; transpose it, .T', '; 4 is N, the examples: sum over them, and over nothing else')
    """
    if met == own[::-1]:
        return "; transpose it, .T"
    if prod(met) == prod(own):
        return f"; .reshape{own}"
    if examples and (met == () or examples in met):
        what = f"; {examples} is N, the examples: sum over them" if met else "; sum over examples"
        return f"{what}, and over nothing else"
    return ""


def owned(tree: PyTree) -> PyTree:
    """Return the same pytree with arrays of its own; those of JAX nobody can write to."""
    return jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, tree)


def read_only(tree: PyTree) -> PyTree:
    """Return the same pytree with numpy arrays that can't be written to."""

    def shut(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            x = x.view()
            x.flags.writeable = False
        return x

    return jax.tree.map(shut, tree)


def to_numpy(tree: PyTree) -> PyTree:
    """The same pytree with numpy float64 leaves of its own."""
    return jax.tree.map(lambda x: np.array(x, np.float64), tree)


def ravel(tree: PyTree) -> tuple[np.ndarray, Callable[[Any], PyTree]]:
    """Return the flat vector of a pytree of arrays, and the traced way back.

    Those of `jax.flatten_util.ravel_pytree`, which compiles a program for each leaf's shape where
    it is not traced.
    """
    way_back: list[Callable] = []
    jax.eval_shape(lambda x: way_back.append(ravel_pytree(x)[1]), tree)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]), way_back[0]


def unravel_like(tree: PyTree, vector: np.ndarray) -> PyTree:
    """Return a pytree of numpy arrays of their own, whose flat vector this is.

    `tree` says its structure and shapes, by arrays or by what `jax.eval_shape` gives.
    """
    leaves, structure = jax.tree.flatten(tree)
    ends = np.cumsum([x.size for x in leaves])[:-1]
    parts = zip(np.split(vector, ends), leaves, strict=True)
    return jax.tree.unflatten(structure, [p.reshape(x.shape).copy() for p, x in parts])
