"""Leaves of the parameters by name, as the `leaves` of a dynamics choose them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from flow._core.checks import choice, several
from flow._core.pytrees import PyTree, path_name

ROOT = "params"


def by_name(params: PyTree) -> dict[str, Any]:
    """Return leaves under the names that flow prints.

    >>> by_name([{"W": 1.0}, {"W": 2.0}])
    {"params[0]['W']": 1.0, "params[1]['W']": 2.0}
    """
    return {path_name(ROOT, path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def map_by_name(function: Callable[..., Any], tree: PyTree, *more: PyTree) -> PyTree:
    """Return `jax.tree.map` of a function whose first argument is the leaf's name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_name(ROOT, path), *leaves), tree, *more
    )


def chosen(params: PyTree, leaves: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return full names of the leaves that a user asks for; of one leaf in all, that one if None.

    Raises
    ------
    ValueError
        A name is unknown; none is given and there are several leaves; or none is left.

    >>> chosen([{"W": 1.0}, {"W": 2.0}], "[0]['W']")
    ("params[0]['W']",)
    >>> chosen({"W": 1.0, "b": 2.0}, "W")
    ("params['W']",)
    """
    names = list(by_name(params))
    listed = ", ".join(names)
    if leaves is None:
        if len(names) > 1:
            raise ValueError(
                f"leaves must say which of the {len(names)} leaves are meant, leaves="
                f"[{names[0]!r}] for instance; choose from {listed}"
            )
        return tuple(names)
    one = isinstance(leaves, str)
    given = [leaves] if one else several("leaves", leaves, "a name or a list of names")
    if not given:
        raise ValueError(
            f"leaves is empty, which leaves plain flow.GradientFlow; choose from {listed}"
        )

    def full(leaf: str) -> str:
        written = (f"{ROOT}{leaf}", f"{ROOT}[{leaf!r}]")
        return next((name for name in written if name in names), leaf)

    return tuple(dict.fromkeys(choice("leaves", full(leaf), names) for leaf in given))
