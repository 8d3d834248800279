"""Parameters and data as pytrees: what is let in, in which form, and their structure as JSON."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from flow._core.checks import numbers, to_numpy_by
from flow._core.display import visible

PyTree: TypeAlias = Any


def path_name(root: str, path: Any) -> str:
    """Return the place of a leaf as one would type it: ``params[0]['W']``."""
    return visible(f"{root}{jax.tree_util.keystr(path)}")


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
            if jnp.issubdtype(dtype or type(leaf), jnp.complexfloating):
                raise TypeError(
                    f"{name} must be a floating-point array, got {met}: a flow is of real "
                    f"parameters; give {{'re': w.real, 'im': w.imag}} in its place, and let the "
                    "loss put p['re'] + 1j * p['im'] together"
                )
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
    """Return what a leaf is that another library made, and what to give for it; "" of any other."""
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
    """Copy data to the device, floats as `dtype`; refuse ragged or empty data by name.

    A list of numbers, or of such lists of one length, is an array; keys of `jax.random.split`, one
    an example, stay what they are.
    """
    pair = isinstance(data, list) and len(data) == 2 and all(map(_is_row, data))  # noqa: PLR2004
    if pair and root == "data" and len(data[0]) == len(data[1]):
        raise ValueError(
            "data is a list of two lists of numbers, which may be two examples or a pair: give "
            "np.array(data), or (np.array(data[0]), np.array(data[1]))"
        )
    arrays = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _as_array(path_name(root, path), leaf, dtype), _with_arrays(data)
    )
    leaves = {path_name("data", p): x for p, x in jax.tree.leaves_with_path(arrays)}
    rows = {name: x.shape[0] for name, x in leaves.items()}
    if len(set(rows.values())) > 1:
        keys = [k for k, x in leaves.items() if x.dtype == np.uint32 and x.shape == (2,)]
        split = "may be a PRNG key: jax.random.split(key, N) has one an example"
        told = "".join(f"; {name} {split}" for name in keys[:1])
        raise ValueError(f"the leading axes of the data differ, {rows}; rows are examples{told}")
    return arrays


def _as_array(name: str, leaf: Any, dtype: Any) -> jax.Array:
    """Return one array of data on the device."""
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
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        if array.ndim == 0:
            raise ValueError(
                f"{name} is one PRNG key, and data has an axis of examples: give each its own, "
                "jax.random.split(key, N), or let the loss close over it"
            )
        return array
    if array.dtype.kind not in "fiubVc":  # V: bfloat16 and its kin
        raise TypeError(f"{name} must be numeric, got dtype {array.dtype}, {leaf!r:.40}")
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError(f"{name} has shape {array.shape}; it needs at least one example")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return jnp.asarray(array, dtype if jnp.issubdtype(array.dtype, jnp.floating) else None)


def _with_arrays(data: PyTree) -> PyTree:
    """Return the same pytree with arrays in the place of lists of numbers."""

    def of_numbers(node: Any) -> bool:
        if not isinstance(node, list) or not node:
            return False
        return _is_row(node) or all(map(of_numbers, node))

    def array(node: Any) -> Any:
        if not of_numbers(node):
            return node
        try:
            return np.array(node)
        except ValueError:  # ragged: several in a list
            return [array(x) for x in node]

    return jax.tree.map(array, data, is_leaf=of_numbers)


def _is_row(node: Any) -> bool:
    """Return whether it is a list of numbers."""
    return isinstance(node, list) and bool(node) and all(isinstance(x, int | float) for x in node)


@contextmanager
def lists_told(params: PyTree) -> Iterator[None]:
    """Say of an error within that lists of numbers among the parameters are no arrays."""
    try:
        yield
    except (TypeError, AttributeError) as error:
        lists: list[Any] = []
        jax.tree.map(lambda x: None, params, is_leaf=lambda x: _is_row(x) and not lists.append(x))
        if lists:
            error.add_note(
                f"params has a list of numbers, {lists[0]!r:.40}, of which JAX makes no array: "
                f"np.array({lists[0]!r:.40})"
            )
        raise


def rows_of(data: PyTree) -> int:
    """Return the length of the leading axis, that of the examples; 0 without data."""
    leaves = jax.tree.leaves(data)
    return leaves[0].shape[0] if leaves else 0


def shape_remedy(met: tuple[int, ...], own: tuple[int, ...], examples: int = 0) -> str:
    """Return what to do with an array of another shape; `examples` is N where it is a gradient's.

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
    """Return the same pytree with numpy float64 leaves of its own."""
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


def structure_of(tree: PyTree) -> Any:
    """Return JSON of dicts, lists, tuples and array shapes; None where other containers are met.

    >>> structure_of({"W": np.zeros((2, 3)), "b": [np.zeros(2)]})
    {'dict': {'W': {'shape': [2, 3]}, 'b': {'list': [{'shape': [2]}]}}}
    """
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        inner = {key: structure_of(tree[key]) for key in sorted(tree)}
        return None if None in inner.values() else {"dict": inner}
    if type(tree) in (list, tuple):
        inner = [structure_of(item) for item in tree]
        return None if None in inner else {type(tree).__name__: inner}
    if hasattr(tree, "dtype") or isinstance(tree, float):
        return {"shape": list(np.shape(tree))}
    return None


def structure_size(structure: Any) -> int:
    """Return entries of a pytree of that structure.

    >>> structure_size({"dict": {"W": {"shape": [2, 3]}, "b": {"list": [{"shape": []}]}}})
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
        return sum(map(structure_size, inner.values()))
    elif kind in ("list", "tuple") and isinstance(inner, list):
        return sum(map(structure_size, inner))
    raise ValueError(
        f"structure must be made of dict, list, tuple and shape, got {structure!r:.60}"
    )


def _one(node: Any) -> bool:
    return isinstance(node, dict) and len(node) == 1


def restored(structure: Any, theta: np.ndarray) -> PyTree:
    """Return the pytree of that structure whose flat vector is `theta`, leaves in JAX's order.

    >>> restored({"dict": {"W": {"shape": [1, 2]}, "b": {"shape": [1]}}}, np.array([1.0, 2.0, 3.0]))
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
