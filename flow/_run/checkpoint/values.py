"""The state of a run as plain data: containers, numbers and arrays, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_TAGS = {dict: "dict", list: "list", tuple: "tuple"}
_NUMBERS = "fiubcV"  # V: what numpy has no name for, bfloat16


def taken_apart(tree: Any, arrays: dict[str, np.ndarray], where: str = "") -> Any:
    """Return the tree as JSON; its arrays go to `arrays`, by number.

    >>> arrays = {}
    >>> taken_apart({"t": 0.1, "y": (np.ones(2), None)}, arrays)
    {'dict': {'t': 0.1, 'y': {'tuple': [{'array': '0'}, None]}}}
    >>> put_together(_, arrays)
    {'t': 0.1, 'y': (array([1., 1.]), None)}

    Raises
    ------
    TypeError
        Something in it is none of these; the message says where.
    """
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    tag = _TAGS.get(type(tree))
    if tag == "dict" and all(isinstance(key, str) for key in tree):
        inner = {k: taken_apart(v, arrays, f"{where}[{k!r}]") for k, v in tree.items()}
        return {tag: inner}
    if tag in ("list", "tuple"):
        return {tag: [taken_apart(v, arrays, f"{where}[{i}]") for i, v in enumerate(tree)]}
    if isinstance(tree, np.ndarray | np.generic | jax.Array) and _kind(tree) in _NUMBERS:
        name = str(len(arrays))
        arrays[name] = np.asarray(tree)
        return {"array": name}
    raise TypeError(f"{where or 'it'} is a {type(tree).__name__}, and neither number nor array")


def put_together(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return the tree that `taken_apart` made JSON of."""
    if not isinstance(node, dict):
        return node
    ((tag, inner),) = node.items()
    if tag == "array":
        return arrays[inner]
    if tag == "dict":
        return {k: put_together(v, arrays) for k, v in inner.items()}
    return {"list": list, "tuple": tuple}[tag](put_together(v, arrays) for v in inner)


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of any pytree, keys of random numbers as their bits.

    What has containers of its own, as an optimizer's state, is kept by them: `like` needs a tree
    of the same making to put them back.
    """
    return [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)]


def like(tree: Any, kept: list[Any]) -> Any:
    """Return a pytree made like `tree`, with those leaves.

    Raises
    ------
    ValueError
        They are not of its number, shapes or types.
    """
    old, structure = jax.tree.flatten(tree)
    if len(old) != len(kept):
        raise ValueError(f"it has {len(old)} parts, and there {len(kept)} were kept")
    pairs = zip(old, kept, strict=True)
    return jax.tree.unflatten(structure, [_like(x, saved) for x, saved in pairs])


def _like(leaf: Any, kept: Any) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(kept), impl=jax.random.key_impl(leaf))
    if not hasattr(leaf, "dtype"):
        return kept
    kept = np.asarray(kept)
    kept = kept.view(leaf.dtype) if kept.dtype.kind == "V" else kept.astype(leaf.dtype)
    if kept.shape != tuple(leaf.shape):
        raise ValueError(f"it has a part of shape {tuple(leaf.shape)}, and there {kept.shape}")
    return kept[()] if isinstance(leaf, np.generic) else kept


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(array: Any) -> str:
    return "key" if _is_key(array) else np.dtype(array.dtype).kind
