"""Data that no memory holds: batches that are read on the host whenever they are needed."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flow._core.checks import numbers, users
from flow._core.keywords import own_keywords
from flow._core.pickling import Travels
from flow._core.pytrees import PyTree, rows_of


@own_keywords
class HostBatches(Travels):
    """A sequence of batches in place of arrays, ``flow.Objective(loss, params, data=...)``.

    Each gradient of all the data reads every batch once, in order, and keeps one at a time on the
    device; J, ∇J and ∇²J·v are the same as of the batches put together, but for rounding, and the
    same from run to run.

    Parameters
    ----------
    batches
        ``batches[i]`` is a pytree of numpy arrays with a leading axis of examples, (X, y) for
        instance, the same at each reading: memory-mapped arrays, or an object of yours with
        ``__len__`` and ``__getitem__`` that reads a file. All of one shape, but for the last, which
        may have fewer rows.

    Raises
    ------
    TypeError
        It has no length or can't be read twice, a generator.
    ValueError
        It is empty, the shapes of its batches differ, or they are no arrays of numbers.

    What reading a batch raises later, inside a compiled function, is raised as it was, with a note
    that names the batch, by an objective's methods, `integrate`, `descend` and eigenvalues. A run
    goes on from its checkpoint, ``checkpoint=``.

    Examples
    --------
    >>> import flow, jax.numpy as jnp, numpy as np
    >>> X = np.arange(10.0)
    >>> halves = flow.HostBatches([X[:6], X[6:]])
    >>> loss = lambda c, x: jnp.mean((x - c) ** 2)
    >>> objective = flow.Objective(loss, np.array(0.0), data=halves)
    >>> bool(np.isclose(objective.gradient(objective.params), -2 * X.mean()))
    True
    """

    def __init__(self, batches: Sequence[PyTree]) -> None:
        if not (hasattr(batches, "__len__") and hasattr(batches, "__getitem__")):
            raise TypeError(
                f"batches must be a sequence, with a length and batches[i], as each gradient reads "
                f"them again; got {batches!r}"
            )
        with users("len(batches)"):
            length = len(batches)
        if length == 0:
            raise ValueError(f"batches is empty; it needs at least one, got {batches!r}")
        self._batches = batches
        # What went wrong as one was read inside a compiled function, of which JAX tells as text.
        self.failure: Exception | None = None
        with users(f"batches[0], or batches[{length - 1}]"):
            first, last = self.read(0), self.read(length - 1)
        _check_batch(0, first)
        _check_batch(length - 1, last)
        inner, of_last = ([x.shape[1:] for x in jax.tree.leaves(b)] for b in (first, last))
        if inner != of_last or rows_of(last) > rows_of(first):
            raise ValueError(
                f"batches[0] has shapes {[x.shape for x in jax.tree.leaves(first)]} and the last "
                f"{[x.shape for x in jax.tree.leaves(last)]}; all but the last are to have as many "
                "rows as the first, and the last no more"
            )
        # Shape and type of a batch, and of the last one.
        self.like, self.last_like = (
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), b) for b in (first, last)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the batches without what went wrong here."""
        return vars(self) | {"failure": None}

    def __repr__(self) -> str:
        """Return how many, and of what."""
        return f"<HostBatches: {len(self)} of {self.examples:,} examples>"

    def __len__(self) -> int:
        """Return how many batches."""
        return len(self._batches)

    @property
    def examples(self) -> int:
        """Return rows of all of them."""
        return (len(self) - 1) * rows_of(self.like) + rows_of(self.last_like)

    def read(self, i: int) -> PyTree:
        """Return batch i as numpy arrays, floats in double precision."""
        return jax.tree.map(_double, self._batches[int(i)])

    def ends(self) -> PyTree:
        """Return the first batch and the last, put together."""
        first, last = self.read(0), self.read(len(self) - 1)
        if len(self) == 1:
            return first
        return jax.tree.map(lambda a, b: np.concatenate([a, b]), first, last)

    def traced(self, i: Any, *, last: bool = False) -> PyTree:
        """Return batch i, read while a compiled function runs."""
        like = self.last_like if last else self.like

        def read(i: Any) -> PyTree:
            try:
                return checked(int(i))
            except Exception as error:
                error.add_note(f"from batches[{int(i)}]")
                self.failure = error
                raise

        def checked(i: int) -> PyTree:
            batch = self.read(i)
            met, expected = (
                [(x.shape, x.dtype.name) for x in jax.tree.leaves(b)] for b in (batch, like)
            )
            if met != expected:
                raise ValueError(f"batches[{i}] is {met}, expected {expected}")
            return batch

        return jax.pure_callback(read, like, i, vmap_method="sequential")


def _check_batch(i: int, batch: PyTree) -> None:
    """Refuse what is no pytree of arrays of numbers with one leading axis in common."""
    leaves = jax.tree.leaves(batch)
    rows = {x.shape[:1] for x in leaves}
    if len(rows) != 1 or rows <= {(), (0,)} or any(x.dtype.kind not in "fiubVc" for x in leaves):
        met = [(x.shape, x.dtype.name) for x in leaves]
        raise ValueError(
            f"batches[{i}] must be arrays of numbers with a leading axis of examples in common, "
            f"got {met}"
        )


def _double(leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ma.MaskedArray):
        numbers("a batch", leaf)
    array = np.asarray(leaf)
    wide = {"f": np.float64, "c": np.complex128}.get(array.dtype.kind)
    return array if wide is None else array.astype(wide)
